"""Coverage, as Canvas takes it on create and update.

Source: canvas-api.md, "Coverage"; the seed page "Coverage create". Elements without a value are
left out: nulls are invalid FHIR.
"""

from collections.abc import Mapping
from datetime import date
from typing import Any

import orjson

from pipeline.fhir.codes import (
    MEMBER_ID_CODE,
    MEMBER_ID_SYSTEM,
    PAYER_ID_SYSTEM,
    SELF_PAY,
    SHAPES,
    Contract,
)
from pipeline.fhir.datatypes import Json, concept, fingerprint, period, reference


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
    """The whole resource. `beneficiary` and `subscriber` are Patient keys, `order` is 1 to 5.

    `payor` comes from `payor_of`; `classes` maps plan, subplan, group, subgroup to their values.
    In the contract of 2025-10 the member id is an identifier of type MB, and `subscriberId`
    defaults to it when the patient is the subscriber; in that of 2023 it is `subscriberId`.
    """
    shape = SHAPES[contract]
    resource: Json = {"resourceType": "Coverage", "status": status, "order": order}
    if shape.member_id_as_identifier:
        member_type = concept(MEMBER_ID_SYSTEM, MEMBER_ID_CODE)
        resource["identifier"] = [{"type": member_type, "value": member_id}]
        if subscriber_id is None and subscriber == beneficiary:
            subscriber_id = member_id
        if subscriber_id is not None:
            resource["subscriberId"] = subscriber_id
    else:
        resource["subscriberId"] = member_id
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


def cancelled(resource: Json) -> Json:
    """The same coverage, taken back: there is no delete (canvas-api.md, "Coverage")."""
    return {**resource, "status": "cancelled"}


def payor_of(*, by_payer_id: bool, value: str, display: str | None) -> Json:
    """The first entry of `payor`: a payer id as identifier, or an Organization reference."""
    payor: Json = (
        {"identifier": {"system": PAYER_ID_SYSTEM, "value": value}}
        if by_payer_id
        else {**reference("Organization", value), "type": "Organization"}
    )
    if display is not None:
        payor["display"] = display
    return payor


def likeness(resource: Json) -> str:
    """What tells a Coverage that is to be sent from another one of the same patient, as text.

    It is `<counted>:<32 hex digits>` over beneficiary, member id, status, classes, and what
    `counted` names: `p` the payor's Organization, `s` the start, each only where it is sent, for
    Canvas fills them in. Neither `order`, which Canvas changes, nor any display (reliability.md,
    "Settling doubt").
    """
    return likeness_of(*told_apart(resource))


def told_apart(resource: Json) -> tuple[bytes, bytes]:
    """What `likeness` is taken of: `counted`, and the rest as JSON."""
    payor, start = resource["payor"][0].get("reference"), resource.get("period", {}).get("start")
    counted = ("p" if payor else "") + ("s" if start else "")
    return counted.encode(), _told_apart(resource, member_ids(resource)[0], counted)


def likeness_of(counted: bytes, told: bytes) -> str:
    """`likeness` of what `told_apart` yields."""
    return f"{counted.decode()}:{fingerprint(told)}"


def is_like(resource: Any, likeness: str) -> bool:
    """Whether a Coverage that was found is like the one that was sent.

    Any of its identifiers, or its `subscriberId`, may be the member id: where Canvas puts it on a
    read differs between the contracts. What is no Coverage as Canvas writes them is not like it.
    """
    counted, _, digits = likeness.partition(":")
    try:
        return any(
            fingerprint(_told_apart(resource, member_id, counted)) == digits
            for member_id in member_ids(resource)
        )
    except (AttributeError, IndexError, KeyError, TypeError, orjson.JSONEncodeError):
        return False


def _told_apart(resource: Json, member_id: str, counted: str) -> bytes:
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
    """What may be the member id: the identifiers (2025-10), then `subscriberId` (2023)."""
    values = [identifier["value"] for identifier in resource.get("identifier", [])]
    return [*values, *([resource["subscriberId"]] if "subscriberId" in resource else [])]


def coverage_differences(sent: Json, shown: Any) -> tuple[str, ...]:
    """The elements in which what Canvas shows is not what was sent; sorted, never their values.

    What Canvas fills in, or shows otherwise than it was sent, does not count: a payer id becomes an
    Organization, a missing start the day of ingestion.
    """
    try:
        ours, theirs = _elements(sent), _elements(shown)
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


def coverage_changes(before: Json, after: Json) -> dict[str, tuple[Any, Any]]:
    """By element, what an update changes: its value before, and after it; None where there is none.

    `before` is what was sent last, or what Canvas showed. The payer's id is compared where both have
    it; an Organization that Canvas shows for it says nothing.
    """
    try:
        held, meant = _elements(before), _elements(after)
        named = coverage_differences(after, before)
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


def _elements(resource: Json) -> dict[str, Any]:
    """What can be compared of a Coverage, by element; what is absent is left out."""
    days, payor = resource.get("period", {}), resource["payor"][0]
    told = {
        "status": resource["status"],
        "order": resource["order"],
        "beneficiary": resource["beneficiary"]["reference"],
        "subscriber": resource["subscriber"]["reference"],
        "subscriberId": resource.get("subscriberId"),
        "relationship": _code(resource["relationship"]),
        "type": _code(resource["type"]) if "type" in resource else None,
        "payor": payor.get("reference"),
        "period.start": days.get("start"),
        "period.end": days.get("end"),
    }
    for each in resource.get("class", []):
        told[f"class.{_code(each['type'])}"] = each["value"]
    return {name: value for name, value in told.items() if value is not None}


def _code(element: Json) -> str:
    return str(element["coding"][0]["code"])
