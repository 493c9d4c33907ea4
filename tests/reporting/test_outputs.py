"""What is left behind and what is shown: harmless to spreadsheets and terminals, whole or not there, for its owner only."""

import asyncio
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.commands import run as engine
from pipeline.commands import verify as verification
from pipeline.errors import ConfigError, IngestError
from pipeline.files import replacing, write_private
from tests.support.outputs import NASTY, Refusing, cells_of
from tests.support.planted import mirrored
from tests.support.runs import command, coverages, payments
from tests.support.world import FEEDS, LEDGER_ONLY, MakeWorld, patient_key

FORMULAS = (
    "=1+2",
    "+1",
    "-1",
    "@SUM(A1)",
    "\tx",
    "\uff1d1+2",
    "\uff0b1",
    "\uff0d1",
    "\uff20x",
    "=cmd|' /C calc'!A0",
)


# Spreadsheets -------------------------------------------------------------------------------------


async def test_our_own_cells_are_harmless_and_the_senders_come_back_to_the_letter(
    make_world: MakeWorld,
) -> None:
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY)
    world.write_ledger(
        [(text, patient_key(n), f"{n + 1}.00", "") for n, text in enumerate(FORMULAS)]
    )
    result = await world.run()
    shown = cells_of(result.folder / "reconciliation.csv")
    assert [row["source_id"] for row in shown] == [
        f"'{text.strip()}" if text[0] != "\t" else "x" for text in FORMULAS
    ]
    exact = result.frame["source_id"].to_list()
    assert exact == [text.strip() for text in FORMULAS], "the Parquet file is exact"

    world.write_ledger([(text, text, "x", text) for text in FORMULAS])
    odd = await world.run()
    rejects = odd.folder / "rejects-ledger.csv"
    for text, row in zip(FORMULAS, cells_of(rejects), strict=True):
        assert (row["TXN"], row["MRN"], row["Claim"]) == (text, text, text)
        assert row["_message"][0] not in "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"
    again = await world.run(inputs={"ledger": rejects}, only_feeds=("ledger",))
    assert again.frame["key"].to_list() == odd.frame["key"].to_list()
    assert again.frame["rule"].to_list() == odd.frame["rule"].to_list()


async def test_the_words_of_canvas_are_harmless_in_the_file_of_rejects(
    make_world: MakeWorld,
) -> None:
    world = await make_world()
    async with mirrored(world, Refusing(world.url)):
        world.write_config(feeds=LEDGER_ONLY)
        world.write_ledger(payments(3))
        process, out, err = await command(world, "run", "-v")
    (folder,) = (world.folder / "reports").glob("2*")
    assert process.returncode == 3, err
    for row in cells_of(folder / "rejects-ledger.csv"):
        assert row["_message"].startswith("'=HYPERLINK")
    assert harmless(out)
    assert harmless(err)
    assert harmless((folder / "report.html").read_text())


# Terminals ----------------------------------------------------------------------------------------


def harmless(text: str) -> bool:
    """Nothing that moves the cursor, changes colours or titles, or turns the writing round."""
    return not any(
        (ord(each) < 32 and each != "\n") or each in "\x7f\x9b\u202e\u2066\u2028" for each in text
    )


async def test_names_of_files_and_columns_cannot_turn_a_terminal_round(
    make_world: MakeWorld,
) -> None:
    world = await make_world()
    feeds = LEDGER_ONLY.replace('path = "ledger.csv"', 'path = "ledger*.csv"')
    world.write_config(feeds=feeds)
    name = f"ledger{NASTY}.csv"
    world._write(
        name, ["TXN", "MRN", f"Amount{NASTY}", "Claim"], [("T1", patient_key(0), "1.00", "")]
    )
    for verb in ("check", "plan", "run"):
        process, out, err = await command(world, verb, "-v")
        assert process.returncode == 1
        assert harmless(out), out
        assert harmless(err), err
        assert "\\u001b" in out, "it is told, spelt out"
    world._write(
        name, ["TXN", "MRN", "Amount", "Claim", NASTY], [("", patient_key(0), "1.00", "", "x")]
    )
    process, out, err = await command(world, "run", "-v")
    assert process.returncode == 3, out
    assert harmless(out + err + (world.folder / "reports" / "latest" / "report.html").read_text())
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "pipeline", "init", str(world.folder / name), "--output", "drafted.toml"],
        cwd=world.folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert harmless(done.stdout + done.stderr), done.stdout
    assert harmless((world.folder / "drafted.toml").read_text())


