"""Resources for many rows by the code that builds one: it is called once, with marks for values.

Its text is cut at the marks, and the values of each row are put there. That works for rows of one
shape: their resources have the same elements and differ only in the values.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Any, Final

import polars as pl

Value = str | int | date | Decimal | None
Write = Callable[[Mapping[str, Any]], Sequence[bytes]]
_MARKED: Final = 9_000_000  # no amount and no order is that high


def write_rows(
    rows: pl.DataFrame,
    names: Sequence[str],
    write: Write,
    constants: Mapping[str, str] | None = None,
    equals: Mapping[str, str] | None = None,
) -> pl.DataFrame:
    """Return the texts that `write` makes of each row, in the rows' order.

    Args:
        rows: The rows.
        names: The names of the columns of the result, one for each text.
        write: Makes the texts of one row.
        constants: By field, a value that gives a row another shape.
        equals: By field, another field whose equal value gives a row another shape.

    Returns:
        A column for each name. A row's shape follows from its None fields, `constants` and `equals`.
    """
    constants, equals = constants or {}, equals or {}
    written = pl.DataFrame([_as_written(column) for column in rows])
    written = written.with_columns(_shapes(rows, constants, equals)).with_row_index("_at")
    parts = [pl.DataFrame(schema={"_at": written.schema["_at"], **dict.fromkeys(names, pl.String)})]
    for part in written.partition_by("_shape"):
        first = rows.row(part["_at"][0], named=True)
        marks = {name: _mark(at, value) for at, (name, value) in enumerate(first.items(), 1)}
        marks |= {name: marks[by] for name, by in equals.items() if first[name] == first[by]}
        fixed = {name: value for name, value in constants.items() if first[name] == value}
        texts = [text.decode() for text in write(marks | fixed)]
        fields = {
            _in_json(mark): name
            for name, mark in marks.items()
            if name not in fixed and mark is not None
        }
        filled = part.select("_at", *(_filled(text, fields).alias(text) for text in {*texts}))
        parts.append(filled.select("_at", **dict(zip(names, texts, strict=True))))
    return pl.concat(parts).sort("_at").drop("_at")


def _shapes(
    rows: pl.DataFrame, constants: Mapping[str, str], equals: Mapping[str, str]
) -> pl.Series:
    """Return a number for each row, the same for rows of one shape: a bit for each difference."""
    differences = [
        *(pl.col(name).is_null() for name in rows.columns if rows[name].has_nulls()),
        *(pl.col(name) == pl.lit(value) for name, value in constants.items()),
        *(pl.col(name) == pl.col(other) for name, other in equals.items()),
    ]
    bits = [
        each.fill_null(value=False).cast(pl.UInt32) * (1 << at)
        for at, each in enumerate(differences)
    ]
    none = pl.lit(0, dtype=pl.UInt32)
    return rows.with_columns(pl.sum_horizontal(none, *bits).alias("_shape"))["_shape"]


def _mark(number: int, value: Value) -> Value:
    """Return a value of the same type that is in no row; as a text it can be a resource's id."""
    if value is None:
        return None
    if isinstance(value, str):
        return f"-mark{number:02}-"
    if isinstance(value, date):
        return date(1, 1, number)  # a row of 31 fields at the most
    return type(value)(_MARKED + number)


def _filled(text: str, fields: Mapping[str, str]) -> pl.Expr:
    """Return the text with the values of `fields`, which are named by their marks."""
    pieces = re.split(f"({'|'.join(map(re.escape, fields))})", text)
    values = [fields[mark] for mark in pieces[1::2]]
    pieces[0::2] = [piece.replace("{", "{{").replace("}", "}}") for piece in pieces[0::2]]
    pieces[1::2] = ["{}"] * len(values)
    return pl.format("".join(pieces), *values) if values else pl.lit(text)


def _in_json(mark: Value) -> str:
    return f"{mark:.2f}" if isinstance(mark, Decimal) else str(mark)


def _as_written(column: pl.Series) -> pl.Series:
    """Return values as JSON has them: texts without their quotes, days as ISO, amounts with cents."""
    if column.dtype != pl.String:
        return column.cast(pl.String)
    if not column.str.contains(r'["\\]').any():
        return column
    escaped = column.str.replace_all("\\", r"\\", literal=True)
    return escaped.str.replace_all('"', r"\"", literal=True)
