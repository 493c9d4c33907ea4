"""Whole commands with their journal in PostgreSQL; and what a database is told to be that cannot hold one."""

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import psycopg
import pytest

from pipeline.clock import SystemClock
from pipeline.cluster.shared_limiter import pacing
from pipeline.cluster.shared_rate import Target
from pipeline.commands import run as engine
from pipeline.errors import ConfigError, JournalError, JournalForeign, JournalLost
from pipeline.fhir.outcome import issues_of
from pipeline.journal import history, lookups, opening, postgres, runs, writes
from pipeline.journal.address import parameters_of
from pipeline.journal.runs import Run
from pipeline.journal.store import Database
from pipeline.records import Verdict
from pipeline.sandbox import Faults
from tests.support.database_runs import command
from tests.support.journal_steps import attempt, intent
from tests.support.postgres import Server, missing, served
from tests.support.runs import check_accounts, counts, coverages, payments
from tests.support.world import FEEDS, LEDGER_ONLY, MakeWorld, World, patient_key

URL = "https://fumage-example.canvasmedical.com"
NOW = datetime(2026, 11, 21, tzinfo=UTC)
SECRET = "not-the-password"


@pytest.fixture(autouse=True)
def password(monkeypatch: pytest.MonkeyPatch, postgres_server: Server) -> str:
    monkeypatch.setenv("PGPASSWORD", postgres_server.password)
    return postgres_server.password


def configure(world: World, database: str, feeds: str = FEEDS) -> None:
    world.write_config(feeds=f'[state]\nurl = "{database}"\nlease_s = 3\n{feeds}')


def name_of(url: str) -> str:
    return url.rpartition("/")[2]


# Whole commands -----------------------------------------------------------------------------------


async def test_every_command_works_and_none_shows_the_password(
    make_world: MakeWorld, database: str, password: str
) -> None:
    world = await make_world()
    configure(world, database)
    world.write_eligibility(coverages())
    world.write_ledger(payments(60))
    config = str(world.config)
    shown = []
    for arguments, holds in {
        ("check", config): "new: the first run makes it",
        ("plan", config): "100 to create",
        ("run", config, "-v", "--log-format", "json"): '"created": 100',
        ("run", config): "Requests: none.",
        ("check", config, "-v"): "whole, and of http://127.0.0.1",
        ("report", config): "everything reconciled",
        ("verify", config): "Canvas holds what was written",
        ("review", config): "Nothing is in doubt",
        ("journal", "show", config): "The audit log is whole",
        ("journal", "purge", config, "--older-than", "0", "--yes"): "emoved",
    }.items():
        code, printed = await command(world, *arguments)
        assert code == 0, printed
        assert holds in printed
        shown.append(printed)
    assert len(world.effects) == 100
    assert not (world.folder / "state" / "journal.sqlite").exists()
    written = [path.read_bytes() for path in world.folder.rglob("*") if path.is_file()]
    assert password.encode() not in b"".join([*written, "".join(shown).encode()])


async def test_lost_answers_are_settled_and_nothing_is_there_twice(
    make_world: MakeWorld, database: str
) -> None:
    world = await make_world(faults=Faults(lose_after=0.1, error_before=0.1, error_after=0.1))
    configure(world, database)
    world.write_eligibility(coverages())
    world.write_ledger(payments(150))
    result = await world.run()
    check_accounts(world, result)
    assert result.summary["recovered"]["found"] > 0
    world.sandbox.faults = Faults()
    again = await world.run()
    check_accounts(world, again, earlier=len(world.effects))
    assert "created" not in counts(again, 0)


async def test_a_second_run_is_told_who_holds_it(make_world: MakeWorld, database: str) -> None:
    world = await make_world()
    configure(world, database, LEDGER_ONLY)
    world.write_ledger(payments(5))
    with engine.open_journal(world.job()):
        code, printed = await command(world, "run", str(world.config))
        assert code == 5
        assert f"Another run is using this journal: PID {os.getpid()} on " in printed
        code, printed = await command(world, "check", str(world.config))
        assert "Another run is using this journal" in printed
    assert (await world.run()).exit_code == 0


