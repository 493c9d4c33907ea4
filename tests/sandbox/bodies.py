"""Bodies and a seed for the sandbox's tests, written from the seed pages by hand."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

ADA = "a39cafb9d1b445be95a2e2548e12a787"
BEN = "b3084f7e884e4af2b7e23b1dca494abd"
PAYER = "6741b035-2846-45b3-b7a3-251f7b7fc728"
OTHER_PAYER = "c152eeb7-f204-4e28-acb5-c7e85390b17e"
CLAIM = "f0dfefbe-3fe0-4ee7-bd44-636f7be073e9"
BENS_CLAIM = "0b1dfefb-3fe0-4ee7-bd44-636f7be073e9"
MRN = "http://canvasmedical.com"
TOKEN = "made-up-token"
AUTH = {"Authorization": f"Bearer {TOKEN}"}

SEED: Json = {
    "note": "made up",
    "patients": [
        {
            "id": ADA,
            "identifiers": [
                {"system": MRN, "value": "1001"},
                {"system": "urn:old", "value": "A-1"},
            ],
            "name": "Ada",
            "balance": "100.00",
        },
        {"id": BEN, "identifiers": [{"system": MRN, "value": "1002"}], "balance": "5.00"},
    ],
    "organizations": [
        {"id": PAYER, "name": "Medicare Advantage", "payer_id": "13162"},
        {"id": OTHER_PAYER, "name": "Custody Medical", "payer_id": "99999"},
    ],
    "claims": [{"id": CLAIM, "patient": ADA}, {"id": BENS_CLAIM, "patient": BEN}],
    "token": TOKEN,
}

MB = {
    "coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "MB"}],
}
V2025 = "http://terminology.hl7.org/CodeSystem"
V2023 = "http://hl7.org/fhir/ValueSet"


def concept(system: str, code: str) -> Json:
    return {"coding": [{"system": system, "code": code}]}


def coverage(**changes: Any) -> Json:
    """Build a Coverage of the contract of 2025-10; a change to None leaves the element out."""
    body: Json = {
        "resourceType": "Coverage",
        "status": "active",
        "identifier": [{"type": MB, "value": "M-1"}],
        "type": concept(f"{V2025}/v3-ActCode", "MILITARY"),
        "subscriber": {"reference": f"Patient/{ADA}"},
        "beneficiary": {"reference": f"Patient/{ADA}"},
        "relationship": concept(f"{V2025}/subscriber-relationship", "self"),
        "period": {"start": "2021-06-27", "end": "2023-06-27"},
        "payor": [{"reference": f"Organization/{PAYER}", "type": "Organization"}],
        "class": [
            {"type": concept(f"{V2025}/coverage-class", "plan"), "value": "Starfleet HMO"},
            {"type": concept(f"{V2025}/coverage-class", "group"), "value": "Captains Only"},
        ],
        "order": 1,
    }
    return changed(body, changes)


def coverage_2023(**changes: Any) -> Json:
    """Build the Coverage of the seed page."""
    body = coverage(
        identifier=None,
        subscriberId="M-1",
        type=concept(f"{V2023}/coverage-type", "MILITARY"),
        relationship=concept(f"{V2023}/subscriber-relationship", "self"),
    )
    body["class"] = [{"type": concept(f"{V2023}/coverage-class", "plan"), "value": "HMO"}]
    return changed(body, changes)


def payment(value: Any = 10.00, claim: str | None = None, **changes: Any) -> Json:
    body: Json = {
        "resourceType": "PaymentNotice",
        "status": "active",
        "request": {"reference": f"Patient/{ADA}"},
        "created": "2023-09-12",
        "payment": {},
        "recipient": {},
        "amount": {"value": value, "currency": "USD"},
    }
    if claim is not None:
        body["extension"] = copay(claim)
    return changed(body, changes)


def copay(*claims: str) -> list[Json]:
    return [
        {
            "extension": [
                {"url": "claim", "valueReference": {"reference": f"Claim/{claim}"}}
                for claim in claims
            ],
            "url": "http://schemas.canvasmedical.com/fhir/copayment-claims",
        }
    ]


def payer_id(value: str, system: str = "https://www.claim.md/services/era/") -> list[Json]:
    return [{"identifier": {"system": system, "value": value}}]


def changed(body: Json, changes: Json) -> Json:
    return {name: value for name, value in {**body, **changes}.items() if value is not None}
