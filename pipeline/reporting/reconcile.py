"""Every row with exactly one disposition: from the plan and the journal, nothing else.

Reconciling is pure (`reconcile`); writing is beside it. Both go part by part, so that a report is
bounded in memory like the plan. Only `reconciliation.*` and `rejects-*` hold anything of a row.
"""

import codecs
import csv
import math
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, TextIO

import orjson
import polars as pl

from pipeline.clock import utc_text
from pipeline.files import FOLDER_MODE, replacing, write_private
from pipeline.journal import history, leases, runs
from pipeline.journal.ends import Ends
from pipeline.journal.journal import Journal
from pipeline.journal.runs import Run
from pipeline.planning.store import SEQ, Plan
from pipeline.reading.source import added_columns
from pipeline.records import ADOPTED, Disposition, Interaction, RowId, Stage, State, usd
from pipeline.reporting.page import page
from pipeline.reporting.words import warnings_of
from pipeline.rows.feed import TRAITS, Kind

_COLUMNS: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    "run_id": pl.String,
    "feed": pl.String,
    "file": pl.String,
    "row": pl.UInt32,
    "key": pl.String,
    "source_id": pl.String,
    "disposition": pl.String,
    "interaction": pl.String,
    "resource_type": pl.String,
    "resource_id": pl.String,
    "amount_usd": pl.Decimal(18, 2),
    "amount_in_doubt_usd": pl.Decimal(18, 2),  # of the write that is in doubt
    "http_status": pl.Int64,
    "rule": pl.String,
    "message": pl.String,
    "attempts": pl.Int64,
    "correlation_id": pl.String,
    "sent_at": pl.String,
    "settled_at": pl.String,
}
_GONE: Final = ("reported", "cancelled", "not_cancelled", "refused", "in_doubt", "pending")
_CHANGES_COLUMNS: Final = ("row", "key", "resource_id", "element", "before", "after")
_MISSING_COLUMNS: Final = ("key", "resource_id", "outcome", "rule", "message", "replacement")
_UNREPLACED: Final = "missing|unreplaced"
_NOT_WRITTEN: Final = (
    Disposition.REFUSED.value,
    Disposition.IN_DOUBT.value,
    Disposition.PENDING.value,
)
_ENDED_EARLY: Final = (1, 2, 5, 130)
_OTHER_AMOUNT: Final = "amount|in_doubt"
_SETTLE_FIRST: Final = (
    "the file has another amount now than the write that is in doubt (amount_in_doubt_usd): "
    "settle that one first, with `canvas-ingest review`"
)
_UNBALANCED: Final = "rows or amounts are unaccounted for, a fault of canvas-ingest: report it"
_IN_JOURNAL: Final = (Disposition.PENDING.value, Disposition.IN_DOUBT.value)
_RETURNED: Final = (Disposition.REJECTED.value, Disposition.REFUSED.value)
# What a spreadsheet would run as a formula, full-width forms included: at the start of a cell, and behind
# what it may take for the end of one (it splits at separators of its own, not of the sender's dialect).
_FORMULA_AT_START: Final = "^([=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20])"
_FORMULA_INSIDE: Final = "([,;|\t\r\n])([=+\\-@\uff1d\uff0b\uff0d\uff20])"

# How a row that was sent in this run ended, by its state in the journal; an update that was
# confirmed is `updated`.
_ENDS: Final = {
    State.CONFIRMED: Disposition.CREATED,
    State.REFUSED: Disposition.REFUSED,
    State.IN_DOUBT: Disposition.IN_DOUBT,
    State.IN_FLIGHT: Disposition.IN_DOUBT,
    State.PENDING: Disposition.PENDING,
    State.ABANDONED: Disposition.IN_DOUBT,
}


