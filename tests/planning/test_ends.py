"""`missing = "end"`: what is gone from a roster gets its last day, once, and opens again if it is back."""

from datetime import UTC, date, datetime, timedelta
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.commands import run as engine
from pipeline.commands.check import check
from pipeline.commands.run import Result
from pipeline.commands.verify import read_back
from pipeline.errors import ConfigError
from pipeline.planning.end_days import end_day
from pipeline.reporting.terminal import summary_text
from pipeline.rows.feed import EndOn
from pipeline.sandbox import Faults
from tests.support.missing_lines import missing_lines
from tests.support.nightly import (
    FEED,
    MANY,
    Clock,
    Row,
    coverage,
    gone,
    held,
    orders,
    stopped,
    write,
    writes,
)
from tests.support.runs import counts
from tests.support.world import MakeWorld, World, patient_key

END = 'missing = "end"'
FIRST = datetime(2026, 12, 1, 3, tzinfo=UTC)
BY_START = '"member_id", "start_on"]'


class Nights:
    """A roster that is loaded once a night, by a clock of its own."""

    def __init__(self, world: World, clock: Clock) -> None:
        self.world, self.clock = world, clock

    async def run(self, rows: list[Row] | None = None, *, days: int = 1) -> Result:
        """Run the next night, or (`days` 0) the same night again."""
        self.clock.next_day(days)
        if rows is not None:
            write(self.world, rows)
        return await engine.run(self.world.job(), clock=self.clock)

    def end(self, member: str) -> str:
        found = coverage(self.world, member)
        assert found["status"] == "active"
        return str(found["period"].get("end", ""))


async def loaded(
    make_world: MakeWorld, rows: list[Row] = MANY, more: str = END, at: datetime = FIRST
) -> Nights:
    """Return a Canvas that took these rows on the first night, 1 December."""
    world = await make_world(patients=40, clock=(clock := Clock(at)))
    world.write_config(feeds=FEED.format(more=more))
    nights = Nights(world, clock)
    assert counts(await nights.run(rows, days=0)) == {"created": len(rows)}
    return nights


def warned(result: Result) -> dict[str, int]:
    return {each["rule"]: each["count"] for each in result.summary["warnings"]}


# The day ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("today", "day_before", "month_end", "last_month_end"),
    [
        ("2026-11-30", "2026-11-29", "2026-11-30", "2026-10-31"),
        ("2026-12-01", "2026-11-30", "2026-12-31", "2026-11-30"),
        ("2026-01-31", "2026-01-30", "2026-01-31", "2025-12-31"),
        ("2028-02-29", "2028-02-28", "2028-02-29", "2028-01-31"),
        ("2026-03-01", "2026-02-28", "2026-03-31", "2026-02-28"),
    ],
)
def test_the_last_day(today: str, day_before: str, month_end: str, last_month_end: str) -> None:
    run = date.fromisoformat(today)
    assert end_day(run, "day_before").isoformat() == day_before
    assert end_day(run, "month_end").isoformat() == month_end
    assert end_day(run, "last_month_end").isoformat() == last_month_end


@given(st.dates(date(1900, 1, 1), date(2199, 12, 31)))
def test_the_last_day_of_a_month_is_the_one_before_the_first_of_another(today: date) -> None:
    ends = {how: end_day(today, how) for how in get_args(EndOn)}
    assert (ends["month_end"] + timedelta(days=1)).day == 1
    assert (ends["last_month_end"] + timedelta(days=1)).day == 1
    assert (ends["month_end"].year, ends["month_end"].month) == (today.year, today.month)
    assert ends["last_month_end"] <= ends["day_before"] < today <= ends["month_end"]
    assert (today - ends["last_month_end"]).days <= 31


@pytest.mark.parametrize(
    ("zone", "end"),
    [("", "2026-12-01"), ("America/New_York", "2026-11-30"), ("Asia/Tokyo", "2026-12-01")],
)
async def test_the_day_of_a_run_is_the_day_of_the_practice(
    make_world: MakeWorld, zone: str, end: str
) -> None:
    """The second night is at 3:00 UTC on 2 December: still the evening of the 1st in New York."""
    nights = await loaded(make_world, more=f'{END}\ntimezone = "{zone}"')
    result = await nights.run(MANY[1:])
    assert (result.exit_code, gone(result)) == (0, {"rows": 1, "ended": 1})
    assert nights.end("m0") == end
    assert missing_lines(result)[0]["end_on"] == end


