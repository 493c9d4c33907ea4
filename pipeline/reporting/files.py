"""The files of a report, written part by part, so that it is bounded in memory like the plan.

Only `reconciliation.*`, `rejects-*`, `missing-*` and `changes-*` hold anything of a row.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import orjson
import polars as pl

from pipeline.files import FOLDER_MODE, replacing, write_private
from pipeline.journal import runs
from pipeline.journal.ends import Ends
from pipeline.planning.places import Places
from pipeline.planning.plan import Plan
from pipeline.records import Disposition
from pipeline.reporting.csv_files import Rejects, defused, encode, write_text
from pipeline.reporting.missing import MISSING_COLUMNS, Beside, missing
from pipeline.reporting.page import page
from pipeline.reporting.reconcile import reconcile
from pipeline.reporting.summary import Facts, Totals, summary_of
from pipeline.rows.feed import TRAITS, Kind

_COLUMNS: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    "run_id": pl.String,
    "feed": pl.String,
    "file": pl.String,
    "row": pl.UInt32,
    "line": pl.UInt32,  # as an editor counts; of a workbook, the row of the sheet
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
_CHANGES_COLUMNS: Final = ("row", "key", "resource_id", "element", "before", "after")
_IN_JOURNAL: Final = (Disposition.PENDING.value, Disposition.IN_DOUBT.value)


def report(
    folder: Path,
    feeds: Mapping[str, Mapping[str, Any]],
    plan: Plan | None,
    ends: Ends,
    facts: Facts,
) -> dict[str, Any]:
    """Write the run's folder anew.

    Args:
        folder: That of the run.
        feeds: What the plan noted of each feed.
        plan: None if the run failed before there was one; then the summary says why, and no row is known.
        ends: How the writes ended.
        facts: What the report says beside the rows.

    Returns:
        What `summary.json` holds.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
    totals = {name: Totals() for name in feeds}
    places = Places.of(feeds, plan)
    parts: list[Path] = []
    if plan is not None:
        run_id = facts.run.run_id
        beside = Beside({name: plan.missing(name) for name in feeds})
        for name, feed in feeds.items():
            target = FeedFiles(folder, name, feed, places)
            parts += _write_feed(target, plan, ends, run_id, totals[name], beside)
        for name, feed in feeds.items():
            mode = feed.get("missing", {}).get("mode", "ignore")
            gone = missing(name, beside.gone[name], mode, ends, run_id, beside)
            totals[name].missing.update(gone["outcome"].to_list())
            totals[name].unreplaced = int(gone["is_unreplaced"].sum())
            texts = (places.located_column(gone[column]) for column in ("message", "replacement"))
            gone = gone.with_columns(*texts)
            write_text(folder / f"missing-{name}.csv", [gone.select(MISSING_COLUMNS)])
            changes = _changes(plan.changes(name), feed, totals[name])
            write_text(folder / f"changes-{name}.csv", changes)
    _write_reconciliation(folder, parts)
    _count(folder / "reconciliation.parquet", totals)
    exchanges = runs.exchanges(ends.journal, facts.run.run_id)
    summary = summary_of(feeds, plan, totals, ends, facts, exchanges)
    for warning in summary["warnings"]:
        warning["message"] = places.located(warning["message"])
    write_private(folder / "summary.json", orjson.dumps(summary, option=orjson.OPT_INDENT_2))
    write_private(folder / "report.html", page(summary, exchanges, folder).encode())
    ends.keep()
    return summary


@dataclass(frozen=True, slots=True)
class FeedFiles:
    """The folder of a report, and what the plan noted of a feed."""

    folder: Path
    name: str
    feed: Mapping[str, Any]
    places: Places

    @property
    def files(self) -> list[str]:
        """Return the names of the feed's files, by number."""
        return [Path(file["path"]).name for file in self.feed["files"]]


def _write_feed(
    target: FeedFiles, plan: Plan, ends: Ends, run_id: str, totals: Totals, beside: Beside
) -> list[Path]:
    name, files, places = target.name, target.files, target.places
    traits = TRAITS[Kind(target.feed["kind"])]
    written = []
    parts = zip(plan.rows(name), plan.sources(name), strict=True)
    with replacing(target.folder / f"rejects-{name}.csv") as path:
        with path.open("w", encoding="utf-8", newline="") as file:
            rejects = Rejects(file, target.feed, files, run_id)
            for number, (rows, source) in enumerate(parts):
                asked = rows.filter(pl.col("disposition").is_in(_IN_JOURNAL))
                writes = ends.writes(f"{name}-{number:05}", asked["key"])
                reconciled = reconcile(rows, writes, ends.facts["shut"], run_id)
                line, message = places.column(name, reconciled), reconciled["message"]
                reconciled = reconciled.with_columns(line, places.located_column(message))
                totals.add(reconciled, files)
                if traits.resource_type == "Coverage":
                    beside.add(reconciled, files)
                rejects.add(reconciled, source)
                part = target.folder / f".part-{name}-{number:05}.parquet"
                _lines(reconciled, run_id, name, traits.resource_type, files).write_parquet(part)
                written.append(part)
        encode(path, rejects.encoding)
    return written


def _lines(
    rows: pl.DataFrame, run_id: str, feed: str, resource_type: str, files: Sequence[str]
) -> pl.DataFrame:
    """Return the rows as `reconciliation` shows them."""
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
        lines.with_columns(defused(pl.col(pl.String))).sink_csv(path)
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


def _changes(
    parts: Iterable[pl.DataFrame], feed: Mapping[str, Any], totals: Totals
) -> Iterator[pl.DataFrame]:
    """Yield what its updates change, a line an element, with the names of files in place of numbers."""
    files = [Path(file["path"]).name for file in feed["files"]]
    for changes in parts:
        totals.changes.update(changes["element"].to_list())
        yield changes.select(
            pl.col("file").replace_strict(
                range(len(files)), files, return_dtype=pl.String, default=None
            ),
            *_CHANGES_COLUMNS,
        )
