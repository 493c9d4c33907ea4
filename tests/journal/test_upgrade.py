"""A journal of an older schema is brought up to date when it is opened, and forgets nothing."""

import asyncio
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from pipeline.clock import SystemClock
from pipeline.cluster.shared_limiter import SharedLimiter, pacing
from pipeline.cluster.shared_rate import Target
from pipeline.journal import lookups, opening, runs, writes
from pipeline.journal.journal import Journal
from pipeline.journal.runs import Run
from pipeline.journal.sqlite import SqlitePlace
from pipeline.journal.store import SCHEMA_VERSION, Database, schema
from pipeline.records import Attempt, Exchange, Intent, Interaction, State, Verdict
from tests.support.postgres import Server

URL = "https://fumage-example.canvasmedical.com"
AT = datetime(2026, 11, 21, tzinfo=UTC)
META = "INSERT INTO meta (name, value) VALUES ('schema_version', '{}'), ('base_url', '{}'), ('journal', 'abcd')"
ROWS = (
    "INSERT INTO transition VALUES ('PaymentNotice', 'PENDING', 'IN_FLIGHT'), ('PaymentNotice', 'IN_FLIGHT', 'CONFIRMED')",
    "INSERT INTO run (run_id, command, started_at) VALUES ('r1', 'run', '2026-11-20T00:00:00Z')",
    "INSERT INTO run_feed (run_id, feed, rows_read, cents_read) VALUES ('r1', 'ledger', 1, 500)",
    """INSERT INTO write (key, state, run_id, feed, resource_type, lane, amount_cents, claim, likeness, fingerprint)
        VALUES ('k1', 'PENDING', 'r1', 'ledger', 'PaymentNotice', 'p1', 500, '', '', 'f1')""",
    "UPDATE write SET state = 'IN_FLIGHT' WHERE key = 'k1'",
    "UPDATE write SET state = 'CONFIRMED', resource_id = 'n1' WHERE key = 'k1'",
)


def payment(key: str) -> Intent:
    return Intent(
        key,
        "ledger",
        "PaymentNotice",
        Interaction.CREATE,
        "p1",
        b"{}",
        "f",
        500,
        "",
        "",
        "r2",
        day="2026-11-21",
    )


def check(journal: Journal) -> None:
    """What was confirmed is still confirmed, and a new payment is entered with its day."""
    assert lookups.states_of(journal, ["k1"]) == {"k1": State.CONFIRMED}
    assert runs.last_feed(journal, "ledger") == (1, 500)
    runs.start_run(journal, Run("r2", "run", AT.isoformat()))
    intent = payment("k2")
    asyncio.run(writes.begin(journal, "r2", [intent], AT, None))
    sent = Attempt(intent, Exchange("write", AT, 0.1, 201), Verdict.ACCEPTED, "n2")
    ((state, attempts),) = asyncio.run(writes.settle(journal, "r2", [sent], AT))
    assert (state, attempts) == (State.CONFIRMED, 1)


def days(lines: list[tuple[str, str | None]]) -> None:
    assert sorted(lines) == [("k1", None), ("k2", "2026-11-21")]


OLDER = {  # by version: the scripts that made it
    "5": ("schema",),
    "6": ("schema", "schema_6"),
    "7": ("schema", "schema_6", "schema_7"),
}
# The tables of the shared rate before schema 8.
OLDER_RATE = """
CREATE TABLE target (
    id            SMALLINT PRIMARY KEY DEFAULT 1 CHECK (id = 1),
    rate_per_s    DOUBLE PRECISION NOT NULL CHECK (rate_per_s > 0),
    tat           TIMESTAMPTZ NOT NULL DEFAULT now(),
    blocked_until TIMESTAMPTZ NOT NULL DEFAULT now(),
    share         DOUBLE PRECISION NOT NULL DEFAULT 1 CHECK (share > 0 AND share <= 1),
    share_at      TIMESTAMPTZ NOT NULL DEFAULT now(),
    cut_at        TIMESTAMPTZ NOT NULL DEFAULT '1970-01-01',
    started_at    TIMESTAMPTZ NOT NULL DEFAULT pg_postmaster_start_time()
) WITH (fillfactor = 10);
CREATE TABLE taker (
    holder   TEXT PRIMARY KEY,
    taken_at TIMESTAMPTZ NOT NULL,
    width_s  DOUBLE PRECISION NOT NULL
) WITH (fillfactor = 50);
INSERT INTO target (rate_per_s, share) VALUES (5, 0.25);
INSERT INTO taker VALUES ('gone', now(), 0)
"""
# What a table of the shared rate is, whatever the order of its columns.
RATE_TABLES = """
SELECT relname, relpersistence, attname, format_type(atttypid, atttypmod), attnotnull, pg_get_expr(adbin, adrelid)
FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
WHERE relname IN ('target', 'frame', 'taker') AND attnum > 0 AND NOT attisdropped ORDER BY 1, 3
"""


