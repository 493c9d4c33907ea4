"""A Prefect flow: the nightly load, with its result as a table artifact.

    python prefect_flow.py    # serves it: it then runs each night at 02:30

The command runs where the flow does, which must keep state.dir from night to night. CANVAS_CLIENT_ID and
CANVAS_CLIENT_SECRET come from its environment. The artifact has rows and dollars by feed and disposition;
no value of a row.

Exit code 3 is a load that is done, with rows for people to correct: completed, with a warning in the log;
[notify] of the configuration tells people. 1 and 130 are tried again, for a run goes on where the last one
ended; 2, 4 and 5 need a person first.
"""

import json
import subprocess
from typing import Any

from prefect import State, Task, flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.client.schemas.objects import TaskRun
from prefect.schedules import Cron

COMMAND = ["canvas-ingest", "run", "/etc/canvas-ingest/nightly.toml", "--json"]
DONE, ROWS_TO_CORRECT = 0, 3
AGAIN = (1, 130)


class LoadFailed(Exception):
    """The command ended with another code than 0 and 3."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(f"canvas-ingest ended with {code}: {why}")
        self.code = code


def may_try_again(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Return whether a run may go on where this one ended, without a person."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, LoadFailed) and error.code in AGAIN


def run() -> tuple[int, dict[str, Any]]:
    """Return the exit code, and summary.json; it is empty if there is none."""
    process = subprocess.Popen(COMMAND, stdout=subprocess.PIPE, text=True)
    try:
        shown, _ = process.communicate()
    except BaseException:
        process.terminate()
        process.communicate()
        raise
    return process.returncode, json.loads(shown or "{}")


def table_of(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a line a feed, and one for its dollars."""
    lines: list[dict[str, Any]] = []
    for feed in summary["feeds"]:
        lines.append({"feed": feed["name"], "read": feed["rows_read"], **feed["dispositions"]})
        if "amount_usd" in feed:
            lines.append({"feed": f"{feed['name']} USD", **feed["amount_usd"]})
    return lines


@task(retries=2, retry_delay_seconds=600, retry_condition_fn=may_try_again)
def load() -> dict[str, Any]:
    """Load the night's files into Canvas, and leave the totals as an artifact."""
    code, summary = run()
    if code not in (DONE, ROWS_TO_CORRECT):
        raise LoadFailed(code, summary.get("failure") or "see its messages above")
    if code == ROWS_TO_CORRECT:
        get_run_logger().warning(
            "Loaded, with rows to correct: see rejects-*.csv in the report's folder."
        )
    create_table_artifact(
        key="canvas-ingest", table=table_of(summary), description=f"Run {summary['run_id']}"
    )
    return {"run_id": summary["run_id"], "exit_code": code, "balanced": summary["balanced"]}


@flow(name="canvas-ingest")
def nightly() -> dict[str, Any]:
    """The nightly load."""
    return load()


if __name__ == "__main__":
    nightly.serve(name="nightly", schedule=Cron("30 2 * * *", timezone="America/New_York"))
