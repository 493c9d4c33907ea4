"""The code that people write instead: csv.DictReader, a pydantic model or fhir.resources, json.dumps.

    python -m bench.reference WAY KIND FILE ROWS      WAY: pydantic, fhir.resources

An honest model of the same fields and rules, in pydantic's own terms, for the files that
`bench/validate.py` writes. It imports nothing of ours, so that it runs where only pydantic, or only
fhir.resources, is installed. No hashes, no keys, no second look at a row: only its resource.
"""

import csv
import json
import re
import sys
from collections import deque
from collections.abc import Callable, Iterator
from datetime import date
from decimal import Decimal
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, model_validator

from bench.rounds import compete

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
# fmt: off
_TYPES = (
    "ANNU", "AUTOPOL", "CHAR", "COL", "CRIME", "DENTAL", "DENTPRG", "DIS", "DISEASE", "DRUGPOL",
    "EAP", "EWB", "ENDRENAL", "EHCPOL", "FLEXP", "GOVEMP", "HIP", "HMO", "HSAPOL", "HIRISK",
    "HIVAIDS", "IND", "LIFE", "LTC", "MCPOL", "MANDPOL", "MENTPOL", "MENTPRG", "MILITARY", "pay",
    "POS", "PPO", "PNC", "DISEASEPRG", "PUBLICPOL", "REI", "RETIRE", "SAFNET", "SOCIAL",
    "SUBSIDIZ", "SUBSIDMC", "SUBSUPP", "SUBPOL", "SUBPRG", "SURPL", "TLIFE", "UMBRL", "UNINSMOT",
    "ULIFE", "VET", "VISPOL", "CANPRG", "WCBPOL",
)
# fmt: on


def _blank_is_none(value: str | None) -> str | None:
    return (value or "").strip() or None


def _printable(value: str) -> str:
    if _CONTROL.search(value):
        raise ValueError("must not hold control characters")
    return value


def _reference_id(value: str) -> str:
    if not value.strip("."):
        raise ValueError("must be an id")
    return value


Blank = BeforeValidator(_blank_is_none)
Id = Annotated[str, Blank, Field(pattern=r"^[A-Za-z0-9.-]{1,64}$"), AfterValidator(_reference_id)]
Text100 = Annotated[str, Field(max_length=100), AfterValidator(_printable)]
Text255 = Annotated[str, Field(max_length=255), AfterValidator(_printable)]
OptionalText = Annotated[Text255 | None, Blank]


class EligibilityRow(BaseModel):
    """A row of the eligibility file, by its column names."""

    patient: Id = Field(alias="MRN")
    relationship: Annotated[Literal["self", "spouse", "child", "other", "injured"], Blank] = Field(
        alias="Rel"
    )
    subscriber: Annotated[Id | None, Blank] = Field(alias="Subscriber")
    member_id: Annotated[Text100, Blank] = Field(alias="Member")
    subscriber_id: Annotated[Text100 | None, Blank] = Field(alias="Subscriber ID")
    payer: Annotated[Text100, Blank] = Field(alias="Payer")
    payer_name: OptionalText = Field(alias="Payer Name")
    type: Annotated[Literal[_TYPES] | None, Blank] = Field(alias="Type")  # type: ignore[valid-type]
    plan: OptionalText = Field(alias="Plan")
    subplan: OptionalText = Field(alias="Subplan")
    group: OptionalText = Field(alias="Group")
    subgroup: OptionalText = Field(alias="Subgroup")
    order: Annotated[int, Blank, Field(ge=1, le=5)] = Field(alias="Order")
    start_on: Annotated[date | None, Blank] = Field(alias="Start")
    end_on: Annotated[date | None, Blank] = Field(alias="End")
    status: Annotated[Literal["active", "cancelled"], Blank] = Field(alias="Status")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.start_on and self.end_on and self.end_on < self.start_on:
            raise ValueError("End is before Start")
        if self.relationship == "self":
            if self.subscriber not in {None, self.patient}:
                raise ValueError("relationship is self, so the subscriber must be the patient")
        elif self.subscriber is None:
            raise ValueError("a subscriber is needed unless relationship is self")
        return self


class LedgerRow(BaseModel):
    """A row of the ledger file, by its column names."""

    transaction_id: Annotated[Text255, Blank] = Field(alias="TXN")
    patient: Id = Field(alias="MRN")
    amount: Annotated[Decimal, Blank, Field(ge=Decimal("0.01"), le=10_000, decimal_places=2)] = (
        Field(alias="Amount")
    )
    posted_on: Annotated[date | None, Blank] = Field(alias="Posted")
    claim: Annotated[Id | None, Blank] = Field(alias="Claim")
    entry_type: OptionalText = Field(alias="Type")
    currency: Annotated[Literal["USD"] | None, Blank] = Field(alias="Currency")


def _coding(system: str, code: str) -> dict[str, Any]:
    return {"coding": [{"system": system, "code": code}]}


