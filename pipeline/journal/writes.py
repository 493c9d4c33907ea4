"""The steps of sending: enter a write that is to be sent, mark it in flight, settle it by its answer.

Each function is one transaction of its own, or runs inside one ("in a step"). `states.py` has the states.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

import orjson

from pipeline.clock import utc_text
from pipeline.journal import states
from pipeline.journal.audit_log import Event, Line, new_line, request_line
from pipeline.journal.instants import instant_text, second_text
from pipeline.journal.journal import Journal, as_json
from pipeline.records import Attempt, Exchange, Intent, Interaction, State


class Begun(NamedTuple):
    """Writes to be marked in flight on disk, before any of them is sent (PENDING -> IN_FLIGHT).

    `at` is our clock, and `since` the earliest that the server's clock can show at that instant; None if not known.
    """

    intents: Sequence[Intent]
    at: datetime
    since: datetime | None


async def begin(
    journal: Journal, run_id: str, intents: Sequence[Intent], at: datetime, since: datetime | None
) -> None:
    """Mark a group of writes in flight, in a transaction of their own."""
    begun = Begun(intents, at, since)
    await journal.write(lambda: journal.append(_begin(journal, run_id, begun)))


def _begin(journal: Journal, run_id: str, begun: Begun) -> list[Line]:
    """Mark writes in flight, and return the lines for the audit log. In a step."""
    at_text = utc_text(begun.at)
    times = {
        "at": at_text,
        "since": instant_text(begun.since),
        "ahead_s": None if begun.since is None else (begun.since - begun.at).total_seconds(),
        "part": journal.store.part,
    }
    of = {each: [one for one in begun.intents if one.interaction is each] for each in Interaction}
    _reopen(journal, of[Interaction.UPDATE])
    claims = [{**_entered(intent), **times} for intent in begun.intents]
    # Few creates were refused in an earlier run: they are opened only if a claim shows that there are some.
    journal.change_each("claim", claims, or_else=lambda: _reopen(journal, of[Interaction.CREATE]))
    return [new_line(at_text, run_id, Event.CLAIM, key=each.key) for each in begun.intents]


async def take_back(journal: Journal, run_id: str, intents: Sequence[Intent], at: datetime) -> None:
    """Set refused writes to be sent again (REFUSED -> PENDING): the refusal was not about these rows."""
    if not intents:
        return
    at_text = utc_text(at)

    def take_back() -> None:
        _reopen(journal, intents)
        journal.append(
            new_line(at_text, run_id, Event.RELEASE, key=each.key, detail="refused like all others")
            for each in intents
        )

    await journal.write(take_back)


async def settle(
    journal: Journal,
    run_id: str,
    attempts: Sequence[Attempt],
    at: datetime,
    *,
    unsent: Sequence[Intent] = (),
    asked: Sequence[Exchange] = (),
    begun: Begun | None = None,
) -> list[tuple[State, int]]:
    """Settle writes by their answers, and mark others in flight in the same transaction.

    An id that another row already has is no proof: that write is then in doubt.

    Args:
        journal: The journal.
        run_id: The run that sends.
        attempts: Writes and their answers.
        at: Our clock.
        unsent: Writes in flight that were never handed to a socket: they are pending again.
        asked: Requests other than writes of rows.
        begun: The writes to be marked in flight.

    Returns:
        The state of each write of `attempts`, and its attempts so far.
    """
    if not (attempts or unsent or asked or (begun and begun.intents)):
        return []
    at_text = utc_text(at)

    def settle() -> list[tuple[State, int]]:
        journal.change_each("release", [{"key": each.key} for each in unsent])
        ends, entries = _settle(journal, run_id, attempts, at_text)
        journal.append(
            [
                *(request_line(run_id, exchange, attempt=1) for exchange in asked),
                *(new_line(at_text, run_id, Event.RELEASE, key=each.key) for each in unsent),
                *entries,
                *(_begin(journal, run_id, begun) if begun and begun.intents else ()),
            ]
        )
        return ends

    return await journal.write(settle)


def _settle(
    journal: Journal, run_id: str, attempts: Sequence[Attempt], at: str
) -> tuple[list[tuple[State, int]], list[Line]]:
    """Settle writes by their answers. In a step.

    Returns:
        The state of each write and its attempts so far, and the lines for the audit log.
    """
    if not attempts:
        return [], []
    ends, lines, entries = [], [], []
    for attempt, (number, is_proved) in zip(attempts, _proved(journal, attempts), strict=True):
        intent, exchange = attempt.intent, attempt.exchange
        state, rule, message = states.settled(attempt.verdict), attempt.rule, attempt.message
        if state is State.CONFIRMED and not is_proved:
            state, rule = State.IN_DOUBT, "canvas|id-of-another-row"
            message = "Canvas answered with the id of another row's resource"
        ends.append((state, number))
        lines.append(
            {
                "key": intent.key,
                "state": state.value,
                "resource_id": attempt.resource_id if state is State.CONFIRMED else None,
                "rule": rule,
                "message": message,
                "since": instant_text(attempt.since),
                "until": instant_text(attempt.until),
                "dated": None if exchange.dated is None else second_text(exchange.dated),
                "http_status": exchange.http_status,
                "correlation_id": exchange.correlation_id,
                "sent_at": utc_text(exchange.sent_at),
                "settled_at": at,
            }
        )
        entries.append(
            request_line(
                run_id,
                exchange,
                key=intent.key,
                attempt=number,
                verdict=attempt.verdict.value,
                resource_id=attempt.resource_id,
            )
        )
    journal.change_each("settle", lines)
    return ends, entries


def _proved(journal: Journal, attempts: Sequence[Attempt]) -> list[tuple[int, bool]]:
    """Return for each answer the number of its attempt, and whether no other write, in the journal or among these, has its id."""
    found = _answers(journal, [(each.intent, each.resource_id) for each in attempts])
    numbers = {key: number or 0 for key, number, _ in found}
    taken = {key for key, _, is_taken in found if is_taken}
    proved, given = [], set[tuple[str, str]]()
    for each in attempts:
        resource = (each.intent.resource_type, each.resource_id)
        proved.append(each.intent.key not in taken and resource not in given)
        if proved[-1]:
            given.add(resource)
    return [(numbers[each.intent.key], is_it) for each, is_it in zip(attempts, proved, strict=True)]


def is_of_another(journal: Journal, intent: Intent, resource_id: str) -> bool:
    """Return whether another write has that id already. In a step."""
    ((_, _, is_taken),) = _answers(journal, [(intent, resource_id)])
    return bool(is_taken)


def _answers(
    journal: Journal, answers: Iterable[tuple[Intent, str]]
) -> list[tuple[str, int | None, bool]]:
    listed = [
        {
            "key": intent.key,
            "resource_type": intent.resource_type,
            "lane": intent.lane,
            "resource_id": resource_id,
        }
        for intent, resource_id in answers
    ]
    return journal.select("answers", {"answers": orjson.dumps(listed).decode()})


async def record(journal: Journal, run_id: str, exchanges: Sequence[Exchange]) -> None:
    """Enter requests other than writes of rows in the audit log."""
    if exchanges:
        lines = [request_line(run_id, exchange, attempt=1) for exchange in exchanges]
        await journal.write(lambda: journal.append(lines))


async def intend(journal: Journal, run_id: str, intents: Sequence[Intent], at: datetime) -> None:
    """Enter updates that a later file may not ask for, so that they are not forgotten (CONFIRMED -> PENDING)."""

    def intend() -> None:
        enter(journal, intents)
        journal.append(
            new_line(utc_text(at), run_id, Event.INTENDED, key=intent.key) for intent in intents
        )

    await journal.write(intend)


async def mark_moved(journal: Journal, run_id: str, keys: Sequence[str], at: datetime) -> None:
    """Note coverages whose order another write of ours moves or may have moved. The next file writes them again."""

    def mark() -> None:
        for key in keys:
            if journal.execute("displaced", {"key": key}).rowcount:
                journal.append([new_line(utc_text(at), run_id, Event.INTENDED, key=key)])

    await journal.write(mark)


def enter(journal: Journal, intents: Sequence[Intent]) -> None:
    """Enter writes as PENDING. In a step."""
    _reopen(journal, intents)
    for intent in intents:
        journal.execute("enter", _entered(intent))


def _reopen(journal: Journal, intents: Sequence[Intent]) -> None:
    """Set writes to PENDING again: refused ones are tried anew, confirmed ones are to be updated."""
    for interaction in Interaction:
        keys = [each.key for each in intents if each.interaction is interaction]
        if keys:
            opened = {"keys": as_json(keys), "interaction": interaction.value}
            journal.execute("open_again", opened)


def _entered(intent: Intent) -> dict[str, object]:
    return {
        "key": intent.key,
        "run_id": intent.run_id,
        "feed": intent.feed,
        "interaction": intent.interaction.value,
        "resource_type": intent.resource_type,
        "lane": intent.lane,
        "amount_cents": intent.amount_cents,
        "claim": intent.claim,
        "likeness": intent.match_key,
        "fingerprint": intent.fingerprint,
        "rank": intent.rank,
        "end_on": intent.end_on,
        "resource_id": intent.resource_id or None,
        "held_at": instant_text(intent.held_at),
        "day": intent.day,
    }
