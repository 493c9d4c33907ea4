"""A script for the night: plan, decide by the plan's own numbers, run, and say how it ended.

    python script.py my.toml payments.parquet

It exits as `canvas-ingest run` does. CANVAS_CLIENT_ID and CANVAS_CLIENT_SECRET come from the environment.
"""

import sys
from pathlib import Path

import polars as pl

import pipeline
from pipeline.errors import IngestError, LimitError

REJECTED_MAX = 0.02  # of the rows; a configuration has limits.rejects_max for the same


def load(config: Path, payments: pl.LazyFrame) -> pipeline.Result:
    """Plan a day's payments and, if few of them are rejected, load them: exactly that plan."""
    rows = payments.filter(pl.col("Status") == "PAID").drop("Status")
    planned = pipeline.plan_sync(config, inputs={"ledger": rows})
    planned.raise_for_failure()
    rejected = planned.frame.filter(pl.col("disposition") == "rejected")
    if rejected.height > REJECTED_MAX * planned.frame.height:
        by_rule = rejected.group_by("rule").len().sort("len", descending=True)
        raise LimitError(
            f"{rejected.height} rows are rejected: {dict(by_rule.iter_rows())}",
            f"see rejects-ledger.csv in {planned.folder}",
        )
    return pipeline.run_sync(config, inputs={"ledger": rows}, plan_id=planned.run_id)


def main(config: str, payments: str) -> int:
    """Return the exit code."""
    try:
        result = load(Path(config), pl.scan_parquet(payments))
        result.raise_for_failure()
    except IngestError as error:
        sys.stderr.write(f"{error.message}\n{error.fix}\n")
        return error.exit_code
    sent = result.frame.filter(pl.col("disposition") == "created")
    sys.stdout.write(f"{sent.height} payments, USD {sent['amount_usd'].sum()}: {result.folder}\n")
    return result.exit_code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
