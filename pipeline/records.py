"""The types that the stages pass to each other. Frozen, and without imports from other modules of the package.

`RowId` names a row for people; `Rejection` says why a row is refused. Neither ever holds a value of the
row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple


class Disposition(StrEnum):
    """The end of a row. Every row read has exactly one."""

    CREATED = "created"  # Canvas took it in this run
    UPDATED = "updated"  # Canvas holds it, with new content since this run
    UNCHANGED = "unchanged"  # Canvas already holds it
    FILTERED = "filtered"  # left out by `only`
    DUPLICATE = "duplicate"  # of an earlier row of the same files
    REJECTED = "rejected"  # by us, before sending
    REFUSED = "refused"  # by Canvas, after sending
    IN_DOUBT = "in_doubt"  # sent, fate unknown
    # In a plan, of a row: it passed validation; as a verdict: it is to be sent. In a report: planned, not sent.
    PENDING = "pending"


class Interaction(StrEnum):
    """The FHIR interaction of a row."""

    CREATE = "create"
    UPDATE = "update"


class Verdict(StrEnum):
    """The meaning of an answer to a write, as `canvas/judge.py` decides it (docs/guarantees.md)."""

    NOT_APPLIED = "not_applied"  # known not to have happened: may be sent again
    REFUSED = "refused"  # Canvas said no to this resource: not sent again in this run
    ACCEPTED = "accepted"  # created, and the id is known
    STALE = "stale"  # 412: Canvas holds another version than we think; a read has to settle it
    LOST = "lost"  # all else: the write may have happened, never sent again blindly


class Stage(StrEnum):
    """The stage that turned a row away."""

    VALIDATE = "validate"
    RESOLVE = "resolve"
    UPLOAD = "upload"


ABANDONED = "row|abandoned"  # the rule of a row whose write a person gave up
ADOPTED = "row|adopted"  # the rule of a row that Canvas held already
# Of an unchanged row that is written again: a person wants it (`--rewrite`), or an earlier run left it.
REWRITTEN = "row|rewritten"


@dataclass(frozen=True, slots=True)
class RowId:
    """A source row: all that a log or an error may show of it."""

    file: str
    row: int  # within its file; 1 is the first row of data
    line: int | None = None  # as an editor counts, if it is known

    def __str__(self) -> str:
        """Return `eligibility.csv:19 (row 17)`; without the line `eligibility.csv:17`, to which a report adds it."""
        if self.line is None:
            return f"{self.file}:{self.row}"
        return f"{self.file}:{self.line} (row {self.row})"


@dataclass(frozen=True, slots=True)
class Rejection:
    """One rule that a row breaks. A value, not an exception; never a value of the row."""

    stage: Stage
    field: str  # our field, or "row"
    rule: str  # `field|what`
    message: str  # what is allowed, and what to do


def joined(rejections: Sequence[Rejection]) -> tuple[str, str, str, str]:
    """Return stage, fields, rules and messages of one row's rejections; "; " separates several."""
    if not rejections:
        return "", "", "", ""
    return (
        rejections[0].stage.value,
        "; ".join(rejection.field for rejection in rejections),
        "; ".join(rejection.rule for rejection in rejections),
        "; ".join(rejection.message for rejection in rejections),
    )


@dataclass(frozen=True, slots=True)
class Draft:
    """A mapped row: the resource for Canvas."""

    lane: str  # the patient's key: one open write at a time
    body: bytes  # the resource, JSON
    fingerprint: str  # 32 hex digits over the content; the day of sending is no part of it
    claim: str = ""  # PaymentNotice: the copay's claim id
    match_key: str = ""  # Coverage: identifies it in a search (`fhir.coverage.match_key`)
    order: int | None = None  # Coverage: the rest is for finding collisions of `order`
    start_day: int | None = (
        None  # days since 1970-01-01; None: open. PaymentNotice: its day in the file
    )
    end_day: int | None = None
    active: bool = False
    sort: str = ""  # the fields of `order_by`, as text that sorts as they do


class Intent(NamedTuple):
    """A write that we intend to make."""

    key: str  # 16 hex digits; the row's identity in the journal
    feed: str
    resource_type: str
    interaction: Interaction
    lane: str
    body: bytes
    fingerprint: str
    amount_cents: int | None
    claim: str
    match_key: str
    run_id: str  # the run whose plan it belongs to
    resource_id: str = ""  # of an UPDATE, as is the rest
    rank: int | None = None  # Coverage: its `order`, where it is active
    held_at: datetime | None = None  # when Canvas held the last confirmed content, by its own clock
    day: str | None = (
        None  # PaymentNotice: its day in the file, ISO; "": the file gives none; None: not known
    )
    is_cancel: bool = False  # it cancels or ends a coverage whose row is gone from the files
    end_on: str | None = None  # of an end: its day, ISO


