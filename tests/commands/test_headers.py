"""`init` over headers as exports have them, with synthetic rows: what it finds, what it asks, and nothing wrong.

The table has for each column that carries one of our fields the field, and whether it is to be found or asked for.
All other columns must be in no setting.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest

from pipeline.app.config.load import load, load_to_check
from pipeline.commands import init as drafting
from pipeline.commands import run as engine
from pipeline.commands.drafts import names
from pipeline.errors import ConfigError, InputError
from tests.support.world import CREDENTIALS, MakeWorld, patient_key


@dataclass(frozen=True)
class Header:
    """An export: its lines, the columns that are found and those that are asked for, and lines of the draft."""

    name: str
    lines: str
    found: Mapping[str, str]
    asked: Mapping[str, str] = field(default_factory=dict)
    drafted: tuple[str, ...] = ()


HEADERS = [
    Header(
        "member_spans.csv",
        """member_id,product,coverage_start,coverage_end,status
        M4401,MEDICARE,2026-01-01,2026-12-31,ACTIVE
        M4402,MEDICAID,2026-02-01,2026-12-31,INACTIVE
        M4403,MEDICARE,2026-03-13,2026-12-31,INACTIVE""",
        {"member_id": "member_id", "start_on": "coverage_start", "end_on": "coverage_end", "status": "status"},
        {"patient": "member_id"},
        ('# "INACTIVE" = ""',),
    ),
    Header(
        "practice_plans.csv",
        """PatNum,Ordinal,Relationship,SubscriberID,DateEffective,DateTerm,CarrierName,ElectID,GroupName,GroupNum,Subscriber
        77001,1,0,SB10,01/13/2026,0001-01-01,Sample Health,60054,Sample Works,G10,77001
        77002,2,2,SB11,01/14/2026,06/30/2026,Sample Health,60054,Sample Works,G11,77001
        77003,1,0,SB12,01/15/2026,0001-01-01,Sample Health,60054,Sample Works,G12,77003""",
        {
            "patient": "PatNum", "relationship": "Relationship", "subscriber": "Subscriber", "payer": "ElectID",
            "payer_name": "CarrierName", "group": "GroupNum", "order": "Ordinal", "start_on": "DateEffective",
            "end_on": "DateTerm",
        },
        {"member_id": "SubscriberID"},
        ('open_dates = ["0001-01-01"]', '# "0" = ""'),
    ),
    Header(
        "insurance_rows.csv",
        """id,type,provider,plan_name,policy_number,group_number,subscriber_lname,subscriber_relationship,subscriber_DOB,copay,date,pid,date_end
        1,primary,60054,Gold,PX0,NULL,Sample,self,1980-01-02,25,2026-01-13,5001,0000-00-00
        2,secondary,87726,Gold,PX1,GX,Sample,child,1980-01-02,25,2026-01-14,5002,NULL
        3,primary,60054,Gold,PX2,GX,Sample,self,1980-01-02,25,2026-01-15,5003,2026-06-30""",
        {
            "patient": "pid", "order": "type", "plan": "plan_name", "member_id": "policy_number",
            "group": "group_number", "relationship": "subscriber_relationship", "start_on": "date",
            "end_on": "date_end",
        },
        {"payer": "provider"},
        ('null_values = ["NULL"]', 'dates = ["%Y-%m-%d"]'),
    ),
    Header(
        "flat_834_members.csv",
        """member_id_code,member_first_name,member_dob,benefit_status,maintenance_type_code,coverage_start_date,coverage_type_code,coverage_desc,end_date
        M1,Sample,19800102,N,024,20260113,HLT,Health,20260630
        M2,Sample,19800102,Y,021,20260114,HLT,Health,""",
        {"start_on": "coverage_start_date", "end_on": "end_date", "plan": "coverage_desc"},
        {"member_id": "member_id_code", "type": "coverage_type_code", "status": "benefit_status"},
    ),
    Header(
        "eligibility_checks.csv",
        """eligibility_id,patient_id,check_date_time,insurance_member_id,insurance_company_name,service_date,status,copay
        E1,5001,2026-02-13T10:30:00Z,IM1,Sample Health,2026-02-13,Active,25.00
        E2,5002,2026-02-14T10:30:00Z,IM2,Sample Health,2026-02-14,Inactive,25.00""",
        {
            "patient": "patient_id", "member_id": "insurance_member_id", "payer": "insurance_company_name",
            "status": "status",
        },
        drafted=("# start_on = ", "# end_on = "),
    ),
    Header(
        "instants.csv",
        """MRN,Member,Rel,Payer,COB,Coverage Start,Coverage End
        5001,W1,self,60054,1,2026-01-01T05:00:00Z,2027-01-01T04:59:59Z""",
        {
            "patient": "MRN", "member_id": "Member", "relationship": "Rel", "payer": "Payer", "order": "COB",
            "start_on": "Coverage Start", "end_on": "Coverage End",
        },
        drafted=('timezone = "DECIDE',),
    ),
    Header(
        "open_ends.csv",
        """Patient ID,Member ID,Relationship,Payer ID,Coverage Order,Effective Date,Term Date
        5001,W1,self,60054,1,01/02/2026,12/31/9999
        5002,W2,self,60054,1,01/02/2026,12/31/9999""",
        {
            "patient": "Patient ID", "member_id": "Member ID", "relationship": "Relationship", "payer": "Payer ID",
            "order": "Coverage Order", "start_on": "Effective Date", "end_on": "Term Date",
        },
        drafted=('\ndates = ["%m/%d/%Y"]',),  # the far days settle which number is the month
    ),
    Header(
        "open_days_spelt_otherwise.csv",
        """MRN,Member ID,Rel,Payer ID,Order,Eff Date,Term Date
        5001,W1,self,60054,1,01/13/2026,9999-12-31
        5002,W2,self,60054,1,1900-01-01,06/30/2026""",
        {
            "patient": "MRN", "member_id": "Member ID", "relationship": "Rel", "payer": "Payer ID",
            "order": "Order", "start_on": "Eff Date", "end_on": "Term Date",
        },
        drafted=('\ndates = ["%m/%d/%Y"]', '\nopen_dates = ["1900-01-01", "9999-12-31"]'),
    ),
    Header(
        "two_formats.csv",
        """MRN,Member ID,Rel,Payer ID,Order,Eff Date,Term Date
        5001,W1,self,60054,1,01/13/2026,20261231
        5002,W2,self,60054,1,01/14/2026,""",
        {
            "patient": "MRN", "member_id": "Member ID", "relationship": "Rel", "payer": "Payer ID",
            "order": "Order", "start_on": "Eff Date", "end_on": "Term Date",
        },
        drafted=('\ndates = { start_on = ["%m/%d/%Y"], end_on = ["%Y%m%d"] }',),
    ),
    Header(
        "claims_warehouse.csv",
        """person_id,payer_plan_period_start_date,payer_plan_period_end_date,payer_code,cert_no,rel_cd,employment_start_date
        5001,2026-01-13,2026-12-31,60054,C1,18,2019-05-05
        5002,2026-01-14,2026-12-31,60054,C2,01,2019-05-05""",
        {
            "patient": "person_id", "start_on": "payer_plan_period_start_date",
            "end_on": "payer_plan_period_end_date", "payer": "payer_code", "member_id": "cert_no",
            "relationship": "rel_cd",
        },
    ),
    Header(
        "splits.csv",
        """SplitNum,SplitAmt,PatNum,PayNum,DatePay,ProcDate,ClinicNum,PayType
        900,25.50,5001,70,11/13/2026,0001-01-01,0,Check
        901,-25.00,5002,71,11/14/2026,0001-01-01,0,Insurance Check
        902,12.50,5003,72,11/15/2026,0001-01-01,0,Cash
        903,12.50,5003,72,11/15/2026,0001-01-01,0,Insurance Check""",
        {
            "transaction_id": "SplitNum", "amount": "SplitAmt", "patient": "PatNum", "posted_on": "DatePay",
            "entry_type": "PayType",
        },
        drafted=(
            '# DECIDE: "Insurance Check" (2 rows): it looks like a payment of an insurer',
            'entry_type = ["DECIDE"]',
            '# amount_sign = "negative"',
        ),
    ),
    Header(
        "daysheet.csv",
        """Entry,Date,Chart,Name,Procedure,Debits,Credits,Balance
        0,11/13/26,5001,Sample,CASH,,25.00,25.00
        1,11/14/26,5002,Sample,99213,120.00,,95.00
        2,11/15/26,5003,Sample,CHECK,,40.00,55.00
        3,11/16/26,5004,Sample,INSPAY,,80.00,0.00""",
        {"posted_on": "Date", "patient": "Chart"},
        {"transaction_id": "Entry", "amount": "Credits", "entry_type": "Procedure"},
        ('"INSPAY" (1 row)', "counts the lines", "lowers the patient's balance"),
    ),
    Header(
        "wallet.csv",
        """Date,Time,Name,Type,Status,Currency,Gross,Fee,Net,Transaction ID,Custom Number,Balance
        11/13/2026,10:15:00,Sample,Checkout,Done,USD,45.00,-0.50,44.50,TX0,5001,1.00
        11/14/2026,10:15:00,Sample,Checkout,Pending,USD,80.00,-0.50,79.50,TX1,5002,1.00
        11/15/2026,10:15:00,Sample,Refund,Done,USD,-5.00,-0.50,-5.50,TX2,5003,1.00""",
        {"posted_on": "Date", "entry_type": "Type", "currency": "Currency", "transaction_id": "Transaction ID"},
        {"amount": "Gross", "patient": "Custom Number"},
        ('where = "DECIDE', '"Pending" (1 row)'),
    ),
    Header(
        "cards.csv",
        """id,Description,Created date (UTC),Amount,Amount Refunded,Currency,Status,Captured,Customer Email,mrn (metadata)
        ch_1a,Visit,2026-11-13 10:00:11,40.00,0.00,usd,Paid,true,a@example.org,5001
        ch_2a,Visit,2026-11-14 10:00:11,41.00,41.00,usd,Failed,false,b@example.org,5002
        ch_3a,Visit,2026-11-15 10:00:11,43.00,15.00,usd,Paid,true,c@example.org,5003""",
        {"transaction_id": "id", "patient": "mrn (metadata)", "currency": "Currency"},
        {"amount": "Amount Refunded", "posted_on": "Created date (UTC)"},
        (
            ("""# where = '''"Status" in ('Paid') and "Captured" in ('true') and cast("Amount" as decimal(18,2)) > """
            """coalesce(cast("Amount Refunded" as decimal(18,2)), 0)'''"""),
            ("""# amount = { sql = 'cast("Amount" as decimal(18,2)) - """
            """coalesce(cast("Amount Refunded" as decimal(18,2)), 0)' }"""),
        ),
    ),
    Header(
        "marks.csv",
        """Receipt No,Acct #,Paid Amount,Date Paid,IsVoid
        R1,5001,12.50,2026-11-13,N
        R2,5002,12.50,2026-11-14,Y
        R3,5002,10.00,2026-11-14,N""",
        {"transaction_id": "Receipt No", "patient": "Acct #", "amount": "Paid Amount", "posted_on": "Date Paid"},
        drafted=("""# where = '''coalesce("IsVoid", '') in ('', 'N')'''""",),
    ),
    Header(
        "insurer_only.csv",
        """Txn ID,MRN,Insurance Payment,Post Date
        T1,5001,12.50,2026-11-13
        T2,5002,12.50,2026-11-14""",
        {"transaction_id": "Txn ID", "patient": "MRN", "posted_on": "Post Date"},
        {"amount": "no column"},
    ),
    Header(
        "unknown_id.csv",
        """Ticket,MRN,Amount,Posted
        K-100,5001,12.50,2026-11-13
        K-101,5001,12.50,2026-11-13
        K-101,5001,12.50,2026-11-13""",  # the third line is the second one again
        {"patient": "MRN", "amount": "Amount", "posted_on": "Posted"},
        {"transaction_id": "Ticket"},
        ('# key = ["patient", "posted_on", "amount"]',),
    ),
    Header(
        "no_day.csv",
        """MRN,Amount,Clinic,Room
        5001,12.50,A,1
        5001,13.50,A,1""",
        {"patient": "MRN", "amount": "Amount"},
        {"transaction_id": "no column"},
    ),
    Header(
        "kontoauszug.csv",
        """Beleg-Nr;Receipt Nr;Patient Nr;Amount;Date Paid
        a;R1;5001;12,50;13.11.2026
        a;R2;5002;1.234,56;14.11.2026""",
        {"transaction_id": "Receipt Nr", "patient": "Patient Nr", "amount": "Amount", "posted_on": "Date Paid"},
        drafted=("\ndecimal_comma = true", 'delimiter = ";"', '\ndates = ["%d.%m.%Y"]'),
    ),
    Header(
        "cents.csv",
        """Payment ID,MRN,Amount,Date Paid
        P1,5001,1250,2026-11-13
        P2,5002,4000,2026-11-14""",
        {"transaction_id": "Payment ID", "patient": "MRN", "amount": "Amount", "posted_on": "Date Paid"},
        drafted=('amount_unit = "DECIDE',),
    ),
    Header(
        "euros.csv",
        """Payment ID,MRN,Amount,Currency,Date Paid
        P1,5001,12.50,EUR,2026-11-13
        P2,5002,40.00,USD,2026-11-14""",
        {
            "transaction_id": "Payment ID", "patient": "MRN", "amount": "Amount", "posted_on": "Date Paid",
            "currency": "Currency",
        },
    ),
]  # fmt: skip


