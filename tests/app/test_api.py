"""The Python API, as a script and a notebook meet it."""

import asyncio
import contextlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import nbformat
import polars as pl
import pytest
import structlog
from nbclient import NotebookClient

import pipeline
from pipeline.errors import ConfigError, InputError, LimitError, PlanError
from tests.support.world import CREDENTIALS, FEEDS, LEDGER_ONLY, MakeWorld, patient_key

pytestmark = pytest.mark.slow  # starts programs

ROOT = Path(__file__).parents[2]
ROWS = [(f"T{n}", patient_key(n % 5), f"{n + 1}.25", "") for n in range(10)]


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)


def ledger(rows: Sequence[tuple[str, ...]] = ROWS) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=["TXN", "MRN", "Amount", "Claim"], orient="row")


# A loop that runs, and none -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plan", "run", "report", "verify"])
async def test_where_a_loop_runs_the_error_says_to_await(name: str) -> None:
    """And nothing is left that was never awaited: pytest makes such a warning an error."""
    with pytest.raises(RuntimeError, match=rf"write `await pipeline\.{name}\(\.\.\.\)`"):
        getattr(pipeline, f"{name}_sync")("nightly.toml")


async def test_a_script_without_a_loop(make_world: MakeWorld) -> None:
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY)
    result = await asyncio.to_thread(
        pipeline.run_sync, world.config, inputs={"ledger": ledger()}, expected=["ledger:rows=10"]
    )
    assert (result.exit_code, result.frame["disposition"].unique().to_list()) == (0, ["created"])
    verified = await asyncio.to_thread(pipeline.verify_sync, world.config)
    assert verified.frame["outcome"].unique().to_list() == ["match"]
    again = await asyncio.to_thread(pipeline.report_sync, world.config, run_id=result.run_id)
    assert again.frame.equals(result.frame)
    planned = await asyncio.to_thread(
        pipeline.plan_sync, world.config, inputs={"ledger": ledger()}, only_feeds=["ledger"]
    )
    assert planned.frame["disposition"].unique().to_list() == ["unchanged"]


# What goes in -------------------------------------------------------------------------------------


async def test_a_frame_of_typed_columns_goes_in_as_its_texts(make_world: MakeWorld) -> None:
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY)
    typed = ledger().with_columns(pl.col("Amount").cast(pl.Decimal(10, 4)), Claim=pl.lit(None))
    await pipeline.run(world.config, inputs={"ledger": ledger()})
    again = await pipeline.run(world.config, inputs={"ledger": typed})
    assert again.frame["disposition"].unique().to_list() == ["unchanged"]
    assert again.frame["row"].to_list() == list(range(1, 11))


class Table:
    """As pandas, PyArrow and DuckDB hand on their tables: by the Arrow PyCapsule interface alone."""

    def __init__(self, rows: pl.DataFrame) -> None:
        self._rows = rows

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:  # noqa: D105
        return self._rows.__arrow_c_stream__(requested_schema)


@pytest.mark.parametrize("given", [pl.DataFrame.lazy, Table], ids=["LazyFrame", "Arrow table"])
async def test_rows_of_other_libraries_are_read_as_those_of_a_frame(
    make_world: MakeWorld, given: Callable[[pl.DataFrame], Any]
) -> None:
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY)
    await pipeline.run(world.config, inputs={"ledger": ledger()})
    again = await pipeline.run(world.config, inputs={"ledger": given(ledger())})
    assert again.frame["disposition"].unique().to_list() == ["unchanged"]


async def test_midnights_of_a_frame_are_days(make_world: MakeWorld) -> None:
    """Not every library has a type for days."""
    world = await make_world()
    world.write_config(
        feeds=LEDGER_ONLY.replace("[feeds.columns]", '[feeds.columns]\nposted_on = "Day"')
    )
    days = ledger().with_columns(Day=pl.lit(date(2026, 1, 2)))
    midnights = days.with_columns(pl.col("Day").cast(pl.Datetime("ns")))
    await pipeline.run(world.config, inputs={"ledger": days})
    again = await pipeline.run(world.config, inputs={"ledger": midnights})
    assert again.frame["disposition"].unique().to_list() == ["unchanged"]


async def test_an_input_that_is_neither_a_path_nor_rows_is_named(make_world: MakeWorld) -> None:
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY)
    with pytest.raises(ConfigError, match=r'inputs\["ledger"\]: expected a path or rows, got list'):
        await pipeline.plan(world.config, inputs={"ledger": [{"TXN": "1"}]})  # type: ignore[dict-item]


