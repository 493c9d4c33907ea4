"""PaymentNotice, as Canvas takes it on create. There is no update and no delete.

Source: canvas-api.md, "PaymentNotice"; the seed page "PaymentNotice create".
"""

from datetime import date
from decimal import Decimal

from pipeline.fhir.codes import COPAY_CLAIMS_URL
from pipeline.fhir.datatypes import Json, reference, usd_amount


def payment_notice(*, patient: str, amount: Decimal, created_on: date, claim: str | None) -> Json:
    """The whole resource. `amount` is 0.01 to 999,999.99 USD with at most two decimals.

    `created_on` is required by FHIR and ignored by Canvas. A claim makes it a copay; exactly one
    is taken.
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
