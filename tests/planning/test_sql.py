"""Feeds with SQL, from the file to the report: what is created, filtered, rejected and unchanged."""

import csv
from pathlib import Path

import polars as pl
import pytest

from pipeline.commands import run as engine
from pipeline.errors import ConfigError
from tests.support.reports import planned
from tests.support.runs import counts
from tests.support.world import LEDGER_ONLY, MakeWorld, World, patient_key

HEADER = ["TXN", "MRN", "Gross", "Refunded", "Status"]
NET = 'amount = { sql = \'cast("Gross" as decimal(18,2)) - coalesce(cast("Refunded" as decimal(18,2)), 0)\' }\n'
FEED = (
    LEDGER_ONLY.replace('amount = "Amount"\n', NET)
    .replace('claim = "Claim"\n', "")
    .replace("[feeds.columns]", 'where = "\\"Status\\" = \'Paid\'"\n[feeds.columns]')
)
ROWS: list[tuple[str, ...]] = [
    ("t1", patient_key(1), "40.00", "", "Paid"),
    ("t2", patient_key(2), "43.00", "15.00", " Paid "),
    ("t3", patient_key(3), "44.00", "0.00", "Failed"),
    ("t4", patient_key(4), "n/a", "0.00", "Paid"),
    ("t5", patient_key(5), "n/a", "0.00", ""),
]


async def world_of(make_world: MakeWorld, rows: list[tuple[str, ...]], feeds: str = FEED) -> World:
    world = await make_world()
    world.write_config(feeds=feeds)
    world._write("ledger.csv", HEADER, rows)
    return world


def amounts(result: engine.Result) -> dict[str, str]:
    found: dict[str, str] = result.summary["feeds"][0]["amount_usd"]
    return found


async def test_rows_are_filtered_rejected_or_created_and_add_up(make_world: MakeWorld) -> None:
    world = await world_of(make_world, ROWS)
    result = await world.run()
    assert counts(result) == {"created": 2, "filtered": 2, "rejected": 1}
    assert result.summary["balanced"]
    assert amounts(result)["read"] == "112.00"
    assert amounts(result)["created"] == "68.00"
    assert amounts(result)["filtered"] == "44.00"
    with (result.folder / "rejects-ledger.csv").open(newline="") as file:
        (reject,) = csv.DictReader(file)
    assert [reject[name] for name in HEADER] == list(ROWS[3]), "the sender's row, untouched"
    assert reject["_rule"] == "amount|sql"
    assert (
        'amount: the SQL over "Gross", "Refunded" has no value for this row' in reject["_message"]
    )
    assert "n/a" not in reject["_message"]


async def test_a_condition_that_fails_for_a_row_rejects_it(make_world: MakeWorld) -> None:
    feeds = FEED.replace("\\\"Status\\\" = 'Paid'", 'cast(\\"Gross\\" as decimal(18,2)) > 41')
    result = await (await world_of(make_world, ROWS, feeds)).run()
    assert counts(result) == {"created": 2, "filtered": 1, "rejected": 2}
    assert result.summary["feeds"][0]["rules"] == {"row|where": 2}
    assert result.exit_code == 3


async def test_rows_are_unchanged_by_their_value_whatever_the_cells_are(
    make_world: MakeWorld,
) -> None:
    world = await world_of(make_world, ROWS[:2])
    assert counts(await world.run()) == {"created": 2}
    world._write("ledger.csv", HEADER, [("t1", patient_key(1), "45.00", "5.00", "Paid"), ROWS[1]])
    assert counts(await world.run()) == {"unchanged": 2}
    world._write("ledger.csv", HEADER, [("t1", patient_key(1), "45.00", "6.00", "Paid"), ROWS[1]])
    assert counts(await world.run()) == {"rejected": 1, "unchanged": 1}
    world._write("ledger.csv", HEADER, [ROWS[0], (*ROWS[1][:4], "Failed")])
    assert counts(await world.run()) == {"filtered": 1, "unchanged": 1}


