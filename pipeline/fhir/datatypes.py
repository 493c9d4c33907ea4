"""FHIR's small shapes, as Canvas takes them."""

import hashlib
import re
from datetime import date
from decimal import Decimal
from typing import Any, Final

import orjson

Json = dict[str, Any]

# docs/guarantees.md, "Personal data and secrets": ids by full match, and not only dots, for
# `Patient/..` would become the base URL.
_ID = re.compile(r"(?=.*[^.])[A-Za-z0-9.-]{1,64}", re.ASCII)

FINGERPRINT_DIGITS: Final = 32
DOLLARS: Final = r"[0-9]{1,12}(?:\.[0-9]{1,2})?"  # in configurations, arguments and files
AMOUNT_MIN: Final = Decimal("0.01")
AMOUNT_MAX: Final = Decimal("999999.99")  # storage holds 8 digits with 2 decimals


def is_id(text: str) -> bool:
    """Whether a text can be a resource's id."""
    return _ID.fullmatch(text) is not None


def reference(resource_type: str, resource_id: str) -> Json:
    """`{"reference": "Patient/a39c..."}`. The id must satisfy `is_id`."""
    if not is_id(resource_id):
        raise ValueError(resource_type)  # never the value
    return {"reference": f"{resource_type}/{resource_id}"}


def concept(system: str, code: str) -> Json:
    """A CodeableConcept of one coding."""
    return {"coding": [{"system": system, "code": code}]}


def period(start_on: date | None, end_on: date | None) -> Json:
    """Calendar days; an absent side is left out."""
    days = {"start": start_on, "end": end_on}
    return {side: day.isoformat() for side, day in days.items() if day is not None}


def usd_amount(amount: Decimal) -> Json:
    """Money with exactly two decimals: a clean JSON number, never a float."""
    return {"value": orjson.Fragment(f"{amount:.2f}"), "currency": "USD"}


def fingerprint(content: bytes) -> str:
    """What tells one content of a resource from another: 32 hex digits over its JSON."""
    return hashlib.sha256(content).hexdigest()[:FINGERPRINT_DIGITS]
