"""Read what the journal knows of writes: by key, by patient, by feed. Frames have the columns of their schemas."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import polars as pl

from pipeline.journal import states
from pipeline.journal.audit_log import Event
from pipeline.journal.journal import Journal, as_json
from pipeline.records import State

_KNOWN_SCHEMA: Final = dict.fromkeys(("key", "state", "fingerprint", "resource_id"), pl.String)
_WRITES_SCHEMA: Final = {
    "key": pl.String,
    "state": pl.String,
    "run_id": pl.String,
    "interaction": pl.String,
    "attempts": pl.Int64,
    "resource_id": pl.String,
    "rule": pl.String,
    "message": pl.String,
    "http_status": pl.Int64,
    "correlation_id": pl.String,
    "sent_at": pl.String,
    "settled_at": pl.String,
    "amount_cents": pl.Int64,
}
_AMOUNTS_SCHEMA: Final = {
    **dict.fromkeys(("key", "run_id", "feed", "interaction"), pl.String),
    "amount_cents": pl.Int64,
}
_RANKS_SCHEMA: Final = {
    "lane": pl.String,
    "key": pl.String,
    "feed": pl.String,
    "resource_id": pl.String,
    "rank": pl.Int64,
    "state": pl.String,
    "displaced": pl.Int64,
    "held_at": pl.String,
    "sent_at": pl.String,
    "held_end": pl.String,
}
_ACTIVE_SCHEMA: Final = {
    **dict.fromkeys(("key", "feed", "lane", "resource_id", "held", "held_run", "state"), pl.String),
    "displaced": pl.Int64,
    "end_on": pl.String,
}
_ENDED_SCHEMA: Final = {"key": pl.String, "held_end": pl.String}
_HELD_SCHEMA: Final = dict.fromkeys(("key", "feed", "held", "held_run"), pl.String)
_PAYMENTS_SCHEMA: Final = {
    "lane": pl.String,
    "key": pl.String,
    "feed": pl.String,
    "amount_cents": pl.Int64,
    "claim": pl.String,
    "day": pl.String,
    "sent_day": pl.String,
}
_COVERAGES_SCHEMA: Final = dict.fromkeys(("lane", "key", "feed", "held", "held_run"), pl.String)
_CONFIRMED_SCHEMA: Final = {
    "key": pl.String,
    "feed": pl.String,
    "resource_type": pl.String,
    "lane": pl.String,
    "resource_id": pl.String,
    "amount_cents": pl.Int64,
    "claim": pl.String,
    "run_id": pl.String,
    "fingerprint": pl.String,
}


@dataclass(frozen=True, slots=True)
class Count:
    """The number of writes of a kind, their amounts, and when the first and the last was settled."""

    state: State
    resource_type: str
    count: int
    cents: int
    oldest: str | None
    youngest: str | None


def census(journal: Journal) -> list[Count]:
    """Count all writes by state and resource type."""
    return [
        Count(**{**record, "state": State(record["state"])})
        for record in journal.records("census", {})
    ]


# By key -------------------------------------------------------------------------------------------


def known(journal: Journal, keys: pl.Series) -> pl.DataFrame:
    """Return key, state, the fingerprint that Canvas holds, and resource_id of these keys."""
    return journal.frame("known", keys, _KNOWN_SCHEMA)


def states_of(journal: Journal, keys: Iterable[str]) -> dict[str, State]:
    """Return the states of these keys. Unknown keys are left out."""
    frame = known(journal, pl.Series("key", list(keys), dtype=pl.String))
    return {key: State(state) for key, state in frame.select("key", "state").iter_rows()}


def writes_of(journal: Journal, keys: pl.Series, run_id: str | None = None) -> pl.DataFrame:
    """Return the writes with these keys as they are now or, with `run_id`, as that run left them.

    The audit log shows how the run left a write that a later run has changed; its message is no longer known.
    """
    lines = journal.frame("writes", keys, _WRITES_SCHEMA)
    if run_id is None:
        return lines
    runs = [line[0] for line in journal.rows("later_runs", {"run_id": run_id})]
    later = lines.filter(pl.col("run_id").is_in(runs))["key"]
    if later.is_empty():
        return lines
    unchanged = lines.filter(~pl.col("key").is_in(later.implode()))
    return pl.concat([unchanged, _as_logged(journal, run_id, set(later))])


def _as_logged(journal: Journal, run_id: str, keys: set[str]) -> pl.DataFrame:
    """Return the writes of these keys as a run left them, from its lines in the audit log."""
    ends: dict[str, dict[str, Any]] = {}
    for line in journal.records("logged", {"run_id": run_id}):
        key, event = line["key"], line["event"]
        state = states.state_after(event, line["verdict"])
        if key not in keys or state is None:
            continue
        new = dict.fromkeys(_WRITES_SCHEMA) | {"key": key, "run_id": run_id}
        end = ends.setdefault(key, new)
        end |= {"state": state.value, "settled_at": line["at"], "rule": "", "message": ""}
        if line["resource_id"]:
            end["resource_id"] = line["resource_id"]
        if event == Event.WRITE.value:
            end |= {
                "attempts": line["attempt"],
                "http_status": line["http_status"],
                "correlation_id": line["correlation_id"],
                "sent_at": line["at"],
            }
    return pl.DataFrame(list(ends.values()), schema=_WRITES_SCHEMA)


def amounts(journal: Journal, keys: pl.Series) -> pl.DataFrame:
    """Return key, run_id, feed, interaction and amount_cents of these writes."""
    return journal.frame("amounts", keys, _AMOUNTS_SCHEMA)


def active(journal: Journal, keys: pl.Series) -> pl.DataFrame:
    """Return the writes among these whose coverage is active in Canvas and was not ended, as far as the journal knows.

    `end_on` is the day (ISO) of an end that an earlier run planned and did not make, else null.
    """
    return journal.frame("active", keys, _ACTIVE_SCHEMA)


def ended(journal: Journal, keys: pl.Series) -> pl.DataFrame:
    """Return key and held_end (ISO) of the coverages among these that a run ended because their rows were gone."""
    return journal.frame("ended", keys, _ENDED_SCHEMA)


def contents(journal: Journal, keys: pl.Series) -> pl.DataFrame:
    """Return key, feed, held (the fingerprint that Canvas holds) and held_run of these writes."""
    return journal.frame("held", keys, _HELD_SCHEMA)


# By patient ---------------------------------------------------------------------------------------


def ranks(journal: Journal, lanes: pl.Series) -> pl.DataFrame:
    """Return the coverages of these patients with their order; `held_end` (ISO) if a run has ended them."""
    return journal.frame("ranks", lanes, _RANKS_SCHEMA, "lanes")


def payments_of(journal: Journal, lanes: pl.Series) -> pl.DataFrame:
    """Return the payments of these patients that Canvas holds or may hold, or that are still to be sent again.

    Returns:
        lane, key, feed, amount_cents, claim, day ("" none, null unknown) and sent_day, a line a payment.
    """
    return journal.stream("payments_of", {"lanes": as_json(lanes.to_list())}, _PAYMENTS_SCHEMA)


def coverages_of(journal: Journal, lanes: pl.Series) -> pl.DataFrame:
    """Return the active coverages of these patients: lane, key, feed, held (fingerprint), held_run."""
    return journal.stream("coverages_of", {"lanes": as_json(lanes.to_list())}, _COVERAGES_SCHEMA)


# By feed ------------------------------------------------------------------------------------------


def has_writes(journal: Journal, feed: str) -> bool:
    """Return whether a write of the feed was ever entered."""
    return journal.row("has_writes", {"feed": feed}) is not None


def active_keys(journal: Journal, feed: str) -> pl.Series:
    """Return the keys of a feed's coverages that are active in Canvas and were not ended, as far as the journal knows."""
    return _keys(journal, "active_of", feed)