@dataclass(slots=True)
class Totals:
    """What a feed's rows add up to. `rows` and `cents` are those of the written reconciliation."""

    rows: Counter[str] = field(default_factory=Counter)  # by disposition
    cents: Counter[str] = field(default_factory=Counter)
    unreadable: int = 0
    cents_in_doubt: int = 0  # of the writes that are in doubt: the rows may have others by now
    rules: Counter[str] = field(default_factory=Counter)  # of the rows rejected or refused
    missing: Counter[str] = field(default_factory=Counter)  # of the rows that are gone, by outcome
    pending: Counter[str] = field(default_factory=Counter)  # by interaction
    changes: Counter[str] = field(default_factory=Counter)  # what updates change, by element
    unreplaced: int = 0  # coverages that were cancelled, and whose replacement was not written
    adopted: int = 0  # taken over from what Canvas held

    def add(self, frame: pl.DataFrame) -> None:
        """Count what else is shown of a reconciled part."""
        left = frame.filter(pl.col("disposition") == Disposition.PENDING.value)
        self.pending.update(left["interaction"].to_list())
        self.adopted += int((frame["rule"] == ADOPTED).sum())
        returned = frame.filter(pl.col("disposition").is_in(_RETURNED))
        self.rules.update(returned["rule"].str.split("; ").explode().drop_nulls().to_list())


@dataclass(frozen=True, slots=True)
class Facts:
    """What a report says beside the rows. `run.exit_code` None: the rows decide it."""

    run: Run
    version: str
    config_sha256: str


def reconcile(
    rows: pl.DataFrame, writes: pl.DataFrame, shut: Sequence[str], run_id: str
) -> pl.DataFrame:
    """One part of a plan against the journal: the same rows, each with how it ended.

    `rows` as `Plan.rows` yields them, `writes` as `Journal.writes`; `shut` are the lanes with a
    write in doubt. A row that this run did not send is what the plan says of it.
    """
    rows = rows.join(writes, on="key", how="left", suffix="_write", maintain_order="left")
    planned = pl.col("disposition")
    sent = (planned == Disposition.PENDING.value) & (pl.col("run_id") == run_id)
    doubted = planned == Disposition.IN_DOUBT.value
    waits = (planned == Disposition.PENDING.value) & ~sent.fill_null(value=False)
    ends = pl.col("state").replace_strict(
        {state.value: end.value for state, end in _ENDS.items()},
        default=None,
        return_dtype=pl.String,
    )
    sent_as = pl.coalesce("interaction_write", "interaction")
    is_update = sent_as == Interaction.UPDATE.value
    ended = (
        pl.when(sent & is_update & (ends == Disposition.CREATED.value))
        .then(pl.lit(Disposition.UPDATED.value))
        .when(sent)
        .then(ends)
        .otherwise(planned)
    )
    is_shut = pl.col("lane").is_in(list(shut))
    shown = sent | doubted
    rows = rows.with_columns(
        ended.alias("disposition"),
        pl.when(shown)
        .then(pl.col("resource_id_write"))
        .otherwise(pl.col("resource_id"))
        .fill_null("")
        .alias("resource_id"),
        _why("rule", sent | doubted, waits & is_shut, "lane|in_doubt"),
        _why(
            "message",
            sent | doubted,
            waits & is_shut,
            "not sent: an earlier write of this patient is in doubt",
        ),
        *(
            pl.when(sent | doubted).then(pl.col(name)).alias(name)
            for name in ("http_status", "attempts", "correlation_id", "sent_at", "settled_at")
        ),
    )
    rows = _with_amounts_in_doubt(rows)
    return rows.with_columns(
        pl.when(pl.col("disposition") == Disposition.REFUSED.value)
        .then(pl.lit(Stage.UPLOAD.value))
        .otherwise(pl.col("stage"))
        .alias("stage"),
        pl.when(pl.col("disposition") == Disposition.REFUSED.value)
        .then(pl.lit("row"))
        .otherwise(pl.col("field"))
        .alias("field"),
    )


