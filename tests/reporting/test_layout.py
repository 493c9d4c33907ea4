"""Tables that fit a terminal, and sentences that are broken between words."""

import re
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.reporting.cases import review_text
from pipeline.reporting.checks import checks_text
from pipeline.reporting.inventory import inventory_text
from pipeline.reporting.layout import width_of, wrapped
from pipeline.reporting.terminal import summary_text
from pipeline.reporting.words import WORDS

HUGE = "123456789012.34"
SHOWN = "123,456,789,012.34"
NAMES = ("eligibility", "ledger", "copays", "a-feed-with-a-rather-long-name", "e" * 64)


def summary(feeds: int, *, amount: str = HUGE) -> dict[str, Any]:
    """The summary of a run in which each feed has all dispositions, in large numbers."""
    counts = dict.fromkeys((word for word, _ in WORDS), 1_234_567)
    return {
        "command": "run",
        "run_id": "20261121T023000Z-7f3a",
        "exit_code": 4,
        "failure": "",
        "balanced": True,
        "warnings": [],
        "patients_unasked": 0,
        "recovered": dict.fromkeys(("found", "sent_again", "set_aside", "retried", "compared"), 0),
        "settled": {},
        "sent_again": {},
        "in_doubt_elsewhere": 0,
        "needs": None,
        "requests": {"total": 0},
        "feeds": [
            {
                "name": name,
                "files": [{"path": "a.csv"}],
                "rows_read": 11_111_103,
                "dispositions": counts,
                "amount_usd": dict.fromkeys(["read", *counts], amount),
                "rules": {},
                "mended_from": [],
                "corrected": {"rows": 0, "runs": {}},
                "first_rows": {},
                "is_whole": True,
                "last_run": None,
                "numbered": {},
                "changes": {},
                "adopted": 0,
                "rewritten": {"rows": 0},
                "missing": {"rows": 0},
            }
            for name in NAMES[:feeds]
        ],
    }


def table_of(text: str) -> list[str]:
    lines = text.splitlines()
    return lines[
        2 : lines.index("Balanced: every row has one ending, and the amounts add up to the cent.")
    ]


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("feeds", range(1, 6))
def test_the_table_of_a_run_fits_and_each_amount_is_whole(feeds: int, columns: int) -> None:
    table = table_of(summary_text(summary(feeds), "reports/x", "my.toml", columns=columns))
    assert width_of(table) <= columns
    assert "\n".join(table).count(SHOWN) == feeds * (1 + len(WORDS))
    for name in NAMES[:feeds]:
        assert sum(name in line for line in table) == 1


def test_feeds_are_beside_each_other_as_far_as_they_fit() -> None:
    assert (
        sum(line.startswith("read ") for line in table_of(summary_text(summary(3), "r", "c"))) == 2
    )
    wide = summary_text(summary(3), "r", "c", columns=120)
    assert sum(line.startswith("read ") for line in table_of(wide)) == 1


def test_a_number_is_under_the_name_of_its_feed() -> None:
    text = summary_text(summary(2, amount="5.00"), "r", "c")
    names, heads, read = table_of(text)[:3]
    assert [heads[: names.index("ledger") + len("ledger")].split()[-1]] == ["USD"]
    assert read.split() == ["read", "11,111,103", "5.00", "11,111,103", "5.00"]


def case(**changes: Any) -> dict[str, Any]:
    return {
        "key": "0123456789abcdef", "feed": "ledger", "row": "a-file-with-quite-a-long-name-20261121.csv:1234567",
        "source_id": "TRANSACTION-000123456789", "interaction": "create", "resource_type": "PaymentNotice",
        "resource_id": "", "patient": "0" * 32, "amount_cents": 12_345_678_901_234, "coverage": None,
        "evidence": "none", "now": None, "run_id": "20261121T023000Z-7f3a", "sent_at": "2026-11-21T02:30:00Z",
        "rule": "", "message": "no answer came", "finding": None,
    } | changes  # fmt: skip


COVERAGE = {"payer": "60054", "member_id_end": "1234", "start": "2026-01-01"}


