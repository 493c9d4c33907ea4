"""The refusals of the sandbox, with status, code and text: pure, no store, no clock.

Shapes of bodies are checked here and answered with 400; errors that depend on the data (an unknown
patient, a payment above the balance) are answered with 422 by the store, with the texts below.
Sources: the two seed pages (Coverage of 2023, PaymentNotice) and docs/canvas.md. The texts of 400
follow the one that the notes quote, `body -> order - value is not a valid integer`, and its codes
follow the server framework that Canvas publishes: `required` for what is missing, `structure` for
broken JSON and unknown elements, `value` for what has the wrong type or value, else `invalid`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Final

Json = dict[str, Any]
"""A JSON object as it was read."""

REFERENCE: Final = re.compile(r"([A-Z][A-Za-z]+)/([A-Za-z0-9.\-]{1,64})")
COPAY_URL: Final = "http://schemas.canvasmedical.com/fhir/copayment-claims"
PAYMENT_STATUS_SYSTEM: Final = "http://terminology.hl7.org/CodeSystem/paymentstatus"
AMOUNT_MAX: Final = Decimal("999999.99")
"""docs/canvas.md, PaymentNotice: storage holds 8 digits with 2 decimals."""
CENT: Final = Decimal("0.01")

RESOURCE_ELEMENTS: Final = frozenset(
    [
        "resourceType",
        "id",
        "meta",
        "implicitRules",
        "language",
        "text",
        "contained",
        "extension",
        "modifierExtension",
    ]
)
"""Elements that every FHIR R4 resource may carry."""
PAYMENT_ELEMENTS: Final = RESOURCE_ELEMENTS | frozenset(
    [
        "identifier",
        "status",
        "request",
        "response",
        "created",
        "provider",
        "payment",
        "paymentDate",
        "payee",
        "recipient",
        "amount",
        "paymentStatus",
    ]
)


@dataclass(frozen=True, slots=True)
class Issue:
    """One `issue` of an OperationOutcome."""

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that is not a success: its HTTP status and one or more issues."""

    status: int
    issues: tuple[Issue, ...]


@dataclass(frozen=True, slots=True)
class PaymentDraft:
    """A PaymentNotice that passed the checks of its shape. `amount_usd` has two decimals."""

    patient: str
    amount_usd: Decimal
    claim: str | None


@dataclass(slots=True)
class Findings:
    """The issues found so far in one body."""

    issues: list[Issue] = field(default_factory=list)

    def add(self, code: str, path: str, text: str) -> None:
        """Note one issue at `path` (`body -> order`)."""
        self.issues.append(Issue(code, f"{path} - {text}"))

    def required(self, path: str) -> None:
        """Note that an element is missing."""
        self.add("required", path, "field required")

    def refusal(self) -> Refusal:
        """Return all issues as a 400."""
        return Refusal(400, tuple(self.issues))


def outcome(refusal: Refusal) -> Json:
    """Build the OperationOutcome as documented: the text is in `details`, not in `diagnostics`."""
    return {
        "resourceType": "OperationOutcome",
        "issue": [
            {"severity": "error", "code": issue.code, "details": {"text": issue.text}}
            for issue in refusal.issues
        ],
    }


def refuse(status: int, code: str, text: str) -> Refusal:
    """Build a refusal of one issue."""
    return Refusal(status, (Issue(code, text),))


AUTHENTICATION_FAILED: Final = refuse(401, "unknown", "Authentication failed")
AUTHORIZATION_FAILED: Final = refuse(403, "forbidden", "Authorization failed")
NOT_SUPPORTED: Final = refuse(405, "not-supported", "Operation is not supported")
CONFLICT: Final = refuse(412, "conflict", "Resource updated since If-Unmodified-Since date")
NOT_FOUND: Final = refuse(404, "not-found", "Not Found")
TOO_LARGE: Final = refuse(413, "too-long", "Request body is too large")
NOT_JSON: Final = refuse(400, "structure", "body - invalid JSON")
NOT_AN_OBJECT: Final = refuse(400, "value", "body - value is not a valid dict")
WRONG_CONTENT_TYPE: Final = refuse(
    400, "invalid", "content-type - must be application/json or application/fhir+json"
)
OVERPAID: Final = refuse(422, "business-rule", "Payment amount exceeds the patient's balance")
TOO_MANY_DIGITS: Final = refuse(
    422, "business-rule", "Payment amount has more than 8 digits in total"
)
CLAIM_OF_ANOTHER: Final = refuse(
    422, "business-rule", "Claim does not belong to the patient of the payment"
)
SELF_OF_ANOTHER: Final = refuse(
    422, "business-rule", "The subscriber must be the patient if the relationship is self"
)
SUBSCRIBER_IS_PATIENT: Final = refuse(
    422, "business-rule", "The subscriber must be another patient unless the relationship is self"
)
LINKED_TO_CLAIM: Final = refuse(
    422,
    "business-rule",
    "A coverage can only be removed if it hasn't been linked to a claim",
)
ONE_CLAIM_ONLY: Final = refuse(
    422, "business-rule", "Only a single Claim is accepted for a copayment"
)


