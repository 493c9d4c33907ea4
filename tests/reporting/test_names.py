"""Whatever files and columns are called, a run can report, and rejected rows are returned as sent."""

import asyncio
import csv
import os
import sys
from datetime import date
from pathlib import Path

import polars as pl
import pytest

from pipeline.app.config.load import load
from pipeline.commands import run as engine
from pipeline.errors import ConfigError
from tests.support.outputs import Refusing, cells_of
from tests.support.planted import mirrored
from tests.support.reports import planned, write
from tests.support.runs import command
from tests.support.world import LEDGER_ONLY, MakeWorld, patient_key

OURS = ["_row", "_stage", "_field", "_rule", "_message", "_file"]
INTERNAL = [
    "seq", "row", "file", "stage", "field", "rule", "message", "key", "disposition", "index",
    "run_id", "_seq", "_id", "__", "_key", "seq_right", "literal", "len",
]  # fmt: skip
PATTERNS = ["*", "^A.*$", "^.*$", "**", "", " ", "a.*b", "\\*"]
FIRST = ["TXN", "MRN", "Amount", "Claim"]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("names", [INTERNAL, OURS, ["_run", "__run"], ["_row"], PATTERNS], ids=repr)
def test_a_rejected_row_is_returned_as_sent_whatever_its_columns_are_called(
    tmp_path: Path, names: list[str], suffix: str
) -> None:
    header = [*FIRST, *names]
    sent = [(f"t{n}", "p1", "x", "", *(f"{name}-{n}" for name in names)) for n in range(3)]
    path = tmp_path / f"ledger.{suffix}"
    if suffix == "csv":
        write(path, header, sent)
    else:
        columns = dict(zip(header, zip(*sent, strict=True), strict=True))
        pl.DataFrame({name: list(cells) for name, cells in columns.items()}).write_parquet(path)
    result = planned(tmp_path, LEDGER_ONLY.replace("ledger.csv", path.name))
    assert result.failure is None
    assert result.frame["rule"].to_list() == ["amount|form"] * 3
    rejects = result.folder / "rejects-ledger.csv"
    lines = list(csv.reader(rejects.read_text().splitlines()))
    assert lines[0][: len(header)] == header
    assert len(set(lines[0])) == len(lines[0]) == len(header) + 8
    assert [tuple(line[: len(header)]) for line in lines[1:]] == sent

    again = tmp_path / "again.csv"
    again.write_text(rejects.read_text().replace(",x,", ",5.00,", 2))
    job = load(tmp_path / "config.toml", environment={}, inputs={"ledger": again})
    second = asyncio.run(engine.plan(job))
    assert second.frame["disposition"].to_list() == ["pending", "pending", "rejected"]
    assert second.summary["feeds"][0]["mended_from"] == [result.run_id]
    left = cells_of(second.folder / "rejects-ledger.csv")
    assert [[line[name] for name in header] for line in left] == [list(sent[2])]


@pytest.mark.parametrize("column", ["seq", "*", "^A.*$", "^T.*$", "key", "row", "_id"])
def test_a_mapped_column_may_have_any_name(tmp_path: Path, column: str) -> None:
    header = ["TXN", "MRN", column, "Claim", "Amount due"]
    rows = [("t1", "p1", "5.00", "", "9"), ("t2", "p2", "x", "", "9")]
    write(tmp_path / "ledger.csv", header, rows)
    result = planned(tmp_path, LEDGER_ONLY.replace('"Amount"', f'"{column}"'))
    assert result.failure is None
    assert result.frame["disposition"].to_list() == ["pending", "rejected"]
    assert result.frame["amount_usd"].to_list()[0] is not None
    (line,) = cells_of(result.folder / "rejects-ledger.csv")
    assert tuple(line[name] for name in header) == rows[1]


def test_columns_of_a_crosswalk_may_have_any_name(tmp_path: Path) -> None:
    write(tmp_path / "ids.csv", ["*", "^A.*$", "A"], [("p1", patient_key(1), "no")])
    write(tmp_path / "ledger.csv", FIRST, [("t1", "p1", "5.00", "")])
    table = '[references.patient]\nhow = "file"\npath = "ids.csv"\nfrom = "*"\nto = "^A.*$"\n'
    result = planned(tmp_path, table + LEDGER_ONLY)
    assert result.frame["disposition"].to_list() == ["pending"]


