"""Coverage: both contracts, what is refused, what a read returns, the bump of order."""

from __future__ import annotations

from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import pytest

from .bodies import (
    ADA,
    BEN,
    MB,
    PAYER,
    V2023,
    V2025,
    changed,
    concept,
    coverage,
    coverage_2023,
    payer_id,
)

if TYPE_CHECKING:
    from .conftest import Client

pytestmark = pytest.mark.asyncio


async def test_create_answers_the_id_in_location_only(client: Client) -> None:
    answer = await client.post(coverage())
    assert (answer.status, answer.body) == (201, b"")
    assert answer.headers["Content-Length"] == "0"
    assert len(answer.id) == 36
    assert answer.headers["Location"] == f"/Coverage/{answer.id}"
    assert answer.headers["fumage-correlation-id"]
    assert answer.headers["Date"].endswith("GMT")


async def test_a_read_returns_what_the_pages_say(client: Client) -> None:
    created = await client.post(coverage(payor=payer_id("13162"), period=None))
    read = (await client.get(f"/Coverage/{created.id}")).json
    today = client.sandbox.account()["effects"][0]["at"][:10]
    assert read["period"] == {"start": today}
    assert read["payor"] == [
        {
            "reference": f"Organization/{PAYER}",
            "type": "Organization",
            "display": "Medicare Advantage",
        }
    ]
    assert "13162" not in str(read)
    assert read["relationship"]["text"] == "18"
    assert read["relationship"]["coding"][0]["display"] == "Self"
    assert read["identifier"] == [{"type": MB, "value": "M-1"}]
    assert read["subscriberId"] == "M-1"
    assert read["subscriber"] == {"reference": f"Patient/{ADA}", "type": "Patient"}
    assert [item["value"] for item in read["class"]] == ["Starfleet HMO", "Captains Only"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"subscriberId": "S-9"},
        {"type": None, "class": None, "period": {"start": "2024-02-29"}},
        {"type": concept(f"{V2025}/coverage-selfpay", "pay")},
        {"payor": payer_id("99999")},
        {
            "subscriber": {"reference": f"Patient/{BEN}"},
            "relationship": concept(f"{V2025}/subscriber-relationship", "spouse"),
        },
        {"status": "cancelled", "order": 5},
        {"identifier": [{"value": "x"}, {"type": MB, "value": "M" * 100}]},
        {"meta": {}, "policyHolder": {"reference": f"Patient/{ADA}"}},
    ],
)
async def test_accepted(client: Client, changes: dict[str, Any]) -> None:
    assert (await client.post(coverage(**changes))).status == 201


