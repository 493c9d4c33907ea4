"""Drafts against each other, and against the journal: which write does each row come to?

A resource's own id is one more id to look up: unknown -> create; known with the same content ->
unchanged; known with other content -> update, or rejected where there is no update. Before that, what contradicts itself within the
files is turned away: nothing of it was sent yet. Pure, over narrow columns of the whole plan.
"""

import hashlib
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any, Final

import polars as pl

from pipeline.feeds.feed import Feed
from pipeline.records import Disposition, Interaction, Stage, State

# The columns of a feed's rows that this stage needs.
NEEDED: Final = (
    "seq",
    "file",
    "row",
    "key",
    "disposition",
    "fingerprint",
    "lane",
    "order",
    "start_day",
    "end_day",
    "active",
)

VERDICT_SCHEMA: Final[dict[str, Any]] = {
    "seq": pl.UInt32,
    "key": pl.String,
    "disposition": pl.String,
    "interaction": pl.String,
    "resource_id": pl.String,
    "stage": pl.String,
    "field": pl.String,
    "rule": pl.String,
    "message": pl.String,
    # What later stages put in:
    "slot": pl.UInt32,  # the place in the feed at which it goes; null: its own
    "held_at": pl.Datetime("us", "UTC"),  # when Canvas showed it, of a row that was taken over
    "shown": pl.Binary,  # and what it showed
    "likeness": pl.String,  # of a row that is unchanged, and is written again all the same
    "body": pl.Binary,
}
_STANDING: Final = (Disposition.PENDING.value, Disposition.UNCHANGED.value)

_LATER: Final = ("slot", "held_at", "shown", "likeness", "body")

_OPEN_END: Final = 1 << 30


# keys -> key, state, the fingerprint that Canvas holds, resource_id
Known = Callable[[pl.Series], pl.DataFrame]


def resolve(
    rows: Mapping[str, pl.DataFrame],
    feeds: Sequence[Feed],
    files: Mapping[str, Sequence[str]],
    known: Known,
) -> dict[str, pl.DataFrame]:
    """Judge the rows of all feeds: lines in VERDICT_SCHEMA, for those that validation let through.

    `rows` holds NEEDED by feed, `files` the names by file number. A row that is known to be unchanged already stays so, and has no line, unless the files contradict it.
    """
    judged: dict[str, pl.DataFrame] = {}
    for feed in feeds:
        standing = rows[feed.name].filter(pl.col("disposition").is_in(_STANDING))
        numbered = _numbered(standing, feed.name) if feed.repeats == "count" else standing
        judged[feed.name] = _against_each_other(numbered, files[feed.name])
    coverages = [feed.name for feed in feeds if feed.traits.resource_type == "Coverage"]
    _collide(judged, coverages, files)
    return {feed.name: _against_journal(judged[feed.name], feed, known) for feed in feeds}


# Within the files ---------------------------------------------------------------------------------


def _numbered(rows: pl.DataFrame, feed: str) -> pl.DataFrame:
    """`repeats = "count"`: the second equal row is a second payment, with a key of its own."""
    count = pl.int_range(pl.len()).over("key", order_by="seq")
    rows = rows.with_columns(count.alias("repeat"))
    repeated = rows.filter(pl.col("repeat") > 0)
    keys = [
        hashlib.sha256(f"{feed}\x1f{key}\x1f{repeat}".encode()).hexdigest()[:16]
        for key, repeat in repeated.select("key", "repeat").iter_rows()
    ]
    renamed = repeated.select("seq").with_columns(pl.Series("key", keys, dtype=pl.String))
    return rows.drop("repeat").update(renamed, on="seq")


def _against_each_other(rows: pl.DataFrame, files: Sequence[str]) -> pl.DataFrame:
    """The first row of a key stands; a later one is its duplicate, or contradicts it."""
    blank = [pl.lit("").alias(name) for name in ("field", "rule", "message")]
    is_repeated = rows["key"].is_duplicated()
    if not is_repeated.any():
        return rows.with_columns(blank)
    alone = rows.filter(~is_repeated).with_columns(blank)
    repeated = _repeated(rows.filter(is_repeated), files)
    return pl.concat([alone, repeated.select(alone.columns)]).sort("seq")


