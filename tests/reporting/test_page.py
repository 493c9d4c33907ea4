"""`report.html` in a real browser, and what it never shows."""

import base64
import gzip
import hashlib
import json
import re
import sqlite3
import zlib
from contextlib import closing, suppress
from importlib import resources
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.app.config.load import load
from pipeline.commands import run as engine
from pipeline.commands.verify import read_back
from pipeline.reporting.findings import BOUNDS, Bounds, findings
from pipeline.reporting.masking import MASK, masked, shown
from pipeline.reporting.page import page
from pipeline.sandbox import Faults, rules
from tests.support.browser import apart, in_world, tab, violations
from tests.support.runs import coverages, payments
from tests.support.world import CREDENTIALS, LEDGER_ONLY, World, patient_key

pytestmark = pytest.mark.slow  # whole pages

VIEWS = [(1280, "light"), (1280, "dark"), (400, "light"), (400, "dark")]
# Values of rows, as Canvas might repeat them.
NAME, MEMBER, AMOUNT, DAY = "Quillfeather", "ZQ7-4471-PLANTED", "913.77", "1961-04-07"
HOSTILE = "</script><img src=x onerror=alert(1)>\"'\u202efdp.csv"


# Runs to be shown ---------------------------------------------------------------------------------


def echo(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the local Canvas repeats values of the row in what it says."""

    def unknown(path: str, resource_type: str) -> rules.Refusal:
        text = f"{path} - {resource_type} {NAME} (member id {MEMBER}, born {DAY}, {AMOUNT} USD) does not exist"
        return rules.refuse(422, "business-rule", text)

    monkeypatch.setattr(rules, "unknown_reference", unknown)


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> engine.Result:
    """A run in which everything happens: refusals, doubt, pauses, and rows that are wrong."""
    faults = Faults(lose_before=0.03, lose_after=0.03, throttle=0.04, error_before=0.02)

    async def work(world: World) -> engine.Result:
        bad = [
            (patient_key(0), "M", "self", "60054", "9", "2026-13-01", ""),
            (patient_key(1), NAME, NAME, "60054", "1", DAY, ""),
        ]
        gone = [(patient_key(900), MEMBER, "self", "60054", "1", DAY, "")]
        world.write_eligibility([*coverages(20), *bad, *gone])
        lines = payments(150)
        world.write_ledger([*lines, lines[0], ("T900", patient_key(901), AMOUNT, ""), ("T902", patient_key(901), "1.00", ""), ("T901", NAME, "x", "")])  # fmt: skip
        return await world.run()

    with pytest.MonkeyPatch.context() as monkeypatch:
        echo(monkeypatch)
        folder = tmp_path_factory.mktemp("faulty")
        result = in_world(folder, work, faults=faults, fault_seed=3)
    found = {word for feed in result.summary["feeds"] for word, count in feed["dispositions"].items() if count}  # fmt: skip
    assert {"created", "rejected", "refused", "in_doubt", "pending", "duplicate"} <= found
    return result


def text_of(result: engine.Result) -> str:
    return (result.folder / "report.html").read_text()


def block(text: str, name: str) -> Any:
    found = re.search(rf'id="{name}">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def rows_of(text: str) -> dict[str, Any]:
    unpacked: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(block(text, "rows-data"))))  # fmt: skip
    return unpacked


@pytest.mark.parametrize(("width", "scheme"), VIEWS)
def test_the_page_of_a_run_is_whole_quiet_and_accessible(
    browser: Any, faulty: engine.Result, width: int, scheme: str
) -> None:
    with tab(browser, faulty.folder / "report.html", width, scheme) as opened:
        opened.rows()
        assert opened.do("document.documentElement.scrollWidth") <= width
        assert opened.do("getComputedStyle(document.body).backgroundColor") == (
            "rgb(255, 255, 255)" if scheme == "light" else "rgb(18, 22, 28)"
        )
        drawn = opened.do(
            "[...document.querySelectorAll('#chart canvas')].map(canvas => canvas.getContext('2d')"
            ".getImageData(0, 0, canvas.width, canvas.height).data.filter((_, at) => at % 4 === 3).some(Boolean))"
        )
        assert drawn == [True, True]
        assert not opened.do(
            "[...document.querySelectorAll('.nojs')].some(each => each.checkVisibility())"
        )
        assert opened.do("document.querySelectorAll('[style*=\"javascript\"], img, iframe').length") == 0  # fmt: skip
        assert violations(opened) == []


def test_rows_are_searched_filtered_sorted_and_paged(browser: Any, faulty: engine.Result) -> None:
    frame = faulty.frame
    with tab(browser, faulty.folder / "report.html") as opened:
        opened.rows()
        calling = frame.filter(pl.col("disposition").is_in(["rejected", "refused", "in_doubt", "pending"]))  # fmt: skip
        assert f"of {calling.height} (filtered from {frame.height:,})" in opened.info
        assert set(opened.column(4)) <= {"rejected", "refused", "in doubt", "pending"}
        opened.page.click("#filters button[type=reset]")
        opened.until(
            f"document.querySelector('.dt-info').textContent === 'Rows 1 to 25 of {frame.height:,}'"
        )
        refused = frame.filter(pl.col("disposition") == "refused").height
        opened.page.select_option("#by-disposition", "refused")
        assert f"of {refused} (filtered" in opened.info
        assert set(opened.column(4)) == {"refused"}
        opened.page.select_option("#by-disposition", "attention")
        assert f"of {calling.height} (filtered" in opened.info
        opened.page.select_option("#by-feed", "ledger")
        assert f"of {calling.filter(pl.col('feed') == 'ledger').height} (filtered" in opened.info
        opened.page.click("#filters button[type=reset]")
        opened.until(
            f"document.querySelector('.dt-info').textContent === 'Rows 1 to 25 of {frame.height:,}'"
        )
        opened.page.select_option("#by-rule", "order|range")
        assert opened.info.startswith("Rows 1 to 1 of 1 ")
        assert opened.column(5) == ["order|range; start_on|date"], "a row has all its rules"
        opened.page.select_option("#by-rule", "")
        opened.page.fill(".dt-search input", "T00042")
        opened.until("document.querySelectorAll('#rows-table tbody tr').length === 1")
        assert opened.column(6) == ["T00042"]
        opened.page.fill(".dt-search input", "")
        opened.until("document.querySelectorAll('#rows-table tbody tr').length === 25")
        for way in ("ascending", "descending"):
            header = "#rows-table thead th:nth-child(3)"
            opened.page.focus(f"{header} .dt-column-order")
            opened.page.keyboard.press("Enter")
            opened.until(
                f"document.querySelector('{header}').getAttribute('aria-sort') === '{way}'"
            )
            expected = frame["row"].sort(descending=way == "descending").head(25)
            assert opened.column(3) == [str(row) for row in expected]
        opened.page.click(".dt-paging-button.next")
        assert opened.info.startswith("Rows 26 to 50 of ")


def test_a_button_beside_a_rule_shows_its_rows(browser: Any, faulty: engine.Result) -> None:
    with tab(browser, faulty.folder / "report.html") as opened:
        opened.rows()
        opened.page.click("button.show[data-rule='canvas|business-rule'][data-feed='ledger']")
        assert set(opened.column(5)) == {"canvas|business-rule"}
        assert opened.do("document.activeElement.id") == "table"


def test_without_javascript_all_but_the_table_and_the_chart_is_there(
    browser: Any, faulty: engine.Result
) -> None:
    with tab(browser, faulty.folder / "report.html", java_script_enabled=False) as opened:
        text = opened.page.inner_text("body")
    assert text.count("needs JavaScript") == 2
    assert "Balanced: every row has one ending" in text
    assert "canvas-ingest review CONFIG" in text
    assert "must be 1 to 5" in text
    assert "Search all columns" not in text


def strokes(paper: bytes) -> set[bytes]:
    """The colours of the lines that are drawn in a PDF."""
    found = set()
    for stream in re.finditer(rb"stream\r?\n(.*?)endstream", paper, re.DOTALL):
        with suppress(zlib.error):  # a picture or a font
            found |= set(re.findall(rb"([\d.]+ [\d.]+ [\d.]+) RG", zlib.decompress(stream[1])))
    return found


def test_on_paper_it_is_dark_on_white_and_so_is_the_chart(
    browser: Any, faulty: engine.Result
) -> None:
    with tab(browser, faulty.folder / "report.html", scheme="dark") as opened:
        opened.rows()
        paper = strokes(opened.page.pdf(format="A4"))
        opened.page.emulate_media(media="print", color_scheme="dark")
        assert opened.do("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
        visible = (
            "['filters', 'rows-table'].map(id => document.getElementById(id).checkVisibility())"
        )
        assert opened.do(visible) == [False, True]
    assert b".102 .4196 .2706" in paper, "the green of the light theme"
    assert b".3843 .7804 .5804" not in paper, "the green of the dark one"


def sized(faulty: engine.Result, folder: Path, count: int, bounds: Bounds = BOUNDS) -> Path:
    """The page of a run with so many rows: one in a hundred rejected, one in a thousand in doubt."""
    number = pl.int_range(count).alias("row") + 1
    frame = (
        faulty.frame.filter(pl.col("disposition") == "created").head(1)
        .drop("row", "key", "disposition", "rule", "resource_id")
        .join(pl.select(number), how="cross")
        .with_columns(
            pl.col("row").cast(pl.UInt32),
            pl.col("row").map_elements(lambda row: hashlib.sha256(b"%d" % row).hexdigest()[:16], return_dtype=pl.String).alias("key"),
            pl.col("row").map_elements(lambda row: hashlib.sha256(b"r%d" % row).hexdigest()[:36], return_dtype=pl.String).alias("resource_id"),
            pl.when(pl.col("row") % 1000 == 0).then(pl.lit("in_doubt")).when(pl.col("row") % 100 == 0).then(pl.lit("rejected")).otherwise(pl.lit("created")).alias("disposition"),
            pl.when(pl.col("row") % 1000 == 0).then(pl.lit("canvas|no-answer")).when(pl.col("row") % 100 == 0).then(pl.lit("amount|form")).otherwise(pl.lit("")).alias("rule"),
        )
        .select(faulty.frame.columns)
    )  # fmt: skip
    frame.write_parquet(folder / "reconciliation.parquet")
    told = dict.fromkeys(faulty.summary["feeds"][0]["dispositions"], 0)
    told |= dict(frame.group_by("disposition").len().iter_rows())
    feed = faulty.summary["feeds"][0] | {"rows_read": count, "dispositions": told, "rules": {}}
    summary = faulty.summary | {"feeds": [feed]}
    exchanges = pl.DataFrame(schema=dict.fromkeys(("purpose", "sent_at", "verdict"), pl.String))
    path = folder / "report.html"
    path.write_text(page(summary, exchanges, folder, bounds))
    return path


def test_a_hundred_thousand_rows_are_searched_and_filtered(
    browser: Any, faulty: engine.Result, tmp_path: Path
) -> None:
    path = sized(faulty, tmp_path, 100_000)
    with tab(browser, path) as opened:
        opened.rows()
        assert opened.info == "Rows 1 to 25 of 1,000 (filtered from 100,000)"
        opened.page.select_option("#by-disposition", "")
        assert opened.info == "Rows 1 to 25 of 100,000"
        assert opened.do("document.querySelectorAll('*').length") < 5_000, "only what is seen is built"  # fmt: skip
        opened.page.select_option("#by-disposition", "rejected")
        assert opened.info == "Rows 1 to 25 of 900 (filtered from 100,000)"
        opened.page.select_option("#by-disposition", "")
        key = hashlib.sha256(b"77777").hexdigest()[:16]
        opened.page.fill(".dt-search input", key)
        opened.until("document.querySelectorAll('#rows-table tbody tr').length === 1")
        assert opened.column(3) == ["77777"]


def test_above_two_hundred_thousand_only_what_needs_attention(
    browser: Any, faulty: engine.Result, tmp_path: Path
) -> None:
    path = sized(faulty, tmp_path, 250_000)
    with tab(browser, path) as opened:
        opened.rows()
        assert opened.info == "Rows 1 to 25 of 2,500"
        text = opened.page.inner_text("#table")
    assert "There are 250,000 rows: above 200,000 this table holds only those that need attention" in text  # fmt: skip
    assert "2,500 of them" in text
    assert set(rows_of(path.read_text())["disposition"]["values"]) == {"rejected", "in_doubt"}


def test_of_what_needs_attention_no_more_either_and_it_says_so(
    faulty: engine.Result, tmp_path: Path
) -> None:
    text = sized(faulty, tmp_path, 50_000, Bounds(table=300, read=10_000)).read_text()
    assert "and of these 500 the first 300" in text
    assert rows_of(text)["row"] == [number * 100 for number in range(1, 301)]


# What it says -------------------------------------------------------------------------------------


def test_the_same_run_gives_the_same_page_and_each_row_is_in_it(faulty: engine.Result) -> None:
    text = text_of(faulty)
    job = load(faulty.folder.parents[1] / "config.toml", environment=CREDENTIALS)
    again = apart(lambda: engine.report_again(job, faulty.run_id))
    assert text_of(again) == text
    rows, frame = rows_of(text), faulty.frame
    assert rows["count"] == frame.height
    for name in ("row", "key", "resource_id", "correlation_id", "http_status", "attempts"):
        told = frame[name].fill_null("") if frame[name].dtype == pl.String else frame[name]
        assert rows[name] == told.to_list(), name
    for name in ("feed", "file", "disposition", "rule"):
        column = rows[name]
        assert [column["values"][code] for code in column["codes"]] == frame[name].to_list(), name


def test_control_totals_visibly_add_up(faulty: engine.Result) -> None:
    text = text_of(faulty)
    for feed in faulty.summary["feeds"]:
        card = text[text.index(f'aria-label="Control totals of {feed["name"]}"') :]
        cells = re.findall(r'<td class="number">([\d,.]+)</td>', card[: card.index("</table>")])
        numbers = [cell.replace(",", "") for cell in cells]
        step = 2 if "amount_usd" in feed else 1
        *endings, total, read = [int(cell) for cell in numbers[::step]]
        assert sum(endings) == total == read == feed["rows_read"]
    assert text.count("0 ✓</td>") == 3
    assert "✗" not in text


def test_totals_that_do_not_agree_are_said_to_differ(faulty: engine.Result) -> None:
    feeds = [feed | {"rows_read": feed["rows_read"] + 1} for feed in faulty.summary["feeds"]]
    summary = faulty.summary | {"feeds": feeds, "balanced": False}
    exchanges = pl.DataFrame(schema=dict.fromkeys(("purpose", "sent_at", "verdict"), pl.String))
    text = page(summary, exchanges, faulty.folder)
    assert text.count(" ✗</td>") == 2
    assert "Not balanced" in text


def test_nothing_of_a_row_is_shown_though_canvas_repeats_it(faulty: engine.Result) -> None:
    text = text_of(faulty)
    kept = text + json.dumps(rows_of(text), ensure_ascii=False)
    assert faulty.frame["message"].str.contains(NAME).sum() == 3, "Canvas did repeat it"
    for planted in (NAME, MEMBER, AMOUNT, DAY, patient_key(0), patient_key(900)):
        assert planted not in kept
    assert f"beneficiary - Patient {MASK} (member id {MASK} USD) does not exist" in text


def test_the_transaction_id_of_a_rejected_row_is_not_shown(faulty: engine.Result) -> None:
    text = text_of(faulty)
    rows = rows_of(text)
    dispositions = [rows["disposition"]["values"][code] for code in rows["disposition"]["codes"]]
    shown_ids = {word for word, source in zip(dispositions, rows["source_id"], strict=True) if source}  # fmt: skip
    assert "rejected" not in shown_ids
    assert {"created", "refused", "in_doubt"} <= shown_ids
    assert "(<bdi>T900</bdi>)" in text
    assert "T901" not in text


def test_who_gave_a_write_up_is_not_shown(faulty: engine.Result, tmp_path: Path) -> None:
    message = pl.lit("no answer after it was sent; given up by somebody").alias("message")
    path = tmp_path / "reconciliation.parquet"
    faulty.frame.filter(pl.col("disposition") == "in_doubt").with_columns(message).write_parquet(
        path
    )
    assert {group.words for group in findings(path, []).of("in_doubt")} == {"no answer after it was sent"}  # fmt: skip


def test_a_row_that_breaks_several_rules_has_the_hint_of_each(faulty: engine.Result) -> None:
    groups = findings(faulty.folder / "reconciliation.parquet", ["eligibility.csv"]).of("rejected")
    hints = {group.rule: group.words for group in groups}
    assert hints["order|range"].startswith("order (column")
    assert hints["start_on|date"].startswith("start_on (column")


def test_pauses_retries_and_lost_answers_are_told(faulty: engine.Result) -> None:
    text = text_of(faulty)
    chart = block(text, "chart-data")
    assert sum(chart["retried"]) == faulty.summary["requests"]["retried"] > 0
    with closing(sqlite3.connect(faulty.folder.parents[1] / "state" / "journal.sqlite")) as journal:
        lost = "SELECT count(*) FROM trail WHERE run_id = ? AND verdict = 'lost'"
        assert sum(chart["lost"]) == journal.execute(lost, (faulty.run_id,)).fetchone()[0] > 0
    assert chart["pauses"]
    width_s = chart["at"][1] - chart["at"][0]
    assert round(sum(chart["rate"]) * width_s) == faulty.summary["requests"]["total"]
    assert re.search(rf"{sum(chart['retried'])} writes were sent again, {sum(chart['lost'])} answers to writes were lost, and \d+ times nothing was sent", text)  # fmt: skip


def check_quiet(browser: Any, result: engine.Result) -> str:
    with tab(browser, result.folder / "report.html", 400) as opened:
        assert opened.do("document.documentElement.scrollWidth") <= 400
        assert violations(opened) == []
        text: str = opened.page.inner_text("body")
        return text


def test_the_page_of_a_plan(browser: Any, tmp_path: Path) -> None:
    async def work(world: World) -> engine.Result:
        world.write_eligibility(coverages(20))
        world.write_ledger(payments(10))
        return await engine.plan(world.job())

    result = in_world(tmp_path, work)
    text = check_quiet(browser, result)
    assert "Plan: 50 to create, 0 to update, 0 unchanged, 0 rejected." in text
    assert f"canvas-ingest run CONFIG --plan {result.run_id}" in text
    assert "A plan sends nothing." in text


def test_the_page_of_a_verification(browser: Any, tmp_path: Path) -> None:
    async def work(world: World) -> engine.Result:
        world.write_eligibility(coverages(20))
        world.write_ledger(payments(10))
        await world.run()
        world.sandbox.delete_by_hand("Coverage", world.sandbox.resources("Coverage")[0]["id"])
        return await read_back(world.job())

    text = check_quiet(browser, in_world(tmp_path, work))
    verdict = "1 resource in Canvas no longer matches what we wrote"
    assert text.index(verdict) < text.index("Requests over time")
    assert "verification.parquet for each resource, then look it up in Canvas" in text


@pytest.mark.parametrize("is_unfit", [True, False])
def test_the_page_of_a_run_that_failed(browser: Any, tmp_path: Path, *, is_unfit: bool) -> None:
    async def work(world: World) -> engine.Result:
        world.write_eligibility(coverages(20))
        world.write_ledger(payments(10))
        if is_unfit:
            (world.folder / "ledger.csv").write_text("TXN,MRN,Amount\n")
        return await world.run()

    settings = {"limits": "" if is_unfit else "writes_max = 5"}
    text = check_quiet(browser, in_world(tmp_path, work, settings))
    assert "The run failed; nothing is lost." in text
    assert "Failed: " in text
    assert ("Stopped before anything was sent." in text) == is_unfit
    assert ("The run ended before it sent them" in text) != is_unfit


def test_names_and_ids_that_are_markup_are_only_text(browser: Any, tmp_path: Path) -> None:
    name = HOSTILE.replace("/", "")
    transaction = HOSTILE.replace('"', "").replace("\u202e", "")  # that sign is refused in an id
    feed = LEDGER_ONLY.replace('path = "ledger.csv"', 'path = "in/*.csv"').replace('amount = "Amount"', 'amount = "A</script><b>"')  # fmt: skip

    async def work(world: World) -> engine.Result:
        (world.folder / "in").mkdir()
        lines = [f'"{transaction}","{patient_key(1)}",5.00,', f"t2,{patient_key(1)},x,"]  # fmt: skip
        (world.folder / "in" / name).write_text("\n".join(["TXN,MRN,A</script><b>,Claim", *lines, ""]))  # fmt: skip
        return await world.run()

    result = in_world(tmp_path, work, {"feeds": feed})
    with tab(browser, result.folder / "report.html") as opened:
        opened.rows()
        assert opened.do("document.querySelectorAll('img, b').length") == 0
        assert opened.column(6) == [""], "it opens on the row that was rejected"
        opened.page.select_option("#by-disposition", "")
        assert opened.column(2) == [shown(name)] * 2
        assert opened.column(6) == [shown(transaction), ""]
        opened.page.fill(".dt-search input", "onerror")
        opened.page.wait_for_timeout(300)
        assert opened.do("document.querySelectorAll('img, b').length") == 0
        assert violations(opened) == []
    assert "\u202e" not in text_of(result)


# Masking ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [
        ("Payment amount exceeds the patient's balance", "Payment amount exceeds the patient's balance"),
        ("body -> order - value is not a valid integer", "body -> order - value is not a valid integer"),
        ("payor[0].identifier is required", "payor[0].identifier is required"),
        ("Resource updated since If-Unmodified-Since date", "Resource updated since If-Unmodified-Since date"),
        ("HTTP 422", "HTTP 422"),
        ("Unknown Coverage resource 'f0dfefbe-3fe0'", f"Unknown Coverage resource {MASK}"),
        ("Patient Maria Lopez-Ruiz not found", f"Patient {MASK} not found"),
        ("maria lopez is not a patient", f"{MASK} is not a patient"),
        ("member id ABC123 is already used by JOHN Q PUBLIC", f"member id {MASK} is already used by {MASK}"),
        ("amount 913.77 exceeds balance 12,00", f"amount {MASK} exceeds balance {MASK}"),
        ("date 04/07/1961 is in the future", f"date {MASK} is in the future"),
        ('relationship "spouse" is not permitted', f"relationship {MASK} is not permitted"),
        ("the patient Long Field is unknown", f"the patient {MASK} is unknown"),
        ('status "inactive" is invalid', f"status {MASK} is invalid"),
        ("status 'in some error' is invalid", f"status {MASK} is invalid"),
        ("value:Smith is invalid", f"{MASK} is invalid"),
        ("Will Grant is deceased", f"{MASK} is deceased"),
        ("the patient May is deceased", f"the patient {MASK} is deceased"),
        ("subscriberId=ZZ9 (o'brien)", MASK),
        ("patient 'O'Brien' is unknown", f"patient {MASK} is unknown"),
        ("unterminated 'Maria Lopez", MASK),
        ("Müller", MASK),
        ("https://example.org/Patient/abc", MASK),
        ("", ""),
    ],
)  # fmt: skip
def test_only_known_words_are_left_of_what_canvas_says(given_text: str, expected: str) -> None:
    assert masked(given_text) == expected


@given(
    st.sampled_from(["{} is invalid", "Patient {} not found", "value: {}.", "payor[0].{}", "({}) - no", "id '{}'"]),
    st.from_regex(r"[A-Za-z]*[0-9][A-Za-z0-9.,/-]*", fullmatch=True) | st.text(st.characters(categories=["Lo", "Lt", "Lm"]), min_size=1),
)  # fmt: skip
def test_no_number_and_no_foreign_letter_is_left(template: str, value: str) -> None:
    left = masked(template.format(value)).replace("payor[0]", "")
    assert not any(each.isdigit() or (each.isalpha() and not each.isascii()) for each in left)


def test_the_libraries_are_the_ones_that_their_readme_names() -> None:
    vendor = resources.files("pipeline.reporting") / "vendor"
    told = re.findall(r"\| `(.+?)` \|.*\| `([0-9a-f]{64})` \|", (vendor / "README.md").read_text())
    assert len(told) == 3
    for name, sha256 in told:
        assert hashlib.sha256((vendor / name).read_bytes()).hexdigest() == sha256
        assert any(each.name.startswith("LICENSE") or each.name == "License.txt" for each in (vendor / name.split("/")[0]).iterdir())  # fmt: skip
