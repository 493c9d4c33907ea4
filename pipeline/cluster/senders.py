"""A process that sends partitions of a run: it takes one that is free, sends what is left of it, then the next.

Each partition is sent under a lease of its own, which the database gives to one process at a time. If a process
dies or stands still, its lease ends, and another one takes the partition, settles what was in flight, and goes on
with what is left (docs/guarantees.md, "Workers").
"""

import asyncio
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Final

import orjson
import polars as pl
import structlog

from pipeline.canvas.limiter import Permits
from pipeline.clock import SystemClock
from pipeline.cluster.dask import is_closing, threads
from pipeline.cluster.permits import permits_of
from pipeline.errors import (
    ConfigError,
    IngestError,
    JournalBusy,
    JournalError,
    JournalTaken,
    Stopped,
)
from pipeline.files import write_private
from pipeline.job import Job
from pipeline.journal import doubts, leases, lookups, opening
from pipeline.journal.journal import Journal
from pipeline.journal.store import Parts
from pipeline.planning.earlier import EarlierPlans
from pipeline.planning.workers import Shared
from pipeline.records import Disposition, Intent, State
from pipeline.sending.session import intents_of, open_session, with_bodies

log = structlog.get_logger()

PIECES: Final = 4_096  # dealt to partitions; a piece has the patients with one hash
OFFER: Final = "sending.json"  # in state.dir, while partitions are offered
_LOOK_EVERY_S: Final = 0.25
_FREE_EVERY_S: Final = 1.0
_DONE: Final = frozenset(
    {State.CONFIRMED.value, State.REFUSED.value, State.IN_DOUBT.value, State.ABANDONED.value}
)


def piece_of(lane: str) -> int:
    """Return the number of the piece that a patient belongs to, the same in every process."""
    return zlib.crc32(lane.encode()) % PIECES


@dataclass(frozen=True, slots=True)
class Sending:
    """The part of a run that each process that sends has to know. It holds no secret."""

    config_sha256: str
    run_id: str
    run_epoch: int
    partitions: tuple[int, ...]  # by piece
    types: tuple[str, ...]  # of resources that are to be sent
    shut: frozenset[str]  # patients for whom nothing may be sent
    feeds: tuple[str, ...]  # that the plan has

    @property
    def parts(self) -> set[int]:
        """Return the numbers of the partitions."""
        return set(self.partitions)


@contextmanager
def offered(state_dir: Path, sending: Sending) -> Iterator[None]:
    """Tell other processes that see `state.dir` about the partitions, for as long as the context lasts."""
    path = state_dir / OFFER
    content = {name: getattr(sending, name) for name in Sending.__slots__}
    write_private(path, orjson.dumps(content, default=sorted))
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def offer_of(state_dir: Path) -> Sending | None:
    """Return the partitions that a run offers in `state_dir`; None if there are none, or they are just withdrawn.

    Raises:
        ConfigError: The file was written by another version of canvas-ingest.
    """
    try:
        content = orjson.loads((state_dir / OFFER).read_bytes())
        return Sending(
            **{
                **content,
                "partitions": tuple(content["partitions"]),
                "types": tuple(content["types"]),
                "feeds": tuple(content["feeds"]),
                "shut": frozenset(content["shut"]),
            }
        )
    except FileNotFoundError:
        return None
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{OFFER} in state.dir cannot be read ({type(error).__name__})",
            "have the same version of canvas-ingest in all processes of a run, and one user for them",
        ) from None


@dataclass(slots=True)
class Sent:
    """The writes that one process has sent."""

    partitions: int = 0  # brought to their end
    is_complete: bool = False  # all partitions are done, whichever process sent them
    counts: Counter[str] = field(default_factory=Counter)  # rows by disposition


def is_offered(job: Job, sending: Sending) -> bool:
    """Return whether the run that offered these partitions is still under way. Raises JournalError."""
    with opening.parts_of(job.database, sending.run_id, sending.run_epoch) as look:
        return look().is_stopping is not None


