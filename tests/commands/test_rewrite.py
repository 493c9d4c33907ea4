"""Unchanged coverages that a person wants to have written again: once, under the guard of an update."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

import pipeline
from pipeline.app.config.load import load
from pipeline.commands import run as engine
from pipeline.commands.run import Result
from pipeline.errors import ConfigError
from pipeline.sandbox import Faults
from tests.support.nightly import (
    FEED,
    MANY,
    Row,
    coverage,
    enter,
    gone,
    held,
    nightly,
    rules,
    write,
    writes,
)
from tests.support.runs import command, counts, effects_reach, start
from tests.support.world import CREDENTIALS, PAYER, MakeWorld, World, patient_key

TWO: list[Row] = [(0, "a", 1, ""), (0, "b", 2, ""), (1, "c", 1, "2026-12-31")]
ALL = "member_id is not null"


def rewritten(result: Result) -> dict[str, int]:
    found: dict[str, int] = result.summary["feeds"][0]["rewritten"]
    return {word: count for word, count in found.items() if count}


def updates_of(world: World, since: int) -> list[str]:
    """Return the member ids that were updated, by the local Canvas' own account."""
    effects = world.effects[since:]
    assert {each["interaction"] for each in effects} <= {"update"}
    return sorted(each["member_id"] for each in effects)


async def test_rows_that_meet_it_are_written_once(make_world: MakeWorld) -> None:
    world = await nightly(make_world, TWO)
    shown = held(world)
    result = await world.run(rewrite="\"order\" = '1' and payer = '60054'")
    assert (result.exit_code, counts(result)) == (0, {"updated": 2, "unchanged": 1})
    assert rules(result) == {"row|rewritten": 2}
    assert rewritten(result) == {"rows": 2, "updated": 2}
    assert result.summary["balanced"]
    assert result.summary["feeds"][0]["changes"] == {}
    assert updates_of(world, 3) == ["a", "c"]
    assert held(world) == shown
    again = await world.run()
    assert (again.exit_code, counts(again), writes(world)) == (0, {"unchanged": 3}, 5)


async def test_canvas_then_has_the_payers_plan_type(make_world: MakeWorld) -> None:
    world = await nightly(make_world, TWO)
    world.sandbox.set_plan_type(PAYER["id"], "Commercial")
    await world.run()
    assert world.sandbox.account()["plan_types"] == {PAYER["id"]: "Commercial"}
    await world.run(rewrite="payer = '60054' and member_id <> 'b'")
    kinds = world.sandbox.account()["plan_types"]
    assert {member: coverage(world, member)["id"] in kinds for member in "abc"} == {
        "a": True,
        "b": False,
        "c": True,
    }


async def test_what_changed_is_an_update_as_ever(make_world: MakeWorld) -> None:
    world = await nightly(make_world, TWO)
    write(world, [(0, "a", 1, "2026-12-31"), *TWO[1:], (2, "new", 1, "")])
    result = await world.run(rewrite=ALL)
    assert counts(result) == {"created": 1, "updated": 3}
    assert rules(result) == {"row|rewritten": 2}
    assert result.summary["feeds"][0]["changes"] == {"period.end": 1}
    assert writes(world) == 3 + 4


async def test_a_plan_shows_them_and_is_carried_out_as_it_is(make_world: MakeWorld) -> None:
    world = await nightly(make_world, TWO)
    condition = "end_on = '2026-12-31'"
    process, stdout, _ = await command(world, "run", "--dry-run", "--rewrite", condition)
    assert process.returncode == 0
    assert "1 to update" in stdout
    assert "Unchanged in eligibility, and written again: 1 row, 1 to be written." in stdout
    assert f'--rewrite "{condition}" --plan ' in stdout
    assert writes(world) == 3
    plan_id = stdout.rpartition("--plan ")[2].split()[0]
    process, stdout, _ = await command(world, "run", "--plan", plan_id)
    assert process.returncode == 1
    assert "another --rewrite" in stdout
    process, stdout, _ = await command(world, "run", "--rewrite", condition, "--plan", plan_id)
    assert process.returncode == 0
    assert "written again: 1 row, 1 updated." in stdout
    assert updates_of(world, 3) == ["c"]


async def test_an_edit_by_another_user_is_never_overwritten(make_world: MakeWorld) -> None:
    world = await nightly(make_world, TWO)
    edited = coverage(world, "a")["id"]
    period = {"start": "2026-01-01", "end": "2026-05-31"}
    world.sandbox.edit_by_hand("Coverage", edited, {"period": period})
    result = await world.run(rewrite=ALL)
    assert (result.exit_code, counts(result)) == (3, {"updated": 2, "refused": 1})
    assert rules(result) == {"row|rewritten": 2, "conflict": 1}
    assert rewritten(result) == {"rows": 3, "updated": 2, "refused": 1}
    assert coverage(world, "a")["period"] == period
    world.sandbox.edit_by_hand("Coverage", edited, {"period": {"start": "2026-01-01"}})
    assert counts(await world.run()) == {"updated": 1, "unchanged": 2}


