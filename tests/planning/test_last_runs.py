"""Stale, short and late files: what is compared with the last run, and with the time of the day."""

import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import orjson
import pytest

from pipeline.clock import SystemClock
from pipeline.commands import run as engine
from pipeline.errors import ConfigError, InputError
from tests.support.runs import command
from tests.support.world import LEDGER_ONLY, MakeWorld, World, patient_key


def rows(count: int, start: int = 0) -> list[tuple[str, str, str, str]]:
    """Return payments of ten dollars, which differ from those of another start by a cent."""
    amount = "10.01" if start else "10.00"
    return [(f"T{n:03}", patient_key(n % 20), amount, "") for n in range(start, start + count)]


async def ledger_of(make_world: MakeWorld, feeds: str = LEDGER_ONLY) -> World:
    world = await make_world()
    world.write_config(feeds=feeds)
    world.write_ledger(rows(20))
    return world


def warned(result: engine.Result) -> dict[str, str]:
    return {each["rule"]: each["message"] for each in result.summary["warnings"]}


async def test_the_same_bytes_are_named_with_their_run(make_world: MakeWorld) -> None:
    world = await ledger_of(make_world)
    first = await world.run()
    assert warned(first) == {}
    world.write_ledger(rows(21))
    second = await world.run()
    assert warned(second) == {}
    world.write_ledger(rows(20))
    _, printed, _ = await command(world, "plan")
    again = await world.run()
    at = datetime.fromisoformat(first.summary["started_at"]).astimezone()
    stale = (
        f"Feed ledger: the file has the same bytes as in run {first.run_id} of {at:%Y-%m-%d %H:%M}. "
        "Check that the sender delivered a new one."
    )
    assert warned(again) == {"files|stale": stale}
    assert f"Warning: {stale}" in printed
    assert stale in (again.folder / "report.html").read_text()


async def test_a_run_that_failed_and_a_plan_make_no_file_stale(make_world: MakeWorld) -> None:
    world = await ledger_of(make_world)
    await engine.plan(world.job())
    world.write_config(feeds=LEDGER_ONLY, limits="writes_max = 3")
    assert (await world.run()).exit_code == 1
    world.write_config(feeds=LEDGER_ONLY)
    assert warned(await world.run()) == {}


async def test_new_files_beside_old_ones_are_not_stale(make_world: MakeWorld) -> None:
    world = await ledger_of(make_world, LEDGER_ONLY.replace("ledger.csv", "l*.csv"))
    await world.run()
    world.write_ledger(rows(3, start=50), name="later.csv")
    assert warned(await world.run()) == {}
    assert "all 2 files have the same bytes" in warned(await world.run())["files|stale"]


async def test_rows_dollars_and_files_are_compared_with_the_last_run(make_world: MakeWorld) -> None:
    world = await ledger_of(make_world)
    first = await world.run()
    world.write_ledger(rows(22))
    _, printed, _ = await command(world, "plan")
    at = datetime.fromisoformat(first.summary["started_at"]).astimezone()
    assert (
        f"ledger since run {first.run_id} ({at:%Y-%m-%d %H:%M}): +2 rows, +20.00 USD.\n" in printed
    )
    result = await world.run()
    (feed,) = result.summary["feeds"]
    started = first.summary["started_at"]
    assert feed["last_run"] == {
        "run_id": first.run_id,
        "started_at": started,
        "rows": 20,
        "files": 1,
        "usd": "200.00",
    }


@pytest.mark.parametrize(("count", "is_short"), [(19, False), (18, True), (1, True)])
async def test_a_file_with_far_fewer_rows_is_short(
    make_world: MakeWorld, count: int, is_short: bool
) -> None:
    world = await ledger_of(make_world)
    first = await world.run()
    world.write_ledger(rows(count, start=100))
    found = warned(await world.run())
    assert set(found) == ({"files|short"} if is_short else set())
    if is_short:
        now = f"{count} {'row' if count == 1 else 'rows'} and {count * 10.01:.2f} USD"
        said = f"Feed ledger has {now}; run {first.run_id} of "
        assert found["files|short"].startswith(said)
        assert " had 20 rows and 200.00 USD. Check that the file is whole." in found["files|short"]


async def test_part_of_a_feed_is_not_the_last_run(make_world: MakeWorld, tmp_path: Path) -> None:
    world = await ledger_of(make_world)
    first = await world.run()
    part = world.write_ledger(rows(2, start=200), name="part.csv")
    given = await world.run(inputs={"ledger": part})
    assert given.summary["feeds"][0]["last_run"] is None
    assert warned(given) == {}
    world.write_ledger(rows(20, start=20))
    assert (await world.run()).summary["feeds"][0]["last_run"]["run_id"] == first.run_id