def send_on_worker(task: Shared[tuple[Callable[[], Job], Sending]]) -> Sent:
    """Send free partitions, on a worker of a cluster. Raises IngestError."""
    again, sending = task.value
    job = again()
    job.canvas.credentials.require()
    return send_free(job, sending, is_closing, max(1, job.upload.concurrency // threads()))


def send_free(
    job: Job, sending: Sending, is_over: Callable[[], bool], concurrency: int | None = None
) -> Sent:
    """Send partitions that are free, one after another, until all are done or the run ends.

    Args:
        job: The configuration of this process.
        sending: What the run offers.
        is_over: Returns whether this process is to end as soon as what is in flight is answered.
        concurrency: Requests in flight; None: `upload.concurrency`.

    Raises:
        ConfigError: The configuration is another one than that of the run.
        IngestError: This process cannot go on.
    """
    if job.config_sha256 != sending.config_sha256:
        raise ConfigError(
            "the configuration of this process is not the one that the run began with",
            "have the same file in all processes of a run, and do not change it while the run goes on",
        )
    if concurrency is not None:
        job = replace(
            job,
            canvas=replace(job.canvas, concurrency=concurrency),
            upload=job.upload.model_copy(update={"concurrency": concurrency}),
        )
    return asyncio.run(_send_free(job, sending, is_over))


async def _send_free(job: Job, sending: Sending, is_over: Callable[[], bool]) -> Sent:
    sent, clock = Sent(), SystemClock()
    with opening.parts_of(job.database, sending.run_id, sending.run_epoch) as look:
        while True:
            async with permits_of(job, clock) as permits:
                try:
                    await _send_while_free(job, sending, look, is_over, permits, sent)
                except JournalTaken:  # the permits were stopped with its partition
                    log.warning("lease_lost", run_id=sending.run_id)
                else:
                    return sent


async def _send_while_free(
    job: Job,
    sending: Sending,
    look: Callable[[], Parts],
    is_over: Callable[[], bool],
    permits: Permits,
    sent: Sent,
) -> None:
    """Send free partitions. Raises JournalTaken if a lease is lost."""
    random = Random()  # noqa: S311 - so that not all processes try the same one
    while not is_over():
        parts = look()
        sent.is_complete = parts.done >= sending.parts
        if sent.is_complete or parts.is_stopping is not False:
            return
        free = sorted((parts.free & sending.parts) - parts.done)
        if not free:
            await asyncio.sleep(_FREE_EVERY_S)
            continue
        with suppress(JournalBusy):  # another process was quicker
            ended, counts = await _sent(sending, job, random.choice(free), is_over, permits)
            sent.partitions += ended == leases.DONE
            sent.counts.update(counts)


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


async def _sent(
    task: Sending, job: Job, number: int, is_over: Callable[[], bool], permits: Permits
) -> tuple[str, dict[str, int]]:
    """Send a partition, or what is left of it. Returns how it ended, and rows by disposition."""
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
        return "stopped", {}
    stop = asyncio.Event()
    with journal, structlog.contextvars.bound_contextvars(run_id=task.run_id, partition=number):
        plan = EarlierPlans.of(job.state_dir, journal).open(task.run_id)
        is_again = any(each.part == number for each in leases.lease_records(journal, task.run_id))
        doubted = leases.take_up(journal, task.run_id, clock.now())
        if doubted:
            log.warning("writes_left_in_flight", count=doubted)
        watch = asyncio.ensure_future(_watch_stop(journal, stop, is_over))
        ended = ""
        try:
            async with open_session(
                job, task.run_id, journal, clock, random, stop, nullcontext(permits)
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
            ended = "stopped" if stop.is_set() else leases.DONE
        except Stopped:  # before it could send at all
            ended = "stopped"
        except IngestError as error:
            ended = type(error).__name__
            raise
        finally:
            watch.cancel()
            with suppress(JournalError):  # the lease is lost: its holder knows more
                leases.hand_over(journal, task.run_id, ended, counts.read(), clock.now())
    return ended, counts.read()


async def _watch_stop(journal: Journal, stop: asyncio.Event, is_over: Callable[[], bool]) -> None:
    while not journal.is_stopping and not is_over():
        with suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_EVERY_S):
                await stop.wait()
            return
    stop.set()


def _of(batches: Iterator[list[Intent]], task: Sending, number: int) -> Iterator[list[Intent]]:
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
