"""Write a plan: the parts of the rows, the verdicts on them, and the seal (see `plan`)."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal
from uuid import uuid4

import orjson
import polars as pl

from pipeline.files import FILE_MODE, FOLDER_MODE, sync, write_private
from pipeline.planning.plan import SEAL, Plan
from pipeline.planning.tables import (
    ROWS_SCHEMA,
    SEQ,
    TEXTS,
    Rows,
    again_name,
    lines_path,
    part_path,
    with_schema,
)
from pipeline.planning.unchanged import DIGESTS
from pipeline.reading.lines import LineMap
from pipeline.records import Disposition, Draft, joined
from pipeline.rows.feed import Checked

LINE_SCHEMA: Final = {
    name: kind
    for name, kind in ROWS_SCHEMA.items()
    if name not in {"seq", "file", "resource_id", "subscriber", "rewrite", *DIGESTS}
}
# Rows that cannot be sent back as rejects; but see `add_sources`.
_NEVER_REJECTS: Final = (Disposition.UNCHANGED.value, Disposition.FILTERED.value)
_REJECTED: Final = ("seq", "file", "row", "lane", "field")


@dataclass(frozen=True, slots=True)
class PlannedBatch:
    """A batch of a feed's rows, on its way into the plan.

    `source` has the source's own columns. `lines` has a line for each of its rows, in the same order: in
    `LINE_SCHEMA`, with `unchanged.DIGESTS`; of a skipped row only the columns of `unchanged.LINE`.
    `open_dates` is the number of its cells that mean "no date".
    """

    source: pl.DataFrame
    lines: pl.DataFrame
    open_dates: int = 0


def write_part(
    folder: Path,
    scratch: Path,
    feed: str,
    part: int,
    first_seq: int,
    batches: Sequence[tuple[int, PlannedBatch]],
) -> None:
    """Write a part of a feed's rows, each batch with the number of its file; the first row's `seq` is `first_seq`.

    Each file is there whole or not at all, even if another process writes the same; `scratch` is for
    unfinished files.
    """
    rows, sources = [], []
    for file, batch in batches:
        end = first_seq + batch.lines.height
        seqs = pl.int_range(first_seq, end, dtype=pl.UInt32, eager=True)
        numbered = seqs.alias("seq"), pl.lit(file, dtype=pl.UInt16).alias("file")
        rows.append(with_schema(batch.lines.with_columns(numbered), ROWS_SCHEMA))
        may_come_back = ~batch.lines["disposition"].is_in(_NEVER_REJECTS)
        sources.append(batch.source.with_columns(seqs.alias(SEQ)).filter(may_come_back))
        first_seq = end
    lines = pl.concat(rows).with_columns(pl.when(pl.col(TEXTS) != "").then(pl.col(TEXTS)))
    for kind, frame in (("source", pl.concat(sources, how="diagonal")), ("rows", lines)):
        unfinished = scratch / f"{uuid4().hex}.parquet"
        _write_private(frame, unfinished)
        # Only the process that wrote a file can sync it, if the folder is shared by machines.
        sync(unfinished)
        unfinished.replace(part_path(folder, kind, feed, part))


class PlanWriter:
    """A plan that is being made: the parts of each feed, then the verdicts on them, then the seal."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, mode=FOLDER_MODE)
        self.folder = folder
        self._parts: dict[str, int] = {}

    def has(self, feed: str, parts: int) -> None:
        """Set how many parts of a feed's rows are written; there will be no more."""
        self._parts[feed] = parts

    def keep_lines(self, feed: str, file: int, lines: LineMap | None) -> int | None:
        """Keep the lines of the rows of a file. Returns that of the first row; None if rows have none."""
        if lines is not None and lines.entries is not None:
            path = lines_path(self.folder, feed, file)
            shutil.copyfile(lines.entries, path)
            path.chmod(FILE_MODE)
        return None if lines is None else lines.first

    def rejected(self, feed: str) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
        """Yield the rejected rows part by part: file, row, lane and field, and the source's own columns.

        A row that was skipped as unchanged has no source column yet, and its lane is known.
        """
        is_rejected = pl.col("disposition") == Disposition.REJECTED.value
        for part, rows in enumerate(self.rows(feed).judged([*_REJECTED, "disposition"])):
            mine = rows.filter(is_rejected).drop("disposition")
            if not mine.is_empty():
                source = pl.read_parquet(part_path(self.folder, "source", feed, part), glob=False)
                seqs = mine.select(pl.col("seq").alias(SEQ))
                joined = seqs.join(source, on=SEQ, how="left", maintain_order="left")
                yield mine.drop("seq"), joined.drop(SEQ)

    def rows(self, feed: str) -> Rows:
        """Return what is written of a feed's rows by now."""
        return Rows(self.folder, feed, self._parts[feed])

    def judge(self, feed: str, part: int, verdicts: pl.DataFrame) -> None:
        """Enter the verdicts on a part's rows."""
        _write_private(verdicts, part_path(self.folder, "verdicts", feed, part))

    def amend(self, feed: str, lines: pl.DataFrame, how: Literal["left", "full"] = "left") -> None:
        """Enter what is new of some rows, wherever they stand, into their verdicts; null is nothing new.

        "full": of rows without a verdict too.
        """
        rows = self.rows(feed)
        for part, (first, last) in enumerate(rows.spans):
            mine = lines.filter(pl.col("seq").is_between(first, last))
            if not mine.is_empty():
                verdicts = rows.verdicts(part)
                self.judge(feed, part, verdicts.update(mine, on="seq", how=how).sort("seq"))

    def add_changes(self, feed: str, number: int, changes: pl.DataFrame) -> None:
        """Write what some updates would change, in the order of the rows."""
        _write_private(changes, part_path(self.folder, "changes", feed, number))

    def add_sources(self, feed: str, source: pl.DataFrame) -> None:
        """Write the source's own columns (and SEQ) of rows that are written although they are unchanged."""
        _write_private(source, self.folder / again_name(feed))

    def add_corrected(self, feed: str, keys: pl.DataFrame) -> None:
        """Write the keys of corrected rows: before (`was`) and now (`key`)."""
        _write_private(keys, self.folder / f"corrected-{feed}.parquet")

    def seal(
        self,
        missing: Mapping[str, pl.DataFrame],
        meta: dict[str, Any],
    ) -> Plan:
        """Write the missing rows and the seal, after which the plan can be executed."""
        for feed, frame in missing.items():
            _write_private(frame, self.folder / f"missing-{feed}.parquet")
        for path in self.folder.iterdir():
            sync(path)  # the plan of what is sent survives a power loss
        sealed = {**meta, "parts": self._parts}
        write_private(self.folder / SEAL, orjson.dumps(sealed, option=orjson.OPT_INDENT_2))
        sync(self.folder.parent)
        return Plan.open(self.folder)


