"""A run that several workers carry: each patient in one partition, nothing twice, one report."""

import asyncio
import os
import signal
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.cluster.partitions import deal
from pipeline.cluster.senders import piece_of
from pipeline.commands import run as engine
from pipeline.errors import ConfigError, JournalTaken, WrongHost
from pipeline.job import Progress
from pipeline.sandbox import Faults
from tests.support.postgres import Server
from tests.support.runs import check_accounts
from tests.support.world import CREDENTIALS, MakeWorld, World, patient_key


def configure(world: World, database: str, **settings: Any) -> None:
    world.settings |= {"concurrency": 8, **settings}
    path = world.write_config()
    path.write_text(
        path.read_text().replace(
            "[upload]",
            f'[state]\nurl = "{database}"\nlease_s = 3.0\n[engine]\nkind = "dask"\nworkers = 2\npartitions = 4\n[upload]',
            1,
        )
    )


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch, postgres_server: Server) -> None:
    """What workers have in their own environment."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PGPASSWORD", postgres_server.password)


def test_each_patient_is_in_one_partition_and_they_come_out_even() -> None:
    lanes = [patient_key(number) for number in range(2_000)] + [patient_key(7)] * 500
    parts = deal([pl.Series("lane", lanes[:900]), pl.Series("lane", lanes[900:])], 4)
    sizes = Counter(parts[piece_of(lane)] for lane in lanes)
    assert set(sizes) == {1, 2, 3, 4}
    assert max(sizes.values()) - min(sizes.values()) <= 5
    assert deal([pl.Series("lane", ["a", "a"])], 3)[piece_of("a")] == 1


def eligible(number: int) -> tuple[str, ...]:
    """Two coverages of a patient, whose order matters."""
    patient, order = patient_key(number // 2), str(number % 2 + 1)
    return (patient, f"m{number}", "self", "60054", order, "2026-01-01", "")


def write_files(world: World) -> None:
    world.write_eligibility([eligible(number) for number in range(80)])
    world.write_ledger(
        [(f"t{n}", patient_key(n % 40), f"{n + 1}.00", "") for n in range(200)]
        + [("", patient_key(1), "1.00", ""), ("odd", patient_key(2), "one", "")]
    )


async def test_workers_carry_a_run_and_the_report_is_as_of_one(
    make_world: MakeWorld, database: str, secrets: None, tmp_path: Path
) -> None:
    world: World = await make_world(patients=40)
    write_files(world)
    configure(world, database)
    progress = Progress()
    result = await engine.run(world.job(), progress=progress)
    assert result.failure is None
    assert (result.exit_code, result.summary["balanced"]) == (3, True)
    assert len(world.effects) == 280
    assert progress.sent == progress.to_send == 280
    workers = result.summary["workers"]
    assert [each["partition"] for each in workers] == [1, 2, 3, 4]
    assert {each["ended"] for each in workers} == {"done"}
    assert sum(each["writes"] for each in workers) == 280
    assert sum(each["requests"] for each in workers) <= result.summary["requests"]["total"]
    page = (result.folder / "report.html").read_text()
    assert "Who sent it" in page

    alone: World = await make_world(patients=40)
    alone.folder = tmp_path / "alone"
    alone.folder.mkdir()
    write_files(alone)
    alone.write_config()
    other = await alone.run()
    columns = ["feed", "row", "key", "disposition", "interaction", "amount_usd", "rule", "message"]
    assert result.frame.select(columns).equals(other.frame.select(columns))
    for name in ("rejects-ledger.csv",):
        assert len((result.folder / name).read_text()) == len((other.folder / name).read_text())
    for mine, one in zip(result.summary["feeds"], other.summary["feeds"], strict=True):
        assert mine["dispositions"] == one["dispositions"]
        assert mine.get("amount_usd") == one.get("amount_usd")

    again = await engine.run(world.job())
    assert again.summary["feeds"][0]["dispositions"]["unchanged"] == 80
    assert len(world.effects) == 280
    assert again.summary["workers"] == []


async def test_what_one_worker_cannot_go_on_for_ends_the_run_and_all_is_accounted_for(
    make_world: MakeWorld, database: str, secrets: None
) -> None:
    world: World = await make_world(patients=40, faults=Faults(forbid=1.0))
    write_files(world)
    configure(world, database, concurrency=3, resend_absent="all")
    job = world.job()
    world.config.write_text(f"{world.config.read_text()}# changed since\n")
    other = await engine.run(job)
    assert isinstance(other.failure, ConfigError)
    assert "is not the one that the run began with" in other.failure.message
    assert Counter(other.frame["disposition"]) == {"pending": 280, "rejected": 2}

    result = await engine.run(world.job())
    assert isinstance(result.failure, WrongHost)
    assert (result.exit_code, result.summary["balanced"]) == (1, True)
    assert world.effects == []
    workers = result.summary["workers"]
    assert {each["partition"] for each in workers} <= {1, 2, 3, 4}
    assert {each["ended"] for each in workers} <= {"WrongHost", "stopped"}
    counts = Counter(result.frame["disposition"])
    assert counts["rejected"] == 2
    assert counts["in_doubt"] + counts["pending"] == 280

    world.sandbox.set_faults(Faults())
    rest = await engine.run(world.job())
    assert (rest.exit_code, len(world.effects)) == (3, 280)


async def test_a_patients_writes_keep_their_order(
    make_world: MakeWorld, database: str, secrets: None
) -> None:
    world: World = await make_world(patients=10)
    world.write_ledger(
        [(f"t{n}", patient_key(n % 10), f"{n // 10 + 1}.00", "") for n in range(100)]
    )
    configure(world, database)
    await engine.run(world.job(only_feeds=("ledger",)))
    by_patient: dict[str, list[float]] = {}
    for effect in world.effects:
        by_patient.setdefault(effect["patient"], []).append(float(effect["amount"]))
    assert len(by_patient) == 10
    assert all(amounts == sorted(amounts) for amounts in by_patient.values())


async def test_a_stop_lets_all_workers_finish_what_is_in_flight(
    make_world: MakeWorld, database: str, secrets: None
) -> None:
    world: World = await make_world(patients=40)
    write_files(world)
    configure(world, database, rate_per_s=40.0)
    stop, progress = asyncio.Event(), Progress()

    async def watch() -> None:
        while progress.stage != "sending" or progress.sent < 20:
            await asyncio.sleep(0.05)
        stop.set()

    watching = asyncio.ensure_future(watch())
    result = await engine.run(world.job(), stop=stop, progress=progress)
    await watching
    assert result.exit_code == engine.INTERRUPTED
    counts = Counter(result.frame["disposition"])
    assert counts["in_doubt"] == 0
    assert 20 <= counts["created"] == len(world.effects) < 280
    assert {each["ended"] for each in result.summary["workers"]} == {"stopped"}
    configure(world, database)
    rest = await engine.run(world.job())
    assert rest.exit_code == 3
    assert len(world.effects) == 280


async def test_a_command_whose_lease_was_taken_leaves_the_report_to_whoever_took_it(
    make_world: MakeWorld, database: str, secrets: None, postgres_server: Server
) -> None:
    world: World = await make_world(patients=40)
    write_files(world)
    configure(world, database, rate_per_s=40.0)

    async def take() -> None:
        while len(world.effects) < 5:
            await asyncio.sleep(0.05)
        with postgres_server.connect(database.rsplit("/", 1)[1]) as connection:
            connection.execute("UPDATE lease SET epoch = epoch + 1 WHERE part = 0")

    taking = asyncio.ensure_future(take())
    with pytest.raises(JournalTaken):
        await engine.run(world.job(overrides={"engine": {"kind": "embedded"}}))
    await taking
    assert not (world.folder / "reports" / "latest").exists()
    assert len(world.effects) < 280


def workers_of(parent: int) -> list[int]:
    """The worker processes of a cluster that a process started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            text = path.read_text()
            number, rest = int(text.split(" ", 1)[0]), text.rpartition(")")[2].split()
            if int(rest[1]) == parent and b"spawn_main" in path.with_name("cmdline").read_bytes():
                found.append(number)
    return found


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=lambda each: each.name)
async def test_a_worker_that_is_lost_is_followed_by_another_and_nothing_happens_twice(
    make_world: MakeWorld,
    database: str,
    secrets: None,
    number: signal.Signals,
    capfd: pytest.CaptureFixture[str],
) -> None:
    world: World = await make_world(patients=40)
    write_files(world)
    configure(world, database, rate_per_s=40.0, quiet_s=0.5)
    progress, frozen = Progress(), list[int]()

    async def strike() -> None:
        struck = 0
        while struck < 2:
            await asyncio.sleep(0.1)
            if progress.stage == "sending" and progress.sent >= 30 * (struck + 1):
                some = workers_of(os.getpid())
                if some:
                    os.kill(some[struck % len(some)], number)
                    frozen.append(some[struck % len(some)])
                    struck += 1
                    if number == signal.SIGSTOP:
                        await asyncio.sleep(5)  # longer than its lease
                        os.kill(frozen[-1], signal.SIGCONT)

    striking = asyncio.ensure_future(strike())
    result = await engine.run(world.job(), progress=progress)
    await striking
    assert result.failure is None
    check_accounts(world, result)
    counts = Counter(result.frame["disposition"])
    assert counts["rejected"] == 2
    assert counts["created"] + counts["in_doubt"] + counts["pending"] == 280
    lost = [each for each in result.summary["workers"] if not each["ended"]]
    assert lost
    told = capfd.readouterr().err.splitlines()
    assert any("lease_lost" in line for line in told) == (number == signal.SIGSTOP)
