"""`plan --format markdown`: what a pull request or a chat shows, read back by a parser of Markdown."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from pipeline.commands import run as engine
from pipeline.reporting.markdown import plan_markdown
from tests.support.runs import command, payments
from tests.support.world import FEEDS, LEDGER_ONLY, MakeWorld, World, patient_key

SHOUT = "ledger_a|b`<b>*x*@team#1[y](http://z)_.csv"


def tokens(text: str) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(text)


def tables(text: str) -> list[list[list[str]]]:
    """The tables, each as lines of cells, as a reader sees them."""
    found: list[list[list[str]]] = []
    for token in tokens(text):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type == "inline" and token.level == 4 and found:
            children = token.children or []
            found[-1][-1].append("".join(each.content for each in children))
    return found


async def world_of(make_world: MakeWorld) -> World:
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY)
    world.write_ledger(
        [
            ("TXN-1", patient_key(1), "1012.50", ""),
            ("TXN-2", patient_key(1), "n/a", ""),
            ("TXN-3", "", "12.505", ""),
        ]
    )
    return world


async def test_totals_dollars_reasons_and_the_next_step(make_world: MakeWorld) -> None:
    world = await world_of(make_world)
    result = await engine.plan(world.job())
    text = plan_markdown(result.summary, "reports/r", "my.toml")
    totals, reasons = tables(text)
    assert totals == [
        ["feed", "read", "rejected", "pending"],
        ["ledger", "3", "2", "1"],
        ["ledger USD", "1,012.50", "0.00", "1,012.50"],
    ]
    assert "- 2 amounts of ledger cannot be read. In dollars each counts as 0.00." in text
    assert reasons[0] == ["feed", "rejected because of", "rows"]
    assert {tuple(line) for line in reasons[1:]} == {
        ("ledger", "amount|form", "1"),
        ("ledger", "amount|decimals", "1"),
        ("ledger", "patient|required", "1"),
    }
    assert text.startswith(
        "**Plan: 1 to create, 0 to update, 0 unchanged, 2 rejected. USD 1,012.50."
    )
    assert "Exit 3: planned, with rows rejected." in text
    commands = [token.content.strip() for token in tokens(text) if token.type == "fence"]
    assert f"canvas-ingest run my.toml --plan {result.run_id}" in commands
    for value in ("TXN-2", patient_key(1), "n/a", "12.505"):
        assert value not in text


async def test_names_of_files_make_no_links_mentions_or_html(make_world: MakeWorld) -> None:
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY)
    (world.folder / SHOUT.replace("/", "")).write_text("TXN,MRN\n")
    path = world.folder / SHOUT.replace("/", "")
    result = await engine.plan(world.job(inputs={"ledger": path}))
    text = plan_markdown(result.summary, "reports/r", "my.toml")
    assert result.exit_code == 1
    kinds = {each.type for token in tokens(text) for each in token.children or []}
    assert kinds <= {"text", "text_special", "strong_open", "strong_close", "softbreak", "entity"}
    shown = "".join(
        each.content for token in tokens(text) for each in token.children or [] if each.content
    )
    assert path.name in shown, "as it is"
    assert not re.search(r"(?<!&#64;)@team", text)
    assert text.startswith("**Plan: Stopped before anything was sent.**")
    assert "**Failed:**" in text


async def test_the_command_prints_it_and_keeps_its_exit_code(make_world: MakeWorld) -> None:
    world = await world_of(make_world)
    process, out, err = await command(world, "plan", "--format", "markdown", "-q")
    assert process.returncode == 3, err
    assert len(tables(out)) == 2
    process, out, err = await command(world, "plan", "--format", "markdown", "--json")
    assert (process.returncode, out) == (2, "")
    assert "--json and --format: keep one" in err


async def test_feeds_and_warnings_each_have_a_line(make_world: MakeWorld) -> None:
    world = await make_world()
    world.write_config(feeds=FEEDS)
    rows = [
        (patient_key(n), f"M{n}", "self", "60054", "1", "2026-01-01", "9999-12-31") for n in (1, 2)
    ]
    world.write_eligibility(rows)
    world.write_ledger(payments(2))
    text = plan_markdown((await engine.plan(world.job())).summary, "reports/r", "my.toml")
    ((_, *lines),) = tables(text)
    assert [line[0] for line in lines] == ["eligibility", "ledger", "ledger USD"]
    assert '- Warning: eligibility: 2 dates mean "no date"' in text


@pytest.mark.slow
def test_a_plan_that_leaves_no_report_says_so_on_stderr(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pipeline",
            "plan",
            str(tmp_path / "no.toml"),
            "--format",
            "markdown",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "cannot read" in done.stderr
