"""Rows that Canvas holds as they stand in the file, known again by their text: skipped in bulk.

    state.dir/held-<feed>.parquet    one line a row that the last run confirmed or found unchanged

A row's digest is taken over our fields as text, trimmed, and what the crosswalks answer for them:
another quoting, column order or row order does not change it. What is true of the whole feed, its
mapping above all, is the `salt`: an index with another one is not used. Nor is a line whose write
the journal has touched since (`usable`), so that what the journal knows always wins. It can be
thrown away at any time: rows are then compared one by one, with the same end.
"""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import polars as pl

from pipeline.crosswalk import Crosswalk

DIGESTS: Final = ("digest", "digest_2")  # 128 bits in all
# The columns of a plan's rows that a line has.
LINE: Final[dict[str, Any]] = {
    **dict.fromkeys(DIGESTS, pl.UInt64),
    "key": pl.String,
    "source_id": pl.String,
    "amount_cents": pl.Int64,
    "lane": pl.String,
    "fingerprint": pl.String,
    "order": pl.Int8,
    "start_day": pl.Int32,
    "end_day": pl.Int32,
    "active": pl.Boolean,
    "resource_id": pl.String,
}
_SOURCE_ID: Final = pl.col("source_id")
_FORMAT: Final = "1"
_PART: Final = "\x1f"  # a text with one more of it than there are fields is no other row's
_NULL: Final = "\x00"  # no file that is read holds it

# (number, hash of a line of the trail) -> keys touched since; None where that line is not there
Touched = Callable[[int, str], Collection[str] | None]


@dataclass(frozen=True, slots=True)
class Mark:
    """When an index was written: by which journal, after which line of its trail."""

    journal: str
    number: int
    hash: str


class HeldRows:
    """The lines of one feed, sorted by digest."""

    def __init__(self, lines: pl.DataFrame) -> None:
        self._lines = lines.sort(DIGESTS[0])
        self._digests = [self._lines[name] for name in DIGESTS]

    @classmethod
    def none(cls) -> "HeldRows":
        """No row is known."""
        return cls(pl.DataFrame(schema=LINE))

    @classmethod
    def open(cls, folder: Path, feed: str, salt: str, journal: str, touched: Touched) -> "HeldRows":
        """The lines that can still be relied on; none where there is no such index."""
        empty = cls.none()
        path = _path(folder, feed)
        try:
            told = pl.read_parquet_metadata(path)
            if (told["format"], told["salt"], told["journal"]) != (_FORMAT, salt, journal):
                return empty
            since = touched(int(told["number"]), told["hash"])
            if since is None:
                return empty
            lines = pl.read_parquet(path, columns=list(LINE), glob=False)
        except (OSError, KeyError, ValueError, pl.exceptions.PolarsError):
            return empty
        return cls(lines.filter(~pl.col("key").is_in(list(since))))

    def find(self, digests: pl.DataFrame) -> tuple[pl.Series, pl.DataFrame]:
        """Which rows are held (a mask), and the lines of those that are, in the rows' order."""
        if self._lines.is_empty():
            return pl.repeat(False, digests.height, dtype=pl.Boolean, eager=True), self._lines
        own, own_2 = (digests[name] for name in DIGESTS)
        at = self._digests[0].search_sorted(own).clip(0, self._lines.height - 1)
        mask = (self._digests[0].gather(at) == own) & (self._digests[1].gather(at) == own_2)
        return mask, self._lines[at.filter(mask)]


def write(folder: Path, feed: str, salt: str, mark: Mark, lines: Sequence[pl.DataFrame]) -> None:
    """Put an index there in one step."""
    frame = pl.concat([pl.DataFrame(schema=LINE), *(part.select(_cast()) for part in lines)])
    frame = frame.with_columns(pl.when(_SOURCE_ID != "").then(_SOURCE_ID))
    path = _path(folder, feed)
    part = path.with_name(f".{path.name}")
    told = {"format": _FORMAT, "salt": salt, "journal": mark.journal}
    os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
    frame.write_parquet(part, metadata={**told, "number": str(mark.number), "hash": mark.hash})
    part.replace(path)


def _cast() -> list[pl.Expr]:
    return [pl.col(name).cast(kind) for name, kind in LINE.items()]


def _path(folder: Path, feed: str) -> Path:
    return folder / f"held-{feed}.parquet"


def digests(texts: pl.DataFrame, crosswalks: Mapping[str, Crosswalk]) -> pl.DataFrame:
    """The digest of each row. `texts` are our fields, `crosswalks` those of them that have one."""
    answers = [
        pl.Series(f"{name}_id", [table.get(value) for value in texts[name]], dtype=pl.String)
        for name, crosswalk in crosswalks.items()
        if name in texts.columns and (table := crosswalk.table) is not None
    ]
    whole = texts.with_columns(answers) if answers else texts
    text = whole.select(pl.concat_str(pl.all().fill_null(_NULL), separator=_PART)).to_series()
    return pl.DataFrame([text.hash(seed).alias(name) for seed, name in enumerate(DIGESTS, 1)])
