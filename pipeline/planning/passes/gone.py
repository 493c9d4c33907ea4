"""Find rows of the last complete run that are missing from today's files, and end or cancel their coverages."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import polars as pl

from pipeline.errors import PlanError
from pipeline.journal import lookups, runs
from pipeline.planning.end_days import end_day
from pipeline.planning.missing import REJECTED, SETTLED, Gone, RejectedRows, retire, too_many
from pipeline.planning.plan import Plan
from pipeline.planning.ranks import first_free
from pipeline.planning.state import Build
from pipeline.records import (
    State,
)
from pipeline.rows import groups
from pipeline.rows.crosswalk import Ambiguous, Unknown
from pipeline.rows.feed import Feed
from pipeline.rows.texts import texts_of


def find_missing(build: Build) -> None:
    """Decide about the rows of the last complete run that are missing, once all rejected rows are known.

    Sets `missing`, `compared_with` and `ends` of the feeds, and adds to `notices`.
    """
    found = {feed.name: gone for feed in build.coverages if (gone := _gone(build, feed))}
    rejected = _rejected(build, {lane for gone in found.values() for lane in gone.rows["lane"]})
    for name, gone in found.items():
        judged = build.feed_plans[name]
        feed, sent = build.feeds[name], build.last_sent
        held = too_many(feed, gone, sent) if feed.missing in {"end", "cancel"} else None
        build.notices += [held] if held and not gone.is_short else []
        judged.missing = retire(feed, gone, rejected, sent, is_held=held is not None)
        judged.compared_with = gone.compared_with
        is_set = pl.col("interaction") != ""
        ends = judged.missing.filter(is_set)["end_on"].drop_nulls()
        judged.ends.add(ends, build.day(feed))


def _gone(build: Build, feed: Feed) -> Gone | None:
    """Return the rows of the last complete run that are missing; None if the feed is not compared."""
    if feed.missing == "ignore" or feed.name in build.job.inputs:
        return None
    if build.has_changes_only(feed.name):
        return None
    run_ids = runs.last_complete(build.journal, feed.name)
    if not run_ids:
        return None
    before, open_ = (
        _keys_before(build, feed, run_ids),
        lookups.cancel_keys(build.journal, feed.name),
    )
    rows = build.writer.rows(feed.name)
    held, height = [lookups.active(build.journal, open_.clear())], 0
    keys_of = partial(groups.of_pass, dtype=pl.String)
    count = groups.passes(sum(keys.len() for keys in before()), groups.BOUNDS.hashes)
    for number in range(count):
        build.check_stop()
        keys = keys_of(before(), number, count).unique()
        height += keys.len()
        candidates = pl.concat([keys, keys_of([open_], number, count)]).unique()
        today = keys_of((part["key"] for part in rows.judged(["key"])), number, count)
        gone = candidates.to_frame("key").join(today.to_frame("key"), on="key", how="anti")
        held.append(lookups.active(build.journal, gone["key"]))
    rows_gone = pl.concat(held).sort("key")
    return Gone(
        rows=rows_gone,
        before=height,
        open_=frozenset(open_),
        compared_with=run_ids[0],
        is_short=build.feed_plans[feed.name].is_short,
        end_on=end_day(build.day(feed), feed.missing_end_on),
        orders=_orders_of_moved(build, rows_gone.filter(pl.col("displaced") == 1)),
    )


def _orders_of_moved(build: Build, moved: pl.DataFrame) -> dict[str, int]:
    """Return the orders with which moved coverages are written so that they move no other one of the patient.

    Another write of ours took the order that they were sent with, so Canvas has moved them to the next one, and to
    the first free one at last (docs/canvas.md, "Coverage").
    """
    orders: dict[str, int] = {}
    keys = set(moved["key"])
    ranks = lookups.ranks(build.journal, moved["lane"].unique()).drop_nulls("rank")
    for _, lines in ranks.group_by("lane"):
        held = dict(
            lines.filter(~pl.col("key").is_in(list(keys))).select("key", "rank").iter_rows()
        )
        for key, order in (
            lines.filter(pl.col("key").is_in(list(keys))).select("key", "rank").iter_rows()
        ):
            orders[key] = held[key] = first_free(held, key, order)
    return orders


def _rejected(build: Build, patients: set[str]) -> RejectedRows:
    """Return the rejected rows of all coverage feeds that may be missing rows of these patients."""
    rejected = RejectedRows()
    if not patients:
        return rejected
    for feed in build.coverages:
        files = [Path(source.origin).name for source in build.sources[feed.name]]
        for rows, source in build.writer.rejected(feed.name):
            build.check_stop()
            texts = texts_of(source, feed).select("patient", "member_id")
            lines = rows.hstack(texts).select(*REJECTED)
            for line in lines.iter_rows():
                rejected.add(line, files, partial(_patient, build), patients)
    return rejected


def _patient(build: Build, value: str | None) -> str:
    """Return the key of the patient that a sender's text names; "" if the patient is not known."""
    try:
        return build.crosswalks.patient.find(value) if value else ""
    except (Unknown, Ambiguous):
        return ""


def payments_gone(build: Build, feed: Feed) -> int:
    """Return the number of payments of the last full delivery that are in no row of today's files."""
    if not feed.counts_over_files:
        return 0
    run_ids = runs.last_complete(build.journal, feed.name)
    before = _keys_before(build, feed, run_ids) if run_ids else _keys_of_journal(build, feed)
    rows, gone = build.writer.rows(feed.name), 0
    keys_of = partial(groups.of_pass, dtype=pl.String)
    count = groups.passes(sum(keys.len() for keys in before()), groups.BOUNDS.hashes)
    for number in range(count):
        build.check_stop()
        keys = keys_of(before(), number, count).unique()
        today = keys_of((part["key"] for part in rows.judged(["key"])), number, count)
        lacking = keys.to_frame("key").join(today.to_frame("key"), on="key", how="anti")["key"]
        is_posted = ~pl.col("state").is_in([State.PENDING.value, State.REFUSED.value])
        gone += lookups.known(build.journal, lacking).filter(is_posted).height
    return gone


def _keys_of_journal(build: Build, feed: Feed) -> Callable[[], Iterator[pl.Series]]:
    """Return the keys of a feed that Canvas has, or may have, by the journal."""
    is_coverage = feed.traits.resource_type == "Coverage"
    keys_of = lookups.active_keys if is_coverage else lookups.payment_keys
    return lambda: iter([keys_of(build.journal, feed.name)])


def _keys_before(
    build: Build, feed: Feed, runs: Sequence[str]
) -> Callable[[], Iterator[pl.Series]]:
    """Return the keys of the last complete run, and of runs after it that ended early or had changes, some at a time.

    With the rows that were missing then and about which something was left to do. If a plan is gone, all rows of the feed that
    Canvas has by the journal.
    """
    known: list[Callable[[], Iterable[pl.Series]]] = []
    for run_id in runs:
        try:
            plan = Plan.open(build.job.state_dir / "plans" / run_id)
            kept = plan.missing(feed.name).filter(~pl.col("rule").is_in(SETTLED))
            for _ in plan.keys(feed.name):
                pass  # all of it is there
            known += [partial(plan.keys, feed.name), partial(list, [kept["key"]])]
        except (PlanError, OSError, pl.exceptions.PolarsError):
            known.append(_keys_of_journal(build, feed))
    return lambda: itertools.chain.from_iterable(keys() for keys in known)
