"""The sending of a plan by several workers: cut by patient, one task and one lease for each partition.

A patient's writes are all in one partition, in order, because Canvas takes a payment up to the balance
that the one before it left. A hash of the Patient key decides the partition of a patient; the pieces are
dealt so that partitions come out even. A task that runs again, because its worker died or seemed to,
takes the lease once it is free, settles what was in flight, and goes on with what is left
(docs/guarantees.md, "Workers").
"""

import asyncio
import heapq
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

import polars as pl
import structlog

from pipeline.clock import SystemClock
from pipeline.cluster.dask import is_closing
from pipeline.cluster.permits import permits_of
from pipeline.errors import ConfigError, IngestError, JournalError, JournalTaken, Stopped
from pipeline.job import Job, Progress
from pipeline.journal import doubts, leases, lookups, opening
from pipeline.journal.journal import Journal
from pipeline.planning.earlier import EarlierPlans
from pipeline.planning.plan import Plan
from pipeline.planning.workers import Shared, Workers
from pipeline.records import Disposition, Intent, State
from pipeline.sending.session import Session, intents_of, open_session, with_bodies

log = structlog.get_logger()

_PIECES: Final = 4_096  # dealt to partitions; a piece has the patients with one hash
_LOOK_EVERY_S: Final = 0.25
_SEEN_EVERY_S: Final = 1.0
_DONE: Final = frozenset(
    {State.CONFIRMED.value, State.REFUSED.value, State.IN_DOUBT.value, State.ABANDONED.value}
)


def piece_of(lane: str) -> int:
    """Return the number of the piece that a patient belongs to, the same in every process."""
    return zlib.crc32(lane.encode()) % _PIECES


def deal(lanes: Iterable[pl.Series], partitions: int) -> tuple[int, ...]:
    """Return the partition (from 1) of each piece: the largest piece first, to the emptiest partition."""
    sizes = Counter[int]()
    for some in lanes:
        for lane, count in some.value_counts(name="_count").iter_rows():
            sizes[piece_of(lane)] += count
    loads = [(0, number) for number in range(1, partitions + 1)]
    found = [1] * _PIECES
    for piece, size in sizes.most_common():
        load, number = heapq.heappop(loads)
        found[piece] = number
        heapq.heappush(loads, (load + size, number))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class PartitionTask:
    """The task of each worker, as a file that only we can read. It holds no secret."""

    again: Callable[[], Job]  # the configuration, loaded on the worker, with the worker's secrets
    config_sha256: str
    run_id: str
    run_epoch: int
    partitions: tuple[int, ...]  # by piece
    types: tuple[str, ...]  # of resources that are to be sent
    shut: frozenset[str]  # patients for whom nothing may be sent
    concurrency: int  # requests in flight, of all partitions together
    count: int  # of partitions

    def share(self, number: int) -> int:
        """Return the number of requests of a partition that may be in flight."""
        share, more = divmod(self.concurrency, self.count)
        return share + (number <= more)


class PartitionResult(NamedTuple):
    """The end of a partition: "done" or "stopped"."""

    ended: str
    counts: dict[str, int]  # by disposition, of its last worker


# The command --------------------------------------------------------------------------------------


