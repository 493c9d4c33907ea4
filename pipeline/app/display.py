"""The line of progress on a terminal: the stage, how far it is, and how long it still takes."""

import time
from collections import deque
from collections.abc import Callable
from typing import Final

from pipeline.job import Progress
from pipeline.reporting.words import duration

_LABELS: Final = {
    "settling": "settling earlier writes",
    "looking up": "looking up patients",
    "searching": "searching coverages",
    "reading": "reading files",
    "verifying": "reading back",
    "reporting": "writing the report",
}
_COUNTED: Final = {"looking up", "searching", "sending", "verifying"}  # by `sent` of `to_send`
_BAR: Final = 16
_RATE_OVER_S: Final = 30.0
_SETTLED_AFTER_S: Final = 2.0  # a rate over less time says little
_GAP: Final = "  "


class Line:
    """The line of progress. It keeps the counts of the last 30 seconds of a stage, for the rate.

    Args:
        mark: The character of the bar.
        clock: Seconds from any start.
    """

    def __init__(self, mark: str = "━", clock: Callable[[], float] = time.monotonic) -> None:
        self._mark, self._clock = mark, clock
        self._stage, self._began_s = "", clock()
        self._counts: deque[tuple[float, int]] = deque()

    def text(self, progress: Progress, columns: int) -> str:
        """Return the line for the present counts. What does not fit is left out, the least important first."""
        done, total = _counts_of(progress)
        now_s = self._clock()
        per_s, stage_s = self._look(progress.stage, done, now_s)
        left_s = (total - done) / per_s if per_s and total > done else None
        if left_s is None:
            time_text = f"for {duration(stage_s)}"
        else:
            time_text = f"about {duration(left_s)} left"
        counted = f"{done:,} of {total:,}" if total else f"{done:,} rows" if done else ""
        filled = self._mark * min(int(done / total * _BAR), _BAR) if total else ""
        # in the order of the line, each with its importance
        parts = [
            (0, _LABELS.get(progress.stage, progress.stage)),
            (3, f"[{filled:<{_BAR}}]" if total else ""),
            (1, counted),
            (4, f"{per_s:,.0f}/s" if per_s >= 1 else ""),
            (2, time_text),
            *((5 + at, text) for at, text in enumerate(_endings(progress))),
        ]
        return _fitting(parts, columns)

    def _look(self, stage: str, done: int, now_s: float) -> tuple[float, float]:
        """Return the rate a second, 0.0 while it is not known; and for how long the stage lasts."""
        if stage != self._stage or (self._counts and done < self._counts[-1][1]):
            self._stage, self._began_s = stage, now_s
            self._counts.clear()
        self._counts.append((now_s, done))
        while self._counts[0][0] < now_s - _RATE_OVER_S:
            self._counts.popleft()
        first_s, first = self._counts[0]
        over_s = now_s - first_s
        rate = (done - first) / over_s if over_s >= _SETTLED_AFTER_S else 0.0
        return rate, now_s - self._began_s


def _counts_of(progress: Progress) -> tuple[int, int]:
    """Return how much of a stage is done, and of how much; 0 if that is not known."""
    if progress.stage in _COUNTED:
        return progress.sent, progress.to_send
    if progress.stage == "reading":
        return progress.rows_read, progress.rows
    return 0, 0


def _endings(progress: Progress) -> list[str]:
    return [
        f"{count:,} {word.value.replace('_', ' ')}"
        for word, count in progress.dispositions.items()
        if count
    ]


def _fitting(parts: list[tuple[int, str]], columns: int) -> str:
    chosen: list[tuple[int, str]] = []
    left = columns
    for rank, at, text in sorted((rank, at, text) for at, (rank, text) in enumerate(parts) if text):
        needed = len(text) + (len(_GAP) if chosen else 0)
        if needed > left and rank:
            break
        chosen.append((at, text))
        left -= needed
    return _GAP.join(text for _, text in sorted(chosen))[:columns]
