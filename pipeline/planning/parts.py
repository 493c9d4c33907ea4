"""The parts of a plan, each made of some slices of a feed's files: read, judged, mapped and written.

A part is made without looking at any other, in this process or another one. The result is always the
same: the same rows, with the same numbers, in the same file.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import NamedTuple

import polars as pl

from pipeline.planning.given import Given, put_in
from pipeline.planning.unchanged import HeldRows
from pipeline.planning.unchanged import digests as digests_of
from pipeline.planning.workers import Shared
from pipeline.planning.writer import LINE_SCHEMA, PlannedBatch, as_lines, lines_of, write_part
from pipeline.reading.read import read_slice
from pipeline.reading.source import Batch, Source
from pipeline.records import Disposition, Draft
from pipeline.rows import groups
from pipeline.rows.accept import accept
from pipeline.rows.columns import Reading
from pipeline.rows.condition import marks_of
from pipeline.rows.dates import OPEN_FIELDS, Dates
from pipeline.rows.feed import Checked, Feed, identities
from pipeline.rows.map import Mapping as RowMapping
from pipeline.rows.map import map_row, map_rows
from pipeline.rows.subscribers import subscriber_ids
from pipeline.rows.tally import cents_read
from pipeline.rows.texts import texts_of, wanted
from pipeline.rows.validate import validate


class Part(NamedTuple):
    """The rows of a part: the `seq` of the first, and the slices by number of file and within the file."""

    first_seq: int
    slices: tuple[tuple[int, int], ...]


class PartResult(NamedTuple):
    """The number of rows that were read of a part, the sum of their amounts (`rows/tally.py`), and its open dates."""

    rows: int
    cents: int
    open_dates: int


@dataclass(frozen=True, slots=True)
class PartTask:
    """The input for making the parts of one feed. It holds no secret."""

    feed: Feed
    sources: Sequence[Source]
    held: HeldRows  # rows that the last run found unchanged
    reading: Reading
    mapping: RowMapping
    folder: Path  # the plan's
    scratch: Path  # for files that are not whole yet
    given: Given  # what other rows give the rows of this feed
    day: date  # of the run, in the practice's time zone
    rewrite: str = ""  # a condition on unchanged rows, which are then looked at


class Piece(NamedTuple):
    """The rows of a slice."""

    file: int  # its number
    batch: Batch
    seqs: pl.Series
    numbers: pl.Series  # of the rows within the file
    texts: pl.DataFrame  # from `texts.texts_of`, with what other rows give


def parts_of(sources: Sequence[Source]) -> Iterator[Part]:
    """Yield all rows of a feed's files, cut into parts; small files share a part."""
    first_seq = rows = 0
    held: list[tuple[int, int]] = []
    for file, source in enumerate(sources):
        for number, piece in enumerate(source.slices):
            if held and rows + piece.rows > groups.BOUNDS.whole:
                yield Part(first_seq, tuple(held))
                first_seq, rows, held = first_seq + rows, 0, []
            held.append((file, number))
            rows += piece.rows
    if held:
        yield Part(first_seq, tuple(held))


def pieces(task: PartTask, number: int, part: Part) -> Iterator[Piece]:
    """Yield the rows of a part, slice by slice. Raises InputError."""
    first, lines = part.first_seq, task.given.of_part(number)
    for file, piece in part.slices:
        source = task.sources[file]
        batch = read_slice(source, source.slices[piece])
        end = first + batch.frame.height
        seqs = pl.int_range(first, end, dtype=pl.UInt32, eager=True)
        texts = put_in(texts_of(batch.frame, task.feed), seqs, lines)
        yield Piece(file, batch, seqs, numbers_of(batch), texts)
        first = end


def make_part(shared: Shared[PartTask], number: int, part: Part) -> PartResult:
    """Read and judge the rows of a part, and write it. Raises InputError."""
    task = shared.value
    batches = []
    rows = cents = open_dates = 0
    for piece in pieces(task, number, part):
        rows += piece.batch.frame.height
        cents += cents_of(piece.batch, task.feed)
        planned = rows_with_verdicts(piece.batch, task, piece.texts)
        open_dates += planned.open_dates
        batches.append((piece.file, planned))
    write_part(task.folder, task.scratch, task.feed.name, number, part.first_seq, batches)
    return PartResult(rows, cents, open_dates)


def cents_of(batch: Batch, feed: Feed) -> int:
    """Return the sum of a batch's amounts as they were read, whatever happens to the rows."""
    if not feed.traits.has_money:
        return 0
    if "amount" in feed.sql:
        alone = replace(feed, columns={}, where="", sql={"amount": feed.sql["amount"]})
        return cents_read(
            texts_of(batch.frame, alone)["amount"],
            feed.amount_sign,
            decimal_comma=feed.decimal_comma,
            unit=feed.amount_unit,
        )
    column = feed.columns.get("amount")
    constant = pl.repeat(
        feed.constants.get("amount"), batch.frame.height, dtype=pl.String, eager=True
    )
    return cents_read(
        constant if column is None else batch.frame[column],
        feed.amount_sign,
        decimal_comma=feed.decimal_comma,
        unit=feed.amount_unit,
        null_values=feed.null_values if column is not None else (),
    )


