"""Read every row, and judge it by itself, against the other rows and against the journal."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import date
from functools import partial

import polars as pl

from pipeline.errors import InputError, PlanError
from pipeline.journal import lookups, runs
from pipeline.planning.beside import POSTED_AT_ANOTHER_TIME
from pipeline.planning.corrected import keep_former_keys, note_corrected
from pipeline.planning.deliveries import warn_of_delivery
from pipeline.planning.parts import (
    make_part,
    parts_of,
    reading_of,
)
from pipeline.planning.passes.files import files_before
from pipeline.planning.passes.relate import relate_rows
from pipeline.planning.passes.tasks import part_task, salt
from pipeline.planning.resolve import resolve
from pipeline.planning.state import Build, FeedPlan
from pipeline.reading.read import origins
from pipeline.records import (
    Disposition,
    Stage,
)
from pipeline.rows import groups
from pipeline.rows.feed import Feed


def read_rows(build: Build) -> None:
    """Read and validate every row, then resolve the rows against each other and the journal.

    Sets `feed_plans`. Writes the parts of the plan, and the verdicts of `resolve`: disposition, interaction,
    resource_id, stage, field, rule and message.
    """
    build.progress.stage = "reading"
    build.progress.rows = sum(
        source.rows for sources in build.sources.values() for source in sources
    )
    relate_rows(build)
    for feed in build.job.feeds:
        build.feed_plans[feed.name] = _read(build, feed)
        keep_former_keys(build, feed)
        _count_files(build, feed)
        warn_of_delivery(build, feed)
    build.progress.stage = "planning"
    files = build.file_names()
    scans = {
        name: groups.Scan(judged.meta["rows_read"], _reader_of(build, build.feeds[name]))
        for name, judged in build.feed_plans.items()
    }
    parts = dict.fromkeys(build.feeds, 0)
    for name, verdicts in resolve(
        scans,
        build.job.feeds,
        files,
        partial(_known, build),
        build.new_folder(),
        groups.BOUNDS,
    ):
        build.check_stop()
        build.writer.judge(name, parts[name], verdicts)
        parts[name] += 1
    for feed in build.job.feeds:
        if feed.traits.has_money and not build.is_unsearched and _have_times(build, feed):
            _reject_other_times(build, feed)
    for feed in build.job.feeds:
        note_corrected(build, feed)


def _known(build: Build, keys: pl.Series) -> pl.DataFrame:
    """Return what the journal has of these keys; nothing if the patients are made up, because the rows then differ."""
    return lookups.known(build.journal, keys.clear() if build.is_unsearched else keys)


def _reader_of(build: Build, feed: Feed) -> Callable[[Sequence[str]], Iterator[pl.DataFrame]]:
    """Return a reader of a feed's rows, in which coverages that have ended are not active if they are numbered.

    They have freed their order, and may have one with another that has ended (`planning/numbering.py`).
    """
    written = build.writer.rows(feed.name).written
    if feed.order_from == "column":
        return written
    today = (build.day(feed) - date(1970, 1, 1)).days
    has_ended = (pl.col("end_day") <= today).fill_null(value=False)

    def read(columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        for rows in written(list(dict.fromkeys([*columns, "active", "end_day"]))):
            yield rows.with_columns(pl.col("active") & ~has_ended).select(columns)

    return read


def _have_times(build: Build, feed: Feed) -> bool:
    """Return whether days of a feed may be read with a time of day."""
    reading = build.reading(feed)
    return any(
        reading_of(feed, source, reading).dates.have_times("posted_on")
        for source in build.sources[feed.name]
    )


def _read(build: Build, feed: Feed) -> FeedPlan:
    """Write the parts of a feed. Its control totals are those of the rows as they were read."""
    sources = build.sources[feed.name]
    corrected = _corrected_runs(build, feed)
    cents_read = open_dates = 0
    parts = list(parts_of(sources))
    task = build.workers.share(part_task(build, feed, build.copies), build.new_folder())
    calls = (partial(make_part, task, number, part) for number, part in enumerate(parts))
    for made in build.workers.in_turn(calls, build.check_stop):
        cents_read += made.cents
        open_dates += made.open_dates
        build.progress.rows_read += made.rows
    build.writer.has(feed.name, len(parts))
    columns = list(dict.fromkeys(name for source in sources for name in source.kept))
    return FeedPlan(
        {
            "kind": feed.kind.value,
            "key": list(feed.key),
            "encoding": feed.encoding,
            "files": [
                {
                    "path": source.origin,
                    "sha256": source.sha256,
                    "rows": source.rows,
                    "skipped": dict(source.skipped),
                    "first_line": build.writer.keep_lines(feed.name, number, source.lines),
                }
                for number, source in enumerate(sources)
            ],
            "may_be_utf8": [source.name for source in sources if source.may_be_utf8],
            "mended_from": corrected,
            "corrected_files": [
                number
                for number, source in enumerate(sources)
                if source.run_column and origins(source)
            ],
            "rows_read": sum(source.rows for source in sources),
            "cents_read": cents_read,
            "open_dates": open_dates,
            "numbered": dict(build.numbered.get(feed.name, {})),
            "columns": columns,
            "delimiter": sources[0].delimiter,
            "salt": salt(build, feed),
        }
    )


def _count_files(build: Build, feed: Feed) -> None:
    """Note if the feed has fewer files than in its last complete run."""
    is_compared = feed.name not in build.job.inputs and not build.has_changes_only(feed.name)
    if not (is_compared and runs.last_complete(build.journal, feed.name)):
        return
    judged, before = build.feed_plans[feed.name], files_before(build, feed)
    judged.meta["files_before"] = before
    count = len(judged.meta["files"])
    if before is not None and count < before:
        judged.is_short = True
        build.notices.append(
            {
                "rule": "files|fewer",
                "feed": feed.name,
                "count": before - count,
                "message": f"Feed {feed.name} has {_files(count)}; its last complete run had {before:,}. "
                "Check that the sender delivered all of them.",
            }
        )


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count:,} files"


def _corrected_runs(build: Build, feed: Feed) -> list[str]:
    """Return the runs whose rejects files are among the files of a feed.

    Raises:
        InputError: Rejected rows were corrected that only their whole file tells apart.
    """
    rejects = [source for source in build.sources[feed.name] if source.run_column]
    if rejects and feed.repeats == "count":
        by = "by their place among the rows of all files"
        fix = f"correct them in the whole file of feed {feed.name}, and run that"
        if feed.counts_within_files:
            by = "by the file that they are in"
            fix = (
                f"have the sender put the corrected rows into the next delivery of feed {feed.name}"
            )
        raise InputError(
            f'these are rejected rows of an earlier run, and with repeats = "count" equal rows are distinguished {by}',
            fix,
            file=rejects[0].name,
        )
    return sorted({run_id for source in rejects for run_id in origins(source)})


def _reject_other_times(build: Build, feed: Feed) -> None:
    """Reject payments that the journal takes for unchanged, and that were posted at another time of day.

    The journal keeps no time; the plan of the run that posted it does, as long as it is there.
    """
    is_known = pl.col("disposition") == Disposition.UNCHANGED.value
    known = build.writer.rows(feed.name).where(is_known, ["seq", "key", "time_us"])
    piles = groups.deal(
        (part.drop_nulls() for part in known),
        groups.by_hash(["key"]),
        build.copies / f"times-{feed.name}",
        build.feed_plans[feed.name].meta["rows_read"],
        groups.BOUNDS.narrow,
    )
    for rows in piles:
        build.check_stop()
        before = _times_before(build, feed, rows["key"])
        other = rows.join(before, on="key").filter(pl.col("time_us") != pl.col("time_us_right"))
        rule, message = POSTED_AT_ANOTHER_TIME
        lines = other.select("seq").with_columns(
            disposition=pl.lit(Disposition.REJECTED.value),
            resource_id=pl.lit(""),
            stage=pl.lit(Stage.RESOLVE.value),
            field=pl.lit("row"),
            rule=pl.lit(rule),
            message=pl.lit(message),
        )
        build.writer.amend(feed.name, lines)


def _times_before(build: Build, feed: Feed, keys: pl.Series) -> pl.DataFrame:
    """Return key and time_us of payments as they were posted, of those for which it is known."""
    found = [pl.DataFrame(schema={"key": pl.String, "time_us": pl.Int64})]
    held = lookups.contents(build.journal, keys)
    for (run_id,), mine in held.group_by("held_run"):
        with suppress(PlanError, KeyError, OSError, pl.exceptions.PolarsError):
            plan = build.earlier.open(str(run_id))
            found += [part.join(mine, on="key", how="semi") for part in plan.times(feed.name)]
    return pl.concat(found).drop_nulls().unique("key")
