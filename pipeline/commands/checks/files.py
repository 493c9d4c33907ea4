"""Checks of the files and of the tables of references; what is fit is planned."""

import os
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Final

import polars as pl

from pipeline.clock import SystemClock
from pipeline.commands.checks.configuration import decided
from pipeline.commands.checks.context import Check, Context, failed, ok, warning, wrong
from pipeline.commands.checks.folders import check_disks
from pipeline.commands.checks.rows import check_rows
from pipeline.commands.run import new_run
from pipeline.errors import ColumnsMissing, IngestError, InputError
from pipeline.files import may_be_file
from pipeline.job import Job, Reference, References
from pipeline.journal import runs
from pipeline.journal.journal import Journal
from pipeline.planning.passes.files import open_files
from pipeline.planning.state import Build
from pipeline.planning.workers import InPlace
from pipeline.reading.read import read
from pipeline.reading.source import Source
from pipeline.reading.trim import skipped_text
from pipeline.records import counted
from pipeline.rows.crosswalk import Crosswalk
from pipeline.rows.feed import Feed
from pipeline.rows.texts import texts_of, use_of, wanted
from pipeline.system import confinement

_GROUP: Final = "Files"
_LOOKED_UP: Final = 20  # patients, if they are searched for
_TARGETS: Final[dict[str, Any]] = {"patient": "key", "payer": "payer_id", "claim": "key"}
_FIELDS: Final = {"patient": {"patient", "subscriber"}, "payer": {"payer"}, "claim": {"claim"}}


def check_files(context: Context, journal: Journal) -> Iterator[Check]:
    """Check which files are fit; plan these."""
    job = replace(context.job, state_dir=context.scratch / "state")
    references = {}
    for kind in _TARGETS:
        references[kind] = yield from _check_reference(context, kind, job, journal)
    fit: list[Feed] = []
    has_parquet = False
    for feed in map(decided, job.feeds):
        found = yield from _check_feed(context, feed, job, journal)
        if found is not None:
            fit.append(feed)
            if not has_parquet and any(source.is_parquet for source in found):
                has_parquet = True
                yield from _check_confinement()
    if not fit:
        return
    usable: dict[str, Any] = {
        kind: each or Reference(_TARGETS[kind]) for kind, each in references.items()
    }
    by_row = job.references.subscriber_by_row
    job = replace(job, feeds=tuple(fit), references=References(**usable, subscriber_by_row=by_row))
    planner, folder = _planner(context, job, journal)
    yield from check_disks(
        context.job, [source for each in planner.sources.values() for source in each]
    )
    context.patients = [
        (feed, rows) for feed in fit for rows in _first(planner.sources[feed.name], feed)
    ]
    unknown = [kind for kind, reference in references.items() if reference is None]
    _stand_in(planner, fit, unknown)
    context.is_unresolved = bool(unknown) and context.has_past
    context.is_sure = context.is_sure and not context.is_unresolved
    yield from check_rows(context, planner, folder, job)


def _planner(context: Context, job: Job, journal: Journal) -> tuple[Build, Path]:
    """Return a planner whose files are fit, and its folder. Raises InputError."""
    run = new_run("plan", SystemClock(), context.random)
    while (job.state_dir / "plans" / run.run_id).exists():
        run = new_run("plan", SystemClock(), context.random)
    runs.start_run(journal, run)
    clock, progress, stop = SystemClock(), context.progress, context.stop
    planner = Build(job, run.run_id, journal, clock, progress, stop, InPlace())
    open_files(planner)
    return planner, job.state_dir / "plans" / run.run_id