def _with_amounts_in_doubt(rows: pl.DataFrame) -> pl.DataFrame:
    """Add the amount of a write in doubt, and say so if the row has another one by now."""
    in_doubt = pl.col("disposition") == Disposition.IN_DOUBT.value
    amount = pl.when(in_doubt).then(pl.col("amount_cents_write"))
    differs = in_doubt & (pl.col("amount_cents_write") != pl.col("amount_cents"))
    return rows.with_columns(
        amount.alias("amount_cents_in_doubt"),
        pl.when(differs).then(pl.lit(_OTHER_AMOUNT)).otherwise(pl.col("rule")).alias("rule"),
        pl.when(differs)
        .then(pl.format("{}; {}", pl.col("message"), pl.lit(_SETTLE_FIRST)))
        .otherwise(pl.col("message"))
        .alias("message"),
    )


def _why(name: str, sent: pl.Expr, shut: pl.Expr, otherwise: str) -> pl.Expr:
    return (
        pl.when(sent & (pl.col(f"{name}_write") != ""))
        .then(pl.col(f"{name}_write"))
        .when(shut)
        .then(pl.lit(otherwise))
        .otherwise(pl.col(name))
        .fill_null("")
        .alias(name)
    )


def report(
    folder: Path,
    feeds: Mapping[str, Mapping[str, Any]],
    plan: Plan | None,
    ends: Ends,
    facts: Facts,
) -> dict[str, Any]:
    """Write the run's folder anew and return what `summary.json` holds.

    `feeds` holds what the plan noted of each feed. `plan` None: the run failed before there was
    one; then the summary says why, and no row is known.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
    totals = {name: Totals() for name in feeds}
    parts: list[Path] = []
    if plan is not None:
        run_id = facts.run.run_id
        beside = _Beside({name: plan.missing(name) for name in feeds})
        for name, feed in feeds.items():
            parts += _write_feed(folder, name, feed, plan, ends, run_id, totals[name], beside)
        for name, feed in feeds.items():
            gone = _missing(name, beside.gone[name], ends, run_id, beside)
            totals[name].missing.update(gone["outcome"].to_list())
            totals[name].unreplaced = int(gone["is_unreplaced"].sum())
            _write_text(folder / f"missing-{name}.csv", [gone.select(_MISSING_COLUMNS)])
            changes = _changes(plan.changes(name), feed, totals[name])
            _write_text(folder / f"changes-{name}.csv", changes)
    _write_reconciliation(folder, parts)
    _count(folder / "reconciliation.parquet", totals)
    exchanges = runs.exchanges(ends.journal, facts.run.run_id)
    summary = _summary(feeds, plan, totals, ends, facts, exchanges)
    write_private(folder / "summary.json", orjson.dumps(summary, option=orjson.OPT_INDENT_2))
    write_private(folder / "report.html", page(summary, exchanges, folder).encode())
    ends.keep()
    return summary


# Rows ---------------------------------------------------------------------------------------------


def _write_feed(
    folder: Path,
    name: str,
    feed: Mapping[str, Any],
    plan: Plan,
    ends: Ends,
    run_id: str,
    totals: Totals,
    beside: "_Beside",
) -> list[Path]:
    files = [Path(file["path"]).name for file in feed["files"]]
    traits = TRAITS[Kind(feed["kind"])]
    written = []
    parts = zip(plan.rows(name), plan.sources(name), strict=True)
    with replacing(folder / f"rejects-{name}.csv") as path:
        with path.open("w", encoding="utf-8", newline="") as file:
            rejects = _Rejects(file, feed, files, run_id)
            for number, (rows, source) in enumerate(parts):
                asked = rows.filter(pl.col("disposition").is_in(_IN_JOURNAL))
                writes = ends.writes(f"{name}-{number:05}", asked["key"])
                reconciled = reconcile(rows, writes, ends.facts["shut"], run_id)
                totals.add(reconciled)
                if traits.resource_type == "Coverage":
                    beside.add(reconciled, files)
                rejects.add(reconciled, source)
                part = folder / f".part-{name}-{number:05}.parquet"
                _lines(reconciled, run_id, name, traits.resource_type, files).write_parquet(part)
                written.append(part)
        _encode(path, rejects.encoding)
    return written


def _lines(
    rows: pl.DataFrame, run_id: str, feed: str, resource_type: str, files: Sequence[str]
) -> pl.DataFrame:
    """The rows as `reconciliation` shows them."""
    return rows.with_columns(
        pl.lit(run_id).alias("run_id"),
        pl.lit(feed).alias("feed"),
        pl.lit(resource_type).alias("resource_type"),
        pl.col("file").replace_strict(list(range(len(files))), list(files), return_dtype=pl.String),
        *(
            (pl.col(cents).cast(pl.Decimal(18, 2)) / 100).cast(pl.Decimal(18, 2)).alias(amount)
            for cents, amount in (
                ("amount_cents", "amount_usd"),
                ("amount_cents_in_doubt", "amount_in_doubt_usd"),
            )
        ),
        pl.col("attempts").fill_null(0),
    ).select(pl.col(column).cast(kind) for column, kind in _COLUMNS.items())


def _write_reconciliation(folder: Path, parts: list[Path]) -> None:
    lines = pl.scan_parquet(parts, glob=False) if parts else pl.LazyFrame(schema=_COLUMNS)
    with replacing(folder / "reconciliation.parquet") as path:
        lines.sink_parquet(path)
    with replacing(folder / "reconciliation.csv") as path:
        lines.with_columns(_defused(pl.col(pl.String))).sink_csv(path)
    for part in parts:
        part.unlink()


def _count(path: Path, totals: Mapping[str, Totals]) -> None:
    """Count the rows and cents of a reconciliation as it was written."""
    amount = pl.col("amount_usd")
    lines = (
        pl.scan_parquet(path, glob=False)
        .group_by("feed", "disposition")
        .agg(
            pl.len(),
            amount.sum(),
            amount.null_count().alias("unreadable"),
            pl.col("amount_in_doubt_usd").sum(),
        )
        .collect(engine="streaming")
    )
    for feed, disposition, rows, usd_sum, unreadable, in_doubt in lines.iter_rows():
        totals[feed].rows[disposition] += rows
        totals[feed].cents[disposition] += int((usd_sum or Decimal(0)).scaleb(2))
        totals[feed].unreadable += unreadable
        totals[feed].cents_in_doubt += int((in_doubt or Decimal(0)).scaleb(2))


def _defused(texts: pl.Expr) -> pl.Expr:
    """Put an apostrophe before what a spreadsheet would run."""
    inside = texts.str.replace_all(_FORMULA_INSIDE, "${1}'${2}")
    return inside.str.replace(_FORMULA_AT_START, "'${1}").name.keep()


class _Rejects:
    """The rows to correct, as the sender wrote them, in the sender's dialect, to be fed in again.

    So a cell of the sender's stays as it is, though a spreadsheet may run it; our own columns, which
    are not read again, may hold Canvas' words or names of files, and are made harmless.
    """

    def __init__(
        self, file: TextIO, feed: Mapping[str, Any], files: Sequence[str], run_id: str
    ) -> None:
        self.encoding: str = feed["encoding"]  # or UTF-8, if a cell of the sender's does not fit
        self._columns: list[str] = feed["columns"]
        self._files, self._run_id = files, run_id
        # With CRLF line ends the csv module quotes a cell that holds a CR or an LF; with LF alone
        # a CR would stand unquoted, and the file could not be fed in again.
        self._writer = csv.writer(file, delimiter=feed["delimiter"], lineterminator="\r\n")
        self._fit(self._columns)
        self._writer.writerow([*self._columns, *added_columns(self._columns)])

    def add(self, rows: pl.DataFrame, source: pl.DataFrame) -> None:
        """The rejected and refused rows of one part."""
        returned = rows.filter(pl.col("disposition").is_in(_RETURNED))
        file = pl.col("file").replace_strict(
            list(range(len(self._files))), list(self._files), return_dtype=pl.String
        )
        why = returned.select(
            "row", "stage", "field", "rule", _defused(pl.col("message")), _defused(file)
        )
        for cells, ours in zip(self._cells(returned["seq"], source), why.iter_rows(), strict=True):
            self._fit(cells)
            self._writer.writerow([*cells, *ours, self._run_id])

    def _fit(self, cells: Sequence[str | None]) -> None:
        """Change to UTF-8 if the encoding lacks a character of cells out of a Parquet file."""
        try:
            "".join(cell or "" for cell in cells).encode(self.encoding)
        except UnicodeError:
            self.encoding = "utf-8-sig"

    def _cells(self, seqs: pl.Series, source: pl.DataFrame) -> Iterator[tuple[str | None, ...]]:
        """The sender's cells of some rows, by column; a file of several may lack a column."""
        rows = seqs.alias(SEQ).to_frame().join(source, on=SEQ, how="left", maintain_order="left")
        absent = [None] * rows.height
        cells = [rows[name] if name in rows.columns else absent for name in self._columns]
        return zip(*cells, strict=True)


