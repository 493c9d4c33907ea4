"""One rate for all workers: never above it in any second of all their logs together.

The workers are processes (bench/taker.py) that log the machine's monotonic clock at each grant. No
time is asserted: what is counted is grants, and what is compared are instants of one clock.
"""

import asyncio
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import IO, Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.rate import fullest_second
from bench.rounds import environment
from bench.shared import instants
from pipeline.canvas.limiter import Share
from pipeline.clock import SystemClock
from pipeline.cluster.frame import Slots
from pipeline.cluster.shared_limiter import DatabaseClock, SharedLimiter, pacing
from pipeline.cluster.shared_rate import Target
from pipeline.errors import JournalError, Stopped
from pipeline.journal.store import schema
from pipeline.records import Reserved
from pipeline.sandbox import Faults
from tests.support import postgres
from tests.support.runs import check_accounts, payments
from tests.support.shared_rate import Frames
from tests.support.world import LEDGER_ONLY, World

DDL = schema("rate.sql").encode()
RATE = 200
INTERVAL_S = 1.01 / 0.998 / RATE - 1e-6  # no two slots are closer
HANDED_OUT_S = 1.0  # no slot lies so far ahead when it is handed out


def fullest(log: list[float]) -> int:
    """The most grants in any second, wherever it begins."""
    return fullest_second(instants(log))


