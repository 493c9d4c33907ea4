"""The law of the pipe, and the files that a run leaves behind."""

import asyncio
import csv
import io
import tempfile
from collections import Counter
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.app.config.load import load
from pipeline.commands import run as engine
from tests.support.reports import CONFIG, planned, write
from tests.support.world import FEEDS, LEDGER_ONLY

pytestmark = pytest.mark.slow  # whole reports

# Cells as they come: good ones often enough that rows meet each other.
messy = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
transactions = st.sampled_from(["t1", "t2", "t3", "", " t1 "]) | messy
patients = st.sampled_from(["p1", "p2", ""]) | messy
amounts = (
    st.sampled_from(["5.00", "5", "0", "-1.00", "1.234", "12,50", "999999.99", "=1+1"]) | messy
)
claims = st.sampled_from(["", "", "c1", "c1;c2"]) | messy
ledger_rows = st.lists(st.tuples(transactions, patients, amounts, claims), min_size=1, max_size=30)
orders = st.sampled_from(["1", "2", "primary", "7", ""])
days = st.sampled_from(["2026-01-01", "2026-06-30", "2026-07-01", "2026-13-01", ""])
relations = st.sampled_from(["self", "spouse", ""])
eligibility_rows = st.lists(
    st.tuples(patients, messy, relations, st.sampled_from(["60054", ""]), orders, days, days),
    min_size=1,
    max_size=30,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ledger_rows, eligibility_rows)
def test_rows_read_are_the_sum_of_dispositions_and_so_are_the_cents(
    ledger: list[tuple[str, ...]], eligibility: list[tuple[str, ...]]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "ledger.csv", ["TXN", "MRN", "Amount", "Claim"], ledger)
        write(
            folder / "eligibility.csv",
            ["MRN", "Member", "Rel", "Payer", "Order", "Start", "End"],
            eligibility,
        )
        result = planned(folder)
        assert result.failure is None
        assert result.summary["balanced"]
        frame = result.frame
        for feed, rows in (("ledger", ledger), ("eligibility", eligibility)):
            mine = frame.filter(pl.col("feed") == feed)
            assert mine["row"].to_list() == list(range(1, len(rows) + 1))
            assert mine["disposition"].null_count() == 0
        money = frame.filter(pl.col("feed") == "ledger")["amount_usd"].drop_nulls().to_list()
        assert sum(money, Decimal(0)) == Decimal(result.summary["feeds"][1]["amount_usd"]["read"])
        keys = frame.filter(pl.col("disposition") == "pending").group_by("feed", "key").len()
        assert (keys["len"] == 1).all(), "a key is sent once"
        returned = frame.filter(
            (pl.col("feed") == "ledger") & (pl.col("disposition") == "rejected")
        )
        text = (result.folder / "rejects-ledger.csv").read_bytes().decode()
        lines = list(csv.reader(io.StringIO(text, newline="")))
        assert [tuple(line[:4]) for line in lines[1:]] == [
            ledger[row - 1] for row in returned["row"]
        ]


def test_rejects_keep_the_senders_encoding_and_delimiter(tmp_path: Path) -> None:
    feed = LEDGER_ONLY.replace(
        "[feeds.columns]", 'encoding = "windows-1252"\ndelimiter = ";"\n[feeds.columns]'
    )
    source = "TXN;MRN;Amount;Claim;Note\nt1;p1;5,00;;Zoë\nt2;p2;6.00;;ok\n"
    (tmp_path / "ledger.csv").write_bytes(source.encode("windows-1252"))
    first = planned(tmp_path, feed)
    rejects = (first.folder / "rejects-ledger.csv").read_bytes().decode("windows-1252")
    assert rejects.splitlines()[1].startswith("t1;p1;5,00;;Zoë;1;2;validate;amount;amount|form;")
    (tmp_path / "mended.csv").write_bytes(rejects.replace("5,00", "5.00").encode("windows-1252"))
    job = load(tmp_path / "config.toml", environment={}, inputs={"ledger": tmp_path / "mended.csv"})
    assert asyncio.run(engine.plan(job)).frame["disposition"].to_list() == ["pending"]


