"""Load eligibility and ledger files into Canvas Medical (FHIR R4), and account for every row.

    result = await pipeline.run("configs/nightly.toml")     # in a notebook or an async program
    result = pipeline.run_sync("configs/nightly.toml", inputs={"ledger": frame})
    result.summary, result.frame                            # as in summary.json, reconciliation.parquet

What is wrong with files, limits or Canvas is in `result.failure`, with a report beside it; what leaves
no report is raised, an `errors.IngestError`. Warnings go to stderr, unless the program has set
structlog up itself.

Everything is imported when it is first needed, so that `canvas-ingest --help` answers at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from pipeline.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path
    from typing import Any

    import polars as pl

    from pipeline.commands.checks.context import Check
    from pipeline.commands.run import Result
    from pipeline.job import Job

    Inputs = Mapping[str, str | Path | pl.DataFrame]

T = TypeVar("T")

__version__ = VERSION
__all__ = [
    "__version__",
    "check",
    "check_sync",
    "plan",
    "plan_sync",
    "report",
    "report_sync",
    "run",
    "run_sync",
    "verify",
    "verify_sync",
]


async def plan(
    config: str | Path,
    *,
    inputs: Inputs | None = None,
    only_feeds: Sequence[str] = (),
    expected: Sequence[str] = (),
    accept_repeats: int | None = None,
) -> Result:
    """Read, validate, map and resolve everything; write a plan and a report, nothing to Canvas.

    `inputs` gives a feed another file, or a polars frame in its place: its columns as the sender's,
    row 1 the first. `only_feeds` leaves all others out. `expected` are the sender's control totals,
    as `--expect` has them: `"ledger:rows=5000"`, `"ledger:total_usd=12345.67"`. `accept_repeats`: go on if
    up to that many rows equal a write of an earlier run (`limits.repeats_max`). Raises
    `errors.ConfigError` and `errors.JournalError`.
    """
    from pipeline.commands import run as engine

    return await engine.plan(_job(config, inputs, only_feeds, expected, accept_repeats))


async def run(
    config: str | Path,
    *,
    inputs: Inputs | None = None,
    only_feeds: Sequence[str] = (),
    expected: Sequence[str] = (),
    plan_id: str | None = None,
    until: datetime | None = None,
    journal_lost: bool = False,
    accept_repeats: int | None = None,
) -> Result:
    """Settle doubts, plan, upload and report. Running it again resumes: nothing is sent twice.

    `inputs`, `only_feeds`, `expected` and `accept_repeats` as for `plan`. `plan_id`: that plan is carried out, or,
    where it would be another one by now, nothing of these files. `until`: an instant with its time
    zone, by which sending stops; what is left is pending. `journal_lost`: go on after
    `errors.JournalLost`; what Canvas seems to hold is then set aside. Raises `errors.ConfigError`,
    `errors.PlanError` (there is no such plan) and `errors.JournalError`.
    """
    from pipeline.commands import run as engine
    from pipeline.errors import ConfigError

    if until is not None and until.tzinfo is None:
        raise ConfigError("until has no time zone", "give it one: until.astimezone() is local time")
    return await engine.run(
        _job(config, inputs, only_feeds, expected, accept_repeats),
        journal_lost=journal_lost,
        plan_id=plan_id,
        until=until,
    )


async def report(config: str | Path, *, run_id: str | None = None) -> Result:
    """Write the report of the last run (or of `run_id`) again from the journal.

    Raises `errors.PlanError` where there is no such run, `errors.ConfigError`, `errors.JournalError`.
    """
    from pipeline.commands import run as engine

    return await engine.report_again(_job(config), run_id)


async def verify(
    config: str | Path, *, sample: int | None = None, since: str | None = None
) -> Result:
    """Read back what the journal says was written, and compare it element by element.

    `sample`: so many patients, at random; `since`: an ISO day (UTC). `result.frame` has a line a
    resource. Raises `errors.ConfigError` and `errors.JournalError`.
    """
    from pipeline.commands import verify as verification

    return await verification.read_back(_job(config), sample=sample, since=since)


async def check(
    config: str | Path, *, inputs: Inputs | None = None, show_values: bool = False
) -> list[Check]:
    """Look at everything that a run needs: what would go wrong, and what to do about it.

    Writes nothing. Each check has `group`, `what`, `state` ("ok", "warning", "wrong"), `message` and
    `todo`. `show_values`: name the spellings in coded columns, not only how many there are. Raises
    `errors.ConfigError` if the configuration cannot be read.
    """
    from pipeline.app import config as configuration
    from pipeline.app import logs
    from pipeline.commands import check as doctor

    logs.configure_unless_configured()
    job, no_secrets = configuration.load_to_check(config, inputs=inputs)
    return await doctor.check(job, no_secrets=no_secrets, show_values=show_values)


def plan_sync(
    config: str | Path,
    *,
    inputs: Inputs | None = None,
    only_feeds: Sequence[str] = (),
    expected: Sequence[str] = (),
    accept_repeats: int | None = None,
) -> Result:
    """`plan`, for a program without an event loop."""
    return _alone(
        "plan",
        lambda: plan(
            config,
            inputs=inputs,
            only_feeds=only_feeds,
            expected=expected,
            accept_repeats=accept_repeats,
        ),
    )


def run_sync(
    config: str | Path,
    *,
    inputs: Inputs | None = None,
    only_feeds: Sequence[str] = (),
    expected: Sequence[str] = (),
    plan_id: str | None = None,
    until: datetime | None = None,
    journal_lost: bool = False,
    accept_repeats: int | None = None,
) -> Result:
    """`run`, for a program without an event loop."""
    return _alone(
        "run",
        lambda: run(
            config,
            inputs=inputs,
            only_feeds=only_feeds,
            expected=expected,
            plan_id=plan_id,
            until=until,
            journal_lost=journal_lost,
            accept_repeats=accept_repeats,
        ),
    )


def check_sync(
    config: str | Path, *, inputs: Inputs | None = None, show_values: bool = False
) -> list[Check]:
    """`check`, for a program without an event loop."""
    return _alone("check", lambda: check(config, inputs=inputs, show_values=show_values))


def report_sync(config: str | Path, *, run_id: str | None = None) -> Result:
    """`report`, for a program without an event loop."""
    return _alone("report", lambda: report(config, run_id=run_id))


def verify_sync(
    config: str | Path, *, sample: int | None = None, since: str | None = None
) -> Result:
    """`verify`, for a program without an event loop."""
    return _alone("verify", lambda: verify(config, sample=sample, since=since))


def _job(
    config: str | Path,
    inputs: Inputs | None = None,
    only_feeds: Sequence[str] = (),
    expected: Sequence[str] = (),
    accept_repeats: int | None = None,
) -> Job:
    from pipeline.app import config as configuration
    from pipeline.app import logs

    logs.configure_unless_configured()
    return configuration.load(
        config,
        inputs=inputs,
        only_feeds=tuple(only_feeds),
        expected=configuration.expectations_of(expected),
        accept_repeats=accept_repeats,
    )


def _alone(name: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Carry it out in an event loop of its own. Raises RuntimeError where one runs already."""
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work())
    raise RuntimeError(
        f"pipeline.{name}_sync cannot be called where an event loop runs, as in a notebook: "
        f"write `await pipeline.{name}(...)` there"
    )
