"""Rows against the row models: each comes out typed, filtered, or with all the rules it breaks.

The model in `feeds/` is the only truth. A rejection carries our field, the rule and what is
allowed; the text that broke the rule stays here.
"""

import polars as pl
from pydantic import ValidationError

from pipeline.feeds.columns import Reading, cents_of
from pipeline.feeds.feed import Checked, Feed, canonical, row_key
from pipeline.feeds.source import Batch
from pipeline.records import Disposition, Rejection, Stage


def validate(batch: Batch, feed: Feed, reading: Reading) -> list[Checked]:
    """One Checked for each row of the batch, in order."""
    texts = _texts(batch.frame, feed)
    wanted = _wanted(texts, feed)
    return [
        _check(batch.first_row + offset, values, feed, reading, wanted=keep)
        for offset, (values, keep) in enumerate(
            zip(texts.iter_rows(named=True), wanted, strict=True)
        )
    ]


def _texts(frame: pl.DataFrame, feed: Feed) -> pl.DataFrame:
    """Our fields as text: trimmed, null where blank."""
    mapped = [
        pl.col(column).str.strip_chars().alias(field) for field, column in feed.columns.items()
    ]
    constant = [pl.lit(value).alias(field) for field, value in feed.constants.items()]
    absent = [
        pl.lit(None, dtype=pl.String).alias(field)
        for field in feed.traits.fields
        if field not in feed.columns and field not in feed.constants
    ]
    fields = frame.select(mapped).with_columns(constant + absent)
    return fields.with_columns(pl.when(pl.all() != "").then(pl.all()))


def _wanted(texts: pl.DataFrame, feed: Feed) -> list[bool]:
    """Whether `only` keeps each row."""
    keep = [
        pl.col(field).is_in(list(values)).fill_null(value=False)
        for field, values in feed.only.items()
    ]
    if not keep:
        return [True] * texts.height
    return texts.select(pl.all_horizontal(keep)).to_series().to_list()


def _check(
    row: int, values: dict[str, str | None], feed: Feed, reading: Reading, *, wanted: bool
) -> Checked:
    key = row_key(feed.name, [canonical(name, values[name], reading) for name in feed.key])
    source_id = values.get("transaction_id") or ""
    cents = cents_of(values["amount"], reading.amount_sign) if feed.traits.has_money else None
    if not wanted:
        return Checked(row, key, source_id, cents, Disposition.FILTERED)
    try:
        content = feed.traits.model.model_validate(values, context=reading)
    except ValidationError as error:
        rejections = _rejections(error, feed)
        return Checked(row, key, source_id, cents, Disposition.REJECTED, rejections=rejections)
    return Checked(row, key, source_id, cents, Disposition.PENDING, content=content)


def _rejections(error: ValidationError, feed: Feed) -> tuple[Rejection, ...]:
    details = error.errors(include_input=False, include_context=False, include_url=False)
    rejections = []
    for detail in details:
        field = str(detail["loc"][0])
        column = f' (column "{feed.columns[field]}")' if field in feed.columns else ""
        message = f"{field}{column}: {detail['msg']}"
        rejections.append(Rejection(Stage.VALIDATE, field, f"{field}|{detail['type']}", message))
    return tuple(rejections)