def draft_of(folder: Path, header: Header) -> tuple[str, Path]:
    path = folder / header.name
    path.write_text("\n".join(line.strip() for line in header.lines.splitlines()) + "\n")
    output = folder / "draft.toml"
    return drafting.draft([path], None, output).text, output


@pytest.mark.parametrize("header", HEADERS, ids=lambda header: header.name)
def test_each_column_is_found_or_asked_for(tmp_path: Path, header: Header) -> None:
    text, output = draft_of(tmp_path, header)
    columns = tomllib.loads(text)["feeds"][0]["columns"]
    certain = {ours: name for ours, name in columns.items() if not name.startswith("DECIDE")}
    assert certain == header.found
    for ours, name in header.asked.items():
        question = re.search(rf"(?:^# .*\n)*^(?:# )?{ours} = .*$", text, re.MULTILINE)
        assert question, ours
        assert "DECIDE" in question[0]
        assert name in question[0]
    for line in header.drafted:
        assert line in re.sub(r"\n# (?!DECIDE|[\w\"]+ = )", " ", text), line
    (feed,) = load_to_check(output, environment={})[0].feeds
    assert set(certain.items()) <= set(feed.columns.items())


@pytest.mark.parametrize("header", HEADERS, ids=lambda header: header.name)
def test_no_cell_is_in_a_draft_but_codes(tmp_path: Path, header: Header) -> None:
    text, _ = draft_of(tmp_path, header)
    for cell in (
        "5001",
        "5002",
        "7700",
        "Sample",
        "Gold",
        "@example",
        "1980",
        "ch_1",
        "TX",
        "R1",
        "K-10",
        "2026-0",
    ):
        assert cell not in text, cell


