"""The plan on disk: every source row with what is meant for it, written once, read in order.

A folder under `state.dir/plans`, named like the run that made it:

    rows-<feed>-00000.parquet      every row: identity, disposition, and the resource to send
                                   (none for a row that is known to be unchanged)
    source-<feed>-00000.parquet    the source's own columns of rows that may come back as rejects
    verdicts-<feed>.parquet        what `resolve` made of the rows that validation let through
    missing-<feed>.parquet         rows of the last complete run that are gone, and what is meant for them
    changes-<feed>.parquet         what each update would change, element by element
    plan.json                      written last: a plan without it was never finished

Parts hold some thousand rows, so that memory is bounded by a part and not by the file.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Final, Self

import orjson
import polars as pl

from pipeline.errors import PlanError
from pipeline.feeds.feed import Checked
from pipeline.held import DIGESTS
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
    **dict.fromkeys(DIGESTS, pl.UInt64),  # of the row's text (`held`); null: none
    "body": pl.Binary,
}
KEPT: Final = "order|kept"  # the rule of a row that is unchanged, and is written again
LINE_SCHEMA: Final = {
    name: kind
    for name, kind in _ROWS_SCHEMA.items()
    if name not in {"seq", "file", "resource_id", *DIGESTS}
}
# Rows that cannot be sent back as rejects; but see `add_sources`.
_NEVER_REJECTS: Final = (Disposition.UNCHANGED.value, Disposition.FILTERED.value)
# On disk "" is null, which takes a fifth of the time to write.
_TEXTS: Final = pl.col("source_id", "stage", "field", "rule", "message", "claim", "sort")


@dataclass(frozen=True, slots=True)
class PlannedBatch:
    """A batch of a feed's rows, on its way into the plan.

    `source` has the source's own columns, `lines` what is meant for each row, in the same order: as
    `lines_of` yields them, with the digests of `held.digests`, or those of `held.LINE`.
    """

    source: pl.DataFrame
    lines: pl.DataFrame


class PlanWriter:
    """Writes one feed's rows after the other, then the verdicts, then the seal."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, mode=0o700)
        self.folder = folder
        self._feed = ""
        self._seq = 0
        self._part = 0
        self._held = 0  # rows in memory
        self._rows: list[pl.DataFrame] = []
        self._sources: list[pl.DataFrame] = []

    def append(self, feed: str, file: int, batch: "PlannedBatch") -> None:
        """Add a batch of a feed's rows. Feeds come one after another."""
        if feed != self._feed:
            self.flush()
            self._feed, self._seq, self._part = feed, 0, 0
        height = batch.lines.height
        seqs = pl.int_range(self._seq, self._seq + height, dtype=pl.UInt32, eager=True)
        lines = batch.lines.with_columns(
            seqs.alias("seq"), pl.lit(file, dtype=pl.UInt16).alias("file")
        )
        self._rows.append(_as(lines, _ROWS_SCHEMA))
        may_come_back = ~lines["disposition"].is_in(_NEVER_REJECTS)
        self._sources.append(batch.source.with_columns(seqs.alias(SEQ)).filter(may_come_back))
        self._seq += height
        self._held += height
        if self._held >= _ROWS_A_PART:
            self.flush()

    def flush(self) -> None:
        """Write the rows held so far as a part."""
        if not self._rows:
            return
        name = f"{self._feed}-{self._part:05}.parquet"
        rows = pl.concat(self._rows).with_columns(pl.when(_TEXTS != "").then(_TEXTS))
        _write_private(rows, self.folder / f"rows-{name}")
        _write_private(pl.concat(self._sources, how="diagonal"), self.folder / f"source-{name}")
        self._rows, self._sources, self._part, self._held = [], [], self._part + 1, 0

    def narrow(
        self, feed: str, columns: Sequence[str], seqs: pl.Series | None = None
    ) -> pl.DataFrame:
        """Some columns of all rows of a feed, or of those with these `seqs`."""
        rows = pl.scan_parquet(_parts(self.folder, "rows", feed), glob=False)
        if seqs is not None:
            rows = rows.join(seqs.rename("seq").to_frame().lazy(), on="seq", how="semi")
        return rows.select(columns).collect()

    def add_sources(self, feed: str, source: pl.DataFrame) -> None:
        """The source's own columns (and SEQ) of rows that are written though they are unchanged."""
        _write_private(source, self.folder / _again(feed))

    def seal(
        self,
        verdicts: Mapping[str, pl.DataFrame],
        missing: Mapping[str, pl.DataFrame],
        changes: Mapping[str, pl.DataFrame],
        meta: dict[str, Any],
    ) -> "Plan":
        """Write the verdicts and the seal: from now on the plan can be carried out."""
        for feed, frame in verdicts.items():
            _write_private(frame, self.folder / f"verdicts-{feed}.parquet")
        for feed, frame in missing.items():
            _write_private(frame, self.folder / f"missing-{feed}.parquet")
        for feed, frame in changes.items():
            _write_private(frame, self.folder / f"changes-{feed}.parquet")
        with os.fdopen(
            os.open(self.folder / _SEAL, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb"
        ) as file:
            file.write(orjson.dumps(meta, option=orjson.OPT_INDENT_2))
            file.flush()
            os.fsync(file.fileno())
        return Plan.open(self.folder)


def _write_private(frame: pl.DataFrame, path: Path) -> None:
    frame.write_parquet(path, compression_level=1)  # as small as with more, and a third quicker
    path.chmod(0o600)


def lines_of(rows: Sequence[tuple[Checked, Draft | None]]) -> pl.DataFrame:
    """What is meant for each row: who it is, what became of it, and its draft, as columns."""
    return pl.DataFrame(
        [_line(checked, draft) for checked, draft in rows], schema=LINE_SCHEMA, orient="row"
    )


def as_lines(rows: pl.DataFrame, disposition: Disposition) -> pl.DataFrame:
    """The same of rows that are there as columns; what they lack is blank."""
    blank = {pl.String: "", pl.Boolean: False}
    told = rows.with_columns(pl.lit(disposition.value).alias("disposition"))
    return told.select(
        pl.col(name).cast(kind)
        if name in told.columns
        else pl.lit(blank.get(kind), dtype=kind).alias(name)
        for name, kind in LINE_SCHEMA.items()
    )


def _line(checked: Checked, draft: Draft | None) -> tuple[Any, ...]:
    stage, field, rule, message = joined(checked.rejections)
    head = (checked.row, checked.key, checked.source_id, checked.amount_cents)
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


def _as(frame: pl.DataFrame, schema: Mapping[str, Any]) -> pl.DataFrame:
    """In a schema; null where there is nothing."""
    return frame.select(
        pl.col(name).cast(kind) if name in frame.columns else pl.lit(None, dtype=kind).alias(name)
        for name, kind in schema.items()
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
        """All rows of a feed in the file's order, part by part, with the verdicts put in; no bodies."""
        verdicts = self._verdicts(feed).drop("body", "shown")
        columns = [name for name in _ROWS_SCHEMA if name != "body"]
        for part in _parts(self.folder, "rows", feed):
            yield _with_verdicts(pl.read_parquet(part, columns=columns, glob=False), verdicts)

    def sources(self, feed: str) -> Iterator[pl.DataFrame]:
        """The source's own columns (and SEQ) of the rows that may come back, part by part."""
        again = self.folder / _again(feed)
        more = pl.read_parquet(again, glob=False) if again.exists() else None
        for part in _parts(self.folder, "source", feed):
            source = pl.read_parquet(part, glob=False)
            yield source if more is None else pl.concat([source, more], how="diagonal")

    def keys(self, feed: str) -> pl.Series:
        """The keys of all its rows, whatever became of them; each once."""
        rows = pl.scan_parquet(_parts(self.folder, "rows", feed), glob=False).select("key")
        return pl.concat([rows, self._verdicts(feed).select("key")]).unique().collect()["key"]

    def missing(self, feed: str) -> pl.DataFrame:
        """The rows of the last complete run that are gone (`MISSING`)."""
        return self._beside("missing", feed, MISSING)

    def changes(self, feed: str) -> pl.DataFrame:
        """What its updates would change (`CHANGES`), with file and row of each."""
        changes = self._beside("changes", feed, CHANGES)
        rows = pl.scan_parquet(_parts(self.folder, "rows", feed), glob=False)
        mine = rows.join(changes.select("seq").unique().lazy(), on="seq", how="semi")
        where = mine.select("seq", "file", "row", "key").collect()
        verdicts = self._verdicts(feed).select("seq", "resource_id").collect()
        return changes.join(where, on="seq").join(verdicts, on="seq").sort("seq", "element")

    def _beside(self, kind: str, feed: str, schema: Mapping[str, Any]) -> pl.DataFrame:
        path = self.folder / f"{kind}-{feed}.parquet"
        return pl.read_parquet(path, glob=False) if path.exists() else pl.DataFrame(schema=schema)

    def digest(self) -> str:
        """SHA-256 of all that it would write, in turn: two plans with the same one do the same."""
        digest = hashlib.sha256()
        for feed in self.meta["feeds"]:
            digest.update(feed.encode())
            gone = self.missing(feed).filter(pl.col("interaction") != "").sort("key")
            digest.update(gone.select("key", "resource_id", "fingerprint").write_csv().encode())
            for rows in self.rows(feed):
                sent = rows.filter(pl.col("disposition") == Disposition.PENDING.value)
                digest.update(sent.select(_DONE).write_csv(include_header=False).encode())
        return digest.hexdigest()

    def find(self, feed: str, keys: Sequence[str]) -> pl.DataFrame:
        """The rows with these keys that were to be sent, or missing ones that were to be cancelled.

        Columns: key, file, row, source_id, fingerprint, body, shown. Not those that were turned away
        beside them: a later row of the same key, with other content.
        """
        wanted = list(keys)
        verdicts = self._verdicts(feed).filter(
            pl.col("key").is_in(wanted) & pl.col("disposition").is_in(_STANDING)
        )
        columns = ["seq", "file", "row", "source_id", "fingerprint", "body"]
        rows = pl.scan_parquet(_parts(self.folder, "rows", feed), glob=False).select(columns)
        found = (
            rows.join(verdicts.select("seq", "key", "body", "shown"), on="seq", suffix="_again")
            .with_columns(pl.coalesce("body", "body_again").alias("body"))
            .filter(pl.col("body").is_not_null() | pl.col("shown").is_not_null())
            .select(_FOUND)
            .collect()
        )
        gone = self.missing(feed).filter(pl.col("key").is_in(wanted) & pl.col("body").is_not_null())
        return pl.concat([found, _as(gone, found.schema)])

    def intents(self, feed: str, resource_type: str, *, in_order: bool) -> Iterator[list[Intent]]:
        """What is to be sent, in the file's order or (`in_order` False) sorted by `order_by`.

        A row whose verdict has a `slot` goes at that place of the feed in place of its own.
        """
        verdicts = self._verdicts(feed)
        parts = _parts(self.folder, "rows", feed)
        if in_order:
            moved = self._moved(feed, verdicts)
            for part in parts:
                rows = pl.read_parquet(part, glob=False)
                yield self._intents(
                    _in_turn(_with_verdicts(rows, verdicts), moved), feed, resource_type
                )
        else:
            rows = pl.concat(
                [_with_verdicts(pl.read_parquet(part, glob=False), verdicts) for part in parts]
            )
            for piece in rows.sort("sort", maintain_order=True).iter_slices(_ROWS_A_PART):
                yield self._intents(piece, feed, resource_type)

    def adopted(self, feed: str) -> list[Intent]:
        """The rows that Canvas held already, as they stand: ours from now on."""
        verdicts = self._verdicts(feed)
        mine = pl.col("shown").is_not_null() & (
            pl.col("disposition") == Disposition.UNCHANGED.value
        )
        rows = self._some(feed, verdicts.filter(mine))
        sendable = rows.with_columns(
            pl.lit(Disposition.PENDING.value).alias("disposition"),
            pl.lit(Interaction.UPDATE.value).alias("interaction"),
        )
        return self._intents(sendable, feed, "Coverage")

    def cancels(self, feed: str) -> list[Intent]:
        """What is gone from the file and is cancelled."""
        gone = self.missing(feed).filter(pl.col("interaction") != "")
        return [] if gone.is_empty() else self._intents(_as_rows_to_send(gone), feed, "Coverage")

    def kept(self, feed: str) -> list[str]:
        """The keys of rows that are unchanged, and are written again all the same."""
        keys = self._verdicts(feed).filter(pl.col("rule") == KEPT).select("key").collect()
        return keys["key"].to_list()

    def _moved(self, feed: str, verdicts: pl.LazyFrame) -> pl.DataFrame:
        """The rows, with their verdicts, that do not go at their own place."""
        return self._some(feed, verdicts.filter(pl.col("slot").is_not_null()))

    def _some(self, feed: str, lines: pl.LazyFrame) -> pl.DataFrame:
        """The rows of these verdicts, which are put in."""
        rows = pl.scan_parquet(_parts(self.folder, "rows", feed), glob=False)
        mine = rows.join(lines.select("seq"), on="seq", how="semi").sort("seq").collect()
        return _with_verdicts(mine, self._verdicts(feed))

    def _verdicts(self, feed: str) -> pl.LazyFrame:
        return pl.scan_parquet(self.folder / f"verdicts-{feed}.parquet", glob=False)

    def _intents(self, rows: pl.DataFrame, feed: str, resource_type: str) -> list[Intent]:
        sent = rows.filter(
            (pl.col("disposition") == Disposition.PENDING.value) & (pl.col("interaction") != "")
        )
        run_id = self.meta["run_id"]
        rank = pl.when("active").then("order").alias("rank")
        return [
            Intent(
                key=key,
                feed=feed,
                resource_type=resource_type,
                interaction=Interaction(interaction),
                lane=lane,
                body=body,
                fingerprint=fingerprint,
                amount_cents=cents,
                claim=claim,
                likeness=likeness,
                run_id=run_id,
                resource_id=resource_id,
                rank=rank,
                held_at=held_at,
            )
            for (
                key,
                interaction,
                lane,
                body,
                fingerprint,
                cents,
                claim,
                likeness,
                resource_id,
                held_at,
                rank,
            ) in sent.select(*_INTENT, rank).iter_rows()
        ]


_STANDING: Final = (Disposition.PENDING.value, Disposition.UNCHANGED.value)
_FOUND: Final = ("key", "file", "row", "source_id", "fingerprint", "body", "shown")
_DONE: Final = ("key", "interaction", "resource_id", "fingerprint", "slot", "sort")
_INTENT: Final = (
    "key",
    "interaction",
    "lane",
    "body",
    "fingerprint",
    "amount_cents",
    "claim",
    "likeness",
    "resource_id",
    "held_at",
)
# An element of an update, before and after it. No `before`: it is new; no `after`: it is taken away.
CHANGES: Final = {
    "seq": pl.UInt32,
    "element": pl.String,
    "before": pl.String,
    "after": pl.String,
}
# A row of the last complete run that is gone. `interaction` "update": it is to be cancelled, else
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
}


def _in_turn(rows: pl.DataFrame, moved: pl.DataFrame) -> pl.DataFrame:
    """One part's rows, those with another place taken out, and those that have theirs here put in."""
    if moved.is_empty():
        return rows
    first, last = rows["seq"][0], rows["seq"][-1]
    here = moved.filter(pl.col("slot").is_between(first, last))
    own = rows.filter(pl.col("slot").is_null())
    return pl.concat([own, here.select(own.columns)]).sort(pl.coalesce("slot", "seq"))


def _as_rows_to_send(missing: pl.DataFrame) -> pl.DataFrame:
    return missing.with_columns(
        pl.lit(Disposition.PENDING.value).alias("disposition"),
        pl.lit("").alias("claim"),
        pl.lit(None, dtype=pl.Int64).alias("amount_cents"),
        pl.lit(None, dtype=pl.Datetime("us", "UTC")).alias("held_at"),
        pl.lit(None, dtype=pl.Int8).alias("order"),
        pl.lit(value=False).alias("active"),
    )


def _with_verdicts(rows: pl.DataFrame, verdicts: pl.LazyFrame) -> pl.DataFrame:
    first, last = rows["seq"].min(), rows["seq"].max()
    mine = verdicts.filter(pl.col("seq").is_between(first, last)).collect()
    shared = [name for name in mine.columns if name in rows.columns and name != "seq"]
    return (
        rows.join(mine, on="seq", how="left", suffix="_verdict", maintain_order="left")
        .with_columns(pl.coalesce(f"{name}_verdict", name).alias(name) for name in shared)
        .drop(f"{name}_verdict" for name in shared)
        .with_columns(pl.col("interaction", "resource_id").fill_null(""))
        .with_columns(_TEXTS.fill_null(""))
    )


def _again(feed: str) -> str:
    return f"again-{feed}.parquet"


@dataclass(frozen=True, slots=True)
class PlannedRow:
    """What a plan holds of a row that was sent. `row` None: it was missing from the file."""

    row: RowId | None
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
        for key, file, row, source_id, fingerprint, body in rows.select(_FOUND[:-1]).iter_rows():
            if fingerprint == sent[key] and body is not None:
                where = None if file is None else RowId(files[file], row)
                found[key] = PlannedRow(where, source_id or "", body)
    return found


def content_of(folder: Path, run_id: str, feed: str, key: str, fingerprint: str) -> bytes | None:
    """What the plan of a run was to send for a row; None where it is gone, or has other content.

    With fingerprint "": what Canvas showed when the row was taken over.
    """
    try:
        rows = Plan.open(folder / run_id).find(feed, [key])
    except (PlanError, OSError, pl.exceptions.PolarsError):
        return None
    for held, body, shown in rows.select("fingerprint", "body", "shown").iter_rows():
        if not fingerprint and shown is not None:
            return bytes(shown)
        if fingerprint and held == fingerprint and body is not None:
            return bytes(body)
    return None
