"""Limits that no answer of Canvas can change stop a run before Canvas is searched, with a report; all are named."""

from collections.abc import Mapping

import pytest

from pipeline.errors import LimitError
from pipeline.reading.manifest import Expected
from tests.support.world import FEEDS, MakeWorld, patient_key

ROSTER = FEEDS[: FEEDS.rindex("[[feeds]]")]
GOOD = [(patient_key(n), f"W{n}", "self", "60054", "1", "2026-01-01", "") for n in range(4)]
BAD = [(patient_key(n), f"X{n}", "nephew", "60054", "1", "2026-01-01", "") for n in range(4)]


@pytest.mark.parametrize(
    ("limits", "expected", "wanted"),
    [
        ('rejects_max = "10%"', {}, ["above limits.rejects_max"]),
        ("", {"rows": 9}, ["the sender says rows=9"]),
        (
            'rejects_max = "10%"',
            {"rows": 9},
            ["the sender says rows=9", "above limits.rejects_max"],
        ),
    ],
)
async def test_files_that_are_refused_cost_no_search(
    make_world: MakeWorld, limits: str, expected: Mapping[str, int], wanted: list[str]
) -> None:
    world = await make_world()
    world.write_config(feeds=ROSTER, limits=limits)
    world.write_eligibility([*GOOD, *BAD])
    totals = {"eligibility": Expected(**expected)} if expected else {}
    result = await world.run(expected=totals)
    assert isinstance(result.failure, LimitError)
    assert [text for text in wanted if text not in str(result.failure)] == []
    searches = result.summary["requests"]["searches"]
    assert (result.exit_code, world.effects, searches) == (1, [], 0)
    assert (result.folder / "rejects-eligibility.csv").exists(), "what is wrong is reported"
