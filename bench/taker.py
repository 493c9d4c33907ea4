"""A worker that only takes permits out of the rate that all workers share.

    python -m bench.taker URL RATE [--takers N] [--zero SECONDS]

Writes the machine's monotonic seconds of each grant to standard output, eight bytes each. A line with
a number on standard input is a 429 with that Retry-After; its end is the end. `--zero` sets its own
clock so far off.
"""

import argparse
import asyncio
import struct
import sys
import time
from datetime import datetime, timedelta

from pipeline.clock import SystemClock
from pipeline.cluster.shared_limiter import SharedLimiter, pacing
from pipeline.cluster.shared_rate import Target
from pipeline.errors import Stopped


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


async def _take(url: str, rate_per_s: float, takers: int, off_s: float) -> None:
    clock = _OffClock(off_s)
    async with SharedLimiter(Target(url, pacing(rate_per_s), clock), clock) as slots:

        async def take() -> None:
            while True:
                try:
                    await slots.permit()
                except Stopped:
                    return
                sys.stdout.buffer.write(struct.pack("d", time.monotonic()))
                sys.stdout.buffer.flush()

        async def obey() -> None:
            while line := await asyncio.to_thread(sys.stdin.readline):
                slots.slow_down(float(line))
            slots.stop()

        await asyncio.gather(obey(), *(take() for _ in range(takers)))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.taker", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("rate_per_s", type=float)
    parser.add_argument("--takers", type=int, default=8)
    parser.add_argument("--zero", type=float, default=0.0)
    given = parser.parse_args()
    if sys.platform == "win32":
        asyncio.run(_take(given.url, given.rate_per_s, given.takers, given.zero))
    else:
        import uvloop  # noqa: PLC0415

        uvloop.run(_take(given.url, given.rate_per_s, given.takers, given.zero))


if __name__ == "__main__":
    main()