@pytest.mark.parametrize("version", list(OLDER))
def test_a_file_of_an_older_schema_is_brought_up_to_date(tmp_path: Path, version: str) -> None:
    path = tmp_path / "journal.sqlite"
    with sqlite3.connect(path) as connection:
        for name in OLDER[version]:
            connection.executescript(schema(f"{name}.sql"))
        for statement in (META.format(version, URL), *ROWS):
            connection.execute(statement)
    connection.close()
    path.chmod(0o600)
    with opening.open_journal(tmp_path, URL) as journal:
        check(journal)
    with sqlite3.connect(path) as connection:
        days(connection.execute("SELECT key, day FROM write").fetchall())
        found = connection.execute("SELECT value FROM meta WHERE name = 'schema_version'")
        assert found.fetchone() == (SCHEMA_VERSION,)
    connection.close()


@pytest.mark.parametrize("version", list(OLDER))
def test_a_file_that_was_upgraded_has_the_schema_of_a_new_one(tmp_path: Path, version: str) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    found = []
    for folder in (old, new):
        folder.mkdir()
        if folder is old:
            with sqlite3.connect(folder / "journal.sqlite") as connection:
                for name in OLDER[version]:
                    connection.executescript(schema(f"{name}.sql"))
                connection.execute(META.format(version, URL))
            connection.close()
        SqlitePlace(folder).open(URL).close()
        with sqlite3.connect(folder / "journal.sqlite") as connection:
            steps = connection.execute("SELECT * FROM transition ORDER BY 1, 2, 3").fetchall()
            parts = connection.execute("SELECT type, name, sql FROM sqlite_schema ORDER BY 1, 2")
            found.append((steps, parts.fetchall()))
        connection.close()
    assert found[0] == found[1]


def test_a_payment_gives_up_its_resource_only_after_a_person_declared_it_gone(
    tmp_path: Path,
) -> None:
    """The database itself refuses to send a confirmed payment again."""
    store = SqlitePlace(tmp_path).open(URL)
    for statement in ROWS[1:]:
        store.execute(statement)
    back = "UPDATE write SET state = 'PENDING'{} WHERE key = 'k1'"
    for change in ("", ", resource_id = NULL"):
        with pytest.raises(sqlite3.IntegrityError):
            store.execute(back.format(change))
    store.execute(
        "INSERT INTO foreign_resource (resource_type, resource_id, lane, run_id) VALUES ('PaymentNotice', 'n1', 'p1', 'r1')"
    )
    with pytest.raises(sqlite3.IntegrityError):
        store.execute(back.format(""))
    store.execute(back.format(", resource_id = NULL"))
    assert store.execute("SELECT state, resource_id FROM write").fetchall() == [("PENDING", None)]
    store.close()


@pytest.mark.parametrize("version", list(OLDER))
def test_a_database_of_an_older_schema_is_brought_up_to_date(
    database: str,
    postgres_server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    version: str,
) -> None:
    monkeypatch.setenv("PGPASSWORD", postgres_server.password)
    with psycopg.connect(database, autocommit=True) as connection:
        for name in OLDER[version]:
            connection.execute(schema(f"{name}_postgres.sql").encode())
        connection.execute(OLDER_RATE.encode())
        for statement in (META.format(version, URL), *ROWS):
            connection.execute(statement.encode())
    looked = opening.look(tmp_path, URL, None, tmp_path / "scratch", database=Database(database))
    assert lookups.states_of(looked, ["k1"]) == {"k1": State.CONFIRMED}
    looked.close()
    with psycopg.connect(database) as connection:
        found = "SELECT value FROM meta WHERE name = 'schema_version'"
        assert connection.execute(found).fetchone() == (version,)  # a look writes nothing
    with opening.open_journal(tmp_path, URL, database=Database(database)) as journal:
        check(journal)
    with psycopg.connect(database) as connection:
        days(connection.execute("SELECT key, day FROM write").fetchall())
        upgraded = connection.execute(RATE_TABLES).fetchall()
        assert connection.execute("SELECT share FROM target").fetchall() == [(0.25,)]
    name = postgres_server.create()
    with postgres_server.connect(name) as connection:
        connection.execute(schema("rate.sql").encode())
        assert connection.execute(RATE_TABLES).fetchall() == upgraded
    postgres_server.drop(name)


async def test_workers_share_the_rate_of_an_upgraded_database(
    database: str, postgres_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", postgres_server.password)
    with psycopg.connect(database, autocommit=True) as connection:
        for name in OLDER["7"]:
            connection.execute(schema(f"{name}_postgres.sql").encode())
        connection.execute(OLDER_RATE.encode())
        connection.execute(META.format("7", URL).encode())
    opening.open_journal(tmp_path, URL, database=Database(database)).close()
    clock = SystemClock()
    async with SharedLimiter(Target(database, pacing(50.0), clock), clock) as limiter:
        await asyncio.gather(*(limiter.permit() for _ in range(10)))