async def test_summaries_that_are_gone_or_of_another_journal_are_no_last_run(
    make_world: MakeWorld,
) -> None:
    world = await ledger_of(make_world)
    first = await world.run()
    summary = first.folder / "summary.json"
    whole: dict[str, Any] = orjson.loads(summary.read_bytes())
    summary.write_bytes(orjson.dumps({**whole, "journal": {**whole["journal"], "id": "another"}}))
    assert warned(await engine.plan(world.job())) == {}
    summary.write_bytes(b"{")
    assert warned(await engine.plan(world.job())) == {}
    summary.unlink()
    assert warned(await engine.plan(world.job())) == {}


# Expected times -----------------------------------------------------------------------------------


class At(SystemClock):
    """A clock that stands at an instant."""

    def __init__(self, at: datetime) -> None:
        self._at = at

    def now(self) -> datetime:
        return self._at


NOON = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)  # 07:00 in New York
EXPECTED = LEDGER_ONLY.replace(
    'kind = "ledger"', 'kind = "ledger"\nexpect_by = "03:00"\ntimezone = "America/New_York"'
)


async def planned(world: World, came: datetime, now: datetime = NOON) -> Mapping[str, str]:
    os.utime(world.folder / "ledger.csv", (came.timestamp(), came.timestamp()))
    return warned(await engine.plan(world.job(), clock=At(now)))


@pytest.mark.parametrize(
    ("came_before_h", "said"),
    [
        (5, ""),  # 02:00
        (4, ""),  # 03:00, to the second
        (15.9, ""),  # 15:06 of the day before: it is for this night
        (
            2.8,
            "Feed ledger: ledger.csv came late, at 2026-11-28 04:12; it was expected by 03:00 (America/New_York).",
        ),
        (
            24,
            (
                "Feed ledger: no new file came by 03:00 (America/New_York); the newest, ledger.csv, is of "
                "2026-11-27 07:00. Ask the sender for today's."
            ),
        ),
    ],
)
async def test_a_file_belongs_to_the_nearest_expected_time(
    make_world: MakeWorld, came_before_h: float, said: str
) -> None:
    world = await ledger_of(make_world, EXPECTED)
    found = await planned(world, NOON - timedelta(hours=came_before_h))
    assert found == ({"files|late": said} if said else {})


async def test_a_run_before_the_time_judges_the_day_before(make_world: MakeWorld) -> None:
    world = await ledger_of(make_world, EXPECTED)
    two = datetime(2026, 11, 28, 7, 0, tzinfo=UTC)  # 02:00 in New York
    assert await planned(world, two - timedelta(hours=24), two) == {}
    assert await planned(world, two - timedelta(hours=1), two) == {}
    found = await planned(world, two - timedelta(hours=47), two)
    assert "no new file came by 03:00" in found["files|late"]


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (
            NOON,
            "no file is there for feed ledger; it is late: expected by 03:00 (America/New_York), 4 h 0 min ago",
        ),
        (
            NOON - timedelta(hours=5),
            "no file is there for feed ledger; it is expected by 03:00 (America/New_York)",
        ),
    ],
)
async def test_a_file_that_is_not_there_is_late_or_not_due(
    make_world: MakeWorld, now: datetime, said: str
) -> None:
    world = await ledger_of(make_world, EXPECTED)
    (world.folder / "ledger.csv").unlink()
    result = await engine.plan(world.job(), clock=At(now))
    assert isinstance(result.failure, InputError)
    assert str(result.failure).endswith(
        f"{said}\n  check that the sender delivered, and the feed's path"
    )


async def test_check_warns_of_a_late_file(make_world: MakeWorld) -> None:
    world = await ledger_of(make_world, EXPECTED)
    old = datetime.now(UTC) - timedelta(days=3)
    os.utime(world.folder / "ledger.csv", (old.timestamp(), old.timestamp()))
    _, printed, _ = await command(world, "check")
    assert re.search(
        r"warning  files\|late +Feed ledger: no new file came by 03:00 \(America/New_York\); the newest, ledger\.csv, is of "
        rf"{old.astimezone(ZoneInfo('America/New_York')):%Y-%m-%d %H:%M}\n +-> ask the sender for today's\n",
        printed,
    )


async def test_a_time_that_is_none_is_refused(make_world: MakeWorld) -> None:
    world = await ledger_of(make_world, EXPECTED.replace("03:00", "3 am"))
    with pytest.raises(ConfigError, match="expect_by"):
        world.job()
