"""Coverage, as Canvas takes it on create and update.

Source: canvas-api.md, "Coverage"; the seed page "Coverage create". Elements without a value are
left out: nulls are invalid FHIR.
"""

import hashlib
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
from pipeline.fhir.datatypes import Json, concept, period, reference


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


def likeness(resource: Any, counted: str | None = None) -> str | None:
    """What tells a Coverage from another one of the same patient, as text; None if it is none.

    It is `<counted>:<32 hex digits>` over beneficiary, member id, status, classes, and what
    `counted` names: `p` the payor's Organization, `s` the start. Canvas fills both in where they
    were not sent, so of a resource that is to be sent (`counted` None) they count where they stand;
    of one that was found they count as they did in the other. Neither `order`, which Canvas
    changes, nor any display (reliability.md, "Settling doubt").
    """
    try:
        payor = resource["payor"][0].get("reference")
        start = resource.get("period", {}).get("start")
        if counted is None:
            counted = ("p" if payor else "") + ("s" if start else "")
        parts = [
            resource["beneficiary"]["reference"],
            _member_id(resource),
            resource["status"],
            sorted(
                [each["type"]["coding"][0]["code"], each["value"]]
                for each in resource.get("class", [])
            ),
            payor if "p" in counted else None,
            start if "s" in counted else None,
        ]
        return f"{counted}:{hashlib.sha256(orjson.dumps(parts)).hexdigest()[:32]}"
    except (AttributeError, IndexError, KeyError, TypeError, orjson.JSONEncodeError):
        return None  # not a Coverage as Canvas writes them


def _member_id(resource: Json) -> str:
    """The identifier of type MB (2025-10), else `subscriberId` (2023)."""
    for identifier in resource.get("identifier", []):
        if any(
            coding.get("code") == MEMBER_ID_CODE
            for coding in identifier.get("type", {}).get("coding", [])
        ):
            return str(identifier["value"])
    return str(resource["subscriberId"])
