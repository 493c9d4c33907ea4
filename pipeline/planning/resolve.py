"""Decide the write of each row, by comparing drafts with each other and with the journal.

Unknown to the journal: create; known with the same content: unchanged; known with other content: update,
or rejected if there is no update. Before that, rows that contradict each other within the files are
rejected: nothing of them was sent yet. The work is done over narrow columns, part by part; of rows that
share a key, or a patient and an order, only as many are in memory as fit.
"""

import hashlib
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby, product
from pathlib import Path
from typing import Any, Final, NamedTuple

import polars as pl

from pipeline.planning.store import VERDICT_SCHEMA
from pipeline.records import Disposition, Interaction, Stage, State
from pipeline.rows.feed import Feed
from pipeline.rows.groups import Bounds, Scan, shared

# The columns of a feed's rows that this stage needs.
NEEDED: Final = (
    "seq",
    "file",
    "row",
    "key",
    "time_us",
    "disposition",
    "fingerprint",
    "lane",
    "order",
    "start_day",
    "end_day",
    "active",
)

BUMPS: Final = "order|bumps"  # the rule of a row with an earlier one of the same order
_STANDING: Final = (Disposition.PENDING.value, Disposition.UNCHANGED.value)

_LATER: Final = ("slot", "held_at", "shown", "likeness", "body")

_OPEN_END: Final = 1 << 30


# keys -> key, state, the last confirmed fingerprint, resource_id
Known = Callable[[pl.Series], pl.DataFrame]


class _Rule(NamedTuple):
    """The verdict on a row beside another one, which `message` names at its {}."""

    disposition: Disposition | None  # None: as it was
    field: str
    message: str


_TOLD_APART: Final = (
    "if it is another payment, it needs another key: a transaction_id of its own, another field in key, or "
    'repeats = "count"; if it is the same one, remove it'
)
# The rule, and the message, of a payment that was posted before at another time of day.
POSTED_AT_ANOTHER_TIME: Final = (
    "row|time",
    f"a payment with the same key was posted before, at another time of day: {_TOLD_APART}",
)
_RULES: Final = {
    "row|duplicate": _Rule(Disposition.DUPLICATE, "row", "the same row as {}"),
    "row|contradicts": _Rule(
        Disposition.REJECTED,
        "row",
        "the same key as {}, with other content: keep the one that is right",
    ),
    "row|time": _Rule(
        Disposition.REJECTED,
        "row",
        f"the same key as {{}}, at another time of day: {_TOLD_APART}",
    ),
    "order|collides": _Rule(
        Disposition.REJECTED,
        "order",
        "another active coverage of the patient has this order in an overlapping period: fix the order or "
        "the period of one of the two; the other is {}",
    ),
    BUMPS: _Rule(
        None,
        "order",
        "the patient has an older coverage with this order, {}: Canvas moves the older one down when this row is written",
    ),
}
_RULE: Final = pl.Enum(list(_RULES))
# A row beside another one: a few bytes, because in a bad file each row may be one. `file` and `where` are
# the file and the row of the other, the files of all feeds numbered together.
_FOUND: Final[dict[str, Any]] = {
    "seq": pl.UInt32,
    "rule": _RULE,
    "file": pl.UInt32,
    "where": pl.UInt32,
}
_REPEATS: Final = {"seq": pl.UInt32, "repeat": pl.UInt32}


def resolve(
    rows: Mapping[str, Scan],
    feeds: Sequence[Feed],
    files: Mapping[str, Sequence[str]],
    known: Known,
    folder: Path,
    bounds: Bounds,
) -> Iterator[tuple[str, pl.DataFrame]]:
    """Judge the rows that validation let through, of all feeds, part by part.

    A row that is already known to be unchanged stays so, and has no line, unless the files contradict it.

    Args:
        rows: Scans of NEEDED by feed.
        feeds: All feeds of the run.
        files: The names of each feed's files, by number.
        known: Returns what the journal has of some keys.
        folder: For rows that do not fit into memory.
        bounds: The number of rows in memory.

    Yields:
        The feed, and lines in VERDICT_SCHEMA.
    """
    beside: dict[str, _Beside] = {}
    names: list[str] = []
    for feed in feeds:
        stands = _standing(rows[feed.name])
        beside[feed.name] = _of_one_key(stands, feed, len(names), folder, bounds)
        names += files[feed.name]
    coverages = {
        feed.name: beside[feed.name] for feed in feeds if feed.traits.resource_type == "Coverage"
    }
    _collide({name: rows[name] for name in coverages}, coverages, folder, bounds)
    columns = ["seq", "key", "disposition", "fingerprint"]
    for feed in feeds:
        mine = beside[feed.name].in_order()
        for part in _standing(rows[feed.name]).read(columns):
            yield feed.name, _against_journal(mine.put_in(part, feed.name, names), feed, known)


