"""Find rows that an earlier run may have sent under another key, and warn about them."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import polars as pl

from pipeline.errors import PlanError
from pipeline.journal import lookups
from pipeline.planning.limits import are_repeats_accepted, feeds_above_repeats
from pipeline.planning.repeat_warnings import Warned, key_changed, warnings_of
from pipeline.planning.repeats import Found, Repeats
from pipeline.planning.state import Build
from pipeline.rows.feed import Feed


def find_repeats(build: Build) -> dict[str, Found]:
    """Find the rows that equal a write of an earlier run under a key that no row of today's files has."""
    going = pl.concat(judged.missing for judged in build.feed_plans.values()).filter(
        pl.col("interaction") != ""
    )
    ended = going.drop_nulls("end_on")
    repeats = Repeats(
        build.writer,
        build.journal,
        build.file_names(),
        partial(_keys_today, build),
        going.filter(pl.col("end_on").is_null())["key"],
        partial(_contents, build, dict(ended.select("key", "body").iter_rows())),
        build.copies / "repeats",
        build.check_stop,
    )
    return repeats.find(build.job.feeds)


def _contents(build: Build, ended: Mapping[str, bytes], rows: pl.DataFrame) -> dict[str, bytes]:
    """Return the contents of coverages as they are once this plan is carried out: what it ends has its end."""
    return {**build.last_sent(rows), **ended}


def _keys_today(build: Build) -> Iterator[pl.Series]:
    """Yield the keys of all rows of today's files, and of the files that corrected rejects come from."""
    for name, judged in build.feed_plans.items():
        for rows in build.writer.rows(name).judged(["key"]):
            yield rows["key"]
        for run_id in judged.meta["mended_from"]:
            with suppress(PlanError, OSError, KeyError, pl.exceptions.PolarsError):
                yield from build.earlier.open(run_id).keys(name)


def warn(build: Build, metas: Mapping[str, dict[str, Any]], repeats: Mapping[str, Found]) -> None:
    """Add warnings about the identity of rows to the metadata of each feed."""
    above = feeds_above_repeats(build.job.limits, metas)
    is_accepted = are_repeats_accepted(build.job, metas)
    for name, meta in metas.items():
        accepted = build.job.accept_repeats if is_accepted and name in above else None
        warned = [
            *_key_changed(build, build.feeds[name]),
            *warnings_of(build.feeds[name], repeats[name], accepted),
        ]
        meta["warnings"] = {each.rule: each.rows for each in warned} | meta["warnings"]
        meta["messages"] = {each.rule: each.message for each in warned}


def _key_changed(build: Build, feed: Feed) -> Iterator[Warned]:
    """Yield the warning about a key that has other fields now, if Canvas confirmed writes of the feed."""
    former = build.former_keys.get(feed.name)
    left = (
        lookups.confirmed_keys(build.journal, feed.name) if former else pl.Series(dtype=pl.String)
    )
    if former is None or left.is_empty():
        return
    for keys in _keys_today(build):
        left = left.filter(~left.is_in(keys.implode()))
    yield key_changed(feed, former, left.len())
