"""A plan as a diff, carried out exactly or not at all; a run that stops by a time; mended rejects."""

import csv
import json
import shutil
from datetime import UTC, datetime, timedelta

import click
import pytest

from pipeline.app.options import Until
from pipeline.commands import run as engine
from pipeline.errors import PlanError
from pipeline.reporting.terminal import summary_text
from pipeline.reporting.words import duration
from tests.support.nightly import coverage, enter, nightly, write
from tests.support.runs import command, counts, payments
from tests.support.world import FEEDS, LEDGER_ONLY, MakeWorld, World, patient_key

ROWS = [(0, "A", 1, ""), (0, "B", 2, ""), (1, "C", 1, ""), (2, "D", 1, "2026-12-31")]


def changes(result: engine.Result) -> list[tuple[str, str, str]]:
    """Element, before and after of each line of the changes."""
    with (result.folder / "changes-eligibility.csv").open(newline="") as file:
        return [(line["element"], line["before"], line["after"]) for line in csv.DictReader(file)]


# The diff -------------------------------------------------------------------------------------------


async def test_a_plan_tells_what_each_update_would_change(make_world: MakeWorld) -> None:
    world = await nightly(make_world, ROWS)
    write(world, [(0, "A", 1, "2026-06-30"), (0, "B", 2, ""), (1, "C", 2, ""), (2, "D", 1, "")])
    result = await engine.plan(world.job())
    assert changes(result) == [
        ("period.end", "", "2026-06-30"),
        ("order", "1", "2"),
        ("period.end", "2026-12-31", ""),
    ]
    assert result.summary["feeds"][0]["changes"] == {"period.end": 2, "order": 1}
    text = summary_text(result.summary, "reports/x", "my.toml")
    assert text.startswith("Plan: 0 to create, 3 to update, 1 unchanged, 0 rejected.")
    assert "The updates of eligibility would change: period.end 2, order 1" in text
    assert "2026-06-30" not in text
    assert f"canvas-ingest run my.toml --plan {result.run_id}" in text


async def test_what_is_taken_over_is_compared_with_what_canvas_showed(
    make_world: MakeWorld,
) -> None:
    world = await nightly(make_world, ROWS)
    enter(world, 3, "E", period={"start": "2026-01-01"})
    write(world, [*ROWS, (3, "E", 1, "2026-09-30")])
    result = await engine.plan(world.job())
    assert changes(result) == [("period.end", "", "2026-09-30")]


async def test_a_payers_change_is_told_by_its_id_and_its_name(make_world: MakeWorld) -> None:
    world = await make_world()
    named = FEEDS[: FEEDS.rindex("[[feeds]]")].replace('"End"', '"End"\npayer_name = "Name"')
    world.write_config(feeds="[[feeds]]".join(named.split("[[feeds]]")), quiet_s=0.05)
    header = ["MRN", "Member", "Rel", "Payer", "Order", "Start", "End", "Name"]
    row = [patient_key(0), "A", "self", "60054", "1", "2026-01-01", "", "Old"]
    world._write("eligibility.csv", header, [row])
    key = world.config.read_text().replace("path =", 'key = ["patient", "member_id"]\npath =')
    world.config.write_text(key)
    assert counts(await world.run()) == {"created": 1}
    world._write("eligibility.csv", header, [[*row[:-1], "New"]])
    assert changes(await engine.plan(world.job())) == [("payor.display", "Old", "New")]


async def test_where_the_last_plan_is_gone_the_diff_says_so(make_world: MakeWorld) -> None:
    world = await nightly(make_world, ROWS)
    for plan in (world.folder / "state" / "plans").iterdir():
        shutil.rmtree(plan)
    write(world, [(0, "A", 1, "2026-06-30"), *ROWS[1:]])
    result = await engine.plan(world.job())
    assert changes(result) == [("unknown", "", "")]
    assert result.summary["feeds"][0]["changes"] == {"unknown": 1}


async def test_a_plan_tells_what_it_takes(make_world: MakeWorld) -> None:
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY, rate_per_s=0.5)
    world.write_ledger(payments(120))
    job = world.job()
    result = await engine.plan(job)
    told = result.summary["needs"]
    asked = result.summary["requests"]["total"]
    assert told["writes"] == 120
    assert told["requests"] == 120 + max(asked, 1)
    assert told["seconds"] == told["requests"] * 2
    ended = datetime.fromisoformat(result.summary["finished_at"])
    assert datetime.fromisoformat(told["done_at"]) == ended + timedelta(seconds=told["seconds"])
    assert "Needs about 121 requests: 4 min at 0.5 a second, done by" in summary_text(
        result.summary, "reports/x", "my.toml"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59, "59 s"), (60, "1 min"), (3_540, "59 min"), (12_000, "3 h 20 min")],
)
def test_durations_are_told_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# Exactly that plan ------------------------------------------------------------------------------------


