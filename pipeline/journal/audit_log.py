"""The audit trail: every claim, request, answer and decision, each line chained to the one before.

A line's hash is taken over its content and the hash before it, so a line that is changed, left out,
put in or moved breaks the chain from there on. That lines are cut off at the end shows against the
anchor, which is kept beside the journal (`journal/loss_detection.py`). Pure.
"""

import hashlib
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Final, NamedTuple

import orjson


class Event(StrEnum):
    """What a line of the trail tells of."""

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
    CONFLICT = "conflict"  # somebody else edited what was to be updated
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
    part: int = 0  # whose chain it belongs to: the run's own, or that of a part of its sending


ORIGIN: Final = "0" * 64  # before the first line


def link(before: str, line: Sequence[object]) -> str:
    """The hash of a `Line` that follows the hash `before`: 64 hex digits."""
    return hashlib.sha256(before.encode() + orjson.dumps(tuple(line))).hexdigest()


def first_break(lines: Iterable[tuple[Line, str]], number: int = 0, before: str = ORIGIN) -> int:
    """The number of the first line that does not follow from the one before; 0 where all do.

    `lines` with their hashes, in order, after the run's own line `number` with the hash `before`. The
    lines of the parts of a run stand among them, each part's in order.
    """
    heads = {0: (number, before)}
    for line, found in lines:
        number, before = heads.get(line.part, (0, ORIGIN))
        if line.number != number + 1 or link(before, line) != found:
            return number + 1
        heads[line.part] = line.number, found
    return 0