def payment_keys(journal: Journal, feed: str) -> pl.Series:
    """Return the keys of a feed's payments that Canvas holds, or may hold."""
    return _keys(journal, "payments_sent", feed)


def moved_keys(journal: Journal, feed: str) -> pl.Series:
    """Return the keys of a feed's coverages whose order another write of ours has moved, or may have."""
    return _keys(journal, "displaced_of", feed)


def cancel_keys(journal: Journal, feed: str) -> pl.Series:
    """Return the keys of a feed's coverages that an earlier run planned to cancel or end, and did not."""
    return _keys(journal, "open_cancels", feed)


def confirmed_keys(journal: Journal, feed: str) -> pl.Series:
    """Return the keys of a feed's writes that Canvas confirmed."""
    return journal.stream("confirmed_of", {"feed": feed}, {"key": pl.String})["key"]


def _keys(journal: Journal, query: str, feed: str) -> pl.Series:
    found = journal.rows(query, {"feed": feed})
    return pl.Series("key", [line[0] for line in found], dtype=pl.String)


# All ----------------------------------------------------------------------------------------------


def confirmed(journal: Journal, since: str | None = None) -> pl.DataFrame:
    """Return what Canvas holds as far as the journal knows, settled at `since` (ISO) or later, by type and patient."""
    return journal.stream("confirmed", {"since": since}, _CONFIRMED_SCHEMA)


def newest_confirmed(journal: Journal, resource_type: str, most: int) -> pl.DataFrame:
    """Return the writes of a type that Canvas confirmed last, in the columns of `confirmed`."""
    asked = {"resource_type": resource_type, "most": most}
    return journal.stream("newest_confirmed", asked, _CONFIRMED_SCHEMA)
