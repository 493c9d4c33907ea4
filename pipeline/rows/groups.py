"""Group rows that belong together, wherever in the files they are, without all rows in memory.

Only columns that are needed are read, part by part. Rows that share a value with another row are found by a
hash of eight bytes a row, some rows at a time (`shared`). Such rows, and others that must be seen together,
are dealt to piles that hold whole groups (`Piles`). A hash only nominates rows: the caller that takes a
pile compares the rows' values.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars as pl

from pipeline.files import FILE_MODE, FOLDER_MODE

_PILE: Final = "_pile"


@dataclass(frozen=True, slots=True)
class Bounds:
    """The number of rows in memory at a time: of hashes, of a few columns, or of whole rows.

    And of what is read in one piece: bytes of a file, and lines of the index of unchanged rows.
    """

    hashes: int = 1_000_000
    narrow: int = 200_000
    whole: int = 16_000
    chunk_bytes: int = 1 << 16  # a text is cut only at the last row's end in a chunk
    lines: int = 16_384
    lines_pieces: int = (
        48  # reading this many takes as long as judging some thousand rows one by one
    )


BOUNDS = Bounds()


@dataclass(frozen=True, slots=True)
class Scan:
    """Rows that can be read part by part, any number of times: their maximum number, and a reader of columns."""

    most: int
    read: Callable[[Sequence[str]], Iterator[pl.DataFrame]]


class Piles:
    """Rows dealt to piles; can be iterated any number of times. Rows that fit into one pile stay in memory."""

    def __init__(self, rows: pl.DataFrame, folder: Path | None = None, piles: int = 0) -> None:
        self._rows, self._folder, self._piles = rows, folder, piles

    def __iter__(self) -> Iterator[pl.DataFrame]:
        """Yield pile by pile, each in the order in which its rows came; never an empty one."""
        if self._folder is None:
            if not self._rows.is_empty():
                yield self._rows
            return
        for pile in range(self._piles):
            paths = sorted(self._folder.glob(f"{pile:06}-*.arrow"))
            if paths:
                yield pl.concat([pl.read_ipc(path) for path in paths])


def deal(
    frames: Iterable[pl.DataFrame],
    pile_of: Callable[[int], pl.Expr],
    folder: Path,
    most: int,
    at_once: int,
) -> Piles:
    """Deal rows to piles of about `at_once` rows.

    Args:
        frames: The rows.
        pile_of: Returns the expression of a row's pile, given the number of piles.
        folder: Made if the rows do not fit into one pile; the caller deletes it.
        most: The maximum number of rows.
        at_once: The number of rows in memory.
    """
    piles = passes(most, at_once)
    held: list[pl.DataFrame] = []
    flushed = 0
    for frame in frames:
        held.append(frame)
        if sum(each.height for each in held) > at_once:
            _flush(held, pile_of(piles), folder, flushed)
            held, flushed = [], flushed + 1
    if not flushed:
        return Piles(pl.concat(held) if held else pl.DataFrame())
    if held:
        _flush(held, pile_of(piles), folder, flushed)
    return Piles(pl.DataFrame(), folder, piles)


def _flush(held: Sequence[pl.DataFrame], pile: pl.Expr, folder: Path, number: int) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
    piles = pl.concat(held).with_columns(pile.alias(_PILE)).partition_by(_PILE, as_dict=True)
    for (of,), rows in piles.items():
        path = folder / f"{of:06}-{number:06}.arrow"
        rows.drop(_PILE).write_ipc(path, compression="lz4")
        path.chmod(FILE_MODE)


def hashed(by: Sequence[str]) -> pl.Expr:
    """Return an expression of eight bytes for the values of these columns, equal for equal rows within a process."""
    first, *others = (pl.col(name).hash(seed) for seed, name in enumerate(by))
    for other in others:
        first = first.xor(other)
    return first


def by_hash(by: Sequence[str]) -> Callable[[int], pl.Expr]:
    """Return a `pile_of` for `deal`: rows with equal values in these columns go to the same pile."""
    return lambda piles: hashed(by) % piles


def passes(rows: int, at_once: int) -> int:
    """Return the number of passes in which `rows` rows are read, `at_once` at a time."""
    return max(1, -(-rows // at_once))


def of_pass(
    values: Iterable[pl.Series],
    number: int,
    count: int,
    dtype: type[pl.DataType] = pl.UInt64,
) -> pl.Series:
    """Return the values (of `dtype`) of one pass: a part of them by their hashes, so that equal ones are in one pass."""
    mine = [each if count == 1 else each.filter(each.hash() % count == number) for each in values]
    return pl.concat(mine) if mine else pl.Series(dtype=dtype)


def repeated(hashes: Callable[[], Iterator[pl.Series]], rows: int, at_once: int) -> pl.Series:
    """Return the hashes that occur more than once, sorted. They are read again for each pass."""
    found = [pl.Series(dtype=pl.UInt64)]
    count = passes(rows, at_once)
    for number in range(count):
        ordered = of_pass(hashes(), number, count).sort()
        found.append(ordered.filter(ordered == ordered.shift(1)).unique())
    return pl.concat(found).sort()


def is_among(hashes: pl.Series, ordered: pl.Series) -> pl.Series:
    """Return which of these hashes are among `ordered`, which is sorted."""
    if ordered.is_empty():
        return pl.repeat(value=False, n=hashes.len(), dtype=pl.Boolean, eager=True)
    at = ordered.search_sorted(hashes).clip(0, ordered.len() - 1)
    return ordered.gather(at) == hashes


def shared(
    scan: Scan, by: Sequence[str], columns: Sequence[str], folder: Path, bounds: Bounds
) -> Iterator[pl.DataFrame]:
    """Yield the rows that share the values of `by` with another row, in piles of whole groups.

    There may be rows among them that share nothing, because hashes may collide.

    Args:
        scan: The rows.
        by: The columns to compare.
        columns: The columns to yield.
        folder: For rows that do not fit into memory; the caller deletes it.
        bounds: The number of rows in memory.
    """

    def hashes() -> Iterator[pl.Series]:
        for part in scan.read(by):
            yield part.select(hashed(by)).to_series()

    several = repeated(hashes, scan.most, bounds.hashes)
    if several.is_empty():
        return
    contested = (
        part.filter(is_among(part.select(hashed(by)).to_series(), several))
        for part in scan.read(columns)
    )
    yield from deal(contested, by_hash(by), folder, scan.most, bounds.narrow)
