"""FHIR's small shapes, as Canvas takes them."""

import hashlib
import re
from datetime import date
from decimal import Decimal
from typing import Any, Final

import orjson

Json = dict[str, Any]

# docs/guarantees.md, "Personal data and secrets": ids by full match, and not only dots, because
# `Patient/..` would become the base URL.
_ID = re.compile(r"(?=.*[^.])[A-Za-z0-9.-]{1,64}", re.ASCII)

FINGERPRINT_DIGITS: Final = 32
DOLLARS: Final = r"[0-9]{1,12}(?:\.[0-9]{1,2})?"  # in configurations, arguments and files
AMOUNT_MIN: Final = Decimal("0.01")
AMOUNT_MAX: Final = Decimal("999999.99")  # storage holds 8 digits with 2 decimals


def is_id(text: str) -> bool:
    """Return whether a text can be a resource's id."""
    return _ID.fullmatch(text) is not None


def reference(resource_type: str, resource_id: str) -> Json:
    """Return `{"reference": "Patient/a39c..."}`. Raises ValueError if the id does not satisfy `is_id`."""
    if not is_id(resource_id):
        raise ValueError(resource_type)  # never the value
    return {"reference": f"{resource_type}/{resource_id}"}


def concept(system: str, code: str) -> Json:
    """Return a CodeableConcept of one coding."""
    return {"coding": [{"system": system, "code": code}]}


def period(start_on: date | None, end_on: date | None) -> Json:
    """Return calendar days; an absent side is left out."""
    days = {"start": start_on, "end": end_on}
    return {side: day.isoformat() for side, day in days.items() if day is not None}


def usd_amount(amount: Decimal) -> Json:
    """Return money with exactly two decimals: a clean JSON number, never a float."""
    return {"value": orjson.Fragment(f"{amount:.2f}"), "currency": "USD"}


def fingerprint(content: bytes) -> str:
    """Return 32 hex digits over a resource's JSON that identify its content."""
    return hashlib.sha256(content).hexdigest()[:FINGERPRINT_DIGITS]
