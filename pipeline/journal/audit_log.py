"""The audit log: every request, answer and decision, each line chained to the one before. Pure.

A line's hash is taken over its content and the hash before it, so a line that is changed, left out, inserted or moved
breaks the chain from there on. Lines cut off at the end show against the high-water mark beside the journal
(`journal/loss_detection.py`).
"""

import hashlib
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any, Final, NamedTuple

import orjson

from pipeline.records import Exchange


class Event(StrEnum):
    """The kinds of lines in the audit log."""

    CLAIM = "claim"  # a write is about to be sent
    RELEASE = "release"  # ... and was not
    WRITE = "write"  # the answer to a write
    SEARCH = "search"
    READ = "read"
    TOKEN = "token"  # noqa: S105 - the name of an event
    CRASHED = "crashed"  # found in flight when a run started
    SUSPECTED = "suspected"  # the journal was lost, and Canvas holds one like it
    FOUND = "found"  # doubt settled: it is there
    ABSENT = "absent"  # doubt settled: it is not there, it may be sent again
    UNCLEAR = "unclear"  # a person has to decide
    CONFLICT = "conflict"  # another user edited what was to be updated
    INTENDED = "intended"  # is to be updated, whatever the next file says
    ADOPTED = "adopted"  # Canvas held it already: it is ours from now on
    ABANDONED = "abandoned"  # a person gave it up
    REOPENED = "reopened"  # ... and thought better of it
    FOREIGN = "foreign"  # a resource that is not ours
    GONE = "gone"  # a person declared that Canvas no longer has a confirmed resource
    LEARNED = "learned"  # Canvas showed which Organization a payer id is
    RUN = "run"  # a run began
    PLANNED = "planned"  # a plan was sealed; `detail` is the SHA-256 of its files
    ENDED = "ended"  # a run came to its end
    LOSS = "loss"  # the journal was lost, and a person said to go on
    MOVED = "moved"  # the journal was bound to another address of its Canvas; `detail` has both
    PURGED = "purged"  # what a run left behind of rows was removed; `detail` is the run


class Line(NamedTuple):
    """One line, in the order of the table's columns."""

    number: int
    at: str
    run_id: str
    event: str
    key: str = ""
    attempt: int = 0
    latency_ms: float | None = None
    http_status: int | None = None
    correlation_id: str = ""
    verdict: str = ""
    resource_id: str = ""
    detail: str = ""
    who: str = ""
    part: int = 0  # its chain: 0 for the run's own, else the number of a partition


ORIGIN: Final = "0" * 64  # before the first line


def new_line(at: str, run_id: str, event: Event, **content: Any) -> Line:
    """Return a line that is not numbered yet; `at` is the text of an instant in UTC."""
    return Line(0, at, run_id, event.value, **content)


def request_line(
    run_id: str,
    exchange: Exchange,
    *,
    attempt: int,
    key: str = "",
    verdict: str = "",
    resource_id: str = "",
) -> Line:
    """Return the line of a request and its answer, not numbered yet."""
    return Line(
        number=0,
        at=exchange.sent_at.isoformat(timespec="microseconds"),
        run_id=run_id,
        event=exchange.purpose,
        key=key,
        attempt=attempt,
        latency_ms=round(exchange.latency_s * 1000, 3),
        http_status=exchange.http_status,
        correlation_id=exchange.correlation_id,
        verdict=verdict,
        resource_id=resource_id,
        detail=exchange.problem,
    )


def link(before: str, line: Sequence[object]) -> str:
    """Return the hash of a `Line` that follows the hash `before`: 64 hex digits."""
    return hashlib.sha256(before.encode() + orjson.dumps(tuple(line))).hexdigest()


def first_break(
    lines: Iterable[tuple[Line, str | None]], number: int = 0, before: str = ORIGIN
) -> int:
    """Return the number of the first line that does not follow from the one before; 0 if all do.

    Args:
        lines: Lines and their hashes, in order. Lines of the run's partitions are among them, each partition's in
            order. The hash is None where only that of a later line is kept, which depends on this line as well.
        number: The number of the run's own line before these.
        before: The hash of that line.
    """
    heads = {0: (number, before, True)}
    for line, found in lines:
        number, before, _ = heads.get(line.part, (0, ORIGIN, True))
        linked = link(before, line)
        if line.number != number + 1 or found not in (None, linked):
            return number + 1
        heads[line.part] = line.number, linked, found is not None
    return next((number for number, _, is_proved in heads.values() if not is_proved), 0)
