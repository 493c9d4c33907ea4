"""PaymentNotice, as Canvas takes it on create. There is no update and no delete.

Source: docs/canvas.md, "PaymentNotice"; the seed page "PaymentNotice create".
"""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Final

from pipeline.fhir.codes import COPAY_CLAIMS_URL
from pipeline.fhir.datatypes import Json, reference, usd_amount

_AMOUNT: Final = re.compile(r"(\d{1,12})(?:\.(\d{1,2})0*)?", re.ASCII)


def payment_notice(*, patient: str, amount: Decimal, created_on: date, claim: str | None) -> Json:
    """Return the resource.

    Args:
        patient: A Patient key.
        amount: 0.01 to 999,999.99 USD with at most two decimals.
        created_on: Required by FHIR and ignored by Canvas.
        claim: A Claim id, which makes it a copay; exactly one is taken.
    """
    resource: Json = {"resourceType": "PaymentNotice"}
    if claim is not None:
        targeted = {"url": "claim", "valueReference": reference("Claim", claim)}
        resource["extension"] = [{"url": COPAY_CLAIMS_URL, "extension": [targeted]}]
    resource["status"] = "active"
    resource["request"] = reference("Patient", patient)
    resource["created"] = created_on.isoformat()
    resource["payment"] = {}
    resource["recipient"] = {}
    resource["amount"] = usd_amount(amount)
    return resource


@dataclass(frozen=True, slots=True)
class Paid:
    """A PaymentNotice that was read. `created_at` None: missing, or not readable."""

    patient: str  # reference, `Patient/<key>`
    cents: int
    claim: str  # "" if it is no copay
    created_at: datetime | None  # the time of the row, by the server's clock


def paid(resource: Any) -> Paid | None:
    """Read a PaymentNotice; None if it is not as Canvas writes them."""
    try:
        amount = _AMOUNT.fullmatch(str(resource["amount"]["value"]))
        patient = resource["request"]["reference"]
        if amount is None or not isinstance(patient, str):
            return None
        cents = int(amount[1]) * 100 + int((amount[2] or "0").ljust(2, "0"))
        return Paid(patient, cents, _claim(resource), _instant(resource.get("created")))
    except (AttributeError, KeyError, TypeError):
        return None


def _claim(resource: Json) -> str:
    for outer in resource.get("extension", []):
        if outer.get("url") == COPAY_CLAIMS_URL:
            for inner in outer.get("extension", []):
                return str(inner["valueReference"]["reference"]).removeprefix("Claim/")
    return ""


def _instant(text: Any) -> datetime | None:
    """Return an instant with its zone; None for a bare day."""
    try:
        at = datetime.fromisoformat(text)
        return None if at.tzinfo is None else at.astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        return None
