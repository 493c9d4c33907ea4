"""Payments in doubt, made by faults of the local Canvas."""

from typing import Any

from pipeline.canvas.transport import Reply
from pipeline.commands.decisions import Decisions
from pipeline.commands.review import Review, review
from pipeline.sandbox import Faults
from tests.support.runs import counts
from tests.support.world import LEDGER_ONLY, MakeWorld, World, patient_key

LOST = Reply(None, {}, b"", handed_off=True, latency_s=0.0, problem="disconnected")


THROTTLED = Reply(429, {"retry-after": "0"}, b"", handed_off=True, latency_s=0.0)


async def doubtful(make_world: MakeWorld, faults: Faults, *, rows: int = 2) -> World:
    """Return a world whose payments are all in doubt, and whose faults are over."""
    world = await make_world(faults=faults)
    world.write_config(feeds=LEDGER_ONLY, doubts_max=1000, quiet_s=0.05)
    world.write_ledger([(f"T{n}", patient_key(n), "20.00", "") for n in range(rows)])
    assert counts(await world.run()) == {"in_doubt": rows}
    world.sandbox.set_faults(Faults())
    return world


def paid_by_hand(world: World, patient: str, amount: float = 20.0) -> str:
    return world.sandbox.add_by_hand(
        "PaymentNotice",
        {
            "status": "active",
            "request": {"reference": f"Patient/{patient}"},
            "amount": {"value": amount, "currency": "USD"},
        },
    )


async def decide(world: World, **decisions: Any) -> Review:
    return await review(world.job(), Decisions(**{"who": "Pat", **decisions}))


def keys(reviewed: Review) -> dict[str, str]:
    """Return the keys by patient."""
    return {case.doubt.intent.lane: case.doubt.intent.key for case in reviewed.cases}
