"""The results of writes that were in doubt or to be sent again, from a run's lines in the audit log."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import orjson

from pipeline.journal import states
from pipeline.journal.audit_log import Event
from pipeline.journal.journal import Journal
from pipeline.records import State, Verdict

_UNGUARDED: Final = "update|unguarded"
_LOST: Final = "journal|lost"
_LOOKED: Final = {
    Event.CRASHED,
    Event.FOUND,
    Event.ABSENT,
    Event.UNCLEAR,
    Event.CONFLICT,
    Event.SUSPECTED,
}


@dataclass(slots=True)
class Settling:
    """The writes that a run looked for in Canvas.

    `causes` counts by cause: found, sent_again (their answers were lost), set_aside (the journal was
    lost), retried (updates, after a 412) and compared (updates that Canvas could not guard). `ends`
    and `sent_again` are of writes of earlier runs, by key.
    """

    causes: Counter[str] = field(default_factory=Counter)
    ends: dict[str, State] = field(default_factory=dict)
    sent_again: set[str] = field(default_factory=set)


def settling_of(journal: Journal, run_id: str) -> Settling:
    """Return what a run settled."""
    return settling(journal.rows("settling", {"run_id": run_id}))


def settling(lines: Iterable[tuple[str, str, str, str]]) -> Settling:
    """Return what a run settled, from its lines (key, event, verdict, detail) in their order.

    A write belongs to an earlier run if its first line in this run is the result of a search.
    """
    found = Settling()
    cause: dict[str, str] = {}
    absent: set[str] = set()
    for key, event, verdict, detail in lines:
        rule = _rule(detail) if event == Event.SUSPECTED else ""
        if key not in cause and event in _LOOKED and not _is_of_today(rule):
            found.ends[key] = State.IN_DOUBT
        cause.setdefault(key, "lost")
        if event == Event.WRITE:
            if key in absent:
                found.causes["retried" if cause[key] == "stale" else "sent_again"] += 1
                absent.remove(key)
            cause[key] = "stale" if verdict == Verdict.STALE else "lost"
            if key in found.ends:
                found.sent_again.add(key)
        elif _is_of_today(rule):
            cause[key] = rule
            found.causes["set_aside" if rule == _LOST else "compared"] += 1
        elif event == Event.FOUND and cause[key] == "lost":
            found.causes["found"] += 1
        elif event == Event.ABSENT and cause[key] in {"lost", "stale"}:
            absent.add(key)
        state = states.state_after(event, verdict)
        if key in found.ends and state is not None:
            found.ends[key] = state
    return found


def _is_of_today(rule: str) -> bool:
    """Return whether a row of today was set aside or compared before it was ever sent."""
    return rule in {_UNGUARDED, _LOST}


def _rule(detail: str) -> str:
    return str(orjson.loads(detail)["rule"]) if detail else ""
