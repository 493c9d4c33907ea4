"""A run that further processes join: `canvas-ingest join`, with PostgreSQL and a shared folder alone."""

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from typing import Any

import psycopg
import pytest

from pipeline.cluster.senders import PIECES, Sending, offered
from pipeline.commands import run as engine
from pipeline.errors import ConfigError
from pipeline.job import Progress
from tests.support.postgres import Server
from tests.support.runs import check_accounts
from tests.support.world import CREDENTIALS, MakeWorld, World, patient_key

_ROWS = 400


def configure(world: World, database: str, **settings: Any) -> None:
    """Write 400 payments of 40 patients, and a configuration whose runs may be joined."""
    world.write_ledger(
        [(f"t{n}", patient_key(n % 40), f"{n // 40 + 1}.00", "") for n in range(_ROWS)]
    )
    world.settings |= {"concurrency": 4, "quiet_s": 0.5, "resend_absent": "all", **settings}
    path = world.write_config()
    path.write_text(
        path.read_text().replace(
            "[upload]",
            f'[state]\nurl = "{database}"\nlease_s = 3.0\n[engine]\nkind = "join"\npartitions = 6\n[upload]',
            1,
        )
    )


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch, postgres_server: Server) -> None:
    """What each process has in its environment."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PGPASSWORD", postgres_server.password)


async def joiner(world: World, *arguments: str) -> asyncio.subprocess.Process:
    """Start a process that joins."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pipeline", "join", str(world.config), *arguments,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


async def ended(process: asyncio.subprocess.Process) -> tuple[int | None, str]:
    """Return the exit code of a process, and what it printed."""
    printed, _ = await process.communicate()
    return process.returncode, printed.decode()


async def test_processes_that_join_send_parts_of_a_run_and_nothing_twice(
    make_world: MakeWorld, database: str
) -> None:
    world: World = await make_world(patients=40)
    configure(world, database, rate_per_s=60.0)
    waiting = [await joiner(world, "--wait", "60") for _ in range(2)]
    progress = Progress()
    result = await engine.run(world.job(only_feeds=("ledger",)), progress=progress)
    assert (result.failure, result.exit_code) == (None, 0)
    assert result.summary["balanced"]
    assert progress.sent == progress.to_send == len(world.effects) == _ROWS
    workers = result.summary["workers"]
    assert sorted(each["partition"] for each in workers) == [1, 2, 3, 4, 5, 6]
    assert {each["ended"] for each in workers} == {"done"}
    assert sum(each["writes"] for each in workers) == _ROWS
    processes = {int(each["worker"].split()[1]) for each in workers}
    assert processes <= {os.getpid(), *(each.pid for each in waiting)}
    assert len(processes) > 1
    for process in waiting:
        code, printed = await ended(process)
        assert code == 0, printed
        assert f"of run {result.run_id} to the end" in printed
    by_patient: dict[str, list[float]] = {}
    for effect in world.effects:
        by_patient.setdefault(effect["patient"], []).append(float(effect["amount"]))
    assert all(amounts == sorted(amounts) for amounts in by_patient.values())
    assert not (world.folder / "state" / "sending.json").exists()


async def test_of_three_that_join_one_is_killed_and_one_stands_still(
    make_world: MakeWorld, database: str
) -> None:
    world: World = await make_world(patients=40)
    configure(world, database, rate_per_s=60.0)
    three = [await joiner(world, "--wait", "60") for _ in range(3)]
    progress = Progress()

    async def strike() -> int:
        """Freeze two that hold a partition, and kill one of them."""
        numbers = {each.pid for each in three}
        while True:
            await asyncio.sleep(0.1)
            two = sorted(await asyncio.to_thread(senders_of, database, numbers))[:2]
            for number in two:
                os.kill(number, signal.SIGSTOP)
            if len(two) == 2 and set(two) <= await asyncio.to_thread(senders_of, database, numbers):
                os.kill(two[0], signal.SIGKILL)
                return two[1]
            for number in two:
                os.kill(number, signal.SIGCONT)

    striking = asyncio.ensure_future(strike())
    result = await engine.run(world.job(only_feeds=("ledger",)), progress=progress)
    os.kill(await striking, signal.SIGCONT)
    codes = {process.pid: await ended(process) for process in three}
    assert result.failure is None
    check_accounts(world, result)
    counts = Counter(result.frame["disposition"])
    assert counts["created"] + counts["in_doubt"] + counts["pending"] == _ROWS
    assert counts["created"] > _ROWS / 2
    lost = [each for each in result.summary["workers"] if not each["ended"]]
    assert len(lost) in {
        1,
        2,
    }  # the last statement of one may have been on its way when it was frozen
    assert sorted(code for code, _ in codes.values() if code is not None and code < 0) == [
        -signal.SIGKILL
    ]
    again = await engine.run(world.job(only_feeds=("ledger",)))
    assert again.exit_code in {0, 4}
    paid = [(effect["patient"], effect["amount"]) for effect in world.effects]
    assert len(paid) == len(set(paid)) >= _ROWS - Counter(again.frame["disposition"])["in_doubt"]


