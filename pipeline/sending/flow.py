"""The shared state of the parts of an upload: its tools, the patient queues, and why it stops."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from random import Random
from typing import Final, Protocol

from pipeline.canvas.client import Client
from pipeline.canvas.judge import OUTAGE_S_MAX, Backoff
from pipeline.clock import Clock
from pipeline.errors import Stopped
from pipeline.job import UploadSettings
from pipeline.journal.journal import Journal
from pipeline.records import Disposition, Doubt, Finding, Intent, Interaction
from pipeline.sending.queues import PatientQueues

# Between the reads of an outage, and between searches that fail.
BACKOFF: Final = Backoff(longest_s=10.0)
_DONE: Final = {
    Interaction.CREATE: Disposition.CREATED,
    Interaction.UPDATE: Disposition.UPDATED,
}

Seen = Callable[[Disposition, int], None]


class Asks(Protocol):
    """The questions about what Canvas holds (`recover.Recovery`)."""

    async def look(self, doubt: Doubt) -> Finding:
        """Return what Canvas shows of a write in doubt."""

    async def first_look(self, intent: Intent) -> Finding | None:
        """Return why an unprotected first send must not go; None if it may."""

    async def condition(self, held_at: datetime, run_id: str) -> datetime:
        """Convert `held_at`, a `Date` that run `run_id` saw, to the clock of Canvas' preconditions."""

    async def learn(self, intent: Intent, resource_id: str) -> None:
        """Read back a coverage that was just created, if it shows something that is not known yet."""


@dataclass(frozen=True, slots=True)
class Tools:
    """The tools of an upload. The caller sets `stop` to end early; a failure sets it, too."""

    run_id: str
    client: Client
    journal: Journal
    asks: Asks
    options: UploadSettings
    clock: Clock
    random: Random
    stop: asyncio.Event
    outage_s_max: float = OUTAGE_S_MAX  # how long an answer to a read is waited for


class Flow:
    """The patient queues of one upload, and the results that its parts report.

    Attributes:
        moved: Set if there may be a write to mark in flight.
        answered: Set if there may be something to write down.
        failure: The first error that stops the run.
    """

    def __init__(self, tools: Tools, queues: PatientQueues, seen: Seen) -> None:
        self.tools = tools
        self.queues = queues
        self.seen = seen
        self.moved = asyncio.Event()
        self.answered = asyncio.Event()
        self.failure: Exception | None = None

    def fail(self, error: Exception) -> None:
        """Stop the run. Answers to the writes in flight are waited for and entered in the journal."""
        if self.failure is None and not isinstance(error, Stopped):
            self.failure = error
        self.tools.stop.set()

    def confirmed(self, intent: Intent) -> None:
        """Report a confirmed write: the next one of its patient may go."""
        self.queues.ended(intent)
        self.seen(_DONE[intent.interaction], 1)

    def refused(self, intent: Intent) -> None:
        """Report a refused write, and those that are dropped because of it."""
        self.seen(Disposition.REFUSED, 1)
        self.seen(Disposition.PENDING, self.queues.refused(intent))

    def not_refused(self, intent: Intent) -> None:
        """Send a write again in this run, unless the run stops or later writes of its patient wait."""
        self.seen(Disposition.REFUSED, -1)
        if self.tools.stop.is_set() or not self.queues.offer_if_idle(intent):
            self.seen(Disposition.PENDING, 1)

    def left(self, intent: Intent) -> None:
        """Report a write that waits for a later run, as do all behind it."""
        self.seen(Disposition.PENDING, 1 + self.queues.shut(intent))

    def in_doubt(self, intent: Intent) -> None:
        """Report a write that stays in doubt: all behind it wait."""
        self.seen(Disposition.IN_DOUBT, 1)
        self.seen(Disposition.PENDING, self.queues.shut(intent))
        self.moved.set()
