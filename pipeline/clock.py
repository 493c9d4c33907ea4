"""Time, in one place: the real clock, and one that tests wind by hand.

Instants are aware UTC. Monotonic seconds have an arbitrary zero and only differences mean anything.
"""

import asyncio
import time
from datetime import UTC, datetime, timedelta, tzinfo
from datetime import time as time_of_day
from typing import Protocol


class Clock(Protocol):
    """Time, for the rest of the program."""

    def now(self) -> datetime:
        """Return the present instant, UTC."""

    def monotonic(self) -> float:
        """Return seconds that never run backwards."""

    async def sleep(self, seconds: float) -> None:
        """Return after that many seconds."""


class SystemClock:
    """The real clock. Its instants are one wall-clock reading plus monotonic seconds.

    A wall clock that is set during a run cannot put two sends in the wrong order.
    """

    def __init__(self) -> None:
        self._zero_s = time.time() - time.monotonic()

    def now(self) -> datetime:
        """Return the present instant, UTC."""
        return datetime.fromtimestamp(self._zero_s + time.monotonic(), UTC)

    def monotonic(self) -> float:
        """Return seconds that never run backwards."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Return after that many seconds."""
        await asyncio.sleep(seconds)


class HandClock:
    """A clock that moves only when it is wound or slept on."""

    def __init__(self, started_at: datetime = datetime(2026, 11, 21, tzinfo=UTC)) -> None:
        self._started_at = started_at
        self._elapsed_s = 0.0

    def now(self) -> datetime:
        """Return the present instant, UTC."""
        return self._started_at + timedelta(seconds=self._elapsed_s)

    def monotonic(self) -> float:
        """Return the seconds since the clock was made."""
        return self._elapsed_s

    def wind(self, seconds: float) -> None:
        """Move on by that many seconds."""
        self._elapsed_s += seconds

    async def sleep(self, seconds: float) -> None:
        """Move on by that many seconds and let others run."""
        self.wind(seconds)
        await asyncio.sleep(0)


def next_time(at: time_of_day, now: datetime, zone: tzinfo | None = None) -> datetime:
    """Return the next instant at which a local clock reaches a time of day.

    A skipped time is reached at the moment of the skip; of a time that occurs twice, the next one
    counts. Days of 23 or 25 hours need no other rule.

    Args:
        at: The time of day, to the minute.
        now: An aware instant; the result, in UTC, is later than it.
        zone: The clock's zone; None for the machine's.
    """
    end = now.astimezone(UTC).replace(second=0, microsecond=0)
    shown = end.astimezone(zone).replace(tzinfo=None)
    while True:  # two days at most
        before, end = shown, end + timedelta(minutes=1)
        shown = end.astimezone(zone).replace(tzinfo=None)
        days = (before.date(), shown.date())
        if any(before < datetime.combine(day, at) <= shown for day in days):
            return end


def utc_text(at: datetime) -> str:
    """Return an instant as every output of the program shows it: `2026-11-21T02:30:00.000Z`."""
    at = at if at.tzinfo is UTC else at.astimezone(UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
