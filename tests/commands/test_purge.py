"""`journal purge` and `[retention] days`: what holds rows goes, what keeps a payment from being sent twice stays."""

import asyncio
import json
import os
import pty
import shutil
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipeline.commands import retention
from pipeline.commands import run as engine
from pipeline.commands.retention import CANCELS, COMPARED, UNSETTLED, Purged
from pipeline.errors import ConfigError, JournalLost, PlanError
from pipeline.journal import history
from pipeline.sandbox import Faults
from pipeline.system.ownership import private_folder
from tests.support.runs import command, counts, coverages, payments
from tests.support.world import CREDENTIALS, FEEDS, LEDGER_ONLY, MakeWorld, World, patient_key

YEARS = timedelta(days=4000)


def purged(world: World, days: int = 90, *, is_trial: bool = False) -> Purged:
    """A purge in eleven years from now."""
    with engine.open_journal(world.job()) as journal:
        off = "PRAGMA secure_delete = OFF"  # as SQLite is built where no distribution thinks of it
        journal.read(lambda: journal.store.execute(off).fetchone())
        now = datetime.now(UTC) + YEARS
        return retention.purge(world.job(), journal, days, now, "somebody", is_trial=is_trial)


def left(folder: Path) -> set[str]:
    """The files below a folder, but for the journal's own."""
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith("journal.")
    }


async def test_what_holds_rows_goes_and_the_next_run_sends_nothing_twice(
    make_world: MakeWorld,
) -> None:
    world = await make_world()
    world.write_config()
    world.write_eligibility(coverages())
    refused = [(f"T-{number}", patient_key(900 + number), "9.00", "") for number in range(60)]
    world.write_ledger([*payments(100), *refused])
    first = await world.run()
    assert (counts(first, 0), counts(first)) == ({"created": 40}, {"created": 100, "refused": 60})
    journal = world.folder / "state" / "journal.sqlite"
    told = b"does not exist"
    assert told in journal.read_bytes(), "the words of Canvas, which may hold what it was sent"

    pieces = world.folder / "state" / ".held-eligibility.pieces"
    pieces.mkdir()
    (pieces / "000000.parquet").write_bytes(b"left by a run that was killed")
    others = [
        pieces.with_name(".spill"),
        pieces.with_name(".workers-ab12"),
        pieces.with_name("plans") / ".sending-ab12",
    ]
    for other in others:
        other.mkdir()
        (other / "rows").write_bytes(b"left by it, too")
    gone = purged(world)
    assert (gone.runs, gone.words, gone.kept) == ([first.run_id], 60, {})
    assert not any(folder.exists() for folder in (pieces, *others))
    assert gone.size_bytes > 0
    assert left(world.folder / "reports" / first.run_id) == {"summary.json"}
    assert left(world.folder / "state") == set()
    assert told not in b"".join(
        path.read_bytes() for path in journal.parent.glob("journal.sqlite*")
    )
    with engine.open_journal(world.job()) as opened:
        assert history.first_break(opened) == 0
        (line,) = [line for line, _ in history.read_lines(opened) if line.event == "purged"]
        assert (line.detail, line.who) == (first.run_id, "somebody")

    again = await world.run()
    assert (counts(again, 0), counts(again)) == (
        {"unchanged": 40},
        {"unchanged": 100, "refused": 60},
    )
    assert len(world.effects) == 140
    assert set(again.frame["resource_id"]) - {""} == {effect["id"] for effect in world.effects}


async def test_what_is_younger_stays_and_a_trial_removes_nothing(make_world: MakeWorld) -> None:
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY)
    world.write_ledger(payments(5))
    result = await world.run()
    before = left(world.folder)
    assert purged(world, days=YEARS.days + 1).runs == []
    assert purged(world, is_trial=True).runs == [result.run_id]
    assert left(world.folder) == before


async def test_a_plan_with_something_in_doubt_stays_and_can_still_be_settled(
    make_world: MakeWorld,
) -> None:
    world = await make_world(faults=Faults(lose_before=0.5))
    world.write_config(feeds=LEDGER_ONLY, resend_absent="none")
    world.write_ledger(payments(20))
    result = await world.run()
    assert counts(result)["in_doubt"] > 0
    gone = purged(world)
    assert gone.kept == {UNSETTLED: [result.run_id]}
    assert left(world.folder / "reports" / result.run_id) == {"summary.json"}
    world.sandbox.faults = Faults()
    world.write_config(feeds=LEDGER_ONLY, resend_absent="all")
    again = await world.run()
    assert (again.exit_code, counts(again)["unchanged"] + counts(again).get("created", 0)) == (
        0,
        20,
    )
    assert len(world.effects) == 20
    assert len({effect["amount"] for effect in world.effects}) == 20
    assert result.run_id in purged(world).runs, "nothing needs it any more"


async def test_what_is_needed_to_cancel_or_to_compare_stays(make_world: MakeWorld) -> None:
    world = await make_world()
    feeds = FEEDS[: FEEDS.rindex("[[feeds]]")]
    looks = 'missing = "{}"\nmissing_max = "90%"\npath ='
    world.write_config(feeds=feeds.replace("path =", looks.format("cancel")))
    world.write_eligibility(coverages(4))
    sent, same = await world.run(), await world.run()
    assert counts(same) == {"unchanged": 8}
    assert purged(world).kept == {CANCELS: [sent.run_id], COMPARED: [same.run_id]}
    world.write_eligibility(coverages(3))
    last = await world.run()
    assert last.summary["feeds"][0]["missing"]["cancelled"] == 2
    world.write_config(feeds=feeds.replace("path =", looks.format("report")))
    assert purged(world).kept == {COMPARED: [last.run_id]}


