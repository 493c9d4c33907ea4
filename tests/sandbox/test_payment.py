"""PaymentNotice: what is taken, what is stored, the balance, no update and no delete."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from .bodies import ADA, BENS_CLAIM, CLAIM, copay, payment

if TYPE_CHECKING:
    from .conftest import Client

pytestmark = pytest.mark.asyncio


@pytest.mark.parametrize(
    ("value", "stored", "balance"),
    [
        (10.00, 10.0, "90.00"),
        (100, 100.0, "0.00"),
        ("12.50", 12.5, "87.50"),
        (-5, -5.0, "105.00"),
        (10.126, 10.13, "89.87"),
        (0.1, 0.1, "99.90"),
        (0, 0.0, "100.00"),
    ],
)
async def test_amounts_as_the_framework_takes_them(
    client: Client, value: Any, stored: float, balance: str
) -> None:
    created = await client.post(payment(value))
    assert (created.status, created.body) == (201, b"")
    read = (await client.get(f"/PaymentNotice/{created.id}")).json
    assert read["amount"] == {"value": stored, "currency": "USD"}
    assert client.sandbox.balance(ADA) == Decimal(balance)


async def test_a_read_returns_what_the_page_says(client: Client) -> None:
    created = await client.post(payment(claim=CLAIM))
    read = (await client.get(f"/PaymentNotice/{created.id}")).json
    assert read == {
        "resourceType": "PaymentNotice",
        "id": created.id,
        "extension": copay(CLAIM),
        "status": "active",
        "request": {"reference": f"Patient/{ADA}", "type": "Patient"},
        "created": client.sandbox.account()["effects"][0]["at"],
        "payment": {"display": "Unused"},
        "recipient": {"display": "Unused"},
        "amount": {"value": 10.0, "currency": "USD"},
        "paymentStatus": {
            "coding": [
                {"system": "http://terminology.hl7.org/CodeSystem/paymentstatus", "code": "paid"}
            ]
        },
    }


async def test_overpaying_is_refused_without_a_claim_only(client: Client) -> None:
    assert (await client.post(payment(60))).status == 201
    over = await client.post(payment(60))
    assert (over.status, over.issues[0][0]) == (422, "business-rule")
    assert (await client.post(payment(60, claim=CLAIM))).status == 201
    assert client.sandbox.balance(ADA) == Decimal("-20.00")
    amounts = [effect["amount"] for effect in client.sandbox.account()["effects"]]
    assert amounts == ["60.00", "60.00"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (payment("ten"), 400, "value"),
        (payment("NaN"), 400, "value"),
        (payment(True), 400, "value"),
        (payment([]), 400, "value"),
        (payment(amount={}), 400, "required"),
        (payment(amount=None), 400, "required"),
        (payment(payment=None), 400, "required"),
        (payment(recipient="x"), 400, "value"),
        (payment(created=None), 400, "required"),
        (payment(created="12/09/2023"), 400, "value"),
        (payment(status="cancelled"), 400, "value"),
        (payment(request={"reference": "Group/1"}), 400, "value"),
        (payment(note="x"), 400, "structure"),
        (payment(extension=[{"url": "urn:other", "extension": []}]), 400, "value"),
        (payment(extension=[{"url": copay(CLAIM)[0]["url"]}]), 400, "required"),
        (payment(extension=copay(CLAIM, CLAIM)), 422, "business-rule"),
        (payment(claim="nowhere"), 422, "business-rule"),
        (payment(claim=BENS_CLAIM), 422, "business-rule"),
        (payment(1_000_000, claim=CLAIM), 422, "business-rule"),
        (payment(1e30, claim=CLAIM), 422, "business-rule"),
        (payment(request={"reference": "Patient/nobody"}), 422, "business-rule"),
    ],
)
async def test_refused(client: Client, body: Any, status: int, code: str) -> None:
    answer = await client.post(body)
    assert (answer.status, answer.issues[0][0]) == (status, code)
    assert client.sandbox.account()["effects"] == []
    assert client.sandbox.balance(ADA) == Decimal("100.00")


async def test_currency_and_created_are_ignored(client: Client) -> None:
    body = payment(amount={"value": 1, "currency": "EUR"}, created="1999-01-01T00:00:00Z")
    created = await client.post(body)
    read = (await client.get(f"/PaymentNotice/{created.id}")).json
    assert read["amount"]["currency"] == "USD"
    assert not read["created"].startswith("1999")


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH"])
async def test_no_update_and_no_delete(client: Client, method: str) -> None:
    created = await client.post(payment())
    answer = await client.ask(method, f"/PaymentNotice/{created.id}", payment(id=created.id))
    assert (answer.status, answer.issues) == (
        405,
        [("not-supported", "Operation is not supported")],
    )


async def test_search_by_request_and_id_only(client: Client) -> None:
    ids = [(await client.post(payment(1))).id for _ in range(2)]
    for query in (f"request=Patient/{ADA}", f"request=Patient/{ADA}&created=2001-01-01"):
        found = (await client.get(f"/PaymentNotice?{query}")).json
        assert [entry["resource"]["id"] for entry in found["entry"]] == ids
    one = (await client.get(f"/PaymentNotice?_id={ids[1]}")).json
    assert one["total"] == 1
