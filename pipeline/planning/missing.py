"""Decide which coverages to end or to cancel among the rows of the last complete run that are gone from today's files.

Pure. A coverage is left alone if `missing` of its feed is neither "end" nor "cancel"; if there are fewer files than
in the last complete run; if more rows are gone than `missing_max` allows; if a rejected row may be this coverage
under another key; if its last write is not settled; if its sent content is no longer known; or if its period has
ended already, or does not begin before the end.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Final

import orjson
import polars as pl

from pipeline.fhir.coverage import cancelled, days_of, ended, match_key, member_ids
from pipeline.fhir.datatypes import fingerprint
from pipeline.planning.tables import MISSING
from pipeline.records import Interaction, RowId, State
from pipeline.rows.feed import Feed

REPORTED: Final = "missing|reported"
ENDED: Final = "missing|ended"
TOO_MANY: Final = "missing|too-many"
# The rules of rows about which nothing is left to do: the next run does not list them again.
SETTLED: Final = (REPORTED, ENDED)
REJECTED: Final = ("file", "row", "lane", "field", "patient", "member_id")  # what `add` reads
_DONE: Final = {"end": ("end", "ended"), "cancel": ("cancel", "cancelled")}
_UNSETTLED: Final = (State.IN_FLIGHT.value, State.IN_DOUBT.value, State.ABANDONED.value)

_AT_ONCE: Final = (
    20_000  # contents in memory, half a KiB each, while those that have ended are counted
)

Sent = Callable[[pl.DataFrame], dict[str, bytes]]  # rows -> key: the body sent last


@dataclass(frozen=True, slots=True)
class Gone:
    """The rows of a feed that are gone.

    Attributes:
        rows: What `lookups.active` returns of them.
        before: The number of rows that they are gone from.
        open_: The keys of those that an earlier run was to end or cancel already.
        compared_with: The last complete run.
        is_short: The feed has fewer files than in that run.
        end_on: The last day of those that are ended, unless an earlier run chose one for them.
        orders: By key, the order of those that another write of ours has moved.
    """

    rows: pl.DataFrame
    before: int
    open_: Collection[str]
    compared_with: str
    is_short: bool
    end_on: date
    orders: Mapping[str, int]


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


def retire(
    feed: Feed, gone: Gone, rejected: RejectedRows, sent: Sent, *, is_held: bool
) -> pl.DataFrame:
    """Decide on each row that is gone.

    Args:
        feed: The feed whose rows are gone.
        gone: The rows.
        rejected: The rejected rows of all coverage feeds of the run.
        sent: Returns what Canvas was last sent of some rows.
        is_held: There are more than `missing_max` allows (`too_many`).

    Returns:
        Lines in `tables.MISSING`.
    """
    is_held = is_held or gone.is_short
    asks = feed.missing == "end" or (feed.missing == "cancel" and not is_held)
    lines = [pl.DataFrame(schema=MISSING)]
    for some in gone.rows.iter_slices(_AT_ONCE):
        bodies = sent(some) if asks else {}
        judged = _judge(feed, gone, some, rejected, bodies, is_held=is_held)
        lines.append(pl.DataFrame(list(judged), schema=MISSING))
    return pl.concat(lines)


def too_many(feed: Feed, gone: Gone, sent: Sent) -> dict[str, Any] | None:
    """Return a warning, as the plan keeps it, if more rows are gone than `missing_max` allows.

    Those that have ended already, or that an earlier run was to end or cancel, do not count.
    """
    new = gone.rows.filter(~pl.col("key").is_in(list(gone.open_)))
    count, most = new.height, feed.missing_max.of(gone.before)
    if feed.missing == "end" and count > most:
        count -= sum(
            _has_ended(body, gone.end_on)
            for some in new.iter_slices(_AT_ONCE)
            for body in sent(some).values()
        )
    if count <= most:
        return None
    done = _DONE[feed.missing][1]
    return {
        "rule": TOO_MANY,
        "feed": feed.name,
        "count": count,
        "message": f"None is {done} in {feed.name}, because {count:,} of {gone.before:,} rows are gone, above missing_max = "
        f"{feed.missing_max}: check that the file is complete; if it is, raise missing_max for one run.",
    }


def _has_ended(body: bytes, day: date) -> bool:
    end = days_of(orjson.loads(body))[1]
    return end != "" and end <= day.isoformat()


def _judge(
    feed: Feed,
    gone: Gone,
    rows: pl.DataFrame,
    rejected: RejectedRows,
    bodies: Mapping[str, bytes],
    *,
    is_held: bool,
) -> Iterator[dict[str, Any]]:
    """Yield a line for each of some rows."""
    columns = ("key", "lane", "resource_id", "state", "end_on")
    for key, lane, resource_id, state, chosen in rows.select(columns).iter_rows():
        body = bodies.get(key)
        day = date.fromisoformat(chosen) if chosen else gone.end_on
        rule, why = _why_not(
            feed, lane, state, rejected, body, is_short=gone.is_short, is_held=is_held
        )
        content = orjson.loads(body) if body else {}
        if body and feed.missing == "end" and state not in _UNSETTLED:
            rule, why = _by_period(*days_of(content), day.isoformat(), rule, why)
        line = dict.fromkeys(MISSING) | {"key": key, "lane": lane, "resource_id": resource_id}
        line |= {"interaction": "", "rule": rule, "message": why, "is_last": False}
        if rule == ENDED:
            line["end_on"] = days_of(content)[1]
        elif not rule and feed.missing == "end":
            order = gone.orders.get(key, content["order"])
            line |= {"end_on": day.isoformat(), "order": order}
            line |= _write(ended(content, day, order))
        elif not rule:
            line |= _write(cancelled(content))
        yield line


def _write(content: dict[str, Any]) -> dict[str, Any]:
    """Return what a line has of the write of a coverage."""
    body = orjson.dumps(content)
    return {
        "interaction": Interaction.UPDATE.value,
        "fingerprint": fingerprint(body),
        "likeness": match_key(content),
        "body": body,
    }


def _by_period(start: str, end: str, day: str, rule: str, why: str) -> tuple[str, str]:
    """Return the rule and the message of a coverage that is to end on `day` (ISO), given those that it has so far."""
    if end and end <= day:
        return ENDED, "gone from the file; it has ended already, so nothing is written"
    if rule or (start and start <= day):
        return rule, why
    if start:
        rule, why = "missing|not_begun", "its period begins after the end that it would get"
    else:
        rule = "missing|no_start"
        why = "its row had no start, and the day that Canvas entered for it may be after the end"
    return rule, f"not ended: {why}; end or cancel it in Canvas"


def _why_not(
    feed: Feed,
    lane: str,
    state: str,
    rejected: RejectedRows,
    body: bytes | None,
    *,
    is_short: bool,
    is_held: bool,
) -> tuple[str, str]:
    """Return the rule and the message if a coverage is left alone, whatever its period; else two blanks."""
    if feed.missing not in _DONE:
        return REPORTED, "gone from the file; the feed neither ends nor cancels"
    verb, done = _DONE[feed.missing]
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
            TOO_MANY.partition("|")[2],
            "more rows are gone than missing_max allows; check that the file is complete; if it is, raise missing_max for one run",
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
            f"what was sent is no longer known, because its plan was removed or changed; {verb} it in Canvas",
        ),
    )
    for holds, what, why in reasons:
        if holds:
            return f"missing|{what}", f"not {done}: {why}"
    return "", ""
