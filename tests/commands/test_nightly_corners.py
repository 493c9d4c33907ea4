"""The nightly file where two things meet: a failure and an order, a guard and the night after it.

What failed, was lost, was held back or was edited in one night must come right in a later one.
"""

import asyncio
import csv
import shutil
from typing import Any

import polars as pl
import pytest

from pipeline.commands.decisions import Decisions
from pipeline.commands.review import as_json, review
from pipeline.commands.run import Result
from pipeline.errors import ConfigError
from pipeline.sandbox import Faults
from tests.support.nightly import (
    FEED,
    MANY,
    Clock,
    Row,
    coverage,
    enter,
    gone,
    held,
    nightly,
    orders,
    rules,
    stopped,
    write,
    writes,
)
from tests.support.nightly_corners import CANCEL, two_feeds, write_to
from tests.support.runs import counts
from tests.support.world import MakeWorld, World, patient_key

# What was entered by hand is known to be of the row's payer by its name.
NAMED = '[feeds.constants]\npayer_name = "Plan"\n'
OTHER: Row = (1, "other", 1, "")  # another patient's, which never changes
EDIT = {"period": {"start": "2026-01-01", "end": "2026-11-30"}}


def edit(world: World, member: str, changes: dict[str, Any] = EDIT) -> dict[str, Any]:
    """A person edits a coverage; what Canvas then holds."""
    world.sandbox.edit_by_hand("Coverage", coverage(world, member)["id"], changes)
    return coverage(world, member)


def assert_not_cancelled(result: Result, rule: str) -> None:
    assert (result.exit_code, gone(result)) == (3, {"rows": 1, "not_cancelled": 1})
    assert rule in (result.folder / "missing-eligibility.csv").read_text()


# Order --------------------------------------------------------------------------------------------


async def test_an_order_that_a_lost_answer_moved_is_no_conflict(make_world: MakeWorld) -> None:
    world = await nightly(make_world, [(0, "b", 1, ""), OTHER])
    world.sandbox.set_faults(Faults(lose_after=1.0))
    write(world, [(0, "new", 1, ""), (0, "b", 3, "2026-12-31"), OTHER])
    running = asyncio.create_task(world.run())
    while writes(world) < 3 and not running.done():
        await asyncio.sleep(0.001)
    world.sandbox.set_faults(Faults())
    assert (await running).exit_code == 0
    assert orders(world, 0) == {"new": 1, "b": 3}


@pytest.mark.parametrize(
    ("edited", "today"),
    [
        ("gone", [(0, "new", 1, ""), (0, "b", 2, ""), (0, "c", 3, "")]),
        ("b", [(0, "gone", 2, ""), (0, "b", 1, ""), (0, "c", 3, "")]),
    ],
    ids=["cancel", "swap"],
)
async def test_a_write_that_is_refused_moves_no_other_for_longer_than_a_night(
    make_world: MakeWorld, edited: str, today: list[Row]
) -> None:
    first: list[Row] = [(0, "gone", 1, ""), (0, "b", 2, ""), (0, "c", 3, ""), OTHER]
    world = await nightly(make_world, first, more=f'{CANCEL}\nmissing_max = "60%"')
    as_edited = edit(world, edited)
    write(world, [*today, OTHER])
    assert (await world.run()).exit_code == 3
    assert (await world.run()).exit_code == 3, "the conflict itself stays"
    found = orders(world, 0)
    assert found.pop(edited)
    assert found == {member: order for _, member, order, _ in today if member != edited}
    assert coverage(world, edited)["period"] == as_edited["period"]


async def test_feeds_that_share_a_patient_come_to_rest_in_the_second_night(
    make_world: MakeWorld,
) -> None:
    world = await two_feeds(make_world, [(0, "a", 2, "")], [(0, "b", 1, "")])
    write_to(world, "two.csv", [(0, "x", 1, ""), (0, "b", 3, "")])
    assert (await world.run()).exit_code == 0
    assert (await world.run()).exit_code == 0
    assert orders(world, 0) == {"x": 1, "a": 2, "b": 3}
    before = writes(world)
    await world.run()
    assert writes(world) == before