def senders_of(database: str, processes: set[int]) -> set[int]:
    """Return those of these processes that hold a partition."""
    with psycopg.connect(database) as connection:
        try:
            lines = connection.execute(
                "SELECT holder FROM lease WHERE part <> 0 AND holder IS NOT NULL"
            )
        except psycopg.errors.UndefinedTable:
            return set()
        return {int(holder.split(" ")[1]) for (holder,) in lines} & processes


async def test_a_stop_of_one_that_joined_leaves_its_partition_to_the_others(
    make_world: MakeWorld, database: str
) -> None:
    world: World = await make_world(patients=40)
    configure(world, database, rate_per_s=60.0)
    one = await joiner(world, "--wait", "60")

    async def stop() -> None:
        while not await asyncio.to_thread(senders_of, database, {one.pid}):
            await asyncio.sleep(0.1)
        one.send_signal(signal.SIGTERM)

    stopping = asyncio.ensure_future(stop())
    result = await engine.run(world.job(only_feeds=("ledger",)))
    await stopping
    code, _ = await ended(one)
    assert code == 130
    assert (result.exit_code, len(world.effects)) == (0, _ROWS)
    assert Counter(result.frame["disposition"]) == {"created": _ROWS}
    assert "stopped" in {each["ended"] for each in result.summary["workers"]}


async def test_without_a_run_there_is_nothing_to_send(make_world: MakeWorld, database: str) -> None:
    world: World = await make_world(patients=40)
    configure(world, database)
    code, printed = await ended(await joiner(world))
    assert (code, printed.strip()) == (0, "No run is under way: there was nothing to send.")

    result = await engine.run(world.job(only_feeds=("ledger",)))
    left = Sending(
        "of before", result.run_id, 1, (1,) * PIECES, ("PaymentNotice",), frozenset(), ()
    )
    with offered(world.folder / "state", left):  # by a run that was killed
        code, printed = await ended(await joiner(world))
    assert (code, printed.strip()) == (0, "No run is under way: there was nothing to send.")
    assert len(world.effects) == _ROWS


async def test_a_run_that_is_killed_ends_those_that_joined_it(
    make_world: MakeWorld, database: str
) -> None:
    world: World = await make_world(patients=40)
    configure(world, database, rate_per_s=40.0)
    run = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pipeline", "run", str(world.config), "--feed", "ledger",
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    one = await joiner(world, "--wait", "60")
    while not await asyncio.to_thread(senders_of, database, {one.pid}):
        await asyncio.sleep(0.1)
    run.kill()
    await run.wait()
    code, printed = await ended(one)
    assert code == 1
    assert "Run it again" in printed
    world.settings["rate_per_s"] = 1000.0
    result = await engine.run(world.job(only_feeds=("ledger",)))
    created = Counter(result.frame["disposition"])["created"]
    check_accounts(world, result, earlier=len(world.effects) - created)
    paid = [(effect["patient"], effect["amount"]) for effect in world.effects]
    assert len(paid) == len(set(paid))


async def test_a_changed_configuration_is_refused_and_the_run_goes_on(
    make_world: MakeWorld, database: str
) -> None:
    world: World = await make_world(patients=40)
    configure(world, database, rate_per_s=60.0)
    job = world.job(only_feeds=("ledger",))
    world.config.write_text(f"{world.config.read_text()}# changed since\n")
    one = await joiner(world, "--wait", "60")
    result = await engine.run(job)
    code, printed = await ended(one)
    assert code == 2
    assert "is not the one that the run began with" in printed
    assert (result.exit_code, len(world.effects)) == (0, _ROWS)


async def test_a_journal_in_a_file_cannot_be_joined(make_world: MakeWorld) -> None:
    world: World = await make_world(patients=40)
    world.write_ledger([("t1", patient_key(1), "1.00", "")])
    world.write_config()
    code, printed = await ended(await joiner(world))
    assert code == 2
    assert "set [state] url to a PostgreSQL database" in printed
    with pytest.raises(ConfigError, match='engine = "join" and a run'):
        await engine.run(world.job(overrides={"engine": {"kind": "join"}}))
