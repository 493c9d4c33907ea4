"""The writes that are marked in flight and not sent yet."""

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pipeline.records import Intent

# Writes are marked in groups ahead of the senders, so that no sender waits for a commit and few commits are made. After
# a crash each of them is in doubt, though it was never sent, so no more are marked than these.
_COMMIT_S: Final = 0.01  # a commit takes this long: what is sent meanwhile is marked already
_GROUP_S: Final = 0.1  # at low rates, a group is what is sent in this time ...
_GROUP: Final = 5  # ... but no more than this
_AHEAD_MAX: Final = 256


class Claims:
    """The writes that are marked in flight and not sent yet, on their way from the claimer to the senders.

    Attributes:
        queue: The writes, in the order in which they are sent; None: there are no more.
        queued: The number of senders that have a write and wait for a permit.
        unsent: Writes that were never handed to a socket, and will not be.
    """

    def __init__(self, rate_per_s: float) -> None:
        self.queue: asyncio.Queue[Intent | None] = asyncio.Queue()
        self.queued = 0
        self.unsent: list[Intent] = []
        soon = min(int(rate_per_s * _COMMIT_S), _AHEAD_MAX)
        self._spare = soon // 2
        self._ahead = self._spare + max(1, min(int(rate_per_s * _GROUP_S), _GROUP), soon // 2)

    @property
    def _left(self) -> int:
        """Return how many are marked. Those without a permit count, except the one whose turn it is."""
        return self.queue.qsize() + max(self.queued - 1, 0)

    @property
    def room(self) -> int:
        """Return how many more writes may be marked."""
        return self._ahead - self._left

    @property
    def is_low(self) -> bool:
        """Return whether so few writes are left that another group should be marked."""
        return self._left <= self._spare

    def end(self, senders: int) -> None:
        """Take back the writes that no sender has, and let all senders end."""
        while not self.queue.empty():
            left = self.queue.get_nowait()
            if left is not None:
                self.unsent.append(left)
        for _ in range(senders):
            self.queue.put_nowait(None)