def _write_private(frame: pl.DataFrame, path: Path) -> None:
    frame.write_parquet(path, compression_level=1)  # as small as with more, and a third quicker
    path.chmod(FILE_MODE)


def lines_of(rows: Sequence[tuple[Checked, Draft | None]]) -> pl.DataFrame:
    """Return a frame with the identity, the disposition and the draft of each row."""
    return pl.DataFrame(
        [_line(checked, draft) for checked, draft in rows], schema=LINE_SCHEMA, orient="row"
    )


def as_lines(rows: pl.DataFrame, disposition: Disposition) -> pl.DataFrame:
    """Return the columns of `LINE_SCHEMA` for rows that are a frame already; missing values are blank."""
    blank = {pl.String: "", pl.Boolean: False}
    judged = rows.with_columns(pl.lit(disposition.value).alias("disposition"))
    return judged.select(
        pl.col(name).cast(kind)
        if name in judged.columns
        else pl.lit(blank.get(kind), dtype=kind).alias(name)
        for name, kind in LINE_SCHEMA.items()
    )


def _line(checked: Checked, draft: Draft | None) -> tuple[Any, ...]:
    stage, field, rule, message = joined(checked.rejections)
    head = (checked.row, checked.key, checked.source_id, checked.amount_cents, checked.time_us)
    why = (checked.disposition.value, stage, field, rule, message)
    if draft is None:
        return (*head, *why, "", "", "", "", None, None, None, False, "", None)
    return (
        *head,
        *why,
        draft.lane,
        draft.fingerprint,
        draft.claim,
        draft.match_key,
        draft.order,
        draft.start_day,
        draft.end_day,
        draft.active,
        draft.sort,
        draft.body,
    )