async def test_a_later_feeds_cancel_goes_before_an_earlier_feeds_create(
    make_world: MakeWorld,
) -> None:
    two: list[Row] = [(0, "old", 1, ""), (0, "b", 2, "")]
    more = f'{CANCEL}\nmissing_max = "60%"'
    world = await two_feeds(make_world, [OTHER], two, more=more)
    write_to(world, "one.csv", [OTHER, (0, "new", 1, "")])
    write_to(world, "two.csv", two[1:])
    assert (await world.run()).exit_code == 0
    assert orders(world, 0) == {"new": 1, "b": 2}


async def test_what_a_feed_that_does_not_run_has_in_the_way_is_told(make_world: MakeWorld) -> None:
    world = await two_feeds(make_world, [(0, "a", 1, "")], [(0, "b", 2, "")])
    write_to(world, "one.csv", [(0, "x", 1, ""), (0, "a", 2, "")])
    result = await world.run(only_feeds=("one",))
    assert result.summary["feeds"][0]["warnings"] == {"order|taken": 1}


async def test_a_row_that_is_gone_and_was_in_the_way_is_told_and_comes_back_in_its_place(
    make_world: MakeWorld,
) -> None:
    world = await nightly(make_world, [(0, "a", 1, ""), OTHER])
    write(world, [(0, "b", 1, ""), OTHER])
    assert (await world.run()).summary["feeds"][0]["warnings"] == {"order|taken": 1}
    assert orders(world, 0) == {"b": 1, "a": 2}
    write(world, [(0, "a", 1, ""), (0, "b", 2, ""), OTHER])
    assert (await world.run()).exit_code == 0
    assert orders(world, 0) == {"a": 1, "b": 2}


async def test_a_row_that_was_rejected_for_a_night_and_moved_is_moved_back(
    make_world: MakeWorld,
) -> None:
    world = await nightly(make_world, MANY, more=CANCEL)
    write(world, [(0, "wrong", 1, ""), *MANY])
    assert rules(await world.run()) == {"order|collides": 1, "order|taken": 1}
    write(world, MANY)
    result = await world.run()
    assert (result.exit_code, gone(result)) == (0, {"rows": 1, "cancelled": 1})
    assert orders(world, 0) == {"m0": 1}


async def test_what_the_file_itself_ends_gives_its_order_free(make_world: MakeWorld) -> None:
    world = await make_world(patients=40, clock=(clock := Clock()))
    world.write_config(feeds=FEED.format(more="") + 'status = "Status"\n')
    path = world.folder / "eligibility.csv"

    async def night(rows: list[Row], cancelled: str = "") -> Result:
        write(world, rows)
        status = pl.when(pl.col("Member") == cancelled).then(pl.lit("cancelled"))
        frame = pl.read_csv(path, infer_schema=False).fill_null("")
        frame.with_columns(Status=status.otherwise(pl.lit("active"))).write_csv(path)
        clock.next_day()
        return await world.run()

    assert counts(await night([(0, "a", 1, ""), (0, "b", 2, "")])) == {"created": 2}
    result = await night([(0, "new", 1, ""), (0, "b", 2, ""), (0, "a", 1, "")], cancelled="a")
    assert counts(result) == {"created": 1, "unchanged": 1, "updated": 1}
    assert orders(world, 0) == {"new": 1, "b": 2}
    await night([(0, "new", 3, ""), (0, "b", 2, ""), (0, "a", 1, "")])
    assert orders(world, 0) == {"a": 1, "b": 2, "new": 3}


async def test_eligibility_has_no_other_order_than_its_own(make_world: MakeWorld) -> None:
    world = await make_world(patients=1)
    world.write_config(feeds=FEED.format(more='order_by = ["member_id"]'))
    with pytest.raises(ConfigError, match="go out by their order"):
        world.job()


# Edits and taking over ----------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["", "2026-12-31"], ids=["alone", "beside another"])
async def test_a_payor_edit_is_seen_beside_the_patients_other_coverage(
    make_world: MakeWorld, end: str
) -> None:
    world = await nightly(make_world, [(0, "a", 2, ""), (0, "b", 1, ""), OTHER])
    payor = [{"reference": "Organization/0d2b8b5c-0000-4000-8000-000000000000"}]
    edited = edit(world, "a", {"payor": payor})
    write(world, [(0, "a", 2, "2026-12-31"), (0, "b", 1, end), OTHER])
    assert rules(await world.run()) == {"conflict": 1}
    assert coverage(world, "a") == edited