def coverage(row: EligibilityRow) -> dict[str, Any]:
    """Return the Coverage of a row, in the contract of 2025-10."""
    terminology = "http://terminology.hl7.org/CodeSystem"
    subscriber = row.subscriber or row.patient
    resource: dict[str, Any] = {
        "resourceType": "Coverage",
        "status": row.status,
        "order": row.order,
        "identifier": [{"type": _coding(f"{terminology}/v2-0203", "MB"), "value": row.member_id}],
    }
    subscriber_id = row.subscriber_id or (row.member_id if subscriber == row.patient else None)
    if subscriber_id:
        resource["subscriberId"] = subscriber_id
    if row.type:
        name = "coverage-selfpay" if row.type == "pay" else "v3-ActCode"
        resource["type"] = _coding(f"{terminology}/{name}", row.type)
    resource["subscriber"] = {"reference": f"Patient/{subscriber}"}
    resource["beneficiary"] = {"reference": f"Patient/{row.patient}"}
    resource["relationship"] = _coding(f"{terminology}/subscriber-relationship", row.relationship)
    period = {}
    if row.start_on:
        period["start"] = row.start_on.isoformat()
    if row.end_on:
        period["end"] = row.end_on.isoformat()
    if period:
        resource["period"] = period
    payer: dict[str, Any] = {
        "identifier": {"system": "https://www.claim.md/services/era/", "value": row.payer}
    }
    if row.payer_name:
        payer["display"] = row.payer_name
    resource["payor"] = [payer]
    classes = [
        {"type": _coding(f"{terminology}/coverage-class", name), "value": value}
        for name in ("plan", "subplan", "group", "subgroup")
        if (value := getattr(row, name))
    ]
    if classes:
        resource["class"] = classes
    return resource


def payment_notice(row: LedgerRow) -> dict[str, Any]:
    """Return the PaymentNotice of a row."""
    resource: dict[str, Any] = {"resourceType": "PaymentNotice"}
    if row.claim:
        claim = {"url": "claim", "valueReference": {"reference": f"Claim/{row.claim}"}}
        url = "http://schemas.canvasmedical.com/fhir/copayment-claims"
        resource["extension"] = [{"url": url, "extension": [claim]}]
    return {
        **resource,
        "status": "active",
        "request": {"reference": f"Patient/{row.patient}"},
        "created": (row.posted_on or date.today()).isoformat(),  # noqa: DTZ011 - a calendar day
        "payment": {},
        "recipient": {},
        "amount": {"value": float(row.amount), "currency": "USD"},
    }


KINDS: dict[str, tuple[type[BaseModel], Callable[[Any], dict[str, Any]]]] = {
    "eligibility": (EligibilityRow, coverage),
    "ledger": (LedgerRow, payment_notice),
}


FHIR_RESOURCES = {
    "eligibility": ("fhir.resources.R4B.coverage", "Coverage"),
    "ledger": ("fhir.resources.R4B.paymentnotice", "PaymentNotice"),
}


def by_pydantic(kind: str, path: Path, rows: int) -> Iterator[str]:
    """Yield the JSON of each row's resource."""
    model, resource_of = KINDS[kind]
    with path.open(newline="", encoding="utf-8") as file:
        for cells in islice(csv.DictReader(file), rows):
            yield json.dumps(resource_of(model.model_validate(cells)))


def by_fhir_resources(kind: str, path: Path, rows: int) -> Iterator[str]:
    """Yield the same through the resource classes of fhir.resources, which do the checks."""
    model, resource_of = KINDS[kind]
    home, name = FHIR_RESOURCES[kind]
    resource_type = getattr(import_module(home), name)
    own = {"payment": {"display": "-"}, "recipient": {"display": "-"}}  # it takes no empty ones
    with path.open(newline="", encoding="utf-8") as file:
        for cells in islice(csv.DictReader(file), rows):
            resource = resource_of(model.model_construct(**_as_they_are(model, cells)))
            if kind == "ledger":
                resource |= own
            yield resource_type.model_validate(resource).model_dump_json()


def _as_they_are(model: type[BaseModel], cells: dict[str, str]) -> dict[str, Any]:
    """Return cells by field, only converted: fhir.resources has to find their errors."""
    read: dict[str, Any] = {
        name: cells[field.alias or name] or None for name, field in model.model_fields.items()
    }
    for name in ("start_on", "end_on", "posted_on"):
        if read.get(name):
            read[name] = date.fromisoformat(read[name])
    for name, kind in (("order", int), ("amount", Decimal)):
        if read.get(name):
            read[name] = kind(read[name])
    return read


WAYS = {"pydantic": by_pydantic, "fhir.resources": by_fhir_resources}


def main() -> None:
    way, kind, path, rows = sys.argv[1:]
    compete(lambda: deque(WAYS[way](kind, Path(path), int(rows)), maxlen=0))


if __name__ == "__main__":
    main()
