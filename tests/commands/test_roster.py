"""A roster night by night: who joins, changes the plan, leaves, and is back; at last changes come as an X12 834.

`golden/roster/` has the file of each night, and beside it (`.txt`) what its rows came to and what Canvas held then;
`GOLDEN=write` writes these anew, for a person to read. A further night is a further file.
"""

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.commands import run as engine
from pipeline.commands.run import Result
from tests.support.missing_lines import missing_lines
from tests.support.nightly import Clock, held
from tests.support.runs import counts
from tests.support.world import MakeWorld, World

STORY = Path(__file__).parents[1] / "golden" / "roster"
FIRST_NIGHT = datetime(2026, 12, 1, 8, tzinfo=UTC)  # 3 o'clock in New York
CONFIG = """
[[feeds]]
name = "roster"
kind = "eligibility"
path = "roster.{suffix}"
timezone = "America/New_York"
missing = "end"
missing_max = "50%"
"""
COLUMNS = {
    "csv": """
[feeds.columns]
patient = "MRN"
member_id = "Member"
relationship = "Rel"
payer = "Payer"
order = "Order"
plan = "Plan"
start_on = "Start"
end_on = "End"
""",
    "834": """
[feeds.constants]
order = "1"
[feeds.columns]
patient = "reference_23"
member_id = "subscriber_number"
relationship = "relationship_code"
payer = "payer_id"
plan = "plan"
start_on = "start"
end_on = "end"
[feeds.codes.relationship]
"18" = "self"
""",
}


async def test_a_roster_night_by_night(make_world: MakeWorld) -> None:
    clock = Clock(FIRST_NIGHT)
    world = await make_world(patients=10, clock=clock)
    nights = sorted(path for path in STORY.iterdir() if path.suffix != ".txt")
    assert len(nights) >= 5
    for night in nights:
        suffix = night.suffix.removeprefix(".")
        world.write_config(feeds=CONFIG.format(suffix=suffix) + COLUMNS[suffix])
        shutil.copy(night, world.folder / f"roster.{suffix}")
        result = await engine.run(world.job(), clock=clock)
        text = f"{night.stem}\n{story_of(world, result)}\n"
        golden = night.with_suffix(".txt")
        if os.environ.get("GOLDEN") == "write":
            golden.write_text(text)
        assert text == golden.read_text(), night.name
        before = len(world.effects)
        again = await engine.run(world.job(), clock=clock)
        assert (again.exit_code, len(world.effects)) == (0, before), "the same again sends nothing"
        clock.next_day()


def story_of(world: World, result: Result) -> str:
    """Return a night as text: rows that changed, rows that are gone, warnings, and all coverages."""
    columns = ("row", "disposition", "interaction", "rule")
    rows = [line for line in result.frame.select(columns).iter_rows() if line[1] != "unchanged"]
    gone = [f"{each['outcome']} on {each['end_on']}" for each in missing_lines(result, "roster")]
    lines = [
        f"exit {result.exit_code}, {counts(result)}",
        *("row " + " ".join(str(cell) for cell in line if cell) for line in rows),
        *(f"gone: {each}" for each in gone),
        *(f"warning: {each['rule']} {each['count']}" for each in result.summary["warnings"]),
    ]
    for each in sorted(held(world), key=lambda one: (_member(one), one["period"]["start"])):
        period, plan = each["period"], each["class"][0]["value"]
        until = period.get("end", "...")
        lines.append(
            f"  {_member(each)} {plan} {each['status']}, order {each['order']}: {period['start']} to {until}"
        )
    return "\n".join(lines)


def _member(coverage: dict[str, Any]) -> str:
    return str(coverage["identifier"][0]["value"])
