"""The steps that settle doubt, by what Canvas shows or by a person's decision.

Each function is one transaction: the write changes its state, and the audit log says why. `who` is the person who
decided; "" if it was the program. `states.py` has the states, docs/guarantees.md the reasons.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import orjson

from pipeline.clock import utc_text
from pipeline.journal.audit_log import Event, new_line
from pipeline.journal.instants import instant_text
from pipeline.journal.journal import Journal, as_json
from pipeline.journal.writes import enter, is_of_another
from pipeline.records import Finding, Intent, State


async def confirm(
    journal: Journal, run_id: str, intent: Intent, finding: Finding, at: datetime, who: str = ""
) -> bool:
    """Take the resource of a finding for the write's own (IN_DOUBT -> CONFIRMED).

    Returns:
        False if another row has that resource; then nothing changes.
    """

    def confirm() -> bool:
        if is_of_another(journal, intent, finding.resource_id):
            return False
        _decide(journal, run_id, Event.FOUND, intent, finding, at, who)
        return True

    return await journal.write(confirm)


async def allow_resend(
    journal: Journal, run_id: str, intent: Intent, finding: Finding, at: datetime, who: str = ""
) -> None:
    """Let a write that Canvas does not hold be sent again (IN_DOUBT -> PENDING)."""
    await journal.write(lambda: _decide(journal, run_id, Event.ABSENT, intent, finding, at, who))


async def note_absent(
    journal: Journal, run_id: str, intent: Intent, finding: Finding, at: datetime
) -> None:
    """Note that a further search did not show a write that may be sent again; it stays PENDING."""
    line = new_line(utc_text(at), run_id, Event.ABSENT, key=intent.key, detail=_evidence(finding))
    await journal.write(lambda: journal.append([line]))


async def keep_in_doubt(
    journal: Journal, run_id: str, intent: Intent, finding: Finding, at: datetime
) -> None:
    """Note why a write stays IN_DOUBT."""
    await journal.write(lambda: _decide(journal, run_id, Event.UNCLEAR, intent, finding, at, ""))


async def suspect(
    journal: Journal, run_id: str, intent: Intent, finding: Finding, at: datetime
) -> None:
    """Put a write in doubt before it is sent (PENDING -> IN_DOUBT).

    This is done if the journal was lost and Canvas holds a resource like it; if it was to be sent again, and a search
    no longer shows that Canvas lacks it; or if it is an update that its precondition does not protect.
    """

    def suspect() -> None:
        enter(journal, [intent])
        _decide(journal, run_id, Event.SUSPECTED, intent, finding, at, "")

    await journal.write(suspect)


async def refuse_edited(
    journal: Journal, run_id: str, intent: Intent, finding: Finding, at: datetime
) -> None:
    """Refuse an update of a resource that another user edited (IN_DOUBT -> REFUSED)."""
    await journal.write(lambda: _decide(journal, run_id, Event.CONFLICT, intent, finding, at, ""))


async def adopt(
    journal: Journal, run_id: str, intents: Sequence[Intent], finding: Finding, at: datetime
) -> None:
    """Take over resources that Canvas held already, with the content of their rows (PENDING -> CONFIRMED)."""

    def adopt() -> None:
        enter(journal, intents)
        for intent in intents:
            found = replace(finding, resource_id=intent.resource_id, held_at=intent.held_at)
            _decide(journal, run_id, Event.ADOPTED, intent, found, at, "")

    await journal.write(adopt)


async def abandon(
    journal: Journal, run_id: str, intent: Intent, finding: Finding, at: datetime, who: str
) -> None:
    """Give up a write: the program never sends it again (IN_DOUBT -> ABANDONED)."""
    await journal.write(lambda: _decide(journal, run_id, Event.ABANDONED, intent, finding, at, who))


async def declare_gone(
    journal: Journal,
    run_id: str,
    intent: Intent,
    finding: Finding,
    at: datetime,
    since: datetime | None,
    who: str,
) -> None:
    """Enter that a person declared a resource of ours gone from Canvas (CONFIRMED -> PENDING).

    In one transaction the resource is listed as not ours, and the write gives it up. A payment may then be sent
    again, as after `allow_resend`: the next run sends it, even if this process dies here.

    Args:
        journal: The journal.
        run_id: The run that decides.
        intent: The write, with its resource.
        finding: What Canvas showed right before.
        at: The instant of the decision, by our clock.
        since: The earliest that the server's clock can show at that instant; None if not known.
        who: The person.
    """
    resource = {
        "resource_type": intent.resource_type,
        "resource_id": intent.resource_id,
        "lane": intent.lane,
        "run_id": run_id,
    }
    decided = {
        "key": intent.key,
        "resource_id": intent.resource_id,
        "rule": finding.rule,
        "message": finding.message,
        "since": instant_text(since),
        "ahead_s": None if since is None else (since - at).total_seconds(),
    }

    def give_up() -> None:
        journal.execute("note_foreign", resource)
        journal.change_each("gone", [decided])
        line = new_line(
            utc_text(at),
            run_id,
            Event.GONE,
            key=intent.key,
            resource_id=intent.resource_id,
            detail=_evidence(finding),
            who=who,
        )
        journal.append([line])

    await journal.write(give_up)


async def note_foreign(
    journal: Journal,
    run_id: str,
    resource_type: str,
    lane: str,
    ids: Iterable[str],
    at: datetime,
    who: str = "",
) -> None:
    """Note resources of a patient that are not ours: they were there before, or a person says so."""

    def note() -> None:
        line = {"resource_type": resource_type, "lane": lane, "run_id": run_id}
        for resource_id in ids:
            journal.execute("note_foreign", {**line, "resource_id": resource_id})
            noted = new_line(
                utc_text(at),
                run_id,
                Event.FOREIGN,
                resource_id=resource_id,
                detail=resource_type,
                who=who,
            )
            journal.append([noted])

    await journal.write(note)


async def forget_times(journal: Journal, contradicts: Callable[[timedelta], bool]) -> None:
    """Forget the times of unsettled writes that prove nothing any more, because a clock was set since.

    No later run relies on them, even if that clock was set back by then.

    Args:
        journal: The journal.
        contradicts: Returns True if a clock was set since the server's was that far ahead of ours.
    """

    def forget() -> None:
        times = journal.select("unsettled_times", {"part": journal.store.part})
        keys = [key for key, ahead_s in times if contradicts(timedelta(seconds=ahead_s))]
        if keys:
            journal.execute("forget_times", {"keys": as_json(keys)})

    await journal.write(forget)


def _decide(
    journal: Journal,
    run_id: str,
    event: Event,
    intent: Intent,
    finding: Finding,
    at: datetime,
    who: str,
) -> None:
    decided = {
        "key": intent.key,
        "rule": finding.rule,
        "message": finding.message,
        "resource_id": finding.resource_id,
        "held_at": instant_text(finding.held_at),
        "at": utc_text(at),
    }
    if who:
        _reopen(journal, run_id, intent, at, who)
    journal.change_each("suspect" if event is Event.SUSPECTED else event.value, [decided])
    line = new_line(
        utc_text(at),
        run_id,
        event,
        key=intent.key,
        resource_id=finding.resource_id,
        detail=_evidence(finding),
        who=who,
    )
    journal.append([line])


def _reopen(journal: Journal, run_id: str, intent: Intent, at: datetime, who: str) -> None:
    """Put a write back in doubt that was given up or is to be sent again, so that a person can decide on it."""
    (state,) = journal.execute("state", {"key": intent.key}).fetchone()
    event = {State.ABANDONED.value: Event.REOPENED, State.PENDING.value: Event.SUSPECTED}.get(state)
    if event is not None:
        journal.change_each("reopened", [{"key": intent.key}])
        journal.append([new_line(utc_text(at), run_id, event, key=intent.key, who=who)])


def _evidence(finding: Finding) -> str:
    """Return what was seen as JSON: ids and times, never a value of a row."""
    seen = [
        {"id": each.resource_id, "created": instant_text(each.created_at), "when": each.when}
        for each in finding.candidates
    ]
    return orjson.dumps({"rule": finding.rule, "candidates": seen}).decode()
