"""The JSON Schema of summary.json, which is shipped, by an independent validator against real summaries."""

import asyncio
import json
import subprocess
import sys
from copy import deepcopy
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from pipeline.app import demo
from pipeline.commands import run as engine
from pipeline.commands import verify as verification
from pipeline.job import Progress
from pipeline.sandbox import Faults
from tests.support.runs import coverages, payments
from tests.support.world import FEEDS, LEDGER_ONLY, MakeWorld, patient_key

jsonschema: Any = pytest.importorskip("jsonschema")  # it has no types

SCHEMA: dict[str, Any] = json.loads(
    files("pipeline.reporting").joinpath("summary.schema.json").read_text("utf-8")
)


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """The same, in which a key that is not described is an error; readers must allow one."""
    schema = deepcopy(schema)
    branches = schema.pop("oneOf")
    for branch in branches:
        branch["properties"] = {**schema["properties"], **branch["properties"]}
    schema.pop("properties")
    schema["oneOf"] = branches

    def close(part: Any) -> None:
        if isinstance(part, dict):
            if "properties" in part:
                part["additionalProperties"] = False
            for each in part.values():
                close(each)
        elif isinstance(part, list):
            for each in part:
                close(each)

    close(schema)
    return schema


def errors_in(summary: dict[str, Any], schema: dict[str, Any]) -> list[str]:
    jsonschema.Draft202012Validator.check_schema(schema)
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    validator = jsonschema.Draft202012Validator(schema, format_checker=checker)
    found = []
    for error in validator.iter_errors(summary):
        # The branch of this command says why; the other one only that it is another command.
        at = 1 if summary["command"] == "verify" else 0
        inner = [each for each in error.context or [error] if (each.schema_path or [at])[0] == at]
        found += [f"{each.json_path}: {each.message[:200]}" for each in inner]
    return found


def check(result: engine.Result) -> None:
    written = json.loads((result.folder / "summary.json").read_bytes())
    assert errors_in(written, SCHEMA) == []
    assert errors_in(written, strict(SCHEMA)) == [], (
        "pipeline/reporting/summary.schema.json lacks it"
    )


@pytest.mark.slow
def test_the_summary_of_the_demo(tmp_path: Path) -> None:
    run = demo.run_demo(Progress(), asyncio.Event(), "none", tmp_path, rate_per_s=5000.0)
    check(asyncio.run(run))


async def test_summaries_of_plans_runs_and_their_verification(make_world: MakeWorld) -> None:
    world = await make_world()
    world.write_config(
        feeds=FEEDS.replace("[feeds.columns]", 'missing = "end"\n[feeds.columns]', 1)
    )
    world.write_eligibility(coverages())
    world.write_ledger([*payments(20), ("T1", patient_key(1), "x", "")])
    planned = await engine.plan(world.job())
    assert planned.summary["needs"]
    check(planned)
    check(await world.run())
    world.write_eligibility(coverages()[1:])
    check(await world.run())
    check(await verification.read_back(world.job()))


async def test_summaries_of_runs_with_doubts_and_of_the_run_that_settles_them(
    make_world: MakeWorld,
) -> None:
    world = await make_world(faults=Faults(lose_before=1.0))
    world.write_config(feeds=LEDGER_ONLY)
    world.write_ledger(payments(2))
    doubted = await world.run()
    assert doubted.exit_code == 4
    check(doubted)
    world.sandbox.faults = Faults()
    settled = await world.run()
    check(settled)


async def test_the_summary_of_a_run_that_fails_before_it_reads(make_world: MakeWorld) -> None:
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY)
    failed = await world.run()
    assert (failed.exit_code, failed.summary["feeds"][0]["files"]) == (1, [])
    check(failed)


async def test_what_is_wrong_is_found(make_world: MakeWorld) -> None:
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY)
    world.write_ledger(payments(2))
    summary = json.loads(json.dumps((await world.run()).summary))
    assert errors_in(summary, SCHEMA) == []
    more = {**summary, "of_a_later_version": 1}
    assert errors_in(more, SCHEMA) == [], "readers must allow it"
    assert len(errors_in(more, strict(SCHEMA))) == 1
    summary["feeds"][0]["dispositions"].pop("created")
    summary["feeds"][0]["amount_usd"]["read"] = 12.5
    assert len(errors_in(summary, SCHEMA)) == 2


@pytest.mark.slow
def test_the_command_prints_the_schema_that_is_shipped() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "pipeline", "schema", "--for", "summary"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(printed.stdout) == SCHEMA
    assert SCHEMA["title"] == "summary.json of canvas-ingest"
