"""Power losses, simulated: what the journal may hold after one, checked against what it promised.

A recording drives the real journal and keeps, in order, each write, truncate and sync that SQLite
makes. An image is the files as a disk can hold them when the power goes at a point of a recording:
what was synced is there; of the rest any subset, and of a write any of its sectors. Each image is
opened by the journal's own code, and must hold what was acknowledged before that point, or that and
all of the call that was under way.
"""

import asyncio
import shutil
import sqlite3
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum, auto
from itertools import count, pairwise
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple, ParamSpec, TypeVar
from unittest.mock import patch

import apsw
import polars as pl

from pipeline.errors import JournalError
from pipeline.journal import decisions, history, lookups, opening, runs, writes
from pipeline.journal import sqlite as module
from pipeline.journal.audit_log import ORIGIN
from pipeline.journal.evidence import find_contradictions
from pipeline.journal.journal import Journal
from pipeline.journal.runs import Run
from pipeline.records import (
    Attempt,
    Exchange,
    Finding,
    Intent,
    Interaction,
    Settlement,
    State,
    Verdict,
)

P = ParamSpec("P")
T = TypeVar("T")

URL: Final = "https://fumage-example.canvasmedical.com"
CALLS: Final = 60  # in a recording
IMAGES_A_RECORDING: Final = 60
SECTOR: Final = 512
_OF_CREATES: Final = (Verdict.ACCEPTED, Verdict.REFUSED, Verdict.NOT_APPLIED, Verdict.LOST)
_DATABASE: Final = "journal.sqlite"
_FOLDER: Final = 0  # the folder counts as a file: its content are the names in it
_NOW: Final = datetime(2026, 11, 21, tzinfo=UTC)
_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a folder for images, made anew for each run
_LEVELS: Final = {"OFF": 0, "NORMAL": 1, "FULL": 2}

Held = dict[str, tuple[str, str]]  # key -> state, resource id


@dataclass(frozen=True)
class Report:
    """The results of a number of images."""

    images: int
    points: int  # different crash points among them
    in_checkpoint: int  # images where pages of the database file itself were not yet synced
    violations: list[str]


# Recording ----------------------------------------------------------------------------------------


class Kind(Enum):
    """An operation on a file."""

    WRITE = auto()
    TRUNCATE = auto()
    SYNC = auto()
    CREATE = auto()  # of a name in the folder
    DELETE = auto()  # of a name in the folder


class Op(NamedTuple):
    """One operation, with its place in the order of all."""

    kind: Kind
    file: int  # a number for each file that was made, also of the same name; or _FOLDER
    at: int = 0  # offset, or the size to truncate to; of CREATE: the number of the file
    data: bytes = b""
    name: str = ""  # of CREATE and DELETE


class Promise(NamedTuple):
    """The state that the world outside relies on from a point on, until the next promise."""

    point: int
    call: str
    head: tuple[int, str]  # number and hash of the trail's last line
    held: Held


@dataclass(frozen=True, slots=True)
class Recording:
    """A run of the journal: its operations on files, and its promises meanwhile."""

    seed: int
    name: str  # of the journal
    ops: Sequence[Op]
    promises: Sequence[Promise]  # the first: before there is a journal; the second: it was made
    keys: pl.Series


class _File(apsw.VFSFile):
    """A file that records all operations."""

    def __init__(self, disk: "_Disk", name: str | apsw.URIFilename, flags: list[int]) -> None:
        opened = flags[0]
        super().__init__("", name, flags)
        path = name if isinstance(name, str) else name.filename()
        self._ops = disk.ops
        self._number = disk.number(Path(path).name)
        journals = apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_WAL
        # SQLite syncs the folder with the first sync of a journal that it may have made.
        self._syncs_folder = bool(opened & apsw.SQLITE_OPEN_CREATE and opened & journals)

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802 - SQLite's name
        super().xWrite(data, offset)
        self._ops.append(Op(Kind.WRITE, self._number, offset, bytes(data)))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        super().xTruncate(newsize)
        self._ops.append(Op(Kind.TRUNCATE, self._number, newsize))

    def xSync(self, flags: int) -> None:  # noqa: N802
        super().xSync(flags)
        self._ops.append(Op(Kind.SYNC, self._number))
        if self._syncs_folder:
            self._syncs_folder = False
            self._ops.append(Op(Kind.SYNC, _FOLDER))