def _encode(path: Path, encoding: str) -> None:
    """Rewrite a UTF-8 text in another encoding; characters of ours that it lacks are spelled out."""
    if codecs.lookup(encoding).name == "utf-8":
        return
    with (
        replacing(path) as part,
        path.open(encoding="utf-8", newline="") as text,
        part.open("w", encoding=encoding, errors="backslashreplace", newline="") as encoded,
    ):
        shutil.copyfileobj(text, encoded)


# What is gone --------------------------------------------------------------------------------------


class _Beside:
    """What was to be written of the patients of whom a coverage is cancelled: maybe its replacement."""

    def __init__(self, gone: Mapping[str, pl.DataFrame]) -> None:
        self.gone = gone  # `plans.MISSING`, by feed
        self._lanes = {
            lane
            for each in gone.values()
            for lane in each.filter(pl.col("interaction") != "")["lane"]
        }
        self._rows: dict[str, list[tuple[str, str]]] = {}  # by patient: file:row, disposition

    def add(self, rows: pl.DataFrame, files: Sequence[str]) -> None:
        """Take in the rows of a reconciled part."""
        if not self._lanes:
            return
        is_written = (pl.col("interaction") != "") | (
            pl.col("disposition") == Disposition.IN_DOUBT.value
        )
        mine = rows.filter(is_written & pl.col("lane").is_in(list(self._lanes)))
        for lane, file, row, word in mine.select("lane", "file", "row", "disposition").iter_rows():
            self._rows.setdefault(lane, []).append((str(RowId(files[file], row)), word))

    def columns(self, lanes: Iterable[str]) -> pl.DataFrame:
        """Return a line a patient: all its rows, the first refused one, and whether one was not written."""
        lines = []
        for lane in lanes:
            rows = self._rows.get(lane, [])
            shown = "; ".join(f"{where} {word.replace('_', ' ')}" for where, word in rows)
            refused = (where for where, word in rows if word == Disposition.REFUSED.value)
            is_left = any(word in _NOT_WRITTEN for _, word in rows)
            lines.append((shown, next(refused, ""), is_left))
        schema = {"replacement": pl.String, "refused": pl.String, "is_left": pl.Boolean}
        return pl.DataFrame(lines, schema=schema, orient="row")