def _standing(scan: Scan) -> Scan:
    """Return the rows that validation let through. Empty parts are yielded too."""

    def standing(columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        for part in scan.read(list(dict.fromkeys([*columns, "disposition"]))):
            yield part.filter(pl.col("disposition").is_in(_STANDING))

    return Scan(scan.most, standing)


# Within the files ---------------------------------------------------------------------------------


class _Beside:
    """The rows of a feed that share a key or an order with others."""

    def __init__(self, first_file: int) -> None:
        self.first_file = first_file
        self.found = pl.DataFrame(schema=_FOUND)
        self.repeats = pl.DataFrame(schema=_REPEATS)  # by number: 1 is the second of its key

    def in_order(self) -> "_Beside":
        """Sort by row, and return this object."""
        self.found, self.repeats = self.found.sort("seq"), self.repeats.sort("seq")
        return self

    def put_in(self, rows: pl.DataFrame, feed: str, names: Sequence[str]) -> pl.DataFrame:
        """Return one part's rows, in order, with their key, disposition, field, rule and message."""
        blank = [pl.lit("").alias(name) for name in ("field", "rule", "message")]
        repeats, found = _between(self.repeats, rows), _between(self.found, rows)
        if not repeats.is_empty():
            rows = _numbered(rows, repeats, feed)
        if found.is_empty():
            return rows.with_columns(blank)
        lines = found.join(_RULE_LINES, on="rule", how="left").with_columns(
            pl.col("rule").cast(pl.String),
            pl.concat_str(
                "before",
                pl.col("file").replace_strict(
                    list(range(len(names))), list(names), return_dtype=pl.String
                ),
                pl.lit(":"),
                "where",
                "after",
            ).alias("message"),
        )
        verdicts = lines.select("seq", "disposition", "field", "rule", "message")
        return rows.with_columns(blank).update(verdicts, on="seq")


_RULE_LINES: Final = pl.DataFrame(
    [
        (name, rule.disposition and rule.disposition.value, rule.field, *rule.message.split("{}"))
        for name, rule in _RULES.items()
    ],
    schema={"rule": _RULE, **dict.fromkeys(("disposition", "field", "before", "after"), pl.String)},
    orient="row",
)


def _between(lines: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """Return the lines (in order) of a part's rows."""
    if rows.is_empty() or lines.is_empty():
        return lines.clear()
    first = lines["seq"].search_sorted(rows["seq"][0], side="left")
    last = lines["seq"].search_sorted(rows["seq"][-1], side="right")
    return lines[first:last]


def _numbered(rows: pl.DataFrame, repeats: pl.DataFrame, feed: str) -> pl.DataFrame:
    """Give the second of equal rows that are counted, which is a second payment, a key of its own."""
    repeated = rows.select("seq", "key").join(repeats, on="seq", maintain_order="right")
    keys = [
        hashlib.sha256(f"{feed}\x1f{key}\x1f{repeat}".encode()).hexdigest()[:16]
        for key, repeat in repeated.select("key", "repeat").iter_rows()
    ]
    renamed = repeated.select("seq").with_columns(pl.Series("key", keys, dtype=pl.String))
    return rows.update(renamed, on="seq")


def _of_one_key(stands: Scan, feed: Feed, first_file: int, folder: Path, bounds: Bounds) -> _Beside:
    """Judge a later row of a key: it is a duplicate of the first, contradicts it, or is counted.

    If equal rows are counted file by file, the n-th of one file is a duplicate of the n-th of another file
    with this key: the files have the same bytes, because their hash is part of the key.
    """
    beside = _Beside(first_file)
    columns = ["seq", "file", "row", "key", "time_us", "fingerprint"]
    found, repeats = [beside.found], [beside.repeats]
    for rows in shared(stands, ["key"], columns, folder / f"keys-{feed.name}", bounds):
        repeat = pl.lit(0, dtype=pl.UInt32)
        if feed.repeats == "count":
            counted = ["key", "file"] if feed.counts_within_files else ["key"]
            repeat = pl.int_range(pl.len(), dtype=pl.UInt32).over(counted, order_by="seq")
        numbered = rows.with_columns(repeat.alias("repeat"))
        repeats.append(numbered.select("seq", "repeat").filter(pl.col("repeat") > 0))
        first = numbered.select(
            "seq",
            "fingerprint",
            "time_us",
            *(
                pl.col(name).first().over("key", "repeat", order_by="seq").alias(f"first_{name}")
                for name in ("seq", "file", "row", "fingerprint", "time_us")
            ),
        )
        is_same = pl.col("fingerprint") == pl.col("first_fingerprint")
        is_then = pl.col("time_us").eq_missing(pl.col("first_time_us"))
        found.append(
            first.filter(pl.col("seq") != pl.col("first_seq")).select(
                "seq",
                pl.when(is_same & is_then)
                .then(pl.lit("row|duplicate", dtype=_RULE))
                .when(is_same)
                .then(pl.lit("row|time", dtype=_RULE))
                .otherwise(pl.lit("row|contradicts", dtype=_RULE))
                .alias("rule"),
                (pl.col("first_file").cast(pl.UInt32) + first_file).alias("file"),
                pl.col("first_row").alias("where"),
            )
        )
    beside.found, beside.repeats = pl.concat(found), pl.concat(repeats)
    return beside


def _collide(
    rows: Mapping[str, Scan], beside: Mapping[str, _Beside], folder: Path, bounds: Bounds
) -> None:
    """Judge two active coverages of one patient with one `order`: never in the same period.

    The later row is rejected if the periods share more than a boundary day; if not, it gets a warning
    (docs/canvas.md, "Coverage": the new one takes the order, and the older one is moved down).
    """
    later = {name: each.in_order().found.select("seq") for name, each in beside.items()}

    def standing(columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        wanted = [name for name in columns if name != "feed"]
        for number, (name, scan) in enumerate(rows.items()):
            for part in _standing(scan).read([*wanted, "seq", "active"]):
                alone = part.join(_between(later[name], part), on="seq", how="anti")
                yield (
                    alone.filter("active")
                    .with_columns(pl.lit(number, dtype=pl.UInt32).alias("feed"))
                    .select(columns)
                )

    names = list(rows)
    stands = Scan(sum(scan.most for scan in rows.values()), standing)
    columns = ["lane", "order", "feed", "seq", "file", "row", "start_day", "end_day"]
    lines: dict[int, list[tuple[int, str, int, int]]] = {
        number: [] for number, _ in enumerate(names)
    }
    found = {name: [each.found] for name, each in beside.items()}
    for pile in shared(stands, ["lane", "order"], columns, folder / "orders", bounds):
        ordered = pile.sort("lane", "order", "feed", "seq").with_columns(
            pl.col("end_day").fill_null(_OPEN_END)
        )
        for _, group in groupby(ordered.iter_rows(), key=lambda row: row[:2]):
            periods = _Periods()
            for _, _, number, seq, file, row, start, end in group:
                where = (beside[names[number]].first_file + file, row)
                other = periods.take(start, end, where)
                if other is not None:
                    lines[number].append((seq, "order|collides", *other))
                elif periods.last is not None:
                    lines[number].append((seq, BUMPS, *periods.last))
                periods.last = where
        for number, mine in lines.items():
            found[names[number]].append(pl.DataFrame(mine, schema=_FOUND, orient="row"))
            mine.clear()
    for name, each in beside.items():
        each.found = pl.concat(found[name])


_Where = tuple[int, int]  # file and row


class _Periods:
    """The accepted periods of one patient and one order; they share boundary days at most."""

    def __init__(self) -> None:
        self._spans: list[tuple[int, int, _Where]] = []
        self.last: _Where | None = None  # the row before, whichever it was

    def take(self, start: int, end: int, row: _Where) -> _Where | None:
        """Add a period, or return the row whose period it overlaps. Only neighbours can overlap."""
        at = bisect_left(self._spans, (start, end, (-1, -1)))
        for first, last, other in self._spans[max(at - 2, 0) : at + 2]:
            if _overlap(start, end, first, last):
                return other
        self._spans.insert(at, (start, end, row))
        return None


def _overlap(start: int, end: int, first: int, last: int) -> bool:
    """Return whether two periods share more than one boundary day (all days inclusive)."""
    begins, ends = max(start, first), min(end, last)
    return begins < ends or (
        begins == ends and begins not in {_boundary(end, first), _boundary(last, start)}
    )


def _boundary(ends: int, begins: int) -> int | None:
    return ends if ends == begins else None


# Against the journal ------------------------------------------------------------------------------

_CHANGED: Final = {
    "Coverage": "this row was loaded before with other content, and the feed has update = false: change it in Canvas",
    "PaymentNotice": "this payment was posted before with other content, and a payment cannot be changed: correct it in Canvas by hand",
}

_ABANDONED: Final = (
    "a person gave this write up after its answer was lost: it is not sent again. To have it sent after all: "
    "canvas-ingest review CONFIG --resend KEY"
)


class _Decision(NamedTuple):
    """The decision on a row whose key the journal has in some state. `rule` "": the row keeps its own."""

    disposition: Disposition
    interaction: Interaction | None = None
    keeps_resource: bool = False
    rule: str = ""


_NEW: Final = _Decision(Disposition.PENDING, Interaction.CREATE)
_UPDATED: Final = _Decision(Disposition.PENDING, Interaction.UPDATE, keeps_resource=True)
_SAME: Final = _Decision(Disposition.UNCHANGED, keeps_resource=True)
_OTHER: Final = _Decision(Disposition.REJECTED, rule="row|changed")
_GIVEN_UP: Final = _Decision(Disposition.REJECTED, rule="row|abandoned")
_UNSETTLED: Final = _Decision(Disposition.IN_DOUBT)

_ANY: Final = (False, True)
_NOT_SENT: Final = (State.PENDING.value, State.REFUSED.value)
_SENT: Final = (State.IN_FLIGHT.value, State.IN_DOUBT.value)
# A write that has a resource is never created again: if it was refused or not sent, it is an update.
_DECISIONS: Final = (
    # state           has a resource  same content  may update  decision
    (("",),                     _ANY,     _ANY,     _ANY,     _NEW),
    (_NOT_SENT,                 (False,), _ANY,     _ANY,     _NEW),
    (_NOT_SENT,                 (True,),  _ANY,     (True,),  _UPDATED),
    (_NOT_SENT,                 (True,),  _ANY,     (False,), _OTHER),
    ((State.CONFIRMED.value,),  _ANY,     (True,),  _ANY,     _SAME),
    ((State.CONFIRMED.value,),  _ANY,     (False,), (True,),  _UPDATED),
    ((State.CONFIRMED.value,),  _ANY,     (False,), (False,), _OTHER),
    (_SENT,                     _ANY,     _ANY,     _ANY,     _UNSETTLED),
    ((State.ABANDONED.value,),  _ANY,     _ANY,     _ANY,     _GIVEN_UP),
)  # fmt: skip
_SITUATION: Final = ("state", "has_resource", "is_same", "may_update")


def decisions() -> pl.DataFrame:
    """Return the decision for each situation of a row: a line for each combination of `_SITUATION`."""
    lines = [
        (
            *situation,
            decision.disposition.value,
            decision.interaction.value if decision.interaction else "",
            decision.keeps_resource,
            decision.rule,
        )
        for *sets, decision in _DECISIONS
        for situation in product(*sets)
    ]
    decided = ("decided", "interaction", "keeps_resource", "decided_rule")
    return pl.DataFrame(lines, schema=[*_SITUATION, *decided], orient="row")


_DECISION_LINES: Final = decisions()


def _against_journal(rows: pl.DataFrame, feed: Feed, known: Known) -> pl.DataFrame:
    """Return the verdicts of rows that were let through or found in the files, given what the journal has."""
    rows = rows.filter(
        (pl.col("disposition") != Disposition.UNCHANGED.value) | (pl.col("rule") != "")
    )
    if rows.is_empty():
        return pl.DataFrame(schema=VERDICT_SCHEMA)
    is_open = pl.col("disposition") == Disposition.PENDING.value
    confirmed = known(rows.filter(is_open)["key"]).rename({"fingerprint": "confirmed"})
    rows = rows.join(confirmed, on="key", how="left", maintain_order="left").with_columns(
        pl.col("state").fill_null(""),
        has_resource=pl.col("resource_id").fill_null("") != "",
        is_same=(pl.col("fingerprint") == pl.col("confirmed")).fill_null(value=False),
        may_update=pl.lit(value=feed.update and feed.traits.resource_type == "Coverage"),
    )
    rows = rows.join(_DECISION_LINES, on=_SITUATION, how="left", maintain_order="left")
    messages = {"row|changed": _CHANGED[feed.traits.resource_type], "row|abandoned": _ABANDONED}
    has_rule = is_open & (pl.col("decided_rule") != "")
    rule = pl.when(has_rule).then("decided_rule")
    return rows.with_columns(
        disposition=pl.when(is_open).then("decided").otherwise("disposition"),
        interaction=pl.when(is_open).then("interaction").otherwise(pl.lit("")),
        resource_id=pl.when(is_open & pl.col("keeps_resource"))
        .then("resource_id")
        .when(is_open)
        .then(pl.lit("")),
        field=pl.when(has_rule).then(pl.lit("row")).otherwise("field"),
        rule=rule.otherwise("rule"),
        message=rule.replace_strict(messages, default=None).fill_null(pl.col("message")),
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
