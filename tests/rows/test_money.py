"""Amounts as senders write them: the reader of cells, that of columns and the tally against a slow reference."""

from itertools import product
from typing import Any, Final, Literal

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError

from pipeline.rows.money import AmountStyle, cents_in, cents_of, read_amount, whole_amounts
from pipeline.rows.tally import cents_read

COMMA: Final = AmountStyle(decimal_comma=True)
CENTS: Final = AmountStyle(unit="cents")
UNITS: Final[list[Literal["dollars", "cents"]]] = ["dollars", "cents"]
STYLES: Final = [AmountStyle(*each) for each in product((False, True), UNITS)]
Sign = Literal["positive", "negative"]


@pytest.mark.parametrize(
    ("text", "cents"),
    [
        ("12.50", 1250), ("12.5", 1250), ("12", 1200), (".50", 50), (".5", 50), ("+12.50", 1250),
        ("12.5000", 1250), ("1,234.50", 123450), ("1,234,567", 123456700), ("$12.50", 1250), ("$.50", 50),
        ("+$12.50", 1250), ("-12.50", -1250), ("(12.50)", -1250), ("12.50-", -1250), ("-$12.50", -1250),
        ("($12.50)", -1250), ("$12.50-", -1250), ("(1,234.50)", -123450), ("0012.50", 1250),
        *((text, None) for text in (
            "12.", ".", "$", "-", "()", "1,23.4", "12,34", "1,2345", ",123", "0,123", "1,234,56.00", "1234,567", "1e3",
            "--1", "+-1", "(-1)", "(1)-", "-1-", "-(1)", "(1", "1)", "$-1", "$(1)", "$ 1", "1 234", "- 1", "1$", "$$1",
            "\uff11\uff12", "\u0661", "NaN", "1_000", "12.345", "12.5001", "1.234,50", "9" * 13, "12.50 USD", "12.50\n",
        )),
    ],
)  # fmt: skip
def test_the_spellings_of_an_amount(text: str, cents: int | None) -> None:
    assert cents_of(text, "positive") == cents
    assert cents_of(text, "negative") == (None if cents is None else -cents)


@pytest.mark.parametrize(
    ("text", "style", "cents"),
    [
        ("1.234,56", COMMA, 123456), ("1234,5", COMMA, 123450), ("($1.234,56)", COMMA, -123456), ("1,234.56", COMMA, None),
        ("12.50", COMMA, None), ("1.234", COMMA, 123400), ("1250", CENTS, 1250), ("1,250", CENTS, 1250), ("-5", CENTS, -5),
        ("(1,250)", CENTS, -1250), ("1250-", CENTS, -1250), ("12.50", CENTS, None), ("1250.00", CENTS, None),
        ("$1250", CENTS, None), ("1.250", AmountStyle(decimal_comma=True, unit="cents"), 1250),
    ],
)  # fmt: skip
def test_the_spellings_of_other_styles(text: str, style: AmountStyle, cents: int | None) -> None:
    assert cents_of(text, "positive", style) == cents


def slow(text: str, style: AmountStyle) -> int | None:
    """Write every spelling of an amount that a text could have, and look whether the text is among them."""
    number = text.strip("+-()$")
    digits = "".join(each for each in number if each in "0123456789")
    if not digits or len(digits) > 40:
        return None
    group, point = (".", ",") if style.decimal_comma else (",", ".")
    for places in {0, 1, *range(2, len(digits) + 1)}:
        if places > len(digits) or (style.unit == "cents" and places):
            continue
        whole, decimals = digits[: len(digits) - places], digits[len(digits) - places :]
        if decimals[2:].strip("0") or len(whole) > 12:
            continue
        end = point + decimals if places else ""
        wholes = {whole}
        if len(whole) > 3 and whole[0] != "0":
            wholes.add(f"{int(whole):,}".replace(",", group))
        value = int(whole) if style.unit == "cents" else int((whole or "0") + (decimals + "00")[:2])
        for each in wholes:
            if not each and not places:
                continue
            for sign in ("$", "") if style.unit == "dollars" else ("",):
                written = sign + each + end
                if text in {written, f"+{written}"}:
                    return value
                if text in {f"-{written}", f"({written})", f"{written}-"}:
                    return -value
    return None


