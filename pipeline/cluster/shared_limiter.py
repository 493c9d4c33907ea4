"""One rate for all workers: slots in time, handed out in batches by the database they share.

The database spaces the slots evenly (a GCRA with a burst of 1) by its own clock, and a worker uses
each of its slots within 10 ms, or drops it. A sliding second of permits then holds the slots of at most
1.01 s, at 0.998 R / 1.01 a second never more than R (docs/guarantees.md, "One rate for all workers").

The database's clock is known as an interval, narrowed by each answer as in `ServerClock`. A slot is used
when it has certainly come, and dropped when it may be too late. If answers take so long that the
interval is wide, the worker reports the width, and the database spaces all slots accordingly.

No request is sent without a reserved slot: while the database is silent, no worker sends.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Final, Protocol, Self

from pipeline.canvas.limiter import CUT_PAUSE_S, GROWTH_A_SECOND, SHARE_MIN, whole_of
from pipeline.clock import Clock
from pipeline.errors import Stopped
from pipeline.records import Reserved

_BATCH_S: Final = 0.25  # seconds of slots in a batch: four messages a second and worker
_LATE_S: Final = 0.010  # a slot that is this late is dropped
_USED: Final = 0.998  # of the rate; the rest is room for `_WIDTH_S`
_WIDTH_S: Final = 0.001  # width of the clock's interval if answers are quick
_WIDTH_STEP_S: Final = (
    0.005  # if they are slow, slots are spaced wider by this step, or twice that ...
)
_LOOKS: Final = 8  # answers in a row before they count as slow
_SETTLE_S: Final = 1.0  # after it no slot is spaced by an earlier width
_DRIFT: Final = 0.0002  # of two clocks, in seconds a second
_AHEAD_S: Final = 0.1  # a worker asks for more this long before its last slot
_REACH_S: Final = 0.002  # no slot begins sooner: the answer has to arrive


def pacing(rate_per_s: float, batch_s: float = _BATCH_S) -> dict[str, float]:
    """Return the figures by which the database hands out slots."""
    return {
        "rate_per_s": whole_of(rate_per_s),
        "used": _USED,
        "late_s": _LATE_S,
        "batch_s": batch_s,
        "ahead_s": 2 * batch_s,  # no batch begins later than this from now
        "restart_s": max(1.0, 4 * batch_s),  # after a restart: past all that was handed out before
        "reach_s": _REACH_S,
        "share_min": SHARE_MIN,
        "growth": GROWTH_A_SECOND,
        "cut_pause_s": CUT_PAUSE_S,
    }


class Row(Protocol):
    """The row of the database from which slots are taken. Each call may wait, and may raise JournalError."""

    hinted: Callable[[], None]  # called when another worker has changed the row

    async def look(self) -> Reserved:
        """Ask for the clock and the state, without slots; answered at once."""

    async def reserve(self, wanted: int, width_s: float) -> Reserved:
        """Reserve up to `wanted` slots; 0 only reports `width_s`, the width of the clock's interval."""

    async def slow_down(self, pause_s: float) -> None:
        """Halve the rate, and hand out no slot for `pause_s` seconds."""

    async def close(self) -> None:
        """Close the connection to the database."""


class DatabaseClock:
    """The lead of the database's clock over our monotonic one, as an interval. Pure."""

    def __init__(self) -> None:
        self._least_s, self._most_s = float("-inf"), float("inf")
        self._heard_s = 0.0

    def at(self, moment_s: float) -> tuple[float, float]:
        """Return the least and the most that the database's clock can show at a moment of ours."""
        drift_s = _DRIFT * (moment_s - self._heard_s)
        return moment_s + self._least_s - drift_s, moment_s + self._most_s + drift_s

    def width_s(self, moment_s: float) -> float:
        """Return the width of that interval."""
        least_s, most_s = self.at(moment_s)
        return most_s - least_s

    def hear(self, reserved: Reserved) -> bool:
        """Take an answer into account. Returns False if it contradicts earlier ones, which are then forgotten."""
        heard_s = reserved.answered_s
        least_s, most_s = (edge_s - heard_s for edge_s in self.at(heard_s))
        low_s, high_s = reserved.now_s - heard_s, reserved.now_s - reserved.asked_s
        agrees = low_s <= most_s and least_s <= high_s
        if agrees:
            low_s, high_s = max(low_s, least_s), min(high_s, most_s)
        self._least_s, self._most_s, self._heard_s = low_s, high_s, heard_s
        return agrees


