"""The payer is evidence, too: Canvas never returns a payer id, and no payer is taken for another one."""

from collections.abc import Sequence
from typing import Any

import pytest

from pipeline.commands.decisions import Decisions
from pipeline.commands.review import review
from pipeline.commands.run import Result
from pipeline.commands.verify import read_back
from pipeline.sandbox import Faults
from tests.support.nightly import Clock, enter
from tests.support.payers import FEED, ONE, TWO, coverages, write
from tests.support.runs import counts
from tests.support.world import OTHER_PAYER, PAYER, MakeWorld, World, patient_key


def payor(insurer: dict[str, str]) -> dict[str, Any]:
    """The payer as Canvas shows it."""
    reference = {"reference": f"Organization/{insurer['id']}", "type": "Organization"}
    return {"payor": [{**reference, "display": insurer["name"]}]}


BY_HAND: dict[str, Any] = payor(OTHER_PAYER)
NAMED = FEED.format(more="") + 'payer_name = "Name"\n'


def insurers(world: World, number: int) -> list[str]:
    """Return the names of the insurers that Canvas shows for a patient's coverages."""
    return sorted(each["payor"][0]["display"] for each in coverages(world, number))


def faults(name: str, most: int) -> Faults:
    """Faults that strike the first writes, so many of them."""
    chances: dict[str, Any] = {name: 1.0}
    return Faults(**chances, faults_max=most)


def rules(result: Result) -> set[str]:
    return {rule for rule in result.frame["rule"] if rule}


async def loaded(make_world: MakeWorld, payers: Sequence[str], **options: Any) -> World:
    world = await make_world(patients=80, **options)
    world.write_config(feeds=FEED.format(more=""))
    write(world, payers)
    assert counts(await world.run()) == {"created": len(payers)}
    return world


# Updates ------------------------------------------------------------------------------------------


async def test_a_corrected_payer_is_updated_or_not_reported_as_updated(
    make_world: MakeWorld,
) -> None:
    """Canvas refuses each update with 412 at first: its last write is of the same second, and it keeps fractions."""
    world = await loaded(make_world, [ONE] * 60, clock=lambda: 1_795_000_000.5)
    write(world, [TWO] * 60)
    result = await world.run()
    updated = result.frame.filter(result.frame["disposition"] == "updated")["key"]
    shown = [insurers(world, number) for number in range(60)]
    assert shown.count(["Other Plan"]) == updated.len() == 60
    verified = await read_back(world.job())
    assert (verified.exit_code, verified.summary["verification"]["match"]) == (0, 60)
    assert counts(await world.run()) == {"unchanged": 60}


@pytest.mark.parametrize("fault", ["lose_before", "lose_after", "error_before", "error_after"])
async def test_a_lost_update_of_the_payer_is_never_taken_for_one_that_arrived(
    make_world: MakeWorld, fault: str
) -> None:
    clock = Clock()
    world = await loaded(make_world, [ONE] * 8, clock=clock)
    clock.next_day()
    write(world, [TWO] * 8)
    world.sandbox.set_faults(faults(fault, 8))
    result = await world.run()
    for number, disposition in enumerate(result.frame["disposition"]):
        if disposition == "updated":
            assert insurers(world, number) == ["Other Plan"]
        else:
            assert disposition == "in_doubt"
    if fault.endswith("before"):
        assert counts(result) == {"updated": 8}, "sent again under the precondition"


async def test_a_lost_update_is_found_by_a_payer_that_is_known(make_world: MakeWorld) -> None:
    """Both Organizations were learned from creates, so the payer can be compared."""
    clock = Clock()
    world = await loaded(make_world, [ONE] * 8 + [TWO], clock=clock)
    clock.next_day()
    write(world, [TWO] * 9)
    world.sandbox.set_faults(Faults(lose_after=1.0, faults_max=8))
    assert counts(await world.run()) == {"updated": 8, "unchanged": 1}
    assert all(insurers(world, number) == ["Other Plan"] for number in range(9))
    updates = [each for each in world.effects if each["interaction"] == "update"]
    assert len(updates) == 8, "none of them is sent again"


async def test_an_edit_of_a_payer_that_is_known_is_a_conflict(make_world: MakeWorld) -> None:
    clock = Clock()
    world = await loaded(make_world, [ONE], clock=clock)
    clock.next_day()
    world.sandbox.edit_by_hand("Coverage", coverages(world, 0)[0]["id"], BY_HAND)
    write(world, [ONE], end="2026-12-31")
    result = await world.run()
    assert (counts(result), rules(result)) == ({"refused": 1}, {"conflict"})
    assert insurers(world, 0) == ["Other Plan"], "the edit is not overwritten"
    assert (await read_back(world.job())).summary["verification"]["elements"] == {"payor": 1}


# Taking over --------------------------------------------------------------------------------------


