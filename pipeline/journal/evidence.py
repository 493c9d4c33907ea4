"""Compare the table of writes with what the audit log implies.

Only the audit log is chained by hashes. A table of writes that was restored, repaired or edited without it would
let payments go a second time. The last lines of a write imply its state and its resource, and the table must have
both. The database groups the writes by how the two compare (`evidence` in queries.sql), so a journal of any size
comes to a few lines here.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import polars as pl

from pipeline.journal import loss_detection, states
from pipeline.journal.audit_log import Event
from pipeline.journal.journal import Journal, as_json
from pipeline.records import State, Verdict

_ACCEPTED: Final = Verdict.ACCEPTED.value
_KEYS_MAX: Final = 10_000  # of a query


@dataclass(frozen=True, slots=True)
class Group:
    """Writes whose audit log and whose line in the table compare in the same way.

    Attributes:
        event: The last event that implies a state; None if the audit log has none of these writes.
        verdict: The verdict of that event, if it is the answer to a write.
        is_intended: 1 if an `intended` line came after it.
        has_resource: 1 if the table has the resource that the audit log implies, or none is implied.
        state: The state in the table; None if the table does not have the writes.
        count: The number of these writes.
        key: One of them.
    """

    event: str | None
    verdict: str | None
    is_intended: int
    has_resource: int
    state: str | None
    count: int
    key: str


@dataclass(frozen=True, slots=True)
class Contradictions:
    """The number of writes of the table that contradict the audit log, and the key of one of them ("" if none)."""

    count: int
    key: str


def find_contradictions(
    journal: Journal, keys: Iterable[pl.Series] | None = None
) -> Contradictions:
    """Count the writes that the table has otherwise than the audit log implies.

    Args:
        journal: The journal.
        keys: The writes to compare; None for all. Many keys take as long as all, so all are compared then.
    """
    asked: list[str] | None = None if keys is None else []
    for some in keys or ():
        asked = None if asked is None else [*asked, *some]
        if asked is None or len(asked) > _KEYS_MAX:
            asked = None
            break
    if asked == []:
        return Contradictions(0, "")
    listed = {"keys": as_json(asked or []), "is_whole": int(asked is None)}
    return contradictions(Group(*line) for line in journal.rows("evidence", listed))


def require_evidence(journal: Journal, keys: Iterable[pl.Series]) -> None:
    """Raise JournalLost if the table has one of these writes otherwise than the audit log implies.

    Not if a person said to go on without what the journal lost.
    """
    if not journal.is_loss_accepted and find_contradictions(journal, keys).count:
        raise loss_detection.lost("altered")


def contradictions(groups: Iterable[Group]) -> Contradictions:
    """Count the writes of which the table says something else than the audit log implies."""
    wrong = [group for group in groups if not (group.has_resource and _may_be(group))]
    return Contradictions(
        sum(group.count for group in wrong), min((group.key for group in wrong), default="")
    )


def _may_be(group: Group) -> bool:
    """Return whether the audit log can have led to the state in the table."""
    may_be = {_implied(group)}
    if group.event == Event.WRITE.value and group.verdict == _ACCEPTED:
        may_be.add(State.IN_DOUBT)  # the id in the answer belonged to another write
    if group.is_intended:
        may_be.add(State.PENDING)  # or it stayed as it was: a coverage that Canvas may have moved
    return group.state is not None and State(group.state) in may_be


def _implied(group: Group) -> State | None:
    if group.event is None:
        return None
    if group.event == Event.CRASHED.value:
        return State.IN_DOUBT
    return states.state_after(group.event, group.verdict or "")
