"""Which rows have a subscriber id, and which of those are the subscriber's own."""

from typing import Final

import polars as pl

from pipeline.rows.columns import Reading
from pipeline.rows.feed import Feed
from pipeline.rows.whole import hashed, values_of

_ID_DIGITS: Final = 32
_PART: Final = "\x1f"  # as in `feed.row_key`


def subscriber_ids(texts: pl.DataFrame, feed: Feed, reading: Reading) -> pl.DataFrame:
    """Return `id` and `is_self` of each row; both are null if relationship or subscriber_id cannot be read.

    An id is a hash over the feed and the subscriber id: two senders may give one id to two persons, and the journal
    keeps no value of a row.
    """
    relationship, subscriber_id = (
        _values(name, texts, feed, reading) for name in ("relationship", "subscriber_id")
    )
    is_known = relationship.is_not_null() & subscriber_id.is_not_null()
    whole = pl.select(pl.concat_str(pl.lit(feed.name), subscriber_id, separator=_PART)).to_series()
    hashes = hashed(whole.filter(is_known), _ID_DIGITS)
    none = pl.repeat(None, texts.height, dtype=pl.String, eager=True)
    return pl.DataFrame(
        {
            "id": none.scatter(is_known.arg_true(), hashes),
            "is_self": (relationship == "self").zip_with(
                is_known, pl.repeat(None, texts.height, dtype=pl.Boolean, eager=True)
            ),
        }
    )


def patients(texts: pl.DataFrame, feed: Feed, reading: Reading) -> pl.Series:
    """Return the Patient key of each row; null if its patient cannot be read."""
    return _values("patient", texts, feed, reading)


def _values(name: str, texts: pl.DataFrame, feed: Feed, reading: Reading) -> pl.Series:
    return values_of(feed.traits.model.model_fields[name], texts[name], reading, name)
