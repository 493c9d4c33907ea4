"""Rows that Canvas holds as they are in the file, recognized by their text: skipped in bulk.

    state.dir/held-<feed>.parquet    a line for each row that the last run confirmed or found unchanged

A row's digest covers our fields as text, trimmed, and the answers of the crosswalks for them: another
quoting, column order or row order does not change it. Settings of the whole feed, above all its mapping,
are the `salt`: an index with another salt is not used. The journal has the SHA-256 of the index: a changed
index is not used, nor is a line whose write the journal has touched since, so that the journal always
wins. The index can be removed at any time: rows are then compared one by one, with the same result.
"""

import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import polars as pl

from pipeline.files import FOLDER_MODE, replacing, sha256_of
from pipeline.rows import groups
from pipeline.rows.crosswalk import Crosswalk

DIGESTS: Final = ("digest", "digest_2")  # 128 bits in all
# The columns of a plan's rows that a line has.
LINE: Final[dict[str, Any]] = {
    **dict.fromkeys(DIGESTS, pl.UInt64),
    "key": pl.String,
    "source_id": pl.String,
    "amount_cents": pl.Int64,
    "time_us": pl.Int64,
    "lane": pl.String,
    "fingerprint": pl.String,
    "order": pl.Int8,
    "start_day": pl.Int32,
    "end_day": pl.Int32,
    "active": pl.Boolean,
    "resource_id": pl.String,
}
_SOURCE_ID: Final = pl.col("source_id")
_FORMAT: Final = "3"
_ROW: Final = "_row"
_PART: Final = "\x1f"  # separates fields; a text that contains it cannot make two rows equal
_NULL: Final = "\x00"  # no file that is read holds it

# (number, hash of a line of the audit log) -> keys touched since; None if that line is not there
Touched = Callable[[int, str], Collection[str] | None]


@dataclass(frozen=True, slots=True)
class Mark:
    """The line of the journal's audit log after which an index was written."""

    number: int
    hash: str


class HeldRows:
    """The lines of one feed. Twelve bytes of each are in memory; the rest is read on demand.

    Lines are in the order of the last file. A file in quite another order would read most pieces again and
    again, so lines beyond `lines_pieces` pieces at a time are not found.
    """

    def __init__(self, path: Path | None, touched: Collection[str] = ()) -> None:
        name = DIGESTS[0]
        held = (
            pl.DataFrame(schema={name: pl.UInt64})
            if path is None
            else pl.read_parquet(path, columns=[name], glob=False)
        )
        self._path, self._touched = path, tuple(touched)
        self._places = held[name].arg_sort()  # by digest, where its line is
        self._digests = held[name].gather(self._places)
        self._last = (
            -1,
            pl.DataFrame(),
        )  # the piece that was read last: the next rows may need it too

    def __reduce__(self) -> tuple[Any, ...]:
        """Have another process read the file itself."""
        return HeldRows, (self._path, self._touched)

    @classmethod
    def none(cls) -> "HeldRows":
        """Return an index without lines."""
        return cls(None)

    @classmethod
    def open(cls, folder: Path, feed: str, salt: str, sha256: str, touched: Touched) -> "HeldRows":
        """Return the lines that can still be relied on; none if there is no index with this SHA-256 and salt."""
        path = _path(folder, feed)
        try:
            if sha256_of(path) != sha256:
                return cls.none()
            metadata = pl.read_parquet_metadata(path)
            if (metadata["format"], metadata["salt"]) != (_FORMAT, salt):
                return cls.none()
            since = touched(int(metadata["number"]), metadata["hash"])
            return cls.none() if since is None else cls(path, since)
        except (OSError, KeyError, ValueError, pl.exceptions.PolarsError):
            return cls.none()

    def find(self, digests: pl.DataFrame) -> tuple[pl.Series, pl.DataFrame]:
        """Return which rows are held (a mask), and the lines of those, in the rows' order."""
        mask = pl.repeat(False, digests.height, dtype=pl.Boolean, eager=True)
        if self._digests.is_empty():
            return mask, pl.DataFrame(schema=LINE)
        own, own_2 = (digests[name] for name in DIGESTS)
        at = self._digests.search_sorted(own).clip(0, self._digests.len() - 1)
        near = (self._digests.gather(at) == own).arg_true()
        lines = self._lines(self._places.gather(at.gather(near)), near)
        is_it = lines[DIGESTS[1]] == own_2.gather(lines[_ROW])
        if self._touched:
            is_it &= ~lines["key"].is_in(self._touched)
        found = lines if is_it.all() else lines.filter(is_it)
        return mask.scatter(found[_ROW], True), found.drop(_ROW)

    def _lines(self, places: pl.Series, rows: pl.Series) -> pl.DataFrame:
        """Return the lines at these places, each with the row that it may be of; in the order of the rows."""
        pieces = places // groups.BOUNDS.lines
        if pieces.min() == pieces.max():
            return self._taken(pieces, places, rows)
        most = pieces.value_counts(sort=True).head(groups.BOUNDS.lines_pieces)[pieces.name].sort()
        is_here = [pieces == piece for piece in most]
        found = [
            self._taken(pieces.filter(here), places.filter(here), rows.filter(here))
            for here in is_here
        ]
        return pl.concat(found).sort(_ROW)

    def _taken(self, pieces: pl.Series, places: pl.Series, rows: pl.Series) -> pl.DataFrame:
        """Return lines of one piece; none if it is torn or gone, or no line is asked for."""
        with suppress(IndexError, OSError, pl.exceptions.PolarsError):
            piece = pieces[0]
            lines: pl.DataFrame = self._piece(piece)[places - piece * groups.BOUNDS.lines]
            return lines.with_columns(rows.alias(_ROW))
        return pl.DataFrame(schema={**LINE, _ROW: rows.dtype})

    def _piece(self, piece: int) -> pl.DataFrame:
        last = self._last  # read once: another thread may replace it
        if last[0] != piece and self._path is not None:
            size = groups.BOUNDS.lines
            lines = pl.scan_parquet(self._path, glob=False).slice(piece * size, size)
            last = self._last = piece, lines.select(list(LINE)).collect()
        return last[1]


