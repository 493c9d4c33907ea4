"""Patients looked up in Canvas by identifier: how many searches it takes, and that nothing is guessed."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.app.config.load import load, load_to_check
from pipeline.canvas.judge import Backoff
from pipeline.commands import check as doctor
from pipeline.commands import run as engine
from pipeline.errors import CanvasError, ConfigError, Unreachable, WrongHost
from pipeline.job import Job, Progress
from pipeline.sandbox import Faults, Sandbox, serve
from pipeline.sandbox.search import known_params
from tests.support.world import CREDENTIALS, FEEDS, LEDGER_ONLY, World, patient_key, seed

MRN = "https://practice.example/mrn"
FIRST_LOOK = 1  # a search that names no value, before the first that does
SEARCH = f'[references.patient]\nhow = "search"\nsystem = "{MRN}"\n'

MakeClinic = Callable[..., Awaitable[World]]


@pytest.fixture
async def make_clinic(tmp_path: Path) -> AsyncIterator[MakeClinic]:
    """A maker of local Canvases: a list of (system, value) for each of their patients."""
    async with AsyncExitStack() as stack:

        async def make(identifiers: Sequence[Sequence[tuple[str, str]]], **options: Any) -> World:
            content = seed(len(identifiers))
            for patient, each in zip(content["patients"], identifiers, strict=True):
                patient["identifiers"] = [{"system": name, "value": value} for name, value in each]
            sandbox = Sandbox(content, **options)
            world = World(tmp_path, sandbox, await stack.enter_async_context(serve(sandbox)))
            world.write_config(feeds=SEARCH + LEDGER_ONLY)
            return world

        yield make


def mrns(count: int) -> list[list[tuple[str, str]]]:
    return [[(MRN, f"A{number:05}")] for number in range(count)]


def payments(values: Sequence[str]) -> list[tuple[str, str, str, str]]:
    return [(f"T{number:05}", value, "5.00", "") for number, value in enumerate(values)]


def searches(world: World) -> int:
    counts: Counter[str] = Counter(world.sandbox.account()["requests"]["by"].get("GET /Patient"))
    return counts.total()


def paid(world: World) -> list[str]:
    return [effect["patient"] for effect in world.effects]


def job_of(world: World, few: int) -> Job:
    """The world's job, which searches up to that many values one by one."""
    job = world.job()
    patient = replace(job.references.patient, one_by_one_max=few)
    return replace(job, references=replace(job.references, patient=patient))


def impatient(world: World, few: int) -> Job:
    job = job_of(world, few)
    return replace(job, canvas=replace(job.canvas, backoff=Backoff(0.01, 0.02)))


async def test_few_are_searched_one_by_one_and_each_once(make_clinic: MakeClinic) -> None:
    world = await make_clinic(mrns(5))
    feeds = FEEDS.replace('member_id = "Member"', 'subscriber = "Sub"\nmember_id = "Member"')
    world.write_config(feeds=SEARCH + feeds)
    (world.folder / "eligibility.csv").write_text(
        "MRN,Sub,Member,Rel,Payer,Order,Start,End\n"
        "A00000,,M0,self,60054,1,2026-01-01,\n"
        " A00001 , A00004 ,M1,child,60054,1,2026-01-01,\n"
    )
    world.write_ledger(payments(["A00001", "A00002", "A00002", ""]))
    result = await world.run()
    assert result.exit_code == 3, "the payment without a patient"
    assert searches(world) == FIRST_LOOK + 4
    assert Counter(paid(world)) == {
        patient_key(0): 1,
        patient_key(1): 2,
        patient_key(2): 2,
    }
    held = {each["subscriber"]["reference"] for each in world.sandbox.resources("Coverage")}
    assert held == {f"Patient/{patient_key(0)}", f"Patient/{patient_key(4)}"}
    assert result.summary["requests"]["searches"] == FIRST_LOOK + 4 + 2 + 2, (
        "and a probe for each type, and one for the coverages of each patient"
    )


async def test_what_only_leaves_out_is_not_asked_for(make_clinic: MakeClinic) -> None:
    world = await make_clinic(mrns(2))
    world.write_config(feeds=SEARCH + LEDGER_ONLY + '[feeds.only]\namount = ["5.00"]\n')
    world.write_ledger([("T1", "A00000", "5.00", ""), ("T2", "A00001", "6.00", "")])
    assert (await world.run()).exit_code == 0
    assert searches(world) == FIRST_LOOK + 1


