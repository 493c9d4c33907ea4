"""Decide which coverages to cancel among the rows of the last complete run that are gone from today's files.

Pure. A coverage is not cancelled if `missing` of its feed is not "cancel"; if there are fewer files than in
the last complete run; if more rows are gone than `missing_max` allows; if a rejected row may be this coverage
under another key; if its last write is not settled; or if its sent content is no longer known.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
import polars as pl

from pipeline.fhir.coverage import cancelled, match_key, member_ids
from pipeline.fhir.datatypes import fingerprint
from pipeline.planning.tables import MISSING
from pipeline.records import Interaction, RowId, State
from pipeline.rows.feed import Feed

REPORTED: Final = "missing|reported"
REJECTED: Final = ("file", "row", "lane", "field", "patient", "member_id")  # what `add` reads
_UNSETTLED: Final = (State.IN_FLIGHT.value, State.IN_DOUBT.value, State.ABANDONED.value)

Sent = Callable[[pl.DataFrame], dict[str, bytes]]  # rows -> key: the body sent last


@dataclass(frozen=True, slots=True)
class Gone:
    """The rows of a feed that are gone.

    Attributes:
        rows: key, lane, resource_id, held, held_run and state of coverages that the journal holds as active.
        before: The number of rows that they are gone from.
        open_: The keys of those that an earlier run was to cancel already.
        compared_with: The last complete run.
        is_short: The feed has fewer files than in that run.
    """

    rows: pl.DataFrame
    before: int
    open_: Collection[str]
    compared_with: str
    is_short: bool


@dataclass(slots=True)
class RejectedRows:
    """The rejected rows that may be a missing coverage: the first of each kind, as `file:row`.

    Of a row with an unknown patient the member id is compared. If it cannot be read either, the row
    may be any of the missing coverages.
    """

    by_patient: dict[str, str] = field(default_factory=dict)
    by_member: dict[str, str] = field(default_factory=dict)  # of unknown patients, casefolded
    any_member: str = ""

    def add(
        self,
        line: Sequence[Any],
        files: Sequence[str],
        patient_of: Callable[[str | None], str],
        patients: Collection[str],
    ) -> None:
        """Take in a row (REJECTED) if it is of one of `patients`, or of an unknown patient.

        A field that the row was rejected for names nothing.
        """
        file, row, lane, fields, patient, member_id = line
        broken = set((fields or "").split("; "))
        lane = lane or ("" if "patient" in broken else patient_of(patient))
        where = str(RowId(files[file], row))
        if lane in patients:
            self.by_patient.setdefault(lane, where)
        elif not lane and member_id and "member_id" not in broken:
            self.by_member.setdefault(member_id.casefold(), where)
        elif not lane:
            self.any_member = self.any_member or where

    def like(self, body: bytes) -> str:
        """Return the row of an unknown patient that a coverage may be, by what was last sent; "" if none."""
        members = (str(each).strip().casefold() for each in member_ids(orjson.loads(body)))
        found = (self.by_member[each] for each in members if each in self.by_member)
        return self.any_member or next(found, "")


def retire(feed: Feed, gone: Gone, rejected: RejectedRows, sent: Sent) -> pl.DataFrame:
    """Decide on each row that is gone.

    Args:
        feed: The feed whose rows are gone.
        gone: The rows.
        rejected: The rejected rows of all coverage feeds of the run.
        sent: Returns what Canvas was last sent of some rows.

    Returns:
        Lines in `tables.MISSING`.
    """
    new = gone.rows.filter(~pl.col("key").is_in(list(gone.open_))).height
    is_held = gone.is_short or new > feed.missing_max.of(gone.before)
    bodies = sent(gone.rows) if feed.missing == "cancel" and not is_held else {}
    lines: list[tuple[str | bytes | bool | None, ...]] = []
    for key, lane, resource_id, state in gone.rows.select(
        "key", "lane", "resource_id", "state"
    ).iter_rows():
        body = bodies.get(key)
        why = _why_not(feed, lane, state, rejected, body, is_short=gone.is_short, is_held=is_held)
        if why:
            lines.append((key, lane, resource_id, "", *why, "", "", None, False))
            continue
        content = cancelled(orjson.loads(bodies[key]))
        body = orjson.dumps(content)
        identity = (fingerprint(body), match_key(content), body)
        lines.append((key, lane, resource_id, Interaction.UPDATE.value, "", "", *identity, False))
    return pl.DataFrame(lines, schema=MISSING, orient="row")


def _why_not(
    feed: Feed,
    lane: str,
    state: str,
    rejected: RejectedRows,
    body: bytes | None,
    *,
    is_short: bool,
    is_held: bool,
) -> tuple[str, str] | None:
    """Return the rule and the message if a coverage is not cancelled."""
    if feed.missing != "cancel":
        return REPORTED, "gone from the file; the feed does not cancel"
    same_patient = rejected.by_patient.get(lane, "")
    unidentified = rejected.like(body) if body else ""
    reasons = (
        (
            is_short,
            "files",
            "there are fewer files than in the last complete run; check that the sender delivered all files",
        ),
        (
            is_held,
            "too-many",
            "more rows are gone than missing_max allows; check that the file is complete",
        ),
        (
            same_patient,
            "unread",
            f"{same_patient} was rejected, has the same patient, and may be this coverage; fix that row",
        ),
        (
            unidentified,
            "unidentified",
            f"{unidentified} was rejected without a known patient, and may be this coverage; fix that row",
        ),
        (
            state in _UNSETTLED,
            "unsettled",
            "its last write is in doubt, or was given up; see canvas-ingest review",
        ),
        (
            body is None,
            "unknown",
            "what was sent is no longer known, because its plan was removed or changed; cancel it in Canvas",
        ),
    )
    for holds, what, why in reasons:
        if holds:
            return f"missing|{what}", f"not cancelled: {why}"
    return None