def _missing(
    name: str, lines: pl.DataFrame, ends: Ends, run_id: str, beside: _Beside
) -> pl.DataFrame:
    """Return the rows of the last complete run that are gone, and what became of them.

    Columns: _MISSING_COLUMNS, and `is_unreplaced` for one that was cancelled while another row of its
    patient was not written.
    """
    lines = lines.hstack(beside.columns(lines["lane"]))
    writes = ends.writes(f"{name}-missing", lines["key"]).filter(pl.col("run_id") == run_id)
    joined = lines.join(writes, on="key", how="left", suffix="_write", maintain_order="left")
    is_meant = pl.col("interaction") != ""
    outcomes = pl.col("state").replace_strict(
        {**{state.value: end.value for state, end in _ENDS.items()}, "CONFIRMED": "cancelled"},
        default=Disposition.PENDING.value,
        return_dtype=pl.String,
    )
    is_held = is_meant & pl.col("is_last") & (pl.col("refused") != "")
    is_held &= outcomes == Disposition.PENDING.value
    is_reported = pl.col("rule") == "missing|reported"
    kept = pl.when(is_reported).then(pl.lit("reported")).otherwise(pl.lit("not_cancelled"))
    held_back = {
        "rule": pl.lit(_UNREPLACED),
        "message": pl.format(
            "not cancelled: {} of the same patient was refused, and may be its replacement; fix that row",
            "refused",
        ),
    }
    told = joined.select(
        "key",
        "resource_id",
        "replacement",
        "is_left",
        pl.when(is_meant & ~is_held).then(outcomes).otherwise(kept).alias("outcome"),
        *(
            pl.when(is_held)
            .then(held_back[name])
            .when(is_meant)
            .then(pl.col(f"{name}_write"))
            .otherwise(pl.col(name))
            .fill_null("")
            .alias(name)
            for name in ("rule", "message")
        ),
    )
    is_unreplaced = (pl.col("outcome") == "cancelled") & pl.col("is_left")
    return told.with_columns(is_unreplaced.alias("is_unreplaced"))


