"""A journal in PostgreSQL that several processes hold: one run, one holder of each part, and no other."""

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from pipeline.errors import JournalBusy, JournalError, JournalLost, JournalTaken, Stopped
from pipeline.journal import doubts, history, leases, lookups, opening, runs, writes
from pipeline.journal.journal import Journal
from pipeline.journal.postgres import (
    Asked,
    PostgresPlace,
    PostgresStore,
)
from pipeline.journal.process import is_gone, ourselves, start_of
from pipeline.journal.runs import Run
from pipeline.journal.store import Database
from pipeline.records import Attempt, Exchange, Intent, Interaction, State, Verdict
from tests.support.postgres import Server, missing, served

pytestmark = pytest.mark.slow  # waits for leases to end

URL = "https://fumage-example.canvasmedical.com"
NOW = datetime(2026, 11, 21, tzinfo=UTC)
LEASE_S = 3.0


@pytest.fixture
def held(database: str, postgres_server: Server, monkeypatch: pytest.MonkeyPatch) -> Database:
    monkeypatch.setenv("PGPASSWORD", postgres_server.password)
    return Database(database, LEASE_S)


@pytest.fixture
def run(held: Database, tmp_path: Path) -> Iterator[Journal]:
    with opening.open_journal(tmp_path, URL, database=held) as journal:
        runs.start_run(journal, Run("r1", "run", NOW.isoformat()))
        leases.offer(journal, 4)
        yield journal


class Joined:
    """Makers of journals of parts, all of which are let go in the end."""

    def __init__(self, held: Database, folder: Path, run: Journal) -> None:
        self.held, self.folder, self.run = held, folder, run
        self.all: list[Journal] = []

    def __call__(self, part: int) -> Journal:
        """Hold a part, once it is free."""
        while True:
            try:
                found = opening.join(self.folder, URL, self.held, part, self.run.epoch, dict)
                break
            except JournalBusy as error:
                if "another process" not in error.message:
                    raise
                time.sleep(0.05)
        self.all.append(found)
        return found


@pytest.fixture
def join(held: Database, tmp_path: Path, run: Journal) -> Iterator[Joined]:
    joined = Joined(held, tmp_path, run)
    yield joined
    for each in joined.all:
        with suppress(RuntimeError):  # let go already
            each.close()


def intent(key: str, lane: str = "p1", cents: int = 500) -> Intent:
    return Intent(
        key, "ledger", "PaymentNotice", Interaction.CREATE, lane, b"{}", "f", cents, "", "", "r1"
    )  # fmt: skip


def answer(of: Intent) -> Attempt:
    exchange = Exchange("write", NOW, 0.1, 201, "c1")
    return Attempt(of, exchange, Verdict.ACCEPTED, f"id-{of.key}", "", "")


def state_of(journal: Journal, key: str) -> str:
    return str(lookups.known(journal, pl.Series([key]))["state"][0])


def frozen(journal: Journal) -> None:
    """As a process that is stopped: its lease is not renewed."""
    journal.store.lease._over.set()  # type: ignore[attr-defined]


def test_two_runs_do_not_hold_it_and_the_next_one_does(held: Database, tmp_path: Path) -> None:
    with opening.open_journal(tmp_path, URL, database=held) as first:
        with pytest.raises(JournalBusy, match=rf"PID {os.getpid()} on \S+"):
            opening.open_journal(tmp_path / "other", URL, database=held)
        epoch = first.epoch
    with opening.open_journal(tmp_path, URL, database=held) as second:
        assert second.epoch == epoch + 1


def test_whoever_is_gone_is_waited_for(held: Database, tmp_path: Path) -> None:
    first = opening.open_journal(tmp_path, URL, database=held)
    frozen(first)
    with opening.open_journal(tmp_path, URL, database=held) as second:
        assert second.epoch == first.epoch + 1
        assert not first.may_send()
        with pytest.raises(JournalError, match="another process took over"):
            runs.start_run(first, Run("r9", "run", NOW.isoformat()))
        first.close()
        assert second.may_send()


