"""The rest of the server: tokens, documented errors, references, paging, books, restarts."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from pipeline.sandbox import Faults, Sandbox, load_seed, serve

from .bodies import ADA, BEN, CLAIM, MRN, OTHER_PAYER, PAYER, SEED, coverage, payment

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Client

pytestmark = pytest.mark.asyncio
GRANT = "grant_type=client_credentials"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


async def token_of(client: Client, form: str) -> Any:
    return await client.ask("POST", "/auth/token/", data=form.encode(), headers=FORM)


async def test_a_token_is_issued_and_serves(client: Client) -> None:
    answer = await token_of(client, f"{GRANT}&client_id=sandbox&client_secret=sandbox")
    assert answer.status == 200
    assert answer.json.keys() == {"access_token", "expires_in", "token_type", "scope"}
    bearer = {"Authorization": f"Bearer {answer.json['access_token']}"}
    assert (await client.get("/Coverage", headers=bearer)).status == 200


@pytest.mark.parametrize(
    ("form", "status", "error"),
    [
        (f"{GRANT}&client_id=sandbox&client_secret=wrong", 401, "invalid_client"),
        (GRANT, 401, "invalid_client"),
        ("client_id=sandbox&client_secret=sandbox", 400, "invalid_request"),
        ("grant_type=password", 400, "unsupported_grant_type"),
        (f"{GRANT}&client_id=sandbox&client_secret=sandbox&scope=x", 400, "invalid_scope"),
    ],
)
async def test_bad_token_requests(client: Client, form: str, status: int, error: str) -> None:
    answer = await token_of(client, form)
    assert (answer.status, answer.json) == (status, {"error": error})


async def test_a_scope_without_writes_is_forbidden(client: Client) -> None:
    scope = "scope=system/Coverage.read%20patient/PaymentNotice.write"
    answer = await token_of(client, f"{GRANT}&client_id=sandbox&client_secret=sandbox&{scope}")
    bearer = {"Authorization": f"Bearer {answer.json['access_token']}"}
    assert (await client.get("/Coverage", headers=bearer)).status == 200
    assert (await client.post(payment(), headers=bearer)).status == 201
    refused = await client.post(coverage(), headers=bearer)
    assert (refused.status, refused.issues) == (403, [("forbidden", "Authorization failed")])


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer wrong", "Basic made-up-token"])
async def test_without_a_token(client: Client, header: str) -> None:
    answer = await client.post(payment(), headers={"Authorization": header})
    assert (answer.status, answer.issues) == (401, [("unknown", "Authentication failed")])


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/Coverage/nowhere", 404, "not-found"),
        ("GET", "/Coverage/..%2f..%2fetc", 404, "not-found"),
        ("GET", "/Coverage/%ff%00", 404, "not-found"),
        ("GET", "/Appointment", 404, "not-found"),
        ("GET", "/Coverage/a/_history/1", 404, "not-found"),
        ("GET", "/", 404, "not-found"),
        ("POST", "/", 404, "not-found"),
        ("DELETE", "/Coverage/a", 405, "not-supported"),
        ("POST", "/Coverage/a", 405, "not-supported"),
        ("PUT", "/Coverage", 405, "not-supported"),
        ("POST", "/Patient", 405, "not-supported"),
        ("OPTIONS", "/Coverage", 405, "not-supported"),
        ("GET", "/Coverage?_count=x", 400, "value"),
        ("GET", "/Coverage?_offset=-1", 400, "value"),
        ("GET", "/Coverage?" + "&".join(["a=1"] * 60), 400, "invalid"),
    ],
)
async def test_documented_errors(
    client: Client, method: str, path: str, status: int, code: str
) -> None:
    answer = await client.ask(method, path)
    assert (answer.status, answer.issues[0][0]) == (status, code)
    assert answer.headers["fumage-correlation-id"]


@pytest.mark.parametrize(
    ("data", "content_type", "status", "code"),
    [
        (b"{", "application/json", 400, "structure"),
        (b"", "application/json", 400, "structure"),
        (b"\xff", "application/json", 400, "structure"),
        (b"[" * 5000, "application/json", 400, "structure"),
        (b"[]", "application/json", 400, "value"),
        (b"null", "application/json", 400, "value"),
        (b"{}", "text/plain", 400, "invalid"),
        (b"{}", "application/fhir+json; charset=utf-8", 400, "required"),
        (b" " * 300_000, "application/json", 413, "too-long"),
        (b'{"request": 7, "beneficiary": []}', "application/json", 400, "required"),
    ],
)
@pytest.mark.parametrize("path", ["/Coverage", "/PaymentNotice"])
async def test_bad_bodies(
    client: Client, path: str, data: bytes, content_type: str, status: int, code: str
) -> None:
    answer = await client.ask("POST", path, data=data, headers={"Content-Type": content_type})
    assert (answer.status, answer.issues[0][0]) == (status, code)


async def test_broken_encodings_and_expectations(client: Client) -> None:
    broken = await client.ask(
        "POST", "/Coverage", data=b"no gzip", headers={"Content-Encoding": "gzip"}
    )
    assert broken.status == 400
    assert (await client.post(payment(), expect100=True)).status == 201


async def test_metadata_needs_no_token(client: Client) -> None:
    answer = await client.get("/metadata", headers={"Authorization": ""})
    assert answer.status == 200
    assert answer.json["resourceType"] == "CapabilityStatement"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("Patient?identifier=1001", [ADA]),
        (f"Patient?identifier={MRN}|1002", [BEN]),
        (f"Patient?identifier={MRN}|", [ADA, BEN]),
        (f"Patient?identifier={MRN}%7C9", []),
        ("Patient?identifier=urn:old|A-1", [ADA]),
        (f"Patient?_id={BEN}", [BEN]),
        (f"Organization?_id={PAYER}", [PAYER]),
        ("Organization?name=medicare", [PAYER]),
        ("Organization?type=pay&_sort=_id", [PAYER, OTHER_PAYER]),
        ("Organization?type=prov", []),
        ("Organization?address=x", []),
        ("Organization?identifier=13162", [PAYER, OTHER_PAYER]),
        (f"Claim?patient=Patient/{ADA}", [CLAIM]),
        (f"Claim?_id={CLAIM}&patient=Patient/{BEN}", []),
    ],
)
async def test_searches_for_references(client: Client, path: str, expected: list[str]) -> None:
    found = (await client.get("/" + path)).json
    assert [entry["resource"]["id"] for entry in found.get("entry", [])] == expected
    assert ("entry" in found) is bool(expected)
    assert found["total"] == len(expected)
    assert "13162" not in str(found.get("entry"))


async def test_paging_follows_relative_links(sandboxed: Any) -> None:
    patients: list[dict[str, Any]] = [
        {"id": f"{number:032x}", "identifiers": [{"system": "urn:n", "value": str(number)}]}
        for number in range(250, 0, -1)
    ]
    async with sandboxed(seed={"patients": patients, "token": SEED["token"]}) as client:
        path, ids = "/Patient?identifier=urn:n%7C&_count=500&_sort=_id", []
        sizes = []
        while path:
            page = (await client.get(path)).json
            links = {link["relation"]: link["url"] for link in page["link"]}
            assert all(url.startswith("/Patient?identifier=urn") for url in links.values())
            assert links["last"].endswith("_count=100&_offset=200")
            sizes.append(len(page["entry"]))
            ids += [entry["resource"]["id"] for entry in page["entry"]]
            path = links.get("next", "")
        assert sizes == [100, 100, 50]
        assert ids == sorted(patient["id"] for patient in patients)
        assert len((await client.get("/Patient")).json["entry"]) == 10
        beyond = (await client.get("/Patient?_offset=999")).json
        assert "entry" not in beyond


async def test_the_account(client: Client) -> None:
    await client.post(coverage())
    await client.post(payment(1.5, claim=CLAIM))
    await client.post(payment(-1))
    await client.post(payment("x"))
    await client.get("/Coverage")
    account = (await client.get("/_sandbox/account")).json
    first, second, third = account["effects"]
    assert {name: first[name] for name in ("n", "interaction", "resource_type", "order")} == {
        "n": 1,
        "interaction": "create",
        "resource_type": "Coverage",
        "order": 1,
    }
    assert (first["member_id"], first["patient"], first["amount"]) == ("M-1", ADA, None)
    assert (second["amount"], second["claim"], third["amount"]) == ("1.50", CLAIM, "-1.00")
    assert account["requests"] == {
        "total": 5,
        "by": {
            "GET /Coverage": {"200": 1},
            "POST /Coverage": {"201": 1},
            "POST /PaymentNotice": {"201": 2, "400": 1},
        },
    }
    assert account["arrivals"] == sorted(account["arrivals"])
    assert len(account["arrivals"]) == 5
    assert (account["open_writes_max"], account["open_writes_max_patient"]) == (1, ADA)
    seen = [(write["outcome"], write["effect"]) for write in account["writes_of"][ADA]]
    assert seen == [("201", 1), ("201", 2), ("201", 3), ("400", None)]
    health = (await client.get("/_sandbox/health")).json
    assert health == {"status": "ok", "contract": "2025-10"}


async def test_open_writes_of_one_patient_are_counted(sandboxed: Any) -> None:
    async with sandboxed(faults=Faults(latency_s=(0.02, 0.02))) as client:
        other = {"reference": f"Patient/{BEN}"}
        bodies = [payment(1), payment(1), payment(1), payment(1, request=other)]
        await asyncio.gather(*(client.post(body) for body in bodies))
        account = client.sandbox.account()
        assert (account["open_writes_max"], account["open_writes_max_patient"]) == (3, ADA)


async def test_by_hand(client: Client) -> None:
    sandbox = client.sandbox
    await client.post(coverage())
    payment_id = sandbox.add_by_hand(
        "PaymentNotice", {"request": {"reference": f"Patient/{ADA}"}, "amount": {"value": 40.0}}
    )
    assert sandbox.balance(ADA) == Decimal("60.00")
    assert (await client.post(payment(61))).status == 422
    sandbox.delete_by_hand("PaymentNotice", payment_id)
    assert sandbox.balance(ADA) == Decimal("100.00")
    assert (await client.get(f"/PaymentNotice/{payment_id}")).status == 404
    read = dict(sandbox.resources("Coverage")[0])
    del read["id"]
    added = sandbox.add_by_hand("Coverage", read)
    assert [item["order"] for item in sandbox.resources("Coverage")] == [2, 1]
    sandbox.edit_by_hand("Coverage", added, {"status": "cancelled"})
    assert (await client.get(f"/Coverage/{added}")).json["status"] == "cancelled"
    eve = sandbox.add_by_hand("Patient", {"identifiers": [], "balance": "7.00"})
    assert (len(eve), sandbox.balance(eve)) == (32, Decimal("7.00"))
    sandbox.add_by_hand("Organization", {"name": "New", "payer_id": "777"})
    payor = [{"identifier": {"system": "https://www.claim.md/services/era/", "value": "777"}}]
    assert (await client.post(coverage(payor=payor))).status == 201
    account = sandbox.account()
    assert len(account["effects"]) == 2
    assert [entry["operation"] for entry in account["by_hand"]][:4] == [
        "add",
        "delete",
        "add",
        "edit",
    ]


async def test_a_restart_keeps_account_balance_and_order(sandboxed: Any, tmp_path: Path) -> None:
    state = tmp_path / "state.jsonl"
    async with sandboxed(state=state) as client:
        await client.post(coverage())
        await client.post(coverage())
        await client.post(payment(30))
        removed = client.sandbox.add_by_hand("Claim", {"patient": ADA})
        client.sandbox.delete_by_hand("Claim", removed)
        before = client.sandbox.account()
        resources = client.sandbox.resources("Coverage")
    assert state.stat().st_mode & 0o777 == 0o600
    with state.open("ab") as file:
        file.write(b'{"torn')
    async with sandboxed(state=state) as client:
        assert client.sandbox.account()["effects"] == before["effects"]
        assert client.sandbox.account()["by_hand"] == before["by_hand"]
        assert client.sandbox.resources("Coverage") == resources
        assert client.sandbox.balance(ADA) == Decimal("70.00")
        fresh = await client.post(payment(1))
        ids = {effect["id"] for effect in before["effects"]}
        assert fresh.id not in ids
    again = Sandbox(SEED, state=state)
    assert [effect["n"] for effect in again.account()["effects"]] == [1, 2, 3, 4]


async def test_one_seed_makes_the_same_ids(sandboxed: Any) -> None:
    made = []
    for _ in range(2):
        async with sandboxed(fault_seed=7) as client:
            made.append([(await client.post(payment(1))).id for _ in range(3)])
    assert made[0] == made[1]


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "example.com"])  # noqa: S104
async def test_loopback_only(host: str) -> None:
    with pytest.raises(ValueError, match="loopback only"):
        async with serve(Sandbox(), host=host):
            pass


async def test_seeds_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "seed.json"
    path.write_bytes(orjson.dumps(SEED))
    assert load_seed(path) == SEED
    for text, message in [
        ("{", "no JSON"),
        ("[]", "JSON object"),
        ('{"patient": []}', "unknown keys"),
        ('{"patients": [{}]}', "with an id"),
        ('{"claims": [{"id": "x"}]}', "no patient"),
    ]:
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            load_seed(path)
