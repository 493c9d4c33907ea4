"""Checks of the journal, on a copy."""

import shutil
from collections.abc import Generator, Iterator
from typing import Final

from pipeline.clock import SystemClock
from pipeline.commands.checks.context import Check, Context, failed, ok, warning
from pipeline.commands.run import new_run
from pipeline.errors import JournalBusy, JournalError
from pipeline.files import FOLDER_MODE
from pipeline.journal import doubts, history, lookups, opening, runs
from pipeline.journal.journal import Journal
from pipeline.records import counted

_GROUP: Final = "Journal"


def open_copy(context: Context) -> Generator[Check, None, Journal]:
    """Check the journal.

    Returns:
        A copy of it, or an empty one if it cannot be looked at.
    """
    job, copy = context.job, context.scratch / "state"
    try:
        journal = opening.look(
            job.state_dir, job.canvas.base_url, job.report_dir, copy, database=job.database
        )
    except JournalBusy as error:
        context.is_beside_run = True
        yield warning(_GROUP, "journal", error.message, error.fix)
    except JournalError as error:
        yield failed(_GROUP, "journal", error)
    else:
        if not history.length(journal):
            yield ok(_GROUP, "journal", "new: the first run makes it")
        else:
            yield from _check_past(context, journal)
        return journal
    context.is_sure = False
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir(mode=FOLDER_MODE)
    return opening.open_journal(copy, job.canvas.base_url)


def _check_past(context: Context, journal: Journal) -> Iterator[Check]:
    context.has_past = True
    yield ok(_GROUP, "journal", f"whole, and of {journal.base_url}")
    runs.start_run(
        journal, new_run("plan", SystemClock(), context.random)
    )  # as a run would find it
    newest = lookups.newest_confirmed(journal, "PaymentNotice", 1)["run_id"]
    context.stamped = [each for run_id in newest for each in doubts.stamped(journal, run_id)]
    doubted = len(doubts.all_doubts(journal))
    if doubted:
        yield warning(
            _GROUP,
            "in doubt",
            f"{counted(doubted, 'write')} of earlier runs",
            "the next run looks for them; canvas-ingest review CONFIG shows them",
        )
