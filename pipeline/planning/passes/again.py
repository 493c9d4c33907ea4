"""Read rows again that were skipped as unchanged: their bodies and source rows are not in the plan."""

import polars as pl

from pipeline.planning.given import put_in
from pipeline.planning.parts import (
    numbers_of,
    reading_of,
    with_drafts,
)
from pipeline.planning.state import Build
from pipeline.planning.tables import SEQ
from pipeline.reading.read import read
from pipeline.records import (
    Disposition,
    Draft,
)
from pipeline.rows.feed import Feed
from pipeline.rows.texts import texts_of, wanted
from pipeline.rows.validate import validate


def read_again(build: Build, feed: Feed, rows: pl.DataFrame) -> dict[int, Draft]:
    """Return the resources of rows that were skipped, by seq, and keep their source rows in `skipped`."""
    drafts: dict[int, Draft] = {}
    sources = build.skipped.setdefault(feed.name, [])
    given = build.given[feed.name].of_rows(rows["seq"])
    for (file,), group in rows.group_by("file"):
        seqs = dict(group.select("row", "seq").iter_rows())
        for batch in read(build.sources[feed.name][int(str(file))]):
            numbers = numbers_of(batch)
            mine = numbers.is_in(list(seqs))
            if not mine.any():
                continue
            frame, numbers = batch.frame.filter(mine), numbers.filter(mine)
            own = numbers.replace_strict(seqs, return_dtype=pl.UInt32)
            texts = put_in(texts_of(frame, feed), own, given)
            reading = reading_of(feed, batch.source, build.reading(feed))
            checked = validate(texts, wanted(texts, feed), numbers, feed, reading)
            sources.append(frame.with_columns(own.alias(SEQ)))
            for row, draft in with_drafts(checked, feed, build.mapping()):
                if draft is not None:
                    drafts[seqs[row.row]] = draft
    return drafts


def add_skipped(build: Build) -> None:
    """Add the source rows of skipped rows that were rejected after all, for the rejects file."""
    for feed in build.job.feeds:
        _add_skipped(build, feed)


def _add_skipped(build: Build, feed: Feed) -> None:
    is_rejected = pl.col("disposition") == Disposition.REJECTED.value
    # Only skipped rows have no body in the plan.
    skipped = [
        rows.filter(pl.col("body").is_null())
        for rows in build.writer.rows(feed.name).where(is_rejected, ["seq", "file", "row", "body"])
    ]
    if skipped:
        read_again(build, feed, pl.concat(skipped))
    if build.skipped.get(feed.name):
        build.writer.add_sources(feed.name, pl.concat(build.skipped[feed.name], how="diagonal"))
