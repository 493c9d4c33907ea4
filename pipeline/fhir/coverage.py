"""Coverage, as Canvas takes it on create and update.

Source: docs/canvas.md, "Coverage"; the seed page "Coverage create". Elements without a value are
left out: nulls are invalid FHIR.
"""

from collections.abc import Collection, Mapping
from datetime import date
from enum import Enum
from typing import Any

import orjson

from pipeline.fhir.codes import (
    MEMBER_ID_CODE,
    MEMBER_ID_SYSTEM,
    PAYER_ID_SYSTEM,
    SELF_PAY,
    SHAPES,
    Contract,
    CoverageShape,
)
from pipeline.fhir.datatypes import Json, concept, fingerprint, period, reference

# Payer id -> the reference of its Organization, `Organization/<id>`, for the payer ids whose Organization is known.
Organizations = Mapping[str, str]


def coverage(
    contract: Contract,
    *,
    status: str,
    beneficiary: str,
    subscriber: str,
    member_id: str,
    subscriber_id: str | None,
    relationship: str,
    payor: Json,
    order: int,
    type_code: str | None,
    start_on: date | None,
    end_on: date | None,
    classes: Mapping[str, str],
) -> Json:
    """Return the resource.

    In the contract of 2025-10 the member id is an identifier of type MB, and `subscriberId` defaults to it
    if the patient is the subscriber; in that of 2023 it is `subscriberId`.

    Args:
        contract: The shape of the resource.
        status: "active" or "cancelled".
        beneficiary: A Patient key.
        subscriber: A Patient key.
        member_id: The member id.
        subscriber_id: The subscriber's id; None for the default of the contract.
        relationship: One of RELATIONSHIPS.
        payor: From `payor_of`.
        order: 1 to 5.
        type_code: One of TYPES; None for none.
        start_on: The first day; None for none.
        end_on: The last day; None for an open end.
        classes: Values by plan, subplan, group, subgroup.
    """
    shape = SHAPES[contract]
    resource: Json = {"resourceType": "Coverage", "status": status, "order": order}
    is_self = subscriber == beneficiary
    resource |= _member_ids(shape, member_id, subscriber_id, is_self=is_self)
    if type_code is not None:
        system = shape.self_pay_system if type_code == SELF_PAY else shape.type_system
        resource["type"] = concept(system, type_code)
    resource["subscriber"] = reference("Patient", subscriber)
    resource["beneficiary"] = reference("Patient", beneficiary)
    resource["relationship"] = concept(shape.relationship_system, relationship)
    if start_on is not None or end_on is not None:
        resource["period"] = period(start_on, end_on)
    resource["payor"] = [payor]
    if classes:
        resource["class"] = [
            {"type": concept(shape.class_system, code), "value": value}
            for code, value in classes.items()
        ]
    return resource


def _member_ids(
    shape: CoverageShape, member_id: str, subscriber_id: str | None, *, is_self: bool
) -> Json:
    if not shape.member_id_as_identifier:
        return {"subscriberId": member_id}
    member_type = concept(MEMBER_ID_SYSTEM, MEMBER_ID_CODE)
    ids: Json = {"identifier": [{"type": member_type, "value": member_id}]}
    if subscriber_id is None and is_self:
        subscriber_id = member_id
    if subscriber_id is not None:
        ids["subscriberId"] = subscriber_id
    return ids


def cancelled(resource: Json) -> Json:
    """Return the coverage with status cancelled: there is no delete (docs/canvas.md, "Coverage")."""
    return {**resource, "status": "cancelled"}


def ended(resource: Json, day: date, order: int) -> Json:
    """Return the coverage with its last day; it stays active (docs/canvas.md, "Coverage": ending is not removing)."""
    return {**resource, "order": order, "period": {**resource["period"], "end": day.isoformat()}}