async def run_partitions(
    session: Session,
    plan: Plan,
    types: Sequence[str],
    shut: Collection[str],
    workers: Workers,
    progress: Progress,
) -> None:
    """Have workers send a plan, each partition by one worker at a time.

    When this returns, no worker can send any more, and nothing is in flight.

    Args:
        session: The connection of the command that began the run.
        plan: The plan.
        types: The resource types to send.
        shut: The patients for whom nothing may be sent.
        workers: The workers of the cluster.
        progress: Updated from the workers' counts.

    Raises:
        ConfigError: The configuration was not loaded from a file.
        IngestError: A worker cannot go on.
        Stopped: The run is stopping.
    """
    job, journal = session.job, session.journal
    if job.again is None:
        raise ConfigError(
            "workers load the configuration anew, and this one was not loaded from a file",
            "load it with `pipeline.app.config.load.load`, or use the embedded engine",
        )
    # Each partition may have at least one request in flight, and all of them together `concurrency`.
    count = min(job.engine.partition_count, job.upload.concurrency)
    task = PartitionTask(
        job.again,
        job.config_sha256,
        session.run_id,
        journal.epoch,
        await asyncio.to_thread(
            deal, (lanes for feed in job.feeds for lanes in plan.lanes(feed.name)), count
        ),
        tuple(types),
        frozenset(shut),
        job.upload.concurrency,
        count,
    )
    await asyncio.to_thread(leases.offer, journal, count)
    try:
        await asyncio.to_thread(_run_tasks, session, task, workers, progress)
    finally:
        await asyncio.to_thread(_call_in, session)
    if session.stop.is_set():
        raise Stopped("the run is stopping")


def _run_tasks(session: Session, task: PartitionTask, workers: Workers, progress: Progress) -> None:
    plans = session.job.state_dir / "plans"
    with TemporaryDirectory(dir=plans, prefix=".sending-") as folder:
        shared = workers.share(task, Path(folder))
        calls = [partial(send_partition, shared, number) for number in sorted(set(task.partitions))]
        watch = _Watch(session, progress)
        for _, _ in workers.as_they_end(calls, watch):
            pass
        watch.see()


class _Watch:
    """Looks at the workers' progress, and has them stop."""

    def __init__(self, session: Session, progress: Progress) -> None:
        self._session = session
        self._progress = progress
        self._seen_s = time.monotonic()
        self._is_asked_to_stop = False

    def __call__(self) -> None:
        now_s = time.monotonic()
        if self._session.stop.is_set() and not self._is_asked_to_stop:
            self._is_asked_to_stop = True
            leases.ask_to_stop(self._session.journal)
        if now_s - self._seen_s >= _SEEN_EVERY_S:
            self._seen_s = now_s
            self.see()

    def see(self) -> None:
        """Add up what all workers have reported."""
        counts = Counter[Disposition]()
        for lease_record in leases.lease_records(self._session.journal, self._session.run_id):
            counts.update({Disposition(name): count for name, count in lease_record.counts.items()})
        self._progress.dispositions = counts
        self._progress.sent = counts.total()


def _call_in(session: Session) -> None:
    """Wait until no worker sends any more, for as long as a live worker may take; then fence them all.

    A worker that wakes up, or whose task was begun twice, takes no part any more.
    """
    journal, job = session.journal, session.job
    leases.ask_to_stop(journal)
    lease_s = job.database.lease_s if job.database else 0.0
    until_s = time.monotonic() + 2 * lease_s + 2 * job.canvas.timeout_s
    while leases.count_held(journal) and time.monotonic() < until_s:
        time.sleep(_LOOK_EVERY_S)
    leases.withdraw(journal, session.run_id, session.clock.now())


# A worker ----------------------------------------------------------------------------------------


def send_partition(task: Shared[PartitionTask], number: int) -> PartitionResult:
    """Send a partition, or what is left of it. Raises IngestError.

    If the lease is lost, because this process stood still, nothing more is sent until the lease is free
    and was taken again.
    """
    partition_task = task.value
    job = partition_task.again()
    if job.config_sha256 != partition_task.config_sha256:
        raise ConfigError(
            "the configuration on a worker is not the one that the run began with",
            "have the same file at the same path on all workers, and do not change it while a run goes on",
        )
    job.canvas.credentials.require()
    job = replace(
        job,
        canvas=replace(job.canvas, concurrency=partition_task.share(number)),
        upload=job.upload.model_copy(update={"concurrency": partition_task.share(number)}),
    )
    while True:
        try:
            return asyncio.run(_sent(partition_task, job, number))
        except JournalTaken:
            log.warning("lease_lost", run_id=partition_task.run_id, partition=number)