async def test_many_are_read_out_of_the_whole_namespace(make_clinic: MakeClinic) -> None:
    other = [[("https://other.example", "A00001")]]
    world = await make_clinic([*mrns(250), *other])
    world.write_ledger(payments([f"A{number:05}" for number in range(101, 251)]))
    result = await world.run()
    assert searches(world) == FIRST_LOOK + 3
    assert sorted(paid(world)) == [patient_key(number) for number in range(101, 250)]
    frame = result.frame
    assert frame.filter(frame["disposition"] == "rejected")["rule"].to_list() == ["patient|unknown"]


async def test_a_namespace_of_more_pages_than_values_is_given_up(make_clinic: MakeClinic) -> None:
    world = await make_clinic(mrns(301))
    world.write_ledger(payments(["A00300", "A00001", "A00150"]))
    assert (await engine.run(job_of(world, few=2))).exit_code == 0
    assert searches(world) == FIRST_LOOK + 3 + 3
    assert sorted(paid(world)) == [patient_key(number) for number in (1, 150, 300)]


@pytest.mark.parametrize("few", [100, 1], ids=["one by one", "namespace"])
async def test_unknown_and_ambiguous_are_rejected_with_what_to_do(
    make_clinic: MakeClinic, few: int
) -> None:
    here, elsewhere = [(MRN, "Zq7one"), (MRN, "Zq7one")], [("https://other.example", "Zq7none")]
    padded = [(MRN, " Zq7one ")]
    world = await make_clinic([here, [(MRN, "Zq7two")], [(MRN, "Zq7two")], elsewhere, padded])
    world.write_ledger(payments(["Zq7one", "Zq7two", "Zq7none", "Zq7\u00a0" + "x" * 300, "zq7ONE"]))
    result = await engine.run(job_of(world, few))
    frame = result.frame
    assert result.exit_code == 3
    assert frame["disposition"].to_list() == ["created", *["rejected"] * 4]
    assert paid(world) == [patient_key(0)], "named twice, it is still one"
    assert frame["rule"].to_list()[1:] == [
        "patient|ambiguous",
        "patient|unknown",
        "patient|form",
        "patient|unknown",
    ]
    several, none, form, _ = frame["message"].to_list()[1:]
    assert "several Patients in Canvas have this identifier" in several
    assert "references.patient.system" in several
    assert "no Patient in Canvas has this identifier" in none
    assert "run again" in none
    assert "references.patient.path" not in several + none
    assert "Zq7" not in several + none + form
    assert searches(world) == FIRST_LOOK + (4 if few == 100 else 1)


