"""Runs over a cluster, struck again and again: no row has two effects, none is lost, each patient's order holds.

Worlds are made, each a local Canvas with files and faults of its own, and a database of its own. Two
workers of a Dask cluster, in processes of their own, carry the runs of the command: one with a nanny,
which starts it again and, where it is silent, kills it first; and one without, as in a container, which
lives on when the scheduler gives it up. By a schedule that a seed decides, while they send,

    kill         a worker that holds a part is killed (SIGKILL), and another is started
    restart      the database is stopped, or killed, and started again, at once or past the leases
    freeze       a worker is stopped (SIGSTOP) past its lease and woken: at any moment, amid a
                 transaction, or with claims that it has not sent; sometimes the command itself
    cut          nothing passes between a worker and the scheduler for a while, both ways; both live
    coordinator  the command is killed, and begun again

After each run, and after two last ones without faults, what the local Canvas did, by its own account,
is held against the report and the journal.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, Final

import polars as pl
import psycopg

from bench.rate import fullest_second
from pipeline.journal import history, leases, opening
from pipeline.journal.evidence import find_contradictions
from pipeline.journal.store import Database
from pipeline.sandbox import Faults, Sandbox, serve
from tests.proof import kills
from tests.proof.kills import ENDED, Place, Row, done, lines, posts, row_of
from tests.support.postgres import Server, served
from tests.support.world import CREDENTIALS, World, patient_key
from tests.support.world import seed as canvas_of

PATIENTS: Final = 80
WORKERS: Final = 2
NANNY: Final = 0
"""The number of the worker that has one."""
PARTITIONS: Final = 4
LEASE_S: Final = 3.0
RATE_PER_S: Final = 60.0
QUIET_S: Final = 0.8
"""Above the delay of late commits: below it a search that shows nothing proves nothing."""
STEP_MAX: Final = 25
"""Effects between one strike and the next, at most."""
STRIKES: Final = {"kill": 10, "restart": 2, "freeze": 2, "cut": 1, "coordinator": 1}
"""Of one world, at most."""
IN_VAIN_MAX: Final = 2
"""Runs of a world that came to their end unstruck: then little is left to strike."""
HANGS_S: Final = 240.0
AIMS_MAX: Final = 100
"""Times a worker is stopped and let go on until it stands amid what it is to be frozen in."""
SENT_S_MAX: Final = 1.5
"""Between the sending of a write and its effect, at most, late commits included."""
FAULTS: Final = {
    "none": Faults(),
    "lost": Faults(lose_before=0.01, lose_after=0.01),
    "flaky": Faults(error_before=0.02, error_after=0.01),
    "late": Faults(late_commit=0.02, late_commit_s=0.3),
    "throttled": Faults(throttle=0.01),
    "mixed": Faults(
        lose_before=0.005, lose_after=0.005, error_before=0.01, error_after=0.005, throttle=0.005,
        late_commit=0.01, late_commit_s=0.3, latency_s=(0.0, 0.05),
    ),
}  # fmt: skip

# A run that lost its lease, or its database for longer than that, may say only this.
_EXCUSES: Final = ("another process took over", "PostgreSQL, which holds the journal, does not")
_HELD: Final = "SELECT part, holder FROM lease WHERE part <> 0 AND holder IS NOT NULL AND expires_at > clock_timestamp() ORDER BY part"
_AMID: Final = "SELECT client_port FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction'"
_IN_FLIGHT: Final = "SELECT lane FROM write WHERE state = 'IN_FLIGHT' AND part = ANY(%s)"


@dataclass
class Story:
    """The events in one world so far, or in all of them."""

    name: str = ""
    rows: dict[Place, Row] = field(default_factory=dict)
    strikes: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    """Strikes by how they were done."""
    runs: int = 0
    failed: int = 0
    """Runs that said that they had lost the database, or their lease."""
    row_count: int = 0
    effects: int = 0
    writes: int = 0
    """Requests that write."""
    in_doubt: int = 0
    """Rows in doubt at the end, and those behind them."""
    pending: int = 0
    fullest_s: int = 0
    """Grants in the fullest second."""
    lease_records: int = 0
    violations: list[str] = field(default_factory=list)

    def violate(self, what: str) -> None:
        self.violations.append(
            f"{self.name}, after {dict(self.strikes)} and {self.runs} runs: {what}"
        )

    def add(self, other: "Story") -> None:
        self.strikes += other.strikes
        self.kinds += other.kinds
        for name in (
            "runs",
            "failed",
            "row_count",
            "effects",
            "writes",
            "in_doubt",
            "pending",
            "lease_records",
        ):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.fullest_s = max(self.fullest_s, other.fullest_s)
        self.violations += other.violations


async def run(
    strikes: Counter[str],
    seed: int,
    folder: Path,
    tell: Callable[[Story], None] = lambda _: None,
    *,
    patients: int = PATIENTS,
) -> Story:
    """Strike this many times, in as many worlds as needed, one after another."""
    told, left = Story(), +strikes
    with served() as server:
        os.environ["PGPASSWORD"] = server.password
        async with cluster() as found:
            for world_seed in range(seed * 1_000, (seed + 1) * 1_000):
                share = Counter({kind: min(left[kind], STRIKES[kind]) for kind in left})
                scratch = folder / f"world-{world_seed}"
                story = await play(world_seed, share, found, server, scratch, patients)
                tell(story)
                told.add(story)
                left -= story.strikes
                if not left:
                    break
    return told


async def play(
    seed: int,
    strikes: Counter[str],
    cluster: "Cluster",
    server: Server,
    folder: Path,
    patients: int = PATIENTS,
) -> Story:
    """Play one world: strike it, let it end without faults, run once more, and check the result."""
    random = Random(seed)
    faults = random.choice(list(FAULTS))
    resend = random.choice(["none", "coverage", "all", "all"])
    sandbox = Sandbox(canvas_of(patients), faults=FAULTS[faults], fault_seed=seed)
    name = await asyncio.to_thread(server.create)
    async with serve(sandbox) as url:
        world = World(folder, sandbox, url)
        story = Story(f"seed {seed} (faults {faults}, resend_absent {resend})")
        story.rows = write_files(world, random, patients)
        write_config(world, cluster, server.url(name), resend)
        struck = Struck(world, story, cluster, server, server.url(name), random)
        await struck.strike_all(strikes)
        sandbox.set_faults(Faults())
        sandbox.settle()
        await struck.end()
    await asyncio.to_thread(server.drop, name)
    return story


def write_files(world: World, random: Random, patients: int) -> dict[Place, Row]:
    """Write two coverages and several payments a patient, each with an amount of its own; in the order of the files."""
    world.folder.mkdir(parents=True)
    coverages: list[tuple[str, ...]] = []
    payments: list[tuple[str, str, str]] = []
    for number in range(patients):
        patient = patient_key(number)
        coverages += [
            (patient, f"M{number}-{order}", "self", "60054", order, "2026-01-01", "")
            for order in ("1", "2")
        ]
        payments += [
            (patient, f"{each + 1}.{number % 100:02}", "") for each in range(random.randint(4, 8))
        ]
    random.shuffle(payments)
    payments.sort(
        key=lambda each: float(each[1]) // 2
    )  # those of a patient are far from one another
    world.write_eligibility(coverages)
    world.write_ledger([(f"T{at:05}", *payment) for at, payment in enumerate(payments)])
    rows: dict[Place, Row] = {}
    for at, (patient, member, *_) in enumerate(coverages, 1):
        rows["eligibility", at] = ("Coverage", patient, member, "")
    for at, payment in enumerate(payments, 1):
        rows["ledger", at] = ("PaymentNotice", *payment)
    return rows


def write_config(world: World, cluster: "Cluster", database: str, resend: str) -> None:
    path = world.write_config(
        rate_per_s=RATE_PER_S, quiet_s=QUIET_S, concurrency=8, resend_absent=resend
    )
    more = (
        f'[state]\nurl = "{database}"\nlease_s = {LEASE_S}\n'
        f'[engine]\nkind = "dask"\nscheduler = "{cluster.address}"\npartitions = {PARTITIONS}\n'
    )
    path.write_text(path.read_text().replace("[upload]", f"{more}[upload]", 1))


# The cluster --------------------------------------------------------------------------------------


class Line:
    """The connection of a worker to the scheduler: each byte passes through it, or waits in it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._is_open = asyncio.Event()
        self._is_open.set()
        self._is_refusing = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._join, "127.0.0.1", 0)
        return f"tcp://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stall(self, seconds: float) -> None:
        """Let no byte pass for some time, without a sign to either side."""
        self._is_open.clear()
        await asyncio.sleep(seconds)
        self._is_open.set()

    async def sever(self, seconds: float) -> None:
        """Reset all connections, and refuse new ones for some time."""
        self._is_refusing = True
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(seconds)
        self._is_refusing = False

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_refusing:
            writer.transport.abort()
            return
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers |= {writer, far_writer}
        for one, other in ((reader, far_writer), (far_reader, writer)):
            task = asyncio.ensure_future(self._pass_on(one, other))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while some := await reader.read(65_536):
                await self._is_open.wait()
                writer.write(some)
                await writer.drain()
        await self._is_open.wait()
        writer.close()
        self._writers.discard(writer)