async def test_a_fault_of_a_field_that_may_be_blank_is_not_unchanged(make_world: MakeWorld) -> None:
    day = 'posted_on = { sql = "date(\\"Day\\", \'%m/%d/%Y\')" }\n'
    feeds = FEED.replace(NET, NET + day)
    world = await world_of(make_world, [], feeds)
    header = [*HEADER, "Day"]
    world._write("ledger.csv", header, [(*ROWS[0], "")])
    assert counts(await world.run()) == {"created": 1}
    assert counts(await world.run()) == {"unchanged": 1}
    world._write("ledger.csv", header, [(*ROWS[0], "today")])
    result = await world.run()
    assert (counts(result), result.summary["feeds"][0]["rules"]) == (
        {"rejected": 1},
        {"posted_on|sql": 1},
    )


async def test_another_expression_is_seen_though_the_cells_are_the_same(
    make_world: MakeWorld,
) -> None:
    world = await world_of(make_world, ROWS[:2])
    assert counts(await world.run()) == {"created": 2}
    world.write_config(feeds=FEED.replace(NET, 'amount = "Gross"\n'))
    assert counts(await world.run()) == {"rejected": 1, "unchanged": 1}


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (
            "TXN,MRN,Gros,Refunded,Status",
            'column "Gross": the header has 5 columns and not this one, which is used in the SQL of amount',
        ),
        ("TXN,MRN,Gross,Refunded,State", "not this one, which is used in where"),
        ("TXN,MRN,Gross,Status,Status", 'column "Status": the header names this column twice'),
    ],
)
def test_columns_of_sql_that_cannot_be_read_are_named(
    tmp_path: Path, header: str, said: str
) -> None:
    (tmp_path / "ledger.csv").write_text(f"{header}\nt1,p1,5.00,0.00,Paid\n")
    result = planned(tmp_path, FEED)
    assert result.exit_code == 1
    assert said in result.summary["failure"]


def test_a_number_of_parquet_with_decimals_is_not_compared_as_a_text(tmp_path: Path) -> None:
    rows = {"TXN": ["t1"], "MRN": ["p1"], "Gross": ["5"], "Refunded": ["0"], "Status": [1.5]}
    pl.DataFrame(rows).write_parquet(tmp_path / "ledger.parquet")
    result = planned(tmp_path, FEED.replace("ledger.csv", "ledger.parquet"))
    assert "a number with decimals, and used in where" in result.summary["failure"]


@pytest.mark.parametrize(
    ("given", "meant", "said"),
    [
        (NET, "amount = { sql = '\"Gross\"', x = 1 }\n", "amount must be the name of a column"),
        (NET, "amount = { sql = 5 }\n", "amount must be the name of a column"),
        (NET, "amount = { sql = 'sum(\"Gross\")' }\n", "amount.sql: an aggregate"),
        ("= 'Paid'", "> 5", "where: .*its parts do not fit together"),
        ("= 'Paid'", "|| 'x'", "where: .*it must be a condition"),
    ],
)
def test_what_is_wrong_with_sql_is_an_error_of_the_configuration(
    tmp_path: Path, given: str, meant: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        planned(tmp_path, FEED.replace(given, meant))


@pytest.mark.parametrize(
    ("more", "gross", "sql", "usd"),
    [
        ('amount_unit = "cents"', "1250", 'cast("Gross" as int) - 50', "12.00"),
        ("decimal_comma = true", "12,50", "replace(\"Gross\", 'x', '')", "12.50"),
        ("decimal_comma = true", "12.5", 'cast("Gross" as decimal(18,3))', "12.50"),
        ("decimal_comma = true", "12.345", 'cast("Gross" as decimal(18,3))', None),
    ],
)
def test_an_amount_of_sql_is_read_in_the_feeds_spelling(
    tmp_path: Path, more: str, gross: str, sql: str, usd: str | None
) -> None:
    (tmp_path / "ledger.csv").write_text(f'TXN,MRN,Gross\nt1,p1,"{gross}"\n')
    feed = FEED.replace(NET, f"amount = {{ sql = '''{sql}''' }}\n").replace("where", f"{more}\n#")
    result = planned(tmp_path, feed)
    assert result.summary["balanced"]
    assert counts(result) == ({"pending": 1} if usd else {"rejected": 1})
    assert amounts(result)["pending"] == (usd or "0.00")
    assert usd or result.summary["feeds"][0]["rules"] == {"amount|decimals": 1}
