"""The two contracts of Coverage: the shape of a write, and the result of a read. Pure.

Source: seed page Coverage (the contract of 2023) and the table "Two contracts for Coverage" of
docs/canvas.md (2025-10). Each contract is data; the checks are the same for both.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from typing import Final

from pipeline.sandbox.rules import (
    RESOURCE_ELEMENTS,
    SELF_OF_ANOTHER,
    SUBSCRIBER_IS_PATIENT,
    Findings,
    Json,
    Refusal,
    check_code,
    check_elements,
    check_reference,
    check_reference_text,
    get_list,
    get_object,
    get_text,
)

MEMBER_SYSTEM: Final = "http://terminology.hl7.org/CodeSystem/v2-0203"
MEMBER_CODE: Final = "MB"
PAYOR_SYSTEM: Final = "https://www.claim.md/services/era/"
STATUSES: Final = ("active", "cancelled")
CLASSES: Final = ("plan", "subplan", "group", "subgroup")
ORDER_MAX: Final = 5
ID_LENGTH_MAX: Final = 100
"""docs/canvas.md, storage limits: ids 100 characters, classes 255."""
CLASS_LENGTH_MAX: Final = 255
DAY: Final = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)

RELATIONSHIPS: Final = {
    "self": ("Self", "18"),
    "spouse": ("Spouse", "01"),
    "child": ("Child", "19"),
    "other": ("Other", "G8"),
    "injured": ("Injured Party", "41"),
}
"""Code: (display, the two characters of CMS that a read gives as `text`)."""

TYPES: Final = (
    "ANNU",
    "AUTOPOL",
    "CHAR",
    "COL",
    "CRIME",
    "DENTAL",
    "DENTPRG",
    "DIS",
    "DISEASE",
    "DRUGPOL",
    "EAP",
    "EWB",
    "ENDRENAL",
    "EHCPOL",
    "FLEXP",
    "GOVEMP",
    "HIP",
    "HMO",
    "HSAPOL",
    "HIRISK",
    "HIVAIDS",
    "IND",
    "LIFE",
    "LTC",
    "MCPOL",
    "MANDPOL",
    "MENTPOL",
    "MENTPRG",
    "MILITARY",
    "pay",
    "POS",
    "PPO",
    "PNC",
    "DISEASEPRG",
    "PUBLICPOL",
    "REI",
    "RETIRE",
    "SAFNET",
    "SOCIAL",
    "SUBSIDIZ",
    "SUBSIDMC",
    "SUBSUPP",
    "SUBPOL",
    "SUBPRG",
    "SURPL",
    "TLIFE",
    "UMBRL",
    "UNINSMOT",
    "ULIFE",
    "VET",
    "VISPOL",
    "CANPRG",
    "WCBPOL",
)
"""The type codes of docs/canvas.md, Coverage."""

COVERAGE_ELEMENTS: Final = RESOURCE_ELEMENTS | frozenset(
    [
        "identifier",
        "status",
        "type",
        "policyHolder",
        "subscriber",
        "subscriberId",
        "beneficiary",
        "dependent",
        "relationship",
        "period",
        "payor",
        "class",
        "order",
        "network",
        "costToBeneficiary",
        "subrogation",
        "contract",
    ]
)


@dataclass(frozen=True, slots=True)
class Contract:
    """The differences since 2025-10-21: the place of the member id, and the systems of the codings."""

    name: str
    member_in_identifier: bool
    type_system: str
    self_pay_system: str
    relationship_system: str
    class_system: str


CONTRACTS: Final = {
    "2023": Contract(
        "2023",
        member_in_identifier=False,
        type_system="http://hl7.org/fhir/ValueSet/coverage-type",
        self_pay_system="http://hl7.org/fhir/ValueSet/coverage-type",
        relationship_system="http://hl7.org/fhir/ValueSet/subscriber-relationship",
        class_system="http://hl7.org/fhir/ValueSet/coverage-class",
    ),
    "2025-10": Contract(
        "2025-10",
        member_in_identifier=True,
        type_system="http://terminology.hl7.org/CodeSystem/v3-ActCode",
        self_pay_system="http://terminology.hl7.org/CodeSystem/coverage-selfpay",
        relationship_system="http://terminology.hl7.org/CodeSystem/subscriber-relationship",
        class_system="http://terminology.hl7.org/CodeSystem/coverage-class",
    ),
}


@dataclass(frozen=True, slots=True)
class CoverageDraft:
    """A Coverage that passed the checks of its shape. Exactly one of the payor fields is used."""

    status: str
    patient: str
    subscriber: str
    member_id: str
    subscriber_id: str | None
    relationship: str
    type_coding: Json | None
    start_on: str | None
    end_on: str | None
    organization: str | None
    payer_id: str | None
    classes: tuple[tuple[str, str, str | None], ...]
    order: int


def check_coverage(body: Json, contract: Contract) -> CoverageDraft | Refusal:
    """Read a Coverage create or update, or return all errors of its shape (400)."""
    found = Findings()
    check_elements(found, body, "Coverage", COVERAGE_ELEMENTS)
    status = check_code(found, body, "status", "body", STATUSES)
    subscriber = check_reference(found, body, "subscriber", "body", "Patient")
    patient = check_reference(found, body, "beneficiary", "body", "Patient")
    subscriber_id = _check_subscriber_id(found, body, contract)
    member_id = _check_member(found, body) if contract.member_in_identifier else subscriber_id
    relationship = _check_relationship(found, body, contract)
    type_coding = _check_type(found, body, contract)
    start_on, end_on = _check_period(found, body)
    organization, payer_id = _check_payor(found, body)
    classes = _check_classes(found, body, contract)
    order = _check_order(found, body)
    if found.issues:
        return found.refusal()
    return CoverageDraft(
        status=status or "",
        patient=patient or "",
        subscriber=subscriber or "",
        member_id=member_id or "",
        subscriber_id=subscriber_id,
        relationship=relationship or "",
        type_coding=type_coding,
        start_on=start_on,
        end_on=end_on,
        organization=organization,
        payer_id=payer_id,
        classes=classes,
        order=order,
    )


def check_subscriber(draft: CoverageDraft) -> Refusal | None:
    """Return the 422 for a subscriber that contradicts the relationship (docs/canvas.md, Coverage, `subscriber`)."""
    is_own = draft.subscriber == draft.patient
    if draft.relationship == "self":
        return None if is_own else SELF_OF_ANOTHER
    return SUBSCRIBER_IS_PATIENT if is_own else None


def frees_order(coverage: Json, today: str) -> bool:
    """Return whether a coverage that ends today or earlier frees its order; `today` is the practice's (ISO)."""
    end: str = coverage.get("period", {}).get("end", "")
    return end != "" and end <= today