@pytest.mark.parametrize(
    ("changes", "code", "text"),
    [
        ({"order": ""}, "value", "body -> order - value is not a valid integer"),
        ({"order": "1"}, "value", "body -> order - value is not a valid integer"),
        ({"order": True}, "value", "body -> order - value is not a valid integer"),
        ({"order": 6}, "value", "body -> order - ensure this value is from 1 to 5"),
        ({"order": 0}, "value", "body -> order"),
        ({"order": None}, "required", "body -> order - field required"),
        ({"status": None}, "required", "body -> status - field required"),
        ({"status": "draft"}, "value", "body -> status - unexpected value"),
        ({"subscriber": None}, "required", "body -> subscriber"),
        ({"beneficiary": {}}, "required", "body -> beneficiary -> reference"),
        ({"beneficiary": {"reference": ADA}}, "value", "body -> beneficiary -> reference"),
        ({"beneficiary": ADA}, "value", "body -> beneficiary - value is not a valid dict"),
        ({"relationship": None}, "required", "body -> relationship"),
        (
            {"relationship": concept(f"{V2025}/subscriber-relationship", "parent")},
            "value",
            "body -> relationship -> coding -> 0 -> code",
        ),
        (
            {"relationship": concept(f"{V2023}/subscriber-relationship", "self")},
            "value",
            "body -> relationship -> coding -> 0 -> system",
        ),
        (
            {"type": concept(f"{V2025}/v3-ActCode", "pay")},
            "value",
            "body -> type -> coding -> 0 -> system",
        ),
        (
            {"type": concept(f"{V2025}/v3-ActCode", "NOPE")},
            "value",
            "body -> type -> coding -> 0 -> code",
        ),
        ({"identifier": None}, "required", "body -> identifier - field required"),
        ({"identifier": []}, "required", "body -> identifier -> 0"),
        ({"identifier": [{"value": "M-1"}]}, "required", "body -> identifier"),
        (
            {"identifier": [{"type": MB, "value": "M" * 101}]},
            "value",
            "body -> identifier -> 0 -> value - ensure this value has at most 100",
        ),
        ({"payor": None}, "required", "body -> payor"),
        ({"payor": []}, "required", "body -> payor -> 0"),
        ({"payor": [{"display": "x"}]}, "required", "body -> payor -> 0"),
        ({"payor": payer_id("13162", "urn:x")}, "value", "body -> payor -> 0 -> identifier"),
        ({"period": {"start": "06/27/2021"}}, "value", "body -> period -> start"),
        ({"period": {"end": "2021-02-30"}}, "value", "body -> period -> end"),
        ({"class": [{"value": "x"}]}, "required", "body -> class -> 0 -> type"),
        (
            {"class": [{"type": concept(f"{V2025}/coverage-class", "plan")}]},
            "required",
            "body -> class -> 0 -> value",
        ),
        (
            {"class": [{"type": concept(f"{V2025}/coverage-class", "plan"), "value": "x" * 256}]},
            "value",
            "body -> class -> 0 -> value - ensure this value has at most 255",
        ),
        ({"planName": "x"}, "structure", "body -> planName - extra fields not permitted"),
    ],
)
async def test_refused_for_its_shape(
    client: Client, changes: dict[str, Any], code: str, text: str
) -> None:
    answer = await client.post(coverage(**changes))
    assert answer.status == 400
    assert any(found == code and said.startswith(text) for found, said in answer.issues)
    assert client.sandbox.account()["effects"] == []


async def test_all_issues_are_told_at_once(client: Client) -> None:
    answer = await client.post(coverage(order=None, status=None, payor=None))
    assert [code for code, _ in answer.issues] == ["required"] * 3


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"beneficiary": {"reference": "Patient/nobody"}}, "beneficiary"),
        ({"subscriber": {"reference": "Patient/nobody"}}, "subscriber"),
        ({"payor": payer_id("00000")}, "payor"),
        ({"payor": [{"reference": "Organization/none"}]}, "payor"),
    ],
)
async def test_references_must_exist(client: Client, changes: dict[str, Any], text: str) -> None:
    answer = await client.post(coverage(**changes))
    assert answer.status == 422
    assert answer.issues[0][0] == "business-rule"
    assert answer.issues[0][1].startswith(text)


async def test_each_contract_refuses_the_shape_of_the_other(sandboxed: Any) -> None:
    async with sandboxed(contract="2023") as old:
        created = await old.post(coverage_2023())
        assert created.status == 201
        read = (await old.get(f"/Coverage/{created.id}")).json
        assert read["subscriberId"] == "M-1"
        assert "identifier" not in read
        assert (await old.post(coverage())).status == 400
        assert (await old.post(coverage(subscriberId="M-1"))).status == 400
    async with sandboxed() as new:
        assert (await new.post(coverage_2023())).status == 400


@pytest.mark.parametrize(
    ("orders", "expected"),
    [
        ([1, 1], [2, 1]),
        ([1, 2, 1], [2, 3, 1]),
        ([1, 3, 1], [2, 3, 1]),
        ([5, 5], [5, 5]),
        ([1, 1, 1, 1, 1, 1], [5, 5, 4, 3, 2, 1]),
        ([2, 1], [2, 1]),
    ],
)
async def test_a_taken_order_bumps_the_older_ones(
    client: Client, orders: list[int], expected: list[int]
) -> None:
    for order in orders:
        await client.post(coverage(order=order))
    assert [item["order"] for item in client.sandbox.resources("Coverage")] == expected


async def test_cancelled_and_other_patients_keep_their_order(client: Client) -> None:
    other = {"reference": f"Patient/{BEN}"}
    await client.post(coverage(status="cancelled"))
    await client.post(coverage(beneficiary=other, subscriber=other))
    await client.post(coverage())
    assert [item["order"] for item in client.sandbox.resources("Coverage")] == [1, 1, 1]


