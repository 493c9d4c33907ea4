"""The sending of a plan by several processes: cut by patient, one lease for each partition.

A patient's writes are all in one partition, in order, because Canvas takes a payment up to the balance
that the one before it left. A hash of the Patient key decides the partition of a patient; the pieces are
dealt so that partitions come out even. The command offers the partitions, and each process that sends takes
one that is free, then the next (`senders.py`).
"""

import asyncio
import heapq
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import polars as pl

from pipeline.cluster.senders import PIECES, Sending, offered, piece_of, send_free, send_on_worker
from pipeline.errors import ConfigError, Stopped
from pipeline.job import Job, Progress
from pipeline.journal import leases
from pipeline.planning.plan import Plan
from pipeline.planning.workers import Call, Workers
from pipeline.records import Disposition
from pipeline.sending.session import Session

_LOOK_EVERY_S: Final = 0.25
_SEEN_EVERY_S: Final = 1.0
_WRITES_MIN: Final = 50  # of a partition: each costs a token and a search


def deal(lanes: Iterable[pl.Series], partitions: int) -> tuple[int, ...]:
    """Return the partition (from 1) of each piece: the largest piece first, to the emptiest partition."""
    sizes = Counter[int]()
    for some in lanes:
        for lane, count in some.value_counts(name="_count").iter_rows():
            sizes[piece_of(lane)] += count
    loads = [(0, number) for number in range(1, partitions + 1)]
    found = [1] * PIECES
    for piece, size in sizes.most_common():
        load, number = heapq.heappop(loads)
        found[piece] = number
        heapq.heappush(loads, (load + size, number))
    return tuple(found)


async def run_partitions(
    session: Session,
    plan: Plan,
    types: Sequence[str],
    shut: Collection[str],
    workers: Workers,
    progress: Progress,
) -> None:
    """Have all processes that can send a plan, each partition by one of them at a time.

    When this returns, no other process can send any more, and nothing is in flight.

    Args:
        session: The connection of the command that began the run.
        plan: The plan.
        types: The resource types to send.
        shut: The patients for whom nothing may be sent.
        workers: The workers of the cluster; without one, this process sends, too.
        progress: Updated from the processes' counts.

    Raises:
        ConfigError: The configuration was not loaded from a file.
        IngestError: This process, or a worker of the cluster, cannot go on.
        Stopped: The run is stopping.
    """
    job, journal = session.job, session.journal
    if job.again is None:
        raise ConfigError(
            "other processes load the configuration anew, and this one was not loaded from a file",
            "load it with `pipeline.app.config.load.load`, or use the embedded engine",
        )
    count = min(job.engine.partition_count, -(-progress.to_send // _WRITES_MIN) or 1)
    lanes = (lanes for feed in job.feeds for lanes in plan.lanes(feed.name))
    sending = Sending(
        job.config_sha256,
        session.run_id,
        journal.epoch,
        await asyncio.to_thread(deal, lanes, count),
        tuple(types),
        frozenset(shut),
        tuple(feed.name for feed in job.feeds),
    )
    await asyncio.to_thread(leases.offer, journal, count)
    try:
        await asyncio.to_thread(_run_senders, session, job.again, sending, workers, progress)
    finally:
        await asyncio.to_thread(_call_in, session)
    if session.stop.is_set():
        raise Stopped("the run is stopping")


def _run_senders(
    session: Session,
    again: Callable[[], Job],
    sending: Sending,
    workers: Workers,
    progress: Progress,
) -> None:
    job = session.job
    watch = _Watch(session, sending, progress)
    with (
        TemporaryDirectory(dir=job.state_dir / "plans", prefix=".sending-") as folder,
        offered(job.state_dir, sending),
    ):
        calls: list[Call[object]]
        if job.engine.kind == "dask":
            shared = workers.share((again, sending), Path(folder))
            calls = [partial(send_on_worker, shared)] * len(sending.parts)
        else:
            calls = [partial(send_free, job, sending, session.stop.is_set)]
        with suppress(_AllDone):
            for _ in workers.as_they_end(calls, watch):
                pass
        watch.see()


class _AllDone(Exception):
    """All partitions are sent; a call may still hang on a worker that stands still."""


class _Watch:
    """Looks at the progress of all processes, and has them stop."""

    def __init__(self, session: Session, sending: Sending, progress: Progress) -> None:
        self._session = session
        self._sending = sending
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
            if self.see() >= self._sending.parts:
                raise _AllDone

    def see(self) -> set[int]:
        """Add up what all processes have reported. Returns the partitions that are done."""
        counts, done = Counter[Disposition](), set[int]()
        for record in leases.lease_records(self._session.journal, self._session.run_id):
            counts.update({Disposition(name): count for name, count in record.counts.items()})
            if record.ended == leases.DONE:
                done.add(record.part)
        self._progress.dispositions = counts
        self._progress.sent = counts.total()
        return done


def _call_in(session: Session) -> None:
    """Wait until no other process sends any more, for as long as a live one may take; then fence them all.

    A process that wakes up takes no part any more.
    """
    journal, job = session.journal, session.job
    leases.ask_to_stop(journal)
    lease_s = job.database.lease_s if job.database else 0.0
    until_s = time.monotonic() + 2 * lease_s + 2 * job.canvas.timeout_s
    while leases.count_held(journal) and time.monotonic() < until_s:
        time.sleep(_LOOK_EVERY_S)
    leases.withdraw(journal, session.run_id, session.clock.now())
