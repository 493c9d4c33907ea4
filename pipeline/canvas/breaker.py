"""The circuit breaker of writes: an outage costs a few rows, not a file. Pure.

    CLOSED     --enough answers lost in a row-->  OPEN        nothing is sent
    OPEN       --a read succeeds-->               HALF_OPEN   one write goes as a probe
    HALF_OPEN  --the probe is answered-->         CLOSED      all go on
    HALF_OPEN  --its answer is lost-->            OPEN
    HALF_OPEN  --its answer says nothing-->       HALF_OPEN   the next write is the probe

A server that answers reads and loses the answer to every write gets at most `concurrency` +
`doubts_max` + `TRIPS_MAX` writes from one process: those that open the breaker, those that were in
flight meanwhile, and one probe after each read.
"""

from enum import Enum
from typing import Final

TRIPS_MAX: Final = 3  # outages that a read ends and the next write does not: then the run stops


class Heard(Enum):
    """An answer to a write, by what it says about the server."""

    ANSWERED = "answered"  # it answers writes
    LOST = "lost"  # it does not
    NOTHING = "nothing"  # the write did not get as far as that: 401, 429, a firewall


class Breaker:
    """The breaker of one process. Every write takes a ticket, and its answer is reported with it."""

    def __init__(self) -> None:
        self.trips = 0  # outages, without an answer to a write in between
        self.is_open = False
        self._lost = 0  # answers in a row
        self._is_half_open = False
        self._period = 0  # changes with each state: older tickets say nothing about the present
        self._has_probe = False

    @property
    def is_probing(self) -> bool:
        """Return whether the answer to a probe is awaited: until then nothing else may be sent."""
        return self._is_half_open and self._has_probe

    def admit(self) -> int | None:
        """Return the ticket of a write that is sent now, or None if it must not be sent now."""
        if self.is_open or self.is_probing:
            return None
        self._has_probe = self._is_half_open
        return self._period

    def read_succeeded(self) -> None:
        """Let one write go, because the server answers reads."""
        if self.is_open:
            self._enter(is_half_open=True)

    def hear(self, ticket: int, heard: Heard, lost_max: int) -> None:
        """Take the answer to a write into account. `lost_max` lost ones in a row open the breaker."""
        if ticket != self._period:
            return  # it was sent before the breaker opened, or before it closed
        if heard is Heard.NOTHING:
            if self._is_half_open:
                self._enter(is_half_open=True)
        elif heard is Heard.ANSWERED:
            self._lost = self.trips = 0
            if self._is_half_open:
                self._enter()
        else:
            self._lost += 1
            if self._is_half_open or self._lost >= lost_max:
                self._enter(is_open=True)
                self.trips += 1

    def _enter(self, *, is_open: bool = False, is_half_open: bool = False) -> None:
        self._period += 1
        self._lost = 0
        self._has_probe = False
        self.is_open, self._is_half_open = is_open, is_half_open
