"""Write unchanged coverages again that a person wants to have written again (`run --rewrite`).

Each row is written again once for a request: a run with the condition of one that ended early continues that one,
and leaves out what has been written since.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import polars as pl

from pipeline.errors import InputError, PlanError
from pipeline.journal import lookups, runs
from pipeline.planning.state import Build
from pipeline.planning.tables import VERDICT_SCHEMA
from pipeline.records import REWRITTEN, Disposition, Interaction, counted
from pipeline.rows.condition import MET
from pipeline.rows.feed import Feed

_NEEDED: Final = ("seq", "key", "file", "row", "rewrite", "rule", "message")
_MESSAGE: Final = "unchanged, and written again: it meets --rewrite"


def rewrite_rows(build: Build) -> None:
    """Turn unchanged rows that meet `--rewrite` into updates, whether or not they were taken over just now.

    Writes the verdicts disposition, interaction, field, rule and message.

    Raises:
        InputError: The condition has no value for an unchanged row.
    """
    if not build.job.rewrite:
        return
    continued = _continued(build)
    for feed in build.coverages:
        met = written = 0
        for rows in _unchanged(build, feed):
            build.check_stop()
            held = lookups.contents(build.journal, rows["key"])
            done = held.filter(pl.col("held_run").is_in(continued))["key"]
            again = rows.filter(~pl.col("key").is_in(done.implode()))
            met, written = met + rows.height, written + again.height
            build.writer.amend(feed.name, _verdicts(again))
        _notice(build, feed, met, met - written)


def _unchanged(build: Build, feed: Feed) -> Iterator[pl.DataFrame]:
    """Yield the unchanged rows that meet the condition, part by part."""
    is_unchanged = pl.col("disposition") == Disposition.UNCHANGED.value
    for rows in build.writer.rows(feed.name).where(is_unchanged, _NEEDED):
        marked = rows.drop_nulls("rewrite")
        unknown = marked.filter(pl.col("rewrite") != MET)
        for file, row, reason in unknown.select("file", "row", "rewrite").head(1).iter_rows():
            raise InputError(
                f"--rewrite has no value for this row: {reason}",
                "change the condition: try_cast is NULL where cast has no value, and NULL is not met",
                file=Path(build.feed_plans[feed.name].meta["files"][file]["path"]).name,
                row=row,
                line=build.sources[feed.name][file].line_of(row),
            )
        yield marked


def _verdicts(rows: pl.DataFrame) -> pl.DataFrame:
    has_rule = pl.col("rule") != ""
    return rows.select(
        "seq",
        "key",
        pl.lit(Disposition.PENDING.value).alias("disposition"),
        pl.lit(Interaction.UPDATE.value).alias("interaction"),
        pl.lit("row").alias("field"),
        pl.when(has_rule)
        .then(pl.format("{}; {}", "rule", pl.lit(REWRITTEN)))
        .otherwise(pl.lit(REWRITTEN))
        .alias("rule"),
        pl.when(has_rule)
        .then(pl.format("{}; {}", "message", pl.lit(_MESSAGE)))
        .otherwise(pl.lit(_MESSAGE))
        .alias("message"),
    ).cast({name: VERDICT_SCHEMA[name] for name in ("seq", "key")})


def _continued(build: Build) -> list[str]:
    """Return the runs that this one continues: one with the same condition that ended early, and those after it."""
    ended_early = [each for each in runs.ended_early(build.journal) if each != build.run_id]
    for number, run_id in enumerate(ended_early):
        with suppress(PlanError):
            if build.earlier.open(run_id).meta.get("rewrite") == build.job.rewrite:
                return ended_early[number:]
    return []


def _notice(build: Build, feed: Feed, met: int, done: int) -> None:
    """Warn if the condition is met by no row, or by rows that were written already."""
    is_open = pl.col("rule").str.contains(REWRITTEN, literal=True)
    if not met and next(build.writer.rows(feed.name).where(is_open, ["seq"]), None) is None:
        message = f"{feed.name}: no unchanged coverage meets --rewrite; none is written again."
    elif done:
        was = "was" if done == 1 else "were"
        message = (
            f"{feed.name}: {counted(done, 'coverage')} that {'meets' if done == 1 else 'meet'} --rewrite {was} "
            "written since an earlier run with it began, which this run continues: not written again."
        )
    else:
        return
    build.notices.append({"rule": REWRITTEN, "feed": feed.name, "count": done, "message": message})
