"""A SQL condition over our fields: which unchanged rows `run --rewrite` writes again.

It is compiled as `where` of a feed is (`rows/sql.py`), but sees our fields in place of the sender's columns.
"""

from typing import Final

import polars as pl

from pipeline.rows.columns import TRANSLATED, Reading
from pipeline.rows.feed import Feed, canonical_column
from pipeline.rows.sql import compile_condition, evaluate
from pipeline.rows.whole import ColumnInfo, whole_reader

MET: Final = "met"


def marks_of(texts: pl.DataFrame, condition: str, feed: Feed, reading: Reading) -> pl.Series:
    """Return what the condition says of each row: MET, the reason why it has no value, or null if it is not met.

    A field is a text as the sender writes it, with its codes translated and days as YYYY-MM-DD; a blank cell, or
    a day that means no date, is NULL.

    Args:
        texts: The rows from `texts.texts_of`.
        condition: SQL over our fields.
        feed: The feed.
        reading: The settings for reading its cells.
    """
    compiled = compile_condition(condition)
    fields = [_field(texts[name], feed, reading) for name in compiled.columns]
    is_met, fault = evaluate(pl.DataFrame(fields), compiled)
    met = pl.repeat(MET, texts.height, eager=True)
    return fault.zip_with(fault.is_not_null() | ~is_met.fill_null(value=False), met)


def _field(texts: pl.Series, feed: Feed, reading: Reading) -> pl.Series:
    name = texts.name
    if name in TRANSLATED:
        whole = whole_reader(feed.traits.model.model_fields[name])
        if whole is None:
            raise TypeError(name)
        read = whole(texts, ColumnInfo(reading, name, {}))
        said = read.values.cast(pl.String).zip_with(read.accepted, texts)
        return said.zip_with(texts.is_not_null(), texts).alias(name)
    said = canonical_column(texts, reading)
    return said.zip_with(said != "", pl.Series([None], dtype=pl.String)).alias(name)