@pytest.mark.parametrize("header", HEADERS, ids=lambda header: header.name)
def test_money_is_not_sent_before_a_person_has_decided(tmp_path: Path, header: Header) -> None:
    """Where a status, a refund, an insurer or the id of payments is in question, no job is made of the draft."""
    _, output = draft_of(tmp_path, header)
    asks = {"transaction_id", "amount", "entry_type"} & set(header.asked)
    if asks or any('= "DECIDE' in line or '["DECIDE' in line for line in header.drafted):
        with pytest.raises(ConfigError, match="still to be decided"):
            load(output, environment={})


# Names of files -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "name", "path"),
    [
        ("roster_20261101.csv", "roster", "roster_*.csv"),
        ("roster-2026-11-01.csv.gz", "roster", "roster-*.csv.gz"),
        ("roster_11012026_0230.csv", "roster", "roster_*.csv"),
        ("20261101_ledger.csv", "ledger", "*_ledger.csv"),
        ("payments 202611.csv", "payments", "payments *.csv"),
        ("payments_20261101T023000Z.csv", "payments", "payments_*.csv"),
        ("payments_0042.csv", "payments", "payments_0042.csv"),
        ("payments (2).csv", "payments", "payments (2).csv"),
        ("flat834.csv", "flat834", "flat834.csv"),
        ("834_flat.txt", "834_flat", "834_flat.txt"),
        ("batch_99999999.csv", "batch", "batch_99999999.csv"),
        ("a[1]_20261101.csv", "a_1", "a[[]1]_*.csv"),
        ("20261101.csv", "20261101", "20261101.csv"),
        ("+++.csv", "ledger", "+++.csv"),
    ],
)
def test_a_feed_is_named_without_dates_and_numbers(file: str, name: str, path: str) -> None:
    assert names.feed_name(Path(file), "ledger") == name
    assert names.feed_path([Path(file)]) == (path, path != file)


