"""One rate for all workers: slots in time, handed out by the database they share, half a second at a time.

The database spaces the slots evenly (a GCRA with a burst of 1) by its own clock. It makes frames of half a second
of slots, each just before the one before it ends, and divides them among the workers that have asked since the
last one was made, by what each could use (cluster/shared_rate.py). So a worker asks twice a second.

A worker uses each of its slots within 10 ms, or drops it. A sliding second of permits then holds the slots of at
most 1.012 s, at 0.998 R / 1.01 a second never more than R (docs/guarantees.md, "One rate for all workers").

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
from pipeline.cluster.frame import Slots
from pipeline.errors import Stopped
from pipeline.records import Reserved

_FRAME_S: Final = 0.5  # seconds of slots in a frame: two messages a second and worker
_AHEAD_S: Final = (
    0.25  # a frame is made this long before it begins: the answers have time to arrive
)
_LATE_S: Final = 0.010  # a slot that is this late is dropped
_USED: Final = 0.998  # of the rate; the rest is room for `_WIDTH_S`
_WIDTH_S: Final = 0.002  # width of the clock's interval if answers are quick
_WIDTH_STEP_S: Final = (
    0.005  # if they are slow, slots are spaced wider by this step, or twice that ...
)
_LOOKS: Final = 8  # answers in a row before they count as slow
_SETTLE_S: Final = (
    1.0  # after it no slot is spaced by an earlier width: more than `_AHEAD_S + _FRAME_S`
)
_DRIFT: Final = 0.0002  # of two clocks, in seconds a second
_REACH_S: Final = 0.002  # no slot begins sooner: the answer has to arrive
_MORE, _MORE_QUEUED = (
    1.25,
    2.0,
)  # times the slots that were wanted: these can be used in the next frame
_TELL_EVERY_S: Final = 0.25  # 429s that follow within it are reported together


def pacing(rate_per_s: float, frame_s: float = _FRAME_S) -> dict[str, float]:
    """Return the figures by which the database hands out slots.

    None is handed out that lies more than `ahead_s + frame_s` ahead, however slow the rate: that is how
    long the database waits after it may have forgotten some (and for one interval more).
    """
    return {
        "rate_per_s": whole_of(rate_per_s),
        "used": _USED,
        "late_s": _LATE_S,
        "frame_s": frame_s,
        "ahead_s": _AHEAD_S,
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
        """Reserve our slots of a frame, by the `wanted` that could be used; 0 only reports `width_s`."""

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
        self._frames: deque[Slots] = (
            deque()
        )  # by the database's clock; each is later than the one before
        self._width_s = 0.0  # reported to the database, beyond `_WIDTH_S`
        self._turn = asyncio.Lock()  # one at a time waits for a slot: in order
        self._waiting = 0
        self._used = 0  # slots, since they were last asked for
        self._paused_until_s = self._again_s = float("-inf")
        self._pause_to_tell_s: float | None = None
        self._tell_again_s = float("-inf")
        self._is_hinted = False
        self._call = asyncio.Event()  # there may be something to ask or to report
        self._news = asyncio.Event()  # the task that has the turn looks again
        self._is_stopped = False
        self._failure: Exception | None = None
        row.hinted = self._be_hinted

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
        self._frames.clear()
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
        least_s, most_s = self._database.at(now_s)
        slots = self._next_slots(most_s - _LATE_S - _WIDTH_S - self._width_s)
        if slots is None:
            self._call.set()
            await self._wait(None)
            return False
        slot_s = slots.peek()
        if least_s < slot_s:
            await self._wait(slot_s - least_s)
            return False
        slots.pop()
        self._used += 1
        if self._used == 1:  # the talking task may think that nothing is wanted
            self._call.set()
        return True

    def _next_slots(self, not_before_s: float) -> Slots | None:
        """Return the slots of which the next is to be used; those that are too late are dropped."""
        while self._frames:
            slots = self._frames[0]
            slots.skip_to(not_before_s)
            if slots:
                return slots
            self._frames.popleft()
        return None

    async def _wait(self, seconds: float | None) -> None:
        """Wait for news, at most `seconds`."""
        self._news.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return

    # The one task that speaks with the database --------------------------------------------------

    def _be_hinted(self) -> None:
        self._is_hinted = True
        self._call.set()

    async def _talk(self) -> None:
        try:
            while True:
                self._call.clear()
                tell_in_s, ask_in_s = self._due_in_s()
                if tell_in_s <= 0:
                    await self._tell()
                elif self._is_hinted:
                    self._is_hinted = False
                    self._hear(await self._row.look())
                elif ask_in_s <= 0:
                    await self._ask()
                else:
                    await self._called_within(min(tell_in_s, ask_in_s))
        except Exception as error:  # noqa: BLE001 - whatever it is, waiting tasks raise it
            self._failure = error
            self._news.set()

    def _due_in_s(self) -> tuple[float, float]:
        """Return in how many seconds a 429 is to be reported, and slots are to be asked for."""
        now_s = self._clock.monotonic()
        is_told = self._pause_to_tell_s is None
        tell_in_s = math.inf if is_told else self._tell_again_s - now_s
        return tell_in_s, self._again_s - now_s if self._wanted() else math.inf

    async def _tell(self) -> None:
        pause_s, self._pause_to_tell_s = self._pause_to_tell_s or 0.0, None
        await self._row.slow_down(pause_s)
        self._tell_again_s = self._clock.monotonic() + _TELL_EVERY_S

    async def _ask(self) -> None:
        await self._know_the_clock()
        wanted, self._used = self._wanted(), 0
        self._take(await self._row.reserve(wanted, self._width_s))

    async def _called_within(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(None if seconds == math.inf else seconds):
                await self._call.wait()
        except TimeoutError:
            return

    def _wanted(self) -> int:
        """Return how many slots could be used in a frame: somewhat more than were wanted in the last one.

        If tasks queue for slots, twice as many. An idle worker asks for none: its slots would be wasted.
        """
        more = _MORE_QUEUED if self._waiting > 1 else _MORE
        return math.ceil(more * (self._used + self._waiting))

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
        """Take the database's answer into account: its clock, and whether the slots in hand still count."""
        if reserved.started_s != self._started_s:
            self._database = DatabaseClock()
        is_same = self._database.hear(reserved) and reserved.started_s == self._started_s
        if not is_same or reserved.cut_s != self._cut_s:
            self._frames.clear()
            self._again_s = float("-inf")
        self._started_s, self._cut_s = reserved.started_s, reserved.cut_s
        self._paused_until_s = max(
            self._paused_until_s, reserved.blocked_until_s - self._behind_s(reserved)
        )
        self._news.set()

    def _take(self, reserved: Reserved) -> None:
        """Take our slots of a frame."""
        self._hear(reserved)
        self._again_s = reserved.again_s - self._behind_s(reserved)
        if reserved.mine >= 0:
            slots = Slots(reserved.first_s, reserved.interval_s, reserved.counts, reserved.mine)
            self._frames.append(slots)

    @staticmethod
    def _behind_s(reserved: Reserved) -> float:
        """Return what a moment of the database's clock, minus it, is at the latest by ours."""
        return reserved.now_s - reserved.answered_s
