"""List what each update changes, element by element, and count the ends that a person should look at."""

from collections.abc import Iterator

import polars as pl

from pipeline.journal import lookups
from pipeline.planning.compare import Pair, compare
from pipeline.planning.state import Build
from pipeline.planning.tables import KEPT
from pipeline.records import REWRITTEN, Interaction
from pipeline.rows.feed import Feed


def compare_updates(build: Build) -> None:
    """Write what each update changes, except of rows that are written again as they are.

    Sets `ends` of the feeds, and adds to `notices`.
    """
    for feed in build.coverages:
        _compare(build, feed)
        build.notices += build.feed_plans[feed.name].ends.notices(feed.name)


def _compare(build: Build, feed: Feed) -> None:
    is_same = (pl.col("rule") == KEPT) | pl.col("rule").str.contains(REWRITTEN, literal=True)
    is_update = (pl.col("interaction") == Interaction.UPDATE.value) & ~is_same.fill_null(
        value=False
    )
    rows = build.writer.rows(feed.name)
    columns = ["seq", "key", "shown", "body", "start_day"]
    ends = build.feed_plans[feed.name].ends
    for number, updates in enumerate(rows.where(is_update, columns)):
        build.check_stop()
        changes = compare(_pairs(build, updates), build.organizations)
        build.writer.add_changes(feed.name, number, changes)
        ends.add(changes.filter(element="period.end")["after"].drop_nulls(), build.day(feed))
        ends.replaced += _count_replaced(build, updates)


def _count_replaced(build: Build, updates: pl.DataFrame) -> int:
    """Count the rows that are back with a start after the end, and not on the day after it."""
    ended = lookups.ended(build.journal, updates["key"]).with_columns(
        pl.col("held_end").str.to_date().to_physical()
    )
    back = updates.join(ended, on="key")
    return back.filter(pl.col("start_day") > pl.col("held_end") + 1).height


def _pairs(build: Build, updates: pl.DataFrame) -> Iterator[Pair]:
    """Yield (seq, what Canvas showed or was last sent, what is to be sent) of each update."""
    before = build.last_sent(lookups.contents(build.journal, updates["key"]))
    for seq, key, shown, body in updates.drop("start_day").iter_rows():
        yield seq, shown or before.get(key), body
