"""A gateway whose `Date` is of another clock than Canvas' stamps: whole runs through it."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pipeline.canvas.skew import Skew
from pipeline.commands import check as doctor
from pipeline.commands.checks.context import State
from pipeline.commands.run import Result
from pipeline.records import Stamped
from pipeline.sandbox import Faults
from tests.support import postgres
from tests.support.payers import FEED, ONE, TWO, coverages, write
from tests.support.runs import counts
from tests.support.world import LEDGER_ONLY, MakeWorld, World, patient_key


class Clock:
    """Canvas' own clock, which a test moves on."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


PATIENTS = 6
OFFSETS_S = [-3600, -5, -2, 0, 2, 5, 3600]


async def night(
    world: World, clock: Clock, number: int, payer: str, end: str = "", state: str = ""
) -> Result:
    """Load a file with a coverage of each patient, and a ledger with one more payment of each."""
    clock.ahead_s += 86_400
    write(world, [payer] * PATIENTS, end=end)
    world.write_ledger(
        [
            (f"T{n}-{each}", patient_key(n), f"{n + 1}.{each:02}", "")
            for each in range(1, number + 1)
            for n in range(PATIENTS)
        ]
    )
    world.write_config(feeds=state + FEED.format(more="") + LEDGER_ONLY)
    return await world.run()


async def loaded(make_world: MakeWorld, offset_s: int, state: str = "") -> tuple[World, Clock]:
    """Two nights: the second one changed the payer to one of which no create has shown the Organization."""
    clock = Clock()
    world = await make_world(clock=clock, faults=Faults(date_offset_s=offset_s))
    assert counts(await night(world, clock, 1, ONE, state=state), 0) == {"created": PATIENTS}
    assert counts(await night(world, clock, 2, TWO, state=state), 0) == {"updated": PATIENTS}
    return world, clock


@pytest.mark.parametrize("offset_s", OFFSETS_S)
async def test_updates_pass(make_world: MakeWorld, offset_s: int) -> None:
    world, clock = await loaded(make_world, offset_s)
    result = await night(world, clock, 3, TWO, end="2026-12-31")
    assert counts(result, 0) == {"updated": PATIENTS}
    assert counts(result, 1) == {"created": PATIENTS, "unchanged": 2 * PATIENTS}
    assert len(world.effects) == 3 * PATIENTS + 3 * PATIENTS
    assert world.sandbox.account()["requests"]["by"]["PUT /Coverage"]["200"] == 2 * PATIENTS


