"""`canvas-ingest test`: the rows of [[tests]] are mapped as a run maps them, and nothing else is needed."""

import json
import re
import stat
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import orjson
import pytest

from pipeline.app.config.load import load, load_tests
from pipeline.commands import run as engine
from pipeline.commands.mapping_tests import Outcome, as_json, run_tests
from pipeline.errors import ConfigError
from pipeline.planning.plan import Plan
from pipeline.reporting.mapping_tests import junit, outcomes_text
from tests.support.world import CREDENTIALS, FEEDS, LEDGER_ONLY, MakeWorld, patient_key

ROOT = Path(__file__).parents[2]
CANVAS = '[canvas]\nbase_url = "https://fumage-example.canvasmedical.com"\n'
NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
PAYMENT = '{ TXN = "T1", MRN = "1001", Amount = "12.50" }'
MEMBER = '{ MRN = "1001", Member = "W1", Rel = "self", Payer = "60054", Order = "1", Start = "2026-01-31" }'


def section(feed: str, row: str, expect: str, more: str = "") -> str:
    return f'[[tests]]\nfeed = "{feed}"\nrow = {row}\nexpect = {expect}\n{more}\n'


def write(folder: Path, *tests: str, feeds: str = FEEDS, more: str = "") -> Path:
    path = folder / "nightly.toml"
    path.write_text("\n".join([CANVAS, more, feeds, *tests]))
    return path


def outcomes(
    folder: Path, *tests: str, feeds: str = FEEDS, more: str = ""
) -> list[tuple[str, ...]]:
    found = run_tests(load_tests(write(folder, *tests, feeds=feeds, more=more)), NOON)
    return [outcome.differences for outcome in found]


@pytest.mark.parametrize(
    ("feed", "row", "expect", "said"),
    [
        ("ledger", PAYMENT, "{ resource = { amount = { value = 12.5 } } }", ()),
        ("ledger", PAYMENT, "{ resource = { amount = { value = 12.50, currency = 'USD' } } }", ()),
        ("ledger", PAYMENT, "{ resource = { request = { reference = 'Patient/1001' } } }", ()),
        ("ledger", PAYMENT, "{ resource = {} }", ()),
        ("ledger", PAYMENT, "{ resource = { created = 2026-11-30 } }", ()),
        (
            "ledger",
            PAYMENT,
            "{ resource = { amount = { value = 12.51 }, status = 'x' } }",
            (
                "resource.amount.value: expected 12.51, got 12.5",
                'resource.status: expected "x", got "active"',
            ),
        ),
        (
            "ledger",
            PAYMENT,
            "{ resource = { period = { start = 2026-01-31 } } }",
            ('resource.period: expected {"start": "2026-01-31"}, and it is absent',),
        ),
        (
            "ledger",
            PAYMENT,
            "{ resource = { amount = 12.5 } }",
            ('resource.amount: expected 12.5, got {"value": 12.5, "currency": "USD"}',),
        ),
        ("ledger", PAYMENT.replace("12.50", "12.505"), '{ rule = "amount|decimals" }', ()),
        (
            "ledger",
            PAYMENT.replace("12.50", "0"),
            '{ rule = "amount|decimals" }',
            (
                (
                    'expected rejected by amount|decimals, got rejected by amount|range (amount (column "Amount"): '
                    "must be from 0.01 to 999,999.99 USD)"
                ),
            ),
        ),
        (
            "ledger",
            PAYMENT,
            '{ rule = "amount|range" }',
            ("expected rejected by amount|range, got a PaymentNotice",),
        ),
        (
            "ledger",
            PAYMENT,
            "{ filtered = true }",
            ("expected filtered, got a PaymentNotice",),
        ),
        ("ledger", '{ Amount = "12.50" }', '{ rule = "patient|required" }', ()),
        ("ledger", '{ Amount = "12.50" }', '{ rule = "transaction_id|required" }', ()),
        (
            "eligibility",
            MEMBER,
            "{ resource = { relationship = { coding = [{ code = 'self' }] }, order = 1 } }",
            (),
        ),
        (
            "eligibility",
            MEMBER,
            "{ resource = { payor = [{ identifier = { value = '60055' } }] } }",
            ('resource.payor[0].identifier.value: expected "60055", got "60054"',),
        ),
        (
            "eligibility",
            MEMBER,
            "{ resource = { relationship = { coding = [{}, {}] } } }",
            None,
        ),
    ],
)
def test_what_differs_is_shown_with_its_path(
    tmp_path: Path, feed: str, row: str, expect: str, said: tuple[str, ...] | None
) -> None:
    (found,) = outcomes(tmp_path, section(feed, row, expect))
    if said is None:
        assert re.fullmatch(r"resource\.relationship\.coding\[1\]: expected .*", found[0])
    else:
        assert found == said


