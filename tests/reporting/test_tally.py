"""Both sides of `balanced` are counted apart: the reader's from the file, the other from the report."""

import asyncio
from pathlib import Path
from typing import Literal

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.app.config.load import load
from pipeline.commands import run as engine
from pipeline.rows.feed import Feed, Kind
from pipeline.rows.money import cents_in, cents_of
from pipeline.rows.tally import cents_read
from pipeline.rows.texts import texts_of
from tests.support.journals import enter_index, forget_plans
from tests.support.reports import planned, write
from tests.support.world import LEDGER_ONLY, MakeWorld, patient_key

HEADER = ["TXN", "MRN", "Amount", "Claim"]
_pieces = st.sampled_from(
    ["-", "+", ".", ",", "0", "00", "1", "12", "9" * 12, "9" * 13, " ", "\t", "$", "(", ")", "e3",
     "\u0661", "\uff11", "_", "\u00a0", "\u2003", "\n", "NaN", "1.23", "-1.2", "0.001", "123", ".500", '="', '"']
)  # fmt: skip
spellings = st.lists(_pieces, max_size=5).map("".join) | st.text(max_size=8)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.none() | spellings, max_size=12),
    st.sampled_from(["positive", "negative"]),
    st.booleans(),
    st.sampled_from(["dollars", "cents"]),
)
def test_both_sides_count_hostile_amounts_alike(
    cells: list[str | None],
    sign: Literal["positive", "negative"],
    decimal_comma: bool,
    unit: Literal["dollars", "cents"],
) -> None:
    column = pl.Series("Amount", cells, dtype=pl.String)
    nulls = ("0", "12", "1.23")
    feed = Feed(
        "ledger",
        Kind.LEDGER,
        "",
        {"amount": "Amount"},
        decimal_comma=decimal_comma,
        amount_unit=unit,
        null_values=nulls,
    )
    texts, style = texts_of(column.to_frame(), feed)["amount"], feed.amount_style
    mapped = sum(cents_of(text, sign, style) or 0 for text in texts)
    read = cents_read(column, sign, decimal_comma=decimal_comma, unit=unit, null_values=nulls)
    assert read == mapped == (cents_in(texts, sign, style).sum() or 0)


def reread(tmp_path: Path, amounts: list[str]) -> engine.Result:
    rows = [(f"t{n}", "p1", amount, "") for n, amount in enumerate(amounts)]
    write(tmp_path / "ledger.csv", HEADER, rows)
    return planned(tmp_path, LEDGER_ONLY)


def change(
    folder: Path, result: engine.Result, lines: pl.Expr | None, keep: pl.Expr | None
) -> None:
    """Plant a fault of the mapping: change the lines of the plan, or drop some of them."""
    path = folder / "state" / "plans" / result.run_id / "rows-ledger-00000.parquet"
    rows = pl.read_parquet(path, glob=False)
    rows = rows if lines is None else rows.with_columns(lines)
    rows = rows if keep is None else rows.filter(keep)
    rows.write_parquet(path)
    forget_plans(folder / "state")


def reported(folder: Path) -> engine.Result:
    return asyncio.run(engine.report_again(load(folder / "config.toml", environment={})))


@pytest.mark.parametrize(
    ("lines", "keep", "shown"),
    [
        (None, pl.col("seq") != 1, "2 rows"),
        (pl.when(pl.col("seq") == 1).then(pl.lit(501)).otherwise("amount_cents").alias("amount_cents"), None, "16.01"),
        (pl.lit(None, dtype=pl.Int64).alias("amount_cents"), None, "0.00"),
    ],
    ids=["a row is dropped", "a cent is added", "amounts are lost"],
)  # fmt: skip
def test_a_fault_of_the_mapping_is_not_balanced_and_no_exit_0(
    tmp_path: Path, lines: pl.Expr | None, keep: pl.Expr | None, shown: str
) -> None:
    first = reread(tmp_path, ["1.00", "5.00", "10.00"])
    assert (first.summary["balanced"], first.exit_code) == (True, 0)
    change(tmp_path, first, lines, keep)
    result = reported(tmp_path)
    assert result.summary["balanced"] is False
    assert result.exit_code == 1
    assert "feed ledger: 3 rows read" in result.summary["failure"]
    assert "16.00 USD read" in result.summary["failure"]
    assert shown in result.summary["failure"]


async def test_a_fault_of_the_mapping_stops_a_run_before_the_first_write(
    make_world: MakeWorld,
) -> None:
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY)
    rows = [(f"t{n}", patient_key(n), "5.00", "") for n in range(3)]
    world.write_ledger(rows)
    assert (await world.run()).exit_code == 0
    index = world.folder / "state" / "held-ledger.parquet"
    facts = pl.read_parquet_metadata(index)
    lines = pl.read_parquet(index, glob=False).with_columns(amount_cents=pl.col("amount_cents") + 1)
    lines.write_parquet(index, metadata={k: v for k, v in facts.items() if k != "ARROW:schema"})
    enter_index(world.folder / "state", "ledger")
    world.write_ledger([*rows, ("t9", patient_key(0), "1.00", "")])
    result = await world.run()
    assert result.exit_code == 1
    assert "4 rows and 16.00 USD read, 4 rows and 16.03 USD planned" in result.summary["failure"]
    assert len(world.effects) == 3, "nothing was sent"


def test_rows_that_are_known_to_be_unchanged_are_counted_from_the_file_too(tmp_path: Path) -> None:
    feeds = LEDGER_ONLY.replace('amount = "Amount"\n', "") + '[feeds.constants]\namount = "2.50"\n'
    write(tmp_path / "ledger.csv", HEADER, [("t1", "p1", "x", ""), ("t2", "p1", "", "")])
    result = planned(tmp_path, feeds)
    assert result.summary["balanced"]
    assert result.summary["feeds"][0]["amount_usd"]["read"] == "5.00"