def order_taken(order: int) -> Refusal:
    """Build the 422 for an order that another coverage has (docs/canvas.md, Coverage, `order`)."""
    text = f"The patient already has a coverage with coverage rank {order}"
    return refuse(422, "business-rule", text)


def unknown_resource(resource_type: str, resource_id: str) -> Refusal:
    """Build the 404 of a read or update (seed pages, Errors)."""
    return refuse(404, "not-found", f"Unknown {resource_type} resource '{resource_id}'")


def unknown_reference(path: str, resource_type: str) -> Refusal:
    """Build the 422 for a reference to a missing resource (seed pages: conflicts with the database state)."""
    return refuse(422, "business-rule", f"{path} - {resource_type} does not exist")


def id_mismatch() -> Refusal:
    """Build the 400 of a PUT whose body names another id than its URL (docs/canvas.md, Coverage)."""
    return refuse(400, "invalid", "Logical Id in URL must match logical Id in resource")


def check_payment(body: Json) -> PaymentDraft | Refusal:
    """Read a PaymentNotice create (seed page PaymentNotice, Attributes).

    Negative amounts, numbers in strings and extra decimals pass, as the framework lets them
    (docs/canvas.md); they are rounded to two decimals, and more than 8 digits are a 422.
    """
    found = Findings()
    check_elements(found, body, "PaymentNotice", PAYMENT_ELEMENTS)
    check_code(found, body, "status", "body", ("active",))
    patient = check_reference(found, body, "request", "body", "Patient")
    _check_created(found, body)
    for name in ("payment", "recipient"):
        get_object(found, body, name, "body", required=True)
    amount = _check_amount(found, body)
    claims = _check_copay(found, body)
    if found.issues or patient is None or amount is None:
        return found.refusal()
    if len(claims) > 1:
        return ONE_CLAIM_ONLY
    if abs(amount) > AMOUNT_MAX:
        return TOO_MANY_DIGITS
    return PaymentDraft(patient, amount, claims[0] if claims else None)


def payment_as_read(draft: PaymentDraft, payment_id: str, created: str) -> Json:
    """Build the PaymentNotice that a read returns (seed page PaymentNotice read).

    `created` is the time of the row, whatever was sent; `payment` and `recipient` are unused.
    """
    resource: Json = {"resourceType": "PaymentNotice", "id": payment_id}
    if draft.claim is not None:
        reference = {"reference": f"Claim/{draft.claim}"}
        claim = [{"url": "claim", "valueReference": reference}]
        resource["extension"] = [{"extension": claim, "url": COPAY_URL}]
    resource["status"] = "active"
    resource["request"] = {"reference": f"Patient/{draft.patient}", "type": "Patient"}
    resource["created"] = created
    resource["payment"] = {"display": "Unused"}
    resource["recipient"] = {"display": "Unused"}
    resource["amount"] = {"value": float(draft.amount_usd), "currency": "USD"}
    resource["paymentStatus"] = {"coding": [{"system": PAYMENT_STATUS_SYSTEM, "code": "paid"}]}
    return resource


def claim_of(payment: Json) -> str | None:
    """Return the id of the claim that a stored PaymentNotice names, or None."""
    for outer in payment.get("extension", ()):
        for inner in outer.get("extension", ()):
            reference: str = inner["valueReference"]["reference"]
            return reference.partition("/")[2]
    return None


def key_of(reference: object) -> str:
    """Return the id in `{"reference": "Type/id"}`, or an empty string; for any JSON value."""
    value = reference.get("reference") if isinstance(reference, dict) else None
    return value.rpartition("/")[2] if isinstance(value, str) else ""


def check_elements(found: Findings, body: Json, resource_type: str, known: frozenset[str]) -> None:
    """Refuse another `resourceType` and elements that FHIR R4 does not know (the framework)."""
    if "resourceType" not in body:
        found.required("body -> resourceType")
    elif body["resourceType"] != resource_type:
        found.add("value", "body -> resourceType", f"unexpected value; permitted: {resource_type}")
    for name in body:
        if name not in known and name.removeprefix("_") not in known:
            found.add("structure", f"body -> {name[:64]}", "extra fields not permitted")


def check_code(
    found: Findings, holder: Json, name: str, path: str, permitted: tuple[str, ...]
) -> str | None:
    """Return a code out of `permitted` (the pages' "Value Options Supported"), or None."""
    value = get_text(found, holder, name, path, required=True)
    if value is not None and value not in permitted:
        found.add("value", f"{path} -> {name}", f"unexpected value; permitted: {listed(permitted)}")
        return None
    return value


