"""Verdicts on rows that are compared with other rows of the files: the rules, and where they are kept.

`same_key.py` and `same_order.py` decide them.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import polars as pl

from pipeline.planning.tables import STANDING
from pipeline.records import Disposition
from pipeline.rows.groups import Scan

BUMPS: Final = "order|bumps"  # the rule of a row with an earlier one of the same order


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
RULE: Final = pl.Enum(list(_RULES))
# A row beside another one: a few bytes, because in a bad file each row may be one. `file` and `where` are
# the file and the row of the other, the files of all feeds numbered together.
FOUND_SCHEMA: Final[dict[str, Any]] = {
    "seq": pl.UInt32,
    "rule": RULE,
    "file": pl.UInt32,
    "where": pl.UInt32,
}
_REPEATS: Final = {"seq": pl.UInt32, "repeat": pl.UInt32}


def standing_rows(scan: Scan) -> Scan:
    """Return the rows that validation let through. Empty parts are yielded too."""

    def standing(columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        for part in scan.read(list(dict.fromkeys([*columns, "disposition"]))):
            yield part.filter(pl.col("disposition").is_in(STANDING))

    return Scan(scan.most, standing)


class Beside:
    """The rows of a feed that share a key or an order with others."""

    def __init__(self, first_file: int) -> None:
        self.first_file = first_file
        self.found = pl.DataFrame(schema=FOUND_SCHEMA)
        self.repeats = pl.DataFrame(schema=_REPEATS)  # by number: 1 is the second of its key

    def in_order(self) -> "Beside":
        """Sort by row, and return this object."""
        self.found, self.repeats = self.found.sort("seq"), self.repeats.sort("seq")
        return self

    def put_in(self, rows: pl.DataFrame, feed: str, names: Sequence[str]) -> pl.DataFrame:
        """Return one part's rows, in order, with their key, disposition, field, rule and message."""
        blank = [pl.lit("").alias(name) for name in ("field", "rule", "message")]
        repeats, found = lines_between(self.repeats, rows), lines_between(self.found, rows)
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
    schema={"rule": RULE, **dict.fromkeys(("disposition", "field", "before", "after"), pl.String)},
    orient="row",
)


def lines_between(lines: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
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
