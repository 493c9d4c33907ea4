"""Values as senders write them, through a whole plan: amounts, open dates, instants and blanks."""

from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.errors import ConfigError, InputError
from pipeline.reading.inspect import inspect
from pipeline.rows.dates import Dates
from pipeline.rows.feed import Feed, Kind
from tests.support.reports import planned, write
from tests.support.runs import counts
from tests.support.world import LEDGER_ONLY, MakeWorld, patient_key

HEADER = ["TXN", "MRN", "Amount", "Claim"]
ROSTER = """
[[feeds]]
name = "roster"
kind = "eligibility"
path = "roster.csv"
adopt = false
{more}
[feeds.columns]
patient = "MRN"
member_id = "Member"
relationship = "Rel"
payer = "Payer"
order = "Order"
start_on = "Start"
end_on = "End"
"""
COLUMNS = ["MRN", "Member", "Rel", "Payer", "Order", "Start", "End"]


def roster(folder: Path, days: list[tuple[str, str]]) -> None:
    rows = [(f"p{n}", f"W{n}", "self", "60054", "1", *each) for n, each in enumerate(days)]
    write(folder / "roster.csv", COLUMNS, rows)


@pytest.mark.parametrize(
    ("more", "amounts", "usd"),
    [
        ("", ["1,234.50", "$12.50", '="5.00"', ".50", "12.5000"], "1265.00"),
        ("decimal_comma = true", ["1.234,50", "12,5"], "1247.00"),
        ('amount_unit = "cents"', ["1250", "1,250"], "25.00"),
        ('amount_sign = "negative"', ["(12.50)", "12.50-", "-$1"], "26.00"),
    ],
)
def test_amounts_balance_in_every_spelling(
    tmp_path: Path, more: str, amounts: list[str], usd: str
) -> None:
    rows = [(f"t{n}", f"p{n}", amount, "") for n, amount in enumerate(amounts)]
    write(tmp_path / "ledger.csv", HEADER, rows)
    result = planned(tmp_path, LEDGER_ONLY.replace("[feeds.columns]", f"{more}\n[feeds.columns]"))
    assert (result.exit_code, result.summary["balanced"]) == (0, True)
    assert result.summary["feeds"][0]["amount_usd"]["pending"] == usd


def test_an_amount_in_another_spelling_is_the_same_row(tmp_path: Path) -> None:
    rows = [("t1", "p1", "1,234.50", ""), ("t1", "p1", "$1234.5", "")]
    write(tmp_path / "ledger.csv", HEADER, rows)
    by_amount = LEDGER_ONLY.replace(
        "[feeds.columns]", 'key = ["patient", "amount", "transaction_id"]\n[feeds.columns]'
    )
    assert counts(planned(tmp_path, by_amount)) == {"pending": 1, "duplicate": 1}


def test_open_dates_are_counted_and_warned_of(tmp_path: Path) -> None:
    roster(
        tmp_path,
        [("2026-01-01", "9999-12-31"), ("1753-01-01", "0000-00-00"), ("2026-01-01", "2026-12-31"), ("", "2099-12-31")],
    )  # fmt: skip
    result = planned(tmp_path, ROSTER.format(more='open_dates = ["2099-12-31"]'))
    assert counts(result) == {"pending": 4}
    assert result.summary["feeds"][0]["open_dates"] == 4
    (warning,) = result.summary["warnings"]
    assert (warning["rule"], warning["feed"], warning["count"]) == ("dates|open", "roster", 4)
    assert warning["message"].startswith("roster: 4 dates mean")


async def test_open_dates_of_unchanged_rows_are_counted_too(make_world: MakeWorld) -> None:
    world = await make_world()
    world.write_config(feeds=ROSTER.format(more="").replace("adopt = false", ""))
    rows = [
        (patient_key(n), f"W{n}", "self", "60054", "1", "2026-01-01", "9999-12-31") for n in (0, 1)
    ]
    write(world.folder / "roster.csv", COLUMNS, rows)
    for ends in ({"created": 2}, {"unchanged": 2}):
        result = await world.run()
        assert counts(result) == ends
        assert result.summary["feeds"][0]["open_dates"] == 2
    assert len(world.effects) == 2
    assert "9999" not in str(world.effects)


INSTANTS = [("2026-01-01T05:00:00Z", "2027-01-01T04:59:59Z")]


def test_instants_become_days_of_the_practice(tmp_path: Path) -> None:
    roster(tmp_path, INSTANTS)
    zone = 'dates = ["%Y-%m-%dT%H:%M:%SZ"]\ntimezone = "America/New_York"'
    result = planned(tmp_path, ROSTER.format(more=zone))
    rows = pl.read_parquet(tmp_path / f"state/plans/{result.run_id}/rows-roster-00000.parquet")
    assert b'"end":"2026-12-31"' in rows["body"][0]