def _changes(
    parts: Iterable[pl.DataFrame], feed: Mapping[str, Any], totals: Totals
) -> Iterator[pl.DataFrame]:
    """What its updates change, a line an element, with the names of files in place of numbers."""
    files = [Path(file["path"]).name for file in feed["files"]]
    for changes in parts:
        totals.changes.update(changes["element"].to_list())
        yield changes.select(
            pl.col("file").replace_strict(
                range(len(files)), files, return_dtype=pl.String, default=None
            ),
            *_CHANGES_COLUMNS,
        )


def _write_text(path: Path, parts: Iterable[pl.DataFrame]) -> None:
    """For a spreadsheet; no file where there is no line."""
    path.unlink(missing_ok=True)
    with replacing(path) as part, part.open("wb") as file:
        for lines in parts:
            text = lines.with_columns(_defused(pl.col(pl.String)))
            file.write(
                text.write_csv(include_header=not file.tell()).encode() if lines.height else b""
            )
        is_empty = not file.tell()
    if is_empty:
        path.unlink()


# The summary --------------------------------------------------------------------------------------


def _summary(
    feeds: Mapping[str, Mapping[str, Any]],
    plan: Plan | None,
    totals: Mapping[str, Totals],
    ends: Ends,
    facts: Facts,
    exchanges: pl.DataFrame,
) -> dict[str, Any]:
    journal = ends.journal
    lines = [_feed_summary(name, feed, totals[name]) for name, feed in feeds.items()]
    rows = sum((each.rows for each in totals.values()), Counter[str]())
    elsewhere = max(ends.facts["doubts"] - rows[Disposition.IN_DOUBT.value], 0)
    gone = sum((each.missing for each in totals.values()), Counter[str]())
    difference = "" if plan is None else "; ".join(filter(None, map(_difference, lines)))
    code = exit_code(facts.run, rows, elsewhere, gone)
    if difference and code not in _ENDED_EARLY:
        code = 1
    requests = requests_summary(exchanges)
    is_planned = plan is not None and facts.run.command == "plan"
    return {
        "shape": 1,
        "run_id": facts.run.run_id,
        "command": facts.run.command,
        "started_at": facts.run.started_at,
        "finished_at": facts.run.finished_at,
        "version": facts.version,
        "exit_code": code,
        "failure": facts.run.failure or (difference and f"{_UNBALANCED}: {difference}"),
        "warnings": [*warnings_of(feeds), *_warnings(plan, totals)],
        "config_sha256": facts.config_sha256,
        "patients_unasked": 0 if plan is None else plan.meta.get("patients_unasked", 0),
        "balanced": plan is not None and all(line["balanced"] for line in lines),
        "in_doubt_elsewhere": elsewhere,
        "recovered": ends.facts["recovered"],
        "settled": ends.facts["settled"],
        "sent_again": ends.facts["sent_again"],
        "journal": {
            "id": journal.name,
            "dir": str(journal.folder.resolve()),
            "base_url": journal.base_url,
            "lines": history.length_after(journal, facts.run.run_id),
        },
        "feeds": lines,
        "requests": requests,
        "workers": _workers(journal, facts.run.run_id),
        "needs": _needs(plan.meta, requests, facts.run) if plan and is_planned else None,
    }