@pytest.mark.parametrize(
    ("how", "end", "warnings"),
    [
        ("day_before", "2026-12-01", {}),
        ("month_end", "2026-12-31", {"end_on|future": 1}),
        ("last_month_end", "2026-11-30", {}),
    ],
)
async def test_what_is_gone_gets_its_last_day(
    make_world: MakeWorld, how: str, end: str, warnings: dict[str, int]
) -> None:
    nights = await loaded(make_world, more=f'{END}\nmissing_end_on = "{how}"')
    before = coverage(nights.world, "m0")
    nights.clock.next_day()
    write(nights.world, MANY[1:])
    planned = await engine.plan(nights.world.job(), clock=nights.clock)
    assert (planned.exit_code, warned(planned)) == (0, warnings)
    assert "1 to end, " in summary_text(planned.summary, "reports", "config.toml")
    result = await nights.run(days=0)
    assert (result.exit_code, gone(result), warned(result)) == (
        0,
        {"rows": 1, "ended": 1},
        warnings,
    )
    period = {"start": "2026-01-01", "end": end}
    assert coverage(nights.world, "m0") == {**before, "period": period}, "nothing else is changed"
    (line,) = missing_lines(result)
    assert (line["outcome"], line["end_on"]) == ("ended", end)
    text = summary_text(result.summary, "reports", "config.toml")
    assert "1 row, 1 ended (missing-eligibility.csv)" in text
    verified = await read_back(nights.world.job())
    assert (verified.exit_code, verified.summary["verification"]["match"]) == (0, 30)


# Once ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", get_args(EndOn))
async def test_an_end_stays_whatever_the_later_nights_are(make_world: MakeWorld, how: str) -> None:
    nights = await loaded(make_world, more=f'{END}\nmissing_end_on = "{how}"')
    assert gone(await nights.run(MANY[1:])) == {"rows": 1, "ended": 1}
    end, before = nights.end("m0"), writes(nights.world)
    for days in (0, 1, 40):
        result = await nights.run(days=days)
        assert (result.exit_code, gone(result)) == (0, {})
    other = 'missing_end_on = "last_month_end"' if how == "day_before" else ""
    nights.world.write_config(feeds=FEED.format(more=f"{END}\n{other}"))
    assert gone(await nights.run()) == {}
    for plan in (nights.world.folder / "state" / "plans").iterdir():
        plan.rename(plan.with_name(f"{plan.name}.gone"))
    assert gone(await nights.run()) == {}, "the journal knows it without any plan"
    assert (nights.end("m0"), writes(nights.world)) == (end, before)


async def test_a_run_that_was_stopped_goes_on_with_its_day(make_world: MakeWorld) -> None:
    nights = await loaded(make_world, more=f'{END}\nmissing_max = "100%"')
    nights.clock.next_day()
    write(nights.world, MANY[10:])
    nights.world.write_config(
        feeds=FEED.format(more=f'{END}\nmissing_max = "100%"'), rate_per_s=20.0, concurrency=1
    )
    result = await stopped(nights.world, at=33, clock=nights.clock)
    done = gone(result)["ended"]
    assert 0 < done < 10
    assert gone(await nights.run(days=3)) == {"rows": 10 - done, "ended": 10 - done}
    assert {nights.end(f"m{number}") for number in range(10)} == {"2026-12-01"}


@pytest.mark.parametrize("when", ["before", "after"])
async def test_an_end_whose_answer_is_lost_arrives_with_its_day(
    make_world: MakeWorld, when: str
) -> None:
    nights = await loaded(make_world, more=f'{END}\nmissing_max = "100%"')
    nights.world.write_config(
        feeds=FEED.format(more=f'{END}\nmissing_max = "100%"'), doubts_max=1000
    )
    faults = Faults(lose_before=0.5) if when == "before" else Faults(lose_after=0.5)
    nights.world.sandbox.set_faults(faults)
    result = await nights.run(MANY[10:])
    for _ in range(5):
        if result.exit_code == 0:
            break
        result = await nights.run()
    nights.world.sandbox.set_faults(Faults())
    assert (await nights.run()).exit_code == 0
    assert {nights.end(f"m{number}") for number in range(10)} == {"2026-12-01"}
    assert {nights.end(f"m{number}") for number in range(10, 30)} == {""}