def test_the_table_of_writes_in_doubt_fits() -> None:
    cases = [
        *(case(), case(row="a.csv:1")),
        case(resource_type="Coverage", amount_cents=None, coverage=COVERAGE),
    ]
    review = {"decided": [], "in_doubt": cases, "unasked": ""}
    narrow = review_text(review, "my.toml", "http://127.0.0.1:1")
    lines = [line for line in narrow.splitlines() if "In Canvas: " not in line]
    assert width_of(lines) <= 80
    for whole in (f"USD {SHOWN}", "transaction TRANSACTION-000123456789"):
        assert narrow.count(whole) == 2
    assert "3 writes, 246,913,578,024.68 USD" in narrow
    assert "payer 60054, member ID ...1234, from 2026-01-01" in narrow
    wide = review_text({**review, "in_doubt": [case(row="a.csv:1")]}, "my.toml", "http://x", 120)
    assert re.search(rf"  0123456789abcdef  USD {SHOWN}  transaction TRANSACTION-\d+  a\.csv:1  sent 2026-11-21 02:30 UTC\n", wide)  # fmt: skip


def test_the_table_of_the_journal_fits() -> None:
    held = [
        {"state": state, "resource_type": kind, "count": 12_345_678, "usd": usd, "oldest_days": 999.9, "newest_days": 0.1}
        for state, kind, usd in (("CONFIRMED", "PaymentNotice", "1234567890.12"), ("ABANDONED", "Coverage", ""))
    ]  # fmt: skip
    inventory = {
        "history": None, "held": held, "journal": "j", "lines": 1, "first_break": 0,
        "contradictions": {"count": 0, "key": ""},
    }  # fmt: skip
    text = inventory_text(inventory)
    table = text.splitlines()[2:5]
    assert width_of(table) <= 80
    assert "1,234,567,890.12" in table[1]
    assert len({line.index("days") for line in table[1:]}) == 1, "numbers are flush right"


def test_checks_have_room_for_their_words_on_a_narrow_terminal() -> None:
    check = {"group": "Files", "state": "wrong", "what": "x" * 25, "message": "words " * 30, "todo": "do " * 40}  # fmt: skip
    result = {"checks": [check], "counts": {"wrong": 1, "warning": 0, "ok": 0}}
    narrow = wrapped(checks_text(result, "my.toml", columns=80), 80)
    assert width_of(narrow.splitlines()) <= 80
    assert narrow.count("\n") < checks_text(result, "my.toml").count("\n") + 12


# Sentences ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("aaaa bbbb cccc dddd eeee", ["aaaa bbbb cccc dddd", "  eeee"]),
        ("  aaaa bbbb cccc dddd eeee", ["  aaaa bbbb cccc", "    dddd eeee"]),
        ("  ok  aaaa bbbb cccc dddd", ["  ok  aaaa bbbb cccc", "      dddd"]),
        ("      -> aaaa bbbb cccc dddd", ["      -> aaaa bbbb", "         cccc dddd"]),
        ("aaaa bbbb ccc USD 1,234.56", ["aaaa bbbb ccc", "  USD 1,234.56"]),
        ("aaaa bbbb ccc 1,234.56 USD", ["aaaa bbbb ccc", "  1,234.56 USD"]),
        ("  canvas-ingest run a-long-name.toml --plan 1", ["  canvas-ingest run a-long-name.toml --plan 1"]),
        ("see a/path/that/is/longer/than/a/line", ["see", "  a/path/that/is/longer/than/a/line"]),
        ("short", ["short"]),
        ("", [""]),
    ],
)  # fmt: skip
def test_where_lines_are_broken(line: str, expected: list[str]) -> None:
    assert wrapped(line, 20).split("\n") == expected


WORD = st.text("abc,.-", min_size=1, max_size=12) | st.decimals(0, 10**9, places=2).map(
    "{:,}".format
)


@given(st.lists(WORD, min_size=1), st.integers(40, 120))
def test_no_word_and_no_amount_is_broken(words: list[str], columns: int) -> None:
    text = wrapped(" ".join(words), columns)
    assert text.split() == words
    assert width_of(text.split("\n")) <= columns


@given(st.lists(st.decimals(Decimal("0.01"), 10**9, places=2), min_size=1), st.integers(40, 120))
def test_an_amount_keeps_its_currency(amounts: list[Decimal], columns: int) -> None:
    said = [f"{amount:,} USD" for amount in amounts]
    text = wrapped("; ".join(said), columns)
    for each in said:
        assert each in text