def _warnings(plan: Plan | None, totals: Mapping[str, Totals]) -> list[dict[str, Any]]:
    """Return what to look at: what the plan noted, and what was cancelled without a replacement."""
    found = [] if plan is None else list(plan.meta.get("notices", []))
    for name, each in totals.items():
        if each.unreplaced:
            what = "1 coverage" if each.unreplaced == 1 else f"{each.unreplaced:,} coverages"
            was = "was" if each.unreplaced == 1 else "were"
            message = (
                f"{what} of {name} {was} cancelled, but another row of the same patient was not written: "
                f"see the column replacement of missing-{name}.csv, and fix that row."
            )
            found.append(
                {"rule": _UNREPLACED, "feed": name, "count": each.unreplaced, "message": message}
            )
    return found


def _workers(journal: Journal, run_id: str) -> list[dict[str, Any]]:
    """What each process did of the run's sending, where several carried it. `ended` "": it was lost."""
    lease_records = leases.lease_records(journal, run_id)
    if not lease_records:
        return []
    requests = leases.requests_of_leases(journal, run_id)
    found = []
    for each in lease_records:
        host, process, _ = each.holder.split(" ", 2)
        total, writes = requests.get((each.part, each.epoch), (0, 0))
        found.append(
            {
                "partition": each.part,
                "worker": f"{host} {process}",
                "began_at": each.taken_at,
                "ended_at": each.ended_at,
                "ended": each.ended,
                "requests": total,
                "writes": writes,
            }
        )
    return found


def _needs(meta: Mapping[str, Any], asked: Mapping[str, Any], run: Run) -> dict[str, Any] | None:
    """What carrying out a plan takes: its writes, what planning asked once more, and what it did not ask.

    `seconds` is at the configured rate, or at what `concurrency` allows with answers as slow as they
    were; `done_at` counts from the end of planning.
    """
    if "rate_per_s" not in meta:
        return None  # planned by an earlier version
    writes = sum(feed["to_send"] for feed in meta["feeds"].values())
    beside = asked["total"] or (1 if writes else 0)  # a token at least
    requests = writes + beside + meta["patients_unasked"]
    latency_s = asked["latency_s"]["p50"] or 0.0
    rate = min(meta["rate_per_s"], meta["concurrency"] / latency_s if latency_s else math.inf)
    seconds = math.ceil(requests / rate)
    ended = datetime.fromisoformat(run.finished_at or run.started_at)
    return {
        "writes": writes,
        "requests": requests,
        "rate_per_s": round(rate, 3),
        "seconds": seconds,
        "done_at": utc_text(ended + timedelta(seconds=seconds)),
    }


def exit_code(
    run: Run, rows: Mapping[str, int], in_doubt_elsewhere: int, gone: Mapping[str, int]
) -> int:
    """Return the exit code: why the run ended, else what its rows came to.

    A write in doubt counts whichever run sent it: nothing is reconciled while it is open. So does
    what is gone from the file (`gone`, by outcome) and should have been cancelled.
    """
    if run.exit_code in _ENDED_EARLY:
        return run.exit_code
    if rows[Disposition.IN_DOUBT.value] or in_doubt_elsewhere:
        return 4
    turned_away = (Disposition.REJECTED.value, Disposition.REFUSED.value)
    if any(rows[word] or gone.get(word) for word in turned_away) or gone.get("not_cancelled"):
        return 3
    is_left = rows[Disposition.PENDING.value] or gone.get(Disposition.PENDING.value)
    return 1 if run.command == "run" and is_left else 0


