"""The seed file: patients, organizations, claims and what is already in the chart.

Format: an object with `note`, `patients` (`id`, `identifiers` of `system` and `value`, `name`,
`balance`), `organizations` (`id`, `name`, `payer_id`, `plan_type`), `claims` (`id`, `patient`, and `member_id` of
the patient's coverages that are linked to it), `coverages` and
`payment_notices` (as read, with `id`), `client_id`, `client_secret`, `public_keys` (JWKs with `kid`,
for a client that signs in place of a secret), `token`, `scope`. All may be missing.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Final

import orjson

from pipeline.sandbox.rules import CENT, Json

if TYPE_CHECKING:
    from pathlib import Path

LISTS: Final = ("patients", "organizations", "claims", "coverages", "payment_notices")
KEYS: Final = "public_keys"
TEXTS: Final = ("note", "client_id", "client_secret", "token", "scope")
ORGANIZATION_TYPE: Final = {
    "coding": [
        {
            "system": "http://terminology.hl7.org/CodeSystem/organization-type",
            "code": "pay",
            "display": "Payer",
        }
    ]
}


def load_seed(path: Path) -> Json:
    """Read and check a seed file. Raises ValueError that says what is wrong with it."""
    try:
        seed = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise ValueError(f"{path}: no JSON: {error.msg} (line {error.lineno})") from None
    try:
        check_seed(seed)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return seed  # type: ignore[no-any-return]


def check_seed(seed: object) -> None:
    """Raise ValueError if this is no seed."""
    if not isinstance(seed, dict):
        raise ValueError("a seed is a JSON object")  # noqa: TRY004 - bad data, not a wrong call
    unknown = sorted(seed.keys() - {*LISTS, *TEXTS, KEYS})
    if unknown:
        raise ValueError(f"unknown keys {unknown}; known are {[*LISTS, *TEXTS, KEYS]}")
    keys = seed.get(KEYS, [])
    if not isinstance(keys, list) or not all(
        isinstance(key, dict) and "kid" in key for key in keys
    ):
        raise ValueError(f"{KEYS} must be a list of JWKs with a kid")
    for name in LISTS:
        items = seed.get(name, [])
        if not isinstance(items, list) or not all(_has_id(item) for item in items):
            raise ValueError(f"{name} must be a list of objects with an id")
    for name in TEXTS:
        if not isinstance(seed.get(name, ""), str):
            raise ValueError(f"{name} must be a text")  # noqa: TRY004
    for at, claim in enumerate(seed.get("claims", [])):
        if not isinstance(claim.get("patient"), str):
            raise ValueError(f"claims[{at}] has no patient")  # noqa: TRY004


def _has_id(item: object) -> bool:
    return isinstance(item, dict) and isinstance(item.get("id"), str) and item["id"] != ""


def patient_as_read(patient: Json) -> Json:
    """Build the Patient of a seed's entry."""
    resource: Json = {"resourceType": "Patient", "id": patient["id"]}
    identifiers = patient.get("identifiers", [])
    if identifiers:
        resource["identifier"] = [{"use": "usual", **identifier} for identifier in identifiers]
    resource["active"] = True
    if "name" in patient:
        resource["name"] = [{"use": "official", "text": patient["name"]}]
    return resource


def organization_as_read(organization: Json) -> Json:
    """Build the Organization of a seed's entry; its payer id is never readable."""
    resource: Json = {"resourceType": "Organization", "id": organization["id"], "active": True}
    resource["type"] = [ORGANIZATION_TYPE]
    if "name" in organization:
        resource["name"] = organization["name"]
    return resource


def claim_as_read(claim: Json) -> Json:
    """Build the Claim of a seed's entry."""
    patient = {"reference": f"Patient/{claim['patient']}", "type": "Patient"}
    resource = {
        "resourceType": "Claim",
        "id": claim["id"],
        "status": "active",
        "use": "claim",
        "patient": patient,
    }
    if "member_id" in claim:
        coverage = {"type": "Coverage", "identifier": {"value": claim["member_id"]}}
        resource["insurance"] = [{"sequence": 1, "focal": True, "coverage": coverage}]
    return resource


def linked_members(claim: Json) -> set[str]:
    """Return the member ids of the coverages that a claim, as it is read, is linked to."""
    return {each["coverage"]["identifier"]["value"] for each in claim.get("insurance", ())}


def balance_of(patient: Json) -> Decimal:
    """Return the balance of a seed's patient, 0.00 if none is given. Raises ValueError."""
    return as_usd(patient.get("balance", "0.00"))


def as_usd(text: object) -> Decimal:
    """Return an amount of USD with two decimals. Raises ValueError for anything else."""
    try:
        return Decimal(str(text)).quantize(CENT)
    except InvalidOperation:
        raise ValueError("a balance must be an amount such as '123.45'") from None
