"""Read whole columns by the readers of a row model: find rows that are certainly good, and their values.

This step only accepts. Every other row goes to `validate`, so that the model itself decides on each
rejection and on each unusual row that is good.
"""

import polars as pl

from pipeline.rows.columns import Reading
from pipeline.rows.feed import Feed
from pipeline.rows.texts import faults_of
from pipeline.rows.whole import Column, ColumnInfo, whole_reader


def accept(texts: pl.DataFrame, feed: Feed, reading: Reading) -> tuple[pl.Series, pl.DataFrame]:
    """Read whole columns.

    A field that has no reader of whole columns leaves all rows to the model.

    Args:
        texts: The rows from `texts.texts_of`.
        feed: The feed.
        reading: The settings for reading its cells.

    Returns:
        Which rows are accepted (a mask), and the model's values of those, field by field.
    """
    mask = pl.repeat(True, texts.height, dtype=pl.Boolean, eager=True)
    none = ~mask
    read: dict[str, pl.Series] = {}
    for name, field in feed.traits.model.model_fields.items():
        whole = whole_reader(field)
        info = ColumnInfo(reading, name, read)
        column = whole(texts[name], info) if whole else Column(texts[name], none)
        mask &= column.accepted
        read[name] = column.values.alias(name)
    for name in faults_of(texts, feed):
        mask &= texts[name].is_null()
    for name, header in list(feed.columns.items())[:1]:
        mask &= ~(texts[name] == header.strip()).fill_null(value=False)  # it may repeat the header
    return mask, pl.DataFrame(read).filter(mask)