async def test_a_plan_of_yesterday_is_not_carried_out_with_another_day(
    make_world: MakeWorld,
) -> None:
    nights = await loaded(make_world)
    write(nights.world, MANY[1:])
    planned = await engine.plan(nights.world.job(), clock=nights.clock)
    nights.clock.next_day()
    result = await engine.run(nights.world.job(), plan_id=planned.run_id, clock=nights.clock)
    assert result.exit_code == 1
    assert "would end on another day by now" in result.summary["failure"]
    assert nights.end("m0") == ""


# What is not ended --------------------------------------------------------------------------------


async def test_what_has_ended_already_is_not_written_nor_counted(make_world: MakeWorld) -> None:
    rows: list[Row] = [(0, "over", 1, "2026-11-30"), (1, "later", 1, "2027-06-30"), *MANY[2:]]
    nights = await loaded(make_world, rows, more=f"{END}\nmissing_max = 1")
    result = await nights.run(MANY[2:])
    assert (result.exit_code, gone(result)) == (0, {"rows": 2, "reported": 1, "ended": 1})
    lines = {line["rule"]: line for line in missing_lines(result)}
    assert lines["missing|ended"]["end_on"] == "2026-11-30"
    assert (nights.end("over"), nights.end("later")) == ("2026-11-30", "2026-12-01")
    assert gone(await nights.run()) == {}, "it is listed once"


async def test_too_many_are_gone_and_nothing_is_ended(make_world: MakeWorld) -> None:
    nights = await loaded(make_world)
    result = await nights.run(MANY[2:])
    assert (result.exit_code, gone(result)) == (3, {"rows": 2, "not_ended": 2})
    assert {line["rule"] for line in missing_lines(result)} == {"missing|too-many"}
    text = summary_text(result.summary, "reports", "config.toml")
    assert "what is gone from the file was not ended" in text
    assert "why each coverage was not ended" in text
    assert "because 2 of 30 rows are gone, above missing_max = 5%: check that the file" in text
    assert "2 of 30 rows are gone, above missing_max" in (result.folder / "report.html").read_text()
    assert [each["rule"] for each in result.summary["warnings"]] == ["missing|too-many"]
    assert "USD" not in text
    assert "Balanced: every row has one ending.\n" in text
    assert "not ended: more rows are gone" in missing_lines(result)[0]["message"]
    assert nights.end("m0") == nights.end("m1") == ""
    result = await nights.run(MANY[1:])
    assert gone(result) == {"rows": 1, "ended": 1}, "the one of two that is still gone"
    assert nights.end("m0") == "2026-12-02"


async def test_what_has_not_begun_is_left_to_a_person(make_world: MakeWorld) -> None:
    nights = await loaded(make_world)
    path = nights.world.folder / "eligibility.csv"
    write(nights.world, [*MANY, (30, "soon", 1, "")])
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:-1], lines[-1].replace("2026-01-01", "2027-01-01")]) + "\n")
    assert counts(await nights.run()) == {"unchanged": 30, "created": 1}
    result = await nights.run(MANY)
    assert (result.exit_code, gone(result)) == (3, {"rows": 1, "not_ended": 1})
    (line,) = missing_lines(result)
    assert (line["rule"], line["end_on"]) == ("missing|not_begun", "")
    assert nights.end("soon") == ""


async def test_without_a_start_the_end_may_be_before_it(make_world: MakeWorld) -> None:
    nights = await loaded(make_world)
    path = nights.world.folder / "eligibility.csv"
    write(nights.world, [*MANY, (30, "bare", 1, "")])
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:-1], lines[-1].replace("2026-01-01", "")]) + "\n")
    assert counts(await nights.run()) == {"unchanged": 30, "created": 1}
    result = await nights.run(MANY)
    assert (result.exit_code, gone(result)) == (3, {"rows": 1, "not_ended": 1})
    assert missing_lines(result)[0]["rule"] == "missing|no_start"