def _check_reference(
    context: Context, kind: str, job: Job, journal: Journal
) -> Generator[Check, None, Reference | None]:
    """Check the table of a kind of reference.

    Returns:
        How the kind is resolved here; None if only Canvas knows, or its table is unfit.
    """
    what = f"references.{kind}"
    reference: Reference = getattr(job.references, kind)
    if reference.system:
        return None
    if reference.path is None:
        return reference
    columns = f'"{reference.source_column}" and "{reference.target_column}"'
    if isinstance(reference.path, Path) and not may_be_file(reference.path):
        yield wrong(
            _GROUP,
            what,
            f"there is no {os.path.normpath(reference.path)}",
            f"make that table with the columns {columns}, or name another in {what}.path",
        )
        return None
    only: dict[str, Any] = {kind: reference}
    alone = replace(job, feeds=(), references=References(**only))
    try:
        planner, _ = _planner(context, alone, journal)
    except IngestError as error:
        yield failed(_GROUP, what, error)
        return None
    crosswalk: Crosswalk = getattr(planner.crosswalks, kind)
    table = crosswalk.table or {}
    several = sum(target is None for target in table.values())
    yield ok(_GROUP, what, f"{counted(len(table), 'id')} in {Path(reference.path).name}")
    if several:
        yield warning(
            _GROUP,
            what,
            f"{counted(several, 'id')} with several targets: their rows are rejected",
            "keep one line for each id",
        )
    return reference


def _check_feed(
    context: Context, feed: Feed, job: Job, journal: Journal
) -> Generator[Check, None, list[Source] | None]:
    """Check that a feed's files can be read at all. Returns them, or None if they cannot."""
    alone = replace(job, feeds=(feed,), references=References())
    try:
        planner, _ = _planner(context, alone, journal)
    except ColumnsMissing as error:
        for ours, column, near in error.missing:
            where = "where" if ours == "where" else "[feeds.columns]"
            yield wrong(
                _GROUP,
                error.file,
                f'no column "{column}", which is {use_of(feed, ours)} of {feed.name}',
                f"did you mean {near}? Change {where} of {feed.name}"
                if near
                else f"check {where} and the delimiter of {feed.name}, and that the file has a header",
            )
        return None
    except InputError as error:
        is_named = Path(error.file).name == error.file
        message = error.message.removeprefix(f"{error.file}: ") if is_named else error.message
        yield wrong(_GROUP, error.file if is_named else feed.name, message, error.fix)
        return None
    except IngestError as error:
        yield failed(_GROUP, feed.name, error)
        return None
    sources = planner.sources[feed.name]
    for source in sources:
        message = f"{counted(source.rows, 'row')}, {len(source.header)} columns ({feed.name})"
        if source.skipped:
            message += f"; {skipped_text(source.skipped)}"
        yield ok(_GROUP, source.name, message)
        if source.may_be_utf8:
            yield warning(
                _GROUP,
                source.name,
                f"it is valid UTF-8, and is read as {feed.encoding}: a run that would write rows of it stops",
                f'set encoding = "utf-8" for {feed.name}',
            )
    return sources


def _check_confinement() -> Iterator[Check]:
    """Warn if the kernel cannot shut in the process that decodes Parquet files, workbooks and X12."""
    open_to_it = " and ".join(confinement.lacking())
    if open_to_it:
        yield warning(
            _GROUP,
            "Parquet, .xlsx",
            f"this kernel cannot shut {open_to_it} away from the process that decodes Parquet files, workbooks and X12 "
            "(Landlock shuts files, seccomp the network)",
            "use Linux 5.13 or later, on x86-64 or arm64, with Landlock on and allowed by the container's runtime",
        )


def _stand_in(planner: Build, feeds: Sequence[Feed], kinds: Sequence[str]) -> None:
    """Let each id be its own target if it cannot be looked up, so that all else can be judged."""
    for kind in kinds:
        fields = _FIELDS[kind]
        values = {
            value
            for feed in feeds
            for source in planner.sources[feed.name]
            for batch in read(source)
            for name, texts in texts_of(batch.frame, feed).to_dict().items()
            if name in fields
            for value in texts.drop_nulls().unique()
        }
        table = {value: f"{number:032x}" for number, value in enumerate(sorted(values))}
        found: dict[str, Any] = {kind: Crosswalk(_TARGETS[kind], table)}
        planner.crosswalks = replace(planner.crosswalks, **found)


def _first(sources: Sequence[Source], feed: Feed) -> Iterator[pl.DataFrame]:
    """Yield a few rows of a feed, of those that `only` keeps; none if the first file has none."""
    for batch in islice(read(sources[0]), 1):
        yield batch.frame.filter(wanted(texts_of(batch.frame, feed), feed)).head(_LOOKED_UP)
