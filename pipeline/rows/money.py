"""Read amounts of money: exact, in dollars and cents, or the rule that a text breaks. Pure."""

import re
from decimal import Decimal
from functools import cache
from typing import Final, Literal, NamedTuple, NoReturn

import polars as pl

from pipeline.fhir.datatypes import AMOUNT_MAX, AMOUNT_MIN, DOLLARS
from pipeline.records import usd
from pipeline.rows.whole import Column, broken

AmountSign = Literal["positive", "negative"]
AmountUnit = Literal["dollars", "cents"]

# How most files write all amounts: these are read without looking at anything else.
_PLAIN: Final = rf"\A-?{DOLLARS}\z"
_MINUS: Final = "[-(]"


class AmountStyle(NamedTuple):
    """How a feed writes amounts, beside their sign."""

    decimal_comma: bool = False
    unit: AmountUnit = "dollars"


USUAL: Final = AmountStyle()


@cache
def _pattern(style: AmountStyle, decimals: str = "[0-9]{1,2}0*") -> str:
    """Return what an amount is, for both regular expression engines: Decimal() would take 1e3, NaN and 1_000."""
    group, point = (r"\.", ",") if style.decimal_comma else (",", r"\.")
    whole = rf"(?:[0-9]{{1,12}}|[1-9][0-9]{{0,2}}(?:{group}[0-9]{{3}}){{1,3}})"
    number = rf"\$?(?:{whole}(?:{point}{decimals})?|{point}{decimals})"
    if style.unit == "cents":
        number = whole
    return rf"(?:[-+]?{number}|\({number}\)|{number}-)"


def _is_amount(text: str, style: AmountStyle) -> bool:
    return re.fullmatch(_pattern(style), text) is not None


def cents_of(text: str | None, sign: AmountSign, style: AmountStyle = USUAL) -> int | None:
    """Return an amount in cents, even outside of what may be sent; None if it cannot be read.

    With `sign` "negative" a credit is written as a negative number and counts as positive.
    """
    if not text or not _is_amount(text, style):
        return None
    is_negative = re.match(_MINUS, text) is not None or text.endswith("-")
    group, point = (".", ",") if style.decimal_comma else (",", ".")
    whole, _, decimals = text.strip("-+()$").replace(group, "").partition(point)
    cents = int(whole + ("" if style.unit == "cents" else decimals[:2].ljust(2, "0")))
    return -cents if is_negative != (sign == "negative") else cents


def cents_in(texts: pl.Series, sign: AmountSign, style: AmountStyle = USUAL) -> pl.Series:
    """Return `cents_of` of a whole column."""
    unsigned, is_negative = _dollars(texts, style)
    cents = unsigned.to_physical().cast(pl.Int64)
    return (-cents).zip_with(is_negative != (sign == "negative"), cents)


def _dollars(texts: pl.Series, style: AmountStyle) -> tuple[pl.Series, pl.Series]:
    """Return the amounts of a column without their signs, null if a text is none, and which are negative."""
    if style == USUAL and texts.str.contains(_PLAIN).all():
        is_negative = texts.str.starts_with("-")
        return texts.str.strip_prefix("-").cast(pl.Decimal(14, 2)), is_negative
    read = texts.set(~texts.str.contains(rf"\A{_pattern(style)}\z"), None)
    numbers = read.str.replace_all(r"[-+()$]", "")
    if style.decimal_comma:
        numbers = numbers.str.replace_all(".", "", literal=True).str.replace(",", ".", literal=True)
    else:
        numbers = numbers.str.replace_all(",", "", literal=True)
    if style.unit == "cents":
        numbers = numbers.str.zfill(3).str.replace(r"([0-9]{2})\z", ".$1")
    whole = "0" + numbers.str.replace(
        r"(\.[0-9]{2})0+\z", "$1"
    )  # .50 has no digit before the point
    return whole.cast(pl.Decimal(14, 2)), read.str.contains(_MINUS)


def read_amount(
    value: str, sign: AmountSign, cents_max: int | None, style: AmountStyle = USUAL
) -> Decimal:
    """Return an amount in dollars.

    Args:
        value: The text of a cell.
        sign: How the feed writes a payment.
        cents_max: `limits.amount_usd_max` in cents; None for no limit.
        style: How the feed writes amounts beside that.

    Raises:
        PydanticCustomError: The rule that the text breaks.
    """
    cents = cents_of(value, sign, style)
    if cents is None:
        _broken_form(value, style)
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


# Key: whether a comma is before the decimals.
_ALLOWED: Final = {
    False: "12.50, 1,234.50 or $12.50, a negative one as -12.50, (12.50) or 12.50-",
    True: "12,50, 1.234,50 or $12,50 (decimal_comma = true), a negative one as -12,50, (12,50) or 12,50-",
}


def _broken_form(value: str, style: AmountStyle) -> NoReturn:
    """Raise what is wrong with a text that is no amount, and the option with which it would be one."""
    as_dollars = style._replace(unit="dollars")
    if style.unit == "cents":
        if _is_amount(value, as_dollars):
            broken(
                "decimals",
                'must be whole cents such as 1250, without a decimal point and a currency sign (amount_unit = "cents"); '
                'if the file has dollars: amount_unit = "dollars"',
            )
        broken(
            "form",
            'must be whole cents such as 1250, a negative one as -1250, (1250) or 1250- (amount_unit = "cents")',
        )
    if re.fullmatch(_pattern(style, "[0-9]+"), value):
        broken("decimals", "must have at most two decimals, beside zeros")
    hint = ""
    if _is_amount(value, style._replace(decimal_comma=not style.decimal_comma)):
        other = "false" if style.decimal_comma else "true"
        hint = f". This one can be read with decimal_comma = {other}"
    broken("form", f"must be written as {_ALLOWED[style.decimal_comma]}: nothing else{hint}")


def whole_amounts(
    texts: pl.Series, sign: AmountSign, cents_max: int | None, style: AmountStyle = USUAL
) -> Column:
    """Accept the cells of a column that `read_amount` takes."""
    amounts, is_negative = _dollars(texts, style)
    cents = amounts.to_physical().cast(pl.Int64)
    least, most = (int(amount.scaleb(2)) for amount in (AMOUNT_MIN, AMOUNT_MAX))
    if cents_max is not None:
        most = min(most, cents_max)
    accepted = cents.is_between(least, most) & (is_negative == (sign == "negative"))
    accepted = accepted.fill_null(value=False)
    return Column(amounts.set(~accepted, None), accepted)
