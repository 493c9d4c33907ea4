"""Rows against the models: what is taken, which rule refuses what, and that no value is repeated."""

from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.records import Disposition
from pipeline.rows.columns import Reading
from pipeline.rows.crosswalk import Crosswalk, Crosswalks, table_of
from pipeline.rows.dates import Dates
from pipeline.rows.eligibility import EligibilityRow
from pipeline.rows.feed import Checked, Feed, Kind
from pipeline.rows.ledger import LedgerRow
from pipeline.rows.money import cents_of
from pipeline.rows.texts import texts_of, wanted
from pipeline.rows.validate import validate

ELIGIBILITY = {
    "patient": "p1",
    "member_id": "M1",
    "relationship": "self",
    "payer": "60054",
    "order": "1",
    "start_on": "2026-01-01",
}
LEDGER = {"transaction_id": "t1", "patient": "p1", "amount": "5.00"}


def checked(
    kind: Kind, *rows: Mapping[str, str | None], reading: dict[str, Any] | None = None, **feed: Any
) -> list[Checked]:
    """Validate rows that are given by our own field names."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    frame = pl.DataFrame(
        {name: [row.get(name) for row in rows] for name in names},
        schema=dict.fromkeys(names, pl.String),
    )
    key = (
        ("transaction_id",)
        if kind is Kind.LEDGER
        else ("patient", "payer", "member_id", "start_on")
    )
    configured = Feed(
        "f", kind, "", {name: name for name in names}, key=feed.pop("key", key), **feed
    )
    options = {
        "dates": Dates(configured.dates),
        "crosswalks": Crosswalks(),
        "codes": configured.codes,
        "amount_sign": configured.amount_sign,
        "required": configured.required,
    }
    texts = texts_of(frame, configured)
    numbers = pl.int_range(1, frame.height + 1, eager=True)
    full = Reading(**{**options, **(reading or {})})
    return validate(texts, wanted(texts, configured), numbers, configured, full)


def rules(row: Checked) -> list[str]:
    return [rejection.rule for rejection in row.rejections]


def eligibility(**changes: str | None) -> Checked:
    return checked(Kind.ELIGIBILITY, {**ELIGIBILITY, **changes})[0]


def ledger(**changes: str | None) -> Checked:
    return checked(Kind.LEDGER, {**LEDGER, **changes})[0]


def test_a_good_eligibility_row_is_typed() -> None:
    row = eligibility(end_on="2026-12-31", type="hmo", plan=" Gold ", order="Secondary").content
    assert isinstance(row, EligibilityRow)
    assert (row.patient, row.subscriber, row.order, row.type, row.plan) == (
        "p1",
        "p1",
        2,
        "HMO",
        "Gold",
    )
    assert (row.start_on, row.end_on, row.status) == (
        date(2026, 1, 1),
        date(2026, 12, 31),
        "active",
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"patient": None}, ["patient|required"]),
        ({"patient": "a/b"}, ["patient|form"]),
        ({"patient": ".."}, ["patient|form"]),
        ({"patient": "x" * 65}, ["patient|form"]),
        ({"member_id": "  "}, ["member_id|required"]),
        ({"member_id": "m" * 101}, ["member_id|length"]),
        ({"member_id": "m\x07m"}, ["member_id|characters"]),
        ({"member_id": "m\u200bm"}, ["member_id|characters"]),
        ({"member_id": "\ufeffm"}, ["member_id|characters"]),
        ({"plan": "Gold\u202e"}, ["plan|characters"]),
        ({"plan": "Zo\ufffd"}, ["plan|characters"]),
        ({"plan": "\u0645\u06cc\u200c\u062e \U0001f468\u200d\U0001f469"}, []),
        ({"relationship": None}, ["relationship|required"]),
        ({"relationship": "parent"}, ["relationship|code"]),
        ({"relationship": "spouse"}, ["subscriber|required"]),
        ({"relationship": "spouse", "subscriber": "p2"}, []),
        ({"subscriber": "p2"}, ["subscriber|self"]),
        ({"subscriber": "p1"}, []),
        ({"payer": None}, ["payer|required"]),
        ({"payer": "6" * 101}, ["payer|form"]),
        ({"type": "GOLD"}, ["type|code"]),
        ({"type": "pay"}, []),
        ({"plan": "p" * 256}, ["plan|length"]),
        ({"group": "p" * 255}, []),
        ({"order": None}, ["order|required"]),
        ({"order": "0"}, ["order|range"]),
        ({"order": "6"}, ["order|range"]),
        ({"order": "1.0"}, ["order|range"]),
        ({"order": "\uff11"}, ["order|range"]),
        ({"order": "tertiary"}, []),
        ({"start_on": "01/02/2026"}, ["start_on|date"]),
        ({"start_on": "2026-02-30"}, ["start_on|date"]),
        ({"start_on": "2200-02-03"}, ["start_on|date"]),
        ({"end_on": "1879-12-31"}, ["end_on|date"]),
        ({"start_on": None}, []),
        ({"end_on": "2025-12-31"}, ["end_on|before_start"]),
        ({"end_on": "2026-01-01"}, []),
        ({"status": "draft"}, ["status|code"]),
        ({"status": "Cancelled"}, []),
    ],
)
def test_each_eligibility_rule(changes: dict[str, str | None], expected: list[str]) -> None:
    assert rules(eligibility(**changes)) == expected


def test_all_errors_of_a_row_are_found_at_once() -> None:
    row = eligibility(
        patient=None,
        relationship="?",
        order="9",
        start_on="2026-05-01",
        end_on="2026-04-01",
        type="?",
    )
    assert rules(row) == [
        "patient|required", "relationship|code", "type|code", "order|range", "end_on|before_start"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"amount": None}, ["amount|required"]),
        ({"amount": "0.01"}, []),
        ({"amount": "999999.99"}, []),
        ({"amount": "5"}, []),
        ({"amount": "5.5"}, []),
        ({"amount": "0.00"}, ["amount|range"]),
        ({"amount": "1000000.00"}, ["amount|range"]),
        ({"amount": "-5.00"}, ["amount|sign"]),
        ({"amount": "5.001"}, ["amount|decimals"]),
        *(
            ({"amount": text}, ["amount|form"])
            for text in (
                "$-5.00",
                "1,23.00",
                "(-5.00)",
                "1e3",
                "NaN",
                "1_000",
                "\uff15",
                "5.",
                "--5",
                "5 0",
                "0x1",
            )
        ),
        ({"transaction_id": None}, ["transaction_id|required"]),
        ({"patient": None}, ["patient|required"]),
        ({"posted_on": "yesterday"}, ["posted_on|date"]),
        ({"currency": "EUR"}, ["currency|code"]),
        ({"currency": "USD"}, []),
        ({"currency": "usd"}, []),
        ({"currency": "US$"}, ["currency|code"]),
        ({"claim": "c1;c2"}, ["claim|form"]),
        ({"claim": "f0dfefbe-3fe0-4ee7-bd44-636f7be073e9"}, []),
    ],
)
def test_each_ledger_rule(changes: dict[str, str | None], expected: list[str]) -> None:
    assert rules(ledger(**changes)) == expected


def test_credits_may_be_written_as_negative_numbers() -> None:
    rows = checked(
        Kind.LEDGER,
        {**LEDGER, "amount": "-5.00"},
        {**LEDGER, "amount": "5.00"},
        amount_sign="negative",
    )
    assert isinstance(rows[0].content, LedgerRow)
    assert rows[0].content.amount == Decimal("5.00")
    assert rules(rows[1]) == ["amount|sign"]
    assert [row.amount_cents for row in rows] == [500, -500]


def test_one_payment_above_the_limit_is_rejected() -> None:
    row = checked(Kind.LEDGER, {**LEDGER, "amount": "100.01"}, reading={"amount_max_cents": 10000})[
        0
    ]
    assert rules(row) == ["amount|limit"]
    assert "100.00" in row.rejections[0].message


def test_crosswalks_tell_none_one_and_many_apart() -> None:
    table = table_of(
        [("a", "key1"), ("a", "key1"), ("b", "key2"), ("b", "key3"), ("c", "bad/id"), ("", "x")]
    )
    crosswalks = Crosswalks(patient=Crosswalk(table=table))
    rows = checked(
        Kind.LEDGER,
        *({**LEDGER, "patient": name} for name in "abcd"),
        reading={"crosswalks": crosswalks},
    )
    assert isinstance(rows[0].content, LedgerRow)
    assert rows[0].content.patient == "key1"
    assert [rules(row) for row in rows[1:]] == [
        ["patient|ambiguous"],
        ["patient|form"],
        ["patient|unknown"],
    ]


def test_codes_translate_the_senders_spelling() -> None:
    codes = {"relationship": {"18": "self"}, "order": {"A": "1"}}
    row = checked(
        Kind.ELIGIBILITY, {**ELIGIBILITY, "relationship": "18", "order": "A"}, codes=codes
    )[0]
    assert isinstance(row.content, EligibilityRow)
    assert (row.content.relationship, row.content.order) == ("self", 1)


def test_only_filters_by_the_senders_words_and_still_counts_the_money() -> None:
    rows = checked(
        Kind.LEDGER,
        {**LEDGER, "entry_type": "PAYMENT"},
        {**LEDGER, "entry_type": "CHARGE", "amount": "7.00", "patient": None},
        {**LEDGER, "entry_type": None},
        only={"entry_type": ["PAYMENT"]},
    )
    assert [row.disposition for row in rows] == [
        Disposition.PENDING,
        Disposition.FILTERED,
        Disposition.FILTERED,
    ]
    assert rows[1].amount_cents == 700


def test_a_date_that_two_formats_read_differently_is_not_guessed() -> None:
    dates = ("%m/%d/%Y", "%d/%m/%Y")
    texts = ["03/04/2026", "05/05/2026", "13/04/2026"]
    rows = checked(
        Kind.ELIGIBILITY, *({**ELIGIBILITY, "start_on": text} for text in texts), dates=dates
    )
    assert [rules(row) for row in rows] == [["start_on|ambiguous"], [], []]


def test_the_key_does_not_depend_on_spelling() -> None:
    dates = ("%Y-%m-%d", "%m/%d/%Y")
    rows = checked(
        Kind.ELIGIBILITY,
        ELIGIBILITY,
        {**ELIGIBILITY, "start_on": "01/01/2026", "member_id": " M1 "},
        {**ELIGIBILITY, "start_on": "01/02/2026"},
        dates=dates,
    )
    assert rows[0].key == rows[1].key != rows[2].key
    assert len(rows[0].key) == 16


def test_a_claim_is_no_required_part_of_a_key() -> None:
    row = {**LEDGER, "transaction_id": None, "posted_on": "2026-01-01", "claim": None}
    key = ("patient", "posted_on", "amount", "claim")
    assert rules(checked(Kind.LEDGER, row, key=key)[0]) == []
    assert rules(checked(Kind.LEDGER, {**row, "posted_on": None}, key=key)[0]) == [
        "posted_on|required"
    ]


@pytest.mark.parametrize(
    ("form", "texts", "expected"),
    [
        ("%Y%m%d", ["20261121", "2026112", "202611211"], ["2026-11-21", None, None]),
        ("%m%d%Y", ["01122026", "1122026"], ["2026-01-12", None]),
        ("%Y%m%d %I:%M %p", ["20260102 3:04 PM", "2026012 03:04 PM"], ["2026-01-02", None]),
        ("%Y%m%d%H%M%S.%f", ["20260102030405.1"], ["2026-01-02"]),
        ("%Y-%m-%d", ["2026-1-2"], ["2026-01-02"]),
    ],
)
def test_a_date_of_adjoining_numbers_must_have_all_its_digits(
    form: str, texts: list[str], expected: list[str | None]
) -> None:
    days = map(Dates((form,)).read, texts)
    assert [day.isoformat() if isinstance(day, date) else None for day in days] == expected


@given(st.text(max_size=30))
def test_a_rejection_never_repeats_the_value(text: str) -> None:
    planted = f"Zq{text}Zq"
    row = dict.fromkeys(LEDGER, planted) | dict.fromkeys(
        ("posted_on", "claim", "currency"), planted
    )
    for rejection in checked(Kind.LEDGER, row)[0].rejections:
        assert "Zq" not in str(rejection)
    for rejection in checked(Kind.ELIGIBILITY, dict.fromkeys(EligibilityRow.model_fields, planted))[
        0
    ].rejections:
        assert "Zq" not in str(rejection)


@given(st.integers(0, 10**9), st.sampled_from(["positive", "negative"]))
def test_cents_are_exact(cents: int, sign: Any) -> None:
    text = f"{'-' * (sign == 'negative')}{cents // 100}.{cents % 100:02}"
    assert cents_of(text, sign) == cents