async def test_an_unknown_coverage_is_moved_by_a_new_row_beside_one_taken_over(
    make_world: MakeWorld,
) -> None:
    world = await make_world(patients=5)
    enter(world, 0, "z", order=1)
    enter(world, 0, "b", order=2)
    world.write_config(feeds=FEED.format(more="") + NAMED)
    write(world, [(0, "new", 1, ""), (0, "b", 2, "")])
    assert (await world.run()).exit_code == 0
    assert orders(world, 0) == {"new": 1, "b": 2, "z": 3}


async def test_what_is_taken_over_is_not_changed_where_the_feed_does_not_update(
    make_world: MakeWorld,
) -> None:
    world = await make_world(patients=5)
    enter(world, 0, "a", period=EDIT["period"])
    world.write_config(feeds=FEED.format(more="update = false") + NAMED)
    write(world, [(0, "a", 1, "")])
    result = await world.run()
    assert (counts(result), rules(result)) == ({"rejected": 1}, {"row|changed": 1})
    assert writes(world) == 0


async def test_a_row_whose_patient_is_another_by_the_crosswalk_moves_there(
    make_world: MakeWorld,
) -> None:
    world = await make_world(patients=40, clock=(clock := Clock()))
    crosswalk = world.folder / "patients.csv"
    lines = [f"P{number},{patient_key(number)}" for number in range(20)]
    crosswalk.write_text("\n".join(["name,id", *lines]) + "\n")
    table = '[references.patient]\nhow = "file"\npath = "patients.csv"\nfrom = "name"\nto = "id"\n'
    world.write_config(feeds=table + FEED.format(more=CANCEL))
    more = ("self", "60054", "1", "2026-01-01", "")
    world.write_eligibility([(f"P{number}", f"m{number}", *more) for number in range(20)])
    assert counts(await world.run()) == {"created": 20}
    clock.next_day()
    enter(world, 30, "by-hand", order=1)
    crosswalk.write_text("\n".join(["name,id", f"P0,{patient_key(30)}", *lines[1:]]) + "\n")
    result = await world.run()
    assert counts(result) == {"unchanged": 19, "updated": 1}
    assert orders(world, 30) == {"m0": 1, "by-hand": 2}
    assert result.summary["feeds"][0]["warnings"] == {"order|taken": 1}


# What is gone -------------------------------------------------------------------------------------


@pytest.mark.parametrize("then", ["one comes back", "the limit is raised"])
async def test_what_too_many_kept_from_being_cancelled_is_judged_again_each_night(
    make_world: MakeWorld, then: str
) -> None:
    world = await nightly(make_world, MANY, more=CANCEL)
    write(world, MANY[2:])
    for _ in range(2):
        result = await world.run()
        assert (result.exit_code, gone(result)) == (3, {"rows": 2, "not_cancelled": 2})
    if then == "one comes back":
        write(world, MANY[1:])
    else:
        world.write_config(feeds=FEED.format(more=f'{CANCEL}\nmissing_max = "50%"'))
    count = 1 if then == "one comes back" else 2
    result = await world.run()
    assert (result.exit_code, gone(result)) == (0, {"rows": count, "cancelled": count})
    assert sum(each["status"] == "active" for each in held(world)) == len(MANY) - count


async def test_what_a_rejected_row_kept_is_cancelled_once_that_row_is_mended(
    make_world: MakeWorld,
) -> None:
    world = await nightly(make_world, MANY, more=CANCEL)
    write(world, [*MANY[1:], (0, "new", 9, "")])
    result = await world.run()
    assert (counts(result)["rejected"], gone(result)) == (1, {"rows": 1, "not_cancelled": 1})
    write(world, [*MANY[1:], (0, "new", 2, "")])
    assert gone(await world.run()) == {"rows": 1, "cancelled": 1}


async def test_a_cancel_that_is_refused_does_not_use_up_what_may_be_gone(
    make_world: MakeWorld,
) -> None:
    world = await nightly(make_world, MANY, more=CANCEL)
    edit(world, "m0")
    for first, came_to in (
        (1, {"rows": 1, "refused": 1}),
        (2, {"rows": 2, "refused": 1, "cancelled": 1}),
        (3, {"rows": 2, "refused": 1, "cancelled": 1}),
    ):
        write(world, MANY[first:])
        assert gone(await world.run()) == came_to


