"""The order of writes: one open write per patient, in the order of the plan. Pure.

Each patient has a queue, named by the intent's `lane`. Its intents leave in the order in which they were
offered, and the next one only after the one before it has ended. A queue whose write is in doubt stays shut,
because the writes behind it may depend on it: Canvas takes a payment up to the balance that the one before it
left, and moves the `order` of coverages (docs/canvas.md).

After a refused coverage no coverage of that patient is cancelled or ended any more because its row is gone: the
refused one may be its replacement.
"""

from collections import deque
from collections.abc import Collection

from pipeline.records import Intent


class PatientQueues:
    """The waiting intents of all patients.

    `shut` names the queues that are closed from the start: those with a write in doubt.
    """

    def __init__(self, shut: Collection[str] = ()) -> None:
        self._waiting: dict[str, deque[Intent]] = {}  # behind an open or a ready intent
        self._ready: deque[Intent] = deque()
        self._shut = set(shut)
        self._keeping: set[str] = set()  # queues in which nothing is cancelled or ended any more
        self._waiting_count = 0

    def __len__(self) -> int:
        """Return how many intents wait or are ready, without the open ones."""
        return self._waiting_count + len(self._ready)

    @property
    def is_empty(self) -> bool:
        """Return whether no intent waits, is ready or is open."""
        return not self._waiting

    @property
    def is_ready(self) -> bool:
        """Return whether an intent may be opened now."""
        return bool(self._ready)

    def offer(self, intent: Intent) -> bool:
        """Put an intent at the end of its queue. Returns False if it will not be sent in this run."""
        if intent.lane in self._shut or (intent.is_cancel and intent.lane in self._keeping):
            return False
        queue = self._waiting.get(intent.lane)
        if queue is None:
            self._waiting[intent.lane] = deque()
            self._ready.append(intent)
        else:
            queue.append(intent)
            self._waiting_count += 1
        return True

    def offer_if_idle(self, intent: Intent) -> bool:
        """Offer an intent whose queue has nothing else. Returns False if the queue is busy or shut."""
        return intent.lane not in self._waiting and self.offer(intent)

    def open(self, intent: Intent) -> bool:
        """Open an intent that was sent before. Returns False if its queue is open already, or shut."""
        if intent.lane in self._shut or intent.lane in self._waiting:
            return False
        self._waiting[intent.lane] = deque()
        return True

    def take(self, count: int) -> list[Intent]:
        """Open up to `count` intents, each of another patient."""
        return [self._ready.popleft() for _ in range(min(count, len(self._ready)))]

    def ended(self, intent: Intent) -> None:
        """End the open intent of its queue: the next one may go."""
        queue = self._waiting[intent.lane]
        if queue:
            self._ready.append(queue.popleft())
            self._waiting_count -= 1
        else:
            del self._waiting[intent.lane]

    def refused(self, intent: Intent) -> int:
        """End the open intent of its queue, which was refused: the next one may go.

        Returns:
            The number of waiting cancellations and ends that were dropped, because this one may be a replacement.
        """
        dropped = 0
        if intent.resource_type == "Coverage" and not intent.is_cancel:
            self._keeping.add(intent.lane)
            queue = self._waiting[intent.lane]
            kept = deque(each for each in queue if not each.is_cancel)
            dropped = len(queue) - len(kept)
            self._waiting[intent.lane] = kept
            self._waiting_count -= dropped
        self.ended(intent)
        return dropped

    def again(self, intent: Intent) -> None:
        """Send the open intent, which was not applied, again before all others."""
        self._ready.appendleft(intent)

    def shut(self, intent: Intent) -> int:
        """Shut the queue behind an open intent. Returns how many were waiting."""
        self._shut.add(intent.lane)
        dropped = len(self._waiting.pop(intent.lane, ()))
        self._waiting_count -= dropped
        return dropped
