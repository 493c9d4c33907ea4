"""Payments of one day under a key without an id: two that differ by their time of day are two."""

import csv
import shutil
from collections.abc import Sequence

import pytest

from pipeline.commands import run as engine
from pipeline.rows.dates import Dates
from tests.support.runs import counts
from tests.support.world import MakeWorld, World, patient_key

FEED = """
[[feeds]]
name = "ledger"
kind = "ledger"
path = "ledger.csv"
key = {key}
dates = ["%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%d"]
{more}
[feeds.columns]
patient = "MRN"
posted_on = "Posted"
amount = "Amount"
transaction_id = "TXN"
"""
BY_DAY = FEED.format(key='["patient", "posted_on", "amount"]', more="")


def deliver(world: World, times: Sequence[str], ids: Sequence[str] = ()) -> None:
    """A file with payments of 5.00 of one patient, at these times of one day."""
    with (world.folder / "ledger.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["MRN", "Posted", "Amount", "TXN"])
        for number, time in enumerate(times):
            told = ids[number] if ids else ""
            writer.writerow([patient_key(0), f"2026-11-09 {time}".strip(), "5.00", told])


def rules(result: engine.Result) -> dict[str, int]:
    found: dict[str, int] = result.summary["feeds"][0]["rules"]
    return found


@pytest.mark.parametrize(
    ("times", "ends"),
    [
        (["10:00", "15:00"], {"created": 1, "rejected": 1}),
        (["10:00", "10:00:01"], {"created": 1, "rejected": 1}),
        (["", "15:00"], {"created": 1, "rejected": 1}),
        (["10:00", "10:00:00"], {"created": 1, "duplicate": 1}),
        (["", "00:00:00", "00:00"], {"created": 1, "duplicate": 2}),
        (["10:00", "15:00", "10:00"], {"created": 1, "duplicate": 1, "rejected": 1}),
    ],
)
async def test_another_time_of_day_is_no_duplicate(
    make_world: MakeWorld, times: list[str], ends: dict[str, int]
) -> None:
    world = await make_world()
    world.write_config(feeds=BY_DAY)
    deliver(world, times)
    result = await world.run()
    assert counts(result) == ends
    rejected = ends.get("rejected", 0)
    assert rules(result).get("row|time", 0) == rejected
    text = (result.folder / "rejects-ledger.csv").read_text() if rejected else ""
    assert ("the same key as ledger.csv:2 (row 1), at another time of day" in text) == bool(
        rejected
    )
    again = await world.run()
    assert counts(again) == {
        "unchanged": 1,
        **{k: n for k, n in ends.items() if k != "created"},
    }
    assert len(world.effects) == 1


@pytest.mark.parametrize(
    ("feed", "ids"),
    [
        (
            FEED.format(
                key='["patient", "posted_on", "amount"]',
                more='repeats = "count"\ndelivery = "full"',
            ),
            (),
        ),
        (FEED.format(key='["transaction_id"]', more=""), ("T1", "T2")),
    ],
)
async def test_what_tells_payments_apart_sends_both(
    make_world: MakeWorld, feed: str, ids: Sequence[str]
) -> None:
    world = await make_world()
    world.write_config(feeds=feed)
    deliver(world, ["10:00", "15:00"], ids)
    assert counts(await world.run()) == {"created": 2}
    assert counts(await world.run()) == {"unchanged": 2}


async def test_a_time_that_comes_to_a_file_that_was_loaded_is_seen_beside_its_unchanged_row(
    make_world: MakeWorld,
) -> None:
    """The unchanged row is skipped by its text: the index of such rows has its time, too."""
    world = await make_world()
    world.write_config(feeds=BY_DAY)
    deliver(world, ["10:00"])
    assert counts(await world.run()) == {"created": 1}
    deliver(world, ["10:00", "15:00", "10:00:00"])
    assert counts(await world.run()) == {"unchanged": 1, "rejected": 1, "duplicate": 1}


async def test_another_time_of_day_than_on_an_earlier_night_is_not_unchanged(
    make_world: MakeWorld,
) -> None:
    world = await make_world()
    world.write_config(feeds=BY_DAY)
    deliver(world, ["10:00"])
    assert counts(await world.run()) == {"created": 1}
    for _ in range(2):  # rejected rows are in no index: the plan of the first night has the time
        deliver(world, ["15:00"])
        result = await world.run()
        assert counts(result) == {"rejected": 1}
        assert rules(result) == {"row|time": 1}
    deliver(world, ["10:00:00"])
    assert counts(await world.run()) == {"unchanged": 1}
    deliver(world, [""])
    assert counts(await world.run()) == {"unchanged": 1}, "no time is no other time"
    assert len(world.effects) == 1


async def test_without_the_earlier_plan_a_time_of_day_is_not_known(make_world: MakeWorld) -> None:
    world = await make_world()
    world.write_config(feeds=BY_DAY)
    deliver(world, ["10:00"])
    assert counts(await world.run()) == {"created": 1}
    shutil.rmtree(world.folder / "state" / "plans")
    deliver(world, ["15:00"])
    assert counts(await world.run()) == {"unchanged": 1}


@pytest.mark.parametrize(
    ("text", "time_us"),
    [
        ("2026-11-09 10:00", 36_000_000_000),
        ("2026-11-09 00:00", None),
        ("2026-11-09", None),
        ("9.11.2026", None),
        ("2026-11-09T00:00:00.000001", 1),
    ],
)
def test_the_time_of_day_of_a_text(text: str, time_us: int | None) -> None:
    dates = Dates(("%Y-%m-%d", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S.%f"))
    assert dates.time_us(text) == time_us