# Owners, modes and links --------------------------------------------------------------------------


async def test_all_is_for_its_owner_only_though_the_program_set_no_mask(
    make_world: MakeWorld,
) -> None:
    """As from Python: the command sets its own."""
    world = await make_world()
    old = os.umask(0)
    try:
        world.write_config().chmod(0o644)
        world.write_eligibility(coverages())
        world.write_ledger([*payments(20), ("", "", "", "")])
        await world.run()
        await engine.plan(world.job())
        await verification.read_back(world.job())
    finally:
        os.umask(old)
    paths = [*(world.folder / "state").rglob("*"), *(world.folder / "reports").rglob("*")]
    assert len(paths) > 20
    for path in paths:
        wanted = 0o700 if path.is_dir() else 0o600
        assert path.is_symlink() or stat.S_IMODE(path.stat().st_mode) == wanted, path


@pytest.mark.parametrize("where", ["reports", "state", "state/plans"])
async def test_a_folder_that_is_a_link_is_refused(make_world: MakeWorld, where: str) -> None:
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY)
    world.write_ledger(payments(2))
    elsewhere = world.folder / "elsewhere"
    elsewhere.mkdir()
    (world.folder / where).parent.mkdir(exist_ok=True, mode=0o700)
    (world.folder / where).symlink_to(elsewhere, target_is_directory=True)
    with pytest.raises(ConfigError, match="is a link, or belongs to another user"):
        await world.run()
    assert list(elsewhere.iterdir()) == []
    assert world.effects == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
@pytest.mark.parametrize("where", ["reports", "state"])
async def test_a_folder_of_somebody_else_is_refused(make_world: MakeWorld, where: str) -> None:
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY)
    (world.folder / where).mkdir()
    os.chown(world.folder / where, 65534, 65534)
    with pytest.raises(ConfigError, match="belongs to another user"):
        await world.run()


async def test_planted_links_are_replaced_and_not_followed(make_world: MakeWorld) -> None:
    """Where others could write before: the next names are known to all."""
    world = await make_world()
    report = '[report]\ndir = "reports"\nmetrics = "shared/ingest.prom"\n'
    world.write_config(feeds=report + LEDGER_ONLY)
    world.write_ledger(payments(2))
    precious = world.folder / "precious"
    precious.write_text("mine")
    planted = [
        "reports/latest",
        "reports/.latest",
        "shared/.ingest.prom.part",
        "shared/ingest.prom",
    ]
    planted += [
        "state/.held-ledger.parquet.part",
        "state/held-ledger.parquet",
        "state/.journal.anchor",
    ]
    for name in planted:
        (world.folder / name).parent.mkdir(exist_ok=True)
        (world.folder / name).symlink_to(precious)
    result = await world.run()
    assert (result.exit_code, precious.read_text()) == (0, "mine")
    assert (world.folder / "reports" / "latest").resolve() == result.folder
    for name in ("summary.json", "report.html", "rejects-ledger.csv", "reconciliation.csv"):
        (result.folder / f".{name}.part").symlink_to(precious)
    await engine.report_again(world.job())
    assert precious.read_text() == "mine"


@pytest.mark.parametrize("name", ["latest", ".latest"])
async def test_a_folder_in_place_of_the_link_to_the_last_run_changes_no_exit_code(
    make_world: MakeWorld, name: str
) -> None:
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY)
    world.write_ledger(payments(2))
    planted = world.folder / "reports" / name
    planted.mkdir(parents=True)
    (planted / "mine").write_text("")
    process, out, err = await command(world, "run")
    assert process.returncode == 0, out + err
    assert "latest_unlinked" in err, "and it says so"
    assert (planted / "mine").exists()
    (folder,) = (world.folder / "reports").glob("2*")
    assert (folder / "summary.json").exists()


