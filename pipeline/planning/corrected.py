"""Rows that were rejected and came in by a corrected reject file.

A reject file names the run, the file and the number of each row. Its plan keeps the key that the row had then beside
the key that it has now. So a later run of the whole file, in which the row is still wrong, knows that it came in.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import polars as pl

from pipeline.errors import PlanError
from pipeline.journal import lookups
from pipeline.planning.state import Build
from pipeline.reading.read import rows_origin
from pipeline.reading.source import Source
from pipeline.records import Disposition, State
from pipeline.rows.feed import Feed

_SCHEMA: Final = {"was": pl.String, "key": pl.String}
_UNREADABLE: Final = (PlanError, OSError, KeyError, pl.exceptions.PolarsError)
_PLACE: Final = ["run", "name", "number"]
NOTE: Final = "; a corrected row was loaded by run "


def keep_former_keys(build: Build, feed: Feed) -> None:
    """Write the keys that the rows of reject files had when they were rejected, and have now, into the plan."""
    numbers = [number for number, each in enumerate(build.sources[feed.name]) if each.run_column]
    if not numbers:
        return
    sources = build.sources[feed.name]
    origins = pl.concat(_origins(number, sources[number]) for number in numbers)
    rows = build.writer.rows(feed.name).written(["file", "row", "key"])
    known = pl.concat(part.join(origins, on=["file", "row"]) for part in rows)
    former = [_former(build, feed, str(run)) for run in known["run"].drop_nulls().unique()]
    found = (
        known.join(pl.concat(former), on=_PLACE, how="left")
        if former
        else known.with_columns(pl.lit(None, dtype=pl.String).alias("was"))
    )
    pairs = found.select(pl.coalesce("was", "key").alias("was"), "key")
    build.writer.add_corrected(feed.name, pairs)


def _origins(number: int, source: Source) -> pl.DataFrame:
    """Return file and row of the rows of a reject file, and the run, the file name and the row that they were."""
    parts = []
    for piece in source.slices:
        origin = rows_origin(source, piece)
        rows = pl.int_range(
            piece.first_row, piece.first_row + piece.rows, dtype=pl.UInt32, eager=True
        )
        file = pl.lit(number, dtype=pl.UInt16).alias("file")
        parts.append(origin.with_columns(rows.alias("row"), file))
    return pl.concat(parts)


def _former(build: Build, feed: Feed, run_id: str) -> pl.DataFrame:
    """Return the keys of the rejected rows of an earlier run, by their place; none if its plan is gone."""
    parts = [
        pl.DataFrame(
            schema={"run": pl.String, "name": pl.String, "number": pl.UInt32, "was": pl.String}
        )
    ]
    with suppress(*_UNREADABLE):
        plan = build.earlier.open(run_id)
        files = [Path(file["path"]).name for file in plan.meta["feeds"][feed.name]["files"]]
        names = pl.col("file").replace_strict(range(len(files)), files, return_dtype=pl.String)
        was = (
            pl.lit(run_id).alias("run"),
            names.alias("name"),
            pl.col("row").alias("number"),
            pl.col("key").alias("was"),
        )
        parts += [rows.select(was) for rows in plan.rows(feed.name)]
    return pl.concat(parts).unique(_PLACE)


def note_corrected(build: Build, feed: Feed) -> None:
    """Note which rejected rows of today's files came in by a corrected reject file, in their messages and in `meta`."""
    meta = build.feed_plans[feed.name].meta
    rejected = _rejected(build, feed, meta["corrected_files"])
    runs: Counter[str] = Counter()
    if not rejected.is_empty():
        came = _came_in(build, feed, rejected)
        runs.update(came["run"].to_list())
        message = pl.format("{}" + NOTE + "{}", "message", "run").alias("message")
        build.writer.amend(feed.name, came.select("seq", "key", message), how="full")
    meta["corrected"] = {"rows": runs.total(), "runs": dict(sorted(runs.items()))}


def _rejected(build: Build, feed: Feed, corrected_files: list[int]) -> pl.DataFrame:
    """Return the rejected rows of the files that are no reject files."""
    is_asked = pl.col("disposition") == Disposition.REJECTED.value
    is_asked &= ~pl.col("file").is_in(corrected_files)
    columns = ["seq", "key", "file", "disposition", "message"]
    parts = [rows.filter(is_asked) for rows in build.writer.rows(feed.name).judged(columns)]
    return pl.concat(parts).select("seq", "key", "message") if parts else pl.DataFrame()


def _came_in(build: Build, feed: Feed, rejected: pl.DataFrame) -> pl.DataFrame:
    """Return those of the rejected rows whose corrected rows Canvas confirmed, each with the newest such run."""
    pairs = [
        part.filter(pl.col("was").is_in(rejected["key"].implode())).with_columns(
            pl.lit(run_id).alias("run")
        )
        for run_id, part in _pairs(build, feed)
    ]
    known = pl.concat([pl.DataFrame(schema={**_SCHEMA, "run": pl.String}), *pairs])
    states = lookups.known(build.journal, known["key"].unique())
    confirmed = states.filter(pl.col("state") == State.CONFIRMED.value).select("key")
    came = known.join(confirmed, on="key", how="semi").unique(
        "was", keep="last", maintain_order=True
    )
    return rejected.join(came.select(pl.col("was").alias("key"), "run"), on="key")


def _pairs(build: Build, feed: Feed) -> Iterator[tuple[str, pl.DataFrame]]:
    """Yield the runs of corrected reject files of a feed, in their order, with the keys before and after."""
    plans = build.job.state_dir / "plans"
    for path in sorted(plans.glob(f"*/corrected-{feed.name}.parquet")):
        run_id = path.parent.name
        if run_id == build.run_id:
            continue
        with suppress(*_UNREADABLE):
            plan = build.earlier.open(run_id)
            yield run_id, pl.read_parquet(plan.folder / path.name, glob=False)