_PIECES = st.sampled_from(
    ["-", "+", "(", ")", "$", ".", ",", "0", "1", "12", "123", "234", "000", "50", "5", "e3", "_", " ", "\uff11", "9" * 12]
)  # fmt: skip
_NUMBERS = st.tuples(
    st.sampled_from(["", "-", "+", "(", "$", "-$", "($", "$-", "--"]),
    st.one_of(
        st.integers(0, 10**13).map(str),
        st.integers(0, 10**13).map(lambda number: f"{number:,}"),
        st.integers(0, 10**13).map(lambda number: f"{number:,}".replace(",", ".")),
        st.just(""),
    ),
    st.sampled_from(["", ".", ",", ".5", ".50", ",50", ".500", ".505", ",5000", ".00"]),
    st.sampled_from(["", "", "-", ")", "$", " "]),
).map("".join)
SPELLINGS = st.one_of(_NUMBERS, st.lists(_PIECES, max_size=7).map("".join))


@settings(max_examples=400, deadline=None)
@given(
    st.lists(SPELLINGS, min_size=1, max_size=8), st.sampled_from(STYLES), st.sampled_from(["positive", "negative"])
)  # fmt: skip
@example(["12.50", "(12.50)"], AmountStyle(), "positive")
def test_cells_columns_and_the_tally_agree_with_the_reference(
    spellings: list[str], style: AmountStyle, sign: Sign
) -> None:
    texts = [text.strip() for text in spellings]
    factor = -1 if sign == "negative" else 1
    meant = [None if (cents := slow(text, style)) is None else factor * cents for text in texts]
    column = pl.Series(texts, dtype=pl.String)
    assert [cents_of(text, sign, style) for text in texts] == meant
    assert cents_in(column, sign, style).to_list() == meant
    for text, cents in zip(texts, meant, strict=True):
        alone = pl.Series([text], dtype=pl.String)
        counted = cents_read(
            alone, sign, decimal_comma=style.decimal_comma, unit=style.unit
        )  # fmt: skip
        assert counted == (cents or 0)


@settings(max_examples=200, deadline=None)
@given(st.lists(SPELLINGS, min_size=1, max_size=8), st.sampled_from(STYLES), st.sampled_from(["positive", "negative"]),
       st.sampled_from([None, 100_000]))  # fmt: skip
def test_the_column_accepts_what_the_cells_do_with_their_amounts(
    spellings: list[str], style: AmountStyle, sign: Sign, most: int | None
) -> None:
    texts = [text.strip() or None for text in spellings]
    column = whole_amounts(pl.Series(texts, dtype=pl.String), sign, most, style)
    for text, value, accepted in zip(texts, column.values, column.accepted, strict=True):
        try:
            meant = None if text is None else read_amount(text, sign, most, style)
        except PydanticCustomError:
            meant = None
        assert (value, accepted) == (meant, meant is not None)


@pytest.mark.parametrize(
    ("text", "style", "rule", "said"),
    [
        ("1.234,56", AmountStyle(), "form", "decimal_comma = true"),
        ("1,234.56", COMMA, "form", "decimal_comma = false"),
        ("abc", AmountStyle(), "form", "(12.50)"),
        ("12.505", AmountStyle(), "decimals", "two decimals"),
        ("12.50", CENTS, "decimals", 'amount_unit = "cents"'),
        ("abc", CENTS, "form", 'amount_unit = "cents"'),
        ("-1", AmountStyle(), "sign", 'amount_sign = "positive"'),
    ],
)
def test_the_message_names_the_option_that_fits(
    text: str, style: AmountStyle, rule: str, said: str
) -> None:
    with pytest.raises(PydanticCustomError) as caught:
        read_amount(text, "positive", None, style)
    assert (caught.value.type, said in caught.value.message_template) == (rule, True)
    assert "abc" not in caught.value.message_template


def test_the_tally_reads_cells_as_the_mapping_does() -> None:
    cells: Any = ['="12.50"', ' ="1" ', '="1"2"', "0.99", " 0.99 ", None, '=""']
    assert cents_read(pl.Series(cells), "positive", null_values=["0.99"]) == 1350
