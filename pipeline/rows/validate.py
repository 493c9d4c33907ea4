"""Validate rows by the row models: each becomes typed, filtered, or rejected with all rules it breaks.

The model alone decides. A rejection has our field, the rule and what is allowed; the text that broke the
rule stays here.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

import polars as pl
from pydantic import ValidationError

from pipeline.records import Disposition, Rejection, Stage
from pipeline.rows import enrollment
from pipeline.rows.columns import Reading
from pipeline.rows.feed import Checked, Feed, canonical, row_key, time_of
from pipeline.rows.money import cents_of
from pipeline.rows.sql import compile_condition, compile_value
from pipeline.rows.texts import WHERE, fault_of, faults_of

_HEADER_AGAIN: Final = Rejection(
    Stage.VALIDATE,
    "row",
    "row|header",
    "row: it repeats the header: nothing of it was sent; have the sender leave it out",
)


def validate(
    texts: pl.DataFrame, wanted: pl.Series, numbers: pl.Series, feed: Feed, reading: Reading
) -> list[Checked]:
    """Validate rows one by one.

    Args:
        texts: The rows from `texts.texts_of`.
        wanted: Whether `only` keeps each row.
        numbers: The number of each row within its file.
        feed: The feed.
        reading: The settings for reading its cells.

    Returns:
        One Checked for each row, in order.
    """
    rows = zip(texts.iter_rows(named=True), wanted, numbers, strict=True)
    rules = faults_of(texts, feed)
    return [_check(row, values, feed, reading, rules, wanted=keep) for values, keep, row in rows]


def _check(
    row: int,
    values: dict[str, str | None],
    feed: Feed,
    reading: Reading,
    rules: Sequence[str],
    *,
    wanted: bool,
) -> Checked:
    faults = {rule: reason for rule in rules if (reason := values.pop(rule))}
    parts = [canonical(name, values[name], reading) for name in feed.key]
    key = row_key(feed.name, [*reading.delivery, *parts])
    source_id = values.get("transaction_id") or ""
    cents = time_us = None
    if feed.traits.has_money:
        cents = cents_of(values["amount"], reading.amount_sign, reading.amount_style)
        time_us = time_of(values["posted_on"], reading)
    who = partial(Checked, row, key, source_id, cents, time_us=time_us)
    if not wanted:
        return who(Disposition.FILTERED)
    if _is_header(values, feed):
        return who(Disposition.REJECTED, rejections=(_HEADER_AGAIN,))
    if WHERE in faults:
        return who(Disposition.REJECTED, rejections=_faults({WHERE: faults[WHERE]}, feed))
    rejections = _faults(faults, feed)
    try:
        content = feed.traits.model.model_validate(values, context=reading)
    except ValidationError as error:
        rejections += tuple(
            each for each in _rejections(error, feed) if fault_of(each.field) not in faults
        )
    if rejections:
        return who(Disposition.REJECTED, rejections=rejections)
    return who(Disposition.PENDING, content=content)


def _faults(faults: Mapping[str, str], feed: Feed) -> tuple[Rejection, ...]:
    rejections = []
    for rule, reason in faults.items():
        field = rule.partition("|")[0]
        if rule in enrollment.RULES:
            rejections.append(Rejection(Stage.VALIDATE, field, rule, f"{field}: {reason}"))
            continue
        compiled = (
            compile_condition(feed.where) if rule == WHERE else compile_value(feed.sql[field])
        )
        columns = ", ".join(f'"{name}"' for name in compiled.columns)
        message = (
            f"{field}: the SQL over {columns} has no value for this row: {reason}: "
            "correct the cell, or the expression"
        )
        rejections.append(Rejection(Stage.VALIDATE, field, rule, message))
    return tuple(rejections)


def _is_header(values: Mapping[str, str | None], feed: Feed) -> bool:
    """Return whether each mapped cell holds the name of its column."""
    return bool(feed.columns) and all(
        values[field] == column.strip() for field, column in feed.columns.items()
    )


def _rejections(error: ValidationError, feed: Feed) -> tuple[Rejection, ...]:
    details = error.errors(include_input=False, include_context=False, include_url=False)
    rejections = []
    for detail in details:
        field = str(detail["loc"][0])
        column = f' (column "{feed.columns[field]}")' if field in feed.columns else ""
        message = f"{field}{column}: {detail['msg']}"
        rejections.append(Rejection(Stage.VALIDATE, field, f"{field}|{detail['type']}", message))
    return tuple(rejections)