def _feed_summary(name: str, feed: Mapping[str, Any], totals: Totals) -> dict[str, Any]:
    """A feed's control totals: what was read, counted by the reader, against what became of it."""
    traits = TRAITS[Kind(feed["kind"])]
    rows_read, cents_read = feed["rows_read"], feed["cents_read"]
    summary: dict[str, Any] = {
        "name": name,
        "resource_type": traits.resource_type,
        "files": feed["files"],
        "rows_read": rows_read,
        "dispositions": {word.value: totals.rows[word.value] for word in Disposition},
        "rules": dict(totals.rules.most_common()),
        "warnings": feed["warnings"],
        "pending_by_interaction": {word.value: totals.pending[word.value] for word in Interaction},
        "changes": dict(totals.changes.most_common()),
        "mended_from": feed.get("mended_from", []),
        "adopted": totals.adopted,
        "missing": _missing_summary(feed, totals),
        "balanced": totals.rows.total() == rows_read == sum(file["rows"] for file in feed["files"]),
    }
    if traits.has_money:
        amounts = {word.value: usd(totals.cents[word.value]) for word in Disposition}
        summary["amount_usd"] = {"read": usd(cents_read), **amounts}
        summary["amount_in_doubt_usd"] = usd(totals.cents_in_doubt)
        summary["amounts_unreadable"] = totals.unreadable
        summary["balanced"] = summary["balanced"] and totals.cents.total() == cents_read
    return summary


def _difference(line: Mapping[str, Any]) -> str:
    """How the rows of a feed's summary differ from what was read; "" if they balance."""
    if line["balanced"]:
        return ""
    rows = sum(line["dispositions"].values())
    found = f"feed {line['name']}: {line['rows_read']:,} rows read, {rows:,} rows reported"
    if "amount_usd" not in line:
        return found
    amounts = dict(line["amount_usd"])
    read = amounts.pop("read")
    return f"{found}; {read} USD read, {sum(map(Decimal, amounts.values()))} USD reported"


def _missing_summary(feed: Mapping[str, Any], totals: Totals) -> dict[str, Any]:
    """What is gone from a feed's files since the last complete run. `compared_with` None: not looked at."""
    told = feed.get("missing", {})
    return {
        "mode": told.get("mode", "ignore"),
        "compared_with": told.get("compared_with"),
        "rows": totals.missing.total(),
        **{word: totals.missing[word] for word in _GONE},
        "cancelled_without_replacement": totals.unreplaced,
    }


def requests_summary(exchanges: pl.DataFrame) -> dict[str, Any]:
    """Counts, latencies and rates of all requests, token and searches included."""
    statuses = exchanges["http_status"].cast(pl.String).fill_null("none").to_list()
    latencies = exchanges["latency_ms"] / 1000
    granted = [datetime.fromisoformat(at).timestamp() for at in exchanges["sent_at"]]
    span_s = granted[-1] - granted[0] if len(granted) > 1 else 0.0
    return {
        "total": exchanges.height,
        "by_status": dict(sorted(Counter(statuses).items())),
        "writes": exchanges.filter(pl.col("purpose") == "write").height,
        "retried": exchanges.filter(
            (pl.col("purpose") == "write") & (pl.col("attempt") > 1)
        ).height,
        "searches": exchanges.filter(pl.col("purpose") == "search").height,
        "latency_s": {
            name: None
            if exchanges.is_empty()
            else round(float(latencies.quantile(share, "nearest") or 0.0), 6)
            for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
        },
        "rate_per_s": round((len(granted) - 1) / span_s, 3) if span_s > 0 else None,
        "rate_per_s_max": _busiest_second(granted),
    }


def _busiest_second(granted: Sequence[float]) -> int:
    """The highest number of grants in any second, wherever it begins."""
    busiest = first = 0
    for last, at in enumerate(granted):
        while at - granted[first] >= 1.0:
            first += 1
        busiest = max(busiest, last - first + 1)
    return busiest
