"""Every row with exactly one disposition: from the plan and the journal, nothing else. Pure."""

from collections.abc import Sequence
from typing import Final

import polars as pl

from pipeline.records import REWRITTEN, Disposition, Interaction, Stage, State

_BEHIND_A_DOUBT: Final = "not sent: an earlier write of this patient is in doubt"
_OTHER_AMOUNT: Final = "amount|in_doubt"
_SETTLE_FIRST: Final = (
    "the file has another amount now than the write that is in doubt (amount_in_doubt_usd): "
    "settle that one first, with `canvas-ingest review`"
)
# How a row that was sent in this run ended, by its state in the journal; an update that was
# confirmed is `updated`.
ENDS: Final = {
    State.CONFIRMED: Disposition.CREATED,
    State.REFUSED: Disposition.REFUSED,
    State.IN_DOUBT: Disposition.IN_DOUBT,
    State.IN_FLIGHT: Disposition.IN_DOUBT,
    State.PENDING: Disposition.PENDING,
    State.ABANDONED: Disposition.IN_DOUBT,
}


def reconcile(
    rows: pl.DataFrame, writes: pl.DataFrame, shut: Sequence[str], run_id: str
) -> pl.DataFrame:
    """Return the rows of one part of a plan, each with how it ended by the journal.

    Args:
        rows: As `Plan.rows` yields them.
        writes: As `lookups.writes_of` returns them.
        shut: The patients with a write in doubt.
        run_id: The run that is reported. A row that it did not send is what the plan says of it.
    """
    is_rewritten = pl.col("rule").str.contains(REWRITTEN, literal=True).alias("is_rewritten")
    rows = rows.with_columns(is_rewritten)  # before the journal says how each ended
    rows = rows.join(writes, on="key", how="left", suffix="_write", maintain_order="left")
    planned = pl.col("disposition")
    sent = (planned == Disposition.PENDING.value) & (pl.col("run_id") == run_id)
    doubted = planned == Disposition.IN_DOUBT.value
    waits = (planned == Disposition.PENDING.value) & ~sent.fill_null(value=False)
    ends = pl.col("state").replace_strict(
        {state.value: end.value for state, end in ENDS.items()},
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
        _why("rule", shown, waits & is_shut, "lane|in_doubt"),
        _why("message", shown, waits & is_shut, _BEHIND_A_DOUBT),
        *(
            pl.when(shown).then(pl.col(name)).alias(name)
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
