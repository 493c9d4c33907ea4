"""A worker that only takes permits out of the rate that all workers share.

    python -m bench.taker URL RATE [--takers N] [--takes SECONDS] [--zero SECONDS] [--told FILE]

Writes the machine's monotonic seconds of each grant to standard output, eight bytes each. A line with
a number on standard input is a 429 with that Retry-After; its end is the end. `--takes` is how long
each request lasts, `--zero` sets the worker's own clock so far off, and in the file of `--told` are the
seconds at which each message to the database was sent, and how long its answer took.
"""

import argparse
import asyncio
import os
import struct
import sys
import time
from collections.abc import Awaitable
from datetime import datetime, timedelta
from pathlib import Path
from typing import BinaryIO, TypeVar

from bench.shared import TOLD
from pipeline.clock import SystemClock
from pipeline.cluster.shared_limiter import SharedLimiter, pacing
from pipeline.cluster.shared_rate import Target
from pipeline.errors import Stopped
from pipeline.records import Reserved

T = TypeVar("T")


class _OffClock(SystemClock):
    """The real clock, with an offset."""

    def __init__(self, off_s: float) -> None:
        super().__init__()
        self._off_s = off_s

    def now(self) -> datetime:
        """Return the present instant, UTC."""
        return super().now() + timedelta(seconds=self._off_s)

    def monotonic(self) -> float:
        """Return seconds that never run backwards."""
        return super().monotonic() + self._off_s


class _Told(Target):
    """Writes down each message: when it was sent, how long its answer took, and whether it reserves."""

    def __init__(self, url: str, rate_per_s: float, clock: SystemClock, file: BinaryIO) -> None:
        super().__init__(url, pacing(rate_per_s), clock)
        self._file = file

    async def look(self) -> Reserved:
        return await self._timed(super().look(), is_reservation=False)

    async def reserve(self, wanted: int, width_s: float) -> Reserved:
        return await self._timed(super().reserve(wanted, width_s), is_reservation=True)

    async def slow_down(self, pause_s: float) -> None:
        await self._timed(super().slow_down(pause_s), is_reservation=False)

    async def _timed(self, answer: Awaitable[T], *, is_reservation: bool) -> T:
        began_s = time.monotonic()
        result = await answer
        self._file.write(TOLD.pack(began_s, time.monotonic() - began_s, is_reservation))
        self._file.flush()
        return result


async def _take(given: argparse.Namespace, told: BinaryIO) -> None:
    clock = _OffClock(given.zero)
    row = _Told(given.url, given.rate_per_s, clock, told)
    async with SharedLimiter(row, clock) as slots:

        async def take() -> None:
            while True:
                try:
                    await slots.permit()
                except Stopped:
                    return
                sys.stdout.buffer.write(struct.pack("d", time.monotonic()))
                sys.stdout.buffer.flush()
                if given.takes:
                    await asyncio.sleep(given.takes)

        async def obey() -> None:
            while line := await asyncio.to_thread(sys.stdin.readline):
                slots.slow_down(float(line))
            slots.stop()

        await asyncio.gather(obey(), *(take() for _ in range(given.takers)))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.taker", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("rate_per_s", type=float)
    parser.add_argument("--takers", type=int, default=8)
    parser.add_argument("--takes", type=float, default=0.0)
    parser.add_argument("--zero", type=float, default=0.0)
    parser.add_argument("--told", default=os.devnull)
    given = parser.parse_args()
    with Path(given.told).open("wb") as told:
        if sys.platform == "win32":
            asyncio.run(_take(given, told))
        else:
            import uvloop  # noqa: PLC0415

            uvloop.run(_take(given, told))


if __name__ == "__main__":
    main()
