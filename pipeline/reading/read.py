"""Read rows out of files, a slice at a time, every column as text: no type is ever inferred.

Each slice is read without those before it, in this process or another one, and memory is bounded by the
slice, not by the file.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Final

import polars as pl
import polars.selectors as cs

from pipeline.errors import InputError
from pipeline.reading.bounds import FIELD_BYTES_MAX, ROW_BYTES_MAX
from pipeline.reading.source import Batch, Slice, Source, stamp_of

_RUN_ID: Final = r"^\d{8}T\d{6}Z-[0-9a-f]{4}$"


def read(source: Source) -> Iterator[Batch]:
    """Yield all rows of an inspected file. Raises InputError if the file changed in between."""
    return (read_slice(source, each) for each in source.slices)


def read_slice(source: Source, piece: Slice) -> Batch:
    """Return the rows of a slice. Raises InputError if the file changed since it was inspected."""
    frame = _frame(source, piece, source.kept)
    _check_bounds(frame, source, piece.first_row)
    _check_surplus(frame, source, piece.first_row)
    return Batch(source, piece.first_row, frame)


def origins(source: Source) -> list[str]:
    """Return the runs that rejected these rows, by the column that a reject file has for it."""
    column = source.run_column
    texts = pl.concat([_frame(source, each, [column])[column].unique() for each in source.slices])
    return texts.filter(texts.str.contains(_RUN_ID)).unique().to_list()


def rows_origin(source: Source, piece: Slice) -> pl.DataFrame:
    """Return the run, the name of the file and the number that rows of a reject file had; null if it is not known."""
    prefix = source.run_column.removesuffix("run")
    columns = {"run": "run", "file": "name", "row": "number"}
    named = {prefix + ours: name for ours, name in columns.items() if prefix + ours in source.added}
    texts = _frame(source, piece, list(named)).rename(named)
    blank = pl.lit(None, dtype=pl.String)
    texts = texts.with_columns(
        blank.alias(name) for name in columns.values() if name not in texts.columns
    )
    return texts.select(
        pl.when(pl.col("run").str.contains(_RUN_ID)).then("run"),
        "name",
        pl.col("number").cast(pl.UInt32, strict=False),
    )


def _frame(source: Source, piece: Slice, columns: Sequence[str]) -> pl.DataFrame:
    try:
        frame = _scan(source, piece).select(cs.by_name(*columns)).collect()
    except FileNotFoundError:
        raise InputError(
            "the file is no longer where it was when it was inspected",
            "run again once it is back; workers of a cluster need it, and state.dir, at the same path",
            file=source.name,
        ) from None
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise InputError(
            f"the file cannot be read ({type(error).__name__})",
            "ask the sender for it again",
            file=source.name,
            row=piece.first_row,
            line=source.line_of(piece.first_row),
        ) from None
    if _is_changed(source) or frame.height != piece.rows:
        raise InputError(
            "the file was changed while it was read",
            "wait until it is complete and run again",
            file=source.name,
        )
    return frame


def _is_changed(source: Source) -> bool:
    try:
        return stamp_of(source.path) != source.stamp
    except OSError:
        return True


def _scan(source: Source, piece: Slice) -> pl.LazyFrame:
    if source.is_parquet:
        rows = pl.scan_parquet(source.readable, glob=False, hive_partitioning=False)
        names = rows.collect_schema().names()  # of a workbook, the columns' positions
        named = rows.rename(dict(zip(names, source.header, strict=True)))
        return named.slice(piece.start, piece.rows)
    header = list(source.header)
    with source.readable.open("rb") as file:
        file.seek(piece.start)
        text = file.read(piece.end - piece.start)
    return pl.scan_csv(
        _stand_in(source) + text,
        separator=source.delimiter,
        infer_schema=False,
        with_column_names=lambda _: header,
    )


def _stand_in(source: Source) -> bytes:
    """Return a header for a slice, which has none, so that polars reads it as it would the whole file."""
    line = io.StringIO()
    csv.writer(
        line, delimiter=source.delimiter, quoting=csv.QUOTE_ALL, lineterminator="\n"
    ).writerow(range(len(source.header)))
    return line.getvalue().encode()


def _check_bounds(frame: pl.DataFrame, source: Source, first_row: int) -> None:
    """Raise InputError for a cell or a row above its bound."""
    longest = [most or 0 for most in frame.select(pl.all().str.len_bytes().max()).row(0)]
    if sum(longest) <= FIELD_BYTES_MAX:
        return
    lengths = frame.select(pl.all().str.len_bytes().fill_null(0))
    if max(longest) > FIELD_BYTES_MAX:
        column = frame.columns[longest.index(max(longest))]
        _refuse_long("cell", FIELD_BYTES_MAX, lengths[column], source, first_row, column)
    if sum(longest) > ROW_BYTES_MAX:
        _refuse_long("row", ROW_BYTES_MAX, lengths.sum_horizontal(), source, first_row)


def _check_surplus(frame: pl.DataFrame, source: Source, first_row: int) -> None:
    """Raise InputError for a cell with content beyond the header."""
    for name in source.surplus:
        is_filled = frame[name].str.strip_chars().fill_null("") != ""
        at = is_filled.arg_max()
        if at is not None and is_filled[at]:
            cells, columns = len(source.header), len(source.header) - len(source.surplus)
            raise InputError(
                f"{cells} cells where the header has {columns}, and not all of the others are blank",
                "fix the row; a cell that holds the delimiter must be quoted",
                file=source.name,
                row=first_row + at,
                line=source.line_of(first_row + at),
            )


def _refuse_long(
    what: str, most: int, lengths: pl.Series, source: Source, first_row: int, column: str = ""
) -> None:
    """Raise InputError for the first cell or row longer than `most`, if there is one."""
    at = (lengths > most).arg_max()
    if at is not None and lengths[at] > most:
        raise InputError(
            f"a {what} of more than {most // 1024} KiB",
            "shorten it, or leave the column out; a quote that is not closed can make it so long",
            file=source.name,
            row=first_row + at,
            line=source.line_of(first_row + at),
            column=column,
        )
