"""Drafts against each other, and against the journal: which write does each row come to?

A resource's own id is one more id to look up: unknown -> create; known with the same content ->
unchanged; known with other content -> changed. Before that, what contradicts itself within the
files is turned away: nothing of it was sent yet. Pure, over narrow columns of the whole plan.
"""

import hashlib
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

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

VERDICT_SCHEMA: Final = {
    "seq": pl.UInt32,
    "key": pl.String,
    "disposition": pl.String,
    "interaction": pl.String,
    "resource_id": pl.String,
    "stage": pl.String,
    "field": pl.String,
    "rule": pl.String,
    "message": pl.String,
}

_OPEN_END: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Resolved:
    """What became of the rows that validation let through.

    `verdicts` has one line for each of them, in VERDICT_SCHEMA; `bumped` counts coverages whose
    `order` another one of the patient has too, in another period: Canvas will bump the older one.
    """

    verdicts: pl.DataFrame
    bumped: int


Known = Callable[[pl.Series], pl.DataFrame]  # keys -> key, state, fingerprint, resource_id


def resolve(
    rows: Mapping[str, pl.DataFrame],
    feeds: Sequence[Feed],
    files: Mapping[str, Sequence[str]],
    known: Known,
) -> dict[str, Resolved]:
    """Judge the rows of all feeds. `rows` holds NEEDED by feed, `files` the names by file number."""
    judged: dict[str, pl.DataFrame] = {}
    for feed in feeds:
        pending = rows[feed.name].filter(pl.col("disposition") == Disposition.PENDING.value)
        numbered = _numbered(pending, feed.name) if feed.repeats == "count" else pending
        judged[feed.name] = _against_each_other(numbered, files[feed.name])
    coverages = [feed.name for feed in feeds if feed.traits.resource_type == "Coverage"]
    bumped = _collide(judged, coverages, files)
    return {
        feed.name: Resolved(
            _against_journal(judged[feed.name], feed, known), bumped.get(feed.name, 0)
        )
        for feed in feeds
    }


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
        .otherwise(pl.lit(Disposition.PENDING.value))
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
) -> dict[str, int]:
    """Two active coverages of one patient with one `order`: never in the same period.

    The later row is rejected where the periods share more than a boundary day; where they do not,
    it is warned (canvas-api.md, "Coverage": the new one takes the order, and the older is bumped
    down). Returns the number of warnings by feed.
    """
    standing = [
        judged[name]
        .filter((pl.col("disposition") == Disposition.PENDING.value) & pl.col("active"))
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
        return {}
    shared = pl.concat(standing).filter(pl.len().over("lane", "order") > 1)
    found: dict[str, list[tuple[int, str, str, str]]] = {name: [] for name in names}
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
                found[names[number]].append(
                    (seq, Disposition.PENDING.value, "order|bumps", _BUMPS + periods.last)
                )
            periods.last = where
    for name in names:
        judged[name] = _with(judged[name], found[name])
    return {
        name: sum(rule == "order|bumps" for _, _, rule, _ in lines) for name, lines in found.items()
    }


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


def _with(rows: pl.DataFrame, found: Sequence[tuple[int, str, str, str]]) -> pl.DataFrame:
    if not found:
        return rows
    schema = {"seq": pl.UInt32, "disposition": pl.String, "rule": pl.String, "message": pl.String}
    lines = pl.DataFrame(found, schema=schema, orient="row")
    return rows.update(lines.with_columns(pl.lit("order").alias("field")), on="seq")


# Against the journal ------------------------------------------------------------------------------

_CHANGED: Final = {
    "Coverage": "this row was loaded before with other content, and this version does not update: change it in Canvas",
    "PaymentNotice": "this payment was posted before with other content, and a payment cannot be changed: correct it in Canvas by hand",
}

_ABANDONED: Final = (
    "a person gave this write up after its answer was lost: it is not sent again. To have it sent after all: "
    "canvas-ingest review CONFIG --resend KEY"
)


def _against_journal(rows: pl.DataFrame, feed: Feed, known: Known) -> pl.DataFrame:
    standing = pl.col("disposition") == Disposition.PENDING.value
    held = known(rows.filter(standing)["key"]).rename({"fingerprint": "held_fingerprint"})
    rows = rows.join(held, on="key", how="left", maintain_order="left")
    confirmed = standing & (pl.col("state") == State.CONFIRMED.value)
    same = confirmed & (pl.col("fingerprint") == pl.col("held_fingerprint"))
    changed = confirmed & ~same
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
        pl.when(standing & (pl.col("state").is_null() | ~(confirmed | in_doubt | abandoned)))
        .then(pl.lit(Interaction.CREATE.value))
        .otherwise(pl.lit(""))
        .alias("interaction"),
        pl.when(same).then(pl.col("resource_id")).otherwise(pl.lit("")).alias("resource_id"),
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
        else pl.col(name).cast(kind)
        for name, kind in VERDICT_SCHEMA.items()
    )
