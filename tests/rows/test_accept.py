"""Whole columns against the row models, which are the only truth: never another end, nor other bytes."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

import polars as pl
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from pipeline.fhir.codes import TYPES, Contract
from pipeline.planning.parts import look_at
from pipeline.planning.writer import lines_of
from pipeline.rows.accept import accept
from pipeline.rows.columns import Reading
from pipeline.rows.crosswalk import Crosswalk, Crosswalks
from pipeline.rows.dates import Dates
from pipeline.rows.feed import TRAITS, Feed, Kind
from pipeline.rows.map import Mapping as RowMapping
from pipeline.rows.map import map_row
from pipeline.rows.money import cents_in, cents_of
from pipeline.rows.texts import texts_of, wanted
from pipeline.rows.validate import validate
from pipeline.rows.whole import whole_reader

TODAY: Final = date(2026, 11, 21)
Cells = Mapping[str, str | None]

# Good rows; what is generated differs from them in a few cells.
GOOD: Final[dict[Kind, dict[str, Any]]] = {
    Kind.ELIGIBILITY: {
        "patient": st.sampled_from(["p1", "p2", "febae9dcb7cf4d88ba27cc552a3f96b3"]),
        "relationship": st.just("self"),
        "subscriber": st.sampled_from([None, None, "p1"]),
        "member_id": st.sampled_from(["M1", "M-2", "Zoë 3"]),
        "subscriber_id": st.sampled_from([None, "S1"]),
        "payer": st.sampled_from(["60054", "00710"]),
        "payer_name": st.sampled_from([None, "Aetna", 'Select "Gold"', "a\\b"]),
        "type": st.sampled_from([None, "PPO", "pay", "hmo"]),
        "plan": st.sampled_from([None, "Gold", 'Select "Gold", Tier 1']),
        "subplan": st.sampled_from([None, "x\\"]),
        "group": st.sampled_from([None, "G1"]),
        "subgroup": st.sampled_from([None, "日本"]),
        "order": st.sampled_from(["1", "2", "secondary"]),
        "start_on": st.sampled_from([None, "2026-01-01", "2024-02-29"]),
        "end_on": st.sampled_from([None, "2026-12-31", "2026-01-01"]),
        "status": st.sampled_from([None, "active", "Cancelled"]),
    },
    Kind.LEDGER: {
        "transaction_id": st.sampled_from(["t1", "t2", "t3", 't"4\\']),
        "patient": st.sampled_from(["p1", "p2"]),
        "amount": st.sampled_from(["5.00", "12.5", "7", "999999.99", "0.01"]),
        "posted_on": st.sampled_from([None, "2026-01-01", "2024-02-29"]),
        "claim": st.sampled_from([None, "c1", "f0dfefbe-3fe0-4ee7-bd44-636f7be073e9"]),
        "entry_type": st.sampled_from([None, "PAYMENT", "CHARGE"]),
        "currency": st.sampled_from([None, "USD"]),
    },
}

# Cells that are odd for the one field or the other; each is tried in every field.
# fmt: off
TEXTS: Final = [
    None, '"', "\\", 'a"b\\c', "a\tb", "a\nb", "a\x00b", "a\x1fb", "a\x7fb", "a\x85b", "a\x9fb", "a\xa0b",
    "a\u2028b", "\u00e9", "\U0001f600", "{}", "a{b}", *("\u00e9" * length for length in (64, 65, 100, 101, 255, 256)),
    "-mark01-", "-mark04-", "0001-01-14", "9000013", "payor", "null", "\\u0041", '\\"', "\\\\",
]
IDS: Final = [
    "p1", "p2", "c1", ".", "..", ".p", "-", "-p", "p.", "a/b", "a b", "x" * 64, "x" * 65, "p1\n", "hit", "hit two",
    "NULL", "nan", "9.01235E+11", "123456.0", "'00123", "#N/A", "########", "N\u0131L/A", "#D\u0131V/0!",
    "own", "miss", "many", "bad", "dots", "dot", "long", "h\u00efdden", "z\u200b", "z" * 256, "60054",
]
DAYS: Final = [
    "2026-01-02", "01/02/2026", "02/01/2026", "13/01/2026", "1/2/2026", "2026-1-2", "2026-02-30", "2026-02-29",
    "1879-12-31", "1880-01-01", "2199-12-31", "2200-01-01", "0026-01-01", "20260102", "2026-01-02T10:11:12",
    "9999-12-31", "12/31/9999", "0000-00-00", "1753-01-01", "2026-01-02T03:04:05Z", "2099-12-31", "none",
    "\u0662026-01-02", "today", "2025-12-31", "2020-05-05", "2030-05-05",
]
AMOUNTS: Final = [
    "0", "-0", "0.00", "0.001", "0.010", "5.", ".5", "+5", "-5", "-5.5", "--5", "05.50", "1e3", "NaN", "inf", "1_000",
    "1,000.00", "$5", "(5)", "\uff15", "\u0665", "5.00 USD", "5.000", "999999.99", "999999.991", "1000000",
    "1,234.50", "$12.50", "(12.50)", "12.50-", "-$12.50", "+1", ".50", "12.5000", "1.234,50", "1250", "(1,250)",
    "1000000.00", "-999999.99", "999999999999.99", "9999999999999", "100.00", "100.01", "0x1", "12.5",
]
WORDS: Final = [
    "self", "SELF", "spouse", "Spouse", "child", "\u017felf", "18", "01", "parent", "active", "CANCELLED", "draft",
    "PPO", "ppo", "pay", "PAY", "GOLD", *TYPES[:3], "1", "5", "6", "1.0", "\uff11", "P", "Tertiary", "A", "USD", "usd",
]
# fmt: on
EVERY: Final = [*TEXTS, *IDS, *DAYS, *AMOUNTS, *WORDS]
ODD_TEXTS: Final = st.one_of(
    st.sampled_from(TEXTS),
    st.text(max_size=8),
    st.text(alphabet='"\\/{}\n\t\x00\x1f\x7f\x85\xa0 \u2028\u00e9\U0001f600ab', max_size=8),
)
ODD_AMOUNTS: Final = st.one_of(
    st.sampled_from(AMOUNTS), st.integers(-(10**9), 10**9).map(lambda cents: f"{cents / 100:.2f}")
)
ODD_IDS, ODD_DAYS, ODD_CODES = (st.sampled_from(each) for each in (IDS, DAYS, WORDS))
ODD: Final = st.one_of(ODD_TEXTS, st.sampled_from(EVERY))
LIKELY: Final[dict[str, Any]] = {
    **dict.fromkeys(("patient", "subscriber", "payer", "claim"), ODD_IDS),
    **dict.fromkeys(("start_on", "end_on", "posted_on"), ODD_DAYS),
    **dict.fromkeys(("relationship", "type", "status", "order", "currency"), ODD_CODES),
    "amount": ODD_AMOUNTS,
}

_TABLE: Final = {
    "hit": "p1", "hit two": "p2", "own": "p1", "p1": "p1", "p2": "p2", "60054": "00710", "many": None,
    "bad": "a/b", "dots": "..", "dot": ".p", "long": "x" * 65, "h\u00efdden": "p1", "z\u200b": "p2",
    "z" * 256: "p1",
}  # fmt: skip
# fmt: off
CROSSWALKS: Final = [
    Crosswalks(),
    Crosswalks(Crosswalk(table=_TABLE), Crosswalk("payer_id", _TABLE), Crosswalk(table=_TABLE)),
    Crosswalks(Crosswalk(table=_TABLE, is_search=True), Crosswalk("organization", _TABLE)),
    Crosswalks(payer=Crosswalk("organization")),
]
CODES: Final = [
    {},
    {"relationship": {"18": "self", "self": "spouse"}, "type": {"GOLD": "pay"}, "order": {"A": "1", "1": "7"}},
]
DATES: Final = [
    ("%Y-%m-%d",), ("%Y-%m-%d", "%m/%d/%Y"), ("%m/%d/%Y", "%d/%m/%Y", "%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"),
    ("%Y-%m-%d", "%Y-%m-%dT%H:%M:%SZ"),
]
# fmt: on


@dataclass(frozen=True)
class Case:
    """Rows, and all that decides what they become."""

    feed: Feed
    rows: pl.DataFrame
    reading: Reading
    mapping: RowMapping

    @property
    def texts(self) -> pl.DataFrame:
        return texts_of(self.rows, self.feed)

    @property
    def numbers(self) -> pl.Series:
        return pl.int_range(1, self.rows.height + 1, dtype=pl.UInt32, eager=True)


@st.composite
def cases(draw: st.DrawFn, kind: Kind, *, odd: bool = True) -> Case:
    good = GOOD[kind]
    fields = list(good)
    rows = [draw(st.fixed_dictionaries(good)) for _ in range(draw(st.integers(1, 8)))]
    if odd:
        for row in rows:
            for name in draw(st.lists(st.sampled_from(fields), max_size=2)):
                row[name] = draw(st.one_of(LIKELY.get(name, ODD_TEXTS), ODD))
    drawn = draw(st.dictionaries(st.sampled_from(fields), ODD, max_size=1)) if odd else {}
    constants = {name: text for name, text in drawn.items() if text}
    columns = {name: name for name in fields if name not in constants}
    only = {"entry_type": ["PAYMENT", "p1"]} if kind is Kind.LEDGER else {"status": ["active"]}
    keys = st.lists(st.sampled_from(fields), min_size=1, max_size=4, unique=True)
    feed = Feed(
        "feed",
        kind,
        "",
        columns,
        constants,
        codes=draw(st.sampled_from(CODES)) if odd else {},
        only=draw(st.sampled_from([{}, only])) if odd else {},
        key=tuple(draw(st.one_of(st.just(list(TRAITS[kind].key)), keys))) if odd else TRAITS[kind].key,
        dates=draw(st.sampled_from(DATES)) if odd else ("%Y-%m-%d",),
        amount_sign=draw(st.sampled_from(["positive", "negative"])) if odd else "positive",
        order_by=tuple(draw(st.lists(st.sampled_from(fields), max_size=3, unique=True))),
        decimal_comma=odd and draw(st.booleans()),
        amount_unit=draw(st.sampled_from(["dollars", "cents"])) if odd else "dollars",
        timezone=draw(st.sampled_from(["", "America/New_York"])),
        open_dates=draw(st.sampled_from([(), ("2099-12-31", "none")])),
        null_values=draw(st.sampled_from([(), ("NULL", "0")])) if odd else (),
    )  # fmt: skip
    crosswalks = draw(st.sampled_from(CROSSWALKS)) if odd else Crosswalks()
    reading = Reading(
        feed.day_reader,
        crosswalks,
        feed.codes,
        feed.amount_sign,
        draw(st.sampled_from([None, 10_000])) if odd else None,
        feed.required,
        amount_style=feed.amount_style,
    )
    contract = draw(st.sampled_from(list(Contract)))
    frame = pl.DataFrame(rows, schema=dict.fromkeys(fields, pl.String), orient="row")
    return Case(feed, frame, reading, RowMapping(contract, crosswalks.payer.target, TODAY))


def by_columns(case: Case) -> pl.DataFrame:
    """As the planner does it."""
    texts, keep = case.texts, wanted(case.texts, case.feed)
    return look_at(texts, keep, case.numbers, case.feed, case.reading, case.mapping).sort("row")


def by_rows(case: Case) -> pl.DataFrame:
    """By the row models alone."""
    texts, keep = case.texts, wanted(case.texts, case.feed)
    return lines_of(
        [
            (row, map_row(row.content, case.mapping, case.feed.order_by) if row.content else None)
            for row in validate(texts, keep, case.numbers, case.feed, case.reading)
        ]
    )


_PROPERTY: Final = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)  # fmt: skip


# Good rows that differ in shape, for one odd cell in each field in turn.
BASES: Final[dict[Kind, list[dict[str, str | None]]]] = {
    Kind.ELIGIBILITY: [
        {
            "patient": "p1",
            "relationship": "self",
            "member_id": "M1",
            "payer": "60054",
            "order": "2",
        },
        {
            "patient": "p1",
            "relationship": "spouse",
            "subscriber": "p2",
            "member_id": "M1",
            "subscriber_id": "S1",
            "payer": "60054",
            "payer_name": 'The "P"',
            "type": "pay",
            "plan": "Gold",
            "group": "G\\1",
            "order": "primary",
            "start_on": "2026-01-01",
            "end_on": "2026-12-31",
            "status": "cancelled",
        },
    ],
    Kind.LEDGER: [
        {"transaction_id": "t1", "patient": "p1", "amount": "5.00", "posted_on": "2026-01-01"},
        {"transaction_id": "t1", "patient": "p1", "amount": "-5.00", "claim": "c1"},
    ],
}


@pytest.mark.parametrize("sign", ["positive", "negative"])
@pytest.mark.parametrize("crosswalks", CROSSWALKS)
@pytest.mark.parametrize("kind", list(Kind))
def test_every_odd_cell_in_every_field(kind: Kind, crosswalks: Crosswalks, sign: Any) -> None:
    fields = TRAITS[kind].fields
    rows = [
        {**dict.fromkeys(fields), **base, name: cell}
        for base in BASES[kind]
        for name in fields
        for cell in EVERY
    ]
    number = CROSSWALKS.index(crosswalks)
    keys = ("posted_on", "amount") if kind is Kind.LEDGER else TRAITS[kind].key
    feed = Feed(
        "feed",
        kind,
        "",
        {name: name for name in fields},
        codes=CODES[number % 2],
        only={"entry_type": ["x", "PPO"]} if kind is Kind.LEDGER and number > 2 else {},
        key=keys if number % 2 else TRAITS[kind].key,
        dates=DATES[number % 3],
        amount_sign=sign,
        order_by=("amount", "posted_on") if kind is Kind.LEDGER else ("order", "start_on"),
    )
    most = 10_000 if number % 2 else None
    reading = Reading(
        Dates(feed.dates), crosswalks, feed.codes, feed.amount_sign, most, feed.required
    )
    contract = list(Contract)[number % 2]
    frame = pl.DataFrame(rows, schema=dict.fromkeys(fields, pl.String))
    case = Case(feed, frame, reading, RowMapping(contract, crosswalks.payer.target, TODAY))
    assert_frame_equal(by_columns(case), by_rows(case))


@pytest.mark.parametrize("kind", list(Kind))
@_PROPERTY
@given(data=st.data())
def test_each_row_ends_as_the_model_says_to_the_byte(kind: Kind, data: st.DataObject) -> None:
    case = data.draw(cases(kind))
    assert_frame_equal(by_columns(case), by_rows(case))


@pytest.mark.parametrize("kind", list(Kind))
@_PROPERTY
@given(data=st.data())
def test_what_is_accepted_is_what_the_model_reads(kind: Kind, data: st.DataObject) -> None:
    case = data.draw(cases(kind))
    mask, read = accept(case.texts, case.feed, case.reading)
    every = pl.repeat(True, case.rows.height, eager=True)
    rows = validate(case.texts, every, case.numbers, case.feed, case.reading)
    taken = [row.content for row, is_accepted in zip(rows, mask, strict=True) if is_accepted]
    assert read.to_dicts() == [row and row.model_dump() for row in taken]


@pytest.mark.parametrize("kind", list(Kind))
@_PROPERTY
@given(data=st.data())
def test_rows_as_most_are_do_not_go_through_the_model(kind: Kind, data: st.DataObject) -> None:
    """Else it would be right, and slow."""
    case = data.draw(cases(kind, odd=False))
    mask, _ = accept(case.texts, case.feed, case.reading)
    every = pl.repeat(True, case.rows.height, eager=True)
    rows = validate(case.texts, every, case.numbers, case.feed, case.reading)
    assert mask.to_list() == [row.content is not None for row in rows]


@given(st.lists(st.one_of(ODD_AMOUNTS, ODD_TEXTS)), st.sampled_from(["positive", "negative"]))
@example(["5", None], "positive")
def test_a_column_of_amounts_is_read_as_each_of_them(texts: list[str | None], sign: Any) -> None:
    column = cents_in(pl.Series(texts, dtype=pl.String), sign)
    assert column.to_list() == [cents_of(text, sign) for text in texts]


@pytest.mark.parametrize("kind", list(Kind))
def test_every_field_can_be_read_as_a_column(kind: Kind) -> None:
    """One that cannot leaves all rows to the model, and the feed is slow without a word."""
    fields = TRAITS[kind].model.model_fields
    assert {name for name, field in fields.items() if whole_reader(field) is None} == set()