async def test_update_replaces_and_reorders(client: Client) -> None:
    first, second = await client.post(coverage()), await client.post(coverage(order=2))
    answer = await client.put(coverage(id=second.id, order=1, **{"class": None}))
    assert (answer.status, answer.body) == (200, b"")
    assert "Location" not in answer.headers
    orders = {item["id"]: item["order"] for item in client.sandbox.resources("Coverage")}
    assert orders == {first.id: 2, second.id: 1}
    assert "class" not in (await client.get(f"/Coverage/{second.id}")).json
    last = client.sandbox.account()["effects"][-1]
    assert (last["interaction"], last["id"], last["bumped"]) == ("update", second.id, (first.id,))


async def test_an_update_that_keeps_its_order_moves_nothing(client: Client) -> None:
    first, second = await client.post(coverage(order=5)), await client.post(coverage(order=5))
    await client.put(coverage(id=first.id, order=5, status="cancelled"))
    await client.put(coverage(id=second.id, order=5))
    assert [item["order"] for item in client.sandbox.resources("Coverage")] == [5, 5]


async def test_update_of_another_or_unknown_id(client: Client) -> None:
    created = await client.post(coverage())
    path = f"/Coverage/{created.id}"
    for body in (coverage(), coverage(id="x")):
        answer = await client.ask("PUT", path, body)
        assert (answer.status, answer.issues[0][0]) == (400, "invalid")
    unknown = await client.put(coverage(id="nowhere"))
    assert (unknown.status, unknown.issues) == (
        404,
        [("not-found", "Unknown Coverage resource 'nowhere'")],
    )


async def test_if_unmodified_since(sandboxed: Any) -> None:
    now = 1_700_000_000.4
    async with sandboxed(clock=lambda: now) as client:
        created = await client.post(coverage())
        assert created.headers["Date"] == formatdate(1_700_000_000, usegmt=True)
        since = {"If-Unmodified-Since": created.headers["Date"]}
        body = coverage(id=created.id)
        assert (await client.put(body, headers=since)).status == 200
        now += 2
        assert (await client.put(body, headers=since)).status == 200
        answer = await client.put(body, headers=since)
        assert (answer.status, answer.issues) == (
            412,
            [("conflict", "Resource updated since If-Unmodified-Since date")],
        )
        assert (await client.put(body, headers={"If-Unmodified-Since": "soon"})).status == 200
        assert (await client.put(body)).status == 200


async def test_search_by_each_parameter(client: Client) -> None:
    first = await client.post(coverage(subscriberId="S-1"))
    second = await client.post(
        coverage(identifier=[{"type": MB, "value": "M-2"}], status="cancelled")
    )
    for query, expected in [
        (f"_id={first.id}", [first.id]),
        ("_id=nowhere", []),
        (f"patient=Patient/{ADA}", [first.id, second.id]),
        (f"patient=Patient%2F{BEN}", []),
        ("identifier=M-2", [second.id]),
        ("subscriberid=S-1", [first.id]),
        ("subscriberid=M-2", [second.id]),
        (f"patient=Patient/{ADA}&status=cancelled", [second.id]),
        (f"patient=Patient/{BEN}&identifier=M-2", []),
        ("memberid=M-2", [first.id, second.id]),
    ]:
        found = (await client.get(f"/Coverage?{query}")).json
        assert [entry["resource"]["id"] for entry in found.get("entry", [])] == expected, query
    malformed = await client.get(f"/Coverage?patient={ADA}")
    assert malformed.status == 400


async def test_identifier_is_no_parameter_of_2023(sandboxed: Any) -> None:
    async with sandboxed(contract="2023") as client:
        created = await client.post(coverage_2023())
        found = (await client.get("/Coverage?identifier=other")).json
        assert [entry["resource"]["id"] for entry in found["entry"]] == [created.id]
        assert "entry" not in (await client.get("/Coverage?subscriberid=other")).json


async def test_a_body_as_read_can_be_sent_again(client: Client) -> None:
    created = await client.post(coverage())
    read = (await client.get(f"/Coverage/{created.id}")).json
    assert (await client.put(changed(read, {"status": "cancelled"}))).status == 200