# Whole or not at all ------------------------------------------------------------------------------


class Disk:
    """Sees which files were waited for, and which took another one's place; one such step may fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[tuple[str, int, str]] = []  # what, which inode, its name
        self.fails_at = -1
        replace, fsync = os.replace, os.fsync

        def replaced(source: Any, target: Any, **options: Any) -> None:
            steps = sum(what == "replaced" for what, *_ in self.events)
            if self.fails_at == steps and not str(target).endswith("journal.anchor"):
                raise OSError(28, "No space left on device")
            self.events.append(("replaced", os.lstat(source).st_ino, str(target)))
            replace(source, target, **options)

        def synced(handle: int) -> None:
            fsync(handle)
            self.events.append(("synced", os.fstat(handle).st_ino, ""))

        monkeypatch.setattr(os, "replace", replaced)
        monkeypatch.setattr(os, "fsync", synced)

    def synced(self, inode: int, first: int, last: int) -> bool:
        return ("synced", inode, "") in self.events[first:last]


async def test_each_file_is_on_disk_before_it_has_its_name_and_the_name_after(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await make_world()
    report = '[report]\ndir = "reports"\nmetrics = "ingest.prom"\n'
    world.write_config(feeds=report + FEEDS)
    world.write_eligibility(coverages())
    world.write_ledger([*payments(20), ("", "", "", "")])
    disk = Disk(monkeypatch)
    await world.run()
    await verification.read_back(world.job())
    ends = {name: at for at, (what, _, name) in enumerate(disk.events) if what == "replaced"}
    for name, at in ends.items():
        if name.endswith(("journal.anchor", "latest")):
            continue  # the anchor may lag behind; a link has no content
        assert disk.synced(disk.events[at][1], 0, at), f"{name} was on disk before it had its name"
    for name, at in ends.items():
        if not name.endswith("journal.anchor"):
            folder = Path(name).parent.stat().st_ino
            assert disk.synced(folder, at, len(disk.events)), f"the name {name} is on disk"
    whole = {str(path) for path in (world.folder / "reports").rglob("*") if path.is_file()}
    whole |= {str(path) for path in (world.folder / "state").glob("held-*")}
    whole |= {str(path) for path in (world.folder / "state").rglob("plan.json")}
    assert {path for path in whole if "latest" not in path} <= ends.keys(), (
        "none was written in its place"
    )
    for path in (world.folder / "state" / "plans").rglob("*.parquet"):
        assert disk.synced(path.stat().st_ino, 0, len(disk.events)), path


async def test_a_report_that_cannot_be_written_leaves_the_last_one_whole(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await make_world()
    world.write_config()
    world.write_eligibility(coverages())
    world.write_ledger([*payments(20), ("", "", "", "")])
    result = await world.run()
    before = {path.name: path.read_bytes() for path in result.folder.iterdir()}
    disk = Disk(monkeypatch)
    job, failed = world.job(), 0
    for step in range(20):
        disk.events, disk.fails_at = [], step
        try:
            await asyncio.to_thread(_report_again, job)
        except (OSError, IngestError):
            failed += 1
        assert {
            path.name for path in result.folder.iterdir() if path.name[0] != "."
        } == before.keys()
        for name in ("rejects-ledger.csv", "summary.json", "reconciliation.csv"):
            assert (result.folder / name).read_bytes() == before[name]
        assert not list(result.folder.glob(".*.part"))
    assert failed > 5


def _report_again(job: Any) -> None:
    asyncio.run(engine.report_again(job))


def test_what_fails_while_it_is_written_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_private(path, b"old")
    with pytest.raises(ValueError, match="half"), replacing(path) as part:  # noqa: PT012
        part.write_bytes(b"ne")
        raise ValueError("half")
    assert (path.read_bytes(), [each.name for each in tmp_path.iterdir()]) == (b"old", ["a"])