def _repeated(rows: pl.DataFrame, files: Sequence[str]) -> pl.DataFrame:
    first = [
        pl.col(name).first().over("key", order_by="seq").alias(f"first_{name}")
        for name in ("seq", "file", "row", "fingerprint")
    ]
    rows = rows.with_columns(first)
    later, same = (
        pl.col("seq") != pl.col("first_seq"),
        pl.col("fingerprint") == pl.col("first_fingerprint"),
    )
    where = pl.format("{}:{}", _file_names(pl.col("first_file"), files), pl.col("first_row"))
    return rows.with_columns(
        pl.when(later & same)
        .then(pl.lit(Disposition.DUPLICATE.value))
        .when(later)
        .then(pl.lit(Disposition.REJECTED.value))
        .otherwise(pl.col("disposition"))
        .alias("disposition"),
        pl.when(later).then(pl.lit("row")).otherwise(pl.lit("")).alias("field"),
        pl.when(later & same)
        .then(pl.lit("row|duplicate"))
        .when(later)
        .then(pl.lit("row|contradicts"))
        .otherwise(pl.lit(""))
        .alias("rule"),
        pl.when(later & same)
        .then(pl.format("the same row as {}", where))
        .when(later)
        .then(
            pl.format("the same key as {}, with other content: keep the one that is right", where)
        )
        .otherwise(pl.lit(""))
        .alias("message"),
    ).drop(f"first_{name}" for name in ("seq", "file", "row", "fingerprint"))


def _file_names(number: pl.Expr, files: Sequence[str]) -> pl.Expr:
    return number.replace_strict(list(range(len(files))), list(files), return_dtype=pl.String)


def _collide(
    judged: dict[str, pl.DataFrame], names: Sequence[str], files: Mapping[str, Sequence[str]]
) -> None:
    """Two active coverages of one patient with one `order`: never in the same period.

    The later row is rejected where the periods share more than a boundary day; where they do not,
    it is warned (canvas-api.md, "Coverage": the new one takes the order, and the older is bumped
    down).
    """
    standing = [
        judged[name]
        .filter(pl.col("disposition").is_in(_STANDING) & pl.col("active"))
        .select(
            "lane",
            "order",
            pl.lit(number).alias("feed"),
            "seq",
            pl.format("{}:{}", _file_names(pl.col("file"), files[name]), "row").alias("where"),
            "start_day",
            pl.col("end_day").fill_null(_OPEN_END),
        )
        for number, name in enumerate(names)
    ]
    if not standing:
        return
    shared = pl.concat(standing).filter(pl.len().over("lane", "order") > 1)
    found: dict[str, list[tuple[int, str | None, str, str]]] = {name: [] for name in names}
    rows = shared.sort("lane", "order", "feed", "seq").iter_rows()
    for _, group in groupby(rows, key=lambda row: row[:2]):
        periods = _Periods()
        for _, _, number, seq, where, start, end in group:
            other = periods.take(start, end, where)
            if other is not None:
                found[names[number]].append(
                    (seq, Disposition.REJECTED.value, "order|collides", _COLLIDES + other)
                )
            elif periods.last is not None:
                found[names[number]].append((seq, None, "order|bumps", _BUMPS + periods.last))
            periods.last = where
    for name in names:
        judged[name] = _with(judged[name], found[name])


_COLLIDES: Final = (
    "another active coverage of the patient has this order in an overlapping period: mend the order or "
    "the period of one of the two; the other is "
)
_BUMPS: Final = (
    "Canvas will move an older coverage of this order down, for it keeps one of each: see "
)


class _Periods:
    """The periods of one patient and one order that stand; they share boundary days at most."""

    def __init__(self) -> None:
        self._spans: list[tuple[int, int, str]] = []
        self.last: str | None = None  # the row before, whichever it was

    def take(self, start: int, end: int, row: str) -> str | None:
        """Add a period, or say which row's period it overlaps. Only neighbours can overlap."""
        at = bisect_left(self._spans, (start, end, ""))
        for first, last, other in self._spans[max(at - 2, 0) : at + 2]:
            if _overlap(start, end, first, last):
                return other
        self._spans.insert(at, (start, end, row))
        return None


