"""The table of writes is held against the audit log, before anything is sent and by `journal show`."""

import sqlite3
from contextlib import closing

import psycopg
import pytest

from pipeline.commands import run as engine
from pipeline.commands.journal import inventory, inventory_json
from pipeline.errors import JournalLost
from pipeline.journal.evidence import Group, contradictions
from pipeline.reporting.inventory import inventory_text
from pipeline.sandbox import Faults
from tests.support.postgres import Server
from tests.support.runs import counts
from tests.support.world import LEDGER_ONLY, MakeWorld, World, patient_key

TAMPERED = {
    "deleted": "DELETE FROM write",
    "set to pending": "UPDATE write SET state = 'PENDING', resource_id = NULL",
    "given other keys": "UPDATE write SET key = 'f' || substr(key, 2) WHERE substr(key, 1, 1) <> 'f'",
    "set to refused": "UPDATE write SET state = 'REFUSED', resource_id = NULL",
}


async def paid(make_world: MakeWorld, more: str = "") -> World:
    """A world with eight payments, and one more in today's file."""
    world = await make_world(patients=9)
    world.write_config(feeds=more + LEDGER_ONLY)
    world.write_ledger([(f"T{n}", patient_key(n), "20.00", "") for n in range(8)])
    assert counts(await world.run()) == {"created": 8}
    world.write_ledger([(f"T{n}", patient_key(n), "20.00", "") for n in range(9)])
    return world


def tamper(world: World, statement: str) -> None:
    with closing(sqlite3.connect(world.folder / "state" / "journal.sqlite")) as journal, journal:
        for (name,) in journal.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = 'write'"
        ).fetchall():
            journal.execute(f"DROP TRIGGER {name}")
        journal.execute(statement)
    for index in (world.folder / "state").glob("held-*.parquet"):
        index.unlink()  # a repair of the journal would not keep it either


@pytest.mark.parametrize("what", TAMPERED)
async def test_a_table_of_writes_that_was_changed_stops_a_run(
    make_world: MakeWorld, what: str
) -> None:
    world = await paid(make_world)
    tamper(world, TAMPERED[what])
    result = await world.run()
    assert (result.exit_code, len(world.effects)) == (1, 8)
    assert isinstance(result.failure, JournalLost)
    assert "not what its audit log implies" in result.failure.message
    shown = inventory(world.job())
    assert not shown.is_whole
    assert shown.first_break == 0
    assert shown.contradictions.count >= 7
    assert "does NOT agree" in inventory_text(inventory_json(shown))


async def test_a_write_set_back_with_its_resource_is_not_sent_and_is_found(
    make_world: MakeWorld,
) -> None:
    """A payment that has a resource is never sent, so such a run goes on with the others."""
    world = await paid(make_world)
    tamper(world, "UPDATE write SET state = 'PENDING'")
    result = await world.run()
    assert (result.exit_code, len(world.effects)) == (3, 9)
    assert inventory(world.job()).contradictions.count == 8


async def test_with_a_persons_word_a_run_goes_on_and_pays_nothing_twice(
    make_world: MakeWorld,
) -> None:
    world = await paid(make_world)
    tamper(world, TAMPERED["deleted"])
    result = await engine.run(world.job(), journal_lost=True)
    assert (result.exit_code, counts(result)) == (4, {"in_doubt": 8, "created": 1})
    assert len(world.effects) == 9


async def test_one_row_that_was_set_back_stops_a_run_that_would_send_it(
    make_world: MakeWorld,
) -> None:
    world = await paid(make_world)
    tamper(
        world,
        "UPDATE write SET state = 'PENDING', resource_id = NULL WHERE key = (SELECT min(key) FROM write)",
    )
    assert inventory(world.job()).contradictions.count == 1
    assert (await world.run()).exit_code == 1
    assert len(world.effects) == 8


async def test_a_journal_after_doubts_refusals_and_retries_agrees_with_its_log(
    make_world: MakeWorld,
) -> None:
    faults = Faults(lose_after=0.3, lose_before=0.2, error_after=0.1, duplicate_location=0.1)
    world = await make_world(patients=40, faults=faults)
    world.write_config(feeds=LEDGER_ONLY, doubts_max=100)
    world.write_ledger([(f"T{n}", patient_key(n), f"{n + 1}.00", "") for n in range(40)])
    assert (await world.run()).exit_code == 4
    assert inventory(world.job()).is_whole
    world.sandbox.set_faults(Faults())
    await world.run()
    assert inventory(world.job()).is_whole


async def test_a_table_in_postgresql_is_held_against_the_log_too(
    make_world: MakeWorld,
    database: str,
    postgres_server: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PGPASSWORD", postgres_server.password)
    world = await paid(make_world, more=f'[state]\nurl = "{database}"\nlease_s = 3\n')
    assert inventory(world.job()).is_whole
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("ALTER TABLE write DISABLE TRIGGER ALL")
        connection.execute("UPDATE write SET state = 'PENDING', resource_id = NULL")
    for index in (world.folder / "state").glob("held-*.parquet"):
        index.unlink()
    result = await world.run()
    assert (result.exit_code, len(world.effects)) == (1, 8)
    assert isinstance(result.failure, JournalLost)
    assert inventory(world.job()).contradictions.count == 8


@pytest.mark.parametrize(
    ("group", "agrees"),
    [
        (Group("write", "accepted", 0, 1, "CONFIRMED", 1, "a"), True),
        (Group("write", "accepted", 0, 1, "IN_DOUBT", 1, "a"), True),
        (Group("write", "accepted", 0, 0, "CONFIRMED", 1, "a"), False),
        (Group("write", "accepted", 0, 1, "PENDING", 1, "a"), False),
        (Group("write", "accepted", 1, 1, "PENDING", 1, "a"), True),
        (Group("write", "accepted", 1, 0, "PENDING", 1, "a"), False),
        (Group("write", "accepted", 0, 1, None, 1, "a"), False),
        (Group("write", "lost", 0, 1, "IN_DOUBT", 1, "a"), True),
        (Group("write", "lost", 0, 1, "PENDING", 1, "a"), False),
        (Group("claim", "", 0, 1, "IN_FLIGHT", 1, "a"), True),
        (Group("claim", "", 0, 1, "PENDING", 1, "a"), False),
        (Group("crashed", "", 0, 1, "IN_DOUBT", 1, "a"), True),
        (Group("crashed", "", 0, 1, "PENDING", 1, "a"), False),
        (Group("absent", "", 0, 1, "PENDING", 1, "a"), True),
        (Group("abandoned", "", 0, 1, "PENDING", 1, "a"), False),
        (Group(None, None, 1, 1, "PENDING", 1, "a"), True),
        (Group(None, None, 0, 1, "CONFIRMED", 1, "a"), False),
    ],
)
def test_what_the_log_implies(group: Group, *, agrees: bool) -> None:
    assert (contradictions([group]).count == 0) is agrees
