"""The page's verdict, its links, the charts of the last runs, and how it is used on a narrow screen."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from pipeline.app.config.load import load
from pipeline.commands import run as engine
from pipeline.commands.verify import read_back
from pipeline.reporting.history import RUNS, history
from tests.support.browser import apart, in_world, tab, violations
from tests.support.runs import coverages, payments
from tests.support.world import CREDENTIALS, LEDGER_ONLY, World, patient_key

pytestmark = pytest.mark.slow  # whole pages

ROSTER_AND_LEDGER = (
    """
[[feeds]]
name = "roster"
kind = "eligibility"
path = "eligibility.csv"
missing = "report"
[feeds.columns]
patient = "MRN"
member_id = "Member"
relationship = "Rel"
payer = "Payer"
order = "Order"
start_on = "Start"
end_on = "End"
"""
    + LEDGER_ONLY
)


@dataclass
class Nights:
    """Three runs, a plan and a verification of one report folder."""

    reports: Path
    runs: list[engine.Result]
    plan: engine.Result
    verification: engine.Result


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Nights:
    results: list[engine.Result] = []

    async def work(world: World) -> engine.Result:
        for night in range(3):
            world.write_eligibility(coverages(20 - night))
            wrong = ("T900", patient_key(3), "1,25", "")
            world.write_ledger([*payments(30 + 10 * night), wrong])
            results.append(await world.run())
        results.append(await engine.plan(world.job()))
        results.append(await read_back(world.job()))
        return results[-1]

    in_world(tmp_path_factory.mktemp("nights"), work, {"feeds": ROSTER_AND_LEDGER})
    *runs, plan, verification = results
    assert [run.exit_code for run in runs] == [3, 3, 3]
    return Nights(runs[0].folder.parent, runs, plan, verification)


def links_of(page: Path) -> list[str]:
    return [unquote(each) for each in re.findall(r'<a[^>]* href="([^"#]+)"', page.read_text())]


# The verdict and the files ------------------------------------------------------------------------


def test_the_verdict_has_the_dollars(browser: Any, nights: Nights) -> None:
    result = nights.runs[-1]
    ledger = result.summary["feeds"][-1]["amount_usd"]
    with tab(browser, result.folder / "report.html") as opened:
        text = opened.page.inner_text("#verdict")
    for word in ("read", "created", "unchanged"):
        assert f"USD {float(ledger[word]):,.2f}" in text, word
    assert "1 row" in text.partition("rejected")[2]


def test_the_verdict_of_a_plan_has_what_would_be_sent(nights: Nights) -> None:
    text = (nights.plan.folder / "report.html").read_text()
    verdict = text[text.index('id="verdict-title"') : text.index("Files beside this page")]
    assert "unchanged" in verdict
    assert "USD" in verdict


def test_each_link_leads_to_a_file_that_is_there(browser: Any, nights: Nights) -> None:
    for result in (*nights.runs, nights.plan, nights.verification):
        page = result.folder / "report.html"
        links = links_of(page)
        assert {"summary.json"} <= set(links)
        for link in links:
            assert not link.startswith("/")
            assert (page.parent / link).is_file(), link
    last = nights.runs[-1].folder / "report.html"
    assert {
        *("rejects-ledger.csv", "missing-roster.csv"),
        *("reconciliation.csv", "reconciliation.parquet", "summary.json"),
    } <= set(links_of(last))
    assert "rejects-roster.csv" not in links_of(last), "it has no row"
    with tab(browser, last) as opened:
        found = opened.do(
            "[...document.querySelectorAll('#verdict a')].every(each => each.href.startsWith('file:'))"
        )
    assert found


def test_it_begins_with_what_needs_attention(browser: Any, nights: Nights) -> None:
    with tab(browser, nights.runs[-1].folder / "report.html") as opened:
        opened.rows()
        headings = opened.do("[...document.querySelectorAll('h2')].map(each => each.textContent)")
        assert opened.info.startswith("Rows 1 to 1 of 1 (filtered from ")
        assert opened.column(4) == ["rejected"]
    assert headings[:3] == ["Files beside this page", "Rejected, by rule", "Control totals"]


def test_a_plan_opens_on_what_is_wrong_and_not_on_what_it_would_send(
    browser: Any, tmp_path: Path
) -> None:
    async def work(world: World) -> engine.Result:
        world.write_ledger([*payments(9), ("T900", patient_key(3), "1,25", "")])
        return await engine.plan(world.job())

    result = in_world(tmp_path, work, {"feeds": LEDGER_ONLY})
    with tab(browser, result.folder / "report.html") as opened:
        opened.rows()
        assert opened.column(4) == ["rejected"]


# The last runs ------------------------------------------------------------------------------------


def test_each_run_is_a_point_with_the_run_behind_it(browser: Any, nights: Nights) -> None:
    last = nights.runs[-1]
    with tab(browser, last.folder / "report.html") as opened:
        charts = opened.do(
            "[...document.querySelectorAll('.strip')].map(strip => ({"
            "word: strip.querySelector('.strip-word').textContent,"
            "links: [...strip.querySelectorAll('.point')].map(each => each.getAttribute('href')),"
            "titles: [...strip.querySelectorAll('title')].map(each => each.textContent),"
            "width: strip.querySelector('svg').getBoundingClientRect().width}))"
        )
        assert violations(opened) == []
    pages = [f"../{run.run_id}/report.html" for run in nights.runs[:-1]]
    assert [chart["word"] for chart in charts] == [
        *("read", "created", "unchanged", "rejected"),
        *("read", "created", "unchanged"),  # an amount that cannot be read counts as 0.00
    ]
    for chart in charts:
        assert chart["links"] == [*pages, None], "the last one is this page"
        assert chart["width"] > 0
    for run, title in zip(nights.runs, charts[0]["titles"], strict=True):
        assert run.run_id in title
        assert f"read {sum(feed['rows_read'] for feed in run.summary['feeds'])} rows" in title
    created = nights.runs[1].summary["feeds"][-1]["amount_usd"]["created"]
    assert f"created USD {float(created):,.2f}" in charts[5]["titles"][1]


def test_a_point_leads_to_the_page_of_its_run(browser: Any, nights: Nights) -> None:
    last, first = nights.runs[-1].folder / "report.html", nights.runs[0]
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.goto(last.as_uri())
    page.locator(".strip").first.locator(".point .hit").first.click()
    page.wait_for_url("**/report.html")
    assert first.run_id in page.url
    assert first.run_id in page.title()
    context.close()


def test_the_table_has_the_same_as_the_charts(browser: Any, nights: Nights) -> None:
    last = nights.runs[-1]
    with tab(browser, last.folder / "report.html") as opened:
        opened.page.click("section[aria-labelledby=history-title] summary")
        lines = opened.do(
            "[...document.querySelectorAll('section[aria-labelledby=history-title] tbody tr')]"
            ".map(each => each.textContent)"
        )
    assert len(lines) == 3
    for run, line in zip(reversed(nights.runs), lines, strict=True):
        assert run.run_id in line
        assert f"{float(run.summary['feeds'][-1]['amount_usd']['read']):,.2f}" in line


def test_a_plan_comes_after_the_runs(nights: Nights) -> None:
    runs = history(nights.plan.summary, nights.plan.folder).runs
    assert [run.run_id for run in runs] == [
        *(run.run_id for run in nights.runs),
        nights.plan.run_id,
    ]
    assert "Each bar is a run" in (nights.plan.folder / "report.html").read_text()


def test_of_a_first_run_it_says_that_there_is_none_before(nights: Nights) -> None:
    text = (nights.runs[0].folder / "report.html").read_text()
    assert "No earlier run is in this report folder." in text
    assert 'class="point"' not in text


def beside(nights: Nights, folder: Path, count: int) -> dict[str, Any]:
    """Put `count` summaries into a folder, and return one that is newer than all of them."""
    summary = nights.runs[-1].summary
    for number in range(count):
        write(folder, *earlier(summary, f"20260101T{number:06}Z-0000", number))
    return summary


def earlier(
    summary: dict[str, Any], run_id: str, second: int, **changes: Any
) -> tuple[str, dict[str, Any]]:
    began = f"2026-01-01T{second // 60:02}:{second % 60:02}:00+00:00"
    return run_id, summary | {"run_id": run_id, "started_at": began} | changes


def write(folder: Path, run_id: str, content: object) -> Path:
    path = folder / run_id / "summary.json"
    path.parent.mkdir()
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_the_newest_thirty_are_shown(nights: Nights, tmp_path: Path) -> None:
    summary = beside(nights, tmp_path, 200)
    found = history(summary, tmp_path / summary["run_id"])
    assert len(found.runs) == RUNS == 30
    assert [run.run_id for run in found.runs[:2]] == ["20260101T000171Z-0000", "20260101T000172Z-0000"]  # fmt: skip
    assert found.runs[-1].run_id == summary["run_id"]
    assert (found.unreadable, found.foreign) == (0, 0)


def test_among_many_plans_reading_is_bounded(nights: Nights, tmp_path: Path) -> None:
    summary = beside(nights, tmp_path, 10)
    for number in range(300):
        write(tmp_path, *earlier(summary, f"20260102T{number:06}Z-0000", number, command="plan"))
    assert len(history(summary, tmp_path / summary["run_id"]).runs) == 1


BROKEN: dict[str, Any] = {
    "no JSON": "{",
    "another shape": {"shape": 2},
    "a list": [],
    "no feeds": {"feeds": None},
    "negative rows": {"feeds": [{"rows_read": -1, "dispositions": {}}]},
    "no time": {"started_at": "yesterday"},
    "no zone": {"started_at": "2026-01-01T00:05:00"},
    "another run": {"run_id": "20260101T000009Z-0000"},
    "too large": " " * 5_000_000,
    "an unknown exit code": {"exit_code": 77},
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_no_summary_is_skipped_and_counted(
    nights: Nights, tmp_path: Path, what: str
) -> None:
    summary = beside(nights, tmp_path, 2)
    content = BROKEN[what]
    run_id = "20260101T000005Z-0000"
    if isinstance(content, dict):
        content = earlier(summary, run_id, 5)[1] | content
    write(tmp_path, run_id, content)
    found = history(summary, tmp_path / summary["run_id"])
    assert (len(found.runs), found.unreadable, found.foreign) == (3, 1, 0)


def test_a_link_a_pipe_and_another_journal_are_skipped(nights: Nights, tmp_path: Path) -> None:
    summary = beside(nights, tmp_path, 2)
    other = summary["journal"] | {"id": "another"}
    write(tmp_path, *earlier(summary, "20260101T000005Z-0000", 5, journal=other))
    target = write(tmp_path, "elsewhere", summary)
    (tmp_path / "20260101T000006Z-0000").mkdir()
    (tmp_path / "20260101T000006Z-0000" / "summary.json").symlink_to(target)
    (tmp_path / "20260101T000007Z-0000").mkdir()
    os.mkfifo(tmp_path / "20260101T000007Z-0000" / "summary.json")
    (tmp_path / "20260101T000008Z-0000").symlink_to(tmp_path / "20260101T000000Z-0000")
    (tmp_path / "20260101T000009Z-0000").mkdir()  # a run that was killed
    found = history(summary, tmp_path / summary["run_id"])
    assert (len(found.runs), found.unreadable, found.foreign) == (3, 2, 1)


def test_runs_of_one_second_are_in_the_order_in_which_they_began(
    nights: Nights, tmp_path: Path
) -> None:
    summary = beside(nights, tmp_path, 0)
    ids = [f"20260101T000000Z-{each}" for each in ("000c", "000a", "000d", "000b")]
    for second, run_id in enumerate(ids):
        write(tmp_path, *earlier(summary, run_id, second))
    _, third = earlier(summary, ids[2], 2)
    assert [run.run_id for run in history(summary, tmp_path / "x").runs[:-1]] == ids
    assert [run.run_id for run in history(third, tmp_path / ids[2]).runs] == ids[:3]


def test_the_page_says_what_is_not_shown(nights: Nights, tmp_path: Path) -> None:
    reports = nights.reports
    broken = write(reports, "20260101T000001Z-0000", "{")
    try:
        job_folder = nights.runs[1].folder
        found = history(nights.runs[1].summary, job_folder)
        assert (len(found.runs), found.unreadable) == (2, 1)
        again = apart(lambda: engine.report_again(load_job(nights), nights.runs[1].run_id))
        text = (again.folder / "report.html").read_text()
    finally:
        broken.unlink()
        broken.parent.rmdir()
    assert "Not shown: 1 of which summary.json cannot be read." in text


def load_job(nights: Nights) -> Any:
    return load(nights.reports.parent / "config.toml", environment=CREDENTIALS)


# Narrow screens -----------------------------------------------------------------------------------

FRAMES = (
    "[...document.querySelectorAll('.scroll, .dt-layout-table')].filter(each => each.checkVisibility()).map(each => ({"
    "name: each.getAttribute('aria-label'), scrolls: each.scrollWidth > each.clientWidth + 1,"
    "hint: getComputedStyle(each, '::before').content}))"
)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_table_that_scrolls_says_so(browser: Any, nights: Nights, scheme: str) -> None:
    with tab(browser, nights.runs[-1].folder / "report.html", 400, scheme) as opened:
        opened.rows()
        opened.page.click("section[aria-labelledby=history-title] summary")
        opened.until("document.querySelectorAll('.is-wide').length >= 3")
        frames = opened.do(FRAMES)
        assert opened.do("document.documentElement.scrollWidth") <= 400
        assert violations(opened) == []
    for frame in frames:
        assert ("Scroll sideways" in frame["hint"]) == frame["scrolls"], frame
    wide = {frame["name"] for frame in frames if frame["scrolls"]}
    assert {"Rows, to be scrolled sideways", "The last runs"} <= wide
    assert "Rows rejected, by rule" not in wide, "on a narrow screen a row is a block"
    assert not any("Control totals" in name for name in wide)


def test_on_a_wide_screen_nothing_scrolls_that_fits(browser: Any, nights: Nights) -> None:
    with tab(browser, nights.runs[-1].folder / "report.html", 1280) as opened:
        opened.rows()
        frames = opened.do(FRAMES)
    for frame in frames:
        assert ("Scroll sideways" in frame["hint"]) == frame["scrolls"], frame
    assert not any(
        frame["scrolls"] for frame in frames if frame["name"] != "Rows, to be scrolled sideways"
    )
