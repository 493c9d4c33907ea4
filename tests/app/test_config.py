"""The configuration: what is taken, what is refused, and what the message says to do."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.app.config.arguments import expectations_of
from pipeline.app.config.load import load
from pipeline.errors import ConfigError
from pipeline.journal.store import Database
from pipeline.rows.dates import FORMATS
from pipeline.rows.feed import Kind
from pipeline.rows.shares import Ceiling

BASE = """
[canvas]
base_url = "https://fumage-example.canvasmedical.com/"
token_url = "https://example.canvasmedical.com/auth/token/"
"""
LEDGER = """
[[feeds]]
name = "ledger"
kind = "ledger"
path = "in/ledger.csv"
[feeds.columns]
transaction_id = "TXN"
patient = "MRN"
amount = "Amount"
"""


# The keys that other programs and people rely on, by section.
KEYS = {
    "canvas": "base_url token_url contract scope key_id ca_file cert_file key_file proxy timeout_s",
    "upload": "rate_per_s concurrency attempts_max quiet_s resend_absent doubts_max",
    "limits": "rejects_max amount_usd_max total_usd_max writes_max change_max",
    "state": "dir url lease_s",
    "report": "dir metrics",
    "engine": "kind scheduler workers partitions ca_file cert_file key_file",
    "retention": "days",
    "notify": "on command timeout_s",
    "references.patient": "how path from to system skip_lines comment_prefix blank_lines",
    "references.payer": "how path from to target skip_lines comment_prefix blank_lines",
    "references.claim": "how path from to skip_lines comment_prefix blank_lines",
    "feeds[1]": "name kind path manifest delimiter encoding final_newline dates key repeats delivery update "
    "adopt missing missing_max amount_sign order_by columns constants codes only "
    "sheet skip_lines skip_footer comment_prefix blank_lines null_values decimal_comma amount_unit "
    "timezone open_dates where",
    "tests[1]": "feed name row expect",
}


def job_of(folder: Path, text: str, **options: Any) -> Any:
    path = folder / "nightly.toml"
    path.write_text(text)
    return load(path, **{"environment": {}, **options})


def test_defaults_are_those_of_the_interface(tmp_path: Path) -> None:
    job = job_of(tmp_path, BASE + LEDGER)
    assert job.contract == "2025-10"
    assert job.canvas.base_url == "https://fumage-example.canvasmedical.com"
    assert (
        job.upload.rate_per_s,
        job.upload.concurrency,
        job.upload.attempts_max,
        job.upload.doubts_max,
    ) == (5, 4, 5, 3)
    assert (job.state_dir, job.report_dir) == (tmp_path / "state", tmp_path / "reports")
    feed = job.feeds[0]
    assert (feed.kind, feed.key, feed.dates, feed.path) == (
        Kind.LEDGER,
        ("transaction_id",),
        ("%Y-%m-%d",),
        str(tmp_path / "in/ledger.csv"),
    )


def test_a_wrong_feed_is_not_reported_as_a_missing_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as found:
        job_of(tmp_path, BASE + LEDGER.replace('name = "ledger"', 'name = "a b"'))
    assert "feeds[1].name" in str(found.value)
    assert "at least" not in str(found.value)


@pytest.mark.parametrize("feeds", ["", "feeds = []"])
def test_a_configuration_needs_a_feed(tmp_path: Path, feeds: str) -> None:
    with pytest.raises(ConfigError, match=r"feeds: at least one \[\[feeds\]\] is needed"):
        job_of(tmp_path, feeds + BASE)


def test_every_key_of_the_interface_is_known(tmp_path: Path) -> None:
    """A key that was renamed or removed would break configurations that are in use."""
    with pytest.raises(ConfigError) as caught:
        job_of(tmp_path, with_every_key_wrong())
    said = str(caught.value)
    assert "no such key" not in said
    for section, names in KEYS.items():
        for name in names.split():
            assert re.search(rf"{re.escape(f'{section}.{name}')}[:.\[]", said)


def with_every_key_wrong() -> str:
    """A file with every key, each with a list of lists, which no key takes."""
    lines = []
    for section, names in KEYS.items():
        name = section.removesuffix("[1]")
        lines.append(f"[{section}]" if name == section else f"[[{name}]]")
        lines += [f"{name} = [[1]]" for name in names.split()]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            BASE.replace("base_url", "bas_url") + LEDGER,
            'canvas.bas_url: no such key. Did you mean "base_url"?',
        ),
        (BASE + "[uploads]\n" + LEDGER, 'uploads: no such key. Did you mean "upload"?'),
        (
            BASE + LEDGER.replace("path =", "paht ="),
            'feeds[1].paht: no such key. Did you mean "path"?',
        ),
        (BASE + LEDGER.replace('amount = "Amount"', 'amuont = "Amount"'), 'Did you mean "amount"?'),
        (BASE + LEDGER.replace('amount = "Amount"', ""), "amount is required for ledger"),
        (
            BASE + LEDGER.replace('transaction_id = "TXN"', ""),
            "transaction_id is required for ledger",
        ),
        (
            BASE + LEDGER + '[feeds.only]\nentry_type = ["X"]\n',
            "entry_type is used in key, order_by or only",
        ),
        (BASE + LEDGER + '[feeds.constants]\namount = "1"\n', "is in columns and in constants"),
        (BASE.replace("https://fumage", "http://fumage") + LEDGER, "must be https://"),
        (BASE.replace("https://fumage-", "https://user@") + LEDGER, "must be https://"),
        (
            BASE.replace("https://fumage-example", "http://127.0.0.1.evil") + LEDGER,
            "must be https://",
        ),
        (BASE + "[upload]\nrate_per_s = 0\n" + LEDGER, "upload.rate_per_s"),
        (BASE + '[limits]\nrejects_max = "110%"\n' + LEDGER, 'such as "10%"'),
        (BASE + "[limits]\ntotal_usd_max = 12.5\n" + LEDGER, "limits.total_usd_max"),
        (BASE + LEDGER + LEDGER, "two feeds are named ledger"),
        *(
            (BASE + LEDGER.replace("path", f'encoding = "{name}"\npath'), "must be an encoding")
            for name in ("klingon", "base64", "rot13", "undefined")
        ),
        (BASE + LEDGER.replace('kind = "ledger"', 'kind = "claims"'), "feeds[1].kind"),
        (
            BASE + LEDGER.replace('path = "in', 'path = "http://in'),
            "feeds[1].path: http:// is not read: only s3://, gs:// and az://",
        ),
        (BASE + LEDGER.replace('path = "in', 'path = "s3://in/'), "must be s3://bucket/key"),
        (
            BASE + LEDGER + '[references.payer]\nhow = "file"\npath = "s3://drop/p*.csv"\n',
            "references.payer.path: must be one object",
        ),
        (BASE + '[references.patient]\nhow = "search"\n' + LEDGER, "needs system"),
        (BASE + '[references.patient]\nhow = "file"\n' + LEDGER, "needs path, from and to"),
        (BASE, "feeds"),
        ("[canvas", "no valid TOML"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        job_of(tmp_path, text)
    assert said in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        load(tmp_path / "none.toml", environment={})


def test_secrets_come_from_the_environment_or_a_private_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret\n")
    secret.chmod(0o600)
    environment = {"CANVAS_CLIENT_ID": "me", "CANVAS_CLIENT_SECRET_FILE": str(secret)}
    credentials = job_of(tmp_path, BASE + LEDGER, environment=environment).canvas.credentials
    assert (credentials.client_id, credentials.client_secret) == ("me", "s3cret")
    assert "s3cret" not in repr(credentials)
    secret.chmod(0o644)
    with pytest.raises(ConfigError, match="others may read"):
        job_of(tmp_path, BASE + LEDGER, environment=environment)


def test_without_credentials_a_run_says_what_to_set(tmp_path: Path) -> None:
    job = job_of(tmp_path, BASE + LEDGER)
    with pytest.raises(ConfigError, match="CANVAS_CLIENT_ID"):
        job.canvas.credentials.require()


def test_unknown_feeds_on_the_command_line_are_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'no feed leger.* Did you mean "ledger"'):
        job_of(tmp_path, BASE + LEDGER, inputs={"leger": "x.csv"})


@pytest.mark.parametrize(
    "text", ["ledger", "ledger:rows=x", "ledger:rows=1.5", "ledger:sum=4", "ledger:total_usd=1.234"]
)
def test_a_control_total_that_is_not_understood_is_said(text: str) -> None:
    with pytest.raises(ConfigError, match="not understood"):
        expectations_of([text])


def test_control_totals_are_read() -> None:
    expected = expectations_of(["ledger:rows=5000", "ledger:total_usd=12345.67"])["ledger"]
    assert (expected.rows, expected.total_cents) == (5000, 1_234_567)


@pytest.mark.parametrize("name", ["demo", "nightly", "migration"])
def test_the_configurations_that_come_along_are_taken(name: str) -> None:
    job = load(Path(__file__).parents[2] / "configs" / f"{name}.toml", environment={})
    assert len(job.feeds) >= 2


def test_a_path_that_begins_above_the_configuration_is_told_without_dots(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    text = BASE + LEDGER.replace('path = "', 'path = "../../')
    (feed,) = job_of(tmp_path / "configs", text).feeds
    assert feed.path.startswith(f"{tmp_path.resolve().parent}/")
    assert ".." not in feed.path


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("postgresql://u:secret@localhost/db", "must hold no password"),
        ("postgresql://u@localhost/db?password=secret", "must hold no password"),
        ("mysql://u@localhost/db", "must be an address of PostgreSQL"),
        ("postgresql://u@db.example/db", "must have sslmode=verify-full"),
        ("postgresql://u@db.example/db?sslmode=require", "must have sslmode=verify-full"),
        ("postgresql:///db?host=db.example", "must have sslmode=verify-full"),
    ],
)
def test_a_database_that_is_not_fit_is_refused(url: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=why) as refused:
        job_of(tmp_path, f'{BASE}[state]\nurl = "{url}"\n{LEDGER}')
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u@localhost:5432/db",
        "postgresql://u@db.example/db?sslmode=verify-full",
        "postgresql:///db",
    ],
)
def test_a_database_that_is_fit_is_taken(url: str, tmp_path: Path) -> None:
    job = job_of(tmp_path, f'{BASE}[state]\nurl = "{url}"\n{LEDGER}')
    assert job.database == Database(url, 15.0)


CODES = (
    BASE
    + """
