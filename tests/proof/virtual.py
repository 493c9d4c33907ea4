"""Virtual time: an event loop that never waits, and a journal's thread without a thread.

A schedule of an hour runs in milliseconds, in an order that depends on its seed alone.
"""

import asyncio
import heapq
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Final, TypeVar

T = TypeVar("T")

EPOCH: Final = datetime(2026, 11, 21, 2, 30, tzinfo=UTC)


class CrashedError(SystemExit):
    """The process is killed here: nothing of it runs any more."""


class Deadlock(RuntimeError):
    """No task can ever go on."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose time leaps to the next timer whenever no task can go on."""

    def __init__(self, started_s: float, random: Random, step: Callable[[str], None]) -> None:
        super().__init__()
        self._now_s = started_s
        self._random = random
        self._step = step
        self.set_exception_handler(lambda *_: None)  # what a killed process leaves behind

    def time(self) -> float:
        return self._now_s

    def _run_once(self) -> None:
        inner: Any = self
        self._now_s += 1e-6  # work takes time; timers that are rounded down would never be due else
        if not inner._ready:
            timers = inner._scheduled
            while timers and timers[0]._cancelled:
                heapq.heappop(timers)._scheduled = False
                inner._timer_cancelled_count -= 1
            if not timers:
                raise Deadlock
            self._now_s = max(self._now_s, timers[0]._when)
        super()._run_once()  # type: ignore[misc]

    def run_in_executor(  # type: ignore[override]
        self,
        executor: Any,  # noqa: ARG002 - there is none
        func: Callable[..., T],
        *args: Any,
    ) -> "asyncio.Future[T]":
        """Run it after a little while, and report it after another: others go on in between."""
        future: asyncio.Future[T] = self.create_future()

        def work() -> None:
            self._step("before a commit")
            try:
                result = func(*args)
            except StopIteration as stop:  # a future takes none
                future.set_exception(RuntimeError(stop))
                return
            except Exception as error:  # noqa: BLE001 - it is the caller's
                future.set_exception(error)
                return
            self._step("after a commit")
            self.call_later(self._random.uniform(0, 0.002), _tell, future, result)

        self.call_later(self._random.uniform(0, 0.002), work)
        return future

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run to the end, or to a crash; then nothing of it is left."""
        try:
            asyncio.set_event_loop(self)
            return self.run_until_complete(main)
        finally:
            asyncio.set_event_loop(None)
            self.close()


def _tell(future: "asyncio.Future[T]", result: T) -> None:
    if not future.done():
        future.set_result(result)


class Inline(Executor):
    """Runs a call at once."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args, **named))
        except Exception as error:  # noqa: BLE001 - it is the caller's
            future.set_exception(error)
        return future


class LoopClock:
    """The loop's time; its instants may be wrong by `wrong_s`, as a machine's clock is."""

    def __init__(self, loop: asyncio.AbstractEventLoop, wrong_s: float) -> None:
        self._loop = loop
        self._zero = EPOCH + timedelta(seconds=wrong_s)

    def now(self) -> datetime:
        return self._zero + timedelta(seconds=self._loop.time())

    def monotonic(self) -> float:
        return self._loop.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
