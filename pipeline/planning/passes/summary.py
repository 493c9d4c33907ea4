"""Compare updates, warn, and count the plan's rows and writes."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final

import polars as pl

from pipeline.errors import PlanError
from pipeline.journal import lookups
from pipeline.planning import arrange as arranging
from pipeline.planning.beside import BUMPS
from pipeline.planning.compare import Pair, compare
from pipeline.planning.identity import Warned, key_changed, warnings_of
from pipeline.planning.limits import are_repeats_accepted, feeds_above_repeats
from pipeline.planning.repeats import Found, Repeats
from pipeline.planning.state import Build, FeedPlan
from pipeline.planning.store import KEPT
from pipeline.planning.writer import PlanWriter
from pipeline.records import (
    Disposition,
    Interaction,
)
from pipeline.rows.feed import Feed

_WARNINGS: Final = (BUMPS, arranging.RULE)


def compare_updates(build: Build) -> None:
    """Write what each update changes, except of rows that are written again for their order alone."""
    for feed in build.coverages:
        _compare(build, feed)


def _compare(build: Build, feed: Feed) -> None:
    is_update = (pl.col("interaction") == Interaction.UPDATE.value) & (pl.col("rule") != KEPT)
    rows = build.writer.rows(feed.name)
    columns = ["seq", "key", "shown", "body"]
    for number, updates in enumerate(rows.where(is_update, columns)):
        build.check_stop()
        build.writer.add_changes(
            feed.name, number, compare(_pairs(build, updates), build.organizations)
        )


def _pairs(build: Build, updates: pl.DataFrame) -> Iterator[Pair]:
    """Yield (seq, what Canvas showed or was last sent, what is to be sent) of each update."""
    before = build.last_sent(lookups.contents(build.journal, updates["key"]))
    for seq, key, shown, body in updates.iter_rows():
        yield seq, shown or before.get(key), body


def find_repeats(build: Build) -> dict[str, Found]:
    """Find the rows that equal a write of an earlier run under a key that no row of today's files has."""
    gone = [judged.missing for judged in build.feed_plans.values()]
    cancelled = pl.concat(gone).filter(pl.col("interaction") != "")["key"]
    repeats = Repeats(
        build.writer,
        build.journal,
        build.file_names(),
        partial(_keys_today, build),
        cancelled,
        build.last_sent,
        build.copies / "repeats",
        build.check_stop,
    )
    return repeats.find(build.job.feeds)


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


def totals_of(writer: PlanWriter, feed: Feed, judged: FeedPlan) -> dict[str, Any]:
    """Return counts and sums of a feed: rows by disposition, and what is to be sent."""
    counts, warned = Counter[str](), Counter[str]()
    cents = cents_of_all = 0
    for rows in writer.rows(feed.name).judged(["disposition", "amount_cents", "rule"]):
        cents_of_all += int(rows["amount_cents"].sum())
        counts.update(dict(rows.group_by("disposition").len().iter_rows()))
        warned.update({rule: int((rows["rule"] == rule).sum()) for rule in _WARNINGS})
        is_sent = pl.col("disposition") == Disposition.PENDING.value
        cents += int(rows.filter(is_sent)["amount_cents"].sum())
    cancelled = judged.missing.filter(pl.col("interaction") != "").height
    return {
        "planned": {word.value: counts[word.value] for word in Disposition},
        "planned_cents": cents_of_all,
        "to_send": counts[Disposition.PENDING.value] + cancelled,
        "to_send_cents": cents if feed.traits.has_money else 0,
        "warnings": {rule: count for rule, count in warned.items() if count},
        "missing": {
            "mode": feed.missing,
            "compared_with": judged.compared_with,
        },
    }
