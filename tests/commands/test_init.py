"""`init`: headers of real exports, with synthetic rows, become drafts that load, check and plan."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.app.config.load import load, load_tests, load_to_check
from pipeline.commands import check as doctor
from pipeline.commands import init as drafting
from pipeline.commands import run as engine
from pipeline.commands.checks.context import State
from pipeline.commands.mapping_tests import run_tests
from pipeline.errors import ConfigError, InputError
from pipeline.rows.dates import fitting
from pipeline.rows.feed import TRAITS, Kind
from pipeline.rows.synonyms import SYNONYMS, kind_of, matches
from pipeline.sandbox import Sandbox, serve
from tests.support.world import CREDENTIALS, MakeWorld, patient_key, seed

ROOT = Path(__file__).parents[2]
SYNTHEA = ROOT / "tests" / "rows" / "synthea"


@dataclass(frozen=True)
class Export:
    """An export as such systems write it: its name, its text, and what the draft is to map."""

    name: str
    kind: str
    columns: dict[str, str]
    header: str
    rows: tuple[str, ...]

    def write(self, folder: Path) -> Path:
        path = folder / self.name
        path.write_text("\n".join([self.header, *self.rows]) + "\n")
        return path


def key(number: int) -> str:
    return patient_key(number)


EXPORTS = [
    Export(
        "template.csv",
        "eligibility",
        {
            "patient": "Patient Identifier",
            "subscriber": "Subscriber",
            "member_id": "Member ID",
            "relationship": "Relationship to Subscriber",
            "start_on": "Coverage Start Date",
            "payer": "Payor ID",
            "order": "Order",
            "group": "Group Number",
            "plan": "Plan Name",
            "type": "Type",
        },
        "ID|Patient Identifier|Type|Subscriber|Member ID|Relationship to Subscriber|Coverage Start Date|Payor ID|Order|Group Number|Plan Name",
        tuple(
            f"{n}|{key(n)}|PPO|{key(n)}|W{n}|self|0{n % 9 + 1}/21/2026|60054|1|G1|Gold"
            for n in range(12)
        ),
    ),
    Export(
        "tuva_eligibility.csv",
        "eligibility",
        {
            "patient": "person_id",
            "member_id": "member_id",
            "subscriber_id": "subscriber_id",
            "relationship": "subscriber_relation",
            "payer": "payer",
            "plan": "plan",
            "start_on": "enrollment_start_date",
            "end_on": "enrollment_end_date",
            "group": "group_id",
        },
        "person_id,member_id,subscriber_id,gender,birth_date,enrollment_start_date,enrollment_end_date,payer,payer_type,plan,dual_status_code,medicare_status_code,subscriber_relation,group_id,group_name,data_source",
        tuple(
            f"{key(n)},M{n},S{n},female,1980-01-02,2026-01-01,2026-12-31,60054,commercial,Gold,,,self,G{n},Sample,made"
            for n in range(12)
        ),
    ),
    Export(
        "834_flat.txt",
        "eligibility",
        {
            "patient": "Account Number",
            "member_id": "Member ID",
            "subscriber_id": "Subscriber Number",
            "relationship": "Individual Relationship Code",
            "payer": "Payer ID",
            "order": "COB Priority",
            "group": "Group or Policy Number",
            "start_on": "Benefit Begin Date",
            "end_on": "Benefit End Date",
            "plan": "Plan Coverage Description",
        },
        "Account Number|Member ID|Subscriber Number|Maintenance Type Code|Individual Relationship Code|Payer ID|COB Priority|Group or Policy Number|Insurance Line Code|Plan Coverage Description|Benefit Begin Date|Benefit End Date",
        tuple(
            f"{key(n)}|M{n}|S{n}|030|18|60054|1|G{n}|HLT|Gold|20260{n % 9 + 1}21|"
            for n in range(12)
        ),
    ),
    Export(
        "kareo_patients.csv",
        "eligibility",
        {
            "patient": "Patient ID",
            "member_id": "Primary Insurance Policy Number",
            "relationship": "Primary Insurance Policy Patient Relationship To Insured",
            "payer": "Primary Insurance Policy Company Name",
            "plan": "Primary Insurance Policy Plan Name",
            "group": "Primary Insurance Policy Group Number",
            "start_on": "Primary Insurance Policy Effective Start Date",
            "end_on": "Primary Insurance Policy Effective End Date",
        },
        "Patient ID,Patient Full Name,Primary Insurance Policy Company Name,Primary Insurance Policy Plan Name,Primary Insurance Policy Number,Primary Insurance Policy Group Number,Primary Insurance Policy Patient Relationship To Insured,Primary Insurance Policy Effective Start Date,Primary Insurance Policy Effective End Date,Secondary Insurance Policy Company Name,Secondary Insurance Policy Number",
        tuple(
            f"{key(n)},Sample Person,60054,Gold,W{n},G1,Self,1/{n + 13}/2026,,," for n in range(12)
        ),
    ),
    Export(
        "athena_insurance.csv",
        "eligibility",
        {
            "patient": "PATIENTID",
            "member_id": "INSURANCEIDNUMBER",
            "payer": "INSURANCEPACKAGEID",
            "relationship": "RELATIONSHIPTOINSURED",
            "order": "SEQUENCENUMBER",
            "plan": "INSURANCEPLANNAME",
            "start_on": "EFFECTIVEDATE",
            "end_on": "EXPIRATIONDATE",
        },
        "PATIENTID,INSURANCEIDNUMBER,INSURANCEPACKAGEID,INSURANCEPLANNAME,SEQUENCENUMBER,RELATIONSHIPTOINSURED,EFFECTIVEDATE,EXPIRATIONDATE,POLICYNUMBER,INSURANCEPOLICYHOLDER",
        tuple(
            f"{key(n)},W{n},60054,Gold,1,Self,01/{n + 13}/2026,,G1,Sample Person" for n in range(12)
        ),
    ),
    Export(
        "advancedmd_payments.csv",
        "ledger",
        {
            "transaction_id": "Payment ID",
            "patient": "Patient Chart #"[:7] + " Account No",
            "amount": "Payment Amount",
            "posted_on": "Posting Date",
            "entry_type": "Payment Code",
        },
        "Payment ID,Patient Account No,Posting Date,Payment Code,Payment Amount,Check Number",
        tuple(f"P{n},{key(n)},01/{n + 13}/2026,PATIENT PAYMENT,{n + 1}.50,77" for n in range(12)),
    ),
    Export(
        "ecw_ledger.csv",
        "ledger",
        {"patient": "Acct No", "amount": "Amount", "posted_on": "Date", "entry_type": "Type"},
        "Acct No,Date,Type,Amount,Claim No,Description",
        tuple(
            f"{key(n % 6)},2026-01-{n + 10},{kind},{amount},C{n},made"
            for n in range(12)
            for kind, amount in [("PMT", f"-{n + 1}.00"), ("CHG", "100.00")]
        ),
    ),
    Export(
        "officeemr_payments.tsv",
        "ledger",
        {
            "patient": "MRN",
            "amount": "Paid_Amount",
            "posted_on": "Dep_Post_date",
            "entry_type": "Payment_Type",
        },
        "MRN\tDep_Date\tDep_Post_date\tPaid_Amount\tPayment_Method\tPayment_Type\tClaim_Number",
        tuple(
            f"{key(n)}\t01/{n + 13}/2026\t01/{n + 13}/2026 10:0{n % 9}:00\t{n + 1}.25\tCredit Card\tCoPay\tC{n}"
            for n in range(12)
        ),
    ),
]


def decided(path: Path) -> Path:
    """The draft after a person agreed to all of it."""
    path.write_text(path.read_text().replace("DECIDE: ", ""))
    return path


def at(path: Path, url: str) -> Path:
    """The draft with the address decided."""
    text = path.read_text()
    text = text.replace('https://fumage-example.canvasmedical.com"', f'{url}"')
    path.write_text(text.replace("https://example.canvasmedical.com/auth", f"{url}/auth"))
    return path


@pytest.mark.parametrize("export", EXPORTS, ids=lambda export: export.name)
async def test_a_real_header_becomes_a_draft_that_loads_checks_and_plans(
    make_world: MakeWorld, export: Export
) -> None:
    world = await make_world()
    file, output = export.write(world.folder), world.folder / "draft.toml"
    drafted = drafting.draft([file], None, output)
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    (feed,) = load(output, environment={}).feeds
    assert (feed.kind, dict(feed.columns)) == (export.kind, export.columns)
    for text in ("Sample Person", key(3), "W3", "made", "1980"):
        assert text not in drafted.text, "no value goes into the draft but codes"

    left = await doctor.check(load(output, environment=CREDENTIALS))
    assert any("still to be decided" in check.message for check in left)

    job = load(at(decided(output), world.url), environment=CREDENTIALS)
    wrong = [check for check in await doctor.check(job) if check.state is State.WRONG]
    assert not wrong
    planned = await engine.plan(job)
    assert planned.exit_code == 0
    counts = planned.summary["feeds"][0]["dispositions"]
    assert counts["pending"] == 12
    assert counts["rejected"] == 0


@pytest.mark.parametrize("export", EXPORTS, ids=lambda export: export.name)
def test_the_example_of_a_test_in_a_draft_passes_once_it_is_uncommented(
    tmp_path: Path, export: Export
) -> None:
    output = tmp_path / "draft.toml"
    drafting.draft([export.write(tmp_path)], None, output)
    text = decided(output).read_text()
    output.write_text(
        re.sub(r"^# (\[\[tests\]\]|feed = |row = |expect = )", r"\1", text, flags=re.MULTILINE)
    )
    (outcome,) = run_tests(load_tests(output))
    assert outcome.differences == ()
    assert len(outcome.test.row) >= 3, "it is a row of the file"


def test_a_draft_has_no_example_that_would_not_pass(tmp_path: Path) -> None:
    """The column of the amount is still to be decided."""
    export = EXPORTS[-1]
    path = tmp_path / export.name
    header = export.header.replace("Paid_Amount", "Whatever")
    path.write_text("\n".join([header, *export.rows]) + "\n")
    output = tmp_path / "draft.toml"
    drafting.draft([path], "ledger", output)
    assert "[[tests]]" not in output.read_text()


async def test_synthea_as_it_is_published(make_world: MakeWorld) -> None:
    world = await make_world()
    for name, kind in (("payer_transitions", "eligibility"), ("claims_transactions", "ledger")):
        shutil.copyfile(SYNTHEA / f"{name}.csv", world.folder / f"{name}.csv")
        output = world.folder / f"{name}.toml"
        drafted = drafting.draft([world.folder / f"{name}.csv"], None, output)
        (feed,) = load_to_check(output, environment={})[0].feeds
        assert feed.kind == kind
        assert drafted.undecided
    assert feed.columns["amount"] == "PAYMENTS"
    assert feed.only == {"entry_type": ("PAYMENT",)}
    transitions = (world.folder / "payer_transitions.toml").read_text()
    assert 'dates = ["%Y-%m-%dT%H:%M:%SZ"]' in transitions
    assert '# "Guardian" = ""' in transitions
    assert "Mosciski" not in transitions


# Parts --------------------------------------------------------------------------------------------


def drafted_from(folder: Path, header: str, rows: Sequence[str], kind: str | None = None) -> str:
    path = folder / "in.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return drafting.draft([path], kind).text


ELIGIBILITY = "MRN,Member ID,Rel,Payer ID,Order,Eff Date,Term Date"


def test_a_format_that_one_column_settles_is_taken_for_the_other(tmp_path: Path) -> None:
    rows = ["1,M,18,60054,1,01/02/2026,12/31/2026", "2,M,18,60054,1,03/04/2026,11/30/2026"]
    assert 'dates = ["%m/%d/%Y"]' in drafted_from(tmp_path, ELIGIBILITY, rows)


def test_days_and_months_that_could_be_either_are_left_to_decide(tmp_path: Path) -> None:
    text = drafted_from(tmp_path, ELIGIBILITY, ["1,M,18,60054,1,01/02/2026,"])
    assert 'DECIDE: "%m/%d/%Y" and "%d/%m/%Y" read all of "Eff Date"' in text
    assert "dates" not in tomllib.loads(text)["feeds"][0]


def test_a_format_is_taken_only_if_it_reads_all(tmp_path: Path) -> None:
    rows = ["1,M,18,60054,1,2026-01-31,", "2,M,18,60054,1,2026-00-00,"]
    text = drafted_from(tmp_path, ELIGIBILITY, rows)
    assert 'DECIDE: no format reads all of "Eff Date"; "%Y-%m-%d" reads 1 of 2' in text


def test_codes_are_mapped_where_their_meaning_is_sure(tmp_path: Path) -> None:
    rows = [
        f"{n},M,{code},60054,1,2026-01-31," for n, code in enumerate(["18", "01", "53", "self"])
    ]
    text = drafted_from(tmp_path, ELIGIBILITY, rows)
    assert tomllib.loads(text)["feeds"][0]["codes"] == {
        "relationship": {"18": "self", "01": "spouse"}
    }
    assert '# "53" = ""' in text


def test_a_required_field_without_a_column_keeps_the_draft_from_running(tmp_path: Path) -> None:
    text = drafted_from(
        tmp_path, "MRN,Rel,Payer ID,Order,Eff Date,Policyhldr", ["1,18,60054,1,2026-01-31,x"]
    )
    assert tomllib.loads(text)["feeds"][0]["columns"]["member_id"].startswith("DECIDE")


def test_a_column_is_suggested_by_its_values_where_its_name_says_nothing(tmp_path: Path) -> None:
    rows = [f"{n},M,{code},60054,1,2026-01-31" for n, code in enumerate(["Self", "Child", "Dep"])]
    text = drafted_from(tmp_path, "MRN,Member ID,Xyz,Payer ID,Order,Eff Date", rows)
    assert 'DECIDE: perhaps "Xyz", by its values' in text


def test_negative_payments_and_a_missing_id(tmp_path: Path) -> None:
    rows = ["1,2026-01-31,PMT,-5.00", "1,2026-01-31,PMT,-5.00", "1,2026-01-31,CHG,7.00"]
    text = drafted_from(tmp_path, "MRN,Date,Type,Amount", rows)
    feed = tomllib.loads(text)["feeds"][0]
    assert feed["amount_sign"] == "negative"
    assert feed["key"] == ["patient", "posted_on", "amount"]
    assert "repeats" not in feed, "only a person knows what a delivery holds"
    assert re.search(r'^# DECIDE: .+\n(# .+\n)?# repeats = "count"$', text, re.MULTILINE)
    assert re.search(r'^# DECIDE: .+\n(# .+\n)?# delivery = "full"$', text, re.MULTILINE)
    assert feed["only"] == {"entry_type": ["PMT"]}


def test_an_id_that_is_not_different_in_each_row_is_no_id(tmp_path: Path) -> None:
    rows = ["T1,1,2026-01-31,5.00", "T1,1,2026-01-31,6.00"]
    text = drafted_from(tmp_path, "Transaction ID,MRN,Date,Amount", rows)
    assert "transaction_id" not in tomllib.loads(text)["feeds"][0]["columns"]
    assert '# transaction_id = "Transaction ID"' in text


@pytest.mark.parametrize(
    ("name", "content", "allowed"),
    [
        (
            "windows.csv",
            f"{ELIGIBILITY},Plan Name\n1,M,18,60054,1,2026-01-31,,Sant\u00e9\n".encode("cp1252"),
            'encoding = "windows-1252"',
        ),
        (
            "utf16.csv",
            f"{ELIGIBILITY}\n1,M,18,60054,1,2026-01-31,\n".encode("utf-16"),
            'encoding = "utf-16"',
        ),
        (
            "torn.csv",
            f"{ELIGIBILITY}\n1,M,18,60054,1,2026-01-31,".encode(),
            'final_newline = "any"',
        ),
        (
            "semi.csv",
            f"{ELIGIBILITY}\n1,M,18,60054,1,2026-01-31,\n".replace(",", ";").encode(),
            'delimiter = ";"',
        ),
    ],
)
def test_how_a_file_is_written_is_found(
    tmp_path: Path, name: str, content: bytes, allowed: str
) -> None:
    (tmp_path / name).write_bytes(content)
    assert allowed in drafting.draft([tmp_path / name]).text


def test_parquet_and_packed_text(tmp_path: Path) -> None:
    import gzip  # noqa: PLC0415

    frame = pl.DataFrame({"MRN": ["1"], "TXN": ["T"], "Amount": ["1.00"], "Posted": ["2026-01-31"]})
    frame.write_parquet(tmp_path / "ledger.parquet")
    assert "delimiter" not in drafting.draft([tmp_path / "ledger.parquet"]).text
    (tmp_path / "ledger.csv.gz").write_bytes(gzip.compress(frame.write_csv().encode()))
    assert 'name = "ledger"' in drafting.draft([tmp_path / "ledger.csv.gz"]).text


def test_what_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text("1,Sample Person,2026-01-31\n2,Sample Person,2026-01-31\n")
    with pytest.raises(InputError, match="seems to be a row"):
        drafting.draft([path], "ledger")
    path.write_text("alpha,beta\nx,y\n")
    with pytest.raises(ConfigError, match="do not tell what it holds"):
        drafting.draft([path])
    assert drafting.draft([path], "ledger").undecided
    with pytest.raises(InputError, match="no such file"):
        drafting.draft([tmp_path / "nowhere.csv"])
    (tmp_path / "there.toml").write_text("mine")
    with pytest.raises(ConfigError, match="is there already"):
        drafting.draft([path], "ledger", tmp_path / "there.toml")
    assert (tmp_path / "there.toml").read_text() == "mine"


@pytest.mark.parametrize(
    ("texts", "forms"),
    [
        (["2026-01-31"], ["%Y-%m-%d"]),
        (["01/31/2026", "02/01/2026"], ["%m/%d/%Y"]),
        (["01/02/2026"], ["%m/%d/%Y", "%d/%m/%Y"]),
        (["02/02/2026"], ["%m/%d/%Y"]),  # either way the same day
        (["2026-01-31T00:00:00Z"], ["%Y-%m-%dT%H:%M:%SZ"]),
        (["31-Jan-2026"], ["%d-%b-%Y"]),
        (["1/31/2026 12:00:00 AM"], ["%m/%d/%Y %I:%M:%S %p"]),
        (["2026-01-31", "soon"], []),
        ([], []),
    ],
)
def test_formats_that_fit(texts: list[str], forms: list[str]) -> None:
    assert fitting(texts) == forms


@st.composite
def headers(draw: st.DrawFn) -> tuple[Kind, list[str]]:
    """Names that are known, one or more a field, in any order, spelling and company."""
    kind = draw(st.sampled_from(list(Kind)))
    names = [name.strip(" ?") for names in SYNONYMS[kind].values() for name in names.split("|")]
    chosen = draw(st.lists(st.sampled_from(names), min_size=1, max_size=14, unique=True))
    spell = draw(st.sampled_from([str.title, str.upper, lambda text: text.replace(" ", "_")]))
    odd = draw(
        st.lists(st.sampled_from(['Odd "quoted"', "Ünï", "a=b]", "#", "back\\slash"]), unique=True)
    )
    spelt = [spell(name) for name in chosen] + odd
    return kind, draw(st.permutations(list(dict.fromkeys(spelt))))


@settings(max_examples=60, deadline=None)
@given(headers())
def test_for_any_header_of_known_names_the_draft_loads(
    tmp_path_factory: pytest.TempPathFactory, made: tuple[Kind, list[str]]
) -> None:
    kind, header = made
    folder = tmp_path_factory.mktemp("init")
    frame = pl.DataFrame({name: ["x", "y"] for name in header})
    frame.write_csv(folder / "in.csv")
    drafting.draft([folder / "in.csv"], kind.value, folder / "draft.toml")
    (feed,) = load_to_check(folder / "draft.toml", environment={})[0].feeds
    given_ = {**feed.columns, **feed.constants}
    numbered = {"order"} if feed.order_from == "sequence" else set[str]()
    assert set(TRAITS[kind].required) <= {*given_, *numbered}
    assert not numbered & given_.keys()
    columns = [name for name in feed.columns.values() if not name.startswith("DECIDE")]
    assert len(columns) == len(set(columns)), "no column for two fields"
    assert set(columns) <= set(header)


def test_each_known_name_is_found_and_is_sure_unless_it_is_doubtful() -> None:
    """For its field, or for one that comes before it and has the name as well."""
    for kind, fields in SYNONYMS.items():
        order = list(fields)
        for field, names in fields.items():
            for name in names.split("|"):
                found = matches([name.strip(" ?")], kind)
                sure = [each for each, match in found.items() if match.is_sure]
                told = f"{kind}: {name} of {field}: {found}"
                assert field in found or (sure and order.index(sure[0]) < order.index(field)), told
                assert len(sure) <= 1, told
                assert sure or name.strip().endswith("?"), told


def test_the_kind_is_told_by_names_that_only_one_has() -> None:
    assert kind_of(["MRN", "Member ID", "Payer ID", "Type"]) is Kind.ELIGIBILITY
    assert kind_of(["MRN", "Amount", "Posted", "Type"]) is Kind.LEDGER
    assert kind_of(["MRN", "Type"]) is None


# The template and the command ---------------------------------------------------------------------

TEMPLATE = EXPORTS[0].header


@pytest.mark.slow
@pytest.mark.parametrize("delimiter", ["|", ","])
async def test_canvas_own_template_works_with_its_configuration(
    tmp_path: Path, delimiter: str
) -> None:
    folder = tmp_path / "migration"
    folder.mkdir()
    rows = [
        f"{n}|old-{n}|PPO|{'' if n % 2 else f'old-{n}'}|W{n}|self|{day}|Sample Plan|{order}|G1|Gold"
        for n in range(10)
        for day in [f"01/{n + 13}/2026" if n % 3 else "2026-01-01"]
        for order in ["" if n == 4 else "1"]
    ]
    rows.append("10|old-1||old-99|W10|spouse|01/01/2026|Sample Plan|2||")
    text = "\n".join([TEMPLATE, *rows]) + "\n"
    (folder / "coverages.csv").write_text(text.replace("|", delimiter))
    pairs = {"id": [f"old-{n}" for n in range(10)], "key": [patient_key(n) for n in range(10)]}
    pl.DataFrame(pairs).write_csv(folder / "patient_id_map.csv")
    pl.DataFrame({"id": ["Sample Plan"], "key": ["60054"]}).write_csv(folder / "payor_map.csv")
    path = tmp_path / "template.toml"
    shutil.copyfile(ROOT / "configs" / "canvas-migration-template.toml", path)
    sandbox = Sandbox(seed(10))
    async with serve(sandbox) as url:
        overrides = {
            "canvas": {"base_url": url, "token_url": f"{url}/auth/token/"},
            "limits": {"rejects_max": "50%"},
        }
        job = load(path, environment=CREDENTIALS, overrides=overrides)
        first = await engine.run(job)
        rejects = (first.folder / "rejects-coverages.csv").read_text()
        mended = tmp_path / "mended.csv"
        mended.write_text(
            rejects.replace(
                f"Sample Plan{delimiter}{delimiter}G1", f"Sample Plan{delimiter}1{delimiter}G1"
            )
        )
        job = load(path, environment=CREDENTIALS, overrides=overrides, inputs={"coverages": mended})
        second = await engine.run(job)
    (feed,) = first.summary["feeds"]
    assert (feed["dispositions"]["created"], feed["dispositions"]["rejected"]) == (9, 2)
    assert feed["rules"] == {"order|required": 1, "subscriber|unknown": 1}
    assert second.summary["feeds"][0]["dispositions"]["created"] == 1
    assert len(sandbox.account()["effects"]) == 10


def canvas_ingest(*arguments: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_the_command_writes_once_and_says_what_is_left(tmp_path: Path) -> None:
    EXPORTS[1].write(tmp_path)
    told = canvas_ingest("init", "tuva_eligibility.csv", folder=tmp_path)
    assert told.returncode == 0, told.stderr
    assert told.stdout.splitlines()[-1] == "  canvas-ingest check tuva_eligibility.toml"
    assert "order_from: no column says which insurer pays first" in told.stdout
    assert stat.S_IMODE((tmp_path / "tuva_eligibility.toml").stat().st_mode) == 0o600
    again = canvas_ingest("init", "tuva_eligibility.csv", folder=tmp_path)
    assert (again.returncode, again.stdout) == (2, "")
    assert "is there already" in again.stderr
    out = canvas_ingest("init", "tuva_eligibility.csv", "--output", "-", folder=tmp_path)
    assert tomllib.loads(out.stdout)["feeds"][0]["kind"] == "eligibility"
    assert "To decide" in out.stderr


def test_check_lists_what_is_left_by_line_and_plan_refuses_open_values(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("TXN,MRN,Gross,Net\nT1,1,5.00,4.00\n")
    (tmp_path / "other.csv").write_text("MRN,Rel,Member ID,Payer ID\n1,self,M1,60054\n")
    made = canvas_ingest("init", "in.csv", "other.csv", folder=tmp_path)
    assert made.returncode == 0, made.stderr
    lines = (tmp_path / "in.toml").read_text().splitlines()
    marked = [number for number, line in enumerate(lines, 1) if "DECIDE" in line]
    shown = canvas_ingest("check", "in.toml", "--json", folder=tmp_path)
    assert shown.returncode == 1
    found = [
        int(check["what"].removeprefix("line "))
        for check in json.loads(shown.stdout)["checks"]
        if check["what"].startswith("line ")
    ]
    assert found == marked
    refused = canvas_ingest("plan", "in.toml", folder=tmp_path)
    assert refused.returncode == 2
    assert 'amount: perhaps "Gross" or "Net"' in refused.stderr


# X12 834 ------------------------------------------------------------------------------------------


def test_a_draft_from_an_834_asks_only_for_what_the_sender_must_say(tmp_path: Path) -> None:
    shutil.copy(ROOT / "sample_data" / "enrollments_full.834", tmp_path / "roster_20261128.834")
    drafted = drafting.draft([tmp_path / "roster_20261128.834"], output=tmp_path / "draft.toml")
    (feed,) = tomllib.loads(drafted.text)["feeds"]
    assert (feed["format"], feed["path"], feed["kind"]) == ("834", "roster_*.834", "eligibility")
    assert feed["key"] == ["patient", "payer", "member_id", "type", "start_on"]
    assert feed["columns"] == {
        "patient": "DECIDE: patient",
        "relationship": "relationship_code",
        "member_id": "subscriber_number",
        "payer": "payer_id",
        "payer_name": "payer_name",
        "type": "insurance_line",
        "plan": "plan",
        "group": "group_number",
        "start_on": "start",
        "end_on": "end",
        "subscriber_id": "subscriber_number",
    }
    assert feed["order_from"] == "sequence"
    assert tomllib.loads(drafted.text)["references"]["subscriber"] == {"how": "row"}
    assert feed["codes"]["relationship"] == {"18": "self", "01": "spouse", "19": "child"}
    assert feed["codes"]["type"] == {"DEN": "DENTAL"}
    assert (
        "# order = { sql = \"\"\"case \"insurance_line\" when 'HLT' then '1' when 'DEN' then '2'"
        in drafted.text
    )
    assert '# "HLT" = ""' in drafted.text
    asked = " ".join(drafted.undecided)
    assert all(word in asked for word in ("patient", "order_from", "codes.type"))
    assert not re.search(r"000\d{6}", drafted.text)


# Rosters ------------------------------------------------------------------------------------------

ROSTER = """MRN,Member ID,Subscriber ID,Person Code,Rel,Payer ID,Eff Date,Term Date
1,W1-01,F1,1,self,60054,2026-01-13,
2,W1-02,F1,2,spouse,60054,2026-01-14,
3,W2-01,F2,1,self,60054,2026-01-15,
"""


def test_a_draft_of_a_roster_finds_subscribers_by_rows_and_numbers_coverages(
    tmp_path: Path,
) -> None:
    """The code of a person in a family is no order of the patient's coverages."""
    (tmp_path / "roster.csv").write_text(ROSTER)
    drafted = drafting.draft([tmp_path / "roster.csv"], output=tmp_path / "draft.toml")
    found = tomllib.loads(drafted.text)
    (feed,) = found["feeds"]
    assert found["references"]["subscriber"] == {"how": "row"}
    assert feed["columns"]["subscriber_id"] == "Subscriber ID"
    assert feed["order_from"] == "sequence"
    assert "order" not in {*feed["columns"], *feed.get("constants", {})}
    assert not re.search(r"^order = ", drafted.text, re.MULTILINE)
    assert "Is that right?" in " ".join(drafted.undecided)


def test_a_column_of_unknown_name_may_be_the_order(tmp_path: Path) -> None:
    (tmp_path / "roster.csv").write_text(ROSTER.replace("Person Code", "Place"))
    drafted = drafting.draft([tmp_path / "roster.csv"])
    assert '# order = "Place"' in drafted.text
    assert tomllib.loads(drafted.text)["feeds"][0]["order_from"] == "sequence"


def test_subscribers_are_found_by_rows_only_if_each_feed_can(tmp_path: Path) -> None:
    (tmp_path / "roster.csv").write_text(ROSTER)
    (tmp_path / "other.csv").write_text("MRN,Rel,Member ID,Payer ID,Order\n1,self,M1,60054,1\n")
    drafted = drafting.draft([tmp_path / "roster.csv", tmp_path / "other.csv"])
    assert "subscriber" not in tomllib.loads(drafted.text)["references"]
