"""Build a plan: everything before the first write, from files to a sealed plan that exceeds no limit.

A plan is built by passes over narrow columns of all rows. Each is a function of a module in `planning/passes/`,
whose docstring says what it sets. In this order:

    files       open_files        finds and inspects the files
    early       judge_early       before patients are searched: judges the limits that need no Canvas
    take_over   look_up_patients  asks Canvas for patients by their identifiers
    relate      relate_rows       feeds that ask for it (in `read_rows`): finds what rows give each other
    rows        read_rows         reads and judges every row
    take_over   take_over         asks Canvas for coverages that it has already
    rewrite     rewrite_rows      coverages: writes unchanged rows again that meet `--rewrite`
    gone        find_missing      coverages: decides which missing ones to end or cancel
    turns       arrange_writes    coverages: orders the writes of each patient
    again       add_skipped       all feeds: reads skipped rows again that were rejected after all
    updates     compare_updates   coverages: lists what each update changes, counts ends
    sealing     seal_plan         counts, checks the limits and seals
"""

import asyncio
import shutil
import time
from collections.abc import Callable
from typing import Final

from pipeline.clock import Clock
from pipeline.errors import CanvasError
from pipeline.job import Job, Progress
from pipeline.journal.journal import Journal
from pipeline.planning.passes.again import add_skipped
from pipeline.planning.passes.early import judge_early
from pipeline.planning.passes.files import open_files
from pipeline.planning.passes.gone import find_missing
from pipeline.planning.passes.rewrite import rewrite_rows
from pipeline.planning.passes.rows import read_rows
from pipeline.planning.passes.sealing import exceeds_early, seal_plan
from pipeline.planning.passes.take_over import look_up_patients, take_over
from pipeline.planning.passes.turns import arrange_writes
from pipeline.planning.passes.updates import compare_updates
from pipeline.planning.plan import Plan
from pipeline.planning.state import Asking, Build
from pipeline.planning.workers import Workers

_DROPS_MAX: Final = 40  # 2 s: a worker that still writes finds no folder after one success
_DROP_AGAIN_S: Final = 0.05

# In this order: a pass may use what the passes before it have set.
_AFTER_CANVAS: Final[tuple[Callable[[Build], None], ...]] = (
    rewrite_rows,
    find_missing,
    arrange_writes,
    add_skipped,
    compare_updates,
)
# They compare rows with what was sent before, by their patients.
_BESIDE_JOURNAL: Final = frozenset({rewrite_rows, find_missing, compare_updates})


async def build_plan(
    job: Job,
    run_id: str,
    journal: Journal,
    clock: Clock,
    progress: Progress,
    stop: asyncio.Event,
    workers: Workers,
    session: Asking | None = None,
    *,
    must_ask: bool = True,
) -> Plan:
    """Return a sealed plan that exceeds no limit.

    Args:
        job: The configuration.
        run_id: The run that makes the plan.
        journal: What earlier runs wrote.
        clock: Of this process.
        progress: Updated while the plan is built.
        stop: Ends the build with Stopped once it is set.
        workers: Make the parts of the plan.
        session: The connection to Canvas; None: Canvas is not asked.
        must_ask: Without it, the plan notes how many patients were not asked about if Canvas does not answer.

    Raises:
        InputError: A file is missing or unfit.
        LimitError: The plan exceeds a limit.
        CanvasError: Canvas does not answer, and `must_ask`.
        JournalLost: The journal contradicts itself about a write that the plan sends, or that is in doubt.
        Stopped: `stop` was set.
    """
    build = Build(job, run_id, journal, clock, progress, stop, workers)
    try:
        await asyncio.to_thread(open_files, build)
        if session is not None and job.references.patient.system:
            if await asyncio.to_thread(judge_early, build):
                session = None  # nothing will be written
            else:
                progress.stage = "looking up"
                await look_up_patients(build, session)
        await asyncio.to_thread(read_rows, build)
        if session is not None and await asyncio.to_thread(exceeds_early, build):
            session = (
                None  # nothing will be written: the searches, which may take hours, are left out
            )
        try:
            await take_over(build, session)
        except CanvasError:
            if must_ask:
                raise
        return await asyncio.to_thread(seal, build)
    finally:
        drop_copies(build)


def seal(build: Build) -> Plan:
    """Run the passes that follow the questions to Canvas, and return the sealed plan. Raises as `build_plan`."""
    build.progress.stage = "planning"
    for each in _AFTER_CANVAS:
        if not (build.is_unsearched and each in _BESIDE_JOURNAL):
            each(build)
    return seal_plan(build)


def drop_copies(build: Build) -> None:
    """Delete copies of input files, unfinished files and piles: no plan that is sealed or has failed needs them.

    A worker that is still at a part when the run is stopped may write one more file meanwhile.
    """
    for _ in range(_DROPS_MAX):
        shutil.rmtree(build.copies, ignore_errors=True)
        if not build.copies.exists():
            return
        time.sleep(_DROP_AGAIN_S)
