"""A fair semaphore that is acquired without a wait if a permit is free.

`asyncio.Semaphore` looks through all tasks that wait, cancelled ones too, each time it is acquired.
"""

import asyncio
from collections import deque


class FairSemaphore:
    """Permits for up to `count` holders. Tasks that wait get them in their order."""

    def __init__(self, count: int) -> None:
        self._free = count  # 0 while a task waits
        self._waiting: deque[asyncio.Future[None]] = deque()

    def try_acquire(self) -> bool:
        """Acquire a permit if one is free now, and return whether one was."""
        if not self._free:
            return False
        self._free -= 1
        return True

    async def acquire(self) -> None:
        """Wait for a permit."""
        if self.try_acquire():
            return
        given: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(given)
        try:
            await given
        except asyncio.CancelledError:
            if not given.cancelled():  # it was given just before
                self.release()
            raise

    def release(self) -> None:
        """Return a permit that was acquired: it goes to the task that has waited longest."""
        while self._waiting:
            given = self._waiting.popleft()
            if not given.done():
                given.set_result(None)
                return
        self._free += 1
