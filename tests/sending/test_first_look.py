"""The first look at a server wants FHIR: a login page stops a command before a row leaves."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import polars as pl
import pytest
from aiohttp import web

from pipeline.commands import run as engine
from pipeline.errors import Unreachable
from tests.support.between import LOST, Answer, Asked, between, page
from tests.support.runs import coverages, payments, start
from tests.support.world import FEEDS, LEDGER_ONLY, MakeWorld, World, patient_key

UPDATING = FEEDS[: FEEDS.rindex("[[feeds]]")].replace(
    "[feeds.columns]", "update = true\n[feeds.columns]"
)
SEARCH = '[references.patient]\nhow = "search"\nsystem = "https://practice.example/mrn"\n'


async def command(world: World, *arguments: str) -> tuple[asyncio.subprocess.Process, str, str]:
    """Run a command; one that does not stop by itself in some seconds is stopped."""
    process = await start(world, *arguments)
    timer = asyncio.get_running_loop().call_later(25, process.kill)
    out, err = await process.communicate()
    timer.cancel()
    return process, out.decode(), err.decode()


def as_json(content: object) -> web.Response:
    return web.json_response(content)


# What is no answer of a FHIR server to a search, though its status is 200.
PAGES = {
    "html": lambda: page(200),
    "empty": lambda: web.Response(status=200),
    "null": lambda: as_json(None),
    "json": lambda: as_json({"login": "https://sso.example/"}),
    "list": lambda: as_json([{"resourceType": "Bundle"}]),
    "outcome": lambda: as_json({"resourceType": "OperationOutcome", "issue": []}),
    "another resource": lambda: as_json({"resourceType": "CapabilityStatement"}),
    "entries of no kind": lambda: as_json({"resourceType": "Bundle", "entry": "none"}),
}


def login(kind: str) -> Callable[[Asked], Answer]:
    """Answer all but the token endpoint with such a page."""

    def answer(asked: Asked) -> Answer:
        if asked.is_for_token:
            return None
        return web.Response(status=201) if asked.is_write else PAGES[kind]()

    return answer


@pytest.mark.parametrize("kind", PAGES)
async def test_a_run_stops_at_a_page_that_is_no_bundle(make_world: MakeWorld, kind: str) -> None:
    world = await make_world()
    async with between(world, login(kind)) as server:
        world.write_config(feeds=LEDGER_ONLY)
        world.write_ledger(payments(3))
        process, out, err = await command(world, "run")
    assert process.returncode == 1, out + err
    assert not server.writes
    assert "a search for PaymentNotice is answered with HTTP 200 and no Bundle" in out, out + err
    assert "check canvas.base_url" in out
    (folder,) = (world.folder / "reports").glob("2*")
    assert (
        pl.read_parquet(folder / "reconciliation.parquet")["disposition"].to_list()
        == ["pending"] * 3
    )


async def test_no_identifier_is_searched_for_before_the_server_has_answered_as_fhir(
    make_world: MakeWorld,
) -> None:
    world = await make_world()
    async with between(world, login("html")) as server:
        world.write_config(feeds=SEARCH + LEDGER_ONLY)
        world.write_ledger([(f"T{n}", f"A0000{n}", "1.00", "") for n in range(3)])
        for number, verb in enumerate(("plan", "run"), 1):
            process, out, err = await command(world, verb)
            assert process.returncode == 1, out + err
            queries = " ".join(each.query for each in server.asked)
            assert "A0000" not in queries, "it left for that server"
            assert "a search for Patient is answered with HTTP 200 and no Bundle" in out, out + err
            assert len([each for each in server.asked if not each.is_for_token]) == number


@pytest.mark.parametrize("mode", ["resume", "plan", "update"])
async def test_no_mode_of_a_run_writes_before_a_bundle(make_world: MakeWorld, mode: str) -> None:
    """What was in doubt, an earlier plan, and updates: each has its own first request."""
    world = await make_world()
    is_down = False

    def answer(asked: Asked) -> Answer:
        if is_down:
            return login("html")(asked)
        return page(503) if mode == "resume" and asked.is_write and asked.number == 1 else None

    async with between(world, answer) as server:
        feeds = UPDATING if mode == "update" else LEDGER_ONLY
        world.write_config(feeds=feeds, resend_absent="none")
        world.write_eligibility(coverages())
        world.write_ledger(payments(3))
        more: list[str] = []
        if mode == "plan":
            await command(world, "plan")
            more = ["--plan", next((world.folder / "state" / "plans").iterdir()).name]
        else:
            process, out, err = await command(world, "run")
            assert process.returncode == (4 if mode == "resume" else 0), out + err
        world.write_config(feeds=feeds, resend_absent="none" if mode == "plan" else "all")
        world.write_eligibility([(*row[:6], "2030-12-31") for row in coverages()])
        is_down, before = True, len(server.writes)
        process, out, err = await command(world, "run", *more)
    assert process.returncode == 1, out + err
    assert len(server.writes) == before
    assert "and no Bundle" in out + err, out + err


async def test_a_check_wants_a_capability_statement_and_bundles(make_world: MakeWorld) -> None:
    world = await make_world()
    for kind in ("html", "json", "outcome"):
        async with between(world, login(kind)):
            world.write_config(feeds=LEDGER_ONLY)
            world.write_ledger(payments(3))
            process, out, err = await command(world, "check")
        assert process.returncode == 1, out + err
        assert "/metadata is answered with HTTP 200" in out

    def searches(asked: Asked) -> Answer:
        return page(200) if asked.path == "/PaymentNotice" else None

    async with between(world, searches):
        world.write_config(feeds=LEDGER_ONLY)
        process, out, err = await command(world, "check")
    assert process.returncode == 1, out + err
    assert "a search for PaymentNotice is answered with HTTP 200 and no Bundle" in out


async def test_a_login_page_at_the_token_endpoint_stops_before_anything_else(
    make_world: MakeWorld,
) -> None:
    world = await make_world()
    async with between(world, lambda asked: page(200) if asked.is_for_token else None) as server:
        world.write_config(feeds=LEDGER_ONLY)
        world.write_ledger(payments(3))
        process, out, err = await command(world, "run")
    assert process.returncode == 1, out + err
    assert "no access_token" in out
    assert all(each.is_for_token for each in server.asked)


# After the first look -----------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201])
async def test_a_page_in_answer_to_a_create_is_a_doubt(make_world: MakeWorld, status: int) -> None:
    """The session of a gateway ends in the middle of a run: nothing was created."""
    world = await make_world()

    def answer(asked: Asked) -> Answer:
        if not asked.is_write:
            return None
        text = "\n <!DOCTYPE html><html>Sign in</html>"
        return web.Response(status=status, text=text, content_type="text/html")

    async with between(world, answer):
        world.write_config(feeds=LEDGER_ONLY, resend_absent="none")
        world.write_ledger(payments(1))
        process, out, err = await command(world, "run")
    assert not world.effects
    assert process.returncode == 4, out + err
    assert dispositions(world) == ["in_doubt"]


@pytest.mark.parametrize("kind", ["html", "json"])
async def test_a_page_in_answer_to_an_update_is_no_update(make_world: MakeWorld, kind: str) -> None:
    world = await make_world()
    rows = [row for row in coverages() if row[4] == "1"][:3]

    def answer(asked: Asked) -> Answer:
        return PAGES[kind]() if asked.method == "PUT" and asked.number == 1 else None

    async with between(world, answer):
        world.write_config(feeds=UPDATING)
        world.write_eligibility(rows)
        process, out, err = await command(world, "run")
        assert process.returncode == 0, out + err
        world.write_eligibility([(*row[:6], "2030-12-31") for row in rows])
        process, out, err = await command(world, "run")
    updated = [each for each in world.effects if each["interaction"] == "update"]
    assert len(updated) == dispositions(world).count("updated") == 3, out + err


async def test_a_login_page_is_no_end_of_an_outage(make_world: MakeWorld) -> None:
    """Reads that are answered with a page do not let a write through."""
    world = await make_world(patients=40)
    down = 4

    def answer(asked: Asked) -> Answer:
        lost = [each for each in server.writes if each.number >= down]
        if asked.is_write and asked.number >= down:
            return LOST
        return page(200) if lost and not asked.is_write and not asked.is_for_token else None

    async with between(world, answer) as server:
        world.write_config(feeds=LEDGER_ONLY, concurrency=1, doubts_max=2, resend_absent="none")
        world.write_ledger([(f"T{n}", patient_key(n), f"{n + 1}.00", "") for n in range(40)])
        job = world.job()
        job = replace(job, canvas=replace(job.canvas, outage_s_max=2.0))
        result = await engine.run(job)
    assert isinstance(result.failure, Unreachable)
    assert len(server.writes) <= down - 1 + 2, "a page let a probe through"


def dispositions(world: World) -> list[str]:
    frame = pl.read_parquet(world.folder / "reports" / "latest" / "reconciliation.parquet")
    return frame["disposition"].to_list()
