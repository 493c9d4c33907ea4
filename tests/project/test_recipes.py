"""The queries and the script of docs/migration.md, carried out on tables with the names that they assume.

The tables are made from docs/canvas.md, "Beside the FHIR API": that Canvas' own have these names is not verified here.
"""

import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import psycopg
import pytest

from tests.support import postgres

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "migration.md").read_text()

TABLES = """
create table api_patient (id int primary key, key text, mrn text);
create table api_patientexternalidentifier (patient_id int, system text, value text);
create table api_note (id int primary key, patient_id int);
create table api_coverage (id int primary key, patient_id int, issuer_id int, state text);
create table quality_and_revenue_transactor (id int primary key, payer_id text, name text, active bool);
create table quality_and_revenue_queue (id int primary key, name text);
create table quality_and_revenue_claim (
    id int primary key, note_id int, current_queue_id int, patient_balance numeric(8, 2)
);
create table quality_and_revenue_baseposting (id int primary key, created timestamptz, entered_in_error_id int);
create table quality_and_revenue_patientposting (baseposting_ptr_id int primary key);
create table quality_and_revenue_coverageposting (baseposting_ptr_id int primary key);
create table quality_and_revenue_newlineitempayment (
    posting_id int, amount numeric(8, 2), entered_in_error_id int
);
insert into api_patient values (1, 'key-1', '501'), (2, 'key-2', '502'), (3, 'key-3', '503');
insert into api_patientexternalidentifier values
    (1, 'https://old-system.example/mrn', 'A1'), (2, 'https://old-system.example/mrn', 'A2'),
    (3, 'https://old-system.example/mrn', 'A2'), (3, 'https://other.example', 'A1');
insert into api_note values (1, 1), (2, 1), (3, 2);
insert into quality_and_revenue_transactor values
    (1, '60054', 'One Plan', true), (2, '87726', 'Other Plan', true), (3, '00001', 'Old Plan', false);
insert into api_coverage values (1, 1, 2, 'active'), (2, 2, 2, 'active'), (3, 3, 1, 'deleted');
insert into quality_and_revenue_queue values (1, 'PatientBalance'), (2, 'Trash');
insert into quality_and_revenue_claim values
    (1, 1, 1, 40.00), (2, 2, 1, 12.50), (3, 2, 2, 99.00), (4, 3, 1, 5.00);
insert into quality_and_revenue_baseposting values
    (1, '2026-11-22', null), (2, '2026-11-22', 7), (3, '2026-11-22', null), (4, '2026-11-20', null);
insert into quality_and_revenue_patientposting values (1), (2), (4);
insert into quality_and_revenue_coverageposting values (3);
insert into quality_and_revenue_newlineitempayment values
    (1, 30.00, null), (1, 2.00, 7), (2, 8.00, null), (3, 500.00, null), (4, 1.00, null);
"""
EXPECTED: list[list[tuple[Any, ...]]] = [
    [("A1", "key-1"), ("A2", "key-2"), ("A2", "key-3")],
    [("A2", 2)],
    [("87726", "Other Plan", 2), ("60054", "One Plan", 0)],
    [("key-1", Decimal("52.50")), ("key-2", Decimal("5.00"))],
    [(Decimal("30.00"), Decimal("10.00"))],
]


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_the_queries_of_the_page_find_what_they_say(
    postgres_server: postgres.Server, database: str
) -> None:
    with psycopg.connect(database, password=postgres_server.password) as connection:
        connection.execute(TABLES)
        found = [sorted(connection.execute(query).fetchall()) for query in blocks("sql")]
    assert found == [sorted(lines) for lines in EXPECTED]


def test_the_script_of_the_page_lists_who_pays_more_than_is_owed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("export", "crosswalks", "reports/latest"):
        (tmp_path / folder).mkdir(parents=True)
    payments = ["A1,30.00,", "A1,30.00,", "A2,4.00,", "A2,90.00,C1", "A2,7.00,", "A3,1.00,"]
    Path("export/payments.csv").write_text("\n".join(["Account,Amount,Claim", *payments]))
    Path("crosswalks/patients.csv").write_text("mrn,canvas_key\nA1,key-1\nA2,key-2\nA3,key-3\n")
    Path("balances.csv").write_text("canvas_key,balance_usd\nkey-1,52.50\nkey-2,5.00\n")
    amounts = [Decimal(line.split(",")[1]) for line in payments]
    ends = ["pending"] * 4 + ["rejected", "pending"]
    pl.DataFrame(
        {"feed": "payments", "row": range(1, 7), "disposition": ends, "amount_usd": amounts},
        schema_overrides={"row": pl.UInt32, "amount_usd": pl.Decimal(18, 2)},
    ).write_parquet("reports/latest/reconciliation.parquet")
    names: dict[str, Any] = {}
    (script,) = blocks("python")
    exec(script, names)  # noqa: S102 - it is the page's
    assert names["refused"].select("canvas_key", "above_usd").rows() == [
        ("key-1", Decimal("7.50")),
        ("key-3", Decimal("1.00")),
    ]
