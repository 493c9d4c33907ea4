"""Map typed rows to FHIR resources: each is built once, whole, with the ids that Canvas knows.

Many rows at once are mapped by the same code: it is called once for each shape of a resource, with a mark
in place of each value, and its result is cut at the marks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from typing import Any, NamedTuple

import orjson
import polars as pl
from pydantic import BaseModel

from pipeline.fhir import codes
from pipeline.fhir.coverage import coverage, match_key_of, match_parts, payor_of
from pipeline.fhir.datatypes import FINGERPRINT_DIGITS, fingerprint
from pipeline.fhir.payment_notice import payment_notice
from pipeline.fhir.template import write_rows
from pipeline.records import Draft
from pipeline.rows.crosswalk import Target
from pipeline.rows.eligibility import EligibilityRow
from pipeline.rows.ledger import LedgerRow
from pipeline.rows.whole import hashed

_EPOCH = date(1970, 1, 1)


@dataclass(frozen=True, slots=True)
class Mapping:
    """The data that a resource depends on beside its row.

    `today` is the day of a payment without one, and the start of a coverage without one in the search for
    collisions of `order`, as in Canvas.
    """

    contract: codes.Contract
    payer_target: Target
    today: date


class _Written(NamedTuple):
    """The texts of a row, and the inputs of its hashes."""

    body: bytes
    content: bytes  # for `fingerprint`
    counted: bytes = b""  # for the match key, from `match_parts`
    matched: bytes = b""


def map_row(row: BaseModel, mapping: Mapping, order_by: Sequence[str] = ()) -> Draft:
    """Return the resource for one row, and what the plan needs to know of it."""
    if isinstance(row, EligibilityRow):
        draft = _coverage(row, mapping)
    elif isinstance(row, LedgerRow):
        draft = _payment_notice(row, mapping)
    else:
        raise TypeError(type(row).__name__)
    return (
        replace(draft, sort=_sort_text([getattr(row, name) for name in order_by]))
        if order_by
        else draft
    )


def _coverage(row: EligibilityRow, mapping: Mapping) -> Draft:
    written = _write_coverage(row, mapping)
    return Draft(
        lane=row.patient,
        body=written.body,
        fingerprint=fingerprint(written.content),
        match_key=match_key_of(written.counted, written.matched),
        order=row.order,
        start_day=_day_number(row.start_on or mapping.today),
        end_day=_day_number(row.end_on),
        active=row.status == "active",
    )


def _payment_notice(row: LedgerRow, mapping: Mapping) -> Draft:
    written = _write_payment_notice(row, mapping)
    return Draft(
        lane=row.patient,
        body=written.body,
        fingerprint=fingerprint(written.content),
        claim=row.claim or "",
        start_day=_day_number(row.posted_on),
    )


def _write_coverage(row: EligibilityRow, mapping: Mapping) -> _Written:
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
    return _Written(body, body, *match_parts(resource))


def _write_payment_notice(row: LedgerRow, mapping: Mapping) -> _Written:
    """Build a payment. `created` is required and ignored by Canvas, so the day of sending is not content."""
    days = [row.posted_on or mapping.today, row.posted_on or _EPOCH]
    body, content = (
        orjson.dumps(
            payment_notice(patient=row.patient, amount=row.amount, created_on=day, claim=row.claim)
        )
        for day in days
    )
    return _Written(body, content)


def _day_number(day: date | None) -> int | None:
    return None if day is None else (day - _EPOCH).days


def _sort_text(values: Sequence[Any]) -> str:
    """Return a text that sorts as the values: blank first, amounts padded so that they sort as numbers, days ISO."""
    return "\x1f".join(
        "" if value is None else f"{value:012.2f}" if isinstance(value, Decimal) else str(value)
        for value in values
    )


# Whole columns ------------------------------------------------------------------------------------


def map_rows(
    rows: pl.DataFrame, model: type[BaseModel], mapping: Mapping, order_by: Sequence[str] = ()
) -> pl.DataFrame:
    """Return `map_row` of many rows of a model, given as columns: a line a row, with Draft's fields.

    Columns that are always blank may be missing; without rows all are.
    """
    if rows.is_empty():
        return pl.DataFrame()
    if model is EligibilityRow:
        drafts = _coverages(rows, mapping)
    elif model is LedgerRow:
        drafts = _payment_notices(rows, mapping)
    else:
        raise TypeError(model.__name__)
    sort = [_sort_text(values) for values in rows.select(order_by).iter_rows()]
    return drafts.with_columns(
        pl.Series("sort", sort, dtype=pl.String) if order_by else pl.lit("").alias("sort")
    )


def _coverages(rows: pl.DataFrame, mapping: Mapping) -> pl.DataFrame:
    written = write_rows(
        rows,
        _Written._fields,
        lambda marks: _write_coverage(EligibilityRow.model_construct(**marks), mapping),
        constants={"type": codes.SELF_PAY},
        equals={"subscriber": "patient"},
    )
    return rows.select(
        pl.col("patient").alias("lane"),
        written["body"].cast(pl.Binary),
        _fingerprints(written["content"]).alias("fingerprint"),
        pl.lit("").alias("claim"),
        (written["counted"] + ":" + _fingerprints(written["matched"])).alias("likeness"),
        pl.col("order"),
        pl.col("start_on").fill_null(mapping.today).to_physical().alias("start_day"),
        pl.col("end_on").to_physical().alias("end_day"),
        (pl.col("status") == "active").alias("active"),
    )


def _payment_notices(rows: pl.DataFrame, mapping: Mapping) -> pl.DataFrame:
    written = write_rows(
        rows,
        _Written._fields,
        lambda marks: _write_payment_notice(LedgerRow.model_construct(**marks), mapping),
    )
    return rows.select(
        pl.col("patient").alias("lane"),
        written["body"].cast(pl.Binary),
        _fingerprints(written["content"]).alias("fingerprint"),
        pl.col("claim").fill_null(""),
        pl.lit("").alias("likeness"),
        pl.col("posted_on").cast(pl.Date).to_physical().alias("start_day"),
        pl.lit(value=False).alias("active"),
    )


def _fingerprints(texts: pl.Series) -> pl.Series:
    return hashed(texts, FINGERPRINT_DIGITS)