async def planned(make_world: MakeWorld) -> tuple[World, str]:
    world = await nightly(make_world, ROWS)
    write(world, [(0, "A", 1, "2026-06-30"), *ROWS[1:], (4, "F", 1, "")])
    return world, (await engine.plan(world.job())).run_id


async def test_exactly_that_plan_is_carried_out(make_world: MakeWorld) -> None:
    world, plan_id = await planned(make_world)
    result = await engine.run(world.job(), plan_id=plan_id)
    assert counts(result) == {"created": 1, "updated": 1, "unchanged": 3}
    assert coverage(world, "A")["period"]["end"] == "2026-06-30"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("file", "files of feed eligibility are others by now (eligibility.csv)"),
        ("config", "the configuration was changed"),
        ("journal", "the journal, or what Canvas holds, came to differ since"),
        ("canvas", "the journal, or what Canvas holds, came to differ since"),
    ],
)
async def test_another_plan_is_refused_before_anything_is_sent(
    make_world: MakeWorld, change: str, why: str
) -> None:
    world, plan_id = await planned(make_world)
    if change == "file":
        write(world, [(0, "A", 1, "2026-06-30"), *ROWS[1:], (5, "G", 1, "")])
    elif change == "config":
        world.config.write_text(world.config.read_text() + "\n# looked at\n")
    elif change == "journal":
        await world.run()
    else:
        enter(world, 4, "F")
    before = len(world.effects)
    result = await engine.run(world.job(), plan_id=plan_id)
    assert result.exit_code == 1
    assert isinstance(result.failure, PlanError)
    assert why in str(result.failure)
    assert len(world.effects) == before


async def test_a_plan_of_other_feeds_is_refused(make_world: MakeWorld) -> None:
    world = await make_world()
    world.write_config()
    world.write_eligibility([(patient_key(0), "A", "self", "60054", "1", "2026-01-01", "")])
    world.write_ledger(payments(3))
    made = await engine.plan(world.job(only_feeds=("ledger",)))
    result = await engine.run(world.job(), plan_id=made.run_id)
    assert "it is of the feeds ledger (--feed)" in str(result.failure)
    assert not world.effects


async def test_a_plan_that_is_not_there_is_told_at_once(make_world: MakeWorld) -> None:
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY)
    world.write_ledger(payments(3))
    process, _, stderr = await command(world, "run", "--plan", "20260101T000000Z-0000")
    assert process.returncode == 1
    assert "there is no finished plan 20260101T000000Z-0000" in stderr
    assert not world.effects


# Until a time -----------------------------------------------------------------------------------------


async def test_what_its_time_does_not_allow_is_pending_and_goes_the_next_time(
    make_world: MakeWorld,
) -> None:
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY, rate_per_s=50.0)
    world.write_ledger(payments(400))
    until = datetime.now(UTC) + timedelta(seconds=2)
    first = await engine.run(world.job(), until=until)
    assert first.exit_code == 1
    assert "its time (--until) was over" in first.summary["failure"]
    ends = counts(first)
    assert ends.keys() == {"created", "pending"}
    assert len(world.effects) == ends["created"] > 0
    world.write_config(feeds=LEDGER_ONLY)
    second = await engine.run(world.job(), until=datetime.now(UTC) + timedelta(hours=1))
    assert second.exit_code == 0
    assert counts(second) == {"created": ends["pending"], "unchanged": ends["created"]}


async def test_a_time_that_is_over_before_the_plan_is_made_sends_nothing(
    make_world: MakeWorld,
) -> None:
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY)
    world.write_ledger(payments(40))
    result = await engine.run(world.job(), until=datetime.now(UTC) - timedelta(seconds=1))
    assert result.exit_code == 1
    assert "its time (--until) was over" in result.summary["failure"]
    assert not world.effects


async def test_a_run_that_is_done_in_time_says_nothing_of_it(make_world: MakeWorld) -> None:
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY)
    world.write_ledger(payments(5))
    process, stdout, _ = await command(world, "run", "--until", soon())
    assert process.returncode == 0, stdout


