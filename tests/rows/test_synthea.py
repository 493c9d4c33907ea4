"""Synthea's export as it is published (tests/rows/synthea), to the cent."""

import shutil
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.app.config.load import load
from pipeline.commands import run as engine
from pipeline.sandbox import Sandbox, serve
from tests.support.world import CREDENTIALS

pytestmark = pytest.mark.slow  # a whole practice

DATA = Path(__file__).parent / "synthea"


def rows_of(path: Path) -> pl.DataFrame:
    return pl.read_csv(path, infer_schema=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("payer_transitions.csv", "claims_transactions.csv"):
        shutil.copyfile(DATA / name, tmp_path / name)
    shutil.copyfile(DATA / "synthea.toml", tmp_path / "synthea.toml")
    patients = sorted(
        {
            *rows_of(tmp_path / "payer_transitions.csv")["PATIENT"],
            *rows_of(tmp_path / "claims_transactions.csv")["PATIENTID"],
        }
    )
    pl.DataFrame(
        {"synthea": patients, "canvas": [name.replace("-", "") for name in patients]}
    ).write_csv(tmp_path / "patients.csv")
    payers = rows_of(DATA / "payers.csv")["Id"]
    pl.DataFrame({"synthea": payers, "payer_id": payers.str.slice(0, 8)}).write_csv(
        tmp_path / "payers.csv"
    )
    return tmp_path


def seed_of(folder: Path) -> dict[str, Any]:
    """Canvas with those patients, payers and claims; the balances are what was charged, and no less than was paid."""
    transactions = rows_of(folder / "claims_transactions.csv")
    payers = rows_of(DATA / "payers.csv")
    money = transactions.group_by("PATIENTID").agg(pl.col("PAYMENTS").cast(pl.Decimal(12, 2)).sum())
    paid = dict(money.iter_rows())
    claims = transactions.select("CLAIMID", "PATIENTID").unique()
    return {
        "patients": [
            {
                "id": canvas,
                "identifiers": [{"system": "synthea", "value": source}],
                "balance": str(paid.get(source, "0.00")),
            }
            for source, canvas in rows_of(folder / "patients.csv").iter_rows()
        ],
        "organizations": [
            {"id": payer, "name": name, "payer_id": payer[:8]}
            for payer, name in payers.select("Id", "NAME").iter_rows()
        ],
        "claims": [
            {"id": claim, "patient": patient.replace("-", "")}
            for claim, patient in claims.iter_rows()
        ],
    }


async def test_synthea_arrives_to_the_cent_and_a_second_run_sends_nothing(folder: Path) -> None:
    sandbox = Sandbox(seed_of(folder))
    async with serve(sandbox) as url:
        overrides = {"canvas": {"base_url": url, "token_url": f"{url}/auth/token/"}}
        job = load(folder / "synthea.toml", environment=CREDENTIALS, overrides=overrides)
        result = await engine.run(job)
        again = await engine.run(job)

    feeds = {feed["name"]: feed for feed in result.summary["feeds"]}
    assert result.summary["balanced"]
    assert (
        result.frame.height == sum(feed["rows_read"] for feed in feeds.values()) == 1051 + 2 * 5228
    )
    assert result.frame["disposition"].null_count() == 0

    ends = {word: count for word, count in feeds["transitions"]["dispositions"].items() if count}
    assert ends == {"filtered": 258, "rejected": 375, "created": 418}
    assert feeds["transitions"]["rules"] == {"subscriber|required": 375}, (
        "owners are known by name only"
    )

    in_file = (
        rows_of(folder / "claims_transactions.csv")
        .filter(pl.col("TYPE") == "PAYMENT")["PAYMENTS"]
        .cast(pl.Decimal(12, 2))
        .sum()
    )
    in_summary = sum(
        Decimal(feeds[name]["amount_usd"]["created"]) for name in ("payments", "copays")
    )
    effects = [
        effect
        for effect in sandbox.account()["effects"]
        if effect["resource_type"] == "PaymentNotice"
    ]
    in_canvas = sum(Decimal(effect["amount"]) for effect in effects)
    assert in_file == in_summary == in_canvas
    assert len(effects) == 1843
    assert {bool(effect["claim"]) for effect in effects} == {True, False}
    assert sandbox.account()["open_writes_max"] == 1

    assert again.summary["requests"]["total"] == 0
    assert len(sandbox.account()["effects"]) == 418 + 1843
    assert result.exit_code == again.exit_code == 3
