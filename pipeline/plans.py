"""The plan on disk: every source row with what is meant for it, written once, read in order.

A folder under `state.dir/plans`, named like the run that made it:

    rows-<feed>-00000.parquet      every row: identity, disposition, and the resource to send
    source-<feed>-00000.parquet    the source's own columns of rows that may come back as rejects
    verdicts-<feed>.parquet        what `resolve` made of the rows that validation let through
    plan.json                      written last: a plan without it was never finished

Parts hold some thousand rows, so that memory is bounded by a part and not by the file.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Final, Self

import orjson
import polars as pl

from pipeline.errors import PlanError
from pipeline.feeds.feed import Checked
from pipeline.records import Disposition, Draft, Intent, Interaction, RowId, joined

_ROWS_A_PART: Final = 32_000
_SEAL: Final = "plan.json"
SEQ: Final = "_seq"  # in the source parts, beside the source's own columns

_ROWS_SCHEMA: Final = {
    "seq": pl.UInt32,  # within the feed, from 0
    "file": pl.UInt16,
    "row": pl.UInt32,
    "key": pl.String,
    "source_id": pl.String,
    "amount_cents": pl.Int64,
    "disposition": pl.String,  # pending, filtered or rejected
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
    "body": pl.Binary,
}


class PlanWriter:
    """Writes one feed's rows after the other, then the verdicts, then the seal."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, mode=0o700)
        self.folder = folder
        self._feed = ""
        self._seq = 0
        self._part = 0
        self._rows: list[tuple[Any, ...]] = []
        self._sources: list[pl.DataFrame] = []

    def append(
        self,
        feed: str,
        file: int,
        source: pl.DataFrame,
        rows: Sequence[tuple[Checked, Draft | None]],
    ) -> None:
        """Add a batch of a feed's rows, with the source's own columns. Feeds come one after another."""
        if feed != self._feed:
            self.flush()
            self._feed, self._seq, self._part = feed, 0, 0
        first = self._seq
        for checked, draft in rows:
            self._rows.append(_line(self._seq, file, checked, draft))
            self._seq += 1
        kept = [checked.disposition is not Disposition.FILTERED for checked, _ in rows]
        numbered = source.with_columns(pl.int_range(first, self._seq, dtype=pl.UInt32).alias(SEQ))
        self._sources.append(numbered.filter(pl.Series(kept, dtype=pl.Boolean)))
        if len(self._rows) >= _ROWS_A_PART:
            self.flush()

    def flush(self) -> None:
        """Write the rows held so far as a part."""
        if not self._rows:
            return
        name = f"{self._feed}-{self._part:05}.parquet"
        rows = pl.DataFrame(self._rows, schema=_ROWS_SCHEMA, orient="row")
        _write_private(rows, self.folder / f"rows-{name}")
        _write_private(pl.concat(self._sources, how="diagonal"), self.folder / f"source-{name}")
        self._rows, self._sources, self._part = [], [], self._part + 1

    def narrow(self, feed: str, columns: Sequence[str]) -> pl.DataFrame:
        """Some columns of all rows of a feed."""
        return (
            pl.scan_parquet(_parts(self.folder, "rows", feed), glob=False).select(columns).collect()
        )

    def seal(self, verdicts: dict[str, pl.DataFrame], meta: dict[str, Any]) -> "Plan":
        """Write the verdicts and the seal: from now on the plan can be carried out."""
        for feed, frame in verdicts.items():
            _write_private(frame, self.folder / f"verdicts-{feed}.parquet")
        with os.fdopen(
            os.open(self.folder / _SEAL, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb"
        ) as file:
            file.write(orjson.dumps(meta, option=orjson.OPT_INDENT_2))
            file.flush()
            os.fsync(file.fileno())
        return Plan.open(self.folder)


def _write_private(frame: pl.DataFrame, path: Path) -> None:
    frame.write_parquet(path)
    path.chmod(0o600)


def _line(seq: int, file: int, checked: Checked, draft: Draft | None) -> tuple[Any, ...]:
    stage, field, rule, message = joined(checked.rejections)
    head = (seq, file, checked.row, checked.key, checked.source_id, checked.amount_cents)
    why = (checked.disposition.value, stage, field, rule, message)
    if draft is None:
        return (*head, *why, "", "", "", "", None, None, None, False, "", None)
    return (
        *head,
        *why,
        draft.lane,
        draft.fingerprint,
        draft.claim,
        draft.likeness,
        draft.order,
        draft.start_day,
        draft.end_day,
        draft.active,
        draft.sort,
        draft.body,
    )


def _parts(folder: Path, kind: str, feed: str) -> list[Path]:
    return sorted(folder.glob(f"{kind}-{feed}-[0-9][0-9][0-9][0-9][0-9].parquet"))


class Plan:
    """A sealed plan."""

    def __init__(self, folder: Path, meta: dict[str, Any]) -> None:
        self.folder = folder
        self.meta = meta

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Raises PlanError if there is none, or it was never finished."""
        try:
            return cls(folder, orjson.loads((folder / _SEAL).read_bytes()))
        except (OSError, orjson.JSONDecodeError):
            raise PlanError(
                f"there is no finished plan {folder.name}", "run `canvas-ingest plan` first"
            ) from None

    def rows(self, feed: str) -> Iterator[pl.DataFrame]:
        """All rows of a feed in the file's order, part by part, with the verdicts put in."""
        verdicts = pl.scan_parquet(self.folder / f"verdicts-{feed}.parquet", glob=False)
        for part in _parts(self.folder, "rows", feed):
            rows = pl.read_parquet(
                part, columns=[name for name in _ROWS_SCHEMA if name != "body"], glob=False
            )
            yield _with_verdicts(rows, verdicts)

    def sources(self, feed: str) -> Iterator[pl.DataFrame]:
        """The source's own columns (and SEQ) of the rows that were not filtered, part by part."""
        for part in _parts(self.folder, "source", feed):
            yield pl.read_parquet(part, glob=False)

    def find(self, feed: str, keys: Sequence[str]) -> pl.DataFrame:
        """The rows with these keys that were to be sent: key, file, row, source_id, fingerprint, body.

        Not those that were turned away beside them: a later row of the same key, with other content.
        """
        verdicts = pl.scan_parquet(self.folder / f"verdicts-{feed}.parquet", glob=False)
        sent = verdicts.filter(pl.col("key").is_in(list(keys)) & (pl.col("interaction") != ""))
        seqs = sent.select("seq", "key")
        columns = ("seq", "file", "row", "source_id", "fingerprint", "body")
        rows = pl.scan_parquet(_parts(self.folder, "rows", feed), glob=False).select(columns)
        return rows.join(seqs, on="seq").drop("seq").collect()

    def intents(self, feed: str, resource_type: str, *, in_order: bool) -> Iterator[list[Intent]]:
        """What is to be sent, in the file's order or (`in_order` False) sorted by `order_by`."""
        verdicts = pl.scan_parquet(self.folder / f"verdicts-{feed}.parquet", glob=False)
        parts = _parts(self.folder, "rows", feed)
        if in_order:
            for part in parts:
                yield self._intents(
                    _with_verdicts(pl.read_parquet(part, glob=False), verdicts), feed, resource_type
                )
            return
        rows = pl.concat(
            [_with_verdicts(pl.read_parquet(part, glob=False), verdicts) for part in parts]
        )
        for piece in rows.sort("sort", maintain_order=True).iter_slices(_ROWS_A_PART):
            yield self._intents(piece, feed, resource_type)

    def _intents(self, rows: pl.DataFrame, feed: str, resource_type: str) -> list[Intent]:
        sent = rows.filter(
            (pl.col("disposition") == Disposition.PENDING.value) & (pl.col("interaction") != "")
        )
        columns = (
            "key",
            "interaction",
            "lane",
            "body",
            "fingerprint",
            "amount_cents",
            "claim",
            "likeness",
        )
        run_id = self.meta["run_id"]
        return [
            Intent(
                key,
                feed,
                resource_type,
                Interaction(interaction),
                lane,
                body,
                fingerprint,
                cents,
                claim,
                likeness,
                run_id,
            )
            for key, interaction, lane, body, fingerprint, cents, claim, likeness in sent.select(
                columns
            ).iter_rows()
        ]


def _with_verdicts(rows: pl.DataFrame, verdicts: pl.LazyFrame) -> pl.DataFrame:
    first, last = rows["seq"][0], rows["seq"][-1]
    mine = verdicts.filter(pl.col("seq").is_between(first, last)).collect()
    shared = [name for name in mine.columns if name in rows.columns and name != "seq"]
    return (
        rows.join(mine, on="seq", how="left", suffix="_verdict", maintain_order="left")
        .with_columns(pl.coalesce(f"{name}_verdict", name).alias(name) for name in shared)
        .drop(f"{name}_verdict" for name in shared)
        .with_columns(pl.col("interaction", "resource_id").fill_null(""))
    )


@dataclass(frozen=True, slots=True)
class PlannedRow:
    """What a plan holds of a row that was sent."""

    row: RowId
    source_id: str
    body: bytes


def look_up(folder: Path, intents: Iterable[Intent]) -> dict[str, PlannedRow]:
    """The rows of intents of earlier runs by key, as far as their plans under `folder` are there.

    Only a row of the very content that was sent counts.
    """

    def home(intent: Intent) -> tuple[str, str]:
        return intent.run_id, intent.feed

    found: dict[str, PlannedRow] = {}
    for (run_id, feed), group in groupby(sorted(intents, key=home), key=home):
        try:
            plan = Plan.open(folder / run_id)
            sent = {intent.key: intent.fingerprint for intent in group}
            rows = plan.find(feed, list(sent))
        except (PlanError, OSError, pl.exceptions.PolarsError):
            continue  # gone, or torn: whoever asks says so
        files = [Path(file["path"]).name for file in plan.meta["feeds"][feed]["files"]]
        for key, file, row, source_id, fingerprint, body in rows.select(
            "key", "file", "row", "source_id", "fingerprint", "body"
        ).iter_rows():
            if fingerprint == sent[key]:
                found[key] = PlannedRow(RowId(files[file], row), source_id, body)
    return found
