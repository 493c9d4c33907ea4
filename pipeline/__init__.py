"""Load eligibility and ledger files into Canvas Medical (FHIR R4), and account for every row.

    result = await pipeline.run("configs/nightly.toml")     # in a notebook or an async program
    result = pipeline.run_sync("configs/nightly.toml", inputs={"ledger": frame})
    result.raise_for_failure()                              # if files, limits or Canvas stopped it
    result.summary, result.frame                            # as in summary.json, reconciliation.parquet

If files, limits or Canvas stop a run, the result's `failure` says why and there is a report. Errors that
leave no report are raised as `errors.IngestError`. Warnings go to stderr, unless the program has configured
structlog.

Modules are imported on first use, so that `canvas-ingest --help` answers at once.
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

    from pipeline.app.config.arguments import ArrowTable
    from pipeline.commands.checks.context import Check
    from pipeline.commands.run import Result
    from pipeline.job import Job

    Inputs = Mapping[str, str | Path | pl.DataFrame | pl.LazyFrame | ArrowTable]

T = TypeVar("T")

__version__ = VERSION
__all__ = [
    "Result",
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


def __getattr__(name: str) -> Any:
    if name == "Result":
        from pipeline.commands.run import Result

        return Result
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__


async def plan(
    config: str | Path,
    *,
    inputs: Inputs | None = None,
    only_feeds: Sequence[str] = (),
    expected: Sequence[str] = (),
    accept_repeats: int | None = None,
    rewrite: str | None = None,
) -> Result:
    """Read, validate, map and resolve every row; write a plan and a report, nothing to Canvas.

    Args:
        config: The configuration file (TOML).
        inputs: By feed, another file or rows in place of the configured files: a path, a polars DataFrame or
            LazyFrame, or a table with the Arrow PyCapsule interface, such as a pandas DataFrame, a PyArrow
            table or a DuckDB relation. Rows have the sender's columns, and the first one is row 1.
        only_feeds: The feeds to read; all if empty.
        expected: The sender's control totals, in the form of `--expect`: `"ledger:rows=5000"`,
            `"ledger:total_usd=12345.67"`.
        accept_repeats: Go on if up to that many rows equal a write of an earlier run
            (`limits.repeats_max`).
        rewrite: A SQL condition over our fields: unchanged coverages that meet it are written again.

    Returns:
        The result of the plan; `run_id` is the id to give to `run`.

    Raises:
        ConfigError: The configuration cannot be used.
        JournalError: The journal cannot be used.
    """
    from pipeline.commands import run as engine

    return await engine.plan(_job(config, inputs, only_feeds, expected, accept_repeats, rewrite))


async def run(
    config: str | Path,
    *,
    inputs: Inputs | None = None,
    only_feeds: Sequence[str] = (),
    expected: Sequence[str] = (),
    plan_id: str | None = None,
    until: datetime | str | None = None,
    journal_lost: bool = False,
    accept_repeats: int | None = None,
    rewrite: str | None = None,
) -> Result:
    """Settle doubts, plan, upload and report. Running it again resumes: nothing is sent twice.

    Args:
        config: The configuration file (TOML).
        inputs: As for `plan`.
        only_feeds: As for `plan`.
        expected: As for `plan`.
        plan_id: Carry out this plan. If the same files would now give another plan, nothing is sent.
        until: When sending stops; the remaining rows are pending. An instant with a time zone, or a time of day
            such as "05:30" by the clock of this machine.
        journal_lost: Go on after `errors.JournalLost`. Rows that Canvas seems to hold are then set aside.
        accept_repeats: As for `plan`.
        rewrite: As for `plan`.

    Returns:
        The result of the run.

    Raises:
        ConfigError: The configuration cannot be used, or `until` is no instant.
        PlanError: There is no plan `plan_id`.
        JournalError: The journal cannot be used.
    """
    from datetime import UTC, datetime

    from pipeline.app.config.arguments import until_of
    from pipeline.commands import run as engine
    from pipeline.errors import ConfigError

    if isinstance(until, str):
        try:
            until = until_of(until, datetime.now(UTC))
        except ValueError as error:
            raise ConfigError(f"until: {error}", "or give a datetime with a time zone") from None
    if until is not None and until.tzinfo is None:
        raise ConfigError("until has no time zone", "give it one: until.astimezone() is local time")
    return await engine.run(
        _job(config, inputs, only_feeds, expected, accept_repeats, rewrite),
        journal_lost=journal_lost,
        plan_id=plan_id,
        until=until,
    )


async def report(config: str | Path, *, run_id: str | None = None) -> Result:
    """Write the report of a run again from the journal.

    Args:
        config: The configuration file (TOML).
        run_id: The run; None for the last one.

    Returns:
        The result of that run.

    Raises:
        ConfigError: The configuration cannot be used.
        PlanError: There is no such run.
        JournalError: The journal cannot be used.
    """
    from pipeline.commands import run as engine

    return await engine.report_again(_job(config), run_id)


async def verify(
    config: str | Path, *, sample: int | None = None, since: str | None = None
) -> Result:
    """Read written resources back from Canvas and compare them element by element.

    Args:
        config: The configuration file (TOML).
        sample: The number of patients to read, chosen at random; None for all.
        since: An ISO day (UTC): only writes since then.

    Returns:
        The result; its `frame` has a line for each resource.

    Raises:
        ConfigError: The configuration cannot be used.
        JournalError: The journal cannot be used.
    """
    from pipeline.commands import verify as verification

    return await verification.read_back(_job(config), sample=sample, since=since)


async def check(
    config: str | Path, *, inputs: Inputs | None = None, show_values: bool = False
) -> list[Check]:
    """Check everything that a run needs, and say what would go wrong and how to fix it.

    Nothing is written.

    Args:
        config: The configuration file (TOML).
        inputs: As for `plan`.
        show_values: Name the spellings in coded columns, not only their number.

    Returns:
        Checks with `group`, `what`, `state` ("ok", "warning", "wrong"), `message` and `todo`.

    Raises:
        ConfigError: The configuration cannot be read.
    """
    from pipeline.app import logs
    from pipeline.app.config.load import load_to_check
    from pipeline.commands import check as doctor

    logs.configure_unless_configured()
    job, no_secrets = load_to_check(config, inputs=inputs)
    return await doctor.check(job, no_secrets=no_secrets, show_values=show_values)


def plan_sync(
    config: str | Path,
    *,
    inputs: Inputs | None = None,
    only_feeds: Sequence[str] = (),
    expected: Sequence[str] = (),
    accept_repeats: int | None = None,
    rewrite: str | None = None,
) -> Result:
    """Call `plan` from a program without an event loop."""
    return _alone(
        "plan",
        lambda: plan(
            config,
            inputs=inputs,
            only_feeds=only_feeds,
            expected=expected,
            accept_repeats=accept_repeats,
            rewrite=rewrite,
        ),
    )


def run_sync(
    config: str | Path,
    *,
    inputs: Inputs | None = None,
    only_feeds: Sequence[str] = (),
    expected: Sequence[str] = (),
    plan_id: str | None = None,
    until: datetime | str | None = None,
    journal_lost: bool = False,
    accept_repeats: int | None = None,
    rewrite: str | None = None,
) -> Result:
    """Call `run` from a program without an event loop."""
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
            rewrite=rewrite,
        ),
    )


def check_sync(
    config: str | Path, *, inputs: Inputs | None = None, show_values: bool = False
) -> list[Check]:
    """Call `check` from a program without an event loop."""
    return _alone("check", lambda: check(config, inputs=inputs, show_values=show_values))


def report_sync(config: str | Path, *, run_id: str | None = None) -> Result:
    """Call `report` from a program without an event loop."""
    return _alone("report", lambda: report(config, run_id=run_id))


def verify_sync(
    config: str | Path, *, sample: int | None = None, since: str | None = None
) -> Result:
    """Call `verify` from a program without an event loop."""
    return _alone("verify", lambda: verify(config, sample=sample, since=since))


def _job(
    config: str | Path,
    inputs: Inputs | None = None,
    only_feeds: Sequence[str] = (),
    expected: Sequence[str] = (),
    accept_repeats: int | None = None,
    rewrite: str | None = None,
) -> Job:
    from pipeline.app import logs
    from pipeline.app.config.arguments import expectations_of
    from pipeline.app.config.load import load

    logs.configure_unless_configured()
    return load(
        config,
        inputs=inputs,
        only_feeds=tuple(only_feeds),
        expected=expectations_of(expected),
        accept_repeats=accept_repeats,
        rewrite=rewrite,
    )


def _alone(name: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run `work` in a new event loop. Raises RuntimeError if a loop is running already."""
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work())
    raise RuntimeError(
        f"pipeline.{name}_sync cannot be called where an event loop runs, as in a notebook: "
        f"write `await pipeline.{name}(...)` there"
    )
