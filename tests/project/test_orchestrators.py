"""The examples for Dagster, Prefect and Airflow, each run by its own library, and the OpenLineage event.

Each library has an environment of its own under `.venv-orchestrators/` (`make orchestrators`), and the tests of one that is
not there are skipped. The command that an example calls is ours, with another configuration in place of its own; the
load goes to a local Canvas.
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.runs import payments
from tests.support.world import CREDENTIALS, LEDGER_ONLY, MakeWorld, World, patient_key

pytestmark = pytest.mark.slow  # they start programs

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
MARK = "RESULT "
GOOD = 5

# The shell line that is `canvas-ingest` in these environments: our own, with the configuration of the test.
SHIM = """#!/bin/sh
command=$1
shift 2
PYTHONPATH="{root}" exec "{python}" -m pipeline "$command" "{config}" "$@"
"""

DAGSTER = """
import json
import dagster as dg
import dagster_asset
done = dg.materialize([dagster_asset.canvas], raise_on_error=False)
assert dagster_asset.defs.resolve_job_def("canvas_ingest")
events = done.asset_materializations_for_node("canvas")
found = {name: value.value for each in events for name, value in each.metadata.items()}
failed = [each.step_failure_data.error.message for each in done.get_step_failure_events()]
retried = [each for each in done.all_events if each.is_step_up_for_retry]
print("RESULT " + json.dumps({"success": done.success, "metadata": found, "failed": failed, "retried": len(retried)}))
"""

PREFECT = """
import asyncio, json
from prefect.client.orchestration import get_client
from prefect.testing.utilities import prefect_test_harness
import prefect_flow

async def artifacts():
    async with get_client() as client:
        return [json.loads(each.data) for each in await client.read_artifacts() if each.type == "table"]

with prefect_test_harness(server_startup_timeout=120):
    state = prefect_flow.nightly(return_state=True)
    found = asyncio.run(artifacts())
    result = state.result(raise_on_failure=False)
    failed = [str(result)] if state.is_failed() else []
    print("RESULT " + json.dumps({
        "success": state.is_completed(), "metadata": found, "failed": failed,
        "returned": {} if failed else result,
    }))
"""

AIRFLOW = """
import json, subprocess, sys
airflow = [sys.executable, "-m", "airflow"]
subprocess.run([*airflow, "db", "migrate"], check=True, stdout=subprocess.DEVNULL)
subprocess.run([*airflow, "dags", "reserialize"], check=True, stdout=subprocess.DEVNULL)
from airflow.models import TaskInstance
from airflow.models.asset import AssetEvent
from airflow.utils.session import create_session
import airflow_dag
done = airflow_dag.dag.test()
with create_session() as session:
    states = {each.task_id: str(each.state) for each in session.query(TaskInstance)}
    events = [each.extra for each in session.query(AssetEvent)]
print("RESULT " + json.dumps({"success": str(done.state) == "success", "metadata": events, "states": states}))
"""

# The package has no schema, but classes that are generated from it: they refuse what it does not know.
OPENLINEAGE = """
import json, sys
from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.facet_v2 import (
    dataset_version_dataset, error_message_run, input_statistics_input_dataset, output_statistics_output_dataset,
)
from openlineage.client.serde import Serde

FACETS = {
    "errorMessage": error_message_run.ErrorMessageRunFacet,
    "version": dataset_version_dataset.DatasetVersionDatasetFacet,
    "inputStatistics": input_statistics_input_dataset.InputStatisticsInputDatasetFacet,
    "outputStatistics": output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet,
}

def made(facets):
    found = {}
    for name, values in facets.items():
        given = {key: value for key, value in values.items() if not key.startswith("_")}
        found[name] = FACETS[name](**given, producer=values["_producer"])
    return found

