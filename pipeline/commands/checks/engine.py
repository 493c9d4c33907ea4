"""Check of the engine: the process or the workers that would read and judge the rows."""

import time
from collections.abc import Iterator
from pathlib import Path

from pipeline.cluster.dask import count_workers
from pipeline.commands.checks.context import Check, Context, failed, ok, warning
from pipeline.commands.run import require_shared_journal
from pipeline.errors import ConfigError, IngestError
from pipeline.records import counted

_GROUP = "Engine"


def check_engine(context: Context, folder: Path) -> Iterator[Check]:
    """Check that the workers can be reached or started, have our version, and share a journal."""
    engine = context.job.engine
    if engine.kind == "embedded":
        yield ok(_GROUP, "engine", "embedded: this process reads and judges the rows")
        return
    try:
        require_shared_journal(context.job)
    except ConfigError as error:
        yield failed(_GROUP, "journal", error)
    until_s = time.monotonic() + context.step_s_max

    def look() -> None:
        if context.stop.is_set() or time.monotonic() > until_s:
            raise IngestError(
                f"no worker of the Dask cluster answered within {context.step_s_max:.0f} s",
                "see whether the workers are busy, or hang",
            )

    try:
        count = count_workers(engine, folder, look, context.step_s_max)
    except IngestError as error:
        yield failed(_GROUP, "workers", error)
        return
    where = engine.scheduler or "this machine, started for the run"
    if count:
        yield ok(_GROUP, "workers", f"{counted(count, 'worker')} of {where}")
        return
    message = f"{where} has no workers now: a run waits for the first one"
    yield warning(_GROUP, "workers", message, "start workers before the run")
