"""A DAG for Airflow 3: the nightly load, with its result as metadata, then a sample read back.

The command runs on the worker, which must keep state.dir from night to night (one worker, or a
volume of its own). CANVAS_CLIENT_ID and CANVAS_CLIENT_SECRET come from the worker's environment. Rows
and dollars by feed and disposition are the `extra` of the asset's event, and the task's XCom. No value of
a row is among them.

Exit code 3 is a load that is done, with rows for people to correct: green, with a warning in the task's
log; [notify] of the configuration tells people. 1 and 130 are tried again, for a run goes on where the last
one ended; 2, 4 and 5 need a person first. When a task is ended Airflow sends SIGTERM and waits
`killed_task_cleanup_time` (60 s unless set): set it to 120, so that what is in flight is finished and
reported.
"""

import json
import logging
import subprocess
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, Asset, task
from airflow.sdk.exceptions import AirflowException, AirflowFailException

COMMAND = ["canvas-ingest", "run", "/etc/canvas-ingest/nightly.toml", "--json"]
DONE, ROWS_TO_CORRECT = 0, 3
AGAIN = (1, 130)
CANVAS = Asset("canvas", uri="x-canvas://example/coverages-and-payments")


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


def metadata_of(summary: dict[str, Any]) -> dict[str, Any]:
    """Return the run's id, and rows and dollars by feed and disposition."""
    return {
        "run_id": summary["run_id"],
        "exit_code": summary["exit_code"],
        "feeds": {
            feed["name"]: {"rows": feed["dispositions"], "usd": feed.get("amount_usd", {})}
            for feed in summary["feeds"]
        },
    }


with DAG(
    "canvas_ingest",
    schedule="30 2 * * *",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,  # a night is not made up for: the next one loads what is there
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=10)},
) as dag:

    @task(
        outlets=[CANVAS],
        execution_timeout=timedelta(hours=3),  # then SIGTERM; the rest is sent the next night
    )
    def load(*, outlet_events: Any = None) -> dict[str, Any]:
        """Load the night's files into Canvas."""
        code, summary = run()
        if code not in (DONE, ROWS_TO_CORRECT):
            why = summary.get("failure") or "see its messages above"
            error = AirflowException if code in AGAIN else AirflowFailException
            raise error(f"canvas-ingest ended with {code}: {why}")
        if code == ROWS_TO_CORRECT:
            logging.getLogger(__name__).warning(
                "Loaded, with rows to correct: see rejects-*.csv in the report's folder."
            )
        metadata = metadata_of(summary)
        outlet_events[CANVAS].extra = metadata
        return metadata

    read_back = BashOperator(
        task_id="read_back",
        bash_command="exec canvas-ingest verify /etc/canvas-ingest/nightly.toml --sample 500 --log-format json",
    )
    load() >> read_back
