"""The rate: never above it in any second of the log of grants."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.canvas.limiter import Limiter, Share, bucket_of
from pipeline.clock import HandClock, SystemClock
from pipeline.errors import Stopped
from tests.proof.virtual import LoopClock, VirtualLoop


@pytest.mark.parametrize("rate", [1, 2, 5, 50, 200, 1000])
def test_a_sliding_second_of_the_bucket_holds_at_most_the_rate(rate: float) -> None:
    capacity, period_s = bucket_of(rate)
    assert int(capacity / period_s + capacity) <= rate
    assert capacity / period_s >= 0.99 * rate


@pytest.mark.parametrize(("rate", "permits"), [(20.0, 30), (200.0, 300), (2.5, 4)])
async def test_no_second_of_the_log_of_grants_holds_more_than_the_rate(
    rate: float, permits: int
) -> None:
    limiter = Limiter(rate, SystemClock())
    log: list[float] = []

    async def take() -> None:
        await limiter.permit()
        log.append(time.monotonic())

    await asyncio.gather(*(take() for _ in range(permits)))
    busiest = max(sum(start <= at < start + 1.0 for at in log) for start in log)
    assert busiest <= rate


async def test_a_pause_holds_everybody() -> None:
    limiter = Limiter(1000.0, SystemClock())
    limiter.pause(0.1)
    started_s = time.monotonic()
    await asyncio.gather(*(limiter.permit() for _ in range(5)))
    assert time.monotonic() - started_s >= 0.1


async def test_whoever_waits_is_told_that_the_run_stops() -> None:
    limiter = Limiter(1000.0, SystemClock())
    limiter.pause(60.0)
    waiting = asyncio.ensure_future(limiter.permit())
    await asyncio.sleep(0)
    limiter.stop()
    with pytest.raises(Stopped):
        await waiting


async def test_a_permit_that_waits_for_the_bucket_is_released_by_stop() -> None:
    limiter = Limiter(0.05, SystemClock())
    await limiter.permit()
    waiting = [asyncio.ensure_future(limiter.permit()) for _ in range(3)]
    await asyncio.sleep(0.05)
    started_s = time.monotonic()
    limiter.stop()
    ended = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(each) for each in ended] == [Stopped] * 3
    assert time.monotonic() - started_s < 1.0


async def test_a_waiting_permit_that_is_cancelled_lets_the_next_one_wait() -> None:
    limiter = Limiter(5.0, SystemClock())
    await limiter.permit()
    first, second = (asyncio.ensure_future(limiter.permit()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait_for(second, 5.0)
    assert first.cancelled()


@given(st.lists(st.floats(0.0, 100.0), max_size=20))
def test_the_share_is_halved_once_a_moment_and_grows_back(waits: list[float]) -> None:
    clock, share = HandClock(), Share()
    for wait in waits:
        clock.wind(wait)
        before = share.at(clock.monotonic())
        share.cut(clock.monotonic())
        after = share.at(clock.monotonic())
        assert 1 / 16 <= after <= before <= 1.0
        assert after == before or after == max(before / 2, 1 / 16)
    assert share.at(clock.monotonic() + 50.0) == 1.0


class SlowClock(LoopClock):
    """It shows half of the time that the bucket sees go by."""

    def monotonic(self) -> float:
        return super().monotonic() / 2


def granted(
    kind: type[LoopClock], rate: float, permits: int, before: Callable[[Limiter], Awaitable[None]]
) -> list[float]:
    """When that many were granted, by the clock, without a real wait."""
    loop = VirtualLoop(0.0, Random(1), lambda _: None)
    clock, log = kind(loop, 0.0), list[float]()

    async def take() -> None:
        limiter = Limiter(rate, clock)
        await before(limiter)
        for _ in range(permits):
            await limiter.permit()
            log.append(clock.monotonic())

    loop.run(take())
    return log


async def nothing(_: Limiter) -> None:
    """All is as at the start."""


async def slower(limiter: Limiter) -> None:
    limiter.slow_down(0.0)


@pytest.mark.parametrize("rate", [20.0, 200.0])
def test_a_bucket_whose_clock_runs_ahead_lets_no_more_go(rate: float) -> None:
    log = granted(SlowClock, rate, int(3 * rate), nothing)
    assert max(sum(start <= at < start + 1.0 for at in log) for start in log) <= rate


def test_half_the_rate_once_canvas_says_that_it_is_too_fast() -> None:
    whole, half = (granted(LoopClock, 200.0, 100, before)[-1] for before in (nothing, slower))
    assert 1.9 < half / whole < 2.2


def test_who_waits_for_a_pause_to_end_is_told_at_once_of_a_stop() -> None:
    loop = VirtualLoop(0.0, Random(1), lambda _: None)

    async def stop() -> float:
        limiter = Limiter(1000.0, LoopClock(loop, 0.0))
        limiter.pause(60.0)
        waiting = asyncio.ensure_future(limiter.permit())
        await asyncio.sleep(0)
        limiter.stop()
        with pytest.raises(Stopped):
            await waiting
        return loop.time()

    assert loop.run(stop()) < 1.0
