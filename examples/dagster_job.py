"""A Dagster job and its schedule: the nightly load.

The command runs where the run worker does, which must keep state.dir from night to night.
CANVAS_CLIENT_ID and CANVAS_CLIENT_SECRET come from its environment.

Exit code 3 is a load that is done, with rows for people to correct: green, with a warning in the run's
log; [notify] of the configuration tells people. 1 and 130 are tried again, for a run goes on where
the last one ended; 2, 4 and 5 need a person first. A run that is ended passes SIGTERM on and waits
until what is in flight is finished and reported: give its pod or process two minutes.
"""

import subprocess

import dagster as dg

COMMAND = ["canvas-ingest", "run", "/etc/canvas-ingest/nightly.toml", "--log-format", "json"]
DONE, ROWS_TO_MEND = 0, 3
AGAIN = (1, 130)


@dg.op(retry_policy=dg.RetryPolicy(max_retries=2, delay=600))
def load_canvas(context: dg.OpExecutionContext) -> None:
    """Load the night's files into Canvas."""
    process = subprocess.Popen(COMMAND)
    try:
        code = process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if code == ROWS_TO_MEND:
        context.log.warning(
            "Loaded, with rows to correct: see rejects-*.csv in the report's folder."
        )
    elif code != DONE:
        raise dg.Failure(f"canvas-ingest ended with {code}", allow_retries=code in AGAIN)


@dg.job
def canvas_ingest() -> None:
    """The nightly load."""
    load_canvas()


nightly = dg.ScheduleDefinition(
    job=canvas_ingest, cron_schedule="30 2 * * *", execution_timezone="America/New_York"
)
defs = dg.Definitions(jobs=[canvas_ingest], schedules=[nightly])
