"""Rows against each other and against the journal."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pytest

from pipeline.planning.resolve import NEEDED, decisions, resolve
from pipeline.records import State
from pipeline.rows.feed import Feed, Kind
from pipeline.rows.groups import Bounds, Scan
from tests.support.known import KNOWN, SCHEMA


def resolved(
    kind: Kind,
    rows: list[dict[str, Any]],
    known: Sequence[tuple[str, str, str, str]] = (),
    **feed: Any,
) -> pl.DataFrame:
    blank = {
        "file": 0,
        "disposition": "pending",
        "fingerprint": "x",
        "lane": "p",
        "order": 1,
        "active": True,
    }
    lines = [
        {**blank, "seq": number, "row": number + 1, "key": f"k{number}", **row}
        for number, row in enumerate(rows)
    ]
    frame = pl.DataFrame(lines, schema=SCHEMA).select(NEEDED)
    held = pl.DataFrame(known, schema=KNOWN, orient="row")
    configured = Feed("f", kind, "", {}, **feed)
    with TemporaryDirectory() as folder:
        parts = resolve(
            {"f": Scan(frame.height, lambda columns: iter([frame.select(columns)]))},
            [configured],
            {"f": ["a.csv"]},
            lambda keys: held.filter(pl.col("key").is_in(keys.implode())),
            Path(folder),
            Bounds(),
        )
        return pl.concat([verdicts for _, verdicts in parts])


def dispositions(verdicts: pl.DataFrame) -> list[tuple[str, str]]:
    return list(verdicts.sort("seq").select("disposition", "rule").iter_rows())


def test_the_same_row_again_is_a_duplicate_and_another_content_contradicts() -> None:
    rows = [{"key": "a"}, {"key": "b"}, {"key": "a"}, {"key": "a", "fingerprint": "y"}]
    verdicts = resolved(Kind.LEDGER, rows)
    assert dispositions(verdicts) == [
        ("pending", ""), ("pending", ""), ("duplicate", "row|duplicate"), ("rejected", "row|contradicts")
    ]  # fmt: skip
    assert verdicts.sort("seq")["message"][3].startswith("the same key as a.csv:1")


def test_counted_repeats_are_payments_of_their_own() -> None:
    rows = [{"key": "a"}, {"key": "a"}, {"key": "a"}, {"key": "b"}]
    verdicts = resolved(Kind.LEDGER, rows, repeats="count").sort("seq")
    assert verdicts["disposition"].to_list() == ["pending"] * 4
    assert verdicts["key"].n_unique() == 4
    assert verdicts["key"][0] == "a"
    again = resolved(Kind.LEDGER, rows, repeats="count").sort("seq")
    assert again["key"].to_list() == verdicts["key"].to_list()


@pytest.mark.parametrize(
    ("first", "second", "collides"),
    [
        ((0, 10), (5, 20), True),
        ((0, 10), (10, 20), False),
        ((10, 20), (0, 10), False),
        ((0, 10), (11, 20), False),
        ((0, None), (5, None), True),
        ((0, 10), (5, 5), True),
        ((0, 10), (10, 10), False),
        ((0, 10), (0, 10), True),
        ((5, None), (0, 5), False),
        ((0, 10), (-5, 50), True),
    ],
)
def test_two_active_coverages_of_one_order_do_not_share_a_period(
    first: Any, second: Any, collides: bool
) -> None:
    rows = [{"start_day": start, "end_day": end} for start, end in (first, second)]
    wanted = ("rejected", "order|collides") if collides else ("pending", "order|bumps")
    assert dispositions(resolved(Kind.ELIGIBILITY, rows)) == [("pending", ""), wanted]


@pytest.mark.parametrize(
    "change", [{"order": 2}, {"lane": "q"}, {"active": False}, {"disposition": "rejected"}]
)
def test_what_does_not_collide(change: dict[str, Any]) -> None:
    rows = [{"start_day": 0}, {"start_day": 0, **change}]
    assert ("rejected", "order|collides") not in dispositions(resolved(Kind.ELIGIBILITY, rows))


def test_a_row_that_collides_does_not_make_others_collide() -> None:
    periods = [(0, 10), (5, 30), (20, 30), (40, 50), (29, 41)]
    rows = [{"start_day": start, "end_day": end} for start, end in periods]
    assert [disposition for disposition, _ in dispositions(resolved(Kind.ELIGIBILITY, rows))] == [
        "pending", "rejected", "pending", "pending", "rejected"
    ]  # fmt: skip


def test_what_the_journal_holds_decides_what_a_row_comes_to() -> None:
    known = [("k0", "CONFIRMED", "x", "id0"), ("k1", "CONFIRMED", "other", "id1"), ("k2", "IN_DOUBT", "x", ""),
             ("k3", "REFUSED", "x", ""), ("k4", "PENDING", "x", ""), ("k5", "ABANDONED", "x", "")]  # fmt: skip
    verdicts = resolved(Kind.LEDGER, [{} for _ in range(7)], known).sort("seq")
    assert dispositions(verdicts) == [
        ("unchanged", ""), ("rejected", "row|changed"), ("in_doubt", ""), ("pending", ""), ("pending", ""),
        ("rejected", "row|abandoned"), ("pending", ""),
    ]  # fmt: skip
    assert verdicts["interaction"].to_list() == ["", "", "", "create", "create", "", "create"]
    assert verdicts["resource_id"].to_list() == ["id0", *[""] * 6]


def test_each_situation_has_one_decision() -> None:
    situations = decisions().select("state", "has_resource", "is_same", "may_update")
    assert situations.is_unique().all()
    states = {"", *(state.value for state in State)}
    assert set(situations["state"]) == states
    assert situations.height == len(states) * 2**3
