"""How the journal in PostgreSQL saves work, and that what it refuses is still what SQLite refuses."""

import asyncio
import itertools
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.sql import SQL, Identifier, Placeholder

from pipeline.journal import history, leases, lookups, opening, runs, writes
from pipeline.journal.audit_log import ORIGIN, Event, Line, link, new_line
from pipeline.journal.dialect import LINES_A_GROUP, array
from pipeline.journal.journal import Journal
from pipeline.journal.runs import Run
from pipeline.journal.store import Database, schema
from pipeline.records import State, Verdict
from tests.support.journal_steps import attempt, claim, intent, settle
from tests.support.postgres import Server

URL = "https://fumage-example.canvasmedical.com"
NOW = datetime(2026, 11, 21, tzinfo=UTC)


@pytest.fixture(autouse=True)
def password(monkeypatch: pytest.MonkeyPatch, postgres_server: Server) -> None:
    monkeypatch.setenv("PGPASSWORD", postgres_server.password)


@pytest.fixture
def journal(tmp_path: Path, database: str) -> Iterator[Journal]:
    with opening.open_journal(tmp_path, URL, database=Database(database, 30.0)) as opened:
        runs.start_run(opened, Run("r1", "run", NOW.isoformat()))
        yield opened


# Arrays -------------------------------------------------------------------------------------------

TEXTS = st.text(
    st.one_of(
        st.sampled_from('\\"{},;\n\r\t\b\x01\x7f nulNUL'),
        st.characters(exclude_categories=["Cs"], exclude_characters="\0"),
    ),
    max_size=12,
)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(texts=st.lists(st.none() | TEXTS, min_size=1, max_size=6))
def test_texts_come_back_as_they_were_handed_over(
    shared_connection: "psycopg.Connection[tuple[list[str | None]]]", texts: list[str | None]
) -> None:
    found = shared_connection.execute("SELECT CAST(%s AS TEXT[])", [array(texts)]).fetchone()
    assert found == (texts,)


@pytest.fixture
def shared_connection(database: str) -> Iterator["psycopg.Connection[tuple[list[str | None]]]"]:
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


# The audit log ------------------------------------------------------------------------------------


async def test_the_lines_of_a_transaction_are_one_row_and_are_read_one_by_one(
    journal: Journal, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "_LINES_A_QUERY", 100)
    many = [intent(f"k{n}", f"p{n}") for n in range(LINES_A_GROUP + 88)]
    await claim(journal, *many)
    await settle(journal, *(attempt(one, Verdict.ACCEPTED, f"n{one.key}") for one in many[:5]))
    lines = [line for line, _ in history.read_lines(journal)]
    assert [line.number for line in lines] == list(range(1, len(many) + 7))
    assert [line.key for line in lines if line.event == "claim"] == [one.key for one in many]
    assert [line.event for line, _ in history.read_lines(journal, "k3")] == ["claim", "write"]
    assert history.first_break(journal) == 0
    head = journal.head
    assert history.touched_since(journal, head[0] - 5, _hash_at(journal, head[0] - 5)) == {
        f"k{n}" for n in range(5)
    }
    with psycopg.connect(database) as connection:
        counted = connection.execute("SELECT last - number + 1 FROM trail_group ORDER BY rowid")
        assert [count for (count,) in counted] == [1, LINES_A_GROUP, 88, 5]


def _hash_at(journal: Journal, number: int) -> str:
    return str(journal.rows("line_hash", {"number": number})[0][0])


_FORGERIES: dict[str, LiteralString] = {
    "a value": "jsonb_set(CAST(lines AS jsonb), '{1,2}', '\"forged\"')",
    "a line is left out": "CAST(lines AS jsonb) - 1",
    "the hash is left out": "CAST(lines AS jsonb) #- '{2,11}'",
}


@pytest.mark.parametrize("change", _FORGERIES.values(), ids=_FORGERIES)
@pytest.mark.parametrize("is_last", [False, True])
async def test_a_change_inside_a_row_breaks_the_chain(
    journal: Journal, database: str, change: LiteralString, *, is_last: bool
) -> None:
    await claim(journal, *(intent(f"k{n}", f"p{n}") for n in range(3)))
    if not is_last:
        await claim(journal, intent("k9", "p9"))
    with psycopg.connect(database) as connection:
        connection.execute("ALTER TABLE trail_group DISABLE TRIGGER ALL")
        changed = SQL("UPDATE trail_group SET lines = CAST({} AS JSON) WHERE number = 2")
        connection.execute(changed.format(SQL(change)))
    broken = history.first_break(journal)
    assert (
        (2 <= broken <= 4)
        if is_last or change != _FORGERIES["the hash is left out"]
        else not broken
    )


