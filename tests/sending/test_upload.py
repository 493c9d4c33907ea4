"""When a write is sent, and when it is not: whole runs, and what the local Canvas saw arrive."""

import asyncio
from collections import Counter
from contextlib import suppress
from datetime import timedelta
from email.utils import format_datetime
from pathlib import Path
from random import Random

import pytest

from pipeline.canvas import client as canvas
from pipeline.canvas.auth import Credentials
from pipeline.canvas.transport import Transport
from pipeline.clock import HandClock
from pipeline.commands import run as engine
from pipeline.errors import JournalError, Unreachable
from pipeline.job import UploadSettings
from pipeline.journal import history, opening, writes
from pipeline.journal.journal import Journal
from pipeline.records import Doubt, Intent, Interaction
from pipeline.sandbox import Faults
from pipeline.sending.claimer import Claimer
from pipeline.sending.claims import Claims
from pipeline.sending.flow import Flow, Tools
from pipeline.sending.queues import PatientQueues
from pipeline.sending.recover import Recovery
from pipeline.sending.searcher import Searcher
from pipeline.sending.settler import Settler
from tests.support.world import FEEDS, LEDGER_ONLY, MakeWorld, World, patient_key

# The payer's name shows that a coverage is of the payer that was sent, before its Organization is known.
COVERAGES_ONLY = FEEDS[: FEEDS.rindex("[[feeds]]")] + '[feeds.constants]\npayer_name = "Plan"\n'


def write_payments(world: World, patients: int) -> None:
    world.write_ledger([(f"T{n}", patient_key(n), "5.00", "") for n in range(patients)])


def write_coverage(world: World) -> None:
    world.write_eligibility([(patient_key(0), "M1", "self", "60054", "1", "2026-01-01", "")])


@pytest.mark.parametrize(
    ("ahead_then", "left_s"),
    [
        pytest.param(timedelta(), 10.0, id="both clocks as they were"),
        pytest.param(timedelta(hours=1), 30.0, id="one was set since"),
        pytest.param(None, 30.0, id="not known then"),
    ],
)
async def test_the_quiet_time_of_an_earlier_loss_goes_by_no_clock_that_was_set_since(
    tmp_path: Path, ahead_then: timedelta | None, left_s: float
) -> None:
    clock = HandClock()
    at = clock.now()
    client = canvas.Client(CANVAS, Transport(1.0, 1), clock, Random(1))
    client.server_clock.hear(format_datetime(at, usegmt=True), at, at)
    earliest = client.server_clock.earliest(at)
    assert earliest is not None
    until = earliest - timedelta(seconds=20)
    doubt = Doubt(COVERAGE, 1, 0, until, until, False, ahead_then, "canvas|500", "lost")
    with opening.open_journal(tmp_path, CANVAS.base_url) as journal:
        searcher = Searcher(flow_of(client, journal, clock))
        assert searcher.still_quiet_s(doubt) == pytest.approx(left_s)


async def test_a_probe_that_was_not_carried_out_is_made_again(tmp_path: Path) -> None:
    clock = HandClock()
    client = canvas.Client(CANVAS, Transport(1.0, 1), clock, Random(1))
    update = COVERAGE._replace(interaction=Interaction.UPDATE, resource_id="c1")
    with opening.open_journal(tmp_path, CANVAS.base_url) as journal:
        flow = flow_of(client, journal, clock)
        searcher = Searcher(flow)
        claims = Claims(1.0)
        settler = Settler(flow, claims, searcher, asyncio.TaskGroup())
        claimer = Claimer(flow, claims, searcher, settler)
        searcher.probes["k1"] = clock.now()
        for _ in range(2):  # a 429 came in between
            guarded, edited = await claimer._with_preconditions([update])
            assert ([each.held_at for each in guarded], edited) == ([clock.now()], set())


CANVAS = canvas.Options("http://127.0.0.1:1", Credentials("http://127.0.0.1:1/t", token="t"))
COVERAGE = Intent("k1", "f", "Coverage", Interaction.CREATE, "p1", b"", "", None, "", "", "r0")