async def test_one_that_canvas_wrote_without_a_change_is_written(make_world: MakeWorld) -> None:
    """The precondition refuses it, a read shows no edit, and it is sent under the time of that read."""
    world = await nightly(make_world, TWO)
    world.sandbox.edit_by_hand("Coverage", coverage(world, "a")["id"], {})
    result = await world.run(rewrite=ALL)
    assert (result.exit_code, counts(result)) == (0, {"updated": 3})
    assert updates_of(world, 3) == ["a", "b", "c"]


async def test_one_that_was_removed_is_not_created(make_world: MakeWorld) -> None:
    world = await nightly(make_world, TWO)
    world.sandbox.delete_by_hand("Coverage", coverage(world, "c")["id"])
    result = await world.run(rewrite=ALL)
    assert (counts(result), rewritten(result)["refused"]) == ({"updated": 2, "refused": 1}, 1)
    assert len(held(world)) == 2


async def test_what_was_cancelled_stays_so(make_world: MakeWorld) -> None:
    rows = [*MANY, (31, "gone", 1, "")]
    world = await nightly(make_world, rows, more='missing = "cancel"')
    write(world, MANY)
    assert gone(await world.run())["cancelled"] == 1
    result = await world.run(rewrite=ALL)
    assert counts(result) == {"updated": len(MANY)}
    assert coverage(world, "gone")["status"] == "cancelled"


async def test_what_canvas_has_already_is_taken_over_and_written(make_world: MakeWorld) -> None:
    world = await nightly(make_world, TWO)
    enter(world, 4, "entered")
    enter(world, 5, "other")
    write(world, [*TWO, (4, "entered", 1, ""), (5, "other", 1, "")])
    result = await world.run(rewrite="member_id = 'entered'")
    assert counts(result) == {"updated": 1, "unchanged": 4}
    assert result.summary["feeds"][0]["adopted"] == 2
    assert rules(result) == {"row|adopted": 1, "row|adopted; row|rewritten": 1}
    assert updates_of(world, 3) == ["entered"]
    assert counts(await world.run()) == {"unchanged": 5}


# Ended early --------------------------------------------------------------------------------------


@pytest.mark.parametrize("then", [None, ALL], ids=["without it", "with it"])
async def test_a_killed_run_is_continued(make_world: MakeWorld, then: str | None) -> None:
    world = await nightly(make_world, MANY)
    # Slow enough that answers are entered while the others wait.
    world.write_config(feeds=FEED.format(more=""), rate_per_s=30.0, concurrency=2)
    before = writes(world)
    process = await start(world, "run", "--rewrite", ALL)
    await effects_reach(world, before + 20)
    process.kill()
    await process.wait()
    done = set(updates_of(world, before))
    assert 20 <= len(done) < len(MANY)
    result = await world.run(rewrite=then)
    assert result.exit_code == 0
    sent = updates_of(world, before)
    assert set(sent) == {member for _, member, _, _ in MANY}, "each is written"
    lost = result.summary["recovered"]["sent_again"]  # in flight, so that it was not known
    assert len(sent) - len(MANY) <= lost < len(MANY)
    again = counts(result)["updated"]
    assert rewritten(result) == {"rows": again, "updated": again}
    after = writes(world)
    assert counts(await world.run()) == {"unchanged": len(MANY)}
    assert writes(world) == after


async def test_a_stopped_run_is_continued(make_world: MakeWorld) -> None:
    world = await nightly(make_world, MANY)
    before, stop = writes(world), asyncio.Event()
    job = replace(world.job(rewrite=ALL))
    running = asyncio.create_task(engine.run(job, stop=stop))
    while writes(world) < before + 8 and not running.done():
        await asyncio.sleep(0.001)
    stop.set()
    first = await running
    assert first.exit_code == 130
    done = rewritten(first)["updated"]
    assert rewritten(first) == {"rows": 30, "updated": done, "pending": 30 - done}
    second = await world.run(rewrite=ALL)
    assert counts(second) == {"updated": 30 - done, "unchanged": done}
    warned = {each["rule"]: each["count"] for each in second.summary["warnings"]}
    assert warned == {"row|rewritten": done, "files|stale": 1}
    assert len(updates_of(world, before)) == 30
    third = await world.run(rewrite=ALL)
    assert counts(third) == {"updated": 30}, "another request, after the first one is done"


async def test_lost_answers_are_settled(make_world: MakeWorld) -> None:
    world = await nightly(make_world, MANY)
    world.sandbox.set_faults(Faults(lose_before=0.2, lose_after=0.2, error_after=0.1))
    result = await world.run(rewrite=ALL)
    assert (result.exit_code, counts(result)) == (0, {"updated": 30})
    assert rewritten(result) == {"rows": 30, "updated": 30}
    assert result.summary["balanced"]
    world.sandbox.set_faults(Faults())
    assert counts(await world.run()) == {"unchanged": 30}


# The condition ------------------------------------------------------------------------------------


CODES = """
timezone = "America/New_York"
dates = ["%m/%d/%Y"]
[feeds.codes.order]
"first" = "1"
[feeds.codes.relationship]
"18" = "self"
"""