@dataclass(frozen=True, slots=True)
class Reserved:
    """The database's answer about the rate that all workers share.

    All in seconds. `asked_s` and `answered_s` are of our monotonic clock, the others of the server's.
    """

    asked_s: float
    answered_s: float
    now_s: float  # the server's clock at some moment between the two
    started_s: float  # when it was started: after another start it may be another clock
    first_s: float  # the first slot of the frame, of any worker
    interval_s: float  # from one slot to the next
    counts: Sequence[int]  # slots of each worker that has some of the frame
    mine: int  # our place in `counts`; -1: we have none
    again_s: float  # the next frame can be asked for from then on
    blocked_until_s: float  # no worker sends before
    cut_s: float  # when the rate was last halved


class Exchange(NamedTuple):
    """One request and its answer. Never a body of a write, never a URL."""

    purpose: str  # "write", "read", "search", "token"
    sent_at: datetime  # the instant of the rate limiter's permit
    latency_s: float
    http_status: int | None  # None: no answer
    correlation_id: str = ""
    problem: str = ""  # our own word for what went wrong below HTTP
    dated: datetime | None = None  # the server's clock when it answered, to the second


class Attempt(NamedTuple):
    """One send of one intent, judged."""

    intent: Intent
    exchange: Exchange
    verdict: Verdict
    resource_id: str = ""
    rule: str = ""  # for refused and lost: `canvas|business-rule`, `canvas|no-answer`
    message: str = ""  # Canvas' own words, or ours where it had none
    since: datetime | None = None  # the earliest and the latest instant, by the server's clock,
    until: datetime | None = None  # between which it can have happened; None: not known


@dataclass(frozen=True, slots=True)
class Held:
    """The last confirmed content of a row in Canvas."""

    run_id: str  # the run whose plan has the content
    fingerprint: str  # "": not known, as of a coverage that was taken over


@dataclass(frozen=True, slots=True)
class LastHeld:
    """The instant of the last confirmed content of a row.

    Attributes:
        at: By `Date`; None if it is not known.
        run_id: The run that wrote last; "" if there is none.
        is_edited: A read has found an edit by another user since.
    """

    at: datetime | None
    run_id: str
    is_edited: bool


@dataclass(frozen=True, slots=True)
class Doubt:
    """A write whose fate is unknown, and what a search needs to settle it.

    `since` and `until` are the earliest instant of its first send and the latest of its last one, by the
    server's clock; None if not known, in which case all that Canvas held before was noted.
    `intent.body` is empty if its plan is gone.
    """

    intent: Intent
    attempts: int  # 0: never sent by this journal, which was lost in between
    resent: int  # times that it was sent again after a search showed nothing
    since: datetime | None
    until: datetime | None
    is_owed: bool  # a search showed that it is not there, and it is still to be sent again
    ahead: timedelta | None  # the lead of the server's clock over ours when it was sent
    rule: str
    message: str
    held: Held = Held("", "")  # of an update: the content before it
    is_orphan: bool = (
        False  # its sender may still be alive, and send it later than any search waits
    )


class Stamped(NamedTuple):
    """A confirmed create of a payment: the `Date` of the answer, and our times around it."""

    resource_id: str
    dated: datetime
    sent_at: datetime
    settled_at: datetime


class Settlement(StrEnum):
    """The result of a search for a write in doubt."""

    FOUND = "found"  # it is there, and only it can be meant
    ABSENT = "absent"  # nothing like it is there
    UNCLEAR = "unclear"  # several, or one at the wrong time: a person decides
    CONFLICT = "conflict"  # of an update: another user edited the resource in between
    UNKNOWN = "unknown"  # the search failed, or two of them did not agree: it says nothing


@dataclass(frozen=True, slots=True)
class Candidate:
    """A resource in Canvas that may be a write in doubt."""

    resource_id: str
    created_at: datetime | None  # by the server's clock; a Coverage has none
    when: str  # "inside", "before", "late" or "untold": against the time of the sends


@dataclass(frozen=True, slots=True)
class Finding:
    """A search, weighed. `candidates` are those that no other row has claimed."""

    settlement: Settlement
    rule: str
    message: str
    resource_id: str = ""  # of FOUND
    candidates: tuple[Candidate, ...] = ()
    held_at: datetime | None = None  # of an update: when Canvas showed this, by its own clock
    probe_at: datetime | None = None  # of an update: the condition of its next send alone


class PayerEvidence(NamedTuple):
    """Evidence of which Organization a payer id is."""

    payer_id: str
    organization: str  # `Organization/<id>`
    key: str = ""  # of the write that was read back; "": `references.payer` names both
    resource_id: str = ""


class State(StrEnum):
    """A write's state in the journal. `journal/states.py` has the allowed transitions."""

    PENDING = "PENDING"
    IN_FLIGHT = "IN_FLIGHT"
    IN_DOUBT = "IN_DOUBT"
    CONFIRMED = "CONFIRMED"
    REFUSED = "REFUSED"
    ABANDONED = "ABANDONED"  # a person gave it up: never sent again


CENT = Decimal("0.01")


def counted(number: int, what: str) -> str:
    """Return a number with its noun: `1 column`, `2,000 columns`."""
    return f"1 {what}" if number == 1 else f"{number:,} {what}s"


def usd(cents: int) -> str:
    """Return an amount as every output shows it: `12.50`."""
    return str(Decimal(cents) * CENT)
