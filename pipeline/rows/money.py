"""Read amounts of money: exact, in dollars and cents, or the rule that a text breaks. Pure."""

import re
from decimal import Decimal
from typing import Final, Literal

import polars as pl

from pipeline.fhir.datatypes import AMOUNT_MAX, AMOUNT_MIN, DOLLARS
from pipeline.records import usd
from pipeline.rows.whole import Column, broken

AmountSign = Literal["positive", "negative"]
AmountUnit = Literal["dollars", "cents"]

# Money is read by this pattern alone: Decimal() would take 1e3, NaN, 1_000 and full-width digits.
_AMOUNT = re.compile(r"(-?)([0-9]{1,12})(?:\.([0-9]+))?", re.ASCII)
_CENTS_TEXT: Final = rf"\A-?{DOLLARS}\z"


def cents_of(text: str | None, sign: AmountSign) -> int | None:
    """Return an amount in cents, even outside of what may be sent; None if it cannot be read.

    With `sign` "negative" a credit is written as a negative number and counts as positive.
    """
    match = _AMOUNT.fullmatch(text) if text else None
    if match is None or len(match[3] or "") > 2:  # noqa: PLR2004 - cents
        return None
    cents = int(match[2]) * 100 + int((match[3] or "").ljust(2, "0"))
    return -cents if (match[1] == "-") != (sign == "negative") else cents


def cents_in(texts: pl.Series, sign: AmountSign) -> pl.Series:
    """Return `cents_of` of a whole column."""
    plain = texts.set(~texts.str.contains(_CENTS_TEXT), None)
    unsigned = plain.str.strip_prefix("-").cast(pl.Decimal(14, 2)).to_physical().cast(pl.Int64)
    is_negative = plain.str.starts_with("-") != (sign == "negative")
    return (-unsigned).zip_with(is_negative, unsigned)


def read_amount(value: str, sign: AmountSign, cents_max: int | None) -> Decimal:
    """Return an amount in dollars.

    Args:
        value: The text of a cell.
        sign: How the feed writes a payment.
        cents_max: `limits.amount_usd_max` in cents; None for no limit.

    Raises:
        PydanticCustomError: The rule that the text breaks.
    """
    match = _AMOUNT.fullmatch(value)
    if match is None:
        broken(
            "form",
            "must be a plain number such as 12.50: no currency sign, no thousands separator, no brackets, no exponent",
        )
    cents = cents_of(value, sign)
    if cents is None:
        broken("decimals", "must have at most two decimals")
    if cents < 0:
        written = "without a minus sign" if sign == "positive" else "as a negative number"
        broken(
            "sign",
            f'a payment is written {written} in this feed (amount_sign = "{sign}")',
        )
    amount = Decimal(cents).scaleb(-2)
    if not AMOUNT_MIN <= amount <= AMOUNT_MAX:
        broken("range", "must be from 0.01 to 999,999.99 USD")
    if cents_max is not None and cents > cents_max:
        broken(
            "limit",
            f"above limits.amount_usd_max = {usd(cents_max)}: check it, and raise the limit if it is right",
        )
    return amount


def whole_amounts(texts: pl.Series, sign: AmountSign, cents_max: int | None) -> Column:
    """Accept the cells of a column that `read_amount` takes."""
    cents = cents_in(texts, sign)
    least, most = (int(amount.scaleb(2)) for amount in (AMOUNT_MIN, AMOUNT_MAX))
    if cents_max is not None:
        most = min(most, cents_max)
    accepted = cents.is_between(least, most).fill_null(value=False)
    amounts = texts.set(~accepted, None).str.strip_prefix("-").cast(pl.Decimal(14, 2))
    return Column(amounts, accepted)