@pytest.mark.parametrize("header", [["*", "^M.*$", "^A.*$"], ["seq", "key", "*"]])
async def test_init_drafts_columns_of_any_name(tmp_path: Path, header: list[str]) -> None:
    names = ["TXN", "MRN", "Amount", "Posted Date", *header]
    write(tmp_path / "x.csv", names, [("t1", "p1", "5.00", "2026-11-01", *header)] * 3)
    arguments = [sys.executable, "-m", "pipeline", "init", "x.csv", "--output", "x.toml"]
    process = await asyncio.create_subprocess_exec(
        *arguments, cwd=tmp_path, stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    _, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    assert 'amount = "Amount"' in (tmp_path / "x.toml").read_text()


@pytest.mark.parametrize("encoding", ["windows-1252", "ascii", "utf-16", "shift_jis"])
async def test_no_word_of_canvas_and_no_file_name_is_beyond_the_senders_encoding(
    make_world: MakeWorld, encoding: str
) -> None:
    world = await make_world()
    feeds = LEDGER_ONLY.replace("ledger.csv", "led*.csv").replace(
        "[feeds.columns]", f'encoding = "{encoding}"\n[feeds.columns]'
    )
    text = f"TXN,MRN,Amount,Claim\nt1,{patient_key(0)},5.00,\nt2,{patient_key(1)},x,\n"
    name = "led\u0142\U0001f600.csv"
    (world.folder / name).write_bytes(text.encode(encoding))
    async with mirrored(world, Refusing(world.url)):
        world.write_config(feeds=feeds)
        process, out, err = await command(world, "run")
    assert process.returncode == 3, out + err
    (folder,) = (world.folder / "reports").glob("2*")
    rejects = (folder / "rejects-ledger.csv").read_bytes().decode(encoding)
    refused, rejected = list(csv.DictReader(rejects.splitlines()))
    assert (refused["TXN"], rejected["TXN"]) == ("t1", "t2")
    shown = name if encoding == "utf-16" else name.encode("ascii", "backslashreplace").decode()
    assert refused["_file"] == rejected["_file"] == shown
    assert refused["_message"].startswith("'=HYPERLINK")
    process, out, err = await command(world, "report")
    assert process.returncode == 3, out + err


async def test_a_file_name_that_is_not_utf_8_is_shown_escaped_everywhere(
    make_world: MakeWorld,
) -> None:
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY.replace("ledger.csv", "led*.csv"))
    name = b"led\xff\xe9.csv"
    path = os.fsencode(world.folder) + b"/" + name
    text = f"TXN,MRN,Amount,Claim\nt1,{patient_key(0)},5.00,\nt2,{patient_key(1)},x,\n"
    with open(path, "w") as file:  # noqa: ASYNC230, PTH123 - a name in bytes
        file.write(text)
    for verb in ("check", "plan", "run"):
        process, out, err = await command(world, verb, "-v")
        assert process.returncode == (1 if verb == "check" else 3), out + err
        assert verb != "check" or "led\\xff\\xe9.csv" in out
    folder = (world.folder / "reports" / "latest").resolve()
    shown = pl.read_parquet(folder / "reconciliation.parquet")
    assert shown["file"].to_list() == ["led\\xff\\xe9.csv"] * 2
    assert shown["disposition"].to_list() == ["created", "rejected"]
    assert cells_of(folder / "rejects-ledger.csv")[0]["_file"] == "led\\xff\\xe9.csv"
    assert "led\\\\xff\\\\xe9.csv" in (folder / "summary.json").read_text()
    for verb in ("report", "verify"):
        process, out, err = await command(world, verb)
        assert process.returncode == (3 if verb == "report" else 0), out + err


def test_a_message_about_a_file_name_that_is_not_utf_8_can_be_printed(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/led\xff.csv"))
    path.write_text("TXN,MRN,Amount,Claim\nt1,p1\n")
    result = planned(tmp_path, LEDGER_ONLY.replace("ledger.csv", "led*.csv"))
    assert "led\\xff.csv" in result.summary["failure"]


def test_our_own_cells_are_harmless_and_so_are_names_of_files(tmp_path: Path) -> None:
    rows = [("t1", "p1", "5.00", ""), ("t1", "p1", "6.00", ""), ("t2", "p1", "x", "")]
    write(tmp_path / "=cmd()_ledger.csv", FIRST, rows)
    result = planned(tmp_path, LEDGER_ONLY.replace("ledger.csv", "*ledger.csv"))
    names = {line["_file"] for line in cells_of(result.folder / "rejects-ledger.csv")}
    assert names == {"'=cmd()_ledger.csv"}
    shown = cells_of(result.folder / "reconciliation.csv")
    assert {line["file"] for line in shown} == {"'=cmd()_ledger.csv"}
    assert set(result.frame["file"]) == {"=cmd()_ledger.csv"}


def test_cells_of_parquet_beyond_the_feeds_encoding_are_returned_as_sent(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "TXN": ["t1", "t2"],
            "MRN": ["p1", "p2"],
            "Amount": ["x", "5.00"],
            "Claim": ["", ""],
            "*": ["\u0142\U0001f600", "a"],
            "^D.*$": [date(2026, 11, 1), None],
        }
    )
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/led\xff.parquet"))
    with path.open("wb") as file:
        frame.write_parquet(file)
    feeds = LEDGER_ONLY.replace("ledger.csv", "led*.parquet").replace(
        "[feeds.columns]", 'encoding = "windows-1252"\n[feeds.columns]'
    )
    result = planned(tmp_path, feeds)
    assert result.failure is None
    for _ in range(2):
        text = (result.folder / "rejects-ledger.csv").read_text(encoding="utf-8-sig")
        (line,) = csv.DictReader(text.splitlines())
        assert (line["*"], line["^D.*$"]) == ("\u0142\U0001f600", "2026-11-01")
        again = {"ledger": result.folder / "rejects-ledger.csv"}
        job = load(tmp_path / "config.toml", environment={}, inputs=again)
        result = asyncio.run(engine.plan(job))
        assert result.frame["rule"].to_list() == ["amount|form"]


@pytest.mark.parametrize("name", ["state.dir", "report.dir"])
def test_a_folder_of_ours_that_is_not_utf_8_is_refused_before_anything_is_sent(
    tmp_path: Path, name: str
) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    folder.mkdir()
    odd = "state" if name == "report.dir" else "report"
    text = f'[{odd}]\ndir = "{tmp_path}/other"\n'
    write(folder / "ledger.csv", FIRST, [("t1", "p1", "5.00", "")])
    with pytest.raises(ConfigError) as raised:
        planned(folder, text + LEDGER_ONLY)
    assert f"{tmp_path}/\\xff" in raised.value.message