def test_files_of_a_glob_may_order_their_columns_differently(tmp_path: Path) -> None:
    (tmp_path / "a_1.csv").write_text("TXN,MRN,Amount,Claim\nt1,p1,1.00,\nt2,p1,x,\n")
    (tmp_path / "a_2.csv").write_text("Amount,Extra,Claim,TXN,MRN\n2.00,,,t1,p1\ny,e,,t3,p2\n")
    result = planned(tmp_path, LEDGER_ONLY.replace("ledger.csv", "a_*.csv"))
    lines = result.frame.select("file", "row", "disposition", "rule").rows()
    assert lines == [
        ("a_1.csv", 1, "pending", ""),
        ("a_1.csv", 2, "rejected", "amount|form"),
        ("a_2.csv", 1, "rejected", "row|contradicts"),
        ("a_2.csv", 2, "rejected", "amount|form"),
    ]
    rejects = list(csv.DictReader((result.folder / "rejects-ledger.csv").read_text().splitlines()))
    assert [(line["Amount"], line["Extra"], line["_file"]) for line in rejects] == [
        ("x", "", "a_1.csv"), ("2.00", "", "a_2.csv"), ("y", "e", "a_2.csv")
    ]  # fmt: skip


def test_cells_that_a_spreadsheet_would_run_are_defused_in_the_csv_and_exact_in_the_parquet(
    tmp_path: Path,
) -> None:
    ids = ["=1+1", "@x", "+1", "-1", "\uff1d1", "plain"]
    write(
        tmp_path / "ledger.csv",
        ["TXN", "MRN", "Amount", "Claim"],
        [(each, "p1", "5.00", "") for each in ids],
    )
    result = planned(tmp_path, LEDGER_ONLY)
    shown = [
        line["source_id"]
        for line in csv.DictReader((result.folder / "reconciliation.csv").read_text().splitlines())
    ]
    assert shown == [f"'{each}" if each != "plain" else each for each in ids]
    assert result.frame["source_id"].to_list() == ids


def test_a_run_of_one_feed_can_be_reported_again(tmp_path: Path) -> None:
    write(tmp_path / "ledger.csv", ["TXN", "MRN", "Amount", "Claim"], [("t1", "p1", "5.00", "")])
    (tmp_path / "config.toml").write_text(CONFIG + FEEDS)
    one = asyncio.run(
        engine.plan(load(tmp_path / "config.toml", environment={}, only_feeds=("ledger",)))
    )
    again = asyncio.run(engine.report_again(load(tmp_path / "config.toml", environment={})))
    assert again.summary == one.summary


def test_equal_rows_of_a_file_without_ids_are_counted_where_the_feed_says_so(
    tmp_path: Path,
) -> None:
    key = 'key = ["patient", "posted_on", "amount", "claim"]\n'
    feed = LEDGER_ONLY.replace("transaction_id", "posted_on")
    day = "2026-11-09"
    rows = [(day, "p1", "5.00", ""), (day, "p1", "5", ""), (day, "p2", "5.00", "")]
    write(tmp_path / "ledger.csv", ["TXN", "MRN", "Amount", "Claim"], rows)
    once = planned(tmp_path, feed.replace("[feeds.columns]", f"{key}[feeds.columns]"))
    assert Counter(once.frame["disposition"]) == {"pending": 2, "duplicate": 1}
    counted = planned(
        tmp_path,
        feed.replace(
            "[feeds.columns]", f'{key}repeats = "count"\ndelivery = "full"\n[feeds.columns]'
        ),
    )
    assert Counter(counted.frame["disposition"]) == {"pending": 3}
    assert counted.frame["key"].n_unique() == 3