@pytest.mark.parametrize(
    "options", [{}, {"timezone": "America/New_York"}, {"dates": ("%Y-%m-%dT%H:%M:%SZ",)}]
)
def test_a_parquet_column_of_instants_needs_a_zone_and_a_format(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    path = tmp_path / "a.parquet"
    instants = pl.Series(["2026-01-01T05:00:00"]).str.to_datetime(time_zone="UTC")
    pl.DataFrame({"MRN": ["p1"], "Start": instants}).write_parquet(path)
    feed = Feed("roster", Kind.ELIGIBILITY, "", {"patient": "MRN", "start_on": "Start"}, **options)
    with pytest.raises(InputError, match='"Start"') as caught:
        inspect(path, feed, tmp_path)
    assert "timezone" in caught.value.fix
    assert "%Y-%m-%dT%H:%M:%SZ" in caught.value.fix
    both: dict[str, Any] = {"timezone": "America/New_York", "dates": ("%Y-%m-%dT%H:%M:%SZ",)}
    inspect(path, Feed("roster", Kind.ELIGIBILITY, "", {"start_on": "Start"}, **both), tmp_path)


@pytest.mark.parametrize("kind", [pl.Float64, pl.Decimal(18, 3)])
def test_numbers_of_parquet_have_no_groups_of_three(tmp_path: Path, kind: Any) -> None:
    rows = {
        "TXN": ["t1", "t2", "t3"],
        "MRN": ["p1", "p2", "p3"],
        "Amount": [12.345, 12.5, 7],
        "Claim": [None] * 3,
    }
    frame = pl.DataFrame(rows, schema_overrides={"Amount": kind, "Claim": pl.String}, strict=False)
    frame.write_parquet(tmp_path / "ledger.parquet")
    feed = LEDGER_ONLY.replace("ledger.csv", "ledger.parquet")
    for more in ("", "decimal_comma = true\n"):
        result = planned(tmp_path, feed.replace("[feeds.columns]", f"{more}[feeds.columns]"))
        assert result.summary["feeds"][0]["amount_usd"]["pending"] == "19.50"
        assert result.summary["feeds"][0]["rules"] == {"amount|decimals": 1}


@pytest.mark.parametrize(
    "form", ["%Y-%m-%d %H:%M:%S UTC", "%Y-%m-%dT%H:%M:%S+00:00", "%Y-%m-%d %H:%M:%S GMT"]
)
def test_a_format_that_names_utc_reads_instants(tmp_path: Path, form: str) -> None:
    instant = form.replace("%Y-%m-%d", "2027-01-01").replace("%H:%M:%S", "04:59:59")
    roster(tmp_path, [("2026-01-01", instant)])
    dates = f'dates = {{ end_on = ["{form}"] }}\n'
    with pytest.raises(ConfigError, match="reads instants"):
        planned(tmp_path, ROSTER.format(more=dates))
    zoned = f'timezone = "America/New_York"\n{dates}'
    result = planned(tmp_path, ROSTER.format(more=zoned))
    assert result.exit_code == 0
    assert Dates((form,), "America/New_York").read(instant) == date(2026, 12, 31)


@pytest.mark.parametrize("form", ["%Y-%m-%d %H:%M:%S %Z", "%Y-%m-%dT%H:%M:%S-05:00"])
def test_a_zone_that_is_not_read_is_refused_in_a_format(tmp_path: Path, form: str) -> None:
    roster(tmp_path, [("2026-01-01", "")])
    more = f'timezone = "America/New_York"\ndates = {{ end_on = ["{form}"] }}\n'
    with pytest.raises(ConfigError, match="write %z"):
        planned(tmp_path, ROSTER.format(more=more))


@pytest.mark.parametrize(
    "table", ['[feeds.only]\nentry_type = ["NULL"]\n', '[feeds.only]\nentry_type = ["A", "NULL"]\n']
)
def test_a_text_that_means_blank_cannot_be_loaded_by_only(tmp_path: Path, table: str) -> None:
    feed = LEDGER_ONLY.replace("[feeds.columns]", 'null_values = ["NULL"]\n[feeds.columns]')
    feed = feed.replace('claim = "Claim"', 'entry_type = "Claim"')
    with pytest.raises(ConfigError, match=r"only\.entry_type: .* null_values"):
        planned(tmp_path, feed + table)


def test_a_text_that_means_blank_cannot_be_a_code(tmp_path: Path) -> None:
    feed = ROSTER.format(more='null_values = ["N/A"]')
    with pytest.raises(ConfigError, match=r"codes\.relationship: .* null_values"):
        planned(tmp_path, f'{feed}[feeds.codes.relationship]\n"N/A" = "self"\n')


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("ledger.parquet", "skip_lines = 1"),
        ("in/*.parquet", "skip_footer = 1"),
        ("ledger.parquet", 'comment_prefix = "#"'),
        ("ledger.parquet", 'blank_lines = "skip"'),
        ("ledger.parquet", 'sheet = "A"'),
        ("ledger.csv.gz", 'sheet = "A"'),
    ],
)
def test_an_option_that_files_of_an_ending_do_not_have_is_an_error(
    tmp_path: Path, path: str, more: str
) -> None:
    feed = LEDGER_ONLY.replace("ledger.csv", path)
    with pytest.raises(ConfigError, match="has no effect on files that end in"):
        planned(tmp_path, feed.replace("[feeds.columns]", f"{more}\n[feeds.columns]"))
