"""Rows out of files, in batches, every column as text: no type is ever inferred.

The only place that streams with polars: `collect_batches` is marked unstable there. Memory is
bounded by the batch, not by the file (performance.md, "Reading in bounded memory").
"""

import itertools
import os
from collections.abc import Iterator
from typing import Final

import polars as pl

from pipeline.errors import InputError
from pipeline.feeds.bounds import FIELD_BYTES_MAX, ROW_BYTES_MAX
from pipeline.feeds.source import RUN, Batch, Source, stamp_of

ROWS_A_BATCH: Final = 4_000
_ROWS_A_SLICE: Final = 16_000  # of Parquet
_RUN_ID: Final = r"^\d{8}T\d{6}Z-[0-9a-f]{4}$"

# Looked at by polars when it scans for the first time; the bound holds without them, only wider.
_POLARS_BOUNDS: Final = {
    "POLARS_CSV_CHUNK_SIZE": str(1 << 20),
    "POLARS_ROW_GROUP_PREFETCH_SIZE": "1",
    "POLARS_IDEAL_MORSEL_SIZE": "2000",
}


def read(source: Source) -> Iterator[Batch]:
    """All rows of an inspected file. Raises InputError if the file changed in between."""
    for name, value in _POLARS_BOUNDS.items():
        os.environ.setdefault(name, value)
    row = 1
    try:
        for frame in _frames(source):
            if frame.height:
                _check_bounds(frame, source, row)
                yield Batch(source, row, frame)
                row += frame.height
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise InputError(
            f"the file cannot be read ({type(error).__name__})",
            "ask the sender for it again",
            file=source.name,
            row=row,
        ) from None
    if stamp_of(source.path) != source.stamp or row - 1 != source.rows:
        raise InputError(
            "the file was changed while it was read",
            "wait until it is complete and run again",
            file=source.name,
        )


def _check_bounds(frame: pl.DataFrame, source: Source, first_row: int) -> None:
    """Refuse a cell or a row that is longer than any that people write."""
    longest = [most or 0 for most in frame.select(pl.all().str.len_bytes().max()).row(0)]
    if sum(longest) <= FIELD_BYTES_MAX:
        return
    lengths = frame.select(pl.all().str.len_bytes().fill_null(0))
    if max(longest) > FIELD_BYTES_MAX:
        column = frame.columns[longest.index(max(longest))]
        _refuse_long("cell", FIELD_BYTES_MAX, lengths[column], source, first_row, column)
    if sum(longest) > ROW_BYTES_MAX:
        _refuse_long("row", ROW_BYTES_MAX, lengths.sum_horizontal(), source, first_row)


def _refuse_long(
    what: str, most: int, lengths: pl.Series, source: Source, first_row: int, column: str = ""
) -> None:
    """Refuse the first that is longer than `most`, if any is."""
    at = (lengths > most).arg_max()
    if at is not None and lengths[at] > most:
        raise InputError(
            f"a {what} of more than {most // 1024} KiB",
            "shorten it, or leave the column out; a quote that is not closed can make it so long",
            file=source.name,
            row=first_row + at,
            column=column,
        )


def _frames(source: Source) -> Iterator[pl.DataFrame]:
    """All rows. A stream of Parquet would hold some row groups at a time, a slice the pages that it needs."""
    scan = _scan(source, source.kept)
    if not source.is_parquet:
        yield from scan.collect_batches(
            chunk_size=ROWS_A_BATCH, maintain_order=True, engine="streaming"
        )
        return
    for start in itertools.count(step=_ROWS_A_SLICE):
        rows = scan.slice(start, _ROWS_A_SLICE).collect()
        yield from rows.iter_slices(ROWS_A_BATCH)
        if rows.height < _ROWS_A_SLICE:
            return


def origins(source: Source) -> list[str]:
    """The runs whose rejects these rows are, by the column RUN that a reject file has."""
    texts = _scan(source, [RUN]).unique().collect()[RUN]
    return texts.filter(texts.str.contains(_RUN_ID)).to_list()


def _scan(source: Source, columns: list[str]) -> pl.LazyFrame:
    if not source.is_parquet:
        header = list(source.header)
        return pl.scan_csv(
            source.readable,
            separator=source.delimiter,
            infer_schema=False,
            glob=False,
            with_column_names=lambda _: header,
        ).select(columns)
    return pl.scan_parquet(source.readable, glob=False, hive_partitioning=False).select(columns)
