"""The end of rows that are gone from a feed's files."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import polars as pl

from pipeline.journal.ends import Ends
from pipeline.planning.missing import SETTLED
from pipeline.records import Disposition, RowId
from pipeline.reporting.reconcile import ENDS

MISSING_COLUMNS: Final = (
    "key",
    "resource_id",
    "outcome",
    "end_on",
    "rule",
    "message",
    "replacement",
)
_UNPROCESSABLE: Final = 422  # docs/canvas.md, "Coverage": ending and removing
UNREPLACED: Final = "missing|unreplaced"
_NOT_WRITTEN: Final = (
    Disposition.REFUSED.value,
    Disposition.IN_DOUBT.value,
    Disposition.PENDING.value,
)


class Beside:
    """Collects what was to be written of patients of whom a coverage is cancelled or ended: maybe its replacement."""

    def __init__(self, gone: Mapping[str, pl.DataFrame]) -> None:
        self.gone = gone  # `tables.MISSING`, by feed
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


def missing(
    name: str, lines: pl.DataFrame, mode: str, ends: Ends, run_id: str, beside: Beside
) -> pl.DataFrame:
    """Return the rows of the last complete run that are gone, and what became of them.

    Columns: MISSING_COLUMNS, and `is_unreplaced` for one that was cancelled or ended while another row of its
    patient was not written.

    Args:
        name: The feed.
        lines: `tables.MISSING`.
        mode: `missing` of the feed.
        ends: How the writes ended.
        run_id: The run.
        beside: The patients' other rows.
    """
    done = "ended" if mode == "end" else "cancelled"
    lines = lines.hstack(beside.columns(lines["lane"]))
    writes = ends.writes(f"{name}-missing", lines["key"]).filter(pl.col("run_id") == run_id)
    joined = lines.join(writes, on="key", how="left", suffix="_write", maintain_order="left")
    is_meant = pl.col("interaction") != ""
    outcomes = pl.col("state").replace_strict(
        {**{state.value: end.value for state, end in ENDS.items()}, "CONFIRMED": done},
        default=Disposition.PENDING.value,
        return_dtype=pl.String,
    )
    is_held = is_meant & pl.col("is_last") & (pl.col("refused") != "")
    is_held &= outcomes == Disposition.PENDING.value
    is_reported = pl.col("rule").is_in(SETTLED)
    kept = pl.when(is_reported).then(pl.lit("reported")).otherwise(pl.lit(f"not_{done}"))
    is_linked = (outcomes == Disposition.REFUSED.value) & (pl.col("http_status") == _UNPROCESSABLE)
    is_linked &= pl.lit(value=mode == "cancel")
    held_back = {
        "rule": pl.lit(UNREPLACED),
        "message": pl.format(
            f"not {done}: {{}} of the same patient was refused, and may be its replacement; fix that row",
            "refused",
        ),
    }
    linked = {
        "rule": pl.col("rule_write"),
        "message": pl.format(
            'not cancelled: {}. If a claim is linked to it, it can only be ended: missing = "end"',
            pl.col("message_write").str.strip_chars_end("."),
        ),
    }
    reported = joined.select(
        "key",
        "resource_id",
        pl.col("end_on").fill_null(""),
        "replacement",
        "is_left",
        pl.when(is_meant & ~is_held).then(outcomes).otherwise(kept).alias("outcome"),
        *(
            pl.when(is_held)
            .then(held_back[name])
            .when(is_meant & is_linked)
            .then(linked[name])
            .when(is_meant)
            .then(pl.col(f"{name}_write"))
            .otherwise(pl.col(name))
            .fill_null("")
            .alias(name)
            for name in ("rule", "message")
        ),
    )
    is_unreplaced = (pl.col("outcome") == done) & pl.col("is_left")
    return reported.with_columns(is_unreplaced.alias("is_unreplaced"))
