"""Read the few columns of all rows that say what rows give each other, part by part, here or on workers.

A call writes a file for its part in the task's scratch folder, in one step.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import polars as pl

from pipeline.fhir.codes import LINES, MEDICAL, line_of
from pipeline.files import FILE_MODE, sync
from pipeline.planning.numbering import Phase
from pipeline.planning.parts import Part, PartTask, Piece, cents_of, pieces, reading_of
from pipeline.planning.subscribers import RELATION
from pipeline.planning.workers import Shared
from pipeline.records import Disposition
from pipeline.rows.accept import accept
from pipeline.rows.feed import Checked, identities
from pipeline.rows.subscribers import patients, subscriber_ids
from pipeline.rows.texts import wanted
from pipeline.rows.validate import validate

# What is compared of the rows of a patient. `lane` is null if the patient cannot be read.
STANDING: Final[dict[str, Any]] = {
    "seq": pl.UInt32,
    "key": pl.String,
    "lane": pl.String,
    "line": pl.UInt8,
    "phase": pl.UInt8,
    "is_good": pl.Boolean,
}
_PEOPLE: Final = ("patient", "subscriber")  # fields that only Canvas, or other rows, can resolve
_ANY_ORDER: Final = "1"  # while rows are judged for everything but the order that they will have


def surveyed(scratch: Path, number: int) -> Path:
    """Return the path of a part's file."""
    return scratch / f"survey-{number:05}.parquet"


def survey_relations(shared: Shared[PartTask], number: int, part: Part) -> None:
    """Write the rows (RELATION) that have a subscriber id. Raises InputError."""
    _survey(shared.value, number, part, _relations)


def survey_standings(shared: Shared[PartTask], number: int, part: Part) -> None:
    """Write the rows (STANDING) that are not filtered. Raises InputError."""
    _survey(shared.value, number, part, _standings)


@dataclass(slots=True)
class Counts:
    """The figures that limits judge.

    Attributes:
        cents: The sum of all amounts read.
        rows: The rows without filtered ones and those of reject files.
        rejected: The rejected ones among these.
    """

    cents: int = 0
    rows: int = 0
    rejected: int = 0

    def add(self, other: "Counts") -> None:
        """Add the counts of another part."""
        self.cents += other.cents
        self.rows += other.rows
        self.rejected += other.rejected


def survey_counts(shared: Shared[PartTask], number: int, part: Part) -> Counts:
    """Count the rows of a part that are rejected for any patients that Canvas may find. Raises InputError."""
    task, counts = shared.value, Counts()
    for piece in pieces(task, number, part):
        counts.cents += cents_of(piece.batch, task.feed)
        if not piece.batch.source.run_column:
            counts.add(_judged(task, piece))
    return counts


def _judged(task: PartTask, piece: Piece) -> Counts:
    feed, texts = task.feed, piece.texts
    reading = reading_of(feed, piece.batch.source, task.reading)
    if feed.order_from == "sequence":
        texts = texts.with_columns(pl.lit(_ANY_ORDER).alias("order"))
    is_wanted = wanted(texts, feed)
    texts, numbers = texts.filter(is_wanted), piece.numbers.filter(is_wanted)
    is_good = accept(texts, feed, reading)[0]
    rest, unsure = texts.filter(~is_good), numbers.filter(~is_good)
    checked = validate(rest, wanted(rest, feed), unsure, feed, reading)
    rejected = sum(any(each.field not in _PEOPLE for each in row.rejections) for row in checked)
    return Counts(0, texts.height, rejected)


def _survey(
    task: PartTask, number: int, part: Part, look: Callable[[PartTask, Piece], pl.DataFrame]
) -> None:
    found = pl.concat([look(task, piece) for piece in pieces(task, number, part)])
    unfinished = task.scratch / f"{uuid4().hex}.parquet"
    found.write_parquet(unfinished, compression_level=1)
    unfinished.chmod(FILE_MODE)
    sync(unfinished)
    unfinished.replace(surveyed(task.scratch, number))


def _relations(task: PartTask, piece: Piece) -> pl.DataFrame:
    feed, texts = task.feed, piece.texts
    reading = reading_of(feed, piece.batch.source, task.reading)
    ids = subscriber_ids(texts, feed, reading)
    rows = ids.with_columns(
        piece.seqs.alias("seq"),
        pl.lit(piece.file).alias("file"),
        piece.numbers.alias("row"),
        pl.lit(None, dtype=pl.String).alias("patient"),
    )
    is_related = ids["id"].is_not_null() & wanted(texts, feed)
    own = (is_related & ids["is_self"]).fill_null(value=False)
    found = rows["patient"].scatter(own.arg_true(), patients(texts.filter(own), feed, reading))
    return (
        rows.with_columns(found)
        .filter(is_related)
        .select(pl.col(name).cast(kind) for name, kind in RELATION.items())
    )


def _standings(task: PartTask, piece: Piece) -> pl.DataFrame:
    """Judge the rows as a part does, for all but their order."""
    feed = task.feed
    reading = reading_of(feed, piece.batch.source, task.reading)
    texts = piece.texts.with_columns(pl.lit(_ANY_ORDER).alias("order"))
    known = identities(texts, feed, reading).select(piece.seqs.alias("seq"), "key")
    is_wanted = wanted(texts, feed)
    texts, known = texts.filter(is_wanted), known.filter(is_wanted)
    numbers = piece.numbers.filter(is_wanted)
    is_accepted, read = accept(texts, feed, reading)
    ended = (pl.col("end_on") <= task.day).fill_null(value=False)
    accepted = known.filter(is_accepted).hstack(
        read.select(
            pl.col("patient").alias("lane"),
            pl.col("type")
            .replace_strict(LINES, default=MEDICAL, return_dtype=pl.UInt8)
            .alias("line"),
            pl.when(pl.col("status") != "active")
            .then(Phase.CANCELLED.value)
            .when(ended)
            .then(Phase.ENDED.value)
            .otherwise(Phase.ACTIVE.value)
            .cast(pl.UInt8)
            .alias("phase"),
            pl.lit(value=True).alias("is_good"),
        )
    )
    texts, known = texts.filter(~is_accepted), known.filter(~is_accepted)
    rest = validate(texts, wanted(texts, feed), numbers.filter(~is_accepted), feed, reading)
    lanes = patients(texts, feed, reading)
    lines = [
        (seq, *_standing(task, row, lane))
        for seq, row, lane in zip(known["seq"], rest, lanes, strict=True)
    ]
    others = pl.DataFrame(lines, schema=STANDING, orient="row")
    return pl.concat([accepted.cast(STANDING), others])  # type: ignore[arg-type]


def _standing(
    task: PartTask, row: Checked, lane: str | None
) -> tuple[str, str | None, int, int, bool]:
    """Return key, lane, line, phase and is_good of a row that was validated."""
    content: Any = row.content
    if row.disposition is not Disposition.PENDING:
        return row.key, lane, MEDICAL, Phase.ACTIVE, False
    is_ended = content.end_on is not None and content.end_on <= task.day
    phase = Phase.ENDED if is_ended else Phase.ACTIVE
    if content.status != "active":
        phase = Phase.CANCELLED
    return row.key, content.patient, line_of(content.type), phase, True
