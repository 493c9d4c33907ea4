"""Checks before a run: each thing that would go wrong in it, and what to do about it.

The very files are planned with the very code of a plan, against a copy of the journal and in a folder
that is removed at its end, and Canvas is asked a handful of questions. Nothing else is written. After
a failure, the next check is made if it still makes sense.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from typing import Any

from pipeline.commands.checks.canvas import check_canvas
from pipeline.commands.checks.configuration import check_feeds, check_secrets
from pipeline.commands.checks.context import Check, Context, State, failed, wrong
from pipeline.commands.checks.engine import check_engine
from pipeline.commands.checks.files import check_files
from pipeline.commands.checks.folders import check_folders
from pipeline.commands.checks.journal import open_copy
from pipeline.errors import ConfigError, JournalError
from pipeline.job import Job, Progress
from pipeline.system.temporary import temporary_folder


def as_json(checks: Sequence[Check]) -> dict[str, Any]:
    """Return the checks as JSON values."""
    counts = Counter(check.state.value for check in checks)
    return {
        "shape": 1,
        "exit_code": int(any(check.is_wrong for check in checks)),  # warnings are allowed
        "counts": {state.value: counts[state.value] for state in State},
        "checks": [asdict(check) for check in checks],
    }


async def check(
    job: Job,
    *,
    no_secrets: ConfigError | None = None,
    progress: Progress | None = None,
    stop: asyncio.Event | None = None,
    step_s_max: float = 20.0,
    show_values: bool = False,
) -> list[Check]:
    """Check everything that a run needs.

    Args:
        job: What a run would be given.
        no_secrets: Why the secrets could not be read.
        progress: Where the stage is shown.
        stop: Set by the caller to end early.
        step_s_max: Seconds for one question to Canvas, with its repetitions.
        show_values: Name the spellings in coded columns, not only how many there are.

    Returns:
        The results, those of a group together.
    """
    progress, stop = progress or Progress(), stop or asyncio.Event()
    context = Context(job, progress, stop, step_s_max, show_values)
    progress.stage = "reading"
    checks = [*check_feeds(context), *check_secrets(context, no_secrets), *check_folders(context)]
    with ExitStack() as stack:
        try:
            context.scratch = stack.enter_context(temporary_folder())
        except ConfigError as error:
            message = f"{error.message}: the journal and the files were not looked at (a run does not need one)"
            checks.append(wrong("Folders", "temporary files", message, error.fix))
        else:
            checks += await asyncio.to_thread(lambda: list(_check_copies(context)))
            engine = partial(check_engine, context, context.scratch)
            checks += await asyncio.to_thread(lambda: list(engine()))
    checks += await check_canvas(context)
    groups = list(dict.fromkeys(check.group for check in checks))
    return sorted(checks, key=lambda check: groups.index(check.group))


def _check_copies(context: Context) -> Iterator[Check]:
    """Check the journal, the files, their rows, and the limits, with copies in `scratch`."""
    journal = yield from open_copy(context)
    try:
        with journal:
            yield from check_files(context, journal)
    except JournalError as error:
        yield failed("Journal", "journal", error)