async def test_updates_pass_with_the_journal_in_a_database(
    make_world: MakeWorld,
    database: str,
    postgres_server: postgres.Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PGPASSWORD", postgres_server.password)
    state = f'[state]\nurl = "{database}"\nlease_s = 3\n'
    world, clock = await loaded(make_world, -5, state)
    result = await night(world, clock, 3, TWO, "2026-12-31", state)
    assert counts(result, 0) == {"updated": PATIENTS}


@pytest.mark.parametrize("element", ["period", "payor"])
@pytest.mark.parametrize("offset_s", OFFSETS_S)
async def test_an_edit_a_few_seconds_after_our_write_is_a_conflict(
    make_world: MakeWorld, offset_s: int, element: str
) -> None:
    world, clock = await loaded(make_world, offset_s)
    clock.ahead_s += 4
    (held,) = coverages(world, 0)
    other = {"reference": "Organization/6741b035-2846-45b3-b7a3-251f7b7fc728", "display": "Plan"}
    edits: dict[str, Any] = {
        "period": {"start": "2026-01-01", "end": "2026-03-31"},
        "payor": [other],
    }
    world.sandbox.edit_by_hand("Coverage", held["id"], {element: edits[element]})
    result = await night(world, clock, 3, TWO, end="2026-12-31")
    assert counts(result, 0) == {"updated": PATIENTS - 1, "refused": 1}
    assert coverages(world, 0)[0][element] == edits[element]


@pytest.mark.parametrize("resend_absent", ["coverage", "all"])
@pytest.mark.parametrize("offset_s", OFFSETS_S)
@pytest.mark.parametrize("lost", [2, PATIENTS])
async def test_a_payment_whose_answer_was_lost_is_never_sent_twice(
    make_world: MakeWorld, offset_s: int, lost: int, resend_absent: str
) -> None:
    world = await make_world(
        faults=Faults(
            lose_after=1.0,
            faults_max=lost,
            date_offset_s=offset_s,
            resource_types=("PaymentNotice",),
        )
    )
    world.write_ledger([(f"T{n}", patient_key(n), f"{n + 1}.00", "") for n in range(PATIENTS)])
    world.write_config(feeds=LEDGER_ONLY, resend_absent=resend_absent, doubts_max=10)
    results = [counts(await world.run()) for _ in range(2)]
    assert len(world.effects) == PATIENTS
    if lost < PATIENTS or not offset_s:
        assert results == [{"created": PATIENTS}, {"unchanged": PATIENTS}]


@pytest.mark.parametrize(
    ("offset_s", "told"),
    [
        (0, "agrees with the clock that stamps payments"),
        (-5, "the Date of answers was 5 seconds behind the clock that stamps payments"),
        (3600, "the Date of answers was 3,600 seconds ahead of the clock that stamps payments"),
    ],
)
async def test_check_names_the_distance_of_the_clocks(
    make_world: MakeWorld, offset_s: int, told: str
) -> None:
    world = await make_world(faults=Faults(date_offset_s=offset_s))
    world.write_ledger([("T1", patient_key(0), "1.00", "")])
    world.write_config(feeds=LEDGER_ONLY)
    assert (await world.run()).exit_code == 0
    (found,) = [each for each in await doctor.check(world.job()) if each.what == "clock of Date"]
    assert found.message.startswith(told)
    assert (found.state is State.WARNING) is bool(offset_s)


# What payments show ---------------------------------------------------------------------------------

DATED = datetime(2026, 11, 21, 2, 30, tzinfo=UTC)


def skew_of(ahead_s: float, answered_within_s: float = 0.2) -> Skew:
    took = timedelta(seconds=answered_within_s)
    payment = Stamped("p1", DATED, DATED, DATED + took)
    return Skew.of(payment, DATED + timedelta(seconds=ahead_s))


@pytest.mark.parametrize(
    ("ahead_s", "least_s", "most_s"),
    [
        (0.0, 0, 0),
        (0.9, 0, 0),
        (-0.1, 0, 0),
        (1.9, 1, 3),
        (5.3, 5, 6),
        (-5.0, -6, -4),
        (3600.5, 3600, 3601),
        (-0.9, -1, 0),
    ],
)
def test_a_condition_moves_by_what_a_payment_shows(
    ahead_s: float, least_s: int, most_s: int
) -> None:
    skew = skew_of(ahead_s)
    assert skew.stamped_by(DATED) == DATED + timedelta(seconds=least_s)
    assert skew.stamped_by(DATED, latest=True) == DATED + timedelta(seconds=most_s)


def test_payments_that_contradict_each_other_show_nothing() -> None:
    assert Skew.agreed([]) is None
    assert Skew.agreed([skew_of(5.0), skew_of(-5.0)]) is None
    assert Skew.agreed([skew_of(5.0), skew_of(5.5)]) == Skew(skew_of(5.5).least, skew_of(5.0).most)
    assert Skew.agreed([skew_of(5.0, answered_within_s=-9.0)]) is None, "our clock was set"


async def test_an_edit_that_was_found_is_not_overwritten_the_night_after(
    make_world: MakeWorld,
) -> None:
    """`Date` is an hour ahead, so that the condition lets an edit pass; the read after a lost answer found it."""
    clock = Clock()
    world = await make_world(patients=1, clock=clock, faults=Faults(date_offset_s=3600))
    world.write_config(feeds=FEED.format(more=""), quiet_s=0.05)
    write(world, [ONE])
    assert counts(await world.run()) == {"created": 1}
    (held,) = coverages(world, 0)
    edited = {"start": "2026-01-01", "end": "2026-03-31"}
    world.sandbox.edit_by_hand("Coverage", held["id"], {"period": edited})
    write(world, [ONE], end="2026-12-31")
    world.sandbox.set_faults(Faults(date_offset_s=3600, lose_before=1.0, faults_max=1))
    for _ in range(2):
        result = await world.run()
        assert (counts(result), result.frame["rule"][0]) == ({"refused": 1}, "conflict")
        assert coverages(world, 0)[0]["period"] == edited
    world.sandbox.edit_by_hand("Coverage", held["id"], {"period": held["period"]})
    assert counts(await world.run()) == {"updated": 1}
    assert coverages(world, 0)[0]["period"]["end"] == "2026-12-31"