async def test_a_database_that_forgot_is_refused_until_a_person_says_so(
    make_world: MakeWorld, database: str, postgres_server: Server
) -> None:
    world = await make_world()
    configure(world, database, LEDGER_ONLY)
    world.write_ledger(payments(5))
    await world.run()
    older = postgres_server.create(name_of(database))
    world.write_ledger(payments(10))
    await world.run()
    effects = len(world.effects)

    configure(world, postgres_server.url(older), LEDGER_ONLY)
    with pytest.raises(JournalLost, match="restored from a backup"):
        await world.run()
    empty = postgres_server.create()
    configure(world, postgres_server.url(empty), LEDGER_ONLY)
    with pytest.raises(JournalLost, match=r"Journal not found: the database of \[state\] url\."):
        await world.run()
    other = postgres_server.create()
    there = Database(postgres_server.url(other), 3.0)
    with opening.open_journal(world.folder, world.url, database=there) as journal:
        runs.start_run(journal, Run("r1", "run", NOW.isoformat()))
    configure(world, postgres_server.url(other), LEDGER_ONLY)
    with pytest.raises(JournalLost, match="another one than the last run wrote"):
        await world.run()
    assert len(world.effects) == effects

    configure(world, postgres_server.url(empty), LEDGER_ONLY)
    result = await engine.run(world.job(), journal_lost=True)
    assert counts(result)["in_doubt"] > 0
    assert len(world.effects) == effects
    configure(world, database, LEDGER_ONLY)
    with pytest.raises(JournalLost, match="another one"):
        await world.run()


async def test_without_its_library_the_extra_is_named(make_world: MakeWorld, database: str) -> None:
    world = await make_world()
    configure(world, database, LEDGER_ONLY)
    world.write_ledger(payments(1))
    hidden = "import sys; sys.modules['psycopg'] = None; from pipeline.app.cli import main; main()"
    code, printed = await command(world, "run", str(world.config), start=("-c", hidden))
    assert (code, "pip install 'canvas-ingest[postgresql]'" in printed) == (2, True)
    world.write_config(feeds=LEDGER_ONLY)
    code, printed = await command(world, "run", str(world.config), start=("-c", hidden))
    assert (code, len(world.effects)) == (0, 1), printed


# Databases that cannot hold one -------------------------------------------------------------------


def opened(folder: Path, url: str, base_url: str = URL) -> None:
    opening.open_journal(folder, base_url, database=Database(url, 3.0)).close()


def refusal(folder: Path, url: str, kind: type[Exception] = JournalError) -> str:
    """What is said of a database that no journal is opened in."""
    with pytest.raises(kind) as refused:
        opened(folder, url)
    told = str(refused.value)
    assert SECRET not in told
    assert os.environ.get("PGPASSWORD", "-") not in told
    assert "\n  " in told, "and what to do"
    return told