def coverage_as_read(
    draft: CoverageDraft, coverage_id: str, organization: Json, today: str, contract: Contract
) -> Json:
    """Build the Coverage that a read returns (seed page Coverage read).

    `organization` is the payor's stored Organization: a payer id that was sent is never returned.
    `today` (the practice's day of the write, ISO) becomes a missing period.start.
    """
    resource: Json = {"resourceType": "Coverage", "id": coverage_id}
    if contract.member_in_identifier:
        resource["identifier"] = [_member_identifier(draft.member_id)]
    resource["status"] = draft.status
    if draft.type_coding is not None:
        resource["type"] = {"coding": [draft.type_coding]}
    resource["subscriber"] = {"reference": f"Patient/{draft.subscriber}", "type": "Patient"}
    subscriber_id = _subscriber_id_as_read(draft)
    if subscriber_id is not None:
        resource["subscriberId"] = subscriber_id
    resource["beneficiary"] = {"reference": f"Patient/{draft.patient}", "type": "Patient"}
    resource["relationship"] = _relationship_as_read(draft.relationship, contract)
    resource["period"] = {"start": draft.start_on or today}
    if draft.end_on is not None:
        resource["period"]["end"] = draft.end_on
    resource["payor"] = [_payor_as_read(organization)]
    if draft.classes:
        resource["class"] = [_class_as_read(item, contract) for item in draft.classes]
    resource["order"] = draft.order
    return resource


