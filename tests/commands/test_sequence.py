"""Coverages that are numbered in the file's order, night after night."""

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

from pipeline.errors import ConfigError
from pipeline.reporting.words import notes
from tests.support.nightly import orders, rules, stopped
from tests.support.rosters import roster_feed
from tests.support.runs import counts
from tests.support.world import MakeWorld, World, patient_key

HEADER = ["MRN", "Member", "Rel", "Payer", "Type", "Status", "Start", "End"]
FEED = roster_feed(" ".join(HEADER), "{more}", name="{name}")


def line(member: str, patient: int = 1, **more: str) -> tuple[str, ...]:
    row = {"rel": "self", "payer": "60054", "type": "", "status": "", "start": "2026-01-01"} | more
    mrn = row.get("mrn", patient_key(patient))
    shown = ("rel", "payer", "type", "status", "start")
    return (mrn, member, *(row[name] for name in shown), row.get("end", ""))


def write(world: World, rows: Sequence[tuple[str, ...]], name: str = "roster.csv") -> Path:
    return world._write(name, HEADER, rows)


async def roster(make_world: MakeWorld, more: str = "") -> World:
    world = await make_world(patients=20)
    world.write_config(feeds=FEED.format(name="roster", more=more))
    return world


async def night(world: World, *members: Any, exit_code: int = 0) -> dict[str, int]:
    """Run a night with these rows, and return the orders of patient 1."""
    write(world, [each if isinstance(each, tuple) else line(each) for each in members])
    result = await world.run()
    assert result.exit_code == exit_code
    return orders(world, 1)


async def test_nights_of_shuffles_joins_and_leaves(make_world: MakeWorld) -> None:
    world = await roster(make_world, 'missing = "cancel"\nmissing_max = "100%"')
    assert await night(world, "a", "b") == {"a": 1, "b": 2}
    assert await night(world, "b", "a") == {"a": 1, "b": 2}
    assert len(world.effects) == 2
    assert await night(world, "c", "b", "a") == {"a": 1, "b": 2, "c": 3}
    assert await night(world, "c", "b") == {"b": 1, "c": 2}
    result = await world.run()
    assert counts(result) == {"unchanged": 2}
    assert result.summary["feeds"][0]["numbered"] == {"numbered": 2, "moved": 0}
    assert await night(world, "a", "b", "c") == {"b": 1, "c": 2, "a": 3}


async def test_lines_of_coverage_follow_each_other(make_world: MakeWorld) -> None:
    world = await roster(make_world)
    eye, tooth, life = (
        line(name, type=code) for name, code in (("v", "VISPOL"), ("d", "DENTAL"), ("l", "LIFE"))
    )
    assert await night(world, life, eye, tooth) == {"d": 1, "v": 2, "l": 3}
    moved = {"m": 1, "d": 2, "v": 3, "l": 4}
    assert await night(world, life, eye, tooth, line("m", type="PPO")) == moved
    assert await night(world, tooth, line("m", type="PPO"), eye, life) == moved


async def test_the_sixth_is_rejected_and_none_that_canvas_has(make_world: MakeWorld) -> None:
    world = await roster(make_world)
    five = {name: order for order, name in enumerate("abcde", 1)}
    assert await night(world, *"abcdef", exit_code=3) == five
    result = await world.run()
    assert rules(result) == {"order|sixth": 1}
    assert await night(world, line("z"), *"abcde", exit_code=3) == five
    rest = await night(world, *"bcdef")
    assert {name: rest[name] for name in "bcdef"} == {"b": 1, "c": 2, "d": 3, "e": 4, "f": 5}


async def test_a_coverage_that_has_ended_frees_its_number(make_world: MakeWorld) -> None:
    world = await roster(make_world)
    assert await night(world, "a", "b") == {"a": 1, "b": 2}
    ended = line("a", end="2026-06-30")
    assert await night(world, ended, "b") == {"a": 2, "b": 1}
    effects = len(world.effects)
    assert await night(world, "b", ended) == {"a": 2, "b": 1}
    assert len(world.effects) == effects
    assert await night(world, "b", ended, "c") == {"b": 1, "c": 2, "a": 3}
    gone = line("a", status="cancelled", end="2026-06-30")
    assert await night(world, "b", gone, "c") == {"b": 1, "c": 2}
    effects = len(world.effects)
    assert await night(world, gone, "c", "b") == {"b": 1, "c": 2}
    assert len(world.effects) == effects


