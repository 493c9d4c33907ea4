"""Rows out of files, in batches, every column as text: no type is ever inferred.

The only place that streams with polars: `collect_batches` is marked unstable there. Memory is
bounded by the batch, not by the file (performance.md, "Reading in bounded memory").
"""

import os
from collections.abc import Iterator
from typing import Final

import polars as pl

from pipeline.errors import InputError
from pipeline.feeds.source import RUN, Batch, Source, stamp_of

ROWS_A_BATCH: Final = 4_000
_RUN_ID: Final = r"^\d{8}T\d{6}Z-[0-9a-f]{4}$"
_TEXT_OF: Final = {pl.Datetime: "%Y-%m-%dT%H:%M:%S", pl.Date: "%Y-%m-%d"}

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
        for frame in _scan(source, source.kept).collect_batches(
            chunk_size=ROWS_A_BATCH, maintain_order=True, engine="streaming"
        ):
            if frame.height:
                yield Batch(source, row, frame)
                row += frame.height
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
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
    scan = pl.scan_parquet(source.readable, glob=False)
    schema = scan.collect_schema()
    return scan.select(_as_text(name, schema[name]) for name in columns)


def _as_text(name: str, kind: pl.DataType) -> pl.Expr:
    """Days as ISO; decimals without zeros beyond the second place, which say nothing of a cent."""
    form = _TEXT_OF.get(kind.base_type())
    if form:
        return pl.col(name).dt.strftime(form)
    text = pl.col(name).cast(pl.String)
    return text.str.replace(r"(\.\d\d)0+$", "$1") if kind.is_decimal() else text
