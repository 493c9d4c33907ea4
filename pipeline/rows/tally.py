"""The reader's side of the control totals: the sum of the amount column of a file.

It is counted from the raw texts by code that shares nothing with the mapping (`rows/money.py`), so that
a row that the mapping drops, or an amount that it changes, shows in `balanced`. A spelling of amounts that
is added there must be added here, too; `tests/reporting/test_tally.py` checks that the two agree.
"""

from collections.abc import Collection
from typing import Literal

import polars as pl

_DIGITS = frozenset("0123456789")
_DIGITS_MAX = 12
_CENTS = 2
_GROUP = 3
_CURRENCY = "$"
# How most files write all amounts. 8 digits: the sum over all rows of a file fits into 64 bits.
_PLAIN = r"\A-?[0-9]{1,8}\.[0-9]{2}\z"


def cents_read(
    texts: pl.Series,
    sign: Literal["positive", "negative"],
    *,
    decimal_comma: bool = False,
    unit: Literal["dollars", "cents"] = "dollars",
    null_values: Collection[str] = (),
) -> int:
    """Return the sum of a column of amounts in cents; a text that is no amount counts as zero."""
    named = texts.alias("text")  # polars would read a name such as `^A.*$` as a pattern
    counted = named.str.strip_chars().drop_nulls().value_counts(name="count")
    is_cents = unit == "cents"
    total = 0
    if not decimal_comma and not is_cents:
        plain = counted["text"].str.contains(_PLAIN)
        if null_values:
            plain &= ~counted["text"].is_in(list(null_values))
        total = _plain_cents(counted.filter(plain))
        counted = counted.filter(~plain)
    for written, count in counted.iter_rows():
        text = _unprotected(written)
        if text not in null_values:
            total += count * _signed(text, decimal_comma=decimal_comma, whole_cents=is_cents)
    return -total if sign == "negative" else total


def _plain_cents(counted: pl.DataFrame) -> int:
    """Return the sum of amounts such as 12.50: without its point, each is a whole number of cents."""
    cents = counted["text"].str.replace(".", "", literal=True).cast(pl.Int64)
    return int((cents * counted["count"]).sum())


def _unprotected(text: str) -> str:
    """Return the text that a spreadsheet protects as `="12.50"`."""
    if text[:2] != '="':
        return text
    inner, end, more = text[2:].partition('"')
    return inner.strip() if end and not more else text


def _signed(text: str, *, decimal_comma: bool, whole_cents: bool) -> int:
    """Return a text's cents; 0 if it is no amount. One mark of a sign at most is taken off."""
    factor = 1
    if text[:1] in {"-", "+"}:
        factor, text = (-1 if text[0] == "-" else 1), text[1:]
    elif text[-1:] == "-":
        factor, text = -1, text[:-1]
    elif text[:1] == "(" and text[-1:] == ")":
        factor, text = -1, text[1:-1]
    point, separator = (",", ".") if decimal_comma else (".", ",")
    if whole_cents:
        return factor * (_whole(text, separator) or 0)
    whole, has_point, decimals = text.removeprefix(_CURRENCY).partition(point)
    dollars = _whole(whole, separator) if whole else 0
    if dollars is None or not (decimals if has_point else whole):
        return 0
    if not _DIGITS.issuperset(decimals) or decimals[_CENTS:].strip("0"):
        return 0
    return factor * (dollars * 100 + int((decimals + "00")[:_CENTS]))


def _whole(number: str, separator: str) -> int | None:
    """Return a whole number, whose groups of three may be separated; None if it is none."""
    first, *others = number.split(separator)
    if others:
        if any(len(each) != _GROUP for each in others) or len(first) > _GROUP or first[:1] == "0":
            return None
        number = first + "".join(others)
    is_number = first and len(number) <= _DIGITS_MAX and _DIGITS.issuperset(number)
    return int(number) if is_number else None