def member_of(coverage: Json) -> str | None:
    """Return the member id of a stored Coverage of either contract, or None."""
    for identifier in coverage.get("identifier", ()):
        value: str | None = identifier.get("value")
        return value
    subscriber_id: str | None = coverage.get("subscriberId")
    return subscriber_id


def _check_subscriber_id(found: Findings, body: Json, contract: Contract) -> str | None:
    """Return the member id of 2023 (required), or since 2025-10 the subscriber's own id (optional)."""
    needed = not contract.member_in_identifier
    return get_text(found, body, "subscriberId", "body", required=needed, length_max=ID_LENGTH_MAX)


def _check_member(found: Findings, body: Json) -> str | None:
    """Return for 2025-10 the value of the identifier of type MB of v2-0203 (required)."""
    for at, identifier in enumerate(get_list(found, body, "identifier", "body", required=True)):
        if _is_member(identifier):
            path = f"body -> identifier -> {at}"
            return get_text(
                found, identifier, "value", path, required=True, length_max=ID_LENGTH_MAX
            )
    if isinstance(body.get("identifier"), list):
        found.add("required", "body -> identifier", f"an identifier of type {MEMBER_CODE} required")
    return None


def _is_member(identifier: Json) -> bool:
    kind = identifier.get("type")
    codings = kind.get("coding") if isinstance(kind, dict) else None
    return isinstance(codings, list) and any(
        isinstance(coding, dict)
        and coding.get("system") == MEMBER_SYSTEM
        and coding.get("code") == MEMBER_CODE
        for coding in codings
    )


def _check_relationship(found: Findings, body: Json, contract: Contract) -> str | None:
    """Return the code of the one coding; `parent` and `common` appear only on read (docs/canvas.md, Coverage)."""
    concept = get_object(found, body, "relationship", "body", required=True)
    if concept is None:
        return None
    coding = _single_coding(found, concept, "body -> relationship")
    if coding is None:
        return None
    path = "body -> relationship -> coding -> 0"
    check_code(found, coding, "system", path, (contract.relationship_system,))
    return check_code(found, coding, "code", path, tuple(RELATIONSHIPS))


def _check_type(found: Findings, body: Json, contract: Contract) -> Json | None:
    """Return the optional coding of the type; `pay` has a system of its own since 2025-10."""
    concept = get_object(found, body, "type", "body")
    if concept is None:
        return None
    coding = _single_coding(found, concept, "body -> type")
    if coding is None:
        return None
    path = "body -> type -> coding -> 0"
    code = check_code(found, coding, "code", path, TYPES)
    system = contract.self_pay_system if code == "pay" else contract.type_system
    check_code(found, coding, "system", path, (system,))
    display = get_text(found, coding, "display", path)
    kept = {"system": system, "code": code}
    return kept if display is None else {**kept, "display": display}


def _single_coding(found: Findings, concept: Json, path: str) -> Json | None:
    codings = get_list(found, concept, "coding", path, required=True)
    if len(codings) > 1:
        found.add("value", f"{path} -> coding", "ensure this value has at most 1 items")
    return codings[0] if codings else None


def _check_period(found: Findings, body: Json) -> tuple[str | None, str | None]:
    """Return start and end, both optional; ISO dates only (docs/canvas.md, Coverage)."""
    period = get_object(found, body, "period", "body")
    if period is None:
        return None, None
    start_on, end_on = (_check_day(found, period, name) for name in ("start", "end"))
    return start_on, end_on


