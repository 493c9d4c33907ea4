"""A nightly file and what Canvas holds of it."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from pipeline.clock import SystemClock
from pipeline.commands import run as engine
from pipeline.commands.run import Result
from tests.support.runs import counts
from tests.support.world import PAYER, MakeWorld, World, patient_key

FEED = """
[[feeds]]
name = "eligibility"
kind = "eligibility"
path = "eligibility.csv"
key = ["patient", "member_id"]
{more}
[feeds.columns]
patient = "MRN"
member_id = "Member"
relationship = "Rel"
payer = "Payer"
order = "Order"
start_on = "Start"
end_on = "End"
"""


Row = tuple[int, str, int, str]  # patient, member id, order, end


def write(world: World, rows: Sequence[Row]) -> None:
    world.write_eligibility(
        [
            (patient_key(number), member, "self", "60054", str(order), "2026-01-01", end)
            for number, member, order, end in rows
        ]
    )


class Clock(SystemClock):
    """Canvas' own clock, which a night moves on. It can be the clock of a run, too."""

    def __init__(self, at: datetime | None = None) -> None:
        super().__init__()
        self._ahead_s = at.timestamp() - time.time() if at else 0.0

    def __call__(self) -> float:
        return time.time() + self._ahead_s

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=self._ahead_s)

    def next_day(self, days: int = 1) -> None:
        self._ahead_s += 86_400.0 * days


async def nightly(make_world: MakeWorld, rows: Sequence[Row], more: str = "") -> World:
    """Return a Canvas that took these rows last night."""
    clock = Clock()
    world = await make_world(patients=40, clock=clock)
    world.write_config(feeds=FEED.format(more=more))
    write(world, rows)
    assert counts(await world.run()) == {"created": len(rows)}
    clock.next_day()
    return world


def held(world: World) -> list[dict[str, Any]]:
    return world.sandbox.resources("Coverage")


def coverage(world: World, member: str) -> dict[str, Any]:
    (found,) = [each for each in held(world) if each["identifier"][0]["value"] == member]
    return found


def orders(world: World, number: int) -> dict[str, int]:
    """Return the orders of a patient's active coverages, by member id."""
    return {
        each["identifier"][0]["value"]: each["order"]
        for each in held(world)
        if each["beneficiary"]["reference"].endswith(patient_key(number))
        and each["status"] == "active"
    }


def enter(world: World, number: int, member: str, order: int = 1, **more: Any) -> str:
    """Enter a coverage as a person does."""
    patient = {"reference": f"Patient/{patient_key(number)}", "type": "Patient"}
    kind = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "MB"}]}
    system = "http://terminology.hl7.org/CodeSystem/subscriber-relationship"
    made = {
        "identifier": [{"type": kind, "value": member}],
        "status": "active",
        "subscriber": patient,
        "subscriberId": member,
        "beneficiary": patient,
        "relationship": {"coding": [{"system": system, "code": "self"}]},
        "period": {"start": "2026-01-01"},
        "payor": [
            {
                "reference": f"Organization/{PAYER['id']}",
                "type": "Organization",
                "display": PAYER["name"],
            }
        ],
        "order": order,
        **more,
    }
    return world.sandbox.add_by_hand("Coverage", made)


def writes(world: World) -> int:
    return len(world.effects)


async def stopped(world: World, at: int, clock: Clock | None = None) -> Result:
    """Run, and stop as soon as Canvas has made this many writes in all."""
    stop = asyncio.Event()
    running = asyncio.create_task(engine.run(world.job(), stop=stop, clock=clock))
    while writes(world) < at and not running.done():
        await asyncio.sleep(0.001)
    stop.set()
    return await running


def rules(result: Result) -> dict[str, int]:
    return dict(Counter(rule for rule in result.frame["rule"] if rule))


def told(world: World, result: Result) -> str:
    """Return a night as text: the end of each row that was not simply unchanged, and of missing rows."""
    lines = [f"exit code {result.exit_code}"]
    columns = ("row", "disposition", "interaction", "rule", "message")
    lines += [
        " | ".join(str(cell) for cell in line).rstrip(" |")
        for line in result.frame.select(columns).iter_rows()
        if line[1:4] != ("unchanged", "", "")
    ]
    lines.append(f"counts {counts(result)}")
    missing = {**result.summary["feeds"][0]["missing"]}
    missing["compared_with"] = bool(missing["compared_with"])
    lines.append(f"missing {missing}")
    for each in sorted(held(world), key=lambda one: str(one["identifier"][0]["value"])):
        period = each["period"]
        until = period.get("end", "...")
        member, status = each["identifier"][0]["value"], each["status"]
        lines.append(f"  {member} {status} order {each['order']} {period['start']} to {until}")
    return "\n".join(lines)


MANY: list[Row] = [(number, f"m{number}", 1, "") for number in range(30)]


def gone(result: Result) -> dict[str, Any]:
    told: dict[str, Any] = result.summary["feeds"][0]["missing"]
    return {word: count for word, count in told.items() if count and isinstance(count, int)}