async def test_a_coverage_whose_payer_may_be_another_one_is_not_taken_over(
    make_world: MakeWorld,
) -> None:
    world = await make_world(patients=2)
    world.write_config(feeds=FEED.format(more='missing = "cancel"\nmissing_max = 5'))
    by_hand = enter(world, 0, "M0", **BY_HAND)
    write(world, [ONE])
    result = await world.run()
    assert (counts(result), rules(result)) == ({"rejected": 1}, {"row|ambiguous"})
    assert "payer" in result.frame["message"][0]
    (shown,) = coverages(world, 0)
    assert (shown["id"], shown["status"], insurers(world, 0)) == (by_hand, "active", ["Other Plan"])
    write(world, [ONE], first=1)
    await world.run()
    assert coverages(world, 0)[0]["status"] == "active", "it is never ours to cancel"


async def test_a_payer_that_is_known_tells_two_insurers_apart(make_world: MakeWorld) -> None:
    """The first run learns the Organization of the payer id from a create of its own."""
    world = await loaded(make_world, [ONE])
    theirs, ours = enter(world, 1, "M1", **BY_HAND), enter(world, 2, "M2", **payor(PAYER))
    write(world, [ONE] * 3)
    assert counts(await world.run()) == {"unchanged": 2, "created": 1}
    assert {each["id"] for each in coverages(world, 1)} > {theirs}
    assert [each["id"] for each in coverages(world, 2)] == [ours]


async def test_the_name_of_the_payer_tells_two_insurers_apart(make_world: MakeWorld) -> None:
    world = await make_world(patients=2)
    world.write_config(feeds=NAMED)
    ours, theirs = enter(world, 0, "M0", **payor(PAYER)), enter(world, 1, "M1", **BY_HAND)
    (world.folder / "eligibility.csv").write_text(
        "MRN,Member,Rel,Payer,Order,Start,End,Name\n"
        + "".join(f"{patient_key(n)},M{n},self,{ONE},1,2026-01-01,, plan\n" for n in range(2))
    )
    result = await world.run()
    assert (counts(result), rules(result)) == (
        {"unchanged": 1, "rejected": 1},
        {"row|adopted", "row|ambiguous"},
    )
    assert [coverages(world, n)[0]["id"] for n in range(2)] == [ours, theirs]


async def test_a_table_that_names_both_tells_two_insurers_apart(make_world: MakeWorld) -> None:
    world = await make_world(patients=2)
    table = """
[references.payer]
how = "file"
path = "payers.csv"
from = "Name"
to = "Payer"
organization = "Canvas"
"""
    world.write_config(feeds=table + FEED.format(more=""))
    (world.folder / "payers.csv").write_text(
        f"Name,Payer,Canvas\nplan,{ONE},{PAYER['id']}\nother,{TWO},{OTHER_PAYER['id']}\n"
    )
    ours = enter(world, 0, "M0", **payor(PAYER))
    enter(world, 1, "M1", **BY_HAND)
    write(world, ["plan", "plan"])
    assert counts(await world.run()) == {"unchanged": 1, "created": 1}
    assert [each["id"] for each in coverages(world, 0)] == [ours]
    assert insurers(world, 1) == ["Other Plan", "Plan"]


# Recovery -----------------------------------------------------------------------------------------


async def test_a_lost_create_is_not_found_in_a_coverage_of_another_insurer(
    make_world: MakeWorld,
) -> None:
    """It was entered by hand with the same member id, and the payer id is not known yet."""
    world = await make_world(patients=2)
    theirs = enter(world, 0, "M0", **BY_HAND)
    world.write_config(feeds=FEED.format(more="adopt = false"))
    write(world, [ONE])
    world.sandbox.set_faults(Faults(lose_before=1.0, faults_max=1))
    result = await world.run()
    assert (counts(result), rules(result)) == ({"in_doubt": 1}, {"recover|payer"})
    assert [each["id"] for each in coverages(world, 0)] == [theirs]


@pytest.mark.parametrize("fault", ["lose_before", "lose_after"])
async def test_a_lost_create_is_settled_by_a_payer_that_is_known(
    make_world: MakeWorld, fault: str
) -> None:
    world = await loaded(make_world, [ONE])
    world.write_config(feeds=FEED.format(more="adopt = false"))
    enter(world, 1, "M1", **BY_HAND)
    write(world, [ONE, ONE])
    world.sandbox.set_faults(faults(fault, 1))
    assert counts(await world.run()) == {"unchanged": 1, "created": 1}
    assert insurers(world, 1) == ["Other Plan", "Plan"]


# Verifying ----------------------------------------------------------------------------------------


