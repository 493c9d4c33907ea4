"""Take over coverages that a person entered in Canvas, instead of creating them again.

One search per patient shows all of their coverages in Canvas. A row without a resource of its own takes
over the one that has its member id, its payer and an overlapping period. If there are several, start,
end and order decide, or the row is rejected. A row is also rejected if the only such coverage has a payer
that cannot be compared, because two insurers may use the same member id. The orders of coverages that
no row takes over are reported, because a write may move them.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

import orjson

from pipeline.canvas.client import Client
from pipeline.clock import Clock
from pipeline.fhir.coverage import (
    Organizations,
    Payers,
    compare_payers,
    coverage_differences,
    member_ids,
)
from pipeline.journal import doubts
from pipeline.journal.journal import Journal

Json = dict[str, Any]

_OPEN: Final = ("", "9999-12-31")


@dataclass(frozen=True, slots=True)
class Row:
    """A row without a resource of its own, and the resource that would be sent for it."""

    number: int
    body: Json = field(repr=False)


class Ambiguity(StrEnum):
    """The reason why a row takes over none of the coverages that it could be."""

    SEVERAL = "several"  # it could be several, or several rows could be one
    PAYER = "payer"  # the payer of the only one cannot be compared


@dataclass(frozen=True, slots=True)
class Adopted:
    """The result for one row. `resource_id` "": it takes over none, and `ambiguity` says why."""

    number: int
    resource_id: str
    ambiguity: Ambiguity | None = None
    is_same: bool = False  # Canvas holds the row's content
    shown: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Shown:
    """The result of one patient's search. `unknown`: orders of active coverages that no row has."""

    lane: str
    adopted: Sequence[Adopted]
    unknown: Mapping[str, int]
    seen_at: datetime | None  # by the server's clock, before the search


async def adopt(
    client: Client,
    journal: Journal,
    clock: Clock,
    lane: str,
    rows: Sequence[Row],
    organizations: Organizations,
) -> Shown:
    """Search one patient's coverages, and match them with rows that have no resource.

    Coverages of other rows, and those known not to be ours, are left out.

    Args:
        client: The client of Canvas.
        journal: Knows the resources of other rows.
        clock: The clock by which the search is timed.
        lane: The patient's key.
        rows: The patient's rows without a resource.
        organizations: The Organizations of payer ids, as far as they are known.

    Returns:
        What becomes of the rows, and the orders of coverages that no row takes over.

    Raises:
        SearchFailed: The search keeps failing, which never means that nothing is there.
    """
    seen_at = client.server_clock.earliest(clock.now())
    found = await client.persistently(lambda: client.of_patient("Coverage", lane), "Coverage")
    claimed = await doubts.assigned_ids(journal, "Coverage", lane, [each["id"] for each in found])
    free = [each for each in found if each["id"] not in claimed and _is_of(each, lane)]
    adopted = match(rows, free, organizations)
    taken = {each.resource_id for each in adopted}
    unknown = _orders(each for each in free if each["id"] not in taken)
    return Shown(lane, adopted, unknown, seen_at)


def match(rows: Sequence[Row], free: Sequence[Json], organizations: Organizations) -> list[Adopted]:
    """Return which row takes over which resource; rows that take none are left out. Pure.

    Those that agree best are matched first. A row that could as well take another resource, or a resource
    that another row could as well take, is ambiguous; so is a row that could only take a resource of which
    the payer cannot be compared.
    """
    resources = {str(each["id"]): each for each in free}
    pairs: dict[Payers, list[tuple[int, str]]] = {each: [] for each in Payers}
    for row in rows:
        for resource_id, resource in resources.items():
            if _may_be(row.body, resource):
                payers = compare_payers(row.body, resource, organizations)
                pairs[payers].append((row.number, resource_id))
    bodies = {row.number: row.body for row in rows}
    adopted = _best_first(bodies, resources, pairs[Payers.SAME], organizations)
    gone = {each.resource_id for each in adopted.values()}
    for number, resource_id in pairs[Payers.UNKNOWN]:
        if number not in adopted and resource_id not in gone:
            adopted[number] = Adopted(number, "", Ambiguity.PAYER)
    return list(adopted.values())


def _best_first(
    bodies: Mapping[int, Json],
    resources: Mapping[str, Json],
    candidates: Sequence[tuple[int, str]],
    organizations: Organizations,
) -> dict[int, Adopted]:
    agreement = {
        (number, resource_id): _agreement(bodies[number], resources[resource_id])
        for number, resource_id in candidates
    }
    adopted: dict[int, Adopted] = {}
    gone: set[str] = set()
    for level in sorted(set(agreement.values()), reverse=True):
        pairs = [
            (number, resource_id)
            for (number, resource_id), agreed in agreement.items()
            if agreed == level and number not in adopted and resource_id not in gone
        ]
        by_row = Counter(number for number, _ in pairs)
        by_id = Counter(resource_id for _, resource_id in pairs)
        for number, resource_id in pairs:
            gone.add(resource_id)
            if by_row[number] > 1 or by_id[resource_id] > 1:
                adopted[number] = Adopted(number, "", Ambiguity.SEVERAL)
                continue
            shown = resources[resource_id]
            is_same = not coverage_differences(bodies[number], shown, organizations)
            adopted[number] = Adopted(number, resource_id, None, is_same, orjson.dumps(shown))
    return adopted


def _may_be(body: Json, shown: Json) -> bool:
    """Return whether both have the same member id and periods that overlap."""
    try:
        return (
            member_ids(body)[0] in member_ids(shown)
            and (shown["status"] == "active" or shown["status"] == body["status"])
            and bool(shown["payor"][0])
            and _overlap(_period(body), _period(shown))
        )
    except (AttributeError, IndexError, KeyError, TypeError):
        return False  # not as Canvas writes them


def _agreement(body: Json, shown: Json) -> tuple[bool, ...]:
    ours, theirs = body.get("period", {}), shown.get("period", {})
    return (
        ours.get("start") == theirs.get("start"),
        ours.get("end") == theirs.get("end"),
        body["order"] == shown.get("order"),
    )


def _period(coverage: Json) -> tuple[str, str]:
    """Return start and end; ISO days sort in order of time."""
    period = coverage.get("period", {})
    return str(period.get("start", _OPEN[0])), str(period.get("end", _OPEN[1]))


def _overlap(one: tuple[str, str], other: tuple[str, str]) -> bool:
    return one[0] <= other[1] and other[0] <= one[1]


def _is_of(coverage: Json, lane: str) -> bool:
    beneficiary = coverage.get("beneficiary")
    return isinstance(beneficiary, dict) and beneficiary.get("reference") == f"Patient/{lane}"


def _orders(coverages: Iterable[Json]) -> dict[str, int]:
    return {
        each["id"]: each["order"]
        for each in coverages
        if each.get("status") == "active" and isinstance(each.get("order"), int)
    }