def check_reference(
    found: Findings, holder: Json, name: str, path: str, resource_type: str
) -> str | None:
    """Return the id of the element `name`: `{"reference": "<resource_type>/<id>"}`, or None."""
    element = get_object(found, holder, name, path, required=True)
    if element is None:
        return None
    return check_reference_text(found, element, f"{path} -> {name}", resource_type)


def check_reference_text(
    found: Findings, element: Json, path: str, resource_type: str
) -> str | None:
    """Return the id in `element["reference"]`, or None."""
    text = get_text(found, element, "reference", path, required=True)
    if text is None:
        return None
    match = REFERENCE.fullmatch(text)
    if match is None or match[1] != resource_type:
        found.add("value", f"{path} -> reference", f"must have the form {resource_type}/<id>")
        return None
    return match[2]


def get_object(
    found: Findings, holder: Json, name: str, path: str, *, required: bool = False
) -> Json | None:
    """Return an element that must be an object; None if missing or wrong."""
    value = holder.get(name)
    if value is None:
        if required:
            found.required(f"{path} -> {name}")
        return None
    if not isinstance(value, dict):
        found.add("value", f"{path} -> {name}", "value is not a valid dict")
        return None
    return value


def get_list(
    found: Findings, holder: Json, name: str, path: str, *, required: bool = False
) -> list[Json]:
    """Return an element that must be a list of objects; empty if missing or wrong."""
    value = holder.get(name)
    if value is None:
        if required:
            found.required(f"{path} -> {name}")
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        found.add("value", f"{path} -> {name}", "value is not a valid list")
        return []
    if required and not value:
        found.required(f"{path} -> {name} -> 0")
    return value


def get_text(
    found: Findings,
    holder: Json,
    name: str,
    path: str,
    *,
    required: bool = False,
    length_max: int | None = None,
) -> str | None:
    """Return an element that must be a text that is not blank; None if missing or wrong."""
    value = holder.get(name)
    where = f"{path} -> {name}"
    if value is None:
        if required:
            found.required(where)
        return None
    if not isinstance(value, str):
        found.add("value", where, "str type expected")
    elif not value.strip():
        found.add("value", where, "ensure this value has at least 1 characters")
    elif length_max is not None and len(value) > length_max:
        found.add("value", where, f"ensure this value has at most {length_max} characters")
    else:
        return value
    return None


def listed(values: tuple[str, ...]) -> str:
    """Write permitted values for people: `'active', 'cancelled'`."""
    return ", ".join(f"'{value}'" for value in values)


def _check_created(found: Findings, body: Json) -> None:
    """Check that `created` is a FHIR dateTime: it is required, though its value is ignored."""
    text = get_text(found, body, "created", "body", required=True)
    if text is not None and not _is_date_time(text):
        found.add("value", "body -> created", "invalid datetime format")


def _is_date_time(text: str) -> bool:
    try:
        if len(text) <= len("2023-09-12"):
            date.fromisoformat((text + "-01-01")[:10] if len(text) in {4, 7} else text)
        else:
            datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _check_amount(found: Findings, body: Json) -> Decimal | None:
    """Read `amount.value`; any currency is taken as USD (seed page PaymentNotice, currency)."""
    amount = get_object(found, body, "amount", "body", required=True)
    if amount is None:
        return None
    value = amount.get("value")
    if value is None:
        found.required("body -> amount -> value")
        return None
    number = None if isinstance(value, bool) else _as_decimal(value)
    if number is None:
        found.add("value", "body -> amount -> value", "value is not a valid decimal")
        return None
    return number


def _as_decimal(value: object) -> Decimal | None:
    """Return a JSON number or a number in a string, rounded to cents; None for all else."""
    if not isinstance(value, (int, float, str)):
        return None
    try:
        number = Decimal(str(value).strip())
        if not number.is_finite():
            return None
        return number if abs(number) > AMOUNT_MAX else number.quantize(CENT)
    except InvalidOperation:
        return None


def _check_copay(found: Findings, body: Json) -> list[str]:
    """Return the ids of the claims that the copayment extension names (exactly one is right)."""
    claims: list[str] = []
    for at, outer in enumerate(get_list(found, body, "extension", "body")):
        path = f"body -> extension -> {at}"
        check_code(found, outer, "url", path, (COPAY_URL,))
        for below, inner in enumerate(get_list(found, outer, "extension", path, required=True)):
            where = f"{path} -> extension -> {below}"
            check_code(found, inner, "url", where, ("claim",))
            claim = check_reference(found, inner, "valueReference", where, "Claim")
            if claim is not None:
                claims.append(claim)
    return claims