def _open_dates(texts: pl.DataFrame, dates: Dates) -> int:
    """Count the cells that mean "no date"."""
    count = 0
    for name in set(OPEN_FIELDS).intersection(texts.columns):
        cells = texts[name].drop_nulls()
        found = [text for text in cells.unique() if dates.read(text, name) is None]
        count += int(cells.is_in(found).sum()) if found else 0
    return count


def rows_with_verdicts(batch: Batch, task: PartTask, texts: pl.DataFrame) -> PlannedBatch:
    """Judge a batch, whose texts are given. Rows that the last run found unchanged are not looked at, unless they may be written again."""
    feed, reading = task.feed, reading_of(task.feed, batch.source, task.reading)
    is_wanted = wanted(texts, feed)
    walks = task.reading.crosswalks
    tables = {
        "patient": walks.patient,
        "subscriber": walks.subscriber,
        "payer": walks.payer,
        "claim": walks.claim,
    }
    digests = digests_of(texts, tables)
    found, known = task.held.find(digests)
    marks = _marks(texts, task, reading)
    is_skipped = is_wanted & marks.is_null()
    is_held = found & is_skipped
    numbers = numbers_of(batch)
    rest = ~is_held
    looked_at = (
        look_at(
            texts.filter(rest),
            is_wanted.filter(rest),
            numbers.filter(rest),
            feed,
            reading,
            task.mapping,
        )
        if rest.any()
        else pl.DataFrame(schema=LINE_SCHEMA)
    )
    unchanged = known.filter(is_skipped.filter(found)).with_columns(
        numbers.filter(is_held).alias("row"),
        pl.lit(Disposition.UNCHANGED.value).alias("disposition"),
    )
    lines = pl.concat([looked_at, unchanged], how="diagonal").sort("row")
    open_dates = _open_dates(texts.filter(is_wanted), reading.dates)
    lines = lines.with_columns(*digests, _own_ids(texts, feed, reading), marks)
    return PlannedBatch(batch.frame, lines, open_dates)


def _own_ids(texts: pl.DataFrame, feed: Feed, reading: Reading) -> pl.Series:
    """Return the subscriber ids of rows with relationship self, if dependents may be related to them."""
    if not (reading.crosswalks.by_row and feed.traits.resource_type == "Coverage"):
        return pl.repeat(None, texts.height, dtype=pl.String, eager=True).alias("subscriber")
    ids = subscriber_ids(texts, feed, reading)
    return ids.select(pl.when("is_self").then("id").alias("subscriber")).to_series()


def _marks(texts: pl.DataFrame, task: PartTask, reading: Reading) -> pl.Series:
    if task.rewrite and task.feed.traits.resource_type == "Coverage":
        return marks_of(texts, task.rewrite, task.feed, reading).alias("rewrite")
    return pl.repeat(None, texts.height, dtype=pl.String, eager=True).alias("rewrite")


def reading_of(feed: Feed, source: Source, reading: Reading) -> Reading:
    """Return how the rows of one file are read.

    With the file's hash if that is part of their identity. Days of Parquet files and workbooks have a type, and
    are written as ISO when they are decoded: they are read whatever the feed's formats are.
    """
    if source.is_parquet:
        reading = replace(reading, dates=reading.dates.typed)
    return replace(reading, delivery=(source.sha256,)) if feed.counts_within_files else reading


def numbers_of(batch: Batch) -> pl.Series:
    """Return the number of each row of a batch within its file."""
    end = batch.first_row + batch.frame.height
    return pl.int_range(batch.first_row, end, dtype=pl.UInt32, eager=True)


def look_at(
    texts: pl.DataFrame,
    is_wanted: pl.Series,
    numbers: pl.Series,
    feed: Feed,
    reading: Reading,
    mapping: RowMapping,
) -> pl.DataFrame:
    """Judge and map rows: by whole columns, and one by one for those that may not be good.

    Both ways give the same result; columns are faster.

    Args:
        texts: The rows from `texts.texts_of`.
        is_wanted: Whether `only` keeps each row.
        numbers: The number of each row within its file.
        feed: The feed.
        reading: The settings for reading its cells.
        mapping: The data that resources depend on beside their rows.

    Returns:
        Lines as `writer.lines_of` returns them, in any order.
    """
    known = identities(texts, feed, reading).with_columns(numbers.alias("row"))
    filtered = as_lines(known.filter(~is_wanted), Disposition.FILTERED)
    texts, numbers, known = (
        texts.filter(is_wanted),
        numbers.filter(is_wanted),
        known.filter(is_wanted),
    )
    is_accepted, read = accept(texts, feed, reading)
    drafts = map_rows(read, feed.traits.model, mapping, feed.order_by)
    accepted = as_lines(known.filter(is_accepted).hstack(drafts), Disposition.PENDING)
    texts, numbers = texts.filter(~is_accepted), numbers.filter(~is_accepted)
    rest = validate(texts, wanted(texts, feed), numbers, feed, reading)
    return pl.concat([filtered, accepted, lines_of(with_drafts(rest, feed, mapping))])


def with_drafts(
    rows: Iterable[Checked], feed: Feed, mapping: RowMapping
) -> list[tuple[Checked, Draft | None]]:
    """Return validated rows with the resources that they become."""
    return [
        (row, None if row.content is None else map_row(row.content, mapping, feed.order_by))
        for row in rows
    ]
