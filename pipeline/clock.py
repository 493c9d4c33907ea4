"""Time, in one place: the real clock, and one that tests wind by hand.

Instants are aware UTC. Monotonic seconds have an arbitrary zero and only differences mean anything.
"""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """What the rest of the program may know of time."""

    def now(self) -> datetime:
        """The present instant, UTC."""

    def monotonic(self) -> float:
        """Seconds that never run backwards."""

    async def sleep(self, seconds: float) -> None:
        """Return after that many seconds."""


class SystemClock:
    """The real clock. Its instants are one wall-clock reading plus monotonic seconds.

    So a wall clock that is set during a run cannot put two sends in the wrong order.
    """

    def __init__(self) -> None:
        self._zero_s = time.time() - time.monotonic()

    def now(self) -> datetime:
        """The present instant, UTC."""
        return datetime.fromtimestamp(self._zero_s + time.monotonic(), UTC)

    def monotonic(self) -> float:
        """Seconds that never run backwards."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Return after that many seconds."""
        await asyncio.sleep(seconds)


class HandClock:
    """A clock that only moves when told to, or when somebody sleeps on it."""

    def __init__(self, started_at: datetime = datetime(2026, 11, 21, tzinfo=UTC)) -> None:
        self._started_at = started_at
        self._elapsed_s = 0.0

    def now(self) -> datetime:
        """The present instant, UTC."""
        return self._started_at + timedelta(seconds=self._elapsed_s)

    def monotonic(self) -> float:
        """Seconds since the clock was made."""
        return self._elapsed_s

    def wind(self, seconds: float) -> None:
        """Move on by that many seconds."""
        self._elapsed_s += seconds

    async def sleep(self, seconds: float) -> None:
        """Move on by that many seconds and let others run."""
        self.wind(seconds)
        await asyncio.sleep(0)


def utc_text(at: datetime) -> str:
    """`2026-11-21T02:30:00.000Z`: an instant as every output of the program shows it."""
    at = at if at.tzinfo is UTC else at.astimezone(UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
