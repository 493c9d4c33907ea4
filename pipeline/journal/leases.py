"""The partitions of a run that several processes send, each under a lease of its own. Only with PostgreSQL."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import orjson

from pipeline.clock import utc_text
from pipeline.journal.audit_log import Event, new_line
from pipeline.journal.journal import Journal
from pipeline.journal.runs import doubt_in_flight

DONE: Final = "done"  # how a partition ended of which nothing is left


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """The lease of one process on a partition, and its result. `ended` is "" if the process did not end in order."""

    part: int
    epoch: int
    holder: str  # host, process, and the machine's start
    first_line: int  # number of the partition's last line in the audit log before the lease
    taken_at: str
    ended_at: str | None
    ended: str
    counts: Mapping[str, int]  # rows by disposition, as last reported


def offer(journal: Journal, parts: int) -> None:
    """Let other processes take the partitions 1 to `parts` of our run."""
    journal.write_now(lambda: journal.execute("offer_parts", {"parts": parts}))


def take_up(journal: Journal, run_id: str, at: datetime) -> int:
    """Begin with our partition, and put the writes in doubt that its last holder left in flight.

    Returns:
        The number of those writes.
    """
    store = journal.store

    def take() -> int:
        begun = {
            "part": store.part,
            "epoch": store.epoch,
            "run_id": run_id,
            "holder": store.holder,
            "first_line": journal.head[0],
            "at": utc_text(at),
        }
        journal.execute("begin_lease", begun)
        return doubt_in_flight(journal, run_id, utc_text(at), f"part {store.part}")

    return journal.write_now(take)


def hand_over(
    journal: Journal, run_id: str, ended: str, counts: Mapping[str, int], at: datetime
) -> None:
    """Note how our partition ended, before its lease is released."""
    end = {
        "part": journal.store.part,
        "epoch": journal.store.epoch,
        "ended": ended,
        "counts": orjson.dumps(counts).decode(),
        "at": utc_text(at),
    }

    def hand_over() -> None:
        journal.execute("end_lease", end)
        journal.append([new_line(utc_text(at), run_id, Event.ENDED, detail=ended)])

    journal.write_now(hand_over)


def ask_to_stop(journal: Journal) -> None:
    """Ask all partitions to end as soon as the writes in flight are answered."""
    journal.write_now(lambda: journal.execute("ask_to_stop", {"epoch": journal.epoch}))


def count_held(journal: Journal) -> int:
    """Count the partitions under a lease."""
    line = journal.row("parts_held", {})
    return int(line[0]) if line else 0


def withdraw(journal: Journal, run_id: str, at: datetime) -> int:
    """Fence all partitions, and put the writes in doubt that they left in flight.

    Returns:
        The number of those writes.
    """

    def fence() -> int:
        journal.store.fence()
        return doubt_in_flight(journal, run_id, utc_text(at), "parts")

    return journal.write_now(fence)


def lease_records(journal: Journal, run_id: str) -> list[LeaseRecord]:
    """Return which processes sent partitions of a run, and how far they came. Empty if one process sent all."""
    if "lease_records" not in journal.store.sql:
        return []
    return [
        LeaseRecord(**{**record, "counts": orjson.loads(record["counts"])})
        for record in journal.records("lease_records", {"run_id": run_id})
    ]


def requests_of_leases(journal: Journal, run_id: str) -> dict[tuple[int, int], tuple[int, int]]:
    """Return the number of requests, and of writes among them, by partition and epoch."""
    found = journal.rows("requests_of_leases", {"run_id": run_id})
    return {(part, epoch): (requests, writes) for part, epoch, requests, writes in found}