[[feeds]]
name = "eligibility"
kind = "eligibility"
path = "eligibility.csv"
[feeds.columns]
patient = "MRN"
member_id = "Member"
relationship = "Rel"
payer = "Payer"
order = "Order"
start_on = "Start"
"""
)


def with_feed_key(text: str, line: str) -> str:
    return text.replace("[feeds.columns]", f"{line}\n[feeds.columns]")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        # Codes: for fields that take none, for fields that no column has, and such as Canvas refuses.
        (
            CODES + '[feeds.codes.member_id]\n"x" = "y"\n',
            "codes.member_id: this field takes no codes; relationship, type, status and order do",
        ),
        (
            CODES + '[feeds.codes.type]\n"H" = "HMO"\n',
            "codes.type: type is in neither columns nor constants",
        ),
        (
            CODES + '[feeds.codes.relationship]\n"BRO" = "sibling"\n',
            "codes.relationship: each code on the right must be one of self, spouse, child, other, injured",
        ),
        (CODES + '[feeds.codes.relationship]\n"BRO" = ""\n', "must be one of self, spouse"),
        (
            CODES + '[feeds.codes.order]\n"7th" = "7"\n',
            "codes.order: each code on the right must be 1 to 5",
        ),
        (
            CODES + '[feeds.codes.relationship]\n"18 " = "self"\n',
            "codes.relationship: a spelling is blank, or begins or ends with a blank",
        ),
        (CODES + '[feeds.codes.relationship]\n"" = "self"\n', "a spelling is blank"),
        # Instants without a time zone, zones that are none, and lists of texts that no cell can be.
        *(
            (
                with_feed_key(CODES, f"dates = ['%Y-%m-%d', '{form}']"),
                f'dates: "{form}" reads instants, and their days depend on the time zone: set timezone',
            )
            for form in ("%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S%z")
        ),
        (with_feed_key(CODES, 'timezone = "America/NewYork"'), 'Did you mean "America/New_York"?'),
        (with_feed_key(CODES, 'null_values = ["NULL", " "]'), "null_values: an entry is blank"),
        (with_feed_key(CODES, 'null_values = ["NULL", "NULL"]'), 'null_values: names "NULL" twice'),
        (with_feed_key(CODES, 'open_dates = [""]'), "open_dates: an entry is blank"),
        (with_feed_key(CODES, "decimal_comma = true"), "decimal_comma: has no effect on a feed of"),
        (with_feed_key(BASE + LEDGER, 'open_dates = ["2099-12-31"]'), "open_dates: has no effect"),
        (
            with_feed_key(CODES, 'dates = { end_on = ["%m/%d/%Y"] }'),
            "dates.end_on: is no day in columns or constants",
        ),
        (
            with_feed_key(CODES, 'dates = { start_on = ["%m"] }'),
            'dates.start_on: "%m" can never read a day',
        ),
        # Dates that are no days.
        *(
            (
                with_feed_key(CODES, f"dates = ['{form}']"),
                f'dates: "{form}" can never read a day',
            )
            for form in (
                "%m/%d",
                "%Y",
                "%Y-%m",
                "%Y-%d",
                "%Q",
                "%F",
                "%-m/%-d/%Y",
                "Y-m-d",
                "%Y-%U",
            )
        ),
        (with_feed_key(CODES, 'dates = ["%Y-%m-%d", ""]'), 'dates: "" can never read a day'),
        (with_feed_key(CODES, 'dates = ["%d %b %Y é"]'), "can never read a day"),
        (with_feed_key(CODES, "dates = []"), "dates: must name at least one format"),
        # Values that nothing can equal, or that nothing can pass.
        (
            CODES + "[feeds.only]\nstatus = []\n[feeds.constants]\nstatus = 'active'\n",
            "only.status",
        ),
        (CODES + "[feeds.only]\norder = []\n", "only.order: must name at least one value"),
        (CODES + '[feeds.only]\norder = ["1", ""]\n', "only.order: a value is blank, or begins"),
        (CODES + '[feeds.only]\norder = ["1 "]\n', "only.order: a value is blank, or begins"),
        (
            CODES + '[feeds.only]\nstatus = ["x"]\n[feeds.constants]\nstatus = "active"\n',
            "only.status: no row can pass, because the constant is none of these values",
        ),
        (
            CODES.replace('relationship = "Rel"', "") + '[feeds.constants]\nrelationship = "x"\n',
            "constants.relationship: must be one of self, spouse, child, other, injured",
        ),
        (
            CODES.replace('order = "Order"', "") + '[feeds.constants]\norder = "7"\n',
            "constants.order: must be 1 to 5",
        ),
        (
            CODES + '[feeds.constants]\nend_on = "12/31/2026"\n',
            "constants.end_on: must be a real day",
        ),
        (CODES + '[feeds.constants]\nplan = ""\n', "constants.plan: must not be blank"),
        (CODES + '[feeds.constants]\nplan = "  "\n', "constants.plan: must not be blank"),
        (
            BASE + LEDGER + '[feeds.constants]\ncurrency = "EUR"\n',
            "constants.currency: must be USD",
        ),
        (
            BASE
            + LEDGER.replace('amount = "Amount"', "")
            + '[feeds.constants]\namount = "5 USD"\n',
            "constants.amount: must be written as 12.50",
        ),
        (
            BASE + '[notify]\non = []\ncommand = ["true"]\n' + LEDGER,
            "notify.on: must name at least one",
        ),
        (BASE + '[notify]\ncommand = [""]\n' + LEDGER, "notify.command: must begin with a program"),
        (BASE + "[limits]\nrejects_max = true\n" + LEDGER, "limits.rejects_max: must be a share"),
        (BASE + "[limits]\nrejects_max = 1.0\n" + LEDGER, "limits.rejects_max: must be a share"),
        # Settings that the kind of feed, or another setting, leaves without effect.
        (
            with_feed_key(CODES, 'amount_sign = "negative"'),
            "amount_sign: has no effect on a feed of",
        ),
        (BASE + with_feed_key(LEDGER, "update = false"), "update: has no effect on a feed of kind"),
        (BASE + with_feed_key(LEDGER, "adopt = false"), "adopt: has no effect on a feed of kind"),
        (
            with_feed_key(CODES, "missing_max = 7"),
            'missing_max: has no effect with missing = "ignore"',
        ),
        (
            with_feed_key(CODES, 'key = ["patient", "payer", "patient"]'),
            'key: names "patient" twice',
        ),
        (
            BASE + with_feed_key(LEDGER, 'order_by = ["amount", "amount"]'),
            'order_by: names "amount"',
        ),
        # Two payments of one patient and amount, on different days, are two.
        (
            BASE + with_feed_key(LEDGER, 'key = ["patient", "amount"]'),
            "key: a payment of another day",
        ),
        (with_feed_key(CODES, 'dates = ["%Y%m%d", "%Y%m%d"]'), 'dates: names "%Y%m%d" twice'),
        (CODES + '[feeds.only]\norder = ["1", "1"]\n', 'only.order: names "1" twice'),
        # A table that is not used: the sender's ids would be taken for Canvas' own.
        (
            BASE + '[references.patient]\npath = "p.csv"\nfrom = "a"\nto = "b"\n' + LEDGER,
            'references.patient: path, from and to are for how = "file"',
        ),
        (
            BASE + '[references.patient]\nsystem = "urn:mrn"\n' + LEDGER,
            'references.patient: system is for how = "search"',
        ),
        (
            BASE + '[references.payer]\ntarget = "organization"\n' + LEDGER,
            'references.payer: target is for how = "file"',
        ),
    ],
)
def test_configuration_that_does_nothing_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        job_of(tmp_path, text)
    assert said in str(caught.value)
    assert caught.value.exit_code == 2


def test_configuration_that_does_what_it_says_is_accepted(tmp_path: Path) -> None:
    more = (
        '[feeds.codes.relationship]\n"18" = "SELF"\n[feeds.codes.order]\n"PRI" = "primary"\n'
        '[feeds.codes.status]\n"A" = "active"\n[feeds.constants]\nstatus = "A"\n'
    )
    forms = [*FORMATS, "%Y%j", "%G-W%V-%u", "%d.%m.%y %H:%M:%S UTC"]
    job = job_of(
        tmp_path,
        with_feed_key(CODES, f'dates = {json.dumps(forms)}\ntimezone = "America/New_York"') + more,
    )
    assert job.feeds[0].dates == tuple(forms)
    assert job.feeds[0].codes["relationship"] == {"18": "SELF"}


def test_dates_may_be_a_table_by_field(tmp_path: Path) -> None:
    line = 'dates = { start_on = ["%m/%d/%Y"] }'
    feed = job_of(tmp_path, with_feed_key(CODES, line) + 'end_on = "E"\n').feeds[0]
    dates = feed.day_reader
    assert dates.formats("start_on") == ("%m/%d/%Y",)
    assert dates.formats("end_on") == ("%Y-%m-%d",)


def test_a_default_that_is_written_out_is_accepted(tmp_path: Path) -> None:
    """What changes nothing for any feed may stand in a template."""
    written = 'update = true\nadopt = true\nmissing_max = "5%"\ndelivery = "full"'
    job = job_of(tmp_path, BASE + with_feed_key(LEDGER, written))
    assert job.feeds[0].repeats == "reject"


@pytest.mark.parametrize(
    ("text", "rows", "most"),
    [
        ("29%", 100, 29),
        ("57%", 100, 57),
        ("7%", 100, 7),
        ("0.1%", 1_000, 1),
        ("5%", 19, 0),
        ("5%", 20, 1),
        ("100%", 7, 7),
        ("0%", 7, 0),
        (29, 7, 29),
    ],
)
def test_a_share_of_rows_is_exact(text: str | int, rows: int, most: int) -> None:
    assert Ceiling.parse(text).of(rows) == most


def test_a_share_is_shown_as_it_was_written() -> None:
    assert [str(Ceiling.parse(each)) for each in ("29%", "12.5 %", 1_000)] == [
        "29%",
        "12.5%",
        "1,000",
    ]
