"""The server's clock, estimated from its `Date` headers. Pure.

Canvas stamps a PaymentNotice with the time of its row, so only that clock, not ours, decides whether one
was there before our send (docs/guarantees.md, "Settling doubt"). Each answer narrows how far
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
    """The lead of the server's clock over ours, as an interval."""

    def __init__(self) -> None:
        self._least: timedelta | None = None
        self._most: timedelta | None = None
        # The least lead over our clock. None: not known well enough to decide anything.
        self.ahead: timedelta | None = None
        self.was_set = (
            False  # the clock was set, and may be set back: from then on it decides nothing
        )
        self._text = ""  # the Date heard last, and what it says
        self._dated: datetime | None = None

    def hear(self, date: str, sent_at: datetime, answered_at: datetime) -> None:
        """Take an answer's `Date` into account; the instants are ours. An unusable Date is ignored."""
        if date != self._text:
            self._text, self._dated = date, _instant(date)
        dated = self._dated
        if dated is None:
            return
        least, most = dated - answered_at - _SLACK, dated + _TICK - sent_at + _SLACK
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
        """Return whether the lead is still `ahead`: neither clock was set in between."""
        now = self.ahead
        return now is not None and ahead is not None and abs(now - ahead) <= _WIDTH_MAX

    def contradicts(self, ahead: timedelta) -> bool:
        """Return whether one of the two clocks was certainly set since it was that far ahead."""
        return self.was_set or (self.ahead is not None and not self.agrees(ahead))

    def earliest(self, at: datetime) -> datetime | None:
        """Return the earliest server time at an instant of our clock; None: not known."""
        return None if self.ahead is None else at + self.ahead

    def latest(self, at: datetime) -> datetime | None:
        """Return the latest server time at an instant of our clock; None: not known."""
        return None if self.ahead is None or self._most is None else at + self._most


def _instant(date: str) -> datetime | None:
    try:
        at = parsedate_to_datetime(date)
    except (ValueError, OverflowError):
        return None
    return at if at.tzinfo is not None and at.year in _YEARS else None