@dataclass
class Workers:
    """Processes that take grants from one database."""

    server: postgres.Server
    url: str
    folder: Path
    processes: list["subprocess.Popen[bytes]"] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)

    def start(self, count: int = 1, *, rate: float = RATE) -> None:
        for _ in range(count):
            number = len(self.files)
            self.files.append(self.folder / f"{number}.log")
            with self.files[-1].open("wb") as file:
                self.processes.append(
                    subprocess.Popen(
                        # Its clocks are off by hours.
                        [sys.executable, "-P", "-m", "bench.taker", self.url, str(rate), "--zero", str(-7200 * number)],
                        stdin=subprocess.PIPE, stdout=file,
                        env={**environment(), "PGPASSWORD": self.server.password},
                    )
                )  # fmt: skip

    def log(self, number: int) -> list[float]:
        whole = self.files[number].read_bytes()
        return [at for (at,) in struct.iter_unpack("d", whole[: len(whole) // 8 * 8])]

    def log_of_all(self) -> list[float]:
        return sorted(at for number in range(len(self.files)) for at in self.log(number))

    def wait_for(self, more: int, *numbers: int) -> None:
        """Until each of them has taken so many more."""
        wanted = {number: len(self.log(number)) + more for number in numbers}
        until_s = time.monotonic() + 60.0
        while any(len(self.log(number)) < count for number, count in wanted.items()):
            assert time.monotonic() < until_s, "no more grants"
            time.sleep(0.01)

    def tell(self, number: int, line: str) -> None:
        pipe = self._pipe(number)
        pipe.write(f"{line}\n".encode())
        pipe.flush()

    def end(self) -> list[float]:
        """Let all of them end; the log of all."""
        for number, process in enumerate(self.processes):
            if process.poll() is None:
                self._pipe(number).close()
                assert process.wait(120.0) == 0
        return self.log_of_all()

    def _pipe(self, number: int) -> IO[bytes]:
        pipe = self.processes[number].stdin
        assert pipe is not None
        return pipe


@contextmanager
def at_work(server: postgres.Server, url: str, folder: Path) -> Iterator[Workers]:
    with psycopg.connect(url, password=server.password) as connection:
        connection.execute(DDL)
    workers = Workers(server, url, folder)
    try:
        yield workers
    finally:
        for number, process in enumerate(workers.processes):
            process.kill()
            process.wait()
            workers._pipe(number).close()


@pytest.fixture
def workers(postgres_server: postgres.Server, database: str, tmp_path: Path) -> Iterator[Workers]:
    with at_work(postgres_server, database, tmp_path) as made:
        yield made


@pytest.fixture
def url(postgres_server: postgres.Server, database: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a database with the tables in it, for this process."""
    monkeypatch.setenv("PGPASSWORD", postgres_server.password)
    with psycopg.connect(database) as connection:
        connection.execute(DDL)
    return database


@asynccontextmanager
async def targets(url: str, count: int, rate: float = RATE) -> AsyncIterator[list[Target]]:
    made = [Target(url, pacing(rate), SystemClock()) for _ in range(count)]
    try:
        yield made
    finally:
        for target in made:
            await target.close()


@pytest.mark.parametrize("count", [2, 4])
def test_no_second_of_all_logs_together_holds_more_than_the_rate(
    workers: Workers, count: int
) -> None:
    workers.start(count)
    workers.wait_for(400 // count, *range(count))
    log = workers.end()
    assert fullest(log) <= RATE
    assert (len(log) - 1) / (log[-1] - log[0]) > RATE / 2


def test_a_rate_of_less_than_one_a_second(workers: Workers) -> None:
    workers.start(3, rate=0.9)
    for number in range(3):  # each in its turn
        workers.wait_for(1, number)
    workers.wait_for(1, 0)
    assert all(after - before > 1 / 0.9 for before, after in pairwise(workers.end()))


def test_one_is_killed_and_another_takes_its_place(workers: Workers) -> None:
    workers.start(3)
    workers.wait_for(50, 0, 1, 2)
    workers.processes[1].send_signal(signal.SIGKILL)
    workers.start()
    workers.wait_for(150, 0, 2, 3)
    log = workers.end()
    assert fullest(log) <= RATE
    assert (len(log) - 1) / (log[-1] - log[0]) > RATE / 2


def test_one_that_was_frozen_sends_none_of_its_slots(workers: Workers) -> None:
    workers.start(2)
    workers.wait_for(50, 0, 1)
    workers.processes[1].send_signal(signal.SIGSTOP)
    workers.wait_for(200, 0)  # a second, in which the slots in its hand go by
    workers.processes[1].send_signal(signal.SIGCONT)
    workers.wait_for(100, 0, 1)
    assert fullest(workers.end()) <= RATE


def test_a_429_of_one_pauses_all_and_halves_all(workers: Workers) -> None:
    workers.start(3)
    workers.wait_for(50, 0, 1, 2)
    workers.tell(1, "2.5")
    with psycopg.connect(workers.url, password=workers.server.password) as connection:
        connection.autocommit = True
        row, until_s = None, time.monotonic() + 60.0
        while row is None and time.monotonic() < until_s:
            row = connection.execute(
                """
                SELECT extract(epoch FROM cut_at)::float8, extract(epoch FROM blocked_until)::float8, share
                FROM target WHERE share < 1
                """
            ).fetchone()
        assert row is not None, "the row was not told"
        # The server runs on this machine: its clock is that of `time.time`.
        ahead_s = time.time() - time.monotonic()
        cut_s, free_s, share = row[0] - ahead_s, row[1] - ahead_s, row[2]
    workers.wait_for(100, 0, 1, 2)
    log = workers.end()
    assert fullest(log) <= RATE
    assert share == 0.5
    assert 2.5 <= free_s - cut_s < 2.6
    assert not [at for at in log if cut_s + HANDED_OUT_S <= at < free_s - 0.01]
    after = [at for at in log if free_s - 0.01 <= at < free_s + 2.0]
    assert 0 < fullest(after) <= RATE * (share + 0.02 * (free_s + 2.0 - cut_s))


def test_the_server_is_restarted_in_the_middle(tmp_path: Path) -> None:
    if why := postgres.missing():
        pytest.skip(why)
    with postgres.served() as server, at_work(server, server.url(), tmp_path) as workers:
        workers.start(2)
        workers.wait_for(50, 0, 1)
        server.kill()
        server.start()
        workers.wait_for(150, 0, 1)
        assert fullest(workers.end()) <= RATE


def slots_of(reserved: Reserved) -> list[float]:
    """The instants that a worker was given, by the database's clock."""
    if reserved.mine < 0:
        return []
    slots = Slots(reserved.first_s, reserved.interval_s, reserved.counts, reserved.mine)
    return [
        reserved.first_s + slots.place(number) * reserved.interval_s for number in range(len(slots))
    ]


def _restart_cleanly(server: postgres.Server) -> None:
    server.stop()
    server.start()


def _cut_the_power(server: postgres.Server) -> None:
    server.kill()
    server.start()


def _crash_a_backend(server: postgres.Server) -> None:
    """The server ends all of its processes and recovers, but goes on with its first one: it is not started again."""
    with server.connect() as connection:
        ((pid,),) = connection.execute("SELECT pg_backend_pid()").fetchall()
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    until_s = time.monotonic() + 30.0
    while True:
        try:
            server.connect().close()
        except psycopg.OperationalError:
            assert time.monotonic() < until_s
            time.sleep(0.02)
        else:
            return


@pytest.mark.parametrize("strike", [_restart_cleanly, _cut_the_power, _crash_a_backend])
async def test_after_a_restart_nothing_is_handed_out_that_may_have_been_before(
    strike: Callable[[postgres.Server], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    if why := postgres.missing():
        pytest.skip(why)
    # A commit that is not waited for is lost with a server that dies within ten seconds.
    with postgres.served(wal_writer_delay="10s") as server:
        monkeypatch.setenv("PGPASSWORD", server.password)
        with server.connect() as connection:
            connection.execute(DDL)
            connection.execute("CHECKPOINT")
        async with targets(server.url(), 2) as (one, other):
            before = await one.reserve(40, 0.0)
            await asyncio.sleep(max(0.0, before.again_s - before.now_s))
            last = await one.reserve(40, 0.0)
            strike(server)
            slots = [*slots_of(before), *slots_of(last)]
            after = await one.reserve(40, 0.0)
            assert (len(slots), slots_of(after)) == (2 * 98, [])
            assert (after.started_s > before.started_s) == (strike is not _crash_a_backend)
            await asyncio.sleep(max(0.0, after.again_s - after.now_s))
            more = [await each.reserve(40, 0.0) for each in (one, other)]
            await asyncio.sleep(max(0.0, more[0].again_s - after.now_s))
            more += [await each.reserve(40, 0.0) for each in (one, other)]
    again = [at for reserved in more for at in slots_of(reserved)]
    assert len(again) >= 98
    assert min(again) >= max(slots) + INTERVAL_S
    assert min(again) <= after.now_s + 1.0


async def test_slots_whose_answer_was_lost_are_not_handed_out_again(url: str) -> None:
    async with targets(url, 1) as (target,):
        taken = await target.reserve(40, 0.0)
        again = await target.reserve(40, 0.0)
    assert len(slots_of(taken)) == 98
    assert slots_of(again) == []
    assert again.again_s == pytest.approx(taken.again_s, abs=1e-6)


async def test_slots_of_the_faster_pace_are_not_handed_out_after_a_429(url: str) -> None:
    async with targets(url, 2) as (one, other):
        await one.reserve(40, 0.0)
        first = await other.reserve(40, 0.0)  # it was not there when that frame was made
        await asyncio.sleep(max(0.0, first.again_s - first.now_s))
        taken = await one.reserve(40, 0.0)
        assert len(slots_of(taken)) == 49
        await one.slow_down(0.0)
        late = await other.reserve(40, 0.0)
    assert late.cut_s > taken.cut_s
    assert slots_of(late) == []


async def test_no_two_workers_ever_get_the_same_slot(url: str) -> None:
    slots: list[float] = []
    async with targets(url, 6) as all_of_them:

        async def take(target: Target) -> None:
            for _ in range(6):
                reserved = await target.reserve(5, 0.0)
                slots.extend(slots_of(reserved))
                await asyncio.sleep(max(0.0, reserved.again_s - reserved.now_s))

        await asyncio.gather(*map(take, all_of_them))
    slots.sort()
    assert len(slots) > 200
    assert min(after - before for before, after in pairwise(slots)) > INTERVAL_S


async def test_the_model_answers_as_the_database_does(url: str) -> None:
    """What tests/cluster/test_shared_model.py proves is proved of the statement."""
    random = Random(7)
    short = pacing(RATE, frame_s=0.1)
    made = [Target(url, short, SystemClock()) for _ in range(5)]
    model = Frames(short)
    async with AsyncExitStack() as stack:
        for target in made:
            stack.push_async_callback(target.close)
        first = await made[0].look()
        model.blocked_until_s, model.cut_s = first.blocked_until_s, first.cut_s
        frames = 0
        for _ in range(150):
            target = random.choice(made)
            wanted, width_s = random.choice([0, 1, 3, 9, 40]), random.choice([0.0, 0.0, 0.005])
            told = await target.reserve(wanted, width_s)
            before = model.number
            first_s, interval_s, counts, mine, again_s = model.reserve(
                told.now_s, target._holder, wanted, width_s
            )
            frames += model.number > before
            assert (list(told.counts), told.mine) == (counts, mine)
            if counts:
                assert told.first_s == pytest.approx(first_s, abs=1e-4)
                assert told.interval_s == pytest.approx(interval_s, rel=1e-9)
                assert told.again_s == pytest.approx(again_s, abs=1e-4)
                model.tat_s = told.again_s + short["ahead_s"]  # it is rounded to microseconds
            await asyncio.sleep(random.choice([0.0, 0.0, 0.05]))
    assert frames > 10


async def test_a_reservation_waits_for_no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    if why := postgres.missing():
        pytest.skip(why)
    with postgres.served(wal_writer_delay="10s") as server:
        monkeypatch.setenv("PGPASSWORD", server.password)
        with server.connect() as connection:
            connection.execute(DDL)
            connection.execute("CHECKPOINT")
        async with targets(server.url(), 2) as (one, other):
            for target in (one, other):
                await target.reserve(1, 0.0)
            with server.connect() as connection:
                before = _flushed(connection)
                for _ in range(20):
                    for target in (one, other):
                        await target.reserve(40, 0.0)
                assert _flushed(connection) == before
                await one.slow_down(0.0)  # this one is durable
                assert _flushed(connection) > before


def _flushed(connection: "psycopg.Connection[Any]") -> int:
    """How far the log of the server is on the disk."""
    ((at,),) = connection.execute("SELECT pg_current_wal_flush_lsn() - '0/0'").fetchall()
    return int(at)


@pytest.mark.parametrize(
    ("share", "since_share_s", "since_cut_s"),
    [
        (1.0, 0, 86_400),
        (0.5, 10, 10),
        (0.5, 0.5, 0.5),  # another 429 of the same moment
        (0.0625, 1.5, 1.5),
        (0.0625, 3_600, 3_600),
        (0.9, 4, 4),
        (0.5, -100, -100),  # the server's clock was set back
    ],
)
async def test_the_share_in_the_row_is_that_of_a_process(
    url: str, share: float, since_share_s: float, since_cut_s: float
) -> None:
    async with targets(url, 1) as (target,):
        await target.look()
        with psycopg.connect(url, autocommit=True) as connection:

            def row() -> Any:
                return connection.execute(
                    "SELECT share, extract(epoch FROM share_at)::float8, extract(epoch FROM cut_at)::float8 FROM target"
                ).fetchone()

            connection.execute(
                "UPDATE target SET share = %s, share_at = now() - make_interval(secs => %s), cut_at = now() - make_interval(secs => %s)",
                (share, since_share_s, since_cut_s),
            )
            before = Share(*row())
            reserved = await target.reserve(1, 0.0)
            used = 1.01 / 0.998 / RATE / reserved.interval_s
            assert used == pytest.approx(
                before.at(max(reserved.now_s, before.changed_at_s)), abs=1e-4
            )
            await target.slow_down(7.0)
            after = Share(*row())
            if 0 <= since_cut_s < 1:
                assert after == before
            else:
                before.changed_at_s = min(before.changed_at_s, after.cut_at_s)
                before.cut_at_s = float("-inf")
                before.cut(after.cut_at_s)
                assert after.share == pytest.approx(before.share, abs=1e-6)
                assert after.changed_at_s == after.cut_at_s
            blocked = await target.reserve(1, 0.0)
    assert slots_of(blocked) == []
    assert 0 < blocked.blocked_until_s - blocked.now_s <= 7.0


async def test_a_clock_of_the_server_that_was_set_back_holds_nobody_for_hours(url: str) -> None:
    async with targets(url, 1) as (target,):
        await target.look()
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("UPDATE frame SET tat = now() + interval '3 hours'")
            connection.execute("UPDATE target SET blocked_until = now() + interval '3 hours'")
        reserved = await target.reserve(1, 0.0)
        looked = await target.look()
    assert reserved.again_s <= reserved.now_s + 1.0
    assert looked.blocked_until_s <= looked.now_s


async def test_a_hint_reaches_those_who_do_not_ask(url: str) -> None:
    clock = SystemClock()
    async with (
        SharedLimiter(Target(url, pacing(RATE), clock), clock) as one,
        SharedLimiter(Target(url, pacing(RATE), clock), clock) as other,
    ):
        await one.permit()
        await other.permit()
        one.slow_down(600.0)
        async with asyncio.timeout(30.0):
            while other._paused_until_s < clock.monotonic() + 500.0:
                await asyncio.sleep(0.01)


async def test_shared_limiter_in_hand_are_given_up_for_the_slower_pace(url: str) -> None:
    clock = SystemClock()
    async with (
        SharedLimiter(Target(url, pacing(RATE), clock), clock) as one,
        SharedLimiter(Target(url, pacing(RATE), clock), clock) as other,
    ):
        await one.permit()
        await asyncio.gather(*(other.permit() for _ in range(25)))
        await other.permit()
        assert any(other._frames)
        one.slow_down(0.0)
        async with asyncio.timeout(30.0):
            while other._cut_s < other._started_s:  # halved since the server was started
                await asyncio.sleep(0.01)
        halved_s = 1.01 / 0.998 / (RATE * 0.6)  # it grows back a little in the meantime
        assert all(slots._interval_s > halved_s for slots in other._frames)


async def test_a_pause_of_one_is_its_own(url: str) -> None:
    clock = SystemClock()
    async with (
        SharedLimiter(Target(url, pacing(RATE), clock), clock) as one,
        SharedLimiter(Target(url, pacing(RATE), clock), clock) as other,
    ):
        one.pause(600.0)
        waiting = asyncio.ensure_future(one.permit())
        async with asyncio.timeout(60.0):
            await asyncio.gather(*(other.permit() for _ in range(20)))
            assert not waiting.done()
            one.stop()
            with pytest.raises(Stopped):
                await waiting


def _kill(server: postgres.Server) -> None:
    server.kill()


def _freeze(server: postgres.Server) -> None:
    _signal_all(server, signal.SIGSTOP)


def _signal_all(server: postgres.Server, number: signal.Signals) -> None:
    """The server and the processes that it has started."""
    if server._process is not None:
        above = server._process.pid
        listed = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(above)], capture_output=True, check=False
        )
        for pid in (above, *map(int, listed.stdout.split())):
            os.kill(pid, number)


@pytest.mark.parametrize("silence", [_kill, _freeze])
async def test_while_the_database_is_silent_nothing_is_granted_and_then_it_is_an_error(
    silence: Callable[[postgres.Server], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    if why := postgres.missing():
        pytest.skip(why)
    with postgres.served() as server:
        monkeypatch.setenv("PGPASSWORD", server.password)
        with server.connect() as connection:
            connection.execute(DDL)
        clock = SystemClock()
        url = server.url(connect_timeout="2")
        async with (
            SharedLimiter(Target(url, pacing(1.0), clock, patience_s=0.5), clock) as one,
            SharedLimiter(Target(url, pacing(1.0), clock), clock) as other,
        ):
            await asyncio.gather(one.permit(), other.permit())
            silence(server)
            try:
                waiting = asyncio.gather(*(other.permit() for _ in range(3)))
                async with asyncio.timeout(60.0):
                    with pytest.raises(JournalError) as caught:
                        await asyncio.gather(
                            *(one.permit() for _ in range(3))
                        )  # one slot may be in hand
                    assert "[state] url" in caught.value.message
                    assert server.password not in str(caught.value)
                    other.stop()
                    with pytest.raises(Stopped):
                        await waiting
            finally:
                _signal_all(server, signal.SIGCONT)


async def test_a_database_without_the_tables_is_an_error_at_once(
    postgres_server: postgres.Server, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", postgres_server.password)
    clock = SystemClock()
    async with SharedLimiter(Target(database, pacing(RATE), clock), clock) as slots:
        with pytest.raises(JournalError, match="relation"):
            await slots.permit()


class Far:
    """A way to the server that takes so long."""

    def __init__(self, server: postgres.Server, delay_s: float) -> None:
        self._server, self._delay_s = server, delay_s
        self.carrying: list[asyncio.Future[Any]] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        beyond = await asyncio.open_connection("127.0.0.1", self._server.port)
        self.carrying += map(
            asyncio.ensure_future, (self._carry(reader, beyond[1]), self._carry(beyond[0], writer))
        )

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            await asyncio.sleep(self._delay_s)
            writer.write(data)
        writer.close()
        await writer.wait_closed()


async def test_a_database_that_is_far_away_spaces_the_slots_of_all(
    postgres_server: postgres.Server, url: str
) -> None:
    clock, log = SystemClock(), list[float]()
    way = Far(postgres_server, 0.02)
    async with await asyncio.start_server(way, "127.0.0.1") as door:
        far = url.replace(str(postgres_server.port), str(door.sockets[0].getsockname()[1]))
        async with (
            SharedLimiter(Target(far, pacing(RATE), clock), clock) as one,
            SharedLimiter(Target(url, pacing(RATE), clock), clock) as other,
        ):

            async def take(slots: SharedLimiter, count: int) -> None:
                for _ in range(count):
                    await slots.permit()
                    log.append(clock.monotonic())

            await asyncio.gather(*(take(each, 30) for each in (one, other) for _ in range(5)))
            assert one._width_s >= 0.035
            async with targets(url, 1) as (third,):
                reserved = await third.reserve(1, 0.0)
                assert reserved.interval_s >= (1.01 + one._width_s) / 0.998 / RATE - 1e-6
        await asyncio.gather(*way.carrying)
    assert fullest(log) <= RATE


@given(
    st.floats(-1e9, 1e9),
    st.lists(st.tuples(st.floats(0.0, 30.0), st.floats(0.0, 0.5), st.floats(0.0, 1.0)), min_size=1),
)
def test_the_clock_of_the_database_lies_between_its_bounds(
    ahead_s: float, answers: list[tuple[float, float, float]]
) -> None:
    database, now_s = DatabaseClock(), 0.0
    for idle_s, took_s, told_after in answers:
        asked_s = now_s + idle_s
        now_s = asked_s + took_s
        told_s = asked_s + told_after * took_s + ahead_s
        assert database.hear(answer(asked_s, now_s, told_s))
        least_s, most_s = database.at(now_s)
        assert least_s - 1e-6 <= now_s + ahead_s <= most_s + 1e-6
        assert most_s - least_s <= took_s + 1e-6
    assert not database.hear(answer(now_s, now_s + 0.1, now_s + ahead_s + 10.0))  # it was set
    least_s, most_s = database.at(now_s + 0.1)
    assert least_s - 1e-6 <= now_s + ahead_s + 10.0 <= most_s + 1e-6


def answer(asked_s: float, answered_s: float, now_s: float) -> Reserved:
    return Reserved(asked_s, answered_s, now_s, 0.0, 0.0, 0.0, (), -1, 0.0, 0.0, 0.0)


async def test_a_whole_run_goes_by_the_row(
    make_world: Callable[..., Any],
    postgres_server: postgres.Server,
    database: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PGPASSWORD", postgres_server.password)
    world: World = await make_world(faults=Faults(throttle=0.02, retry_after_s=0), fault_seed=3)
    world.write_config(feeds=f'[state]\nurl = "{database}"\n{LEDGER_ONLY}', attempts_max=20)
    world.write_ledger(payments(100))
    result = await world.run()
    assert result.exit_code == 0
    check_accounts(world, result)
    with psycopg.connect(database) as connection:
        row = connection.execute("SELECT share < 1, rate_per_s FROM target").fetchone()
    assert row == (True, 2000.0)


def test_what_does_not_use_it_does_not_load_it() -> None:
    told = subprocess.run(
        [sys.executable, "-P", "-c", "import sys, pipeline.sending.session; print('psycopg' in sys.modules)"],
        env=environment(), capture_output=True, check=True,
    )  # fmt: skip
    assert told.stdout.strip() == b"False"