async def test_many_that_have_ended_at_the_same_time_are_loaded(make_world: MakeWorld) -> None:
    world = await roster(make_world)
    old = [line(f"old{n}", end="2026-02-28") for n in range(6)]
    found = await night(world, *old, "a", "b")
    assert (found["a"], found["b"]) == (1, 2)
    assert sorted(found.values()) == [1, 2, 3, 4, 5, 5, 5, 5]
    effects = len(world.effects)
    assert await night(world, "b", *old, "a") == found
    assert len(world.effects) == effects


async def test_a_rejected_row_keeps_the_order_of_its_coverage_and_a_new_one_takes_none(
    make_world: MakeWorld,
) -> None:
    world = await roster(make_world)
    assert await night(world, "a", "b", "c") == {"a": 1, "b": 2, "c": 3}
    broken = line("b", status="lapsed")
    assert await night(world, "a", broken, "c", exit_code=3) == {"a": 1, "b": 2, "c": 3}
    # The primary leaves; the third may not pass the second, whose row cannot be read.
    write(world, [broken, line("c"), line("new", payer="NULL")])
    await world.run()
    assert orders(world, 1) == {"a": 1, "b": 2, "c": 3}
    write(world, [line("b"), line("c")])
    await world.run()
    found = orders(world, 1)
    assert (found["b"], found["c"]) == (1, 2)


async def test_a_rejected_row_of_another_key_may_be_any_that_is_gone(
    make_world: MakeWorld,
) -> None:
    world = await roster(make_world)
    assert await night(world, "a", "b") == {"a": 1, "b": 2}
    assert await night(world, line("aa", payer="NULL"), "b", exit_code=3) == {"a": 1, "b": 2}
    assert len(world.effects) == 2


@pytest.mark.parametrize("how", ["input", "increment", "rejects"])
async def test_files_that_lack_rows_move_nothing(make_world: MakeWorld, how: str) -> None:
    world = await roster(make_world, 'delivery = "increment"' if how == "increment" else "")
    rows = [line("a"), line("b"), line("c", payer="NULL" if how == "rejects" else "60054")]
    path = write(world, rows)
    result = await world.run()
    if how == "increment":
        write(world, [line("b", end="2030-12-31"), line("d")])
        await world.run()
    elif how == "input":
        path = write(world, [line("b", end="2030-12-31"), line("d")], "change.csv")
        await world.run(inputs={"roster": path})
    else:
        rejects = next(result.folder.glob("rejects-*.csv"))
        rejects.write_text(rejects.read_text().replace("NULL", "60054"))
        path.write_bytes(rejects.read_bytes())
        await world.run()
        assert orders(world, 1) == {"a": 1, "b": 2, "c": 3}
        return
    assert orders(world, 1) == {"a": 1, "b": 2, "c": 3, "d": 4}


async def test_two_feeds_are_numbered_together_and_alone(make_world: MakeWorld) -> None:
    world = await make_world(patients=20)
    more = 'missing = "cancel"\nmissing_max = "100%"'
    feeds = "".join(FEED.format(name=name, more=more) for name in ("roster", "dental"))
    world.write_config(feeds=feeds)
    write(world, [line("d", type="DENTAL")], "dental.csv")
    assert await night(world, "m", "n") == {"m": 1, "n": 2, "d": 3}
    write(world, [line("d", type="DENTAL", end="2030-12-31")], "dental.csv")
    await world.run(only_feeds=("dental",))
    assert orders(world, 1) == {"m": 1, "n": 2, "d": 3}
    assert await night(world, "n") == {"n": 1, "d": 2}