def _overlap(start: int, end: int, first: int, last: int) -> bool:
    """Whether two periods share more than one boundary day (all days inclusive)."""
    begins, ends = max(start, first), min(end, last)
    return begins < ends or (
        begins == ends and begins not in {_boundary(end, first), _boundary(last, start)}
    )


def _boundary(ends: int, begins: int) -> int | None:
    return ends if ends == begins else None


def _with(rows: pl.DataFrame, found: Sequence[tuple[int, str | None, str, str]]) -> pl.DataFrame:
    if not found:
        return rows
    schema = {"seq": pl.UInt32, "disposition": pl.String, "rule": pl.String, "message": pl.String}
    lines = pl.DataFrame(found, schema=schema, orient="row")
    return rows.update(lines.with_columns(pl.lit("order").alias("field")), on="seq")


# Against the journal ------------------------------------------------------------------------------

_CHANGED: Final = {
    "Coverage": "this row was loaded before with other content, and the feed has update = false: change it in Canvas",
    "PaymentNotice": "this payment was posted before with other content, and a payment cannot be changed: correct it in Canvas by hand",
}

_ABANDONED: Final = (
    "a person gave this write up after its answer was lost: it is not sent again. To have it sent after all: "
    "canvas-ingest review CONFIG --resend KEY"
)


def _against_journal(rows: pl.DataFrame, feed: Feed, known: Known) -> pl.DataFrame:
    """A write that has a resource is never created again: what was refused or not sent is an update."""
    rows = rows.filter(
        (pl.col("disposition") != Disposition.UNCHANGED.value) | (pl.col("rule") != "")
    )
    standing = pl.col("disposition") == Disposition.PENDING.value
    held = known(rows.filter(standing)["key"]).rename({"fingerprint": "held_fingerprint"})
    rows = rows.join(held, on="key", how="left", maintain_order="left")
    confirmed = standing & (pl.col("state") == State.CONFIRMED.value)
    same = confirmed & (pl.col("fingerprint") == pl.col("held_fingerprint")).fill_null(value=False)
    is_open = pl.col("state").is_in([State.PENDING.value, State.REFUSED.value])
    again = standing & is_open & (pl.col("resource_id") != "")
    other = (confirmed & ~same) | again
    may_update = pl.lit(value=feed.update and feed.traits.resource_type == "Coverage")
    update, changed = other & may_update, other & ~may_update
    abandoned = standing & (pl.col("state") == State.ABANDONED.value)
    in_doubt = standing & pl.col("state").is_in([State.IN_DOUBT.value, State.IN_FLIGHT.value])
    return rows.with_columns(
        pl.when(same)
        .then(pl.lit(Disposition.UNCHANGED.value))
        .when(changed | abandoned)
        .then(pl.lit(Disposition.REJECTED.value))
        .when(in_doubt)
        .then(pl.lit(Disposition.IN_DOUBT.value))
        .otherwise(pl.col("disposition"))
        .alias("disposition"),
        pl.when(update)
        .then(pl.lit(Interaction.UPDATE.value))
        .when(standing & (pl.col("state").is_null() | ~(confirmed | again | in_doubt | abandoned)))
        .then(pl.lit(Interaction.CREATE.value))
        .otherwise(pl.lit(""))
        .alias("interaction"),
        pl.when(same | update)
        .then(pl.col("resource_id"))
        .when(standing)
        .then(pl.lit(""))
        .alias("resource_id"),
        pl.when(changed | abandoned).then(pl.lit("row")).otherwise(pl.col("field")).alias("field"),
        pl.when(changed)
        .then(pl.lit("row|changed"))
        .when(abandoned)
        .then(pl.lit("row|abandoned"))
        .otherwise(pl.col("rule"))
        .alias("rule"),
        pl.when(changed)
        .then(pl.lit(_CHANGED[feed.traits.resource_type]))
        .when(abandoned)
        .then(pl.lit(_ABANDONED))
        .otherwise(pl.col("message"))
        .alias("message"),
    ).select(
        pl.when(pl.col("disposition") == Disposition.REJECTED.value)
        .then(pl.lit(Stage.RESOLVE.value))
        .otherwise(pl.lit(""))
        .alias(name)
        if name == "stage"
        else pl.lit(None, dtype=kind).alias(name)
        if name in _LATER
        else pl.col(name).cast(kind)
        for name, kind in VERDICT_SCHEMA.items()
    )
