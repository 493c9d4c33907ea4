"""Rows of the last complete run that are gone from today's file: what is meant for them. Pure.

A coverage is cancelled only where nothing speaks against it: not where so many are gone that the
file must be a wrong one, and not where a row of the same patient could not be read today, for it
may be the very row (its key is then another one).
"""

from collections.abc import Callable, Collection
from typing import Final

import orjson
import polars as pl

from pipeline.feeds.feed import Feed
from pipeline.fhir.coverage import cancelled, likeness
from pipeline.fhir.datatypes import fingerprint
from pipeline.plans import MISSING
from pipeline.records import Interaction, State

REPORTED: Final = "missing|reported"
_UNSETTLED: Final = (State.IN_FLIGHT.value, State.IN_DOUBT.value, State.ABANDONED.value)

Sent = Callable[[pl.DataFrame], dict[str, bytes]]  # rows -> key: what Canvas was last sent


def retire(
    feed: Feed,
    gone: pl.DataFrame,
    before: int,
    open_: Collection[str],
    unread: Collection[str],
    sent: Sent,
) -> pl.DataFrame:
    """Judge the rows that are gone: lines in `plans.MISSING`.

    `gone`: key, lane, resource_id, held, held_run and state of coverages that are active by our
    books; `before` how many rows they are gone from; `open_` the keys of those that an earlier run
    was to cancel already; `unread` the patients of rows that were rejected today, "" among them
    where the patient could not be read either.
    """
    new = gone.filter(~pl.col("key").is_in(list(open_))).height
    guarded = feed.missing == "cancel" and new > feed.missing_max.of(before)
    bodies = sent(gone) if feed.missing == "cancel" and not guarded else {}
    lines: list[tuple[str | bytes | None, ...]] = []
    for key, lane, resource_id, state in gone.select(
        "key", "lane", "resource_id", "state"
    ).iter_rows():
        why = _why_not(feed, lane, state, unread, guarded=guarded, is_known=key in bodies)
        if why:
            lines.append((key, lane, resource_id, "", *why, "", "", None))
            continue
        content = cancelled(orjson.loads(bodies[key]))
        body = orjson.dumps(content)
        told = (fingerprint(body), likeness(content), body)
        lines.append((key, lane, resource_id, Interaction.UPDATE.value, "", "", *told))
    return pl.DataFrame(lines, schema=MISSING, orient="row")


def _why_not(
    feed: Feed, lane: str, state: str, unread: Collection[str], *, guarded: bool, is_known: bool
) -> tuple[str, str] | None:
    """The rule and the message where a coverage is not cancelled."""
    if feed.missing != "cancel":
        return REPORTED, "gone from the file; the feed does not cancel"
    reasons = (
        (guarded, "too-many", "more rows are gone than missing_max allows; is the file whole?"),
        (
            lane in unread or "" in unread,
            "unread",
            "a row that was rejected today may be this one; mend it",
        ),
        (
            state in _UNSETTLED,
            "unsettled",
            "its last write is in doubt, or was given up: see canvas-ingest review",
        ),
        (
            not is_known,
            "unknown",
            "what was sent is no longer known (its plan is gone); cancel it in Canvas",
        ),
    )
    for holds, what, why in reasons:
        if holds:
            return f"missing|{what}", f"not cancelled: {why}"
    return None