def test_entries_of_a_longer_list_are_found_in_their_order(tmp_path: Path) -> None:
    feeds = FEEDS.replace('end_on = "End"', 'plan = "Plan"\ngroup = "Group"')
    row = MEMBER.replace("}", ', Plan = "Gold", Group = "G1" }')
    classes = ["{ value = 'Gold' }", "{ value = 'G1' }", "{ value = 'G2' }"]
    tests = [
        section("eligibility", row, f"{{ resource = {{ class = [{one}] }} }}") for one in classes
    ]
    found = outcomes(tmp_path, *tests, feeds=feeds)
    assert [len(each) for each in found] == [0, 0, 1]
    assert found[2][0].startswith('resource.class[0]: expected {"value": "G2"}, and the list is [')


def test_filtered_rows_name_what_filters_them(tmp_path: Path) -> None:
    feeds = LEDGER_ONLY.replace('claim = "Claim"', 'entry_type = "Type"').replace(
        "[feeds.columns]", 'where = "\\"Type\\" <> \'VOID\'"\n[feeds.columns]'
    )
    feeds += '[feeds.only]\nentry_type = ["PAYMENT"]\n'
    kinds = ("PAYMENT", "CHARGE", "VOID")
    rows = [PAYMENT.replace("}", f', Type = "{kind}" }}') for kind in kinds]
    found = outcomes(
        tmp_path, *(section("ledger", row, "{ resource = {} }") for row in rows), feeds=feeds
    )
    said = "expected a PaymentNotice, got filtered by where or [feeds.only]"
    assert found == [(), (said,), (said,)]
    assert outcomes(
        tmp_path, *(section("ledger", row, "{ filtered = true }") for row in rows[1:]), feeds=feeds
    ) == [(), ()]


# The same code as a run ---------------------------------------------------------------------------

LEDGER = [
    ("TXN", "MRN", "Amount", "Claim"),
    ("T1", patient_key(1), "$1,012.50", ""),
    ("T2", patient_key(1), "12.505", ""),
    ("T3", patient_key(2), "(3.00)", ""),
    ("", patient_key(2), "3.00", ""),
    ("T5", "NULL", "n/a", ""),
    ("T6", "no id", "5.00", f"f0dfefbe-3fe0-4ee7-bd44-{2:012x}"),
    ('="00123"', patient_key(3), ".50", f"f0dfefbe-3fe0-4ee7-bd44-{3:012x}"),
    (" T8 ", f" {patient_key(3)} ", "+12.5000", ""),
]
ELIGIBILITY = [
    ("MRN", "Member", "Rel", "Payer", "Order", "Start", "End"),
    (patient_key(1), "W1", "self", "60054", "1", "2026-01-31", ""),
    (patient_key(2), "W2", "SELF", "60054", "Primary", "", "9999-12-31"),
    (patient_key(3), "W3", "spouse", "60054", "2", "2026-01-31", ""),
    (patient_key(4), "", "cousin", "", "6", "2026-02-30", "2026-01-01"),
    (patient_key(5), "123456.0", "self", "9.01235E+11", "1", "2026-01-31", "2026-01-30"),
]