def soon() -> str:
    return (datetime.now().astimezone() + timedelta(minutes=5)).strftime("%H:%M")


@pytest.mark.parametrize("text", ["5", "25:00", "05:61", "now", "05:30:00"])
def test_what_is_no_time_of_day_is_a_usage_error(text: str) -> None:
    with pytest.raises(click.BadParameter, match="write a time of day, such as 05:30"):
        Until().convert(text, None, None)


def test_a_time_that_has_just_passed_is_not_taken_for_tomorrows() -> None:
    passed = (datetime.now().astimezone() - timedelta(minutes=10)).strftime("%H:%M")
    with pytest.raises(click.BadParameter, match="has just passed"):
        Until().convert(passed, None, None)


def test_a_time_is_the_next_one_of_the_local_day() -> None:
    now = datetime.now().astimezone()
    later = now + timedelta(hours=10)
    until = Until().convert(later.strftime("%H:%M"), None, None)
    assert until == later.replace(second=0, microsecond=0)
    assert until.tzinfo is not None


# The loop of rejects ----------------------------------------------------------------------------------


async def test_mended_rejects_go_in_alone_and_the_report_says_whence(
    make_world: MakeWorld,
) -> None:
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY)
    rows = payments(10)
    spoiled = [*rows[:8], (*rows[8][:2], "ten", ""), (rows[9][0], "", *rows[9][2:])]
    world.write_ledger(spoiled)
    first = await world.run()
    assert counts(first) == {"created": 8, "rejected": 2}
    rejects = first.folder / "rejects-ledger.csv"
    with rejects.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert {line["_run"] for line in lines} == {first.run_id}
    lines[0]["Amount"], lines[1]["MRN"] = rows[8][2], rows[9][1]
    mended = world.folder / "mended.csv"
    with mended.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    second = await world.run(inputs={"ledger": mended}, only_feeds=("ledger",))
    assert counts(second) == {"created": 2}
    assert second.summary["feeds"][0]["mended_from"] == [first.run_id]
    assert f"ledger: its rows are corrected ones, rejected in run {first.run_id}." in summary_text(
        second.summary, "reports/x", "my.toml"
    )
    assert len(world.effects) == 10
    third = await world.run()  # the whole file again, mended as well
    assert counts(third) == {"unchanged": 8, "rejected": 2}


async def test_what_stands_in_the_column_of_runs_and_is_none_is_not_told(
    make_world: MakeWorld,
) -> None:
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY)
    header = ["TXN", "MRN", "Amount", "Claim", "_run"]
    world._write("ledger.csv", header, [(*row, "Secretname") for row in payments(3)])
    result = await world.run()
    assert counts(result) == {"created": 3}
    assert result.summary["feeds"][0]["mended_from"] == []
    assert "Secretname" not in json.dumps(result.summary)


async def test_rejects_are_not_taken_alone_where_equal_rows_are_counted(
    make_world: MakeWorld,
) -> None:
    """The second of two equal payments, alone, would be taken for the first, and never be sent."""
    world = await make_world(patients=1, balance="7.00")
    counted = LEDGER_ONLY.replace('transaction_id = "TXN"\n', "").replace(
        "path =",
        'key = ["patient", "posted_on", "amount", "claim"]\nrepeats = "count"\ndelivery = "full"\npath =',
    )
    world.write_config(feeds=f'{counted}posted_on = "TXN"\n')
    world.write_ledger([("2026-11-09", patient_key(0), "5.00", "")] * 2)
    first = await world.run()
    assert counts(first) == {"created": 1, "refused": 1}
    again = await world.run(inputs={"ledger": first.folder / "rejects-ledger.csv"})
    assert again.exit_code == 1
    assert "correct them in the whole file of feed ledger" in str(again.failure)
    assert len(world.effects) == 1


def test_what_is_to_be_typed_next_names_the_same_feeds_and_files() -> None:
    summary = {
        "command": "run",
        "run_id": "r",
        "exit_code": 130,
        "feeds": [],
        "failure": "",
        "requests": {"writes": 0},
        "recovered": dict.fromkeys(("found", "sent_again", "set_aside", "retried", "compared"), 0),
        "settled": {},
        "sent_again": {},
        "in_doubt_elsewhere": 0,
    }
    text = summary_text(summary, "reports/r", "my.toml", " --feed ledger")
    assert text.endswith("canvas-ingest run my.toml --feed ledger")
