"""Whole columns at once: what the readers of cells (`rows/columns.py`) come to for many rows.

A column may only ever be accepted where the reader of its cells takes the cell, and then holds what
that reader gives. What is not accepted says nothing: the row model looks at it, and decides.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

import polars as pl
from pydantic import PlainValidator, ValidationInfo
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

_HASHED_AT_ONCE: Final = 1_000  # texts of a kilobyte or so, which stay in the processor's cache


@dataclass(frozen=True, slots=True)
class Column:
    """A column that was read. Where `accepted`, `values` is what its cell says (null: None)."""

    values: pl.Series
    accepted: pl.Series  # true or false, never null


@dataclass(frozen=True, slots=True)
class ColumnInfo:
    """What a column's reader is told: pydantic's ValidationInfo, with columns in place of values."""

    context: Any
    field_name: str
    data: Mapping[str, pl.Series]  # the columns above it, whether they were accepted or not


@dataclass(frozen=True, slots=True)
class _CellInfo:
    """The same for one cell, without `data`: who looks at another field is not read by value."""

    context: Any
    field_name: str


CellReader = Callable[[str | None, ValidationInfo], Any]
WholeReader = Callable[[pl.Series, ColumnInfo], Column]


@dataclass(frozen=True, slots=True)
class Reader(PlainValidator):
    """The two readers of a field: of a cell (`func`), and of a whole column (`whole`)."""

    whole: WholeReader | None = None


def reader(read: CellReader, whole: WholeReader) -> Reader:
    """A field's annotation. `whole` accepts, column by column, only what `read` takes."""
    return Reader(read, whole=whole)


def reader_by_value(read: CellReader, kind: pl.DataType | type[pl.DataType]) -> Reader:
    """For columns of few distinct values: `read` itself reads each of them once (`by_value`)."""
    return Reader(read, whole=by_value(read, kind))


def by_value(read: CellReader, kind: pl.DataType | type[pl.DataType]) -> WholeReader:
    """Reads a column by calling `read` once for each distinct text; the values come as `kind`."""

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


def whole_reader(field: FieldInfo) -> WholeReader | None:
    """How a model's field is read as a column; None: only the model can read it."""
    return next((each.whole for each in field.metadata if isinstance(each, Reader)), None)


def hashed(texts: pl.Series, digits: int) -> pl.Series:
    """The first hex digits of the SHA-256 of each text. A third of all time goes here."""
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