class Cluster:
    """A scheduler, and workers, one of them with a nanny, each behind a line of its own."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "cluster.log"
        self.lines: list[Line] = []
        self.address = ""
        self._folder = folder
        self._scheduler: subprocess.Popen[bytes] | None = None
        self._started: list[subprocess.Popen[bytes]] = []  # nannies, and workers without one
        self._addresses: list[str] = []

    async def start(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        self.address = f"tcp://127.0.0.1:{port}"
        self._scheduler = self._start("dask_scheduler", "--port", str(port))
        await self._until(lambda: _answers(port))
        for _ in range(WORKERS):
            self.lines.append(Line(port))
            self._addresses.append(await self.lines[-1].start())
            self._started.append(self._worker(len(self._started)))
        await self._until(lambda: all(self.worker_of(number) for number in range(WORKERS)))

    async def keep(self) -> None:
        """Restart processes that ended, as a service manager does."""
        while True:
            for number, process in enumerate(self._started):
                if process.poll() is not None:
                    self._started[number] = self._worker(number)
            await asyncio.sleep(0.5)

    def worker_of(self, number: int) -> int:
        """Return the process of a worker; 0 while there is none."""
        started = self._started[number]
        if number != NANNY:
            return started.pid if started.poll() is None else 0
        return next(iter(_children(started.pid)), 0)

    def number_of(self, process: int) -> int | None:
        """Return the number of the worker of that process."""
        return next((n for n in range(WORKERS) if self.worker_of(n) == process), None)

    async def close(self) -> None:
        for line in self.lines:
            await line.close()
        workers = [self.worker_of(number) for number in range(WORKERS)]
        for process in [*self._started, *([self._scheduler] if self._scheduler else [])]:
            process.kill()
            process.wait()
        for worker in workers:
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL) if worker else None

    def _worker(self, number: int) -> "subprocess.Popen[bytes]":
        # Threads for all partitions: one that is begun anew runs beside the worker that may still have it.
        return self._start(
            "dask_worker", self._addresses[number], "--nworkers", "1", "--nthreads", str(PARTITIONS),
            "--nanny" if number == NANNY else "--no-nanny", "--memory-limit", "0", "--local-directory", str(self._folder / "scratch"),
        )  # fmt: skip

    def _start(self, module: str, *arguments: str) -> "subprocess.Popen[bytes]":
        settings = {
            "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "100000",
            "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "5s",
            "POLARS_MAX_THREADS": "1",
        }
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", f"distributed.cli.{module}", *arguments, "--host", "127.0.0.1", "--no-dashboard"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **CREDENTIALS, **settings},
            )  # fmt: skip

    async def _until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(60.0):
            while not is_so():
                await asyncio.sleep(0.05)


@asynccontextmanager
async def cluster() -> AsyncIterator[Cluster]:
    with TemporaryDirectory(prefix="ingest-cluster-") as scratch:
        found = Cluster(Path(scratch))
        keeping: asyncio.Task[None] | None = None
        try:
            await found.start()
            keeping = asyncio.ensure_future(found.keep())
            yield found
        finally:
            if keeping is not None:
                keeping.cancel()
            await found.close()


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
        return True
    return False


def _children(parent: int) -> list[int]:
    """Return the workers among a nanny's processes."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            text = path.read_text()
            number, rest = int(text.split(" ", 1)[0]), text.rpartition(")")[2].split()
            is_worker = b"spawn_main" in path.with_name("cmdline").read_bytes()
            if int(rest[1]) == parent and rest[0] != "Z" and is_worker:
                found.append(number)
    return found


