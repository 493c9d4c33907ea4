"""List what each update changes, element by element."""

from collections.abc import Iterator

import polars as pl

from pipeline.journal import lookups
from pipeline.planning.compare import Pair, compare
from pipeline.planning.state import Build
from pipeline.planning.tables import KEPT
from pipeline.records import REWRITTEN, Interaction
from pipeline.rows.feed import Feed


def compare_updates(build: Build) -> None:
    """Write what each update changes, except of rows that are written again as they are."""
    for feed in build.coverages:
        _compare(build, feed)


def _compare(build: Build, feed: Feed) -> None:
    is_same = (pl.col("rule") == KEPT) | pl.col("rule").str.contains(REWRITTEN, literal=True)
    is_update = (pl.col("interaction") == Interaction.UPDATE.value) & ~is_same.fill_null(
        value=False
    )
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
