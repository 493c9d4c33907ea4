"""Places that so many can hold at a time: a semaphore that is taken without a wait where one is free.

asyncio's looks through all who wait, cancelled ones too, each time that it is asked.
"""

import asyncio
from collections import deque


class Places:
    """Who waits is let in by turns. What is given back goes to the first of them, past nobody."""

    def __init__(self, count: int) -> None:
        self._free = count  # none, while somebody waits
        self._waiting: deque[asyncio.Future[None]] = deque()

    def take_free(self) -> bool:
        """Take a place if one is free now."""
        if not self._free:
            return False
        self._free -= 1
        return True

    async def take(self) -> None:
        """Wait for a place, and take it."""
        if self.take_free():
            return
        given: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(given)
        try:
            await given
        except asyncio.CancelledError:
            if not given.cancelled():  # it was given just before
                self.give_back()
            raise

    def give_back(self) -> None:
        """Leave a place that was taken."""
        while self._waiting:
            given = self._waiting.popleft()
            if not given.done():
                given.set_result(None)
                return
        self._free += 1