@pytest.mark.parametrize("lost", ["missing", "restored"])
async def test_a_journal_that_is_lost_is_still_seen_after_a_purge(
    make_world: MakeWorld, lost: str
) -> None:
    """`summary.json` stays for that, though the whole of state.dir be of another day."""
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY)
    world.write_ledger(payments(5))
    state = world.folder / "state"
    private_folder(state)
    engine.open_journal(world.job()).close()
    shutil.copytree(state, world.folder / "backup")
    await world.run()
    purged(world)
    shutil.rmtree(state)
    if lost == "restored":
        shutil.copytree(world.folder / "backup", state)
    with pytest.raises(JournalLost) as caught:
        await world.run()
    assert caught.value.loss == lost


async def test_the_report_of_such_a_run_is_not_written_anew_without_its_rows(
    make_world: MakeWorld,
) -> None:
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY)
    world.write_ledger(payments(5))
    result = await world.run()
    purged(world)
    before = (result.folder / "summary.json").read_bytes()
    with pytest.raises(PlanError, match=f"what run {result.run_id} left of rows was removed"):
        await engine.report_again(world.job(), result.run_id)
    assert (result.folder / "summary.json").read_bytes() == before


async def test_only_folders_of_runs_that_the_journal_knows_and_no_links(
    make_world: MakeWorld,
) -> None:
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY)
    world.write_ledger(payments(5))
    result = await world.run()
    elsewhere = world.folder / "elsewhere"
    (world.folder / "reports" / "20200101T000000Z-abcd").mkdir()
    for path in (
        elsewhere,
        world.folder / "reports" / "20200101T000000Z-abcd",
        world.folder / "reports" / "mine",
    ):
        path.mkdir(exist_ok=True)
        (path / "rejects-ledger.csv").write_text("not ours")
    (result.folder / "more").symlink_to(elsewhere, target_is_directory=True)
    plan = world.folder / "state" / "plans" / result.run_id
    shutil.move(plan, elsewhere / "plan")
    plan.symlink_to(elsewhere / "plan", target_is_directory=True)
    before = left(elsewhere)
    purged(world)
    assert left(elsewhere) == before
    assert left(world.folder / "reports") >= {
        "20200101T000000Z-abcd/rejects-ledger.csv",
        "mine/rejects-ledger.csv",
    }
    assert left(result.folder) == {"summary.json"}


async def test_a_run_ends_with_it_where_the_configuration_says_so(make_world: MakeWorld) -> None:
    world = await make_world()
    world.write_config(feeds=f"[retention]\ndays = 30\n{LEDGER_ONLY}")
    world.write_ledger(payments(5))
    assert world.job().retention_days == 30
    first = await world.run()
    assert len(left(first.folder)) > 1, "a day at least is kept"
    await asyncio.sleep(1.1)  # run ids know whole seconds
    second = await engine.run(replace(world.job(), retention_days=0))
    assert left(first.folder) == {"summary.json"}
    assert (second.exit_code, counts(second)) == (0, {"unchanged": 5})
    world.write_config(feeds=f"[retention]\ndays = 0\n{LEDGER_ONLY}")
    with pytest.raises(ConfigError, match=r"retention\.days"):
        world.job()


async def test_the_command_asks_or_wants_yes(make_world: MakeWorld) -> None:
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY)
    world.write_ledger(payments(5))
    result = await world.run()
    await asyncio.sleep(1.1)  # run ids know whole seconds
    before = left(world.folder)

    async def purge(
        *arguments: str, stdin: int = asyncio.subprocess.DEVNULL
    ) -> tuple[int, str, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "pipeline", "journal", "purge", str(world.config), *arguments,
            env={**os.environ, **CREDENTIALS}, stdin=stdin, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
        return process.returncode or 0, out.decode(), err.decode()

    code, _, err = await purge()
    assert (code, "write --older-than DAYS" in err) == (2, True)
    code, out, err = await purge("--older-than", "0")
    assert (code, "Would remove row data of runs (1; " in out) == (2, True)
    assert "add --yes" in err
    main, worker = pty.openpty()
    os.write(main, b"n\n")
    assert (await purge("--older-than", "0", stdin=worker))[0] == 1
    os.close(worker)
    os.close(main)
    assert (await purge("--older-than", "0", "--dry-run"))[0] == 0
    assert left(world.folder) == before
    code, out, _ = await purge("--older-than", "0", "--yes", "--json")
    told = json.loads(out)
    assert (code, told["shape"], told["runs"], told["is_trial"]) == (0, 1, [result.run_id], False)
    assert left(result.folder) == {"summary.json"}
    with engine.open_journal(world.job()):
        assert (await purge("--older-than", "0", "--yes"))[0] == 5
    process, out, _ = await command(world, "run", "--json")
    assert (process.returncode, json.loads(out)["requests"]["total"]) == (0, 0)