class SharedLimiter:
    """Permits, one for each request, out of one rate for many processes. Use it as an async context."""

    def __init__(self, row: Row, clock: Clock) -> None:
        self._row = row
        self._clock = clock
        self._database = DatabaseClock()
        self._started_s = self._cut_s = 0.0  # of the last answer
        self._slots: deque[float] = deque()  # by the database's clock
        self._width_s = 0.0  # reported to the database, beyond `_WIDTH_S`
        self._turn = asyncio.Lock()  # one at a time waits for a slot: in order
        self._waiting = 0
        self._used = 0  # slots, since the last batch was asked for
        self._paused_until_s = self._again_s = float("-inf")
        self._pause_to_tell_s: float | None = None
        self._call = asyncio.Event()  # there is something to ask or to report
        self._news = asyncio.Event()  # the task that has the turn looks again
        self._is_stopped = False
        self._failure: Exception | None = None
        row.hinted = self._call.set

    async def __aenter__(self) -> Self:
        """Start the task that speaks with the database."""
        self._talking = asyncio.ensure_future(self._talk())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the task and close the connection."""
        self._talking.cancel()
        await asyncio.wait({self._talking})
        await self._row.close()

    async def permit(self) -> None:
        """Wait until one request may go. Raises Stopped once `stop` was called, JournalError."""
        self._waiting += 1
        try:
            async with self._turn:
                while not await self._is_granted():
                    pass
        finally:
            self._waiting -= 1

    def pause(self, seconds: float) -> None:
        """Give no permit in this process for `seconds`."""
        self._paused_until_s = max(self._paused_until_s, self._clock.monotonic() + seconds)

    def slow_down(self, pause_s: float) -> None:
        """Give no permit to any worker for `pause_s` seconds, then half as many: Canvas asks for a slower pace."""
        self.pause(pause_s)
        self._slots.clear()
        self._pause_to_tell_s = max(pause_s, self._pause_to_tell_s or 0.0)
        self._call.set()

    def stop(self) -> None:
        """Give no more permits: each waiting `permit` raises Stopped."""
        self._is_stopped = True
        self._news.set()

    async def _is_granted(self) -> bool:
        """Take the next slot; False: look again."""
        if self._is_stopped:
            raise Stopped("the run is stopping")
        if self._failure is not None:
            raise self._failure
        now_s = self._clock.monotonic()
        if now_s < self._paused_until_s:
            await self._wait(self._paused_until_s - now_s)
            return False
        if not self._slots:
            if now_s >= self._again_s:
                self._call.set()
            await self._wait(self._again_s - now_s if now_s < self._again_s else None)
            return False
        least_s, most_s = self._database.at(now_s)
        slot_s = self._slots[0]
        if most_s - slot_s > _LATE_S + _WIDTH_S + self._width_s:
            self._slots.popleft()
            return False
        if least_s < slot_s:
            await self._wait(slot_s - least_s)
            return False
        self._slots.popleft()
        self._used += 1
        self._ask_ahead(now_s, least_s)
        return True

    def _ask_ahead(self, now_s: float, database_s: float) -> None:
        """Ask for the next batch if other tasks wait; an idle worker's slots would be wasted."""
        is_short = not self._slots or self._slots[-1] - database_s < _AHEAD_S
        if is_short and self._waiting > 1 and now_s >= self._again_s:
            self._call.set()

    async def _wait(self, seconds: float | None) -> None:
        """Wait for news, at most `seconds`."""
        self._news.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return

    # The one task that speaks with the database --------------------------------------------------

    async def _talk(self) -> None:
        try:
            while True:
                await self._call.wait()
                self._call.clear()
                if self._pause_to_tell_s is not None:
                    pause_s, self._pause_to_tell_s = self._pause_to_tell_s, None
                    await self._row.slow_down(pause_s)
                await self._know_the_clock()
                wanted = self._wanted()
                if wanted:
                    self._used = 0
                    self._hear(await self._row.reserve(wanted, self._width_s))
                else:
                    self._hear(await self._row.look())
        except Exception as error:  # noqa: BLE001 - whatever it is, waiting tasks raise it
            self._failure = error
            self._news.set()

    def _wanted(self) -> int:
        """Return the number of useful slots: twice the recent number, and at least one for each waiting task."""
        now_s = self._clock.monotonic()
        least_s, _ = self._database.at(now_s)
        is_short = not self._slots or self._slots[-1] - least_s < _AHEAD_S
        may_ask = is_short and now_s >= max(self._again_s, self._paused_until_s)
        return max(self._waiting, 2 * self._used) if may_ask else 0

    async def _know_the_clock(self) -> None:
        """Look until the database's clock is known well enough, or report that it cannot be."""
        for _ in range(_LOOKS):
            beyond_s = self._database.width_s(self._clock.monotonic()) - _WIDTH_S - self._width_s
            if beyond_s <= 0:
                return
            self._hear(await self._row.look())
        self._width_s += _WIDTH_STEP_S * 2 ** max(0, math.ceil(math.log2(beyond_s / _WIDTH_STEP_S)))
        self._hear(await self._row.reserve(0, self._width_s))
        await self._clock.sleep(_SETTLE_S)

    def _hear(self, reserved: Reserved) -> None:
        """Take the database's answer into account: slots, and whether those in hand still count."""
        if reserved.started_s != self._started_s:
            self._database = DatabaseClock()
        is_same = self._database.hear(reserved) and reserved.started_s == self._started_s
        if not is_same or reserved.cut_s != self._cut_s:
            self._slots.clear()
        self._started_s, self._cut_s = reserved.started_s, reserved.cut_s
        behind_s = (
            reserved.now_s - reserved.answered_s
        )  # a moment of the server's clock, minus this, is one of ours at the latest
        self._paused_until_s = max(self._paused_until_s, reserved.blocked_until_s - behind_s)
        slots = (
            reserved.first_s + number * reserved.interval_s for number in range(reserved.count)
        )
        self._slots.extend(slots)
        self._again_s = float("-inf") if reserved.count else reserved.again_s - behind_s
        self._news.set()