@pytest.mark.parametrize(
    "statement",
    ["UPDATE trail_group SET number = 9", "DELETE FROM trail_group", "TRUNCATE trail_group", "DELETE FROM trail", "UPDATE trail SET key = ''", "TRUNCATE write"],
)  # fmt: skip
def test_nothing_of_it_is_changed(journal: Journal, database: str, statement: str) -> None:
    assert journal.head[0] == 1
    with psycopg.connect(database) as connection, pytest.raises(psycopg.IntegrityError):
        connection.execute(statement.encode())


def test_no_two_rows_begin_at_one_number(journal: Journal, database: str) -> None:
    """As two holders of one lease would enter them."""
    again = "INSERT INTO trail_group (part, number, last, run_id, lines) SELECT part, number, last, run_id, lines FROM trail_group"
    with psycopg.connect(database) as connection, pytest.raises(psycopg.IntegrityError):
        connection.execute(again)
    assert history.first_break(journal) == 0


# Guards -------------------------------------------------------------------------------------------


_ROW = """INSERT INTO write (key, state, run_id, feed, resource_type, lane, claim, likeness, fingerprint, attempts)
    VALUES ('k1', %s, 'r1', 'f', %s, 'p1', '', '', '', %s)"""


@pytest.mark.parametrize("resource_type", ["PaymentNotice", "Coverage"])
def test_every_step_that_is_not_in_the_table_is_refused(
    journal: Journal, database: str, resource_type: str
) -> None:
    """The most frequent steps do without the table: they are in it, and no other step passes."""
    assert journal.head[0] == 1
    with psycopg.connect(database) as connection:
        steps = connection.execute("SELECT resource_type, old, new FROM transition").fetchall()
        for old, new in itertools.product([each.value for each in State], repeat=2):
            connection.execute("ALTER TABLE write DROP CONSTRAINT write_check")  # of the resource
            connection.execute("SET LOCAL session_replication_role = replica")
            connection.execute(_ROW, [old, resource_type, 1])
            connection.execute("SET LOCAL session_replication_role = origin")
            passed = True
            try:
                connection.execute("UPDATE write SET state = %s", [new])
            except psycopg.IntegrityError:
                passed = False
            assert passed is ((resource_type, old, new) in steps), (old, new)
            connection.rollback()


@pytest.mark.parametrize(
    ("state", "attempts", "starts"),
    [(each.value, 0, each is State.PENDING) for each in State]
    + [("IN_FLIGHT", 1, True), ("IN_FLIGHT", 2, False)],
)
def test_a_write_starts_pending_or_claimed_once(
    journal: Journal, database: str, state: str, attempts: int, *, starts: bool
) -> None:
    assert journal.head[0] == 1
    with psycopg.connect(database) as connection:
        connection.execute("ALTER TABLE write DROP CONSTRAINT write_check")
        try:
            connection.execute(_ROW, [state, "PaymentNotice", attempts])
        except psycopg.IntegrityError:
            assert not starts
        else:
            assert starts
        connection.rollback()


async def test_what_canvas_holds_is_not_given_up_or_sent_again(
    journal: Journal, database: str
) -> None:
    await claim(journal, intent())
    await settle(journal, attempt(intent(), Verdict.ACCEPTED, "n1"))
    back = "UPDATE write SET state = 'PENDING'"
    refused = (
        back,
        f"{back}, resource_id = NULL",
        "UPDATE write SET resource_id = 'n2'",
        "UPDATE write SET key = 'k2'",
    )
    with psycopg.connect(database, autocommit=True) as connection:
        for statement in refused:
            with pytest.raises(psycopg.IntegrityError):
                connection.execute(statement)
        connection.execute(
            "INSERT INTO foreign_resource (resource_type, resource_id, lane, run_id) VALUES ('PaymentNotice', 'n1', 'p1', 'r1')"
        )
        with pytest.raises(psycopg.IntegrityError):
            connection.execute(back)
        connection.execute(f"{back}, resource_id = NULL")
    assert lookups.states_of(journal, ["k1"]) == {"k1": State.PENDING}


