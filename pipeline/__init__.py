"""Load eligibility and ledger files into Canvas Medical (FHIR R4), and account for every row.

    result = await pipeline.run("configs/nightly.toml")     # in a notebook or an async program
    result = pipeline.run_sync("configs/nightly.toml", inputs={"ledger": frame})
    result.summary, result.frame                            # as in summary.json, reconciliation.parquet

Everything is imported when it is first needed, so that `canvas-ingest --help` answers at once.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import polars as pl

    from pipeline.engine import Result

    Inputs = Mapping[str, str | Path | pl.DataFrame]

__version__ = "0.1.0"
__all__ = [
    "__version__",
    "plan",
    "plan_sync",
    "report",
    "report_sync",
    "run",
    "run_sync",
    "verify",
    "verify_sync",
]


async def plan(config: str | Path, *, inputs: Inputs | None = None) -> Result:
    """Read, validate, map and resolve everything; write a plan and a report, nothing to Canvas.

    `inputs` gives a feed another file, or a polars frame in its place. Raises `errors.ConfigError`
    and `errors.JournalError`; what is wrong with files or limits is in `result.failure`.
    """
    from pipeline import config as configuration
    from pipeline import engine

    return await engine.plan(configuration.load(config, inputs=inputs))


async def run(
    config: str | Path, *, inputs: Inputs | None = None, journal_lost: bool = False
) -> Result:
    """Settle doubts, plan, upload and report. Running it again resumes: nothing is sent twice.

    `journal_lost`: go on after `errors.JournalLost`; what Canvas seems to hold is then set aside.
    """
    from pipeline import config as configuration
    from pipeline import engine

    return await engine.run(configuration.load(config, inputs=inputs), journal_lost=journal_lost)


async def report(config: str | Path, *, run_id: str | None = None) -> Result:
    """Write the report of the last run (or of `run_id`) again from the journal."""
    from pipeline import config as configuration
    from pipeline import engine

    return await engine.report_again(configuration.load(config), run_id)


async def verify(
    config: str | Path, *, sample: int | None = None, since: str | None = None
) -> Result:
    """Read back what the journal says was written, and compare it element by element.

    `sample`: so many patients, at random; `since`: an ISO day. `result.frame` has a line a resource.
    """
    from pipeline import config as configuration
    from pipeline import verification

    return await verification.read_back(configuration.load(config), sample=sample, since=since)


def plan_sync(config: str | Path, *, inputs: Inputs | None = None) -> Result:
    """`plan`, for a program without an event loop."""
    return asyncio.run(plan(config, inputs=inputs))


def run_sync(
    config: str | Path, *, inputs: Inputs | None = None, journal_lost: bool = False
) -> Result:
    """`run`, for a program without an event loop."""
    return asyncio.run(run(config, inputs=inputs, journal_lost=journal_lost))


def report_sync(config: str | Path, *, run_id: str | None = None) -> Result:
    """`report`, for a program without an event loop."""
    return asyncio.run(report(config, run_id=run_id))


def verify_sync(
    config: str | Path, *, sample: int | None = None, since: str | None = None
) -> Result:
    """`verify`, for a program without an event loop."""
    return asyncio.run(verify(config, sample=sample, since=since))
