"""`journal move`: a Canvas that got another address keeps its journal; another Canvas never gets it."""

from typing import TYPE_CHECKING, cast

import orjson
import pytest

from pipeline.commands import move as moving
from pipeline.errors import ConfigError, JournalForeign, Unreachable
from pipeline.journal import history, opening
from pipeline.journal.audit_log import Event
from pipeline.sandbox import Sandbox, serve
from tests.support.database_runs import command
from tests.support.runs import counts, coverages, payments
from tests.support.world import FEEDS, LEDGER_ONLY, MakeWorld, World, seed

if TYPE_CHECKING:
    from tests.support.postgres import Server


async def loaded(make_world: MakeWorld, feeds: str = FEEDS) -> World:
    """A Canvas with 20 coverages and 60 payments that a run created."""
    world = await make_world()
    world.write_config(feeds=feeds)
    world.write_eligibility(coverages(10))
    world.write_ledger(payments(60))
    result = await world.run()
    assert (result.exit_code, len(world.effects)) == (0, 80)
    return world


def point_to(world: World, url: str, feeds: str = FEEDS) -> None:
    world.url = url
    world.write_config(feeds=feeds)


def moves(world: World, url: str) -> list[str]:
    """What the audit log says of moves."""
    job = world.job()
    with opening.open_journal(job.state_dir, url, job.report_dir, database=job.database) as journal:
        assert history.first_break(journal) == 0
        return [line.detail for line, _ in history.read_lines(journal) if line.event == Event.MOVED]


@pytest.fixture(params=["sqlite", "postgresql"])
def feeds(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The feeds, with the place of the journal."""
    if request.param == "sqlite":
        return FEEDS
    server = cast("Server", request.getfixturevalue("postgres_server"))
    monkeypatch.setenv("PGPASSWORD", server.password)
    url = request.getfixturevalue("database")
    return f'[state]\nurl = "{url}"\nlease_s = 3\n{FEEDS}'


async def test_the_same_canvas_at_another_address_goes_on_and_nothing_is_sent_again(
    make_world: MakeWorld, feeds: str
) -> None:
    world = await loaded(make_world, feeds)
    before = world.url
    async with serve(world.sandbox) as url:
        point_to(world, url, feeds)
        with pytest.raises(JournalForeign, match="canvas-ingest journal move") as refused:
            await world.run()
        assert "state.dir" not in str(refused.value)
        moved = await moving.move(world.job())
        assert moved == moving.Move(before, url, 20)
        result = await world.run()
        assert counts(result, 0) == {"unchanged": 20}
        assert counts(result, 1) == {"unchanged": 60}
        assert len(world.effects) == 80
        assert moves(world, url) == [f"{before} -> {url}"]


async def test_another_canvas_does_not_get_the_journal(make_world: MakeWorld, feeds: str) -> None:
    world = await loaded(make_world, feeds)
    before = world.url
    async with serve(Sandbox(seed(20))) as other:
        point_to(world, other, feeds)
        with pytest.raises(JournalForeign, match="20 are missing there") as refused:
            await moving.move(world.job())
        assert "the journal stays as it was" in refused.value.fix
    point_to(world, before, feeds)
    assert moves(world, before) == []
    assert (await world.run()).exit_code == 0
    assert len(world.effects) == 80


@pytest.mark.parametrize(
    ("resource_type", "changes"),
    [
        pytest.param("PaymentNotice", {"amount": {"value": 0.99, "currency": "USD"}}, id="amount"),
        pytest.param("PaymentNotice", {"request": {"reference": "Patient/a"}}, id="patient"),
        pytest.param("Coverage", {"beneficiary": {"reference": "Patient/a"}}, id="coverage"),
    ],
)
async def test_a_resource_of_another_patient_or_amount_refuses_the_move(
    make_world: MakeWorld, resource_type: str, changes: dict[str, object]
) -> None:
    world = await loaded(make_world)
    for each in world.sandbox.resources(resource_type):
        world.sandbox.edit_by_hand(resource_type, each["id"], changes)
    async with serve(world.sandbox) as url:
        point_to(world, url)
        with pytest.raises(JournalForeign, match="10 are missing there, or are of another patient"):
            await moving.move(world.job())


async def test_what_was_edited_in_canvas_since_does_not_refuse_the_move(
    make_world: MakeWorld,
) -> None:
    world = await loaded(make_world)
    for each in world.sandbox.resources("Coverage"):
        world.sandbox.edit_by_hand("Coverage", each["id"], {"status": "cancelled"})
    async with serve(world.sandbox) as url:
        point_to(world, url)
        assert (await moving.move(world.job())).compared == 20


async def test_a_journal_without_a_confirmed_write_is_not_moved(make_world: MakeWorld) -> None:
    world = await make_world(balance="0.00")
    world.write_config(feeds=LEDGER_ONLY)
    world.write_ledger(payments(1))
    assert counts(await world.run()) == {"refused": 1}
    before = world.url
    async with serve(world.sandbox) as url:
        point_to(world, url, LEDGER_ONLY)
        with pytest.raises(ConfigError, match="no confirmed write") as refused:
            await moving.move(world.job())
        assert f"set canvas.base_url back to {before}" in refused.value.fix


async def test_an_address_that_does_not_answer_moves_nothing(make_world: MakeWorld) -> None:
    world = await loaded(make_world)
    before = world.url
    async with serve(world.sandbox) as url:
        point_to(world, url)
    with pytest.raises(Unreachable):
        await moving.move(world.job())
    point_to(world, before)
    assert moves(world, before) == []


async def test_there_is_nothing_to_move(make_world: MakeWorld) -> None:
    world = await make_world()
    world.write_config()
    with pytest.raises(ConfigError, match="no journal here"):
        await moving.move(world.job())
    assert not (world.folder / "state").exists()
    world.write_eligibility(coverages(1))
    world.write_ledger(payments(1))
    await world.run()
    with pytest.raises(ConfigError, match=f"belongs to {world.url} already"):
        await moving.move(world.job())


async def test_the_command_says_what_it_compared(make_world: MakeWorld) -> None:
    world = await loaded(make_world)
    before, config = world.url, str(world.config)
    async with serve(world.sandbox) as url:
        point_to(world, url)
        code, printed = await command(world, "run", config)
        assert (code, "canvas-ingest journal move CONFIG" in printed) == (2, True)
        code, printed = await command(world, "journal", "move", config)
        assert (code, printed.splitlines()) == (
            0,
            [
                f"The journal now belongs to {url} (before: {before}).",
                "Read back through it: 20 of 20 resources. The move is in the audit log.",
            ],
        )
        assert (await command(world, "run", config))[0] == 0
        point_to(world, before)
        code, printed = await command(world, "journal", "move", config, "--json")
        assert (code, orjson.loads(printed)["compared"]) == (0, 20)
