"""The sender's cells as texts: blanks, null values, protected texts, and placeholders."""

from typing import Any

import polars as pl
import pytest

from pipeline.rows.feed import Feed, Kind
from pipeline.rows.texts import cleaned, texts_of
from tests.rows.test_rows import ELIGIBILITY, LEDGER, checked, rules


def feed(**options: Any) -> Feed:
    columns = {"transaction_id": "TXN", "patient": "^M.*$", "amount": "*"}
    return Feed("ledger", Kind.LEDGER, "", columns, **options)


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (" a ", "a"), ("  ", None), (None, None), ("NULL", None), (" NULL ", None), ("null", "null"), ("\\N", None),
        ('="00123"', "00123"), (' ="00123" ', "00123"), ('=" 7 "', "7"), ('=""', None), ('="NULL"', None),
        ('="a"b"', '="a"b"'), ('="00123', '="00123'), ('x="1"', 'x="1"'), ('="a\nb"', "a\nb"),
    ],
)  # fmt: skip
def test_a_cell_as_the_feed_means_it(cell: str | None, text: str | None) -> None:
    names = ["TXN", "^M.*$", "*", "Other"]
    frame = pl.DataFrame({name: [cell, "x"] for name in names}, schema=dict.fromkeys(names, pl.String))  # fmt: skip
    configured = feed(null_values=("NULL", "\\N"))
    assert cleaned(frame, configured).rows() == [(text,) * 4, ("x",) * 4]
    ours = texts_of(frame, configured)
    assert ours.select("transaction_id", "patient", "amount").rows() == [(text,) * 3, ("x",) * 3]


def test_a_constant_is_not_cleaned() -> None:
    configured = Feed("ledger", Kind.LEDGER, "", {"patient": "MRN"}, {"claim": "NULL"}, null_values=("NULL",))  # fmt: skip
    assert texts_of(pl.DataFrame({"MRN": ["1"]}), configured)["claim"].to_list() == ["NULL"]


WORDS = ["NULL", "null", "(null)", "<null>", "\\N", "nan", "NaN", "NaT", "None", "<NA>", "N/A", "#N/A", "#REF!",
         "#VALUE!", "#DIV/0!", "#NAME?", "#NUM!", "#NULL!", "########", "9.01235E+11", "1E+08"]  # fmt: skip
CHANGED = ["123456.0", "'00123"]
GOOD = [
    "0",
    "1001",
    "N/A1",
    "Nanna",
    "none of it",
    "5-Mar",
    "9E11",
    "#1",
    "A1.0",
    "1.05",
    "O'Neil",
    "E+11",
    "-",
]
IDS = ["member_id", "subscriber_id", "patient", "subscriber", "payer"]
TEXTS = ["payer_name", "plan", "subplan", "group", "subgroup"]


@pytest.mark.parametrize("field", [*IDS, *TEXTS])
@pytest.mark.parametrize("text", [*WORDS, *CHANGED])
def test_what_a_spreadsheet_leaves_behind_is_rejected(field: str, text: str) -> None:
    (row,) = checked(Kind.ELIGIBILITY, {**ELIGIBILITY, field: text})
    expected = [f"{field}|placeholder"] if field in IDS or text in WORDS else []
    assert [rule for rule in rules(row) if rule.startswith(field)] == expected


@pytest.mark.parametrize("field", ["transaction_id", "patient", "claim"])
@pytest.mark.parametrize("text", [*WORDS, *CHANGED])
def test_an_id_of_a_payment_is_no_placeholder(field: str, text: str) -> None:
    (row,) = checked(Kind.LEDGER, {**LEDGER, field: text})
    assert rules(row) == [f"{field}|placeholder"]


@pytest.mark.parametrize("text", GOOD)
def test_what_only_looks_like_one_is_a_text(text: str) -> None:
    (row,) = checked(Kind.ELIGIBILITY, {**ELIGIBILITY, "member_id": text, "plan": text})
    assert rules(row) == []
    (other,) = checked(Kind.LEDGER, {**LEDGER, "entry_type": "N/A"})
    assert rules(other) == [], "a text that is not sent"


def test_null_values_make_blanks_of_placeholders() -> None:
    row = {**ELIGIBILITY, "group": "NULL", "member_id": "NULL"}
    (found,) = checked(Kind.ELIGIBILITY, row, null_values=("NULL",))
    assert rules(found) == ["member_id|required"]
