"""Faults: each one before the write has its twin after it, and the account tells them apart."""

from __future__ import annotations

from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import pytest

from pipeline.sandbox import Faults

from .bodies import ADA, coverage, payment

pytestmark = pytest.mark.asyncio


def load(fate: str, **more: Any) -> Faults:
    """Make one fate certain."""
    return Faults(**{fate: 1.0, **more})


@pytest.mark.parametrize(("fate", "effects"), [("lose_before", 0), ("lose_after", 1)])
async def test_lost_answers(sandboxed: Any, fate: str, effects: int) -> None:
    async with sandboxed(faults=load(fate, faults_max=1)) as client:
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await client.post(payment())
        account = client.sandbox.account()
        assert len(account["effects"]) == effects
        assert account["requests"]["by"] == {"POST /PaymentNotice": {"lost": 1}}
        outcome = account["writes_of"][ADA][0]
        assert (outcome["outcome"], outcome["effect"]) == ("lost", effects or None)
        assert (await client.post(payment())).status == 201


async def test_a_late_commit(sandboxed: Any) -> None:
    async with sandboxed(faults=Faults(late_commit=1.0, late_commit_s=60)) as client:
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await client.post(payment())
        assert client.sandbox.account()["effects"] == []
        assert client.sandbox.settle() == 1
        assert client.sandbox.balance(ADA) == Decimal("90.00")


@pytest.mark.parametrize("status", [500, 502, 503])
@pytest.mark.parametrize(("fate", "effects"), [("error_before", 0), ("error_after", 1)])
async def test_server_errors(sandboxed: Any, fate: str, effects: int, status: int) -> None:
    async with sandboxed(faults=load(fate, statuses=(status,))) as client:
        answer = await client.post(payment())
        assert answer.status == status
        if status == 500:
            assert answer.issues == [("exception", "Internal Server Error")]
        else:
            assert answer.headers["Content-Type"].startswith("text/html")
        assert len(client.sandbox.account()["effects"]) == effects
        assert (await client.get("/Coverage")).status == 200


@pytest.mark.parametrize("form", ["seconds", "date", "none"])
async def test_throttled(sandboxed: Any, form: str) -> None:
    faults = Faults(throttle=1.0, retry_after=form, retry_after_s=3)
    async with sandboxed(faults=faults, clock=lambda: 1_700_000_000.0) as client:
        answer = await client.post(payment())
        assert answer.status == 429
        told = answer.headers.get("Retry-After")
        if form == "date":
            assert parsedate_to_datetime(told).timestamp() == 1_700_000_004
        else:
            assert told == {"seconds": "3", "none": None}[form]
        assert client.sandbox.account()["effects"] == []


async def test_the_hard_cap(sandboxed: Any) -> None:
    async with sandboxed(faults=Faults(max_per_s=3)) as client:
        seen = [(await client.get("/Coverage")).status for _ in range(5)]
        assert seen == [200, 200, 200, 429, 429]


async def test_a_block_at_the_edge_and_a_redirect(sandboxed: Any) -> None:
    async with sandboxed(faults=Faults(forbid=1.0)) as client:
        blocked = await client.post(payment())
        assert (blocked.status, blocked.body[:6]) == (403, b"<html>")
        client.sandbox.set_faults(Faults(redirect=1.0))
        moved = await client.post(payment())
        assert (moved.status, moved.headers["Location"]) == (307, "/PaymentNotice")
        assert client.sandbox.account()["effects"] == []


async def test_odd_answers_to_a_create(sandboxed: Any) -> None:
    async with sandboxed() as client:
        first = await client.post(payment(1))
        client.sandbox.set_faults(Faults(no_location=1.0))
        bare = await client.post(payment(1))
        assert (bare.status, "Location" in bare.headers) == (201, False)
        client.sandbox.set_faults(Faults(duplicate_location=1.0))
        assert (await client.post(payment(1))).id == first.id
        client.sandbox.set_faults(Faults(cut_body=1.0))
        with pytest.raises(aiohttp.ClientPayloadError):
            await client.post(payment(1))
        client.sandbox.set_faults(Faults(created_body="null"))
        assert (await client.post(payment(1))).body == b"null"
        assert len(client.sandbox.account()["effects"]) == 5


@pytest.mark.parametrize(
    ("form", "pattern"),
    [
        ("relative", "/Coverage/{id}"),
        ("http", "http://{host}/Coverage/{id}"),
        ("https_history", "https://{host}/Coverage/{id}/_history/1"),
        ("relative_history", "/Coverage/{id}/_history/1"),
        ("missing", None),
    ],
)
async def test_forms_of_location(sandboxed: Any, form: str, pattern: str | None) -> None:
    async with sandboxed(faults=Faults(location=form)) as client:
        told = (await client.post(coverage())).headers.get("Location")
        made = client.sandbox.account()["effects"][0]["id"]
        host = client.url.removeprefix("http://")
        assert told == (pattern and pattern.format(id=made, host=host))


async def test_tokens_expire_early(sandboxed: Any) -> None:
    now = 1_700_000_000.0
    form = b"grant_type=client_credentials&client_id=sandbox&client_secret=sandbox"
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    async with sandboxed(clock=lambda: now) as client:
        for faults, served in [(Faults(token_uses=2), 2), (Faults(token_s=5), 3)]:
            client.sandbox.set_faults(faults)
            answer = await client.ask("POST", "/auth/token/", data=form, headers=kind)
            assert answer.json["expires_in"] == 36000
            bearer = {"Authorization": f"Bearer {answer.json['access_token']}"}
            seen = []
            for _ in range(4):
                seen.append((await client.get("/Claim", headers=bearer)).status)
                now += 2
            assert seen == [200] * served + [401] * (4 - served)


async def test_reads_and_types_can_be_struck_too(sandboxed: Any) -> None:
    faults = Faults(error_before=1.0, applies_to="reads", resource_types=("Coverage",))
    async with sandboxed(faults=faults) as client:
        assert (await client.get("/Coverage")).status >= 500
        assert (await client.get("/Claim")).status == 200
        assert (await client.post(coverage())).status == 201


async def test_a_client_that_gives_up_does_not_stop_the_write(sandboxed: Any) -> None:
    async with sandboxed(faults=Faults(latency_s=(0.04, 0.04))) as client:
        with pytest.raises(TimeoutError):
            await client.post(payment(1), timeout=aiohttp.ClientTimeout(total=0.01))
        await client.post(payment(2))
        account = client.sandbox.account()
        assert sorted(effect["amount"] for effect in account["effects"]) == ["1.00", "2.00"]
        assert account["open_writes_max"] == 1
