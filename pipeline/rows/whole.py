"""Read whole columns at once, with the same results as the readers of cells (`rows/columns.py`).

A row of a column may be accepted only if the reader of its cells takes the cell, and then has that reader's
value. Rows that are not accepted are not judged: the row model decides on them.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn, cast

import polars as pl
from pydantic import PlainValidator, ValidationInfo
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

_HASHED_AT_ONCE: Final = 1_000  # texts of a kilobyte or so, which stay in the processor's cache


@dataclass(frozen=True, slots=True)
class Column:
    """A column that was read. If `accepted`, `values` has the value of the cell (null: None)."""

    values: pl.Series
    accepted: pl.Series  # true or false, never null


@dataclass(frozen=True, slots=True)
class ColumnInfo:
    """The context of a column's reader: pydantic's ValidationInfo, with columns in place of values."""

    context: Any
    field_name: str
    data: Mapping[str, pl.Series]  # the columns above it, whether they were accepted or not


@dataclass(frozen=True, slots=True)
class _CellInfo:
    """The same for one cell, without `data`: a reader that needs another field is not used by value."""

    context: Any
    field_name: str


CellReader = Callable[[str | None, ValidationInfo], Any]
WholeReader = Callable[[pl.Series, ColumnInfo], Column]


@dataclass(frozen=True, slots=True)
class Reader(PlainValidator):
    """The two readers of a field: of a cell (`func`), and of a whole column (`whole`)."""

    whole: WholeReader | None = None


def broken(what: str, message: str) -> NoReturn:
    """Raise the rule that a cell breaks: `what` is the second half of its name, as in `order|range`."""
    raise PydanticCustomError(what, message)


def reader(read: CellReader, whole: WholeReader) -> Reader:
    """Return a field's annotation. `whole` accepts, column by column, only what `read` takes."""
    return Reader(read, whole=whole)


def reader_by_value(read: CellReader, kind: pl.DataType | type[pl.DataType]) -> Reader:
    """Return an annotation for columns of few distinct values: `read` reads each of them once."""
    return Reader(read, whole=by_value(read, kind))


def by_value(read: CellReader, kind: pl.DataType | type[pl.DataType]) -> WholeReader:
    """Return a reader of columns that calls `read` once for each distinct text; the values come as `kind`."""

    def whole(texts: pl.Series, info: ColumnInfo) -> Column:
        cell = cast("ValidationInfo", _CellInfo(info.context, info.field_name))
        found: dict[str | None, Any] = {}
        for text in texts.unique():
            try:
                found[text] = read(text, cell)
            except PydanticCustomError:
                continue
        table = pl.DataFrame(
            [
                pl.Series("text", list(found), dtype=pl.String),
                pl.Series("values", list(found.values()), dtype=kind),
                pl.Series("accepted", [True] * len(found), dtype=pl.Boolean),
            ]
        )
        column = (
            texts.alias("text")
            .to_frame()
            .join(table, on="text", how="left", nulls_equal=True, maintain_order="left")
        )
        return Column(column["values"], column["accepted"].fill_null(value=False))

    return whole


def values_of(field: FieldInfo, texts: pl.Series, context: Any, name: str) -> pl.Series:
    """Return the values of one column, null where the cell is blank or breaks a rule.

    The field must be one that is read without any other.
    """
    found = next(each for each in field.metadata if isinstance(each, Reader))
    info = ColumnInfo(context, name, {})
    if found.whole is None:
        raise TypeError(f"{name} has no reader of whole columns")
    column = found.whole(texts, info)
    at = (~column.accepted).arg_true()
    read = cast("CellReader", found.func)
    rest = by_value(read, column.values.dtype)(texts.gather(at), info)
    return column.values.scatter(at, rest.values)


def whole_reader(field: FieldInfo) -> WholeReader | None:
    """Return the column reader of a model's field; None: only the model can read it."""
    return next((each.whole for each in field.metadata if isinstance(each, Reader)), None)


def hashed(texts: pl.Series, digits: int) -> pl.Series:
    """Return the first hex digits of the SHA-256 of each text. A third of all time is spent here."""
    pieces = texts.cast(pl.Binary).to_frame().iter_slices(_HASHED_AT_ONCE)
    sha256 = hashlib.sha256
    return pl.Series(
        [
            sha256(text).hexdigest()[:digits]
            for each in pieces
            for text in each.to_series().to_list()
        ],
        dtype=pl.String,
    )
