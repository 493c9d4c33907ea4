"""Whole runs and what Canvas then holds."""

import asyncio
import ctypes
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from random import Random

import polars as pl

from pipeline.commands import run as engine
from tests.support.world import CREDENTIALS, World, patient_key


def payments(count: int, patients: int = 20, seed: int = 1) -> list[tuple[str, str, str, str]]:
    """Return payments of different amounts, several a patient, in an order of their own."""
    random = Random(seed)
    return [
        (
            f"T{number:05}",
            patient_key(random.randrange(patients)),
            f"{number // 100 + 1}.{number % 100:02}",
            "",
        )
        for number in range(count)
    ]


def coverages(patients: int = 20) -> list[tuple[str, ...]]:
    return [
        (patient_key(n), f"M{n}-{order}", "self", "60054", str(order), "2026-01-01", "")
        for n in range(patients)
        for order in (1, 2)
    ]


def check_accounts(world: World, result: engine.Result, *, earlier: int = 0) -> None:
    """Check that the sandbox's records agree with the report: never two effects for a row, none unreported."""
    effects = world.effects[earlier:]
    frame = result.frame
    created = frame.filter(pl.col("disposition") == "created")
    in_doubt = frame.filter(pl.col("disposition") == "in_doubt").height
    by_id = {effect["id"]: effect for effect in effects}
    assert set(created["resource_id"]) <= set(by_id)
    assert created["resource_id"].is_unique().all()
    assert 0 <= len(effects) - created.height <= in_doubt
    for resource_id, amount in (
        created.filter(pl.col("resource_type") == "PaymentNotice")
        .select("resource_id", "amount_usd")
        .iter_rows()
    ):
        assert Decimal(by_id[resource_id]["amount"]) == amount
    paid = Counter((effect["patient"], effect["amount"]) for effect in effects if effect["amount"])
    assert max(paid.values(), default=0) <= 1, (
        "each payment of these files has an amount of its own"
    )
    assert world.sandbox.account()["open_writes_max"] <= 1
    assert result.summary["balanced"]


def counts(result: engine.Result, feed: int = -1) -> dict[str, int]:
    return {
        word: count
        for word, count in result.summary["feeds"][feed]["dispositions"].items()
        if count
    }


async def start(
    world: World,
    *arguments: str,
    before: Callable[[], None] | None = None,
    stdin: int | None = None,
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pipeline", *arguments[0].split(), str(world.config), *arguments[1:],
        env={**os.environ, **CREDENTIALS}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        preexec_fn=before, stdin=stdin,
    )  # fmt: skip


def obey_modes() -> None:
    """Give up the capabilities of root that ignore the modes of files, before a program starts."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        if os.geteuid() == 0 and libc.prctl(24, capability, 0, 0, 0):  # PR_CAPBSET_DROP
            raise OSError(ctypes.get_errno(), "prctl")


async def command(
    world: World, *arguments: str, piped: bytes | None = None
) -> tuple[asyncio.subprocess.Process, str, str]:
    process = await start(world, *arguments, stdin=None if piped is None else subprocess.PIPE)
    stdout, stderr = await process.communicate(piped)
    return process, stdout.decode(), stderr.decode()


async def effects_reach(world: World, count: int) -> None:
    async with asyncio.timeout(30):
        while len(world.effects) < count:
            await asyncio.sleep(0.005)