@pytest.mark.parametrize(("feed", "table"), [("ledger", LEDGER), ("eligibility", ELIGIBILITY)])
async def test_a_row_becomes_what_a_run_makes_of_it(
    make_world: MakeWorld, feed: str, table: list[tuple[str, ...]]
) -> None:
    """A plan of the same rows, in a file: the same rules, and the same resources, whole."""
    world = await make_world()
    world.write_config(limits='amount_usd_max = "1000.00"')
    header, *rows = table
    world._write(f"{feed}.csv", header, rows)
    job = world.job(only_feeds=(feed,))
    planned = await engine.plan(job)
    plan = Plan.open(job.state_dir / "plans" / planned.run_id)
    (part,) = plan.rows(feed)
    lines = part.sort("row").select("key", "disposition", "rule").to_dicts()
    found = plan.find(feed, [line["key"] for line in lines])
    bodies = dict(found.select("key", "body").iter_rows())
    assert {line["disposition"] for line in lines} == {"pending", "rejected"}

    tests = []
    for cells, line in zip(rows, lines, strict=True):
        named = zip(header, cells, strict=True)
        row = f"{{ {', '.join(f'{name} = {json.dumps(text)}' for name, text in named)} }}"
        if line["disposition"] == "pending":
            whole = inline(bodies[line["key"]])
            tests.append(section(feed, row, f"{{ resource = {whole} }}"))
        else:
            rules = line["rule"].split("; ")
            tests += [section(feed, row, f'{{ rule = "{rule}" }}') for rule in rules]
    more = '[limits]\namount_usd_max = "1000.00"\n'
    differences = outcomes(world.folder, *tests, more=more)
    assert len(differences) > len(rows)
    assert set(differences) == {()}


def inline(body: bytes) -> str:
    """A resource as TOML, whole."""

    def toml(value: Any) -> str:
        if isinstance(value, dict):
            return "{ " + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + " }"
        if isinstance(value, list):
            return "[" + ", ".join(map(toml, value)) + "]"
        return json.dumps(value)

    return toml(orjson.loads(body))


# What is not looked up ----------------------------------------------------------------------------


def test_ids_are_the_senders_own_whatever_the_references_say(tmp_path: Path) -> None:
    references = """
[references.patient]
how = "search"
system = "https://sender.example/mrn"
[references.payer]
how = "file"
path = "nowhere.csv"
from = "theirs"
to = "ours"
[references.claim]
how = "file"
path = "nowhere.parquet"
from = "theirs"
to = "ours"
"""
    found = outcomes(
        tmp_path,
        section(
            "ledger",
            '{ TXN = "T1", MRN = "A 1/7", Amount = "12.50", Claim = "C-9" }',
            "{ resource = { request = { reference = 'Patient/A-1-7' }, "
            "extension = [{ extension = [{ valueReference = { reference = 'Claim/C-9' } }] }] } }",
        ),
        section(
            "eligibility",
            MEMBER.replace("60054", "Blue Plan, Inc."),
            "{ resource = { payor = [{ identifier = { value = 'Blue Plan, Inc.' } }] } }",
        ),
        section("ledger", PAYMENT.replace("1001", "#REF!"), '{ rule = "patient|placeholder" }'),
        more=references,
    )
    assert found == [(), (), ()]
    by_organization = references.replace(
        'to = "ours"\n[references.claim]',
        'to = "ours"\ntarget = "organization"\n[references.claim]',
    )
    assert outcomes(
        tmp_path,
        section(
            "eligibility",
            MEMBER,
            "{ resource = { payor = [{ reference = 'Organization/60054' }] } }",
        ),
        more=by_organization,
    ) == [()]


def test_what_other_rows_give_has_a_fixed_value(tmp_path: Path) -> None:
    feeds = FEEDS.replace('order = "Order"\n', 'subscriber_id = "Contract"\n').replace(
        '[feeds.columns]\npatient = "MRN"\nmember_id',
        'order_from = "sequence"\n[feeds.columns]\npatient = "MRN"\nmember_id',
    )
    row = '{ MRN = "1001", Member = "W1", Rel = "REL", Payer = "60054", Contract = "K 7" }'
    found = outcomes(
        tmp_path,
        section(
            "eligibility",
            row.replace("REL", "child"),
            "{ resource = { order = 1, subscriber = { reference = 'Patient/K-7' } } }",
        ),
        section(
            "eligibility",
            row.replace("REL", "self"),
            "{ resource = { subscriber = { reference = 'Patient/1001' } } }",
        ),
        section(
            "eligibility",
            row.replace("REL", "child").replace("K 7", ""),
            '{ rule = "subscriber|required" }',
        ),
        feeds=feeds,
        more='[references.subscriber]\nhow = "row"\n',
    )
    assert found == [(), (), ()]