def write(folder: Path, feed: str, salt: str, mark: Mark, lines: Iterable[pl.DataFrame]) -> str:
    """Write an index in one step.

    Args:
        folder: `state.dir`.
        feed: The name of the feed.
        salt: A hash of the settings that the digests depend on.
        mark: The last line of the journal's audit log.
        lines: Frames of LINE, in the order of the file.

    Returns:
        The SHA-256 of the index.
    """
    path = _path(folder, feed)
    metadata = {"format": _FORMAT, "salt": salt}
    metadata |= {"number": str(mark.number), "hash": mark.hash}
    pieces = path.with_name(f".{path.stem}.pieces")
    shutil.rmtree(pieces, ignore_errors=True)
    pieces.mkdir(mode=FOLDER_MODE)
    try:
        found = [pieces / "none.parquet"]
        pl.DataFrame(schema=LINE).write_parquet(found[0])
        for number, some in enumerate(lines):
            found.append(pieces / f"{number:06}.parquet")
            some.select(_cast()).write_parquet(found[-1], compression="lz4")
        every = pl.scan_parquet(found, glob=False)
        with replacing(path) as part:
            every.with_columns(pl.when(_SOURCE_ID != "").then(_SOURCE_ID)).sink_parquet(
                part,
                metadata=metadata,
                row_group_size=groups.BOUNDS.lines,
                compression_level=1,
            )
    finally:
        shutil.rmtree(pieces, ignore_errors=True)
    return sha256_of(path)


def _cast() -> list[pl.Expr]:
    return [pl.col(name).cast(kind) for name, kind in LINE.items()]


def _path(folder: Path, feed: str) -> Path:
    return folder / f"held-{feed}.parquet"


def digests(texts: pl.DataFrame, crosswalks: Mapping[str, Crosswalk]) -> pl.DataFrame:
    """Return the digest of each row. `texts` are our fields, `crosswalks` those of them that have one."""
    answers = [
        pl.Series(f"{name}_id", [table.get(value) for value in texts[name]], dtype=pl.String)
        for name, crosswalk in crosswalks.items()
        if name in texts.columns and (table := crosswalk.table) is not None
    ]
    whole = texts.with_columns(answers) if answers else texts
    text = whole.select(pl.concat_str(pl.all().fill_null(_NULL), separator=_PART)).to_series()
    return pl.DataFrame([text.hash(seed).alias(name) for seed, name in enumerate(DIGESTS, 1)])