async def test_an_edit_in_canvas_is_not_ended_over(make_world: MakeWorld) -> None:
    nights = await loaded(make_world)
    nights.clock.next_day()
    period = {"start": "2026-01-01", "end": "2026-10-31"}
    edited = coverage(nights.world, "m0")["id"]
    nights.world.sandbox.edit_by_hand("Coverage", edited, {"period": period})
    for _ in range(2):
        result = await nights.run(MANY[1:])
        assert (result.exit_code, gone(result)) == (3, {"rows": 1, "refused": 1})
        (line,) = missing_lines(result)
        assert line["rule"] == "conflict"
    assert nights.end("m0") == "2026-10-31"
    period["end"] = line["end_on"]
    nights.world.sandbox.edit_by_hand("Coverage", edited, {"period": period})
    before = writes(nights.world)
    result = await nights.run()
    assert (result.exit_code, gone(result)) == (0, {"rows": 1, "ended": 1})
    assert (gone(await nights.run()), writes(nights.world)) == ({}, before), "Canvas has it"


async def test_what_a_refused_row_may_replace_is_not_ended(make_world: MakeWorld) -> None:
    nights = await loaded(make_world, [*MANY, (0, "old", 2, "")])
    new = (patient_key(0), "new", "self", "99999", "3", "2026-01-01", "")
    write(nights.world, MANY)
    path = nights.world.folder / "eligibility.csv"
    path.write_text(path.read_text() + ",".join(new) + "\n")
    result = await nights.run()
    assert (result.exit_code, gone(result)) == (3, {"rows": 1, "not_ended": 1})
    (line,) = missing_lines(result)
    assert line["rule"] == "missing|unreplaced"
    assert line["message"].startswith("not ended: eligibility.csv:32 (row 31) of the same patient")
    assert nights.end("old") == ""


# Back again ---------------------------------------------------------------------------------------


async def test_who_is_back_is_open_again(make_world: MakeWorld) -> None:
    nights = await loaded(make_world)
    await nights.run(MANY[1:])
    assert nights.end("m0") == "2026-12-01"
    result = await nights.run(MANY, days=10)
    assert counts(result) == {"updated": 1, "unchanged": 29}
    assert warned(result) == {"files|stale": 1}, "the file of the first night again"
    assert coverage(nights.world, "m0")["period"] == {"start": "2026-01-01"}
    assert counts(await nights.run()) == {"unchanged": 30}
    assert gone(await nights.run(MANY[1:])) == {"rows": 1, "ended": 1}, "and can end once more"
    assert nights.end("m0") == "2026-12-13"


@pytest.mark.parametrize(
    ("start", "warnings"), [("2026-12-02", {}), ("2026-12-03", {"row|replaces_period": 1})]
)
async def test_a_later_start_replaces_the_period_and_a_warning_says_so(
    make_world: MakeWorld, start: str, warnings: dict[str, int]
) -> None:
    nights = await loaded(make_world)
    await nights.run(MANY[1:])
    write(nights.world, MANY)
    path = nights.world.folder / "eligibility.csv"
    path.write_text(path.read_text().replace("2026-01-01", start, 1))
    result = await nights.run()
    assert (counts(result), warned(result)) == ({"updated": 1, "unchanged": 29}, warnings)
    assert coverage(nights.world, "m0")["period"] == {"start": start}
    assert ("have start_on in key" in str(result.summary["warnings"])) == bool(warnings)


async def test_with_the_start_in_the_key_a_new_period_is_a_coverage_of_its_own(
    make_world: MakeWorld,
) -> None:
    world = await make_world(patients=40, clock=(clock := Clock(FIRST)))
    world.write_config(feeds=FEED.format(more=END).replace('"member_id"]', BY_START))
    nights = Nights(world, clock)
    await nights.run(MANY, days=0)
    await nights.run(MANY[1:])
    write(world, MANY)
    path = world.folder / "eligibility.csv"
    path.write_text(path.read_text().replace("2026-01-01", "2026-12-20", 1))
    result = await nights.run(days=20)
    assert (counts(result), warned(result)) == ({"created": 1, "unchanged": 29}, {})
    periods = [each["period"] for each in held(world) if each["identifier"][0]["value"] == "m0"]
    assert sorted(periods, key=str) == [
        {"start": "2026-01-01", "end": "2026-12-01"},
        {"start": "2026-12-20"},
    ]


