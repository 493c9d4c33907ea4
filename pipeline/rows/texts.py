"""A feed's fields as text, out of the sender's columns: the input of every step that reads rows.

The sender's columns are selected by `cs.by_name`: `pl.col` reads `*` and `^A.*$` as patterns.
"""

import polars as pl
import polars.selectors as cs

from pipeline.rows.feed import Feed


def texts_of(frame: pl.DataFrame, feed: Feed) -> pl.DataFrame:
    """Return our fields as text: trimmed, null if blank."""
    mapped = [
        cs.by_name(column).str.strip_chars().alias(field) for field, column in feed.columns.items()
    ]
    constant = [pl.lit(value).alias(field) for field, value in feed.constants.items()]
    absent = [
        pl.lit(None, dtype=pl.String).alias(field)
        for field in feed.traits.fields
        if field not in feed.columns and field not in feed.constants
    ]
    fields = frame.select(mapped).with_columns(constant + absent)
    texts = fields.with_columns(pl.when(pl.all() != "").then(pl.all()))
    return texts.select(feed.traits.fields)


def wanted(texts: pl.DataFrame, feed: Feed) -> pl.Series:
    """Return whether `only` keeps each row."""
    keep = [
        pl.col(field).is_in(list(values)).fill_null(value=False)
        for field, values in feed.only.items()
    ]
    if not keep:
        return pl.repeat(True, texts.height, eager=True)
    return texts.select(pl.all_horizontal(keep)).to_series()
