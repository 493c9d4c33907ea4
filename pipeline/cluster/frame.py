"""A worker's slots of one frame, by a rule that each worker computes alike. Pure.

A frame has evenly spaced slots and a count for each of its workers. Number `n` of a worker that has `c` of
them lies at the fraction `(2n + 1) / 2c` of the frame, and the slots belong to these numbers in that order
(of equal fractions the first worker's comes first). So each slot has one owner, and each worker's lie evenly.
"""

from bisect import bisect_left
from collections.abc import Sequence


class Slots:
    """The slots of one worker, first to last."""

    def __init__(self, first_s: float, interval_s: float, counts: Sequence[int], mine: int) -> None:
        """Keep the frame: its first slot, the seconds between two, each worker's count, and which one is ours."""
        self._first_s = first_s
        self._interval_s = interval_s
        self._count = counts[mine]
        self._before = [count for count in counts[:mine] if count]
        self._after = [count for count in counts[mine + 1 :] if count]
        self._next = 0

    def __len__(self) -> int:
        """Return how many are left."""
        return self._count - self._next

    def place(self, number: int) -> int:
        """Return the place in the frame of our slot `number`: how many slots are earlier."""
        mine, twice = self._count, 2 * self._count
        before = sum(((2 * number + 1) * count - mine) // twice + 1 for count in self._before)
        after = sum(-((mine - (2 * number + 1) * count) // twice) for count in self._after)
        return number + before + after

    def peek(self) -> float:
        """Return the instant of the next slot that is left."""
        return self._first_s + self.place(self._next) * self._interval_s

    def pop(self) -> None:
        """Use up the next slot."""
        self._next += 1

    def skip_to(self, moment_s: float) -> None:
        """Give up the slots before a moment."""
        if self and self.peek() < moment_s:
            wanted = (moment_s - self._first_s) / self._interval_s
            self._next = bisect_left(range(self._count), wanted, lo=self._next + 1, key=self.place)