def test_days_of_a_parquet_file_are_iso_as_they_are_decoded(tmp_path: Path) -> None:
    feeds = LEDGER_ONLY.replace("ledger.csv", "ledger.parquet").replace(
        "[feeds.columns]", 'dates = ["%m/%d/%Y"]\n[feeds.columns]\nposted_on = "Day"'
    )
    test = section("ledger", PAYMENT.replace("}", ', Day = "2026-01-31" }'), "{ resource = {} }")
    assert outcomes(tmp_path, test, feeds=feeds) == [()]
    as_text = feeds.replace("ledger.parquet", "ledger.csv")
    assert "posted_on|date" in outcomes(tmp_path, test, feeds=as_text)[0][0]


def test_rows_of_an_834_obey_its_rules(tmp_path: Path) -> None:
    feeds = """
[[feeds]]
name = "roster"
kind = "eligibility"
path = "roster.834"
format = "834"
[feeds.columns]
patient = "member_identifier"
member_id = "subscriber_number"
relationship = "relationship_code"
payer = "payer_id"
start_on = "start"
end_on = "end"
[feeds.constants]
order = "1"
[feeds.codes.relationship]
"18" = "self"
"""
    row = '{ member_identifier = "1001", subscriber_number = "W1", relationship_code = "18", payer_id = "60054", coverage_maintenance = "021", insurance_line = "HLT", start = "2026-01-01" }'
    assert outcomes(
        tmp_path,
        section("roster", row, "{ resource = { period = { start = '2026-01-01' } } }"),
        section("roster", row.replace("021", "024"), '{ rule = "row|no_end" }'),
        feeds=feeds,
    ) == [(), ()]