# Lines that are no rows ---------------------------------------------------------------------------

ROWS = "TXN,MRN,Amount,Posted\nT1,5001,12.50,2026-11-13\nT2,5002,7.00,2026-11-14\n"


@pytest.mark.parametrize(
    ("text", "drafted"),
    [
        (ROWS, {}),
        ("Sample Clinic - Patient Payments\n" + ROWS, {"skip_lines": 1}),
        ("Sample Clinic,,,\n11/1/2026 - 11/5/2026,,,\n,,,\n" + ROWS, {"skip_lines": 3}),
        ("sep=,\n" + ROWS, {"skip_lines": 1}),
        (ROWS + "\n", {"blank_lines": "skip"}),
        (ROWS + ",,,\n", {"blank_lines": "skip"}),
        (ROWS + "Total: 19.50\n", {"skip_footer": 1}),
        (ROWS + "Total,,19.50,\n", {"skip_footer": 1}),
        (ROWS + "\nTotal,,19.50,\n2 payments\n\n", {"skip_footer": 3, "blank_lines": "skip"}),
        (ROWS.replace("\n", "\r\n") + "Total,,19.50,\r\n", {"skip_footer": 1}),
        (ROWS + ROWS, {}),  # the header again is a rejected row, and no days or amounts
        (ROWS.replace(",", ";"), {"delimiter": ";"}),
        (ROWS.replace(",Posted", ",Posted,,").replace("-13", "-13,,").replace("-14", "-14,,"), {}),
    ],
)
def test_lines_that_are_no_rows_are_left_out(
    tmp_path: Path, text: str, drafted: dict[str, object]
) -> None:
    (tmp_path / "in.csv").write_bytes(text.encode())
    found = drafting.draft([tmp_path / "in.csv"]).text
    feed = tomllib.loads(found)["feeds"][0]
    reading = ("skip_lines", "skip_footer", "blank_lines")
    assert {name: feed[name] for name in reading if name in feed} == {
        name: value for name, value in drafted.items() if name != "delimiter"
    }
    assert feed["delimiter"] == drafted.get("delimiter", ",")
    assert feed["dates"] == ["%Y-%m-%d"]
    assert feed["columns"]["transaction_id"] == "TXN"


