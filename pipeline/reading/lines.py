"""Find the line of each row, as an editor counts lines: quoted line ends, titles, comments and blank lines included.

In most texts the line of a row is its number plus a constant. For others a second pass writes a file with an entry
for each row at which that difference changes, so that memory does not grow with the text. The number of a row in
the sheet of a workbook is kept in the same way.
"""

import mmap
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import polars as pl

from pipeline.files import FILE_MODE
from pipeline.reading.trim import Trim, Trimmer

_ENTRY_BYTES: Final = 8  # the number of a row, and the difference between its line and that number
_ENTRIES_AT_ONCE: Final = 10_000

Entry = tuple[int, int]  # a row, and the difference between line and row from that row on


@dataclass(frozen=True, slots=True)
class LineMap:
    """The lines of the rows of one file.

    Attributes:
        first: The line of row 1.
        entries: The file of the changes; None if there are none after row 1.
    """

    first: int
    entries: Path | None = None

    def of(self, row: int) -> int:
        """Return the line of a row (from 1)."""
        return int(self.of_rows(pl.Series("row", [row], dtype=pl.UInt32))[0])

    def of_rows(self, rows: pl.Series) -> pl.Series:
        """Return the lines of rows, in the same order (UInt32)."""
        if self.entries is None or rows.is_empty():
            return (rows.cast(pl.Int64) + (self.first - 1)).cast(pl.UInt32)
        known = _entries_of(self.entries, int(str(rows.min())), int(str(rows.max())))
        asked = pl.DataFrame({"row": rows.cast(pl.Int64)}).with_row_index("place")
        found = asked.sort("row").join_asof(known, on="row").sort("place")
        shift = pl.col("shift").fill_null(self.first - 1)
        return found.select((pl.col("row") + shift).cast(pl.UInt32)).to_series()


def _entries_of(path: Path, first: int, last: int) -> pl.DataFrame:
    """Return the entries that count for the rows from `first` to `last`."""
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        memoryview(mapped) as raw,
        raw.cast("I") as numbers,
    ):
        count = len(numbers) // 2
        start = max(bisect_right(range(count), first, key=lambda at: numbers[2 * at]) - 1, 0)
        end = bisect_right(range(count), last, key=lambda at: numbers[2 * at])
        with numbers[2 * start : 2 * end] as some:
            rows, shifts = list(some[::2]), list(some[1::2])
    return pl.DataFrame({"row": rows, "shift": shifts}, schema={"row": pl.Int64, "shift": pl.Int64})


def keep_entries(entries: Iterable[Entry], path: Path) -> LineMap:
    """Return the lines of rows; entries beyond row 1 are written to `path`, a new file."""
    first, count, held = 1, 0, array("I")
    path.unlink(missing_ok=True)
    with path.open("xb") as file:
        path.chmod(FILE_MODE)
        for row, shift in entries:
            if row <= 1:
                first = 1 + shift
                continue
            if not count:
                held.extend((1, first - 1))
            held.extend((row, shift))
            count += 1
            if len(held) > _ENTRIES_AT_ONCE:
                held.tofile(file)
                held = array("I")
        held.tofile(file)
    if count:
        return LineMap(first, path)
    path.unlink()
    return LineMap(first)


def entries_of(starts: Iterable[int]) -> Iterator[Entry]:
    """Yield the entries of rows that begin at these lines, the header (row 0) first."""
    before = None
    for row, line in enumerate(starts):
        if line - row != before:
            before = line - row
            yield row, before


def row_starts(chunks: Iterable[bytes], trim: Trim, delimiter: bytes) -> Iterator[int]:
    """Yield the line at which each row of a text begins, the header first.

    Args:
        chunks: The text as UTF-8, with all of its lines.
        trim: What is left out of it. A footer is not known here: its lines are yielded as rows.
        delimiter: One byte.
    """
    trimmer = Trimmer(replace(trim, skip_footer=0), delimiter)
    for number, line in enumerate(_lines(chunks), 1):
        if number > trim.skip_lines:
            is_inside = trimmer.is_inside
            if trimmer.keeps(line) and not is_inside:
                yield number


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    carry = b""
    for chunk in chunks:
        *lines, carry = (carry + chunk).split(b"\n")
        yield from lines
    if carry:
        yield carry


class LineCount:
    """Counts the lines of a text, apart from those who leave some out."""

    def __init__(self) -> None:
        self._ends = 0
        self._last = b"\n"

    def watch(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Yield the chunks as they are."""
        for chunk in chunks:
            self._ends += chunk.count(b"\n")
            self._last = chunk[-1:] or self._last
            yield chunk

    @property
    def count(self) -> int:
        """Return the number of lines; a last one without a line end counts."""
        return self._ends + (self._last != b"\n")
