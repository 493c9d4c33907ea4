"""The facts of 2026-11 about Coverage (docs/canvas.md): subscribers, claims, taken orders, the practice's day, plan types."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.sandbox import Sandbox

from .bodies import ADA, BEN, OTHER_PAYER, PAYER, SEED, V2025, concept, coverage

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Client

LINKED = "A coverage can only be removed if it hasn't been linked to a claim"
OF_ADA = {"id": "0c1dfefb-3fe0-4ee7-bd44-636f7be073e9", "patient": ADA, "member_id": "M-1"}


def relationship(code: str) -> dict[str, Any]:
    return concept(f"{V2025}/subscriber-relationship", code)


@pytest.mark.parametrize(
    ("code", "subscriber", "said"),
    [
        ("self", BEN, "The subscriber must be the patient if the relationship is self"),
        ("child", ADA, "The subscriber must be another patient unless the relationship is self"),
    ],
)
async def test_a_subscriber_that_contradicts_the_relationship(
    client: Client, code: str, subscriber: str, said: str
) -> None:
    changes = {
        "relationship": relationship(code),
        "subscriber": {"reference": f"Patient/{subscriber}"},
    }
    answer = await client.post(coverage(**changes))
    assert (answer.status, answer.issues) == (422, [("business-rule", said)])
    created = await client.post(coverage())
    answer = await client.put(coverage(id=created.id, **changes))
    assert (answer.status, answer.issues) == (422, [("business-rule", said)])


@pytest.mark.parametrize("is_seeded", [True, False])
async def test_a_coverage_that_is_linked_to_a_claim_cannot_be_cancelled(
    sandboxed: Any, is_seeded: bool
) -> None:
    seed = {**SEED, "claims": [*SEED["claims"], OF_ADA] if is_seeded else SEED["claims"]}
    async with sandboxed(seed=seed) as client:
        linked = await client.post(coverage())
        other = await client.post(coverage(**_member("M-2")))
        if not is_seeded:
            client.sandbox.add_by_hand("Claim", OF_ADA)
        answer = await client.put(coverage(id=linked.id, status="cancelled"))
        assert (answer.status, answer.issues) == (422, [("business-rule", LINKED)])
        assert (
            await client.put(coverage(id=linked.id, period={"end": "2026-01-01"}))
        ).status == 200
        cancelled = coverage(id=other.id, status="cancelled", **_member("M-2"))
        assert (await client.put(cancelled)).status == 200


def _member(value: str) -> dict[str, Any]:
    return {"identifier": [{**coverage()["identifier"][0], "value": value}]}


async def test_a_taken_order_is_refused_if_asked_for(sandboxed: Any) -> None:
    noon = datetime(2026, 11, 30, 3, tzinfo=UTC).timestamp()  # still the 29th in New York
    zone = {"timezone": "America/New_York", "clock": lambda: noon}
    async with sandboxed(taken_order="refuse", **zone) as client:
        first = await client.post(coverage(period={"start": "2026-01-01"}))
        second = await client.post(coverage(period={"start": "2026-01-01"}, order=2))
        for answer in (
            await client.post(coverage()),
            await client.put(coverage(id=second.id, order=1)),
        ):
            said = "The patient already has a coverage with coverage rank 1"
            assert (answer.status, answer.issues) == (422, [("business-rule", said)])
        assert (await client.put(coverage(id=first.id, period={"end": "2026-11-30"}))).status == 200
        assert (await client.post(coverage())).status == 422, "it ends tomorrow, in the practice"
        assert (await client.put(coverage(id=first.id, period={"end": "2026-11-29"}))).status == 200
        assert (await client.post(coverage())).status == 201
        assert (await client.post(coverage(status="cancelled", order=2))).status == 201
        assert {each["order"] for each in client.sandbox.resources("Coverage")} == {1, 2}


async def test_a_missing_start_is_the_practices_day(sandboxed: Any) -> None:
    at = datetime(2026, 11, 30, 3, tzinfo=UTC).timestamp()
    for zone, day in (("UTC", "2026-11-30"), ("America/New_York", "2026-11-29")):
        async with sandboxed(timezone=zone, clock=lambda: at) as client:
            created = await client.post(coverage(period=None))
            assert (await client.get(f"/Coverage/{created.id}")).json["period"] == {"start": day}
    with pytest.raises(ValueError, match="no time zone 'Mars/Olympus'"):
        Sandbox(timezone="Mars/Olympus")


async def test_a_coverage_takes_its_payers_plan_type_when_it_is_written(
    sandboxed: Any, tmp_path: Path
) -> None:
    organizations = [
        {**each, "plan_type": kind}
        for each, kind in zip(SEED["organizations"], ("Medicare", "Commercial"), strict=True)
    ]
    settings: dict[str, Any] = {
        "seed": {**SEED, "organizations": organizations},
        "state": tmp_path / "state.jsonl",
    }
    async with sandboxed(**settings) as client:
        created = await client.post(coverage())
        assert client.sandbox.account()["plan_types"][created.id] == "Medicare"
        client.sandbox.set_plan_type(PAYER, "Medicaid")
        assert client.sandbox.account()["plan_types"][created.id] == "Medicare", "not yet written"
        await client.put(coverage(id=created.id))
        assert client.sandbox.account()["plan_types"][created.id] == "Medicaid"
        assert "Medicaid" not in str((await client.get(f"/Coverage/{created.id}")).json)
        payor = [{"reference": f"Organization/{OTHER_PAYER}", "type": "Organization"}]
        await client.put(coverage(id=created.id, payor=payor))
    async with sandboxed(**settings) as client:
        assert client.sandbox.account()["plan_types"][created.id] == "Commercial"