async def test_ends_of_long_ago_are_a_warning(make_world: MakeWorld) -> None:
    nights = await loaded(make_world)
    ends = ("2026-09-02", "2026-09-03", "2026-12-31")  # 91 and 90 days before the run
    changed: list[Row] = [(n, f"m{n}", 1, end) for n, end in enumerate(ends)]
    result = await nights.run([*changed, *MANY[3:]])
    assert counts(result) == {"updated": 3, "unchanged": 27}
    assert warned(result) == {"end_on|future": 1, "end_on|past": 1}


# Order --------------------------------------------------------------------------------------------


async def test_an_end_takes_its_order_from_no_one(make_world: MakeWorld) -> None:
    """The replacement has the order of what ended, and the secondary coverage keeps its own."""
    rows: list[Row] = [(0, "old", 1, ""), (0, "second", 2, ""), *MANY[1:]]
    nights = await loaded(make_world, rows)
    result = await nights.run([(0, "new", 1, ""), *rows[1:]])
    assert (result.exit_code, gone(result)) == (0, {"rows": 1, "ended": 1})
    assert warned(result) == {}, "what is over may be moved"
    found = orders(nights.world, 0)
    assert (found["new"], found["second"]) == (1, 2)
    assert nights.end("old") == "2026-12-01"
    result = await nights.run([(0, "newer", 1, ""), *rows[1:]])
    found = orders(nights.world, 0)
    assert (found["newer"], found["second"]) == (1, 2)
    assert counts(await nights.run()) == {"unchanged": 31}
    assert (await read_back(nights.world.job())).exit_code == 0


async def test_what_is_still_to_end_is_moved_with_a_warning(make_world: MakeWorld) -> None:
    rows: list[Row] = [(0, "old", 1, ""), *MANY[1:]]
    nights = await loaded(make_world, rows, more=f'{END}\nmissing_end_on = "month_end"')
    result = await nights.run([(0, "new", 1, ""), *MANY[1:]])
    assert warned(result) == {"order|taken": 1, "end_on|future": 1}
    assert orders(nights.world, 0) == {"new": 1, "old": 2}


async def test_an_end_of_a_coverage_that_was_moved_moves_no_other(make_world: MakeWorld) -> None:
    """It was not ended on the night on which another coverage took its order."""
    rows: list[Row] = [(0, "old", 1, ""), *MANY[1:]]
    nights = await loaded(make_world, rows, more=f"{END}\nmissing_max = 0")
    tonight: list[Row] = [(0, "new", 1, ""), *MANY[1:]]
    result = await nights.run(tonight)
    assert gone(result) == {"rows": 1, "not_ended": 1}
    assert orders(nights.world, 0) == {"new": 1, "old": 2}
    nights.world.write_config(feeds=FEED.format(more=END))
    result = await nights.run()
    assert (result.exit_code, gone(result)) == (0, {"rows": 1, "ended": 1})
    assert orders(nights.world, 0) == {"new": 1, "old": 2}
    assert nights.end("old") == "2026-12-02"


# The configuration --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (f'{END}\nfinal_newline = "any"', 'missing = "end" needs final_newline'),
        ('missing = "cancel"\nmissing_end_on = "month_end"', "missing_end_on: has no effect"),
        (f'{END}\ndelivery = "increment"', 'missing = "end" needs files that hold all rows'),
    ],
)
async def test_what_does_not_go_with_ends_is_refused(
    make_world: MakeWorld, more: str, message: str
) -> None:
    world = await make_world(patients=1)
    world.write_config(feeds=FEED.format(more=more))
    with pytest.raises(ConfigError, match=message):
        world.job()


async def test_an_end_needs_a_start(make_world: MakeWorld) -> None:
    world = await make_world(patients=1)
    world.write_config(feeds=FEED.format(more=END).replace('start_on = "Start"\n', ""))
    with pytest.raises(ConfigError, match='missing = "end" needs start_on'):
        world.job()


@pytest.mark.parametrize("zone", ["", "America/New_York"])
async def test_check_recommends_the_time_zone_of_the_practice(
    make_world: MakeWorld, zone: str
) -> None:
    world = await make_world(patients=40)
    world.write_config(feeds=FEED.format(more=f'{END}\ntimezone = "{zone}"'))
    write(world, MANY)
    found = [each for each in await check(world.job()) if "missing" in each.what]
    assert [each.state.value for each in found] == ([] if zone else ["warning"])
    assert all("set timezone of eligibility" in each.todo for each in found)
