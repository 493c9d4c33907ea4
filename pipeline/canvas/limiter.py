"""The rate limiter: never more than `rate_per_s` requests in any second, fewer if Canvas asks for it.

The bucket is an aiolimiter with measured settings: `AsyncLimiter(b, b / r)` with r = 0.992 R and
b = 0.008 R + 0.99, so that a sliding second has at most floor(r + b) permits, the first second
included. An exact check of the log of the last permits follows, because the clock of a bucket can lag
on a machine that stalls.
"""

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Final, Protocol

from aiolimiter import AsyncLimiter

from pipeline.canvas.semaphore import FairSemaphore
from pipeline.clock import Clock
from pipeline.errors import Stopped

SHARE_MIN: Final = 1 / 16  # of the rate, however often Canvas says 429
GROWTH_A_SECOND: Final = 0.02  # of the rate: half is regained in 25 s
CUT_PAUSE_S: Final = 1.0  # several 429 within this time are one cut
_RENEW_AT: Final = 0.05  # a new bucket is made when the share has changed by this much


@dataclass
class Share:
    """The share of the rate that is used: halved by a 429, growing back with time. Pure."""

    share: float = 1.0
    changed_at_s: float = 0.0
    cut_at_s: float = float("-inf")

    def at(self, now_s: float) -> float:
        """Return the share at a moment, 1/16 to 1."""
        return min(1.0, self.share + (now_s - self.changed_at_s) * GROWTH_A_SECOND)

    def cut(self, now_s: float) -> None:
        """Halve the share, because Canvas asks for a slower pace."""
        if now_s - self.cut_at_s >= CUT_PAUSE_S:
            self.share = max(self.at(now_s) / 2, SHARE_MIN)
            self.changed_at_s = self.cut_at_s = now_s


class Permits(Protocol):
    """Source of permits: `Limiter` in one process, `SharedLimiter` across many."""

    async def permit(self) -> None:
        """Wait until one request may go. Raises Stopped once `stop` was called."""

    def pause(self, seconds: float) -> None:
        """Give no permit in this process for `seconds`."""

    def slow_down(self, pause_s: float) -> None:
        """Give no permit for `pause_s` seconds, then half as many: Canvas asks for a slower pace."""

    def stop(self) -> None:
        """Give no more permits: each waiting `permit` raises Stopped now."""


def whole_of(rate_per_s: float) -> float:
    """Return the rate, rounded down above 1: "never more in any second" counts whole requests."""
    return float(int(rate_per_s)) if rate_per_s >= 1 else rate_per_s


def bucket_of(rate_per_s: float) -> tuple[float, float]:
    """Return (capacity, period in seconds) of the bucket for a rate above 0."""
    whole = whole_of(rate_per_s)
    leak_per_s, capacity = 0.992 * whole, max(0.008 * whole + 0.99, 1.0)
    return capacity, capacity / leak_per_s


class Limiter:
    """Permits, one for each request."""

    def __init__(self, rate_per_s: float, clock: Clock) -> None:
        self._rate_per_s = rate_per_s
        self._clock = clock
        self._share = Share(changed_at_s=clock.monotonic())
        self._bucket_share = 1.0
        self._bucket = AsyncLimiter(*bucket_of(rate_per_s))
        # One task at a time waits for the bucket: that is cheaper, and keeps them in order.
        self._turn = FairSemaphore(1)
        self._last: deque[float] = deque(maxlen=max(int(rate_per_s), 1))
        self._window_s = max(1.0, 1.0 / rate_per_s)
        self._paused_until_s = float("-inf")
        self._stopped = asyncio.Event()
        self._bucket_wait: asyncio.Timeout | None = None  # while a permit waits for the bucket
        self.pauses = 0

    async def permit(self) -> None:
        """Wait until one request may go. Raises Stopped once `stop` was called."""
        await self._turn.acquire()
        try:
            while True:
                if self._stopped.is_set() or self._clock.monotonic() < self._paused_until_s:
                    await self._wait_until(self._paused_until_s)
                if not self._share.share == self._bucket_share == 1.0:
                    await self._renew_bucket()
                await self._wait_for_bucket()
                now_s = self._clock.monotonic()
                if len(self._last) == self._last.maxlen and now_s < self._last[0] + self._window_s:
                    await self._wait_until(self._last[0] + self._window_s)
                    now_s = self._clock.monotonic()
                if now_s >= self._paused_until_s:
                    break
            if self._stopped.is_set():
                raise Stopped("the run is stopping")
            self._last.append(now_s)
        finally:
            self._turn.release()

    def pause(self, seconds: float) -> None:
        """Give no permit for `seconds`."""
        self._paused_until_s = max(self._paused_until_s, self._clock.monotonic() + seconds)
        self.pauses += 1

    def slow_down(self, pause_s: float) -> None:
        """Pause, halve the rate and let it grow back: Canvas asks for a slower pace."""
        self._share.cut(self._clock.monotonic())
        self.pause(pause_s)

    def stop(self) -> None:
        """Give no more permits: each waiting `permit` raises Stopped now, even one that waits for the bucket."""
        self._stopped.set()
        if self._bucket_wait is not None:
            self._bucket_wait.reschedule(asyncio.get_running_loop().time())

    async def _wait_for_bucket(self) -> None:
        """Wait for the bucket, or for `stop`: at a low rate the bucket takes many seconds."""
        try:
            async with asyncio.timeout(None) as self._bucket_wait:
                await self._bucket.acquire()
        except TimeoutError:
            raise Stopped("the run is stopping") from None
        finally:
            self._bucket_wait = None

    async def _wait_until(self, moment_s: float) -> None:
        """Wait for a moment of the clock, or for `stop`."""
        while not self._stopped.is_set() and (left_s := moment_s - self._clock.monotonic()) > 0:
            try:
                async with asyncio.timeout(left_s):
                    await self._stopped.wait()
            except TimeoutError:
                continue
        if self._stopped.is_set():
            raise Stopped("the run is stopping")

    async def _renew_bucket(self) -> None:
        """Make a bucket for the present share; it is drained first, so that the change gives no extra permit."""
        share = self._share.at(self._clock.monotonic())
        if abs(share - self._bucket_share) < _RENEW_AT and not (share == 1.0 != self._bucket_share):
            return
        self._bucket_share = share
        capacity, period_s = bucket_of(max(self._rate_per_s * share, 0.05))
        self._bucket = AsyncLimiter(capacity, period_s)
        await self._bucket.acquire(capacity)