def test_a_row_that_was_cut_short_is_no_footer(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text(ROWS + "T3,5003,1")
    with pytest.raises(InputError, match="cut short"):
        drafting.draft([tmp_path / "in.csv"])


def test_the_end_of_a_long_file_is_looked_at(tmp_path: Path) -> None:
    rows = "".join(f"T{n},5001,12.50,2026-11-13\n" for n in range(30_000))
    (tmp_path / "in.csv").write_text(f"Sample Clinic\nTXN,MRN,Amount,Posted\n{rows}Total,,1.00,\n")
    feed = tomllib.loads(drafting.draft([tmp_path / "in.csv"]).text)["feeds"][0]
    assert (feed["skip_lines"], feed["skip_footer"]) == (1, 1)


# Several files ------------------------------------------------------------------------------------

LEDGER = "TXN,MRN,Amount,Posted\n"
ROSTER = "MRN,Member ID,Rel,Payer ID,Order,Eff Date,Term Date\n"


def test_several_files_are_one_configuration(tmp_path: Path) -> None:
    for day in (12, 13):
        rows = f"T{day},5001,12.50,2026-11-{day}\n"
        (tmp_path / f"ledger_202611{day}.csv").write_text(LEDGER + rows)
    (tmp_path / "roster.csv").write_text(ROSTER + "5001,W1,self,60054,1,2026-01-31,\n")
    (tmp_path / "ledger.csv").write_text("Payment ID,MRN,Amount,Posted\nT1,5001,1.50,2026-11-13\n")
    files = ["ledger_20261112.csv", "ledger_20261113.csv", "roster.csv", "ledger.csv"]
    drafted = drafting.draft([tmp_path / name for name in files], None, tmp_path / "draft.toml")
    feeds = tomllib.loads(drafted.text)["feeds"]
    assert [(feed["name"], feed["path"]) for feed in feeds] == [
        ("roster", "roster.csv"),
        ("ledger", "ledger_*.csv"),
        ("ledger_2", "ledger.csv"),
    ]
    assert drafted.text.count("[references.patient]") == 1
    assert drafted.text.count("[references.payer]") == 1
    assert any(line.startswith("roster: end_on") for line in drafted.undecided) is False
    assert load_to_check(tmp_path / "draft.toml", environment={})[0].feeds[1].name == "ledger"


# The drafted choices ------------------------------------------------------------------------------

CARDS = """id,Created date (UTC),Amount,Amount Refunded,Currency,Status,Captured,mrn (metadata)
ch_1a,2026-11-13 10:00:11,40.00,0.00,usd,Paid,true,{0}
ch_2a,2026-11-14 10:00:11,41.00,41.00,usd,Refunded,true,{1}
ch_3a,2026-11-15 10:00:11,42.00,0.00,usd,Failed,false,{2}
ch_4a,2026-11-15 10:00:11,"1,043.00",15.00,usd,Paid,true,{3}
ch_5a,2026-11-15 10:00:11,44.00,44.00,usd,Paid,true,{4}
"""


async def test_the_drafted_condition_and_amount_load_what_was_paid(make_world: MakeWorld) -> None:
    world = await make_world()
    (world.folder / "cards.csv").write_text(CARDS.format(*map(patient_key, range(5))))
    output = world.folder / "draft.toml"
    drafting.draft([world.folder / "cards.csv"], None, output)
    lines = output.read_text().splitlines()
    chosen = [line for line in lines if not re.match(r"(?:where|amount) = .DECIDE", line)]
    text = re.sub(r"^# (where = |amount = \{)", r"\1", "\n".join(chosen), flags=re.MULTILINE)
    text = text.replace("https://fumage-example.canvasmedical.com", world.url)
    text = text.replace("https://example.canvasmedical.com/auth", f"{world.url}/auth")
    output.write_text(text.replace("DECIDE: ", ""))
    result = await engine.plan(load(output, environment=CREDENTIALS))
    counts = result.summary["feeds"][0]["dispositions"]
    assert (counts["pending"], counts["filtered"], counts["rejected"]) == (2, 3, 0)
    assert result.frame.filter(pl.col("disposition") == "pending")["amount_usd"].to_list() == [
        Decimal("40.00"),
        Decimal("1028.00"),
    ]