def opened(held: Database, run_epoch: int) -> PostgresStore:
    """Hold part 1, once it is free."""
    while True:
        try:
            return PostgresPlace(held, Asked(1, run_epoch)).open(URL)
        except JournalBusy:
            time.sleep(0.01)


def test_a_part_has_one_holder_at_a_time_however_many_take_it(run: Journal, held: Database) -> None:
    start, turn = threading.Barrier(4), threading.Lock()
    holders: list[int] = []
    most: list[int] = []

    def take(number: int) -> None:
        start.wait()
        for _ in range(5):
            store = opened(held, run.epoch)
            with turn:
                holders.append(number)
                most.append(len(holders))
            store.begin()
            store.commit()
            with turn:
                holders.remove(number)
            store.close()

    threads = [threading.Thread(target=take, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == [1] * 20


async def test_a_part_that_is_taken_over_is_doubted_and_its_old_holder_writes_nothing(
    run: Journal, join: Joined
) -> None:
    old = join(1)
    assert leases.take_up(old, "r1", NOW) == 0
    await writes.begin(old, "r1", [intent("k1"), intent("k2", "p2")], NOW, NOW)
    await writes.settle(old, "r1", [answer(intent("k2", "p2"))], NOW)
    frozen(old)
    new = join(1)
    assert leases.take_up(new, "r1", NOW) == 1
    assert not old.may_send()
    (doubt,) = doubts.all_doubts(new)
    assert (doubt.intent.key, doubt.is_orphan) == ("k1", True)
    with pytest.raises(JournalError, match="another process took over"):
        await writes.settle(old, "r1", [answer(intent("k1"))], NOW)
    with pytest.raises(JournalError, match="another process took over"):
        await writes.begin(old, "r1", [intent("k3", "p3")], NOW, NOW)
    assert state_of(new, "k1") == State.IN_DOUBT.value
    assert lookups.known(new, pl.Series(["k3"])).is_empty()
    leases.hand_over(new, "r1", "done", {"created": 1}, NOW)
    new.close()
    assert [(each.epoch, each.ended) for each in leases.lease_records(run, "r1")] == [
        (1, ""),
        (2, "done"),
    ]
    assert history.first_break(run) == 0


async def test_parts_write_side_by_side_each_with_its_own_chain(run: Journal, join: Joined) -> None:
    parts = [join(part) for part in (1, 2, 3)]
    for number, part in enumerate(parts):
        leases.take_up(part, "r1", NOW)
        for turn in range(3):
            one = intent(f"k{number}{turn}", f"p{number}{turn}")
            await writes.begin(part, "r1", [one], NOW, NOW)
            await writes.settle(part, "r1", [answer(one)], NOW)
    for part in parts:
        part.close()
    assert history.first_break(run) == 0
    lines = [line for line, _ in history.read_lines(run)]
    assert {line.part for line in lines} == {0, 1, 2, 3}
    assert history.length(run) == len(lines)
    assert [line.number for line in lines if line.part == 2] == list(range(1, 8))
    key, count = "k11", sum(line.key == "k11" for line in lines)
    assert [line.event for line, _ in history.read_lines(run, key)] == ["claim", "write"]
    assert count == 2


async def test_a_line_that_is_changed_in_any_part_breaks_the_chain(
    run: Journal, join: Joined, held: Database, postgres_server: Server
) -> None:
    with join(2) as part:
        leases.take_up(part, "r1", NOW)
        await writes.begin(part, "r1", [intent("k1")], NOW, NOW)
    with postgres_server.connect(held.url.rsplit("/", 1)[1]) as connection:
        connection.execute("ALTER TABLE trail_group DISABLE TRIGGER ALL")
        connection.execute(
            "UPDATE trail_group SET lines = CAST(jsonb_set(CAST(lines AS jsonb), '{0,0}', '\"forged\"') AS JSON) "
            "WHERE part = 2 AND number = 2"
        )
    assert history.first_break(run) == 2


async def test_no_part_sends_for_a_run_that_is_gone(run: Journal, join: Joined) -> None:
    part = join(1)
    leases.take_up(part, "r1", NOW)
    assert part.may_send()
    frozen(run)
    async with asyncio.timeout(10 * LEASE_S):
        while part.may_send():
            await asyncio.sleep(0.05)

    async def write() -> None:
        for turn in itertools.count():
            await writes.begin(part, "r1", [intent(f"k{turn}", f"p{turn}")], NOW, NOW)
            await asyncio.sleep(0.1)

    with pytest.raises(JournalError, match="another process took over"):
        await write()
    with pytest.raises(JournalBusy, match="has ended"):
        join(2)


def test_a_run_does_not_begin_while_a_part_of_the_last_one_is_held(
    run: Journal, join: Joined, held: Database, tmp_path: Path
) -> None:
    part = join(1)
    frozen(run)
    with opening.open_journal(tmp_path, URL, database=held) as next_run:
        assert not part.may_send()
        assert next_run.epoch == run.epoch + 1
        with pytest.raises(JournalBusy, match="has ended"):
            join(2)


async def test_what_is_in_doubt_is_of_the_part_that_sent_it(run: Journal, join: Joined) -> None:
    for number in (1, 2):
        with join(number) as part:
            leases.take_up(part, "r1", NOW)
            await writes.begin(part, "r1", [intent(f"k{number}", f"p{number}")], NOW, NOW)
    with join(2) as part:
        assert leases.take_up(part, "r1", NOW) == 1
        assert [each.intent.key for each in doubts.all_doubts(part)] == ["k2"]
    assert state_of(run, "k1") == State.IN_FLIGHT.value


async def test_a_server_that_is_restarted_loses_nothing_and_nothing_is_done_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if why := missing():
        pytest.skip(why)
    with served() as server:
        monkeypatch.setenv("PGPASSWORD", server.password)
        database = Database(server.url(server.create()), 30.0)
        with opening.open_journal(tmp_path, URL, database=database) as journal:
            runs.start_run(journal, Run("r1", "run", NOW.isoformat()))
            over = threading.Event()

            def restart() -> None:
                for turn in range(4):
                    time.sleep(0.3)
                    (server.kill if turn % 2 else server.stop)()
                    server.start()
                over.set()

            restarts = threading.Thread(target=restart)
            restarts.start()
            rounds = 0
            while not over.is_set():
                some = [intent(f"k{rounds}-{n}", f"p{rounds}-{n}") for n in range(20)]
                await writes.begin(journal, "r1", some, NOW, NOW)
                await writes.settle(journal, "r1", [answer(one) for one in some], NOW)
                rounds += 1
            restarts.join()
            assert history.first_break(journal) == 0
            events = [line.event for line, _ in history.read_lines(journal)]
            assert events.count("claim") == events.count("write") == 20 * rounds
            (count,) = [each for each in lookups.census(journal) if each.state is State.CONFIRMED]
            assert count.count == 20 * rounds


async def test_a_database_that_comes_back_without_what_it_held_is_not_written_to(
    run: Journal, held: Database, postgres_server: Server
) -> None:
    """As after a failover to a replica that was behind."""
    await writes.begin(run, "r1", [intent("k1")], NOW, NOW)
    with postgres_server.connect(held.url.rsplit("/", 1)[1]) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute(
            "DELETE FROM trail_group WHERE last = (SELECT max(last) FROM trail_group)"
        )
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    with pytest.raises(JournalLost, match="older than the last run"):
        await writes.begin(run, "r1", [intent("k2", "p2")], NOW, NOW)
    with pytest.raises(JournalLost):
        await writes.settle(run, "r1", [answer(intent("k1"))], NOW)


async def test_what_is_in_flight_under_a_holder_that_may_live_is_an_orphan_whoever_fences_it(
    run: Journal, join: Joined, held: Database, tmp_path: Path
) -> None:
    part = join(1)
    leases.take_up(part, "r1", NOW)
    await writes.begin(part, "r1", [intent("k1")], NOW, NOW)
    frozen(part)
    assert leases.withdraw(run, "r1", NOW) == 1
    assert [(each.intent.key, each.is_orphan) for each in doubts.all_doubts(run)] == [("k1", True)]

    other = join(2)
    leases.take_up(other, "r1", NOW)
    await writes.begin(other, "r1", [intent("k2", "p2")], NOW, NOW)
    frozen(other)
    frozen(run)
    opening.open_journal(tmp_path, URL, database=held).close()  # as to report
    with opening.open_journal(tmp_path, URL, database=held) as next_run:
        assert runs.start_run(next_run, Run("r2", "run", NOW.isoformat())) == 1
        assert {each.intent.key: each.is_orphan for each in doubts.all_doubts(next_run)} == {
            "k1": True,
            "k2": True,
        }


async def test_who_is_gone_leaves_no_orphan(
    run: Journal, join: Joined, held: Database, postgres_server: Server
) -> None:
    part = join(1)
    leases.take_up(part, "r1", NOW)
    await writes.begin(part, "r1", [intent("k1")], NOW, NOW)
    frozen(part)
    gone = gone_process()
    with postgres_server.connect(held.url.rsplit("/", 1)[1]) as connection:
        connection.execute("UPDATE lease SET holder = %s WHERE part = 1", (gone,))
    assert leases.withdraw(run, "r1", NOW) == 1
    assert [each.is_orphan for each in doubts.all_doubts(run)] == [False]


def test_no_part_of_a_run_that_is_to_end_is_taken(run: Journal, join: Joined) -> None:
    part = join(1)
    leases.take_up(part, "r1", NOW)
    leases.ask_to_stop(run)
    leases.withdraw(run, "r1", NOW)
    with pytest.raises(JournalTaken):
        leases.hand_over(part, "r1", "done", {}, NOW)
    with pytest.raises(Stopped):
        join(1)


def test_whoever_joins_while_the_server_is_restarted_waits_and_whoever_is_away_too_long_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if why := missing():
        pytest.skip(why)
    with served() as server:
        monkeypatch.setenv("PGPASSWORD", server.password)
        database = Database(server.url(server.create()), 30.0)
        short = Database(database.url, LEASE_S)
        with opening.open_journal(tmp_path, URL, database=database) as run:
            runs.start_run(run, Run("r1", "run", NOW.isoformat()))
            leases.offer(run, 2)
            part = opening.join(tmp_path, URL, short, 1, run.epoch, dict)
            server.stop()
            back = threading.Timer(LEASE_S + 1, server.start)
            back.start()
            with pytest.raises(JournalTaken):
                leases.take_up(part, "r1", NOW)
            with opening.join(tmp_path, URL, short, 1, run.epoch, dict) as again:
                assert leases.take_up(again, "r1", NOW) == 0
            part.close()
            back.join()


def test_a_look_changes_nothing(held: Database, tmp_path: Path) -> None:
    with opening.open_journal(tmp_path, URL, database=held) as run:
        runs.start_run(run, Run("r1", "run", NOW.isoformat()))
        length = history.length(run)
        with pytest.raises(JournalBusy):
            opening.look(tmp_path, URL, None, tmp_path / "a", database=held)
    with opening.look(
        tmp_path, URL, None, tmp_path / "b", database=replace(held, lease_s=0.1)
    ) as copy:
        time.sleep(0.3)  # it takes as long as it takes: nobody waits for it
        assert history.length(copy) == length
        runs.start_run(copy, Run("r2", "plan", NOW.isoformat()))
        assert history.length(copy) == length + 1
    with opening.open_journal(tmp_path, URL, database=held) as again:
        assert history.length(again) == length
        assert runs.find_run(again, "r2") is None


def gone_process() -> str:
    """A holder of this machine that has ended."""
    with subprocess.Popen(["true"]) as process:
        number = process.pid
    return ourselves().replace(f" {os.getpid()} ", f" {number} ")


@pytest.mark.parametrize("is_known", [True, False])
async def test_who_left_it_in_flight_is_remembered_until_it_is_in_doubt(
    held: Database, tmp_path: Path, postgres_server: Server, is_known: bool
) -> None:
    """The next holder may itself die before it doubts anything, and that one is known to be gone."""
    name = held.url.rsplit("/", 1)[1]
    with ExitStack() as stack:
        last = stack.enter_context(opening.open_journal(tmp_path, URL, database=held))
        runs.start_run(last, Run("r1", "run", NOW.isoformat()))
        await writes.begin(last, "r1", [intent("k1")], NOW, NOW)
        for holder in (gone_process() if is_known else ourselves(), gone_process()):
            frozen(last)
            with postgres_server.connect(name) as connection:
                connection.execute(
                    "UPDATE lease SET holder = %s, expires_at = '-infinity' WHERE part = 0",
                    (holder,),
                )
            last = stack.enter_context(opening.open_journal(tmp_path, URL, database=held))
        assert runs.start_run(last, Run("r2", "run", NOW.isoformat())) == 1
        assert [each.is_orphan for each in doubts.all_doubts(last)] == [not is_known]


@pytest.mark.parametrize("is_known", [True, False])
async def test_what_a_part_left_that_is_fenced_is_of_whoever_held_it(
    run: Journal, join: Joined, held: Database, postgres_server: Server, is_known: bool
) -> None:
    part = join(1)
    leases.take_up(part, "r1", NOW)
    await writes.begin(part, "r1", [intent("k1")], NOW, NOW)
    if is_known:
        with postgres_server.connect(held.url.rsplit("/", 1)[1]) as connection:
            connection.execute("UPDATE lease SET holder = %s WHERE part = 1", (gone_process(),))
    assert leases.withdraw(run, "r1", NOW) == 1
    assert [each.is_orphan for each in doubts.all_doubts(run)] == [not is_known]


def test_a_process_of_this_machine_is_known_to_be_gone_and_no_other_one() -> None:
    ours, gone = ourselves(), gone_process()
    assert not is_gone(ours)
    assert is_gone(gone)
    assert not is_gone(gone.replace("pid:[", "pid:[1"))
    host, number, begun, machine = ours.split(" ")
    assert is_gone(f"{host} {number} {int(begun) - 1} {machine}"), "its number was given to another"
    assert not is_gone(f"{host} {number} {machine}"), "as version 1 wrote it"
    with subprocess.Popen(["sleep", "60"]) as process:
        its = f"{host} {process.pid} {start_of(process.pid)} {machine}"
        assert not is_gone(its)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it ended, and is not reaped yet
        assert is_gone(its)


FREEZE = """
import asyncio, sys
from datetime import datetime, UTC
from pathlib import Path
from pipeline.journal import leases, opening
from pipeline.journal.store import Database
journal = opening.join(Path(sys.argv[1]), sys.argv[2], Database(sys.argv[3], 3.0), 1, int(sys.argv[4]), dict)
leases.take_up(journal, "r1", datetime.now(UTC))
def hold():  # in the middle of a transaction
    print("held", flush=True)
    sys.stdin.readline()
try:
    journal.write_now(hold)
except Exception as error:
    print(type(error).__name__, journal.may_send(), flush=True)
"""


def test_a_process_that_is_stopped_amid_a_transaction_is_taken_over(
    run: Journal, join: Joined, held: Database, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", FREEZE, str(tmp_path), URL, held.url, str(run.epoch)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "held\n"
        os.kill(process.pid, signal.SIGSTOP)
        with join(1) as part:
            leases.take_up(part, "r1", NOW)
            os.kill(process.pid, signal.SIGCONT)
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "JournalTaken False\n"
            assert part.may_send()