class _Counts:
    """Rows of a partition by disposition; the thread that renews the lease reads them."""

    def __init__(self) -> None:
        self._counts = Counter[str]()
        self._lock = threading.Lock()

    def add(self, disposition: Disposition, count: int) -> None:
        """Count rows."""
        with self._lock:
            self._counts[disposition.value] += count

    def read(self) -> dict[str, int]:
        """Return the counts so far."""
        with self._lock:
            return dict(self._counts)


async def _sent(task: PartitionTask, job: Job, number: int) -> PartitionResult:
    counts = _Counts()
    join = partial(
        opening.join,
        job.state_dir,
        job.canvas.base_url,
        job.database,
        number,
        task.run_epoch,
        counts.read,
    )
    clock, random = SystemClock(), Random()  # noqa: S311 - jitter
    try:
        journal = await asyncio.to_thread(join)
    except Stopped:
        return PartitionResult("stopped", {})
    stop = asyncio.Event()
    with journal, structlog.contextvars.bound_contextvars(run_id=task.run_id, partition=number):
        plan = EarlierPlans.of(job.state_dir, journal).open(task.run_id)
        is_again = any(each.part == number for each in leases.lease_records(journal, task.run_id))
        doubted = leases.take_up(journal, task.run_id, clock.now())
        if doubted:
            log.warning("writes_left_in_flight", count=doubted)
        watch = asyncio.ensure_future(_watch_stop(journal, stop))
        ended = ""
        try:
            async with open_session(
                job, task.run_id, journal, clock, random, stop, permits_of(job, clock)
            ) as session:
                left = [
                    each for each in doubts.all_doubts(journal) if each.intent.run_id == task.run_id
                ]
                batches = _of(intents_of(job, plan), task, number)
                await session.upload(
                    _left(batches, journal, task.run_id) if is_again else batches,
                    task.types,
                    counts.add,
                    with_bodies(session.plans, left),
                    task.shut,
                )
            ended = "stopped" if stop.is_set() else "done"
        except Stopped:  # before it could send at all
            ended = "stopped"
        except IngestError as error:
            ended = type(error).__name__
            raise
        finally:
            watch.cancel()
            with suppress(JournalError):  # the lease is lost: its holder knows more
                leases.hand_over(journal, task.run_id, ended, counts.read(), clock.now())
    return PartitionResult(ended, counts.read())


async def _watch_stop(journal: Journal, stop: asyncio.Event) -> None:
    while not journal.is_stopping and not is_closing():
        with suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_EVERY_S):
                await stop.wait()
            return
    stop.set()


def _of(
    batches: Iterator[list[Intent]], task: PartitionTask, number: int
) -> Iterator[list[Intent]]:
    """Yield the intents of one partition."""
    for batch in batches:
        yield [each for each in batch if task.partitions[piece_of(each.lane)] == number]


def _left(batches: Iterator[list[Intent]], journal: Journal, run_id: str) -> Iterator[list[Intent]]:
    """Yield the intents that no worker has brought to an end in this run.

    As in `PatientQueues`, no coverage is cancelled or ended after another one of its patient was refused.
    """
    is_done = (pl.col("run_id") == run_id) & pl.col("state").is_in(list(_DONE))
    is_refused = is_done & (pl.col("state") == State.REFUSED.value)
    keeping: set[str] = set()
    for batch in batches:
        known = lookups.writes_of(
            journal, pl.Series("key", [each.key for each in batch], dtype=pl.String)
        )
        done, refused = set(known.filter(is_done)["key"]), set(known.filter(is_refused)["key"])
        keeping.update(
            each.lane
            for each in batch
            if each.key in refused and each.resource_type == "Coverage" and not each.is_cancel
        )
        yield [
            each
            for each in batch
            if each.key not in done and not (each.is_cancel and each.lane in keeping)
        ]