async def test_verify_finds_a_payer_that_was_edited(make_world: MakeWorld) -> None:
    world = await loaded(make_world, [ONE] * 5)
    world.sandbox.edit_by_hand("Coverage", coverages(world, 3)[0]["id"], BY_HAND)
    result = await read_back(world.job())
    found = result.summary["verification"]
    assert (result.exit_code, found["match"], found["elements"]) == (3, 4, {"payor": 1})


async def test_a_lost_create_waits_for_a_payer_that_others_show(make_world: MakeWorld) -> None:
    """The first answer is lost before any create has shown the Organization of the payer id."""
    world = await make_world(patients=40)
    world.write_config(feeds=FEED.format(more=""), rate_per_s=20.0, concurrency=1)
    write(world, [ONE] * 30)
    world.sandbox.set_faults(faults("lose_after", 1))
    assert counts(await world.run()) == {"created": 30}


async def test_verify_learns_a_payer_that_several_resources_agree_on(make_world: MakeWorld) -> None:
    """Updates to a payer id that no create has shown: verify compares what their resources show."""
    clock = Clock()
    world = await loaded(make_world, [ONE] * 4, clock=clock)
    clock.next_day()
    write(world, [TWO] * 4)
    assert counts(await world.run()) == {"updated": 4}
    one = coverages(world, 3)[0]["id"]
    world.sandbox.edit_by_hand("Coverage", one, payor(PAYER))
    found = (await read_back(world.job())).summary["verification"]
    assert (found["match"], found["elements"], found["payers_unknown"]) == (3, {"payor": 1}, 3)
    world.sandbox.edit_by_hand("Coverage", one, BY_HAND)
    found = (await read_back(world.job())).summary["verification"]
    assert (found["match"], found["payers_unknown"]) == (4, 0), "now they agree"
    world.sandbox.edit_by_hand("Coverage", one, payor(PAYER))
    found = (await read_back(world.job())).summary["verification"]
    assert (found["match"], found["elements"], found["payers_unknown"]) == (3, {"payor": 1}, 0)


async def test_a_person_settles_an_update_of_which_the_payer_cannot_be_compared(
    make_world: MakeWorld,
) -> None:
    clock = Clock()
    world = await loaded(make_world, [ONE], clock=clock)
    clock.next_day()
    write(world, [TWO])
    world.sandbox.set_faults(Faults(lose_after=1.0, faults_max=1))
    result = await world.run()
    assert (counts(result), rules(result)) == ({"in_doubt": 1}, {"recover|payer"})
    key, resource_id = result.frame["key"][0], coverages(world, 0)[0]["id"]
    reviewed = await review(world.job(), Decisions(confirm={key: resource_id}, who="tester"))
    assert [each.what for each in reviewed.decided] == ["confirmed"]
    assert counts(await world.run()) == {"unchanged": 1}


async def test_a_second_insurer_with_the_same_member_id_is_no_stray(make_world: MakeWorld) -> None:
    world = await loaded(make_world, [ONE])
    enter(world, 0, "M0", 2, **BY_HAND)
    assert (await read_back(world.job())).summary["verification"]["stray"] == 0


# Rows ---------------------------------------------------------------------------------------------


async def test_a_dependent_is_not_its_own_subscriber(make_world: MakeWorld) -> None:
    world = await make_world(patients=3)
    feed = FEED.format(more="") + 'subscriber = "Subscriber"\n'
    world.write_config(feeds=feed)
    (world.folder / "eligibility.csv").write_text(
        "MRN,Member,Rel,Payer,Order,Start,End,Subscriber\n"
        f"{patient_key(0)},M0,child,{ONE},1,2026-01-01,,{patient_key(0)}\n"
        f"{patient_key(1)},M1,child,{ONE},1,2026-01-01,,{patient_key(0)}\n"
    )
    result = await world.run()
    assert (counts(result), rules(result)) == (
        {"created": 1, "rejected": 1},
        {"subscriber|not_self"},
    )


async def test_an_update_that_an_earlier_run_lost_is_not_taken_for_an_edit(
    make_world: MakeWorld,
) -> None:
    """Canvas took it, no read can show that, and the run used up its attempts."""
    clock = Clock()
    world = await make_world(patients=2, clock=clock)
    feeds = FEED.format(more="") + '[feeds.constants]\npayer_name = "Plan"\n'
    world.write_config(feeds=feeds, attempts_max=1)
    write(world, [ONE])
    world.sandbox.set_faults(faults("lose_after", 1))
    assert counts(await world.run()) == {"created": 1}, "found by its name: nothing is learned"
    clock.next_day()
    write(world, [TWO])
    world.sandbox.set_faults(Faults(lose_after=1.0))
    assert counts(await world.run()) == {"pending": 1}
    world.sandbox.set_faults(Faults())
    assert insurers(world, 0) == ["Other Plan"]
    clock.next_day()
    result = await world.run()
    assert (counts(result), rules(result)) == ({"in_doubt": 1}, {"recover|payer"})