async def test_equal_payments_of_a_patient_are_not_both_unsettled(
    journal: Journal, database: str
) -> None:
    await claim(journal, intent("k1", "p1", 500))
    twin = """INSERT INTO write (key, state, run_id, feed, resource_type, lane, amount_cents, claim, likeness, fingerprint, attempts)
        VALUES ('k2', 'IN_FLIGHT', 'r1', 'f', 'PaymentNotice', 'p1', 500, '', '', '', 1)"""
    with psycopg.connect(database) as connection, pytest.raises(psycopg.errors.UniqueViolation):
        connection.execute(twin)
    await settle(journal, attempt(intent("k1", "p1", 500), Verdict.ACCEPTED, "n1"))
    await claim(journal, intent("k2", "p1", 500))


async def test_a_twin_is_claimed_in_the_transaction_that_settles_the_other(
    journal: Journal,
) -> None:
    await claim(journal, intent("k1", "p1", 500))
    answered = [attempt(intent("k1", "p1", 500), Verdict.ACCEPTED, "n1")]
    begun = writes.Begun([intent("k2", "p1", 500)], NOW, NOW)
    await writes.settle(journal, "r1", answered, NOW, begun=begun)
    assert lookups.states_of(journal, ["k1", "k2"]) == {
        "k1": State.CONFIRMED,
        "k2": State.IN_FLIGHT,
    }


# An older journal ---------------------------------------------------------------------------------


def test_an_older_journal_keeps_its_audit_log_and_what_is_in_flight(
    database: str, tmp_path: Path
) -> None:
    """Schema 7, in the middle of a run that several processes send."""
    lines = [new_line(NOW.isoformat(), "r1", Event.RUN)]
    lines += [new_line(NOW.isoformat(), "r1", Event.CLAIM, key=f"k{n}") for n in range(600)]
    lines += [
        new_line(NOW.isoformat(), "r1", Event.CLAIM, key="k600", part=2),
        new_line(
            NOW.isoformat(), "r1", Event.WRITE, key="k0", attempt=1, latency_ms=12.0, http_status=201,
            correlation_id="c", verdict="accepted", resource_id="n0", detail='a "word"\\\n',
        ),
    ]  # fmt: skip
    heads: dict[int, tuple[int, str]] = {}
    with psycopg.connect(database, autocommit=True) as connection:
        for name in ("schema", "schema_6", "schema_7"):
            connection.execute(schema(f"{name}_postgres.sql").encode())
        connection.execute(schema("rate.sql").encode())
        connection.execute(
            "INSERT INTO meta (name, value) VALUES ('schema_version', '7'), ('base_url', %s), ('journal', 'abcd')",
            [URL],
        )
        connection.execute("INSERT INTO run (run_id, command, started_at) VALUES ('r1', 'run', '')")
        insert = SQL("INSERT INTO trail ({}, hash) VALUES ({})").format(
            SQL(", ").join(map(Identifier, Line._fields)),
            SQL(", ").join([Placeholder()] * (len(Line._fields) + 1)),
        )
        entered: list[Line] = []
        with connection.cursor() as cursor:
            for line in lines:
                number, before = heads.get(line.part, (0, ORIGIN))
                numbered = line._replace(number=number + 1)
                heads[line.part] = number + 1, link(before, numbered)
                entered.append(numbered)
                cursor.execute(insert, [*numbered, heads[line.part][1]])
            for n in range(601):
                cursor.execute(
                    """INSERT INTO write (key, state, run_id, feed, resource_type, lane, amount_cents, claim, likeness, fingerprint, attempts, part)
                    VALUES (%s, 'IN_FLIGHT', 'r1', 'ledger', 'PaymentNotice', %s, 500, '', '', 'f', 1, %s)""",
                    [f"k{n}", f"p{n}", 2 * (n == 600)],
                )
            cursor.execute(
                "INSERT INTO transition VALUES ('PaymentNotice', 'IN_FLIGHT', 'CONFIRMED')"
            )
            cursor.execute(
                "UPDATE write SET state = 'CONFIRMED', resource_id = 'n0' WHERE key = 'k0'"
            )
    with opening.open_journal(tmp_path, URL, database=Database(database, 30.0)) as journal:
        assert journal.head == heads[0]
        assert [line for line, _ in history.read_lines(journal)] == entered
        assert history.first_break(journal) == 0
        assert history.length(journal) == len(lines)
        states = lookups.states_of(journal, [f"k{n}" for n in range(601)])
        assert states.pop("k0") is State.CONFIRMED
        assert set(states.values()) == {State.IN_FLIGHT}
        assert leases.count_held(journal) == 0
        asyncio.run(
            claim(journal, intent("k700", "p0"))
        )  # the equal payment of k0, which is settled
        with pytest.raises(Exception, match="refuses a step"):
            asyncio.run(claim(journal, intent("k701", "p1")))  # that of k1, which is in flight
