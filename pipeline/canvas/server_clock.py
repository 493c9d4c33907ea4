"""The server's clock, as its `Date` headers tell it: what instant was it there? Pure.

Canvas stamps a PaymentNotice with the time of its row, so whether one was there before our send is
a question of that clock, not of ours (docs/guarantees.md, "Settling doubt"). Each answer narrows how far
the two are apart: a `Date` was true, to the second, at some moment between request and answer.
"""

from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

_TICK: Final = timedelta(seconds=1)  # a Date is cut to the second
_SLACK: Final = timedelta(seconds=1)  # several machines answer, and theirs differ a little
_WIDTH_MAX: Final = timedelta(seconds=60)  # known less well than this, it decides nothing
_YEARS: Final = range(2000, 3000)  # of a clock that says anything; others are near the ends of time


class ServerClock:
    """How far the server's clock is ahead of ours, as an interval."""

    def __init__(self) -> None:
        self._least: timedelta | None = None
        self._most: timedelta | None = None
        # How far it is ahead of ours, at least. None: not known well enough to decide anything.
        self.ahead: timedelta | None = None
        self.was_set = False  # and may be set back: from then on it decides nothing
        self._text = ""  # the Date heard last, and what it says
        self._told: datetime | None = None

    def hear(self, date: str, sent_at: datetime, answered_at: datetime) -> None:
        """An answer with that `Date`; the instants are ours. One without a usable Date says nothing."""
        if date != self._text:
            self._text, self._told = date, _instant(date)
        told = self._told
        if told is None:
            return
        least, most = told - answered_at - _SLACK, told + _TICK - sent_at + _SLACK
        if self._least is None or self._most is None:
            self._least, self._most = least, most
        elif least <= self._most and self._least <= most:
            self._least, self._most = max(self._least, least), min(self._most, most)
        else:  # one of the two clocks was set, or two machines differ: neither answer alone is right
            self._least, self._most = min(self._least, least), max(self._most, most)
            self.was_set |= self._most - self._least > _WIDTH_MAX
        is_known = not self.was_set and self._most - self._least <= _WIDTH_MAX
        self.ahead = self._least if is_known else None

    def agrees(self, ahead: timedelta | None) -> bool:
        """Whether it is as far ahead as it was told before: neither clock was set in between."""
        now = self.ahead
        return now is not None and ahead is not None and abs(now - ahead) <= _WIDTH_MAX

    def contradicts(self, ahead: timedelta) -> bool:
        """Return whether one of the two clocks was certainly set since it was that far ahead."""
        return self.was_set or (self.ahead is not None and not self.agrees(ahead))

    def earliest(self, at: datetime) -> datetime | None:
        """The earliest that it can be there at an instant of ours; None: not known."""
        return None if self.ahead is None else at + self.ahead

    def latest(self, at: datetime) -> datetime | None:
        """The latest that it can be there."""
        return None if self.ahead is None or self._most is None else at + self._most


def _instant(date: str) -> datetime | None:
    try:
        at = parsedate_to_datetime(date)
    except (ValueError, OverflowError):
        return None
    return at if at.tzinfo is not None and at.year in _YEARS else None