def flow_of(client: canvas.Client, journal: Journal, clock: HandClock) -> Flow:
    asks = Recovery(client, journal, clock, 30.0, "r1", lambda *_: None)
    options = UploadSettings(quiet_s=30.0)
    tools = Tools("r1", client, journal, asks, options, clock, Random(1), asyncio.Event())
    return Flow(tools, PatientQueues(), lambda *_: None)


def arrivals(world: World) -> int:
    return sum(len(each) for each in world.sandbox.account()["writes_of"].values())


async def test_nothing_is_sent_that_is_not_marked_in_flight_on_disk(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> None:
        await asyncio.sleep(0.2)
        raise JournalError("the disk is full", "")

    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY)
    write_payments(world, 20)
    monkeypatch.setattr(writes, "settle", fail)
    with suppress(JournalError):
        assert (await world.run()).exit_code == 1
    assert arrivals(world) == 0


async def test_no_more_is_claimed_ahead_than_the_next_one_and_one_behind_it(
    make_world: MakeWorld,
) -> None:
    """At a slow rate all senders wait: what they have claimed is in doubt if the machine fails."""
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY, concurrency=8, rate_per_s=5.0)
    write_payments(world, 20)
    stop = asyncio.Event()
    run = asyncio.create_task(engine.run(world.job(), stop=stop))
    async with asyncio.timeout(10):
        while arrivals(world) < 2:
            await asyncio.sleep(0.005)
    stop.set()
    assert (await run).exit_code == 130
    with opening.open_journal(world.folder / "state", world.url) as journal:
        events = Counter(line.event for line, _ in history.read_lines(journal))
    assert events["claim"] - events["write"] == events["release"]
    assert 1 <= events["release"] <= 2


async def test_what_is_lost_a_second_time_is_not_sent_a_third(make_world: MakeWorld) -> None:
    world = await make_world(patients=1, faults=Faults(lose_before=1.0, faults_max=3))
    world.write_config(feeds=COVERAGES_ONLY)
    write_coverage(world)
    assert ((await world.run()).exit_code, arrivals(world), world.effects) == (4, 2, [])


async def test_the_quiet_time_of_a_write_holds_for_the_next_run_too(make_world: MakeWorld) -> None:
    """It commits when the next run is under way: a search before that shows nothing."""
    world = await make_world(patients=1, faults=Faults(late_commit=1.0, late_commit_s=0.6))
    world.write_config(feeds=COVERAGES_ONLY, quiet_s=1.5)
    write_coverage(world)
    stop = asyncio.Event()
    first = asyncio.create_task(engine.run(world.job(), stop=stop))
    async with asyncio.timeout(10):
        while not arrivals(world):
            await asyncio.sleep(0.005)
    stop.set()
    assert (await first).exit_code == 130
    world.sandbox.set_faults(Faults())
    second = await world.run()
    assert (second.exit_code, len(world.effects), arrivals(world)) == (0, 1, 1)


async def test_a_run_ends_where_answers_to_writes_are_lost_again_and_again(
    make_world: MakeWorld,
) -> None:
    world = await make_world(patients=40, faults=Faults(lose_before=1.0))
    world.write_config(feeds=LEDGER_ONLY, concurrency=1, doubts_max=2)
    write_payments(world, 40)
    result = await world.run()
    assert isinstance(result.failure, Unreachable)
    assert arrivals(world) == 2 + 3, "two, and one after each read that succeeded"


async def test_an_update_after_a_lost_create_waits_for_a_read_that_shows_every_edit(
    make_world: MakeWorld,
) -> None:
    """The create may have come as late as the quiet time allows, and a read may be as old again."""
    quiet_s = 2.0
    world = await make_world(patients=1, faults=Faults(lose_after=1.0, faults_max=1))
    world.write_config(feeds=COVERAGES_ONLY, quiet_s=quiet_s)
    write_coverage(world)
    assert (await world.run()).exit_code == 0
    world.write_eligibility(
        [(patient_key(0), "M1", "self", "60054", "1", "2026-01-01", "2026-12-31")]
    )
    assert (await world.run()).summary["feeds"][0]["dispositions"]["updated"] == 1
    lost, sent = world.sandbox.account()["writes_of"][patient_key(0)]
    assert (lost["outcome"], sent["outcome"]) == ("lost", "200")
    assert sent["arrived_s"] - lost["arrived_s"] >= 2 * quiet_s