@pytest.mark.parametrize(
    ("condition", "met"),
    [
        ("\"order\" = '1' and relationship = 'self'", 2),
        ("start_on = '2026-01-02'", 3),
        ("end_on is null", 2),
        ("status is null", 3),
        ('subscriber is null and cast("order" as int) > 1', 1),
        (f"patient = '{patient_key(0)}'", 2),
        ("end_on < '2026-07-01'", 1),
    ],
)
async def test_fields_are_as_the_file_means_them(
    make_world: MakeWorld, condition: str, met: int
) -> None:
    world = await make_world(patients=3)
    world.write_config(feeds=FEED.format(more=CODES))
    world.write_eligibility(
        [
            (patient_key(0), "a", "18", "60054", "first", "01/02/2026", ""),
            (patient_key(0), "b", "18", "60054", "2", "01/02/2026", "12/31/9999"),
            (patient_key(1), "c", "18", "60054", "primary", "01/02/2026", "06/30/2026"),
        ]
    )
    assert counts(await world.run()) == {"created": 3}
    assert rewritten(await world.run(rewrite=condition))["rows"] == met


async def test_a_row_without_a_value_stops_the_run(make_world: MakeWorld) -> None:
    world = await nightly(make_world, TWO)
    result = await world.run(rewrite="cast(member_id as int) > 1")
    assert result.exit_code == 1
    assert "eligibility.csv:2 (row 1): --rewrite has no value" in str(result.failure)
    assert writes(world) == 3
    result = await world.run(rewrite="try_cast(member_id as int) > 1")
    assert counts(result) == {"unchanged": 3}
    warned = {each["rule"]: each["count"] for each in result.summary["warnings"]}
    assert warned == {"row|rewritten": 0, "files|stale": 1}


async def test_limits_of_writes_do_not_count_them(make_world: MakeWorld) -> None:
    world = await nightly(make_world, TWO)
    world.write_config(feeds=FEED.format(more=""), limits="writes_max = 1\nchange_max = 1.0")
    assert counts(await world.run(rewrite=ALL)) == {"updated": 3}


WRONG: dict[str, tuple[str, str]] = {
    "misspelt": ("payor = '60054'", 'Did you mean "payer"?'),
    "a column of the file": ("Payer = '60054'", "maps to payer: write payer"),
    "a text in double quotes": ('member_id = "W123"', "Texts are written in single quotes"),
    "a word of SQL": ("order = '1'", "need double quotes"),
    "a number": ('"order" = 1', "cells are texts"),
    "no condition": ("payer", "it must be a condition"),
    "blank": ("", "cannot be read as SQL"),
    "no column": ("true", "all rows would meet it, or none"),
    "an aggregate": ("max(payer) = 'x'", "looks at other rows"),
    "the clock": ("start_on < current_date", "--rewrite: "),
}


@pytest.mark.parametrize("case", WRONG)
def test_usage_errors(tmp_path: Any, case: str) -> None:
    condition, said = WRONG[case]
    world = World(tmp_path, None, "https://fumage-x.canvasmedical.com")  # type: ignore[arg-type]
    world.write_config()
    with pytest.raises(ConfigError) as error:
        load(world.config, environment=CREDENTIALS, rewrite=condition)
    assert error.value.exit_code == 2
    assert said in str(error.value)
    assert "W123" not in str(error.value), "it may be a value of a row"


def test_a_run_that_can_write_nothing_again_is_refused(tmp_path: Any) -> None:
    world = World(tmp_path, None, "https://fumage-x.canvasmedical.com")  # type: ignore[arg-type]
    world.write_config()
    with pytest.raises(ConfigError, match="no eligibility feed"):
        load(world.config, environment=CREDENTIALS, rewrite=ALL, only_feeds=("ledger",))
    world.write_config(feeds=FEED.format(more="update = false"))
    with pytest.raises(ConfigError, match="update = false"):
        load(world.config, environment=CREDENTIALS, rewrite=ALL)


async def test_payments_of_the_same_run_are_left_alone(make_world: MakeWorld) -> None:
    world = await make_world(patients=3)
    world.write_config()
    world.write_eligibility([(patient_key(0), "a", "self", "60054", "1", "2026-01-01", "")])
    world.write_ledger([("T1", patient_key(0), "5.00", "")])
    assert (await world.run()).exit_code == 0
    result = await world.run(rewrite=ALL)
    assert (counts(result, 0), counts(result, 1)) == ({"updated": 1}, {"unchanged": 1})
    assert result.summary["feeds"][1]["rewritten"]["rows"] == 0
    assert result.summary["balanced"]


async def test_from_python(make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    world = await nightly(make_world, TWO)
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    planned = await pipeline.plan(world.config, rewrite=ALL)
    assert rewritten(planned) == {"rows": 3, "pending": 3}
    result = await pipeline.run(world.config, rewrite=ALL, plan_id=planned.run_id)
    assert rewritten(result) == {"rows": 3, "updated": 3}
