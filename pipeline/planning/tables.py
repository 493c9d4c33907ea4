"""The tables of a plan on disk: their files, columns and readers (`planning/plan.py` tells of the folder).

Parts hold some thousand rows, so that memory is bounded by a part and not by the file.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import polars as pl
import polars.selectors as cs

from pipeline.planning.unchanged import DIGESTS
from pipeline.records import Disposition

# In the source parts, beside the sender's own columns. No text file's header has a NUL.
SEQ: Final = "\0seq"

ROWS_SCHEMA: Final = {
    "seq": pl.UInt32,  # within the feed, from 0
    "file": pl.UInt16,
    "row": pl.UInt32,
    "key": pl.String,
    "source_id": pl.String,
    "amount_cents": pl.Int64,
    "time_us": pl.Int64,  # of a payment's `posted_on`; null: midnight, or none
    "disposition": pl.String,  # pending, filtered, rejected, or unchanged as the last run left it
    "stage": pl.String,
    "field": pl.String,
    "rule": pl.String,
    "message": pl.String,
    "lane": pl.String,
    "fingerprint": pl.String,
    "claim": pl.String,
    "likeness": pl.String,
    "order": pl.Int8,
    "start_day": pl.Int32,
    "end_day": pl.Int32,
    "active": pl.Boolean,
    "sort": pl.String,
    "resource_id": pl.String,  # of a row that is unchanged
    "rewrite": pl.String,  # what `--rewrite` says of the row (`rows/condition.py`)
    "subscriber": pl.String,  # its subscriber id (`rows/subscribers.py`), if the relationship is self
    **dict.fromkeys(DIGESTS, pl.UInt64),  # of the row's text (`planning/unchanged.py`); null: none
    "body": pl.Binary,
}
# What a row comes to, beside what validation said of it.
VERDICT_SCHEMA: Final[dict[str, Any]] = {
    "seq": pl.UInt32,
    "key": pl.String,
    "disposition": pl.String,
    "interaction": pl.String,
    "resource_id": pl.String,
    "stage": pl.String,
    "field": pl.String,
    "rule": pl.String,
    "message": pl.String,
    # What later stages put in:
    "slot": pl.UInt32,  # the place in the feed at which it goes; null: its own
    "held_at": pl.Datetime("us", "UTC"),  # when Canvas showed it, of a row that was taken over
    "shown": pl.Binary,  # and what it showed
    "likeness": pl.String,  # of a row that is unchanged, and is written again all the same
    "body": pl.Binary,
}
KEPT: Final = "order|kept"  # the rule of a row that is unchanged, and is written again
# An element of an update, before and after it. No `before`: it is new; no `after`: it is taken away.
CHANGES: Final = {
    "seq": pl.UInt32,
    "element": pl.String,
    "before": pl.String,
    "after": pl.String,
}
# A row of the last complete run that is gone. `interaction` "update": it is to be ended or cancelled, else
# `rule` and `message` say why it is not.
MISSING: Final = {
    "key": pl.String,
    "lane": pl.String,
    "resource_id": pl.String,
    "interaction": pl.String,
    "rule": pl.String,
    "message": pl.String,
    "fingerprint": pl.String,
    "likeness": pl.String,
    "body": pl.Binary,
    "end_on": pl.String,  # of one that is to be ended, or has ended: its last day, ISO; else null
    "order": pl.Int8,  # of one that is to be ended, as it is sent
    "is_last": pl.Boolean,  # it goes behind the patient's other writes, for none needs its order
}
STANDING: Final = (Disposition.PENDING.value, Disposition.UNCHANGED.value)
# On disk "" is null, which takes a fifth of the time to write.
TEXTS: Final = ("source_id", "stage", "field", "rule", "message", "claim", "sort")
_NEVER_NULL: Final = (*TEXTS, "interaction", "resource_id")


def with_schema(frame: pl.DataFrame, schema: Mapping[str, Any]) -> pl.DataFrame:
    """Return a frame in a schema; columns that it lacks are null."""
    return frame.select(
        pl.col(name).cast(kind) if name in frame.columns else pl.lit(None, dtype=kind).alias(name)
        for name, kind in schema.items()
    )


def part_path(folder: Path, kind: str, feed: str, part: int) -> Path:
    """Return the path of one kind of file of a part."""
    return folder / f"{kind}-{feed}-{part:05}.parquet"


def lines_path(folder: Path, feed: str, file: int) -> Path:
    """Return the path of the lines of the rows of a file."""
    return folder / f"lines-{feed}-{file:05}"


class Rows:
    """A feed's rows on disk, in the file's order. They are read part by part; at most one part is in memory."""

    def __init__(self, folder: Path, feed: str, parts: int) -> None:
        self._folder, self._feed, self._parts = folder, feed, parts

    def __len__(self) -> int:
        """Return the number of parts."""
        return self._parts

    def written(self, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        """Yield the rows as they were written, without the verdicts, part by part."""
        for part in range(self._parts):
            yield pl.read_parquet(self._at("rows", part), columns=list(columns), glob=False)

    def verdicts(self, part: int, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Return the verdicts on the rows of a part."""
        chosen = None if columns is None else list(columns)
        return pl.read_parquet(self._at("verdicts", part), columns=chosen, glob=False)

    def judged(self, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        """Yield the rows with their verdicts, part by part."""
        for part in range(self._parts):
            yield self.part(part, columns)

    def part(self, part: int, columns: Sequence[str]) -> pl.DataFrame:
        """Return the rows of a part with their verdicts."""
        of_rows = list(dict.fromkeys(["seq", *(each for each in columns if each in ROWS_SCHEMA)]))
        of_verdicts = [
            "seq",
            *(each for each in columns if each in VERDICT_SCHEMA and each != "seq"),
        ]
        rows = pl.read_parquet(self._at("rows", part), columns=of_rows, glob=False)
        return _with_verdicts(rows, self.verdicts(part, of_verdicts)).select(columns)

    def some(self, seqs: pl.Series, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        """Yield the rows with these `seqs` and their verdicts, from the parts that have any."""
        for part, (first, last) in enumerate(self.spans):
            mine = seqs.filter(seqs.is_between(first, last))
            if not mine.is_empty():
                yield self._some(part, mine, columns)

    def where(self, holds: pl.Expr, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        """Yield the rows whose verdicts match `holds`, with their verdicts, from the parts that have any."""
        for part in range(self._parts):
            asked = list(dict.fromkeys(["seq", *holds.meta.root_names()]))
            mine = self.verdicts(part, asked).filter(holds)["seq"]
            if not mine.is_empty():
                yield self._some(part, mine, columns)

    def _some(self, part: int, seqs: pl.Series, columns: Sequence[str]) -> pl.DataFrame:
        rows = self.part(part, list(dict.fromkeys(["seq", *columns])))
        return rows.filter(pl.col("seq").is_in(seqs.implode())).select(columns)

    @cached_property
    def spans(self) -> list[tuple[int, int]]:
        """Return the first and the last `seq` of each part."""
        return [(part["seq"][0], part["seq"][-1]) for part in self.written(["seq"])]

    def _at(self, kind: str, part: int) -> Path:
        return part_path(self._folder, kind, self._feed, part)


def iso_day() -> pl.Expr:
    """Return the day of a payment as the journal keeps it: ISO, or "" if its row has none."""
    return pl.col("start_day").cast(pl.Date).dt.to_string("iso").fill_null("")


def _with_verdicts(rows: pl.DataFrame, verdicts: pl.DataFrame) -> pl.DataFrame:
    shared = [name for name in verdicts.columns if name in rows.columns and name != "seq"]
    joined = rows.join(verdicts, on="seq", how="left", suffix="_verdict", maintain_order="left")
    return (
        joined.with_columns(pl.coalesce(f"{name}_verdict", name).alias(name) for name in shared)
        .drop(f"{name}_verdict" for name in shared)
        .with_columns(cs.by_name(*_NEVER_NULL, require_all=False).fill_null(""))
    )


def again_name(feed: str) -> str:
    """Return the name of the file of `PlanWriter.add_sources`."""
    return f"again-{feed}.parquet"