def _ports(process: int) -> set[int]:
    """Return the local ports of a process' connections."""
    inodes = set()
    for path in Path(f"/proc/{process}/fd").iterdir():
        with suppress(OSError):
            inodes.add(str(path.readlink()).removeprefix("socket:[").removesuffix("]"))
    table = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {int(line[1].rpartition(":")[2], 16) for line in table if line[9] in inodes}


# Striking -----------------------------------------------------------------------------------------


class Struck:
    """A world that is run, and the strikes at it."""

    def __init__(
        self,
        world: World,
        story: Story,
        cluster: Cluster,
        server: Server,
        database: str,
        random: Random,
    ) -> None:
        self.world, self.story, self.cluster = world, story, cluster
        self.server, self.database, self.random = server, database, random
        self._process: asyncio.subprocess.Process | None = None
        self._under_way: set[asyncio.Task[None]] = set()
        self._is_excused = False  # the run may say that it lost the database, or its lease
        self._is_killed = False
        self._is_reported = False
        self._down = asyncio.Lock()

    async def strike_all(self, strikes: Counter[str]) -> None:
        """Run and strike until all strikes are made, or there is nothing left to strike."""
        left = list(strikes.elements())
        self.random.shuffle(left)
        in_vain = 0
        while left and in_vain < IN_VAIN_MAX:
            before = len(left)
            await self.run(left)
            in_vain += len(left) == before

    async def run(self, left: list[str]) -> int:
        """Run the command, strike it while it sends, and check the result. Returns its exit code."""
        self._is_excused = self._is_killed = self._is_reported = False
        process = self._process = await self._begun()
        striking = asyncio.ensure_future(self._strike_while(process, left))
        code = await self._ended(process)
        striking.cancel()
        await asyncio.gather(striking, return_exceptions=True)
        while self._under_way:
            await asyncio.gather(*self._under_way)
        await asyncio.sleep(0.5)  # the woken worker has had the time to do what it must not
        await asyncio.to_thread(self._check, is_last=False)
        return code

    async def _begun(self) -> asyncio.subprocess.Process:
        self.story.runs += 1
        return await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "pipeline", "run", str(self.world.config), "--no-progress",
            env={**os.environ, **CREDENTIALS},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip

    async def _ended(self, process: asyncio.subprocess.Process) -> int:
        """Return its exit code, once it has ended and was checked."""
        told = asyncio.ensure_future(process.communicate())
        try:
            async with asyncio.timeout(HANGS_S):
                printed, _ = await asyncio.shield(told)
        except TimeoutError:
            self.story.violate(f"it did not end within {HANGS_S:.0f} s")
            process.kill()
            printed, _ = await told
        self._is_reported |= b"Report:" in printed
        code = await process.wait()
        self._judge(code, printed.decode())
        return code

    def _judge(self, code: int, printed: str) -> None:
        """Check that it may have ended like this."""
        if any(patient_key(number) in printed for number in range(PATIENTS)):
            self.story.violate("a patient's key was printed")
        if code in ENDED or (self._is_killed and code == -signal.SIGKILL):
            return
        if code == 1 and self._is_excused and any(each in printed for each in _EXCUSES):
            self.story.failed += 1
            return
        self.story.violate(f"it ended with {code}: {' '.join(printed.split())[-900:]}")

    async def _strike_while(self, process: asyncio.subprocess.Process, left: list[str]) -> None:
        while left and process.returncode is None:
            goal = done(self.world) + self.random.randint(1, STEP_MAX)
            patience_s = time.monotonic() + 8.0  # where little is sent, for all are struck
            while done(self.world) < goal and time.monotonic() < patience_s:
                await asyncio.sleep(0.005)
            if done(self.world) < 1:
                continue
            kind = left[-1]
            if await getattr(self, f"_{kind}")():
                left.pop()
                self.story.strikes[kind] += 1
            else:
                await asyncio.sleep(0.05)

    def _meanwhile(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _kill(self) -> bool:
        return await self._signal_holder(signal.SIGKILL) is not None

    async def _signal_holder(self, number: signal.Signals) -> int | None:
        """Signal a worker that holds a part, and so sends. Returns its process."""
        held = await self._asked(_HELD)
        processes = sorted({int(holder.split(" ")[1]) for _, holder in held})
        there = [each for each in processes if self.cluster.number_of(each) is not None]
        if not there:
            return None
        process = self.random.choice(there)
        with suppress(ProcessLookupError):
            os.kill(process, number)
            return process
        return None

    async def _coordinator(self) -> bool:
        if self._process is None or self._process.returncode is not None:
            return False
        self._is_killed = True
        self._process.kill()
        return True

    async def _restart(self) -> bool:
        if self._down.locked():
            return False
        self._is_excused = True  # where it is away for too long, that costs the command its lease
        stops = self.random.random() < 0.5
        away_s = self.random.choice([0.0, 0.0, 0.5, LEASE_S + 1.0])
        self._meanwhile(self._restarted(away_s, stops=stops))
        return True

    async def _restarted(self, away_s: float, *, stops: bool) -> None:
        async with self._down:
            began_s = time.monotonic()
            await asyncio.to_thread(self.server.stop if stops else self.server.kill)
            await asyncio.sleep(away_s)
            await asyncio.to_thread(self.server.start)
            took_s = time.monotonic() - began_s
            past = ", past the leases" if took_s > LEASE_S else ""
            self.story.kinds[f"database {'stopped' if stops else 'killed'}{past}"] += 1

    async def _freeze(self) -> bool:
        for_s = LEASE_S + 0.5 + 15.0 * self.random.random()  # the scheduler gives it up in between
        aim = self.random.choice(["transaction", "transaction", "claims", "moment", "command"])
        if aim == "command":
            if self._process is None or self._process.returncode is not None:
                return False
            self._process.send_signal(signal.SIGSTOP)
            self._is_excused = True
            is_followed = self.random.random() < 0.5
            self.story.kinds[f"command frozen{', another begun' if is_followed else ''}"] += 1
            self._meanwhile(self._woken(self._process.pid, for_s))
            if is_followed:
                self._meanwhile(self._followed())
            return True
        process = await self._signal_holder(signal.SIGSTOP)
        if process is None:
            return False
        try:
            if not await self._is_stopped(process, aim):
                aim = "moment"
        except ProcessLookupError:
            return False
        except asyncio.CancelledError:
            await self._woken(process, 0.0)
            raise
        what = {
            "transaction": "amid a transaction",
            "claims": "with claims unsent",
            "moment": "at any moment",
        }
        self.story.kinds[f"worker frozen {what[aim]}"] += 1
        self._meanwhile(self._woken(process, for_s))
        return True

    async def _is_stopped(self, process: int, aim: str) -> bool:
        """Let a worker go on and stop again until it is at the wanted place. Returns False if it does not get there."""
        for _ in range(AIMS_MAX):
            if aim == "moment" or await self._is_amid(process, aim):
                return True
            os.kill(process, signal.SIGCONT)
            await asyncio.sleep(0.02 * self.random.random())
            os.kill(process, signal.SIGSTOP)
        return False

    async def _is_amid(self, process: int, aim: str) -> bool:
        """Return whether a stopped worker is amid a transaction, or has claims that it has not sent."""
        if aim == "transaction":
            ports = {line[0] for line in await self._asked(_AMID)}
            return bool(ports & await asyncio.to_thread(_ports, process))
        await asyncio.sleep(0.02)  # what it sent has come
        mine = [
            part
            for part, holder in await self._asked(_HELD)
            if int(holder.split(" ")[1]) == process
        ]
        claimed = Counter(lane for (lane,) in await self._asked(_IN_FLIGHT, mine))
        open_writes = self.world.sandbox.store.account.open_writes
        return any(patient not in open_writes for patient in claimed)

    async def _followed(self) -> None:
        """Let another command take over while the first is stopped."""
        await self._ended(await self._begun())

    async def _woken(self, process: int, after_s: float) -> None:
        await asyncio.sleep(after_s)
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGCONT)

    async def _cut(self) -> bool:
        held = await self._asked(_HELD)
        numbers = {self.cluster.number_of(int(holder.split(" ")[1])) for _, holder in held} - {None}
        if not numbers:
            return False
        line = self.cluster.lines[
            self.random.choice(sorted(each for each in numbers if each is not None))
        ]
        for_s = 3.0 + 10.0 * self.random.random()
        how = self.random.choice(["stall", "sever"])
        self.story.kinds[f"worker cut off, {how}"] += 1
        self._meanwhile(line.stall(for_s) if how == "stall" else line.sever(for_s))
        return True

    async def _asked(self, sql: str, *parameters: object) -> list[Any]:
        """Return the database's answer; nothing while it is away."""

        def ask() -> list[Any]:
            with (
                suppress(psycopg.OperationalError),
                psycopg.connect(self.database, connect_timeout=2) as connection,
            ):
                return connection.execute(sql, parameters or None).fetchall()
            return []

        return await asyncio.to_thread(ask)

    # Looking --------------------------------------------------------------------------------------

    async def end(self) -> None:
        """Run to the end, then once more: the second run sends only what was left over."""
        code = await self.run([])
        if code not in ENDED:
            return
        left = lines(self.world).filter(pl.col("disposition") == "pending").height
        before = posts(self.world)
        await self.run([])
        again = posts(self.world) - before
        if again and not left:
            self.story.violate(f"the last run sent {again} writes, and nothing was left over")
        await asyncio.to_thread(self._check, is_last=True)

    def _check(self, *, is_last: bool) -> None:
        """Compare the effects in the local Canvas with the report, and with the journal."""
        world, story = self.world, self.story
        looks = [*kills.effects_amiss(world, story.rows), *order_amiss(world, story.rows)]
        if self._is_reported:
            frame = lines(world)
            looks += kills.rows_amiss(world, frame, story.rows)
            looks += kills.summary_amiss(world, frame, ENDED | ({1} if self._is_excused else set()))
            looks += self._journal_amiss()
            counts = Counter(frame["disposition"])
            if is_last:
                looks += kills.waiting_amiss(frame, story.rows)
                story.row_count, story.effects, story.writes = (
                    len(story.rows),
                    done(world),
                    posts(world),
                )
                story.in_doubt, story.pending = counts["in_doubt"], counts["pending"]
        for what in looks:
            story.violate(what)

    def _journal_amiss(self) -> Iterator[str]:
        """Check that the chains are whole, no worker holds a part, the rate was kept, and no zombie sent."""
        story = self.story
        held = Database(self.database, LEASE_S)
        with TemporaryDirectory() as scratch:
            state = self.world.folder / "state"
            with opening.look(
                state, self.world.url, None, Path(scratch) / "copy", database=held
            ) as journal:
                audit_log = [line for line, _ in history.read_lines(journal)]
                if broken := history.first_break(journal):
                    yield f"the trail breaks at line {broken}"
                if found := find_contradictions(journal).count:
                    yield f"the table of writes contradicts the audit log about {found}"
                if parts := leases.count_held(journal):
                    yield f"{parts} parts are held, and the run has ended"
        granted = sorted(
            datetime.fromisoformat(line.at) for line in audit_log if line.latency_ms is not None
        )
        story.fullest_s = max(story.fullest_s, fullest_second(granted))
        if story.fullest_s > RATE_PER_S:
            yield f"{story.fullest_s} grants in a second, and {RATE_PER_S:.0f} are allowed"
        with psycopg.connect(self.database) as connection:
            known = connection.execute(
                "SELECT key, resource_type, lane, amount_cents, rank, held_rank FROM write"
            ).fetchall()
            story.lease_records = connection.execute("SELECT count(*) FROM stint").fetchall()[0][0]
        yield from unclaimed_effects(self.world, known, audit_log)