@pytest.mark.parametrize("few", [100, 1], ids=["one by one", "namespace"])
async def test_hits_that_were_not_asked_for_are_filtered_again(
    make_clinic: MakeClinic, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    """A Canvas that heeds no identifier shows everybody."""
    monkeypatch.setattr(
        "pipeline.sandbox.app.known_params",
        lambda resource_type, params, **options: [
            (name, value)
            for name, value in known_params(resource_type, params, **options)
            if name != "identifier"
        ],
    )
    world = await make_clinic([[("https://other.example", "A00001")], [], *mrns(150)])
    world.write_ledger(payments(["A00001", "A00149", "A0"]))
    result = await engine.run(job_of(world, few))
    assert sorted(paid(world)) == [patient_key(2 + 1), patient_key(2 + 149)]
    assert result.frame["rule"].to_list()[2] == "patient|unknown"


async def test_a_canvas_that_shows_everybody_for_each_value_is_not_asked_for_ever(
    make_clinic: MakeClinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.sandbox.app.known_params", lambda *_, **__: [])
    world = await make_clinic(mrns(1001))
    world.write_config(feeds=SEARCH + LEDGER_ONLY, concurrency=1)
    world.write_ledger(payments(["A00001", "A00002"]))
    result = await world.run()
    assert (result.exit_code, world.effects, searches(world)) == (1, [], FIRST_LOOK + 10)
    assert isinstance(result.failure, WrongHost)


@pytest.mark.parametrize("few", [100, 1], ids=["one by one", "namespace"])
@pytest.mark.parametrize("command", ["run", "plan"])
@pytest.mark.parametrize(
    ("faults", "failure", "asked"),
    [
        (Faults(lose_before=1.0, applies_to="reads"), Unreachable, 5),
        (Faults(forbid=1.0, applies_to="reads"), WrongHost, 1),
    ],
    ids=["lost", "forbidden"],
)
async def test_failing_searches_end_the_run_and_nothing_is_written(
    make_clinic: MakeClinic,
    faults: Faults,
    failure: type[CanvasError],
    asked: int,
    command: str,
    few: int,
) -> None:
    world = await make_clinic(
        [[(MRN, "Zq7one")], [(MRN, "Zq7two")]],
        faults=replace(faults, resource_types=("Patient",)),
    )
    world.write_ledger(payments(["Zq7one", "Zq7two"]))
    result = await getattr(engine, command)(impatient(world, few))
    assert (result.exit_code, world.effects) == (1, [])
    assert isinstance(result.failure, failure)
    assert "Patient" in result.summary["failure"]
    assert "Zq7" not in result.summary["failure"]
    assert result.summary["requests"]["searches"] == asked


@pytest.mark.parametrize("few", [100, 1], ids=["one by one", "namespace"])
async def test_a_search_that_fails_for_a_while_is_tried_again(
    make_clinic: MakeClinic, few: int
) -> None:
    faults = Faults(lose_after=1.0, applies_to="reads", resource_types=("Patient",), faults_max=4)
    world = await make_clinic(mrns(120), faults=faults)
    world.write_ledger(payments(["A00000", "A00119"]))
    assert (await engine.run(impatient(world, few))).exit_code == 0
    assert sorted(paid(world)) == [patient_key(0), patient_key(119)]
    assert searches(world) == FIRST_LOOK + 2 + 4


async def test_stopped_while_looking_up_it_writes_nothing(make_clinic: MakeClinic) -> None:
    world = await make_clinic(mrns(50), faults=Faults(latency_s=(0.2, 0.3)))
    world.write_ledger(payments([f"A{number:05}" for number in range(50)]))
    job, progress = world.job(), Progress()
    stop = asyncio.Event()

    async def interrupt() -> None:
        while not searches(world):
            await asyncio.sleep(0.01)
        stop.set()

    result, _ = await asyncio.gather(engine.run(job, progress=progress, stop=stop), interrupt())
    assert (result.exit_code, world.effects) == (130, [])
    assert searches(world) < 50


async def test_a_plan_asks_canvas_and_only_reads(make_clinic: MakeClinic) -> None:
    world = await make_clinic(mrns(3))
    world.write_ledger(payments(["A00000", "A00002", "none"]))
    planned = await engine.plan(world.job())
    assert planned.exit_code == 3
    assert planned.frame["disposition"].to_list() == ["pending", "pending", "rejected"]
    assert planned.summary["requests"]["searches"] == searches(world) == FIRST_LOOK + 3
    assert world.sandbox.account()["requests"]["by"].keys() == {
        "GET /Patient",
        "POST /auth/token/",
    }
    assert world.effects == []


@pytest.mark.parametrize("command", ["run", "plan"])
async def test_looking_up_needs_credentials(make_clinic: MakeClinic, command: str) -> None:
    world = await make_clinic(mrns(1))
    world.write_ledger(payments(["A00000"]))
    job = load(world.config, environment={})
    with pytest.raises(ConfigError, match="CANVAS_CLIENT_ID"):
        await getattr(engine, command)(job)
    assert searches(world) == 0


@pytest.mark.parametrize("system", ["", "  ", "https://practice.example|mrn"])
async def test_a_search_needs_a_system(make_clinic: MakeClinic, system: str) -> None:
    world = await make_clinic(mrns(1))
    world.write_config(feeds=SEARCH.replace(MRN, system) + LEDGER_ONLY)
    with pytest.raises(ConfigError, match="needs system"):
        load(world.config, environment=CREDENTIALS)


async def test_a_second_run_asks_again_and_sends_nothing(make_clinic: MakeClinic) -> None:
    world = await make_clinic(mrns(2))
    world.write_ledger(payments(["A00000", "A00001"]))
    assert (await world.run()).exit_code == 0
    again = await world.run()
    assert (again.exit_code, len(world.effects), searches(world)) == (0, 2, 2 * (FIRST_LOOK + 2))


async def test_a_check_does_not_tell_rows_of_an_earlier_run_as_changed(
    make_clinic: MakeClinic,
) -> None:
    world = await make_clinic(mrns(6))
    world.write_config(feeds=SEARCH + FEEDS)
    (world.folder / "eligibility.csv").write_text(
        "MRN,Member,Rel,Payer,Order,Start,End\n"
        "A00003,M1,self,60054,1,2026-01-01,\n"
        "A00005,M2,self,60054,1,2026-01-01,\n"
    )
    world.write_ledger(payments(["A00003", "A00005"]))
    assert (await world.run()).exit_code == 0
    world.write_ledger(payments(["A00003", "A00005", "A00004"]))
    job, _ = load_to_check(world.config, environment=CREDENTIALS)
    checks = await doctor.check(job)
    assert not [each for each in checks if each.is_wrong]
    known = "sent before (only a plan shows whether they changed)"
    assert [each.message for each in checks if each.what == "rows"] == [
        f"2 {known}",
        f"1 to be sent, 2 {known}",
    ]