event = json.load(sys.stdin)
run, job = event["run"], event["job"]
again = RunEvent(
    eventType=RunState(event["eventType"]), eventTime=event["eventTime"], producer=event["producer"],
    run=Run(run["runId"], made(run["facets"])), job=Job(job["namespace"], job["name"]),
    inputs=[
        InputDataset(each["namespace"], each["name"], facets=made(each["facets"]), inputFacets=made(each["inputFacets"]))
        for each in event["inputs"]
    ],
    outputs=[
        OutputDataset(each["namespace"], each["name"], outputFacets=made(each["outputFacets"]))
        for each in event["outputs"]
    ],
)
print("RESULT " + Serde.to_json(again))
"""


def python_of(name: str) -> str:
    path = ROOT / ".venv-orchestrators" / name / "bin" / "python"
    if not path.exists():
        pytest.skip(f"{name} is not installed: make orchestrators")
    return str(path)


async def run_by(name: str, driver: str, world: World, **environment: str) -> dict[str, Any]:
    """Run a driver in the environment of a library; return what it prints behind the mark."""
    python = python_of(name)
    home = world.folder / name
    bin_ = home / "bin"
    bin_.mkdir(parents=True)
    shim = bin_ / "canvas-ingest"
    shim.write_text(SHIM.format(root=ROOT, python=sys.executable, config=world.config))
    shim.chmod(0o755)
    process = await asyncio.create_subprocess_exec(
        python,
        "-c",
        driver,
        cwd=home,
        env={
            "PATH": f"{bin_}:{Path(python).parent}:{os.defpath}",
            "HOME": str(home),
            "PYTHONPATH": str(EXAMPLES),
            **CREDENTIALS,
            **environment,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = (text.decode() for text in await process.communicate())
    lines = [line for line in out.splitlines() if line.startswith(MARK)]
    assert lines, f"{out[-2000:]}\n{err[-4000:]}"
    assert patient_key(1) not in out + err, "no value of a row is in a log"
    found: dict[str, Any] = json.loads(lines[-1].removeprefix(MARK))
    return found


async def world_of(make_world: MakeWorld, *, is_good: bool = True) -> World:
    """A ledger of five payments and a row to correct; or a configuration that cannot be used."""
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY if is_good else LEDGER_ONLY.replace("path", "pth"))
    world.write_ledger([*payments(GOOD), ("T9", patient_key(1), "n/a", "")])
    return world


async def test_dagster_has_rows_and_dollars_as_metadata(make_world: MakeWorld) -> None:
    world = await world_of(make_world)
    found = await run_by("dagster", DAGSTER, world, DAGSTER_DISABLE_TELEMETRY="yes")
    assert found["success"], "rows to correct are no failure"
    metadata = found["metadata"]
    assert (metadata["ledger/rows"], metadata["ledger/created"]) == (GOOD + 1, GOOD)
    assert metadata["ledger/rejected"] == 1
    assert metadata["ledger/created_usd"] == pytest.approx(5.10)
    assert len(world.effects) == GOOD


async def test_dagster_does_not_try_again_what_needs_a_person(make_world: MakeWorld) -> None:
    world = await world_of(make_world, is_good=False)
    found = await run_by("dagster", DAGSTER, world, DAGSTER_DISABLE_TELEMETRY="yes")
    assert (found["success"], found["retried"], found["metadata"]) == (False, 0, {})
    assert "canvas-ingest ended with 2: config.toml: feeds[1].path" in found["failed"][0]


async def test_prefect_has_rows_and_dollars_as_an_artifact(make_world: MakeWorld) -> None:
    world = await world_of(make_world)
    found = await run_by("prefect", PREFECT, world)
    assert found["success"], "rows to correct are no failure"
    assert found["returned"]["exit_code"] == 3
    ((rows, dollars),) = found["metadata"]
    assert (rows["feed"], rows["read"], rows["created"], rows["rejected"]) == ("ledger", 6, 5, 1)
    assert (dollars["feed"], dollars["created"]) == ("ledger USD", "5.10")
    assert len(world.effects) == GOOD


async def test_prefect_does_not_try_again_what_needs_a_person(make_world: MakeWorld) -> None:
    world = await world_of(make_world, is_good=False)
    found = await run_by("prefect", PREFECT, world)
    assert (found["success"], found["metadata"]) == (False, [])
    assert "canvas-ingest ended with 2: config.toml: feeds[1].path" in found["failed"][0]


async def test_airflow_has_rows_and_dollars_in_the_event_of_the_asset(
    make_world: MakeWorld, tmp_path: Path
) -> None:
    world = await world_of(make_world)
    dags = tmp_path / "dags"
    dags.mkdir()
    shutil.copy(EXAMPLES / "airflow_dag.py", dags)
    found = await run_by(
        "airflow",
        AIRFLOW,
        world,
        AIRFLOW_HOME=str(tmp_path / "airflow-home"),
        AIRFLOW__CORE__LOAD_EXAMPLES="false",
        AIRFLOW__CORE__DAGS_FOLDER=str(dags),
        PYTHONPATH=str(dags),
    )
    assert found["states"] == {"load": "success", "read_back": "success"}
    (event,) = found["metadata"]
    assert event["feeds"]["ledger"]["rows"]["created"] == GOOD
    assert event["feeds"]["ledger"]["usd"]["created"] == "5.10"
    assert event["exit_code"] == 3
    assert len(world.effects) == GOOD


# OpenLineage --------------------------------------------------------------------------------------


def event_of(folder: Path) -> dict[str, Any]:
    """Return what the example prints for the summary in a folder of a report."""
    program = [sys.executable, str(EXAMPLES / "openlineage_event.py"), str(folder / "summary.json")]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


async def test_an_event_of_openlineage_names_files_by_hash_and_what_they_became(
    make_world: MakeWorld,
) -> None:
    world = await world_of(make_world)
    result = await world.run()
    event = event_of(result.folder)
    (given,) = event["inputs"]
    assert (event["eventType"], given["name"]) == ("COMPLETE", str(world.folder / "ledger.csv"))
    sha256 = result.summary["feeds"][0]["files"][0]["sha256"]
    assert given["facets"]["version"]["datasetVersion"] == f"sha256:{sha256}"
    (made,) = event["outputs"]
    assert (made["namespace"], made["name"]) == (world.url, "PaymentNotice")
    assert made["outputFacets"]["outputStatistics"]["rowCount"] == GOOD
    assert event_of(result.folder)["run"]["runId"] == event["run"]["runId"], "of one run, one id"


def written_by(python: str, event: dict[str, Any]) -> dict[str, Any]:
    """Return an event as the library writes it."""
    done = subprocess.run(
        [python, "-c", OPENLINEAGE],
        input=json.dumps(event),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.removeprefix(MARK))
    return found


@pytest.mark.parametrize("is_there", [True, False])
async def test_the_library_of_openlineage_writes_the_same_event(
    make_world: MakeWorld, *, is_there: bool
) -> None:
    python = python_of("openlineage")
    world = await world_of(make_world)
    if not is_there:
        (world.folder / "ledger.csv").unlink()
    event = event_of((await world.run()).folder)
    assert event["eventType"] == ("COMPLETE" if is_there else "FAIL")
    again = written_by(python, event)
    # The library's defaults: facets that are empty, and its own version of the event's schema.
    assert _lean(again) == _lean(event)


def _lean(value: Any) -> Any:
    """Return a value without what is empty, and without the version of the event's schema."""
    if isinstance(value, dict):
        lean = {name: _lean(each) for name, each in value.items() if name != "schemaURL"}
        return {name: each for name, each in lean.items() if each not in (None, {}, [])}
    return [_lean(each) for each in value] if isinstance(value, list) else value