async def test_a_run_that_is_stopped_between_two_moves_is_continued(
    make_world: MakeWorld,
) -> None:
    world = await roster(make_world)
    assert await night(world, "a", "b", "c") == {"a": 1, "b": 2, "c": 3}
    slow: dict[str, Any] = {"rate_per_s": 4.0, "concurrency": 1}
    world.write_config(
        feeds=FEED.format(name="roster", more='missing = "cancel"\nmissing_max = "100%"'), **slow
    )
    write(world, [line("c"), line("b")])
    assert (await stopped(world, at=4)).exit_code == 130
    world.write_config(
        feeds=FEED.format(name="roster", more='missing = "cancel"\nmissing_max = "100%"')
    )
    write(world, [line("b"), line("c")])
    assert (await world.run()).exit_code == 0
    assert orders(world, 1) == {"b": 1, "c": 2}
    assert counts(await world.run()) == {"unchanged": 2}


async def test_a_repeated_row_has_one_number(make_world: MakeWorld) -> None:
    world = await roster(make_world)
    write(world, [line("a"), line("a"), line("b"), line("b", end="2030-01-01")])
    result = await world.run()
    assert rules(result) == {"row|duplicate": 1, "row|contradicts": 1}
    assert orders(world, 1) == {"a": 1, "b": 2}


async def test_rows_of_unknown_patients_break_no_further_rule(make_world: MakeWorld) -> None:
    world = await roster(make_world)
    write(world, [line("a", mrn="no id"), line("b", mrn="")])
    assert rules(await world.run()) == {"patient|form": 1, "patient|required": 1}


async def test_with_update_false_nothing_moves(make_world: MakeWorld) -> None:
    world = await roster(make_world, "update = false")
    assert await night(world, "a", "b") == {"a": 1, "b": 2}
    found = await night(world, "b", "c")
    assert (found["b"], found["c"]) == (2, 3)


async def test_the_plan_says_how_many_were_numbered_and_moved(make_world: MakeWorld) -> None:
    world = await roster(make_world)
    await night(world, "a", "b")
    write(world, [line("b"), line("c")])
    result = await world.run()
    assert "Order of roster by sequence: 2 active coverages numbered, 1 of them moved." in notes(
        result.summary
    )


async def test_an_order_that_is_mapped_too_is_refused(make_world: MakeWorld) -> None:
    world = await roster(make_world)
    world.write_config(feeds=FEED.format(name="roster", more="") + 'order = "Order"\n')
    with pytest.raises(ConfigError, match="order is mapped too"):
        world.job()


@pytest.mark.slow  # whole runs
@pytest.mark.parametrize("seed", range(4))
async def test_nights_that_are_stopped_end_as_a_slow_reading_says(
    make_world: MakeWorld, seed: int
) -> None:
    random = Random(seed)
    world = await roster(make_world, 'missing = "cancel"\nmissing_max = "100%"')
    types = {"DENTAL": 1, "VISPOL": 2, "LIFE": 3, "PPO": 0, "": 0}
    lines: dict[str, tuple[int, str]] = {}  # member: patient, type
    before: dict[int, dict[str, int]] = {1: {}, 2: {}}
    for number in range(5):
        lines = {member: each for member, each in lines.items() if random.random() < 0.8}
        for at in range(random.randrange(4)):
            lines[f"m{number}-{at}"] = random.choice((1, 2)), random.choice(list(types))
        for patient in before:
            for member in [name for name, each in lines.items() if each[0] == patient][5:]:
                del lines[member]
        rows = random.sample(list(lines), len(lines))
        if not rows:
            continue
        write(world, [line(name, lines[name][0], type=lines[name][1]) for name in rows])
        if random.random() < 0.6:
            await stopped(world, at=len(world.effects) + random.randrange(1, 4))
        result = await world.run()
        assert result.exit_code == 0, result.failure
        for patient, held in before.items():
            mine = [name for name in rows if lines[name][0] == patient]
            turn = sorted(
                mine,
                key=lambda name: (types[lines[name][1]], held.get(name, 9), rows.index(name)),
            )
            before[patient] = {name: order for order, name in enumerate(turn, 1)}
            assert orders(world, patient) == before[patient]