async def test_the_rows_of_a_run_that_was_stopped_count_as_what_there_was(
    make_world: MakeWorld,
) -> None:
    more = f'{CANCEL}\nmissing_max = "50%"'
    world = await nightly(make_world, MANY, more=more)
    write(world, [*MANY, *((number, f"x{number}", 1, "") for number in range(30, 40))])
    world.sandbox.set_faults(Faults(latency_s=(0.1, 0.1)))
    assert (await stopped(world, at=31)).exit_code == 130
    world.sandbox.set_faults(Faults())
    arrived = len(held(world)) - len(MANY)
    write(world, MANY)
    result = await world.run()
    assert arrived > 0
    assert gone(result)["cancelled"] == arrived
    assert sum(each["status"] == "active" for each in held(world)) == len(MANY)


async def test_a_row_whose_update_was_given_up_is_listed_and_not_cancelled(
    make_world: MakeWorld,
) -> None:
    world = await nightly(make_world, MANY, more=CANCEL)
    write(world, [(0, "m0", 1, "2026-12-31"), *MANY[1:]])
    world.write_config(feeds=FEED.format(more=CANCEL), quiet_s=30.0)
    world.sandbox.set_faults(Faults(lose_after=1.0))
    assert (await stopped(world, at=31)).exit_code == 130
    world.sandbox.set_faults(Faults(error_before=1.0, applies_to="reads"))
    (case,) = as_json(await review(world.job()))["in_doubt"]
    await review(world.job(), Decisions(abandon=(case["key"],), who="somebody"))
    world.sandbox.set_faults(Faults())
    write(world, MANY[1:])
    assert_not_cancelled(await world.run(), "missing|unsettled")
    assert coverage(world, "m0")["status"] == "active"


async def test_without_plans_the_books_say_what_is_gone_and_nothing_is_guessed(
    make_world: MakeWorld,
) -> None:
    world = await nightly(make_world, MANY, more=CANCEL)
    shutil.rmtree(world.folder / "state" / "plans")
    write(world, MANY[1:])
    for _ in range(2):
        assert_not_cancelled(await world.run(), "missing|unknown")
    assert writes(world) == len(MANY)


async def test_what_a_limit_kept_from_being_taken_over_is_taken_over_and_cancelled_later(
    make_world: MakeWorld,
) -> None:
    world = await make_world(patients=40)
    enter(world, 0, "m0")
    write(world, MANY)
    world.write_config(feeds=FEED.format(more=CANCEL) + NAMED, limits="writes_max = 5")
    assert ((await world.run()).exit_code, writes(world)) == (1, 0)
    world.write_config(feeds=FEED.format(more=CANCEL) + NAMED)
    assert counts(await world.run()) == {"created": 29, "unchanged": 1}
    write(world, MANY[1:])
    result = await world.run()
    assert (result.exit_code, gone(result)) == (0, {"rows": 1, "cancelled": 1})


# Rejects ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "first",
    [(0, "x", 1, ""), (0, "m0", 1, "2026-12-31")],
    ids=["collides", "contradicts"],
)
async def test_a_row_that_was_skipped_in_bulk_is_rejected_with_all_its_cells(
    make_world: MakeWorld, first: Row
) -> None:
    world = await nightly(make_world, MANY)
    write(world, [first, *MANY])
    result = await world.run()
    with (result.folder / "rejects-eligibility.csv").open(newline="") as file:
        rejected = [(line["MRN"], line["Member"]) for line in csv.DictReader(file)]
    assert (patient_key(0), "m0") in rejected
    assert len(rejected) == counts(result)["rejected"]


# Going on -----------------------------------------------------------------------------------------


async def test_a_first_load_that_was_stopped_goes_on_and_writes_nothing_again(
    make_world: MakeWorld,
) -> None:
    world = await make_world(patients=20)
    world.write_config(feeds=FEED.format(more=""), rate_per_s=50.0)
    pairs: list[Row] = [
        (number, f"m{number}-{order}", order, "") for order in (1, 2) for number in range(20)
    ]
    write(world, pairs)
    assert (await stopped(world, at=12)).exit_code == 130
    assert (await world.run()).exit_code == 0
    assert [effect["interaction"] for effect in world.effects] == ["create"] * 40
