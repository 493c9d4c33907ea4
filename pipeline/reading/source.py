"""An inspected source file, its slices, and the batches that are read from them."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

import polars as pl

from pipeline.files import displayed
from pipeline.reading.decoding import Decoded
from pipeline.reading.lines import LineMap
from pipeline.rows import groups

# Our columns of a reject file, in order; `run` is the run that rejected the row. Their names begin
# with as many underscores as needed to differ from all of the sender's names.
ADDED: Final = ("row", "line", "stage", "field", "rule", "message", "file", "run")
_BYTES_A_SLICE: Final = 32 << 20
_RUN: Final = re.compile("(_+)run")


def added_columns(columns: Collection[str]) -> list[str]:
    """Return the names of our columns in a reject file beside the sender's `columns`."""
    prefix = "_"
    while any(prefix + name in columns for name in ADDED):
        prefix += "_"
    return [prefix + name for name in ADDED]


def added_in(columns: Collection[str]) -> frozenset[str]:
    """Return our columns, if these are of a reject file of ours: the longest prefix is ours (`added_columns`)."""
    prefixes = sorted(found[1] for name in columns if (found := _RUN.fullmatch(name)))
    for prefix in reversed(prefixes):
        ours = {prefix + name for name in ADDED}.intersection(columns)
        if len(ours) > 1:
            return frozenset(ours)
    return frozenset()


@dataclass(frozen=True, slots=True)
class Stamp:
    """The marks by which a change of a file is seen: size in bytes, mtime in ns, inode."""

    size: int
    mtime_ns: int
    inode: int


def stamp_of(path: Path) -> Stamp:
    """Return the file's stamp now."""
    stat = path.stat()
    return Stamp(stat.st_size, stat.st_mtime_ns, stat.st_ino)


@dataclass(frozen=True, slots=True)
class Slice:
    """Consecutive whole rows of a file, which can be read without those before them.

    `start` and `end` count bytes of the text, which includes the header; for Parquet they count rows.
    """

    first_row: int  # the number of the first row within the file, from 1
    rows: int
    start: int
    end: int


class Cuts:
    """Cuts a text into slices at ends of rows."""

    def __init__(self, header_size: int) -> None:
        self._cut = self._seen = (header_size, 0)  # bytes, and rows of data in them
        self._found: list[tuple[tuple[int, int], tuple[int, int]]] = []

    def see(self, size: int, rows: int) -> None:
        """Note that a row ends after `size` bytes and `rows` rows of data."""
        if rows == 0:
            return
        is_much = rows - self._cut[1] > groups.BOUNDS.whole or size - self._cut[0] > _BYTES_A_SLICE
        if is_much and self._seen[1] > self._cut[1]:
            self._found.append((self._cut, self._seen))
            self._cut = self._seen
        self._seen = size, rows

    def slices(self, shift: int) -> tuple[Slice, ...]:
        """Return slices of all rows that were seen, after a byte order mark of `shift` bytes."""
        last = [(self._cut, self._seen)] if self._seen[1] > self._cut[1] else []
        return tuple(
            Slice(before + 1, rows - before, start + shift, end + shift)
            for (start, before), (end, rows) in [*self._found, *last]
        )


@dataclass(frozen=True, slots=True)
class Interchange:
    """The identity of an X12 interchange, and whether it holds changes only.

    Attributes:
        parties: Sender and receiver (ISA05 to ISA08).
        identity: These and the control numbers (ISA13, GS06).
        number: The control number (ISA13).
        is_change: BGN08 is 2: who is not in it did not change. Else the file is full.
        created: The latest instant of ISA09 and 10, GS04 and 05, BGN03 and 04, as YYYYMMDDHHMMSS in the sender's zone;
            "" if none is an instant.
        is_test: ISA15 is T.
    """

    parties: str
    identity: str
    number: str
    is_change: bool
    created: str = ""
    is_test: bool = False


@dataclass(frozen=True)
class Source:
    """One file that was inspected and found fit.

    Attributes:
        path: The file.
        origin: Shown in reports: the path, or the address of the object that it copies.
        readable: The path that is read: the file itself, its copy as plain UTF-8 if it is compressed or has
            another encoding, or the copy of a Parquet file or a workbook (`pipeline/reading/decoding.py`).
        header: All columns in the file's order, with names that differ (`heading.unique_names`).
        slices: All rows.
        sha256: Of the file's own bytes.
        is_parquet: Whether `readable` is a Parquet file: the copy of a Parquet file or of a workbook.
        surplus: The columns that rows of a text have beyond its header: all of their cells must be blank.
        skipped: The number of lines that were left out, by kind (`pipeline/reading/trim.py`).
        may_be_utf8: Whether `encoding` reads each byte as a character, and the bytes are valid UTF-8 with
            characters of several bytes.
        interchange: Of an X12 834.
        breaks: The number of line ends inside of quotes.
        lines: The line of each row, as an editor counts, or its number in the sheet; None if rows have no lines.
    """

    path: Path
    origin: str
    readable: Path
    header: tuple[str, ...]
    slices: tuple[Slice, ...]
    sha256: str
    stamp: Stamp
    is_parquet: bool
    delimiter: str
    surplus: tuple[str, ...] = ()
    skipped: Mapping[str, int] = field(default_factory=dict)
    may_be_utf8: bool = False
    interchange: Interchange | None = None
    breaks: int = 0
    lines: LineMap | None = None

    def line_of(self, row: int) -> int | None:
        """Return the line of a row (from 1); None if it has none."""
        return None if self.lines is None else self.lines.of(row)

    @property
    def rows(self) -> int:
        """Return the number of rows."""
        return sum(each.rows for each in self.slices)

    @property
    def name(self) -> str:
        """Return the file's name, as messages and reports show it."""
        return displayed(self.path.name)

    @cached_property
    def added(self) -> frozenset[str]:
        """Return our columns, if this is a reject file of ours."""
        return added_in(self.header)

    @property
    def run_column(self) -> str:
        """Return the column that names the run that rejected the rows; "" if this is no reject file."""
        return min((name for name in self.added if name.endswith("run")), default="")

    @property
    def kept(self) -> list[str]:
        """Return the sender's own columns."""
        return [name for name in self.header if name not in self.added]


def copied(
    path: Path, copy: Path, header: Sequence[str], found: Decoded, stamp: Stamp, sha256: str
) -> Source:
    """Return the source of a file that was decoded into a copy, in which a slice can begin at any row."""
    most = groups.BOUNDS.whole
    ends = ((start, min(start + most, found.rows)) for start in range(0, found.rows, most))
    return Source(
        path,
        str(path),
        copy,
        tuple(header),
        tuple(Slice(start + 1, end - start, start, end) for start, end in ends),
        sha256,
        stamp,
        is_parquet=True,
        delimiter=",",
        skipped=found.skipped,
    )


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive rows of one file, every column as text (null for an empty cell)."""

    source: Source
    first_row: int  # the number of the first row within its file, from 1
    frame: pl.DataFrame