def order_amiss(world: World, rows: dict[Place, Row]) -> Iterator[str]:
    """Check the order: a patient's coverages, then the payments in the order of the file; nothing else."""
    places = {row: at for at, row in enumerate(rows.values())}
    last: dict[str, int] = {}
    for effect in world.effects:
        place = places.get(row_of(effect))
        if place is None:
            yield f"{row_of(effect)} was made, and is no row"
            continue
        if place < last.get(effect["patient"], -1):
            yield f"{row_of(effect)} came after one that stands behind it"
        last[effect["patient"]] = place


def unclaimed_effects(
    world: World, known: Sequence[tuple[Any, ...]], audit_log: Sequence[Any]
) -> Iterator[str]:
    """Yield effects of writes that a successor had doubted, and that were not claimed again since."""
    keys: dict[tuple[str, str, object], str] = {}
    for key, resource_type, lane, cents, rank, held_rank in known:
        keys[
            resource_type, lane, cents if resource_type == "PaymentNotice" else held_rank or rank
        ] = key
    told: dict[str, list[tuple[datetime, str]]] = {}
    for line in audit_log:
        if line.key and line.event in {"claim", "crashed"}:
            told.setdefault(line.key, []).append((datetime.fromisoformat(line.at), line.event))
    for effect in world.effects:
        is_payment = effect["resource_type"] == "PaymentNotice"
        which = round(float(effect["amount"]) * 100) if is_payment else effect["order"]
        key = keys.get((effect["resource_type"], effect["patient"], which))
        at = datetime.fromisoformat(effect["at"])
        before = sorted(each for each in told.get(key or "", ()) if each[0] <= at)
        if not before:
            yield f"{row_of(effect)} was made, and had not been claimed"
        elif before[-1][1] == "crashed" and at - before[-1][0] > timedelta(seconds=SENT_S_MAX):
            yield f"{row_of(effect)} was made {at - before[-1][0]} after it had been doubted"
