"""The sample data: what became of each row is what the row was made to be."""

import asyncio
import hashlib
import json
import re
import shutil
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.app import demo
from pipeline.commands import run as engine
from pipeline.job import Progress
from pipeline.reporting.terminal import summary_text
from pipeline.sandbox import Sandbox
from tests.support.world import seed

pytestmark = pytest.mark.slow  # runs the demo

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "sample_data"


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> engine.Result:
    folder = tmp_path_factory.mktemp("demo")
    return asyncio.run(
        demo.run_demo(Progress(), asyncio.Event(), "none", folder, rate_per_s=5000.0)
    )


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((SAMPLE / "expected.json").read_text())
    return found


@pytest.mark.parametrize("feed", ["eligibility", "ledger", "copays"])
def test_counts_and_amounts(result: engine.Result, expected: dict[str, Any], feed: str) -> None:
    summary = next(each for each in result.summary["feeds"] if each["name"] == feed)
    assert summary["rows_read"] == expected[feed]["rows_read"]
    assert {word: count for word, count in summary["dispositions"].items() if count} == expected[
        feed
    ]["dispositions"]
    for word, amount in expected[feed].get("amount_usd", {}).items():
        assert Decimal(summary["amount_usd"][word]) == Decimal(amount)
    assert summary.get("amounts_unreadable") == expected[feed].get("amounts_unreadable")
    assert summary["balanced"]


def test_every_wrong_row_breaks_its_rules_and_no_other(
    result: engine.Result, expected: dict[str, Any]
) -> None:
    wrong = {
        (line["file"], line["row"]): (line["disposition"], line["rules"])
        for feed in expected.values()
        for line in feed["wrong"]
    }
    frame = result.frame.filter(pl.col("disposition").is_in(["rejected", "refused", "duplicate"]))
    found = {
        (file, row): (disposition, rule.split("; "))
        for file, row, disposition, rule in frame.select(
            "file", "row", "disposition", "rule"
        ).iter_rows()
    }
    assert set(found) == set(wrong)
    for place, (disposition, rules) in wrong.items():
        assert found[place][0] == disposition, place
        if rules == ["canvas"]:
            assert found[place][1][0].startswith("canvas|"), place
        else:
            assert found[place][1] == rules, place


def test_the_readme_shows_what_the_demo_prints(result: engine.Result) -> None:
    block = re.search(r"```text\n(Run .*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block is not None
    shown = re.sub(r"\d{8}T\d{6}Z-\w{4}", result.run_id, block[1]).splitlines()
    printed = summary_text(result.summary, f"demo/reports/{result.run_id}", None).splitlines()
    assert len(shown) == len(printed)
    for line, whole in zip(shown, printed, strict=True):
        if not line.startswith("Requests: "):  # these depend on the machine
            assert whole.startswith(line.removesuffix("..."))
            assert line == whole or line.endswith("...")


def test_every_rule_of_the_readme_has_a_row(expected: dict[str, Any]) -> None:
    rules = {rule for feed in expected.values() for line in feed["wrong"] for rule in line["rules"]}
    assert len(rules) >= 30


def test_the_files_are_made_anew_to_the_byte(tmp_path: Path) -> None:
    for name in ("make.py", "make_834.py"):
        shutil.copy(SAMPLE / name, tmp_path)
        subprocess.run([sys.executable, tmp_path / name], check=True)
    for path in sorted(SAMPLE.iterdir()):
        if path.is_file():
            assert (
                hashlib.sha256((tmp_path / path.name).read_bytes()).digest()
                == hashlib.sha256(path.read_bytes()).digest()
            ), path.name


def test_the_page_of_the_demo_needs_nothing_from_outside(result: engine.Result) -> None:
    text = (result.folder / "report.html").read_text()
    assert "default-src 'none'" in text
    markup = re.sub(r"(?s)<script>.*?</script>", "", text)
    assert "src=" not in markup
    assert set(re.findall(r"href=.", markup)) == {'href="'}
    reports = result.folder.parent
    for target in re.findall(r'href="([^"]*)', markup):
        if not target.startswith("#"):  # a file of a report, beside the page or beside its folder
            assert re.fullmatch(r"(\.\./[\w-]+/)?[\w-]+\.(csv|parquet|json|html)", target)
            assert (result.folder / target).resolve().is_relative_to(reports)
            assert (result.folder / target).is_file()


@pytest.mark.parametrize("is_seeded", [True, False])
async def test_a_local_canvas_without_patients_says_what_it_lacks(is_seeded: bool) -> None:
    stop, said = asyncio.Event(), list[str]()
    stop.set()
    await demo.serve_until(stop, Sandbox(seed(2) if is_seeded else None), 0, said.append)
    assert any("--seed FILE" in line for line in said) is not is_seeded