def days_of(resource: Json) -> tuple[str, str]:
    """Return the first and the last day as ISO texts; "" if there is none."""
    period = resource.get("period", {})
    return str(period.get("start", "")), str(period.get("end", ""))


def payor_of(*, by_payer_id: bool, value: str, display: str | None) -> Json:
    """Return the first entry of `payor`: a payer id as identifier, or an Organization reference."""
    payor: Json = (
        {"identifier": {"system": PAYER_ID_SYSTEM, "value": value}}
        if by_payer_id
        else {**reference("Organization", value), "type": "Organization"}
    )
    if display is not None:
        payor["display"] = display
    return payor


def match_key(resource: Json) -> str:
    """Return a text that identifies a Coverage among those of the same patient.

    It is `<counted>:<32 hex digits>` over beneficiary, member id, status, classes, and what `counted` names:
    `p` the payor's Organization, `s` the start, each only if it is sent, because Canvas fills them in.
    `order`, which Canvas changes, and displays are no part of it (docs/guarantees.md, "Settling doubt").
    """
    return match_key_of(*match_parts(resource))


def match_parts(resource: Json) -> tuple[bytes, bytes]:
    """Return what `match_key` is computed from: `counted`, and the rest as JSON."""
    payor, start = resource["payor"][0].get("reference"), resource.get("period", {}).get("start")
    counted = ("p" if payor else "") + ("s" if start else "")
    return counted.encode(), _match_content(resource, member_ids(resource)[0], counted)


def match_key_of(counted: bytes, content: bytes) -> str:
    """Return the match key of what `match_parts` returns."""
    return f"{counted.decode()}:{fingerprint(content)}"


def is_like(resource: Any, match_key: str) -> bool:
    """Return whether a Coverage that was found has the match key of the one that was sent.

    Any of its identifiers, or its `subscriberId`, may be the member id: Canvas puts it in another place on a
    read in each contract. A resource that is not as Canvas writes Coverages does not match.
    """
    counted, _, digits = match_key.partition(":")
    try:
        return any(
            fingerprint(_match_content(resource, member_id, counted)) == digits
            for member_id in member_ids(resource)
        )
    except (AttributeError, IndexError, KeyError, TypeError, orjson.JSONEncodeError):
        return False


def names_organization(match_key: str) -> bool:
    """Return whether the payer's Organization is part of a match key."""
    return "p" in match_key.partition(":")[0]


def _match_content(resource: Json, member_id: str, counted: str) -> bytes:
    classes = [[_code(each["type"]), each["value"]] for each in resource.get("class", [])]
    parts = [
        resource["beneficiary"]["reference"],
        member_id,
        resource["status"],
        sorted(classes),
        resource["payor"][0]["reference"] if "p" in counted else None,
        resource["period"]["start"] if "s" in counted else None,
    ]
    return orjson.dumps(parts)


def member_ids(resource: Json) -> list[str]:
    """Return what may be the member id: the identifiers (2025-10), then `subscriberId` (2023)."""
    values = [identifier["value"] for identifier in resource.get("identifier", [])]
    return [*values, *([resource["subscriberId"]] if "subscriberId" in resource else [])]


class Payers(Enum):
    """The result of comparing the payers of two coverages."""

    SAME = "same"
    OTHER = "other"
    UNKNOWN = "unknown"  # one is a payer id, of which the Organization is not known


def payer_id_of(resource: Json) -> str | None:
    """Return the payer id of a coverage that is sent with one; None if it names an Organization."""
    value = resource["payor"][0].get("identifier", {}).get("value")
    return None if value is None else str(value)


def organization_of(resource: Json, organizations: Organizations) -> str | None:
    """Return the reference of a coverage's Organization; None if only its payer id is known.

    Canvas shows every payer as an Organization and never returns a payer id.
    """
    named = resource["payor"][0].get("reference")
    return organizations.get(payer_id_of(resource) or "") if named is None else str(named)


