"""A DAG for Airflow 3: the nightly load, then a sample read back.

The command runs on the worker, which must keep state.dir from night to night (one worker, or a
volume of its own). CANVAS_CLIENT_ID and CANVAS_CLIENT_SECRET come from the worker's environment.

Exit code 3 is a load that is done, with rows for people to correct: the task is shown as skipped, not
failed, and no retry is spent on it. Every other code is red, and is tried again: that is safe
whatever the code, for nothing is sent twice. When a task is ended Airflow sends SIGTERM and
waits `killed_task_cleanup_time` (60 s unless set): set it to 120, so that what is in flight is
finished and reported.
"""

from datetime import UTC, datetime, timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

with DAG(
    "canvas_ingest",
    schedule="30 2 * * *",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,  # a night is not made up for: the next one loads what is there
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=10)},
):
    load = BashOperator(
        task_id="load",
        bash_command="exec canvas-ingest run /etc/canvas-ingest/nightly.toml --log-format json",
        skip_on_exit_code=3,
        execution_timeout=timedelta(
            hours=3
        ),  # then SIGTERM, as above; the rest is sent the next night
    )
    read_back = BashOperator(
        task_id="read_back",
        bash_command="exec canvas-ingest verify /etc/canvas-ingest/nightly.toml --sample 500 --log-format json",
        trigger_rule="none_failed",  # after a load with rows to correct too
    )
    load >> read_back
