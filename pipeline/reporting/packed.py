"""The rows for the page's table: columns as JSON, gzip and base64, the same bytes for the same rows.

Base64 has no character of markup, whatever a file's name is.
"""

import base64
import zlib
from collections.abc import Sequence
from typing import Final

import orjson
import polars as pl

from pipeline.reporting.masking import UNFIT, shown

COLUMNS: Final = (
    "feed",
    "file",
    "row",
    "key",
    "source_id",
    "disposition",
    "rule",
    "resource_type",
    "resource_id",
    "http_status",
    "attempts",
    "correlation_id",
    "sent_at",
)
_REPEATING: Final = {"feed", "file", "disposition", "rule", "resource_type"}
_GZIP: Final = 31  # zlib's word for gzip with its header, without name and time


def packed(rows: Sequence[pl.DataFrame]) -> str:
    """Return the rows of `COLUMNS`, one column after the other, so that never all are Python objects."""
    squeeze = zlib.compressobj(wbits=_GZIP)
    count = sum(part.height for part in rows)
    parts = [squeeze.compress(b'{"count":%d' % count)]
    for name in COLUMNS:
        column = pl.concat([part[name] for part in rows]) if rows else pl.Series(name, [])
        parts.append(squeeze.compress(b',"%s":' % name.encode() + orjson.dumps(_as_json(column))))
    parts += [squeeze.compress(b"}"), squeeze.flush()]
    return base64.b64encode(b"".join(parts)).decode()


def _as_json(column: pl.Series) -> object:
    """Return a column as a list; a repeating one as its values and the number of each row's value."""
    if column.dtype != pl.String:
        return column.to_list()
    column = column.fill_null("")
    if column.name not in _REPEATING:
        return _fit(column).to_list()
    values = column.unique(maintain_order=True)
    codes = column.replace_strict(values, list(range(values.len())), return_dtype=pl.UInt32)
    return {"values": [shown(value) for value in values], "codes": codes.to_list()}


def _fit(column: pl.Series) -> pl.Series:
    unfit = column.str.contains(UNFIT)
    if not unfit.any():
        return column
    return pl.Series(column.name, [shown(text) for text in column], dtype=pl.String)