class _Disk(apsw.VFS):
    """The default file system of SQLite, with a record of all operations."""

    NAME = "powerloss"

    def __init__(self) -> None:
        super().__init__(self.NAME, "")
        self.ops: list[Op] = []
        self._names: dict[str, int] = {}
        self._numbers = count(_FOLDER + 1)

    def number(self, name: str) -> int:
        """Return the file that has this name now; enter it if it is new."""
        if name not in self._names:
            self._names[name] = next(self._numbers)
            self.ops.append(Op(Kind.CREATE, _FOLDER, self._names[name], name=name))
        return self._names[name]

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        if name is None:  # SQLite's own, gone with the process
            return apsw.VFSFile("", name, flags)
        return _File(self, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        super().xDelete(filename, syncdir)
        name = Path(filename).name
        if self._names.pop(name, None) is not None:
            self.ops.append(Op(Kind.DELETE, _FOLDER, name=name))
        if syncdir:
            self.synced_folder()

    def synced_folder(self, _: object = None) -> None:
        """Note that all names are on disk."""
        self.ops.append(Op(Kind.SYNC, _FOLDER))


class _Rows:
    """The result of a statement, as a cursor of `sqlite3` offers it."""

    def __init__(self, rows: list[Any], rowcount: int) -> None:
        self._rows, self.rowcount = rows, rowcount

    def fetchone(self) -> Any:
        return self._rows.pop(0) if self._rows else None

    def fetchall(self) -> list[Any]:
        rows, self._rows = self._rows, []
        return rows


class _Connection:
    """The part of `sqlite3.Connection` that the journal uses, over the recording disk."""

    def __init__(self, path: Path, synchronous: str) -> None:
        self._connection = apsw.Connection(str(path), vfs=_Disk.NAME)
        self._synchronous = f"synchronous = {synchronous}"

    def execute(self, sql: str, parameters: Any = None) -> _Rows:
        asked = sql.replace("synchronous = FULL", self._synchronous)
        rows = self._connection.execute(asked, parameters).fetchall()
        return _Rows(rows, self._connection.changes())

    def executemany(self, sql: str, parameters: Sequence[Any]) -> _Rows:
        before = self._connection.total_changes()
        self._connection.executemany(sql, parameters)
        return _Rows([], self._connection.total_changes() - before)

    def rollback(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def close(self) -> None:
        self._connection.close()

    def kill(self) -> None:
        """Leave the files as a process does that is killed: nothing is tidied up."""
        self._connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        self._connection.close()


class _Inline(Executor):
    """Runs at once, in the thread that asks."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - handed on to the caller
            future.set_exception(error)
        return future


class _World:
    """A seeded user of the journal that keeps its own account of what it was promised."""

    def __init__(self, seed: int, synchronous: str, disk: _Disk, folder: Path) -> None:
        self._random = Random(seed)
        self._synchronous, self._disk, self._folder = synchronous, disk, folder
        self._checkpoint = self._random.choice((8, 24, 64, 200))  # pages of WAL
        self._runs, self._ids = count(1), count(1)
        self._clock = _NOW
        self._intents: dict[str, Intent] = {}
        self._held: Held = {}
        self.promises = [Promise(0, "nothing", (0, ORIGIN), {})]
        self._connection, self._journal = self._opened()
        self.name = self._journal.name
        self._run_id = ""
        self._promise("open")

    @property
    def keys(self) -> pl.Series:
        return pl.Series("key", list(self._intents), dtype=pl.String)

    def _opened(self) -> tuple[_Connection, Journal]:
        """Open the journal by its own code, except for the connection that it gets."""
        connection = _Connection(self._folder / _DATABASE, self._synchronous)
        with (
            patch.object(sqlite3, "connect", return_value=connection),
            patch.object(module, "_sync_folder", self._disk.synced_folder),
        ):
            opened = module.SqlitePlace(self._folder).open(URL)
        connection.execute(f"PRAGMA wal_autocheckpoint = {self._checkpoint}")
        level = connection.execute("PRAGMA synchronous").fetchone()[0]
        assert level == _LEVELS[self._synchronous]
        return connection, Journal(opened, _Inline(), self._folder)

    def _promise(self, call: str) -> None:
        promise = Promise(len(self._disk.ops), call, self._journal._head, dict(self._held))
        self.promises.append(promise)

    async def live(self) -> None:
        """Make the calls of a recording, each with its promise."""
        steps = {
            self._claim: 6,
            self._settle: 6,
            self._release: 1,
            self._decide: 3,
            self._restart: 0.5,
        }
        self._start_run()
        for _ in range(CALLS):
            self._clock += timedelta(seconds=1)
            (step,) = self._random.choices(list(steps), list(steps.values()))
            call = await step()
            if call:
                self._promise(call)
        self._journal.close()

    def _start_run(self) -> None:
        self._run_id = f"r{next(self._runs)}"
        runs.start_run(self._journal, Run(self._run_id, "run", self._clock.isoformat()))
        for key in self._in(State.IN_FLIGHT):
            self._held[key] = (State.IN_DOUBT.value, "")
        self._promise(f"start_run {self._run_id}")

    async def _restart(self) -> str:
        """End, in good order or by a kill, and begin the next run. It has promises of its own."""
        if self._random.random() < 0.5:
            self._journal.close()
        else:
            self._connection.kill()
        self._connection, self._journal = self._opened()
        self._start_run()
        return ""

    def _in(self, *states: State) -> list[str]:
        return [key for key, (state, _) in self._held.items() if state in states]

    def _some(self, keys: list[str]) -> list[Intent]:
        drawn = self._random.sample(keys, min(len(keys), self._random.randint(1, 6)))
        return [self._intents[key] for key in drawn]

    def _new(self) -> Intent:
        number = len(self._intents) + 1
        is_payment = self._random.random() < 0.6
        intent = Intent(
            f"{number:016x}",
            "ledger" if is_payment else "eligibility",
            "PaymentNotice" if is_payment else "Coverage",
            Interaction.CREATE,
            f"patient-{number}",
            b"{}",
            f"{self._random.getrandbits(128):032x}",
            self._random.randint(1, 99_999) if is_payment else None,
            f"claim-{number}" if is_payment else "",
            "" if is_payment else "x" * self._random.randint(20, 400),
            self._run_id,
        )
        self._intents[intent.key] = intent
        return intent

    async def _claim(self) -> str:
        """Claim new rows, and those that went back to PENDING or were refused."""
        group = [self._new() for _ in range(self._random.randint(1, 6))]
        again = self._in(State.PENDING, State.REFUSED)
        if again and self._random.random() < 0.5:
            group = (self._some(again) + group)[:6]
        since = self._clock if self._random.random() < 0.8 else None
        await writes.begin(self._journal, self._run_id, group, self._clock, since)
        self._held |= {intent.key: (State.IN_FLIGHT.value, "") for intent in group}
        return f"claim of {len(group)}"

    async def _release(self) -> str:
        group = self._some(self._in(State.IN_FLIGHT))
        await writes.settle(self._journal, self._run_id, [], self._clock, unsent=group)
        self._held |= {intent.key: (State.PENDING.value, "") for intent in group}
        return f"release of {len(group)}"

    async def _settle(self) -> str:
        attempts = [self._attempt(intent) for intent in self._some(self._in(State.IN_FLIGHT))]
        ends = await writes.settle(self._journal, self._run_id, attempts, self._clock)
        states = {
            Verdict.ACCEPTED: State.CONFIRMED,
            Verdict.REFUSED: State.REFUSED,
            Verdict.NOT_APPLIED: State.PENDING,
            Verdict.LOST: State.IN_DOUBT,
        }
        for attempt, (state, _) in zip(attempts, ends, strict=True):
            assert state is states[attempt.verdict]
            self._held[attempt.intent.key] = (state.value, attempt.resource_id)
        return f"settle of {len(attempts)}"

    def _attempt(self, intent: Intent) -> Attempt:
        (verdict,) = self._random.choices(_OF_CREATES, [2, 1, 4, 2])
        accepted = verdict is Verdict.ACCEPTED
        exchange = Exchange("write", self._clock, 0.1, 201 if accepted else None, "c1")
        resource_id = f"id-{next(self._ids)}" if accepted else ""
        return Attempt(intent, exchange, verdict, resource_id, "rule", "message")

    async def _decide(self) -> str:
        """Settle one doubt by a search, or leave it."""
        doubts = self._in(State.IN_DOUBT)
        if not doubts:
            return "nothing"
        intent = self._intents[self._random.choice(doubts)]
        settlement = self._random.choice(
            (Settlement.FOUND, Settlement.ABSENT, Settlement.UNCLEAR),
        )
        resource_id = f"id-{next(self._ids)}" if settlement is Settlement.FOUND else ""
        finding = Finding(settlement, "rule", "message", resource_id)
        if settlement is Settlement.FOUND:
            assert await decisions.confirm(
                self._journal, self._run_id, intent, finding, self._clock
            )
            self._held[intent.key] = (State.CONFIRMED.value, resource_id)
        elif settlement is Settlement.ABSENT:
            await decisions.allow_resend(self._journal, self._run_id, intent, finding, self._clock)
            self._held[intent.key] = (State.PENDING.value, "")
        else:
            await decisions.keep_in_doubt(self._journal, self._run_id, intent, finding, self._clock)
        return settlement.value


def record(seed: int, synchronous: str = "FULL") -> Recording:
    """Drive the journal through a seeded life, and record its operations on files."""
    with _folder() as folder:
        disk = _Disk()
        try:
            world = _World(seed, synchronous, disk, folder)
            asyncio.run(world.live())
        finally:
            disk.unregister()
    return Recording(seed, world.name, disk.ops, world.promises, world.keys)


# Images -------------------------------------------------------------------------------------------


def _image(recording: Recording, point: int, random: Random) -> tuple[dict[str, bytes], bool]:
    """Return the files as a disk may hold them, and whether pages of the database were not yet synced."""
    ops = recording.ops[:point]
    synced = {op.file: number for number, op in enumerate(ops) if op.kind is Kind.SYNC}
    kept = random.choice((0.0, 0.2, 0.5, 0.8, 1.0))
    files: dict[int, bytearray] = {}
    names: dict[str, int] = {}
    databases: set[int] = set()
    in_checkpoint = False
    for number, op in enumerate(ops):
        is_synced = number < synced.get(op.file, -1)
        is_there = is_synced or random.random() < kept
        if op.kind is Kind.CREATE:
            files[op.at] = bytearray()
            if op.name == _DATABASE:
                databases.add(op.at)
            if is_there:
                names[op.name] = op.at
        elif op.kind is Kind.DELETE and is_there:
            names.pop(op.name, None)
        elif op.kind is Kind.TRUNCATE and is_there:
            _truncate(files[op.file], op.at)
        elif op.kind is Kind.WRITE:
            in_checkpoint |= not is_synced and op.file in databases
            if is_there:
                _put(files[op.file], op.at, op.data)
            else:
                _tear(files[op.file], op, random)
    return {name: bytes(files[file]) for name, file in names.items()}, in_checkpoint


def _truncate(content: bytearray, size: int) -> None:
    del content[size:]
    content.extend(bytes(size - len(content)))


def _put(content: bytearray, at: int, data: bytes) -> None:
    if len(content) < at:
        content.extend(bytes(at - len(content)))
    content[at : at + len(data)] = data


def _tear(content: bytearray, op: Op, random: Random) -> None:
    """Apply nothing of a write, its first sectors, or any; the file may grow by it all the same."""
    end = op.at + len(op.data)
    cuts = [op.at, *range((op.at // SECTOR + 1) * SECTOR, end, SECTOR), end]
    sectors = list(pairwise(cuts))
    fate = random.random()
    if fate < 0.15:
        sectors = sectors[: random.randrange(len(sectors))]
    elif fate < 0.3:
        sectors = [sector for sector in sectors if random.random() < 0.5]
    else:
        sectors = []
    if len(content) < end and random.random() < 0.3:
        more = end - len(content)
        content.extend(random.choice((bytes(more), random.randbytes(more))))
    for start, stop in sectors:
        _put(content, start, op.data[start - op.at : stop - op.at])


# Checking -----------------------------------------------------------------------------------------


def _faults(recording: Recording, point: int, image: Mapping[str, bytes], folder: Path) -> str:
    """Return what is wrong with an image, opened by the journal itself; "" if nothing is."""
    for name, content in image.items():
        (folder / name).write_bytes(content)
    inline = patch.object(opening, "ThreadPoolExecutor", lambda **_: _Inline())  # far faster
    try:
        with inline, opening.open_journal(folder, URL) as journal:
            return "; ".join(_found(recording, point, journal))
    except (JournalError, sqlite3.Error) as error:
        return f"it cannot be used: {error}"


def _found(recording: Recording, point: int, journal: Journal) -> Iterator[str]:
    promises = recording.promises
    last = bisect_right(promises, point, key=lambda promise: promise.point) - 1
    permitted = promises[last : last + 2]  # the second: the call that was under way
    rows = lookups.known(journal, recording.keys).iter_rows()
    held: Held = {key: (state, resource_id) for key, state, _, resource_id in rows}
    check = journal.read(lambda: journal.store.execute("PRAGMA integrity_check").fetchone()[0])
    if check != "ok":
        yield f"integrity_check says {check}"
    if last > 0 and journal.name != recording.name:
        yield "it is another journal"
    if broken := history.first_break(journal):
        yield f"the trail breaks at line {broken}"
    if found := find_contradictions(journal).count:
        yield f"the table of writes contradicts the audit log about {found}"
    if (journal._head, held) not in [(promise.head, promise.held) for promise in permitted]:
        yield _difference(permitted[0], journal._head[0], held)
    in_flight = sum(state == State.IN_FLIGHT for state, _ in held.values())
    if runs.start_run(journal, Run("after", "run", _NOW.isoformat())) != in_flight:
        yield "start_run found another number in flight"
    if State.IN_FLIGHT in lookups.known(journal, recording.keys)["state"].to_list():
        yield "start_run left rows in flight"


def _difference(promise: Promise, line: int, held: Held) -> str:
    keys = sorted({*promise.held, *held})
    told = [
        f"{key} is {held.get(key, ('unknown',))[0]}, not {promise.held.get(key, ('unknown',))[0]}"
        for key in keys
        if held.get(key) != promise.held.get(key)
    ]
    lines = f"the trail ends at {line}, not {promise.head[0]}"
    return "; ".join([f"after {promise.call}: {lines}", *told[:3]])


@contextmanager
def _folder() -> Iterator[Path]:
    with TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as folder:
        yield Path(folder)


def _tried(recording: Recording, point: int, draw: int, parent: Path) -> tuple[str, bool]:
    """Return the fault of one image, with all that names it, and whether it was in a checkpoint."""
    random = Random(f"{recording.seed} {point} {draw}")
    image, in_checkpoint = _image(recording, point, random)
    folder = parent / "image"
    folder.mkdir()
    fault = _faults(recording, point, image, folder)
    shutil.rmtree(folder)
    named = f"seed {recording.seed}, point {point}, draw {draw}: {fault}" if fault else ""
    return named, in_checkpoint


def run(images: int, seed: int, synchronous: str = "FULL") -> Report:
    """Make and check this many images, a share of them from each recording.

    `synchronous` other than FULL shows that the check sees what is lost.
    """
    random = Random(seed)
    points, in_checkpoints, violations = 0, 0, []
    with _folder() as folder:
        for start in range(0, images, IMAGES_A_RECORDING):
            recording = record(random.getrandbits(32), synchronous)
            wanted = min(IMAGES_A_RECORDING, images - start)
            drawn = [random.randint(0, len(recording.ops)) for _ in range(wanted)]
            points += len(set(drawn))
            for draw, point in enumerate(drawn):
                fault, in_checkpoint = _tried(recording, point, draw, folder)
                in_checkpoints += in_checkpoint
                violations += [fault] if fault else []
    return Report(images, points, in_checkpoints, violations)


def replay(seed: int, point: int, draw: int, synchronous: str = "FULL") -> str:
    """Check one image again, by the name in its violation. Returns its fault, or ""."""
    with _folder() as folder:
        return _tried(record(seed, synchronous), point, draw, folder)[0]
