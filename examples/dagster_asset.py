"""A Dagster asset, its job and its schedule: the nightly load, with its result as metadata.

The command runs where the run worker does, which must keep state.dir from night to night.
CANVAS_CLIENT_ID and CANVAS_CLIENT_SECRET come from its environment. Rows and dollars by feed and
disposition are metadata of each materialization, so Dagster shows them as charts over the nights. No
value of a row is among them.

Exit code 3 is a load that is done, with rows for people to correct: green, with a warning in the run's
log; [notify] of the configuration tells people. 1 and 130 are tried again, for a run goes on where
the last one ended; 2, 4 and 5 need a person first. A run that is ended passes SIGTERM on and waits
until what is in flight is finished and reported: give its pod or process two minutes.
"""

import json
import subprocess
from typing import Any

import dagster as dg

COMMAND = ["canvas-ingest", "run", "/etc/canvas-ingest/nightly.toml", "--json"]
DONE, ROWS_TO_CORRECT = 0, 3
AGAIN = (1, 130)


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


def metadata_of(summary: dict[str, Any]) -> dict[str, dg.MetadataValue[Any]]:
    """Return the run's id, and rows and dollars by feed and disposition."""
    found: dict[str, dg.MetadataValue[Any]] = {"run_id": dg.MetadataValue.text(summary["run_id"])}
    for feed in summary["feeds"]:
        name = feed["name"]
        found[f"{name}/rows"] = dg.MetadataValue.int(feed["rows_read"])
        for word, count in feed["dispositions"].items():
            found[f"{name}/{word}"] = dg.MetadataValue.int(count)
        for word, usd in feed.get("amount_usd", {}).items():
            found[f"{name}/{word}_usd"] = dg.MetadataValue.float(float(usd))
    return found


@dg.asset(retry_policy=dg.RetryPolicy(max_retries=2, delay=600))
def canvas(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
    """Coverages and payments in Canvas."""
    code, summary = run()
    if code == ROWS_TO_CORRECT:
        context.log.warning(
            "Loaded, with rows to correct: see rejects-*.csv in the report's folder."
        )
    elif code != DONE:
        why = summary.get("failure") or "see its messages above"
        raise dg.Failure(f"canvas-ingest ended with {code}: {why}", allow_retries=code in AGAIN)
    return dg.MaterializeResult(metadata=metadata_of(summary))


canvas_ingest = dg.define_asset_job("canvas_ingest", selection=[canvas])
nightly = dg.ScheduleDefinition(
    job=canvas_ingest, cron_schedule="30 2 * * *", execution_timezone="America/New_York"
)
defs = dg.Definitions(assets=[canvas], jobs=[canvas_ingest], schedules=[nightly])