# The configuration --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("test", "said"),
    [
        (
            section("legder", PAYMENT, "{ filtered = true }"),
            r'no feed legder\. Did you mean "ledger"',
        ),
        (section("ledger", PAYMENT, "{}"), r"tests\[1\]\.expect: write one of"),
        (
            section("ledger", PAYMENT, '{ filtered = true, rule = "amount|range" }'),
            r"tests\[1\]\.expect: write one of",
        ),
        (section("ledger", PAYMENT, '{ rule = "range" }'), "must be a rule as the reports name it"),
        (
            section("ledger", "{ Amount = 12.5 }", "{ filtered = true }"),
            r"tests\[1\]\.row: Amount: must be the text of a cell in quotes",
        ),
        (
            section("ledger", '{ Amout = "12.50" }', "{ filtered = true }"),
            r'tests\[1\]\.row: feed ledger reads no column Amout\. Did you mean "Amount"',
        ),
        (
            section("ledger", PAYMENT, "{ filterd = true }"),
            r'tests\[1\]\.expect\.filterd: no such key\. Did you mean "filtered"',
        ),
        ("", r"there are no \[\[tests\]\] in nightly.toml, so nothing was tested"),
    ],
)
def test_what_is_wrong_with_a_test_is_said(tmp_path: Path, test: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_tests(write(tmp_path, test))


def test_a_pasted_row_may_have_columns_that_are_not_read(tmp_path: Path) -> None:
    row = PAYMENT.replace("}", ', "Check Number" = "77" }')
    assert outcomes(tmp_path, section("ledger", row, "{ resource = {} }")) == [()]


@pytest.mark.parametrize("name", ["nightly.toml", "migration.toml"])
def test_the_tests_of_the_configurations_that_are_handed_out_pass(name: str) -> None:
    path = ROOT / "configs" / name
    found = run_tests(load_tests(path))
    assert [outcome.differences for outcome in found if outcome.differences] == []
    assert {outcome.test.feed for outcome in found} == {
        feed.name for feed in load(path, environment=CREDENTIALS).feeds
    }


# The command --------------------------------------------------------------------------------------


def command(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run it as a CI does: without any variable of Canvas, beside nothing but the configuration."""
    return subprocess.run(
        [sys.executable, "-m", "pipeline", "test", "nightly.toml", *options],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


FAILING = (
    section("ledger", PAYMENT, "{ resource = {} }", 'name = "a payment"'),
    section("ledger", PAYMENT, "{ filtered = true }", 'name = "<a> & \\u202e"'),
    section("eligibility", MEMBER, "{ resource = { order = 2 } }"),
)


@pytest.mark.slow
def test_a_failed_test_is_a_line_and_exit_code_1(tmp_path: Path) -> None:
    path = write(tmp_path, *FAILING)
    numbers = [at for at, line in enumerate(path.read_text().split("\n"), 1) if line == "[[tests]]"]
    done = command(tmp_path, "--junit", "results.xml")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines() == [
        f'nightly.toml:{numbers[1]}, ledger "<a> & \\u202e": expected filtered, got a PaymentNotice',
        f"nightly.toml:{numbers[2]}, eligibility: resource.order: expected 2, got 1",
        "3 tests: 1 passed, 2 failed. Next, once the mapping or the test is corrected:",
        "  canvas-ingest test nightly.toml",
    ]
    assert {each.name for each in tmp_path.iterdir()} == {"nightly.toml", "results.xml"}
    assert stat.S_IMODE((tmp_path / "results.xml").stat().st_mode) == 0o644
    (suite,) = ET.parse(tmp_path / "results.xml").getroot()  # noqa: S314 - our own
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "2", "0")
    cases = {each.get("name"): each for each in suite}
    assert list(cases) == ["a payment", "<a> & \\u202e", "tests[3]"]
    assert [each.find("failure") is None for each in suite] == [True, False, False]
    assert [each.get("line") for each in suite] == [str(number) for number in numbers]
    failure = cases["tests[3]"].find("failure")
    assert failure is not None
    assert failure.get("message") == "resource.order: expected 2, got 1"


@pytest.mark.slow
def test_one_feed_alone_as_json_and_errors_of_the_configuration(tmp_path: Path) -> None:
    write(tmp_path, *FAILING)
    done = command(tmp_path, "--feed", "eligibility", "--json")
    assert done.returncode == 1
    shown = json.loads(done.stdout)
    assert (shown["shape"], shown["counts"]) == (1, {"passed": 0, "failed": 1})
    assert [each["number"] for each in shown["tests"]] == [3]
    assert command(tmp_path, "--feed", "legder").returncode == 2
    unwritable = command(tmp_path, "--junit", "no/results.xml")
    assert (unwritable.returncode, unwritable.stdout) == (2, "")
    assert "--junit no/results.xml: No such file or directory" in unwritable.stderr
    write(tmp_path, FAILING[0])
    done = command(tmp_path)
    assert (done.returncode, done.stdout) == (0, "1 test passed.\n")


def test_a_run_does_not_read_the_tests(tmp_path: Path) -> None:
    """A nightly load is not stopped by the spelling of a column in a test."""
    path = write(tmp_path, section("ledger", '{ Amout = "1" }', "{ filtered = true }"))
    assert len(load(path, environment=CREDENTIALS).feeds) == 2


def test_lines_are_not_known_if_the_tests_are_written_inline(tmp_path: Path) -> None:
    test = f'tests = [{{ feed = "ledger", row = {PAYMENT}, expect = {{ filtered = true }} }}]\n'
    path = tmp_path / "nightly.toml"
    path.write_text(test + CANVAS + LEDGER_ONLY)
    found: list[Outcome] = run_tests(load_tests(path), NOON)
    result = as_json(found, path)
    assert result["tests"][0]["line"] is None
    assert outcomes_text(result, "nightly.toml").startswith("nightly.toml tests[1], ledger: ")
    assert b'line="' not in junit(result)
