"""Read the writes in doubt, and what is known of them and their patients."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from pipeline.journal.instants import instant_of
from pipeline.journal.journal import Journal, as_json
from pipeline.records import Doubt, Held, Intent, Interaction, LastHeld, Stamped, State


async def doubt_of(journal: Journal, key: str) -> Doubt | None:
    """Return one write, without its body; None if the journal does not have it."""
    asked = {"keys": as_json([key])}
    found = await journal.write(lambda: journal.select_records("doubts_of", asked))
    return _doubt(found[0]) if found else None


def all_doubts(journal: Journal) -> list[Doubt]:
    """Return the writes of our partition that are in doubt, or that may be sent again and were not yet."""
    return [_doubt(record) for record in journal.records("doubts", {"part": journal.store.part})]


def count_doubts(journal: Journal, run_id: str) -> int:
    """Count the writes in doubt, and those of other runs that are still to be sent again after this run."""
    line = journal.row("doubt_count", {"run_id": run_id})
    return int(line[0]) if line else 0


def shut_queues(journal: Journal) -> set[str]:
    """Return the patients with a write in doubt."""
    return {line[0] for line in journal.rows("shut_lanes", {})}


def lost_updates(journal: Journal) -> frozenset[str]:
    """Return the keys of coverages with a lost answer since their last confirmed write.

    This reads the whole audit log, so call it once per run.
    """
    return frozenset(line[0] for line in journal.rows("lost_updates", {}))


async def last_confirmed(journal: Journal, keys: Iterable[str]) -> dict[str, LastHeld]:
    """Return by key when Canvas held the last confirmed content, as far as it is known."""
    asked = {"keys": as_json(list(keys))}
    found = await journal.write(lambda: journal.select_records("held_at", asked))
    return {
        record["key"]: LastHeld(
            at=instant_of(record["held_at"]),
            run_id=record["held_run"],
            is_edited=bool(record["is_edited"]),
        )
        for record in found
    }


def stamped(journal: Journal, run_id: str) -> list[Stamped]:
    """Return the last payments, up to 8, that Canvas confirmed by their answers in a run."""
    return [
        Stamped(
            resource_id=record["resource_id"],
            dated=datetime.fromisoformat(record["held_at"]),
            sent_at=datetime.fromisoformat(record["sent_at"]),
            settled_at=datetime.fromisoformat(record["settled_at"]),
        )
        for record in journal.records("stamped", {"run_id": run_id})
    ]


async def has_sibling_since(journal: Journal, key: str) -> bool:
    """Return True if we wrote another coverage of the patient after this one: it may have moved this one."""
    return bool(await journal.write(lambda: journal.select("sibling_since", {"key": key})))


async def assigned_ids(
    journal: Journal, resource_type: str, lane: str, ids: Iterable[str]
) -> set[str]:
    """Return those of `ids`, resources of a patient, that belong to a row or are known not to be ours."""
    asked = {"resource_type": resource_type, "lane": lane, "ids": as_json(list(ids))}
    return {line[0] for line in await journal.write(lambda: journal.select("claimed", asked))}


def gone_ids(journal: Journal) -> set[str]:
    """Return the ids of the resources that a person declared gone."""
    return {line[0] for line in journal.rows("gone_ids", {})}


def _doubt(record: Mapping[str, Any]) -> Doubt:
    ahead_s = record["ahead_s"]
    return Doubt(
        intent=Intent(
            key=record["key"],
            feed=record["feed"],
            resource_type=record["resource_type"],
            interaction=Interaction(record["interaction"]),
            lane=record["lane"],
            body=b"",
            fingerprint=record["fingerprint"],
            amount_cents=record["amount_cents"],
            claim=record["claim"],
            match_key=record["likeness"],
            run_id=record["run_id"],
            resource_id=record["resource_id"],
            rank=record["rank"],
            held_at=instant_of(record["held_at"]),
            day=record["day"],
            end_on=record["end_on"],
        ),
        attempts=record["attempts"],
        resent=record["resent"],
        since=instant_of(record["since"]),
        until=instant_of(record["until"]),
        is_owed=record["state"] == State.PENDING.value,
        ahead=None if ahead_s is None else timedelta(seconds=ahead_s),
        rule=record["rule"],
        message=record["message"],
        held=Held(run_id=record["held_run"], fingerprint=record["held"]),
        is_orphan=bool(record["orphaned"]),
    )