async def test_only_feeds_leaves_the_others_out(make_world: MakeWorld) -> None:
    world = await make_world()
    world.write_config(feeds=FEEDS)
    world.write_ledger(ROWS)  # and no file of the other feed
    result = await pipeline.run(world.config, only_feeds=["ledger"])
    assert [feed["name"] for feed in result.summary["feeds"]] == ["ledger"]
    assert result.exit_code == 0
    both = await pipeline.plan(world.config)
    assert isinstance(both.failure, InputError)


async def test_control_totals_are_those_of_the_command_line(make_world: MakeWorld) -> None:
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY)
    world.write_ledger(ROWS)
    result = await pipeline.run(world.config, expected=["ledger:rows=10", "ledger:total_usd=1.00"])
    assert isinstance(result.failure, LimitError)
    assert world.effects == []
    with pytest.raises(ConfigError, match="not understood"):
        await pipeline.plan(world.config, expected=["ledger:sum=1"])


async def test_a_plan_is_carried_out_or_refused(make_world: MakeWorld) -> None:
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY)
    planned = await pipeline.plan(world.config, inputs={"ledger": ledger()})
    other = await pipeline.run(
        world.config, inputs={"ledger": ledger(ROWS[:9])}, plan_id=planned.run_id
    )
    assert isinstance(other.failure, PlanError)
    assert world.effects == []
    same = await pipeline.run(world.config, inputs={"ledger": ledger()}, plan_id=planned.run_id)
    assert (same.exit_code, len(world.effects)) == (0, 10)
    with pytest.raises(PlanError):
        await pipeline.run(
            world.config, inputs={"ledger": ledger()}, plan_id="20260101T000000Z-0000"
        )


async def test_until_is_an_instant_with_its_zone(make_world: MakeWorld) -> None:
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY)
    with pytest.raises(ConfigError, match="no time zone"):
        await pipeline.run(
            world.config,
            inputs={"ledger": ledger()},
            until=datetime(2026, 11, 21, 5, 30),  # noqa: DTZ001
        )
    over = await pipeline.run(
        world.config, inputs={"ledger": ledger()}, until=datetime.now(UTC) - timedelta(seconds=1)
    )
    assert over.exit_code == 1
    assert world.effects == []
    with pytest.raises(ConfigError, match="half past five: write a time of day"):
        await pipeline.run(world.config, until="half past five")


# What comes out -----------------------------------------------------------------------------------


async def test_a_result_is_short_and_shows_no_row(make_world: MakeWorld) -> None:
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY)
    rows = [*ROWS, ("T99", "nobody", "<b>7.77</b>", "")]
    result = await pipeline.run(world.config, inputs={"ledger": ledger(rows)})
    shown = result._repr_html_()
    assert "<td>ledger</td><td>11</td><td>10</td><td>1</td>" in shown
    assert "<th>created</th><th>rejected</th>" in shown
    assert "<td>USD</td><td>57.50</td><td>57.50</td><td>0.00</td>" in shown
    verified = await pipeline.verify(world.config)
    assert "<th>match</th>" in verified._repr_html_()
    for text in (shown, verified._repr_html_(), repr(result), repr(verified)):
        assert "7.77" not in text
        assert patient_key(1) not in text
        assert len(text) < 2_000
    assert repr(result).startswith(f"Result(run_id='{result.run_id}', exit_code=3, folder=")


async def test_a_failure_is_shown_and_escaped(make_world: MakeWorld) -> None:
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY.replace('path = "ledger.csv"', 'path = "in/<x>.csv"'))
    result = await pipeline.plan(world.config)
    assert "no file is there for feed ledger" in result._repr_html_()
    assert "<x>" not in result._repr_html_()


async def test_a_failure_is_raised_if_the_caller_asks_for_it(make_world: MakeWorld) -> None:
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY)
    failed = await pipeline.plan(world.config)  # without its file
    with pytest.raises(InputError) as raised:
        failed.raise_for_failure()
    assert raised.value.fix
    rows = [*ROWS, ("T0", patient_key(1), "9.99", "")]
    rejected = await pipeline.run(world.config, inputs={"ledger": ledger(rows)})
    assert rejected.exit_code == 3
    rejected.raise_for_failure()


async def test_instants_of_a_result_are_datetimes(make_world: MakeWorld) -> None:
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY)
    before = datetime.now(UTC) - timedelta(seconds=1)
    result = await pipeline.run(world.config, inputs={"ledger": ledger()})
    assert isinstance(result, pipeline.Result)
    sent = result.frame["sent_at"]
    assert sent.dtype == pl.Datetime("ms", "UTC")
    assert sent.is_between(before, datetime.now(UTC)).all()
    verified = await pipeline.verify(world.config)
    assert verified.frame.height == 10


@contextlib.contextmanager
def unconfigured() -> Iterator[None]:
    """Logging as a program finds it that has set up none."""
    before = structlog.get_config() if structlog.is_configured() else None
    structlog.reset_defaults()
    try:
        yield
    finally:
        structlog.reset_defaults()
        if before is not None:
            structlog.configure(**before)