def test_what_keeps_a_connection_from_being_made_is_told(
    tmp_path: Path, database: str, postgres_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "does not exist" in refusal(tmp_path, postgres_server.url("nosuch"))
    assert "Connection refused" in refusal(tmp_path, "postgresql://ingest@127.0.0.1:1/x")
    assert "failed to resolve host" in refusal(
        tmp_path, "postgresql://ingest@db.invalid/x?sslmode=verify-full"
    )
    assert "does not support SSL" in refusal(tmp_path, f"{database}?sslmode=verify-full")
    assert '"sslmod"' in refusal(tmp_path, f"{database}?sslmod=verify-full", ConfigError)
    monkeypatch.setenv("PGPASSWORD", SECRET)
    assert "password authentication failed" in refusal(tmp_path, database)
    monkeypatch.delenv("PGPASSWORD")
    assert "set PGPASSWORD" in refusal(tmp_path, database)


REMOTE = "192.0.2.1"  # RFC 5737: an address of nobody
ELSEWHERE: dict[str, tuple[str, dict[str, str]]] = {
    "several hosts": (f"postgresql://u@localhost,{REMOTE}/db", {}),
    "several hosts in the query": (f"postgresql:///db?host=localhost,{REMOTE}", {}),
    "a number for a near name": (f"postgresql://u@localhost/db?hostaddr={REMOTE}", {}),
    "PGHOST": ("postgresql:///db", {"PGHOST": REMOTE}),
    "PGHOSTADDR": ("postgresql://u@localhost/db", {"PGHOSTADDR": REMOTE}),
    "a fragment": (f"postgresql://u@{REMOTE}#@localhost/db", {}),
    "a mode that verifies nothing": (f"postgresql://u@{REMOTE}/db?sslmode=require", {}),
    "a mode of the environment": (f"postgresql://u@{REMOTE}/db", {"PGSSLMODE": "require"}),
    "an address in another form": ("postgresql://u@0.0.0.0/db", {}),
}


@pytest.mark.parametrize("way", ELSEWHERE)
async def test_no_way_leads_to_another_machine_without_a_verified_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    url, environment = ELSEWHERE[way]
    monkeypatch.setenv("PGPASSWORD", SECRET)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert "add sslmode=verify-full" in refusal(tmp_path, url, ConfigError)
    with pytest.raises(ConfigError, match="on another machine"):
        Target(url, pacing(5.0), SystemClock())


def test_a_service_file_does_not_say_where_the_password_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = tmp_path / "services"
    services.write_text(f"[far]\nhost={REMOTE}\n")
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    monkeypatch.setenv("PGPASSWORD", SECRET)
    assert "must not name a service" in refusal(
        tmp_path, "postgresql:///db?service=far", ConfigError
    )
    monkeypatch.setenv("PGSERVICE", "far")
    assert "comes from PGHOST" in refusal(tmp_path, "postgresql:///db", ConfigError)


def test_what_the_url_says_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", REMOTE)
    monkeypatch.setenv("PGSSLMODE", "disable")
    near = parameters_of("postgresql://u@127.0.0.1:5432/db")
    assert (near["host"], near["sslmode"]) == ("127.0.0.1", "disable")
    far = parameters_of(f"postgresql://u@{REMOTE}/db?sslmode=verify-full")
    assert (far["host"], far["sslmode"]) == (REMOTE, "verify-full")


@pytest.fixture
def reader(postgres_server: Server, database: str) -> Iterator[str]:
    """A user who may look at everything in a database, and write nothing."""
    user = f"reader_{name_of(database)}"
    with postgres_server.connect(name_of(database)) as connection:
        connection.execute(f"CREATE ROLE {user} LOGIN PASSWORD '{postgres_server.password}'")
        connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {user}")
        connection.execute(f"ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO {user}")
        yield user
        connection.execute(f"DROP OWNED BY {user}; DROP ROLE {user}")


def test_whoever_may_only_read_is_told_which_rights_it_takes(
    tmp_path: Path, database: str, postgres_server: Server, reader: str
) -> None:
    by_reader = database.replace("ingest@", f"{reader}@")
    assert "may not do in its database" in refusal(tmp_path, by_reader)
    opened(tmp_path, database)
    assert "may not do in its database" in refusal(tmp_path, by_reader)
    with pytest.raises(JournalError, match="may not do in its database"):
        opening.look(tmp_path, URL, None, tmp_path / "l", database=Database(by_reader))
    name = name_of(database)
    with postgres_server.connect() as connection:
        connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    assert "takes no writes" in refusal(tmp_path, database)


async def test_the_rights_of_the_page_are_enough_and_no_more(
    make_world: MakeWorld, database: str, postgres_server: Server
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    user, name = f"worker_{name_of(database)}", name_of(database)
    told = next(block for block in page.split("```sql\n")[1:] if "GRANT" in block)
    rights = told[: told.index("```")].replace("canvas_a", name).replace(" ingest", f" {user}")
    world = await make_world()
    configure(world, database)
    world.write_eligibility(coverages())
    world.write_ledger(payments(20))
    state = world.folder / "state"
    state.mkdir(mode=0o700)
    opened(state, database, world.url)  # by the owner
    with postgres_server.connect(name) as connection:
        connection.execute(rights.replace("'...'", f"'{postgres_server.password}'"))
    configure(world, database.replace("ingest@", f"{user}@"))
    assert (await world.run()).exit_code == 0
    assert len(world.effects) == 60
    with postgres_server.connect(name) as connection:
        for statement in (
            "DELETE FROM write",
            "ALTER TABLE trail_group DISABLE TRIGGER ALL",
            "TRUNCATE write",
        ):
            connection.execute(f"SET SESSION AUTHORIZATION {user}")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)
            connection.execute("RESET SESSION AUTHORIZATION")
        connection.execute(f"DROP OWNED BY {user}; DROP ROLE {user}")


def test_a_journal_that_is_not_opened_in_the_end_is_let_go(tmp_path: Path, database: str) -> None:
    with pytest.raises(JournalError, match="cannot be written"):
        opened(tmp_path / "missing", database)
    opened(tmp_path, database)


def test_tables_of_something_else_are_left_alone(
    tmp_path: Path, database: str, postgres_server: Server
) -> None:
    with postgres_server.connect(name_of(database)) as connection:
        connection.execute("CREATE TABLE run (theirs INTEGER)")
        assert "not the journal's" in refusal(tmp_path, database)
        connection.execute("DROP TABLE run; CREATE TABLE meta (theirs INTEGER)")
        assert "not the journal's" in refusal(tmp_path, database)
        tables = connection.execute("SELECT relname FROM pg_stat_user_tables").fetchall()
        assert tables == [("meta",)]


def test_a_journal_of_another_version_or_another_canvas_is_refused(
    tmp_path: Path, database: str, postgres_server: Server
) -> None:
    opened(tmp_path, database)
    with pytest.raises(JournalForeign, match="journal move"):
        opened(tmp_path / "other", database, "https://fumage-other.canvasmedical.com")
    with postgres_server.connect(name_of(database)) as connection:
        connection.execute("UPDATE meta SET value = '1' WHERE name = 'schema_version'")
    assert "another version of canvas-ingest" in refusal(tmp_path, database)


def test_a_server_that_cannot_keep_it_is_refused_before_anything_is_made(
    tmp_path: Path, database: str, postgres_server: Server
) -> None:
    latin = f"latin_{name_of(database)}"
    with postgres_server.connect() as connection:
        connection.execute(f"CREATE DATABASE {latin} ENCODING 'LATIN1' TEMPLATE template0")
    assert "is not UTF8" in refusal(tmp_path, postgres_server.url(latin))
    with postgres_server.connect(latin) as connection:
        tables = connection.execute("SELECT 1 FROM pg_stat_user_tables").fetchall()
    postgres_server.drop(latin)
    assert tables == []


def test_an_old_server_is_refused(database: str, postgres_server: Server) -> None:
    with (
        postgres_server.connect(name_of(database)) as connection,
        pytest.raises(JournalError, match="needs 99 or later"),
    ):
        postgres.check_server(connection, version_min=99)


def test_a_server_that_forgets_at_a_power_cut_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if why := missing():
        pytest.skip(why)
    with served(fsync="off") as server:
        monkeypatch.setenv("PGPASSWORD", server.password)
        assert "fsync = off" in refusal(tmp_path, server.url())


# Text ---------------------------------------------------------------------------------------------


async def test_whatever_canvas_says_can_be_written_down(tmp_path: Path, database: str) -> None:
    """PostgreSQL holds no NUL: where Canvas' words are taken over, there is none any more."""
    every = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000, 61)]))
    texts = [every[start : start + 400] for start in range(0, len(every), 400)]
    with opening.open_journal(tmp_path, URL, database=Database(database, 30.0)) as journal:
        runs.start_run(journal, Run("r1", "run", NOW.isoformat()))
        ones = [intent(f"k{number}", f"p{number}") for number in range(len(texts))]
        await writes.begin(journal, "r1", ones, NOW, NOW)
        told = []
        for one, text in zip(ones, texts, strict=True):
            issue = {"code": "invalid", "details": {"text": text}}
            body = {"resourceType": "OperationOutcome", "issue": [issue]}
            (found,) = issues_of(json.dumps(body, ensure_ascii=False).encode())
            refused = attempt(one, Verdict.REFUSED)
            told.append(refused._replace(message=found.text))
        await writes.settle(journal, "r1", told, NOW)
        assert history.first_break(journal) == 0
        held = lookups.writes_of(journal, pl.Series([one.key for one in ones])).sort(pl.col("key"))
        assert sorted(held["message"]) == sorted(each.message for each in told)


# What the database logs ---------------------------------------------------------------------------

_QUIET = {  # as docs/operations.md has it, "What else writes down rows"
    "log_statement": "all",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
    "log_error_verbosity": "terse",
}


@pytest.mark.parametrize("is_quiet", [False, True])
async def test_a_database_that_logs_statements_keeps_values_unless_it_is_set_not_to(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch, *, is_quiet: bool
) -> None:
    world = await make_world()
    with served(**(_QUIET if is_quiet else {"log_statement": "all"})) as server:
        monkeypatch.setenv("PGPASSWORD", server.password)
        configure(world, server.url(server.create()), LEDGER_ONLY)
        world.write_ledger([("Zq7txn", patient_key(13), "987.65", "")])
        code, printed = await command(world, "run", str(world.config))
        assert code == 0, printed
        log = (server.folder / "log").read_text(errors="replace")
    assert "insert into" in log.lower(), "it logs statements"
    assert "Zq7txn" not in log, "only a hash of the transaction goes to the database"
    assert (patient_key(13) in log) is not is_quiet
    assert ("98765" in log) is not is_quiet, "the amount in cents"
