"""Decide what follows from an answer to a write, and from a search for a lost one. Pure.

`canvas/judge.py` decides what an answer means, `sending/weigh.py` what a search means, and
`journal/states.py` which steps are allowed at all.
"""

from enum import Enum
from typing import Final

from pipeline.canvas.breaker import Heard
from pipeline.canvas.judge import BLOCKED, Judgement
from pipeline.records import Doubt, Exchange, Interaction, Settlement, State, Verdict

_UPDATES_MIN: Final = (
    3  # sends of an update, whatever attempts_max says: they tell an edit from a move
)


class Next(Enum):
    """The next step of a write, and of those behind it in its patient's queue."""

    DONE = "done"  # the next one may go
    REFUSED = "refused"  # the next one may go, unless it depends on this one
    AGAIN = "again"  # it goes again, before the next one
    LATER = "later"  # it waits for a later run, and so do the others
    SEARCH = "search"  # a search has to settle it first
    IN_DOUBT = "in doubt"  # a later run, or a person, has to settle it, and the others wait


def after_answer(state: State, attempts: int, attempts_max: int) -> Next:
    """Return what follows once an answer is entered in the journal.

    Args:
        state: Of the write, as the journal has it now.
        attempts: Sends so far.
        attempts_max: Sends that are allowed.
    """
    match state:
        case State.CONFIRMED:
            return Next.DONE
        case State.REFUSED:
            return Next.REFUSED
        case State.PENDING:
            return Next.AGAIN if attempts < attempts_max else Next.LATER
        case _:  # lost, or refused because of an edit that a read may not show yet
            return Next.SEARCH


def after_search(doubt: Doubt, settlement: Settlement, resend_absent: str) -> Next:
    """Return what follows from a search for a write in doubt, if no other row has what it found."""
    match settlement:
        case Settlement.FOUND:
            return Next.DONE
        case Settlement.CONFLICT:
            return Next.REFUSED
        case Settlement.ABSENT if doubt.is_owed or _may_resend(doubt, resend_absent):
            return Next.AGAIN
        case _:
            return Next.IN_DOUBT


def _may_resend(doubt: Doubt, allowed: str) -> bool:
    """Return whether a write that a search does not show may be sent again.

    An update may, because it has the same effect however often it is sent. A create may only once, and only if
    `allowed` (`resend_absent`) includes its type. If a process that is frozen or cut off may still send it, a
    person decides.
    """
    if doubt.intent.interaction is Interaction.UPDATE:
        return True
    if doubt.is_orphan:
        return False
    is_coverage = doubt.intent.resource_type == "Coverage"
    return not doubt.resent and (allowed == "all" or (allowed == "coverage" and is_coverage))


def is_resent_now(doubt: Doubt, run_id: str, attempts_max: int) -> bool:
    """Return whether a write that is to be sent again is sent in this run.

    A write whose plan is gone waits for a run that reads its row. So does an update that has no attempts left, or
    that is of an earlier run: a newer file may have other content for it.
    """
    intent = doubt.intent
    if intent.interaction is Interaction.UPDATE:
        is_over = doubt.attempts >= max(attempts_max, _UPDATES_MIN)
        if is_over or intent.run_id != run_id:
            return False
    return bool(intent.body)


def heard(exchange: Exchange, judgement: Judgement) -> Heard:
    """Return what an answer says about the server, apart from what it means for the row."""
    if exchange.http_status is None:
        return Heard.LOST
    if judgement.verdict is Verdict.NOT_APPLIED or judgement.rule == BLOCKED:
        return Heard.NOTHING
    return Heard.LOST if judgement.verdict is Verdict.LOST else Heard.ANSWERED