def organizations_of(seen: Collection[tuple[str, str]]) -> Organizations:
    """Return the Organization of each payer id of which only one was shown."""
    found = dict(seen)
    several = {payer_id for payer_id, organization in seen if found[payer_id] != organization}
    return {each: found[each] for each in found if each not in several}


def compare_payers(sent: Json, shown: Json, organizations: Organizations) -> Payers:
    """Compare the payer that is sent with the one that Canvas shows.

    If the Organization of a payer id is not known, only an equal name counts as the same payer: two
    insurers may use the same member id.
    """
    ours, theirs = (organization_of(each, organizations) for each in (sent, shown))
    if ours is not None and theirs is not None:
        return Payers.SAME if ours == theirs else Payers.OTHER
    names = [_folded(each["payor"][0].get("display")) for each in (sent, shown)]
    return Payers.SAME if names[0] and names[0] == names[1] else Payers.UNKNOWN


def _folded(name: str | None) -> str:
    return " ".join((name or "").casefold().split())


def coverage_differences(sent: Json, shown: Any, organizations: Organizations) -> tuple[str, ...]:
    """Return the elements that differ between what was sent and what Canvas shows; sorted, never their values.

    Elements that Canvas fills in do not count: a missing start becomes the day of ingestion. A payer
    id counts only if its Organization is known.
    """
    try:
        ours, theirs = _elements(sent, organizations), _elements(shown, organizations)
        filled_in = {"payor", "period.start", "subscriberId"} - ours.keys()
        different = {
            name
            for name in (ours.keys() | theirs.keys()) - filled_in
            if ours.get(name) != theirs.get(name)
        }
        if member_ids(sent)[0] not in member_ids(shown):
            different.add("identifier")
    except (AttributeError, IndexError, KeyError, TypeError):
        return ("resource",)  # not as Canvas writes them
    return tuple(sorted(different))


def coverage_changes(
    before: Json, after: Json, organizations: Organizations
) -> dict[str, tuple[Any, Any]]:
    """Return what an update changes: by element, its value before and after; None if there is none.

    `before` is what was sent last, or what Canvas showed. Payer ids are compared if both have one;
    an Organization and a payer id only if the Organization of that id is known.
    """
    try:
        held, meant = _elements(before, organizations), _elements(after, organizations)
        named = coverage_differences(after, before, organizations)
        payors = before["payor"][0], after["payor"][0]
        changes = {
            name: (held.get(name), meant.get(name)) for name in named if name != "identifier"
        }
        if "identifier" in named:
            changes["identifier"] = (next(iter(member_ids(before)), None), member_ids(after)[0])
    except (AttributeError, IndexError, KeyError, TypeError):
        return {"resource": (None, None)}
    ids = [each.get("identifier", {}).get("value") for each in payors]
    if all(ids) and ids[0] != ids[1]:
        changes["payor"] = (ids[0], ids[1])
    names = [each.get("display") for each in payors]
    if all(ids) and names[0] != names[1]:
        changes["payor.display"] = (names[0], names[1])
    return dict(sorted(changes.items()))


def _elements(resource: Json, organizations: Organizations) -> dict[str, Any]:
    """Return what can be compared of a coverage, by element, without what is absent."""
    days = resource.get("period", {})
    found = {
        "status": resource["status"],
        "order": resource["order"],
        "beneficiary": resource["beneficiary"]["reference"],
        "subscriber": resource["subscriber"]["reference"],
        "subscriberId": resource.get("subscriberId"),
        "relationship": _code(resource["relationship"]),
        "type": _code(resource["type"]) if "type" in resource else None,
        "payor": organization_of(resource, organizations),
        "period.start": days.get("start"),
        "period.end": days.get("end"),
    }
    for each in resource.get("class", []):
        found[f"class.{_code(each['type'])}"] = each["value"]
    return {name: value for name, value in found.items() if value is not None}


def _code(element: Json) -> str:
    return str(element["coding"][0]["code"])