async def test_it_prints_nothing_but_warnings_and_those_on_stderr(
    make_world: MakeWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY)
    with unconfigured():
        await pipeline.run(world.config, inputs={"ledger": ledger()})
        assert capsys.readouterr() == ("", "")
        failed = await pipeline.run(
            world.config, inputs={"ledger": ledger()}, expected=["ledger:rows=1"]
        )
    out, err = capsys.readouterr()
    assert out == ""
    assert re.search(rf"error.*run_failed.*run_id={failed.run_id}\n$", err)


async def test_logging_that_a_program_has_set_up_is_left_alone(make_world: MakeWorld) -> None:
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY)
    with unconfigured(), structlog.testing.capture_logs():
        structlog.configure(processors=structlog.get_config()["processors"])
        before = structlog.get_config()
        await pipeline.plan(world.config, inputs={"ledger": ledger()})
        assert structlog.get_config() == before


# Types --------------------------------------------------------------------------------------------

SCRIPT = """\
import asyncio
from datetime import datetime, timedelta

import polars as pl

import pipeline


async def nightly(frame: pl.DataFrame) -> int:
    planned: pipeline.Result = await pipeline.plan("nightly.toml", inputs={"ledger": frame}, only_feeds=["ledger"])
    result = await pipeline.run(
        "nightly.toml",
        inputs={"ledger": frame},
        only_feeds=["ledger"],
        expected=["ledger:rows=5000"],
        plan_id=planned.run_id,
        until=datetime.now().astimezone() + timedelta(hours=2),
    )
    rejected: pl.DataFrame = result.frame.filter(pl.col("disposition") == "rejected")
    await pipeline.plan("nightly.toml", inputs={"ledger": frame.lazy(), "eligibility": "roster.xlsx"})
    await pipeline.verify("nightly.toml", sample=100, since="2026-11-21")
    reveal_type(result)
    return rejected.height + result.exit_code


asyncio.run(nightly(pl.DataFrame()))
pipeline.run_sync("nightly.toml", journal_lost=True)
pipeline.run_sync("nightly.toml", plan=3)
"""


def test_a_script_of_a_user_is_checked_by_its_types(tmp_path: Path) -> None:
    """`py.typed` is there, and signatures say what they take: the last line is the one that is wrong."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", "script.py"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={
            "PATH": "",
            "MYPYPATH": "",
            "PYTHONPATH": str(ROOT),
            "MYPY_CACHE_DIR": str(ROOT / ".mypy_cache" / "user"),
        },
    )
    lines = checked.stdout.splitlines()
    assert 'Revealed type is "pipeline.commands.run.Result"' in lines[0]
    assert 'Unexpected keyword argument "plan" for "run_sync"' in lines[1]
    assert len(lines) == 4, checked.stdout  # a note of where it is defined, and the sum


# The notebook -------------------------------------------------------------------------------------


def the_notebook() -> Any:
    return nbformat.read(ROOT / "docs" / "notebook.ipynb", as_version=4)  # type: ignore[no-untyped-call]


def test_the_notebook_is_kept_without_outputs() -> None:
    """They would go stale, and might hold what is nobody's business."""
    cells = the_notebook().cells
    assert [cell.id for cell in cells if cell.get("outputs") or cell.get("execution_count")] == []


def test_the_notebook_does_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pandas", "pyarrow", "duckdb"):
        pytest.importorskip(name, reason="make checks installs it")
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "TMPDIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = the_notebook()
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    shown = {
        cell.id: "".join(
            text for told in cell.get("outputs", ()) for text in told.get("data", {}).values()
        )
        for cell in notebook.cells
    }
    streams = [
        told for cell in notebook.cells for told in cell.get("outputs", ()) if "text" in told
    ]
    assert streams == [], "it prints nothing beside what its cells come to"
    assert "exit_code=3" in shown["plan"]
    assert [rule in shown["why"] for rule in ("amount|form", "patient|unknown")] == [True, True]
    assert "exit_code=0" in shown["fix"]
    assert "exit_code=3" in shown["run"]
    assert "canvas|business-rule" in shown["lines"]
    assert "unchanged" in shown["rerun"]
    assert "refused" in shown["rerun"]
    again = ["unchanged", "unchanged", "unchanged", "unchanged", "pending"]
    assert shown["others"].replace("\n", "").replace(" ", "") == str([again] * 2).replace(" ", "")
    assert "('created', 4, Decimal('215.50'))" in shown["sums"]
    assert "exit_code=0" in shown["verify"]
    assert shown["money"] == "{'usd_journal': '215.50', 'usd_canvas': '215.50'}"