def _check_day(found: Findings, period: Json, name: str) -> str | None:
    text = get_text(found, period, name, "body -> period")
    if text is None or _is_day(text):
        return text
    found.add("value", f"body -> period -> {name}", "invalid date format")
    return None


def _is_day(text: str) -> bool:
    try:
        return DAY.fullmatch(text) is not None and date.fromisoformat(text) is not None
    except ValueError:
        return False


def _check_payor(found: Findings, body: Json) -> tuple[str | None, str | None]:
    """Return (Organization id, None) or (None, payer id) of the first entry (seed page, payor)."""
    payors = get_list(found, body, "payor", "body", required=True)
    if not payors:
        return None, None
    path, payor = "body -> payor -> 0", payors[0]
    if payor.get("reference") is not None:
        return check_reference_text(found, payor, path, "Organization"), None
    identifier = get_object(found, payor, "identifier", path)
    if identifier is None:
        found.add("required", path, "reference or identifier required")
        return None, None
    path = f"{path} -> identifier"
    check_code(found, identifier, "system", path, (PAYOR_SYSTEM,))
    return None, get_text(found, identifier, "value", path, required=True)


def _check_classes(
    found: Findings, body: Json, contract: Contract
) -> tuple[tuple[str, str, str | None], ...]:
    """Return (code, value, name) of each class; `value` is required in each."""
    classes = []
    for at, item in enumerate(get_list(found, body, "class", "body")):
        path = f"body -> class -> {at}"
        code = _check_class_code(found, item, path, contract)
        value = get_text(found, item, "value", path, required=True, length_max=CLASS_LENGTH_MAX)
        name = get_text(found, item, "name", path, length_max=CLASS_LENGTH_MAX)
        classes.append((code or "", value or "", name))
    return tuple(classes)


def _check_class_code(found: Findings, item: Json, path: str, contract: Contract) -> str | None:
    concept = get_object(found, item, "type", path, required=True)
    if concept is None:
        return None
    coding = _single_coding(found, concept, f"{path} -> type")
    if coding is None:
        return None
    path = f"{path} -> type -> coding -> 0"
    check_code(found, coding, "system", path, (contract.class_system,))
    return check_code(found, coding, "code", path, CLASSES)


def _check_order(found: Findings, body: Json) -> int:
    """Require a JSON integer from 1 to 5; a blank one is the error that the notes quote."""
    order = body.get("order")
    if order is None:
        found.required("body -> order")
    elif isinstance(order, bool) or not isinstance(order, int):
        found.add("value", "body -> order", "value is not a valid integer")
    elif not 1 <= order <= ORDER_MAX:
        found.add("value", "body -> order", f"ensure this value is from 1 to {ORDER_MAX}")
    else:
        return order
    return 0


def _subscriber_id_as_read(draft: CoverageDraft) -> str | None:
    """Return the subscriber id; by default the member id if the patient is the subscriber (docs/canvas.md)."""
    if draft.subscriber_id is None and draft.subscriber == draft.patient:
        return draft.member_id
    return draft.subscriber_id


def _member_identifier(member_id: str) -> Json:
    coding = [{"system": MEMBER_SYSTEM, "code": MEMBER_CODE}]
    return {"type": {"coding": coding}, "value": member_id}


def _relationship_as_read(code: str, contract: Contract) -> Json:
    display, text = RELATIONSHIPS[code]
    coding = {"system": contract.relationship_system, "code": code, "display": display}
    return {"coding": [coding], "text": text}


def _payor_as_read(organization: Json) -> Json:
    reference = {"reference": f"Organization/{organization['id']}", "type": "Organization"}
    return {**reference, "display": organization["name"]} if "name" in organization else reference


def _class_as_read(item: tuple[str, str, str | None], contract: Contract) -> Json:
    code, value, name = item
    read: Json = {"type": {"coding": [{"system": contract.class_system, "code": code}]}}
    read["value"] = value
    return read if name is None else {**read, "name": name}
