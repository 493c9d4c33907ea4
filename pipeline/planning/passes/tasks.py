"""Collect the input of workers for the rows of a feed, and the settings that decide on the content of a row."""

import hashlib
from functools import partial
from pathlib import Path

import polars as pl

from pipeline.journal import runs
from pipeline.journal.history import touched_since
from pipeline.planning.parts import PartTask
from pipeline.planning.state import Build
from pipeline.planning.unchanged import HeldRows
from pipeline.rows.feed import Feed


def part_task(build: Build, feed: Feed, scratch: Path, *, held: bool = True) -> PartTask:
    """Return what workers need to make the parts of a feed, or (without `held`) to survey its rows.

    Args:
        build: The plan, with the sources.
        feed: The feed.
        scratch: For files that are not whole yet, or of a survey.
        held: Whether rows that the last run found unchanged are known.
    """
    return PartTask(
        feed,
        build.sources[feed.name],
        _last_confirmed(build, feed) if held else HeldRows.none(),
        build.reading(feed),
        build.mapping(),
        build.writer.folder,
        scratch,
        build.given[feed.name],
        build.day(feed),
        build.job.rewrite if held else "",
    )


def _last_confirmed(build: Build, feed: Feed) -> HeldRows:
    """Return the rows that the last run confirmed or found unchanged; none if equal rows are counted."""
    if feed.repeats == "count":
        return HeldRows.none()
    journal, sha256 = build.journal, runs.index_sha256(build.journal, feed.name)
    touched = partial(touched_since, journal)
    return HeldRows.open(build.job.state_dir, feed.name, salt(build, feed), sha256, touched)


def salt(build: Build, feed: Feed) -> str:
    """Return a hash of all settings that decide what a row of a feed becomes."""
    settings = (
        build.job.version,
        pl.__version__,
        feed.kind,
        sorted(feed.codes.items()),
        feed.dates,
        sorted(feed.dates_of.items()),
        feed.amount_sign,
        feed.amount_style,
        feed.timezone,
        feed.open_dates,
        feed.null_values,
        feed.key,
        feed.order_by,
        feed.order_from,
        feed.where,
        sorted(feed.sql.items()),
        build.job.contract,
        build.job.references,
        build.job.limits.amount_cents_max,
    )
    return hashlib.sha256(repr(settings).encode()).hexdigest()
