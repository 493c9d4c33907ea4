"""Limits that no answer of Canvas can change stop a run before Canvas is searched, with a report; all are named."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import polars as pl
import pytest

from pipeline.commands import run as engine
from pipeline.errors import LimitError
from pipeline.reading.manifest import Expected
from pipeline.sandbox import Sandbox, serve
from tests.support.world import FEEDS, MakeWorld, World, patient_key, seed

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


# Patients are searched ------------------------------------------------------------------------------

SEARCH = '[references.patient]\nhow = "search"\nsystem = "https://practice.example/mrn"\n'


@pytest.mark.parametrize(
    ("limits", "expected", "last", "wanted"),
    [
        ('rejects_max = "10%"', {}, False, "4 of 8 rows rejected (50.0%)"),
        ("", {"rows": 9}, False, "the sender says rows=9"),
        ("change_max = 1.5", {}, True, "more than limits.change_max"),
    ],
)
@pytest.mark.parametrize("only_plan", [True, False])
async def test_patients_are_not_searched_for_files_that_are_refused(
    make_world: MakeWorld,
    limits: str,
    expected: Mapping[str, int],
    last: bool,
    wanted: str,
    only_plan: bool,
) -> None:
    world = await make_world()
    if last:
        world.write_config(feeds=ROSTER)
        world.write_eligibility(GOOD[:1])
        assert (await world.run()).exit_code == 0
    world.write_config(feeds=SEARCH + ROSTER, limits=limits)
    world.write_eligibility([*GOOD, *BAD])
    before = world.sandbox.account()["requests"]["total"]
    job = world.job(expected={"eligibility": Expected(**expected)} if expected else {})
    result = await (engine.plan(job) if only_plan else engine.run(job))
    assert isinstance(result.failure, LimitError)
    assert wanted in str(result.failure)
    assert result.summary["requests"]["total"] == 0
    assert world.sandbox.account()["requests"]["total"] == before, "the server saw no request"
    assert result.summary["feeds"][0]["rules"] == {"relationship|code": 4}
    (told,) = (each for each in result.summary["warnings"] if each["rule"] == "patients|unsearched")
    assert told["message"].startswith("Canvas was not searched for 4 patients, because a limit")


async def test_rows_of_unknown_patients_count_once_canvas_was_searched(
    make_world: MakeWorld,
) -> None:
    world = await make_world()
    world.write_config(feeds=SEARCH + ROSTER, limits='rejects_max = "60%"')
    world.write_eligibility([*GOOD, *BAD])
    result = await world.run()
    assert "8 of 8 rows rejected" in str(result.failure)
    assert result.summary["requests"]["total"] > 0


@pytest.mark.parametrize("only_plan", [True, False])
async def test_rows_that_were_sent_before_are_not_called_changed(
    tmp_path: Path, only_plan: bool
) -> None:
    """Their patients are not known, and made-up ones differ from those that were sent."""
    content = seed(4)
    for number, patient in enumerate(reversed(content["patients"])):
        patient["identifiers"] = [{"system": "https://practice.example/mrn", "value": f"P{number}"}]
    sandbox = Sandbox(content)
    async with serve(sandbox) as url:
        world = World(tmp_path, sandbox, url)
        world.write_config(feeds=SEARCH + FEEDS, limits='rejects_max = "10%"')
        world.write_eligibility(
            [(f"P{n}", f"W{n}", "self", "60054", "1", "2026-01-01", "") for n in range(4)]
        )
        world.write_ledger([(f"T{n}", f"P{n}", "1.00", "") for n in range(4)])
        assert (await world.run()).exit_code == 0
        shutil.rmtree(world.folder / "state" / "plans")  # so that each row is judged again
        (world.folder / "state" / "plans").mkdir(mode=0o700)
        job = world.job(expected={"ledger": Expected(rows=9)})
        result = await (engine.plan(job) if only_plan else engine.run(job))
    assert "the sender says rows=9" in str(result.failure)
    assert result.summary["feeds"][1]["rules"] == {}
    assert result.frame.filter(pl.col("disposition") == "rejected").is_empty()
    assert not any(feed["changes"] for feed in result.summary["feeds"])
    assert "patients|unsearched" in {each["rule"] for each in result.summary["warnings"]}
