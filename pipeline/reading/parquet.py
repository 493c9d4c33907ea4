"""Decode untrusted Parquet files: what the child does (`decoding.py`), and the refusals in words.

Checksums of pages are checked. Many files have none; then only the sender's control totals (`manifest`,
`--expect`) can show that a flipped bit reads as another value.
"""

import mmap
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import polars as pl
import polars.selectors as cs

from pipeline.errors import InputError
from pipeline.reading.bounds import (
    COLUMNS_MAX,
    DECODING_S_MAX,
    FIELD_BYTES_MAX,
    ROWS_MAX,
)
from pipeline.reading.checksums import has_wrong_checksum, int96_columns
from pipeline.reading.decoding import PARQUET, Decoded, refusal, run_decoder

_DAMAGED: Final = "damaged"
_WIDE: Final = "wide"
_LONG: Final = "long"
_TWICE: Final = "twice"
_CHECKSUM: Final = "checksum"
_ROWS_A_GROUP: Final = 50_000  # of the copy: the part that a reader has in memory
_TEXT_OF: Final = {pl.Datetime: "%Y-%m-%dT%H:%M:%S", pl.Date: "%Y-%m-%d"}
_READABLE: Final = {
    pl.String, pl.Categorical, pl.Enum, pl.Boolean, pl.Date, pl.Datetime, pl.Time, pl.Null,
}  # fmt: skip
# Beyond these polars panics; a day there keeps the sender's number.
_DAYS: Final = (-96_400_000, 95_020_000)  # since 1970-01-01: about the years -261,900 to 262,100
_DAY_OF: Final = {"ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000}
_INTEGER_MAX: Final = 2**63 - 1


def decoded(
    path: Path,
    copy: Path,
    seconds_max: float = DECODING_S_MAX,
    comma_columns: Sequence[str] = (),
) -> Decoded:
    """Decode a file into `copy`. Raises InputError, however the child ends.

    Args:
        path: The file.
        copy: The path of the copy.
        seconds_max: The time that the child may take.
        comma_columns: Columns whose numbers are written with a decimal comma.
    """
    answer = run_decoder(PARQUET, path, copy, {"commas": list(comma_columns)}, seconds_max)
    if answer.get("refused"):
        _refuse_as(path, answer["refused"], answer["count"])
    return Decoded(
        tuple(answer["header"]),
        answer["rows"],
        frozenset(answer["unreadable"]),
        frozenset(answer["fractional"]),
        frozenset(answer["instants"]),
        frozenset(answer["zoneless"]),
    )


def _refuse_as(path: Path, why: str, count: int) -> NoReturn:
    message, fix = {
        _DAMAGED: (
            "the Parquet file is damaged, or holds what is not read (encrypted columns, time zones that do not exist, decimals of more than 38 digits)",
            "ask the sender for it again, or for CSV",
        ),
        _CHECKSUM: (
            "a page of the Parquet file differs from its checksum",
            "it was damaged on its way: ask the sender for it again",
        ),
        _TWICE: ("two columns have the same name", "rename one of the two"),
        _WIDE: (f"{count:,} columns, at most {COLUMNS_MAX} are read", "take fewer columns"),
        _LONG: (f"{count:,} rows, at most {ROWS_MAX:,} are read", "have it split into several"),
    }[why]
    raise InputError(message, fix, file=path.name)


# The child ----------------------------------------------------------------------------------------


def answer(path: str, copy: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Decode the file into the copy. Returns the arguments of `Decoded`, or the refusal, as JSON values."""
    try:
        return _decode(path, copy, options["commas"])
    except pl.exceptions.DuplicateError:
        return {"refused": _TWICE, "count": 0}
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        return refusal(error, _DAMAGED)


def _decode(path: str, copy: str, commas: Collection[str]) -> dict[str, Any]:
    with (
        Path(path).open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        if has_wrong_checksum(data):
            return {"refused": _CHECKSUM, "count": 0}
        zoneless = int96_columns(data)
    scan = pl.scan_parquet(path, glob=False, hive_partitioning=False)
    schema = scan.collect_schema()
    if len(schema) > COLUMNS_MAX:
        return {"refused": _WIDE, "count": len(schema)}
    rows = int(scan.select(pl.len()).collect(engine="streaming").item())
    if rows > ROWS_MAX:
        return {"refused": _LONG, "count": rows}
    readable = {
        name: kind
        for name, kind in schema.items()
        if kind.is_numeric() or kind.base_type() in _READABLE
    }
    if rows and readable:
        texts = scan.select(_as_text(name, kind) for name, kind in readable.items())
        numbers = [name for name in commas if name in readable and readable[name].is_numeric()]
        if numbers:  # a point would separate groups of three
            texts = texts.with_columns(cs.by_name(numbers).str.replace_all(".", ",", literal=True))
        texts.sink_parquet(copy, compression="lz4", row_group_size=_ROWS_A_GROUP, statistics=False)
        if pl.scan_parquet(copy, glob=False).select(pl.len()).collect().item() != rows:
            return {"refused": _DAMAGED, "count": 0}  # its footer counts otherwise than its pages
    return {
        "header": list(readable),
        "rows": rows,
        "unreadable": [name for name in schema if name not in readable],
        "fractional": [
            name
            for name, kind in readable.items()
            if kind.is_float() or (isinstance(kind, pl.Decimal) and kind.scale)
        ],
        "instants": [
            name
            for name, kind in readable.items()
            if isinstance(kind, pl.Datetime) and kind.time_zone
        ],
        "zoneless": zoneless,
    }


def _as_text(name: str, kind: pl.DataType) -> pl.Expr:
    """Return a column as text: days as ISO, instants with a zone in UTC and with a Z; decimals without zeros beyond the second place.

    A text above the bound is cut to one byte more than it, so that `read` refuses it as any other.
    """
    form = _TEXT_OF.get(kind.base_type())
    if form:
        number = cs.by_name(name).to_physical()
        day: pl.Expr = cs.by_name(name)
        unit, counted = 1, "days"
        if isinstance(kind, pl.Datetime):
            unit, counted = _DAY_OF[kind.time_unit], kind.time_unit
            if kind.time_zone:
                day, form = day.dt.convert_time_zone("UTC"), f"{form}Z"
        least, most = (max(-_INTEGER_MAX, min(each * unit, _INTEGER_MAX)) for each in _DAYS)
        is_day = number.is_between(least, most)
        other = pl.format("{} {} since 1970-01-01", number, pl.lit(counted))
        day_text = pl.when(is_day).then(day).dt.strftime(form)
        return pl.when(~is_day).then(other).otherwise(day_text).alias(name)
    text = cs.by_name(name).cast(pl.String)
    if kind.is_decimal():
        return text.str.replace(r"(\.\d\d)0+$", "$1")
    return text.str.head(FIELD_BYTES_MAX + 1) if kind == pl.String else text
