"""Whole runs of text files as senders write them: what is skipped, named, warned about and read from a pipe."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.app.config.arguments import inputs_of
from pipeline.errors import ConfigError
from tests.support.runs import command
from tests.support.world import LEDGER_ONLY, patient_key

HEADER = "TXN,MRN,Amount,Claim"


def option(text: str) -> str:
    """Return the ledger's section with one more option."""
    return LEDGER_ONLY.replace("[[feeds]]\n", f"[[feeds]]\n{text}\n")


def rows_of(count: int) -> str:
    return "".join(f"t{n},{patient_key(n)},5.00,\n" for n in range(count))


async def test_skipped_lines_are_counted_in_the_summary(make_world: Callable[..., Any]) -> None:
    world = await make_world()
    world.write_config(feeds=option("skip_lines = 1\nskip_footer = 1"))
    text = f"Clinic\n{HEADER}\n{rows_of(2)}Total: 10.00\n"
    (world.folder / "ledger.csv").write_text(text)
    result = await world.run()
    (feed,) = result.summary["feeds"]
    assert (result.exit_code, feed["dispositions"]["created"]) == (0, 2)
    assert feed["files"][0]["skipped"] == {"above": 1, "below": 1}
    page = next(world.folder.rglob("report.html")).read_text()
    assert "lines skipped: 2 (1 above the header, 1 after the last row)" in page


async def test_a_repeated_header_has_a_rule_of_its_own(make_world: Callable[..., Any]) -> None:
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY)
    text = f"{HEADER}\n{rows_of(1)}{HEADER}\n{rows_of(2)[len(rows_of(1)) :]}"
    (world.folder / "ledger.csv").write_text(text)
    result = await world.run()
    (feed,) = result.summary["feeds"]
    assert (result.exit_code, feed["rules"]) == (3, {"row|header": 1})
    assert feed["dispositions"]["created"] == 2


async def test_utf8_that_is_read_as_another_encoding_stops_a_run(
    make_world: Callable[..., Any],
) -> None:
    world = await make_world()
    world.write_config(feeds=option('encoding = "windows-1252"'))
    path = world.folder / "ledger.csv"
    path.write_text(f"{HEADER},Name\nt1,{patient_key(0)},5.00,,Zoë\n", "utf-8")
    result = await world.run()
    assert (result.exit_code, world.effects) == (1, [])
    assert "is valid UTF-8, and is read as windows-1252" in result.summary["failure"]
    path.write_text(f"{HEADER},Name\nt1,{patient_key(0)},5.00,,Zoë\n", "windows-1252")
    assert (await world.run()).exit_code == 0


async def test_a_table_of_references_may_have_a_title(make_world: Callable[..., Any]) -> None:
    world = await make_world()
    table = '[references.patient]\nhow = "file"\npath = "ids.csv"\nfrom = "mrn"\nto = "key"\n'
    (world.folder / "ids.csv").write_text(f"Export\nmrn,key\n7,{patient_key(0)}\n\n#\n")
    (world.folder / "ledger.csv").write_text(f"{HEADER}\nt1,7,5.00,\n")
    world.write_config(feeds=table + LEDGER_ONLY)
    result = await world.run()
    assert result.exit_code == 1
    assert "ids.csv: the header is in line 2" in result.summary["failure"]
    assert "set skip_lines = 1 for references.patient" in result.summary["failure"]
    options = 'skip_lines = 1\ncomment_prefix = "#"\nblank_lines = "skip"\n'
    world.write_config(feeds=table + options + LEDGER_ONLY)
    assert (await world.run()).exit_code == 0


async def test_standard_input_is_read_and_its_copy_is_deleted(
    make_world: Callable[..., Any],
) -> None:
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY)
    text = f"{HEADER}\n{rows_of(2)}".encode()
    checked, _, _ = await command(world, "check", "--input", "ledger=-", piped=text)
    assert checked.returncode == 0
    ran, out, _ = await command(world, "run", "--json", "--input", "ledger=-", piped=text)
    (feed,) = json.loads(out)["feeds"]
    assert (ran.returncode, feed["dispositions"]["created"]) == (0, 2)
    assert feed["files"][0]["path"] == "standard input"
    assert list(world.folder.rglob("standard-input*")) == []


async def test_standard_input_may_be_a_workbook_and_not_empty(
    make_world: Callable[..., Any], tmp_path: Path
) -> None:
    openpyxl = pytest.importorskip("openpyxl", reason="make checks")
    book = openpyxl.Workbook()
    for row in (HEADER.split(","), ["T1", patient_key(0), 5, None]):
        book.active.append(row)
    book.save(tmp_path / "a.xlsx")
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY)
    given = ("run", "--json", "--input", "ledger=-")
    ran, out, _ = await command(world, *given, piped=(tmp_path / "a.xlsx").read_bytes())
    assert (ran.returncode, json.loads(out)["feeds"][0]["dispositions"]["created"]) == (0, 1)
    empty, shown, _ = await command(world, *given[:1], *given[2:], piped=b"")
    assert empty.returncode == 1
    assert "is empty (0 bytes)" in shown


def test_standard_input_is_read_once(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from pipeline.reading.piped import copy_standard_input as copy;"
        "[Path(each).mkdir() for each in sys.argv[1:]]; copy(Path(sys.argv[1])).unlink(); copy(Path(sys.argv[2]))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "a", tmp_path / "b"],
        input=b"A,B\n", capture_output=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 1
    assert b"standard input: it was read before" in ended.stderr


def test_standard_input_is_for_one_feed_and_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="standard input is named for a and b"):
        inputs_of(["a=-", "b=-"])
    ours, theirs = os.openpty()
    try:
        with os.fdopen(theirs) as terminal:
            monkeypatch.setattr("sys.stdin", terminal)
            with pytest.raises(ConfigError, match="is a terminal"):
                inputs_of(["a=-"])
    finally:
        os.close(ours)


async def test_a_reject_file_has_no_lines_to_be_left_out(make_world: Callable[..., Any]) -> None:
    world = await make_world()
    more = 'skip_lines = 1\nskip_footer = 1\ncomment_prefix = "#"'
    world.write_config(feeds=option(more))
    rows = '"#t1",?,5.00,\nt2,?,6.00,\n'
    (world.folder / "ledger.csv").write_text(f"Clinic\n{HEADER}\n{rows}Total\n")
    result = await world.run()
    assert (result.exit_code, result.summary["feeds"][0]["dispositions"]["rejected"]) == (3, 2)
    rejects = result.folder / "rejects-ledger.csv"
    rejects.write_text(rejects.read_text().replace("?", patient_key(1)))
    again = await world.run(inputs={"ledger": str(rejects)})
    assert (again.exit_code, again.summary["failure"]) == (0, "")
    assert again.summary["feeds"][0]["dispositions"]["created"] == 2


async def test_a_row_with_a_blank_cell_is_no_footer(make_world: Callable[..., Any]) -> None:
    world = await make_world()
    world.write_config(feeds=option("skip_footer = 1"))
    (world.folder / "ledger.csv").write_text(f"{HEADER}\n{rows_of(2)}")
    result = await world.run()
    assert (result.exit_code, world.effects) == (1, [])
    assert "ledger.csv:3 (row 2): skip_footer = 1 leaves out this line" in result.summary["failure"]


async def test_a_pipe_is_no_file(make_world: Callable[..., Any]) -> None:
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY)
    os.mkfifo(world.folder / "ledger.csv")
    result = await world.run()
    assert (result.exit_code, world.effects) == (1, [])
    assert "ledger.csv: it is a pipe or a device" in result.summary["failure"]
