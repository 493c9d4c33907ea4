"""The reader's side of the control totals: the sum of the amount column of a file.

It is counted from the raw texts by code that shares nothing with the mapping (`rows/money.py`), so that
a row that the mapping drops, or an amount that it changes, shows in `balanced`. A spelling of amounts that
is added there must be added here, too; `tests/reporting/test_tally.py` checks that the two agree.
"""

from decimal import Decimal
from typing import Literal

import polars as pl

_DIGITS = frozenset("0123456789")
_DIGITS_MAX = 12
_CENTS = 2


def cents_read(texts: pl.Series, sign: Literal["positive", "negative"]) -> int:
    """Return the sum of a column of amounts in cents; a text that is no amount counts as zero."""
    named = texts.alias("text")  # polars would read a name such as `^A.*$` as a pattern
    counted = named.str.strip_chars().drop_nulls().value_counts(name="count")
    total = sum((_amount(text) * count for text, count in counted.iter_rows()), start=Decimal(0))
    return int(total.scaleb(_CENTS)) * (-1 if sign == "negative" else 1)


def _amount(text: str) -> Decimal:
    digits = text.removeprefix("-")
    whole, point, decimals = digits.partition(".")
    is_amount = (
        0 < len(whole) <= _DIGITS_MAX
        and len(decimals) <= _CENTS
        and bool(decimals) == bool(point)
        and _DIGITS.issuperset(whole + decimals)
    )
    return Decimal(text) if is_amount else Decimal(0)
