"""Typed rows to FHIR resources: each is built once, whole, with the ids that Canvas knows."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal

import orjson
from pydantic import BaseModel

from pipeline.crosswalk import Target
from pipeline.feeds.eligibility import EligibilityRow
from pipeline.feeds.ledger import LedgerRow
from pipeline.fhir import codes
from pipeline.fhir.coverage import coverage, likeness, payor_of
from pipeline.fhir.datatypes import fingerprint
from pipeline.fhir.payment_notice import payment_notice
from pipeline.records import Draft

_EPOCH = date(1970, 1, 1)


@dataclass(frozen=True, slots=True)
class Mapping:
    """What a resource depends on beside its row.

    `today` stands in a payment without a day of its own; `start_on` of a coverage that has none is
    taken as today when collisions of `order` are looked for, as Canvas does.
    """

    contract: codes.Contract
    payer_target: Target
    today: date


def map_row(row: BaseModel, mapping: Mapping, order_by: Sequence[str] = ()) -> Draft:
    """The resource for one row, and what the plan needs to know of it."""
    if isinstance(row, EligibilityRow):
        draft = _coverage(row, mapping)
    elif isinstance(row, LedgerRow):
        draft = _payment_notice(row, mapping)
    else:
        raise TypeError(type(row).__name__)
    return replace(draft, sort=_sort_text(row, order_by)) if order_by else draft


def _coverage(row: EligibilityRow, mapping: Mapping) -> Draft:
    classes = {code: value for code in codes.CLASSES if (value := getattr(row, code)) is not None}
    resource = coverage(
        mapping.contract,
        status=row.status,
        beneficiary=row.patient,
        subscriber=row.subscriber,
        member_id=row.member_id,
        subscriber_id=row.subscriber_id,
        relationship=row.relationship,
        payor=payor_of(
            by_payer_id=mapping.payer_target == "payer_id", value=row.payer, display=row.payer_name
        ),
        order=row.order,
        type_code=row.type,
        start_on=row.start_on,
        end_on=row.end_on,
        classes=classes,
    )
    body = orjson.dumps(resource)
    return Draft(
        lane=row.patient,
        body=body,
        fingerprint=fingerprint(body),
        likeness=likeness(resource),
        order=row.order,
        start_day=_day_number(row.start_on or mapping.today),
        end_day=_day_number(row.end_on),
        active=row.status == "active",
    )


def _payment_notice(row: LedgerRow, mapping: Mapping) -> Draft:
    """`created` is required and ignored by Canvas: the day of sending is no part of the content."""
    days = [row.posted_on or mapping.today, row.posted_on or _EPOCH]
    body, content = (
        orjson.dumps(
            payment_notice(patient=row.patient, amount=row.amount, created_on=day, claim=row.claim)
        )
        for day in days
    )
    return Draft(
        lane=row.patient, body=body, fingerprint=fingerprint(content), claim=row.claim or ""
    )


def _day_number(day: date | None) -> int | None:
    return None if day is None else (day - _EPOCH).days


def _sort_text(row: BaseModel, order_by: Sequence[str]) -> str:
    """Blank first; amounts padded, so that they sort as numbers; days are ISO."""
    values = [getattr(row, name) for name in order_by]
    return "\x1f".join(
        "" if value is None else f"{value:012.2f}" if isinstance(value, Decimal) else str(value)
        for value in values
    )
