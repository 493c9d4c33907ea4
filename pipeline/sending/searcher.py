"""Settle each write in doubt by a search, once its settling delay is over."""

import asyncio
import heapq
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from pipeline.errors import JournalError
from pipeline.journal import decisions, doubts
from pipeline.records import Disposition, Doubt, Finding, Intent, Interaction, Settlement
from pipeline.sending.decide import Next, after_search, is_resent_now
from pipeline.sending.flow import BACKOFF, Flow

_LOOKS_AT_ONCE: Final = 4  # doubts that are being settled: the rest of the rate is for sending


@dataclass(order=True, slots=True)
class _Open:
    """A doubt that waits for its search."""

    due_s: float
    number: int
    doubt: Doubt = field(compare=False)
    until_s: float = field(compare=False)  # searches that fail are given up then
    tries: int = field(compare=False, default=0)
    creates: int = field(compare=False, default=-1)  # coverages created when it was looked at last


class Searcher:
    """The doubts of one upload, including those of earlier runs, and their searches.

    Attributes:
        creates: The number of coverages created so far: each may show which Organization a payer id is.
        compared: Keys of updates whose resource was read right before they are sent.
        probes: Preconditions of updates by key, each until its answer.
    """

    def __init__(self, flow: Flow) -> None:
        self.creates = 0
        self.compared: set[str] = set()
        self.probes = dict[str, datetime]()
        self._flow = flow
        self._run_id = flow.tools.run_id
        self._journal = flow.tools.journal
        self._options = flow.tools.options
        self._clock = flow.tools.clock
        self._stop = flow.tools.stop
        self._open: list[_Open] = []  # doubts, those due first in front
        self._stirred = asyncio.Event()  # there may be a doubt to settle, or no more of them
        self._claiming_is_over = False

    def wake(self) -> None:
        """Check again which searches are due, and whether the run stops."""
        self._stirred.set()

    def end(self) -> None:
        """End the searches: no more writes are marked, so none would be sent after a settled doubt."""
        self._claiming_is_over = True
        self.wake()

    async def search_for(self, intent: Intent, wait_s: float) -> None:
        """Schedule the search for a write that has just come into doubt, in `wait_s` seconds."""
        doubt = await doubts.doubt_of(self._journal, intent.key)
        if doubt is not None:
            self.add(replace(doubt, intent=doubt.intent._replace(body=intent.body)), wait_s)

    def add(self, doubt: Doubt, wait_s: float) -> None:
        """Schedule the search for a doubt in `wait_s` seconds. The writes behind it wait until then."""
        due_s = self._clock.monotonic() + max(wait_s, 0.0)
        number = len(self._open)
        opened = _Open(due_s, number, doubt, due_s + self._flow.tools.outage_s_max)
        heapq.heappush(self._open, opened)
        self.wake()

    def still_quiet_s(self, doubt: Doubt) -> float:
        """Return the rest of the settling delay of an earlier run's doubt, in seconds of the server's clock.

        All of it is left if one of the two clocks was set since.
        """
        quiet_s = self._options.quiet_s
        clock = self._flow.tools.client.server_clock
        now = clock.earliest(self._clock.now())
        if now is None or doubt.until is None or not clock.agrees(doubt.ahead):
            return quiet_s
        return min(quiet_s - (now - doubt.until).total_seconds(), quiet_s)

    async def run(self) -> None:
        """Settle doubts until no write can be sent after them, or the run stops."""
        places = asyncio.Semaphore(_LOOKS_AT_ONCE)
        async with asyncio.TaskGroup() as looks:
            while not (self._claiming_is_over or self._stop.is_set()):
                await places.acquire()
                opened = await self._next_due()
                if opened is None:
                    break
                looks.create_task(self._settle(opened)).add_done_callback(
                    lambda _: places.release()
                )
        self._flow.seen(Disposition.IN_DOUBT, len(self._open))

    async def _next_due(self) -> _Open | None:
        """Wait until a search is due. Returns None if there will be no more."""
        while not (self._claiming_is_over or self._stop.is_set()):
            self._stirred.clear()
            wait_s = self._open[0].due_s - self._clock.monotonic() if self._open else None
            if wait_s is not None and wait_s <= 0:
                return heapq.heappop(self._open)
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._stirred.wait()
        return None

    async def _settle(self, opened: _Open) -> None:
        doubt, intent = opened.doubt, opened.doubt.intent
        try:
            finding = await self._flow.tools.asks.look(doubt)
        except JournalError:
            raise
        except Exception as error:  # noqa: BLE001 - answers must still be entered
            self._flow.fail(error)
            self._flow.seen(Disposition.IN_DOUBT, 1)
            return
        self._flow.answered.set()
        now = self._clock.now()
        if self._may_look_again(opened, finding):
            self._look_again(opened)
            return
        if doubt.is_owed and finding.settlement is not Settlement.ABSENT:
            await decisions.suspect(self._journal, self._run_id, intent, finding, now)
        then = after_search(doubt, finding.settlement, self._options.resend_absent)
        if then is Next.DONE and not await decisions.confirm(
            self._journal, self._run_id, intent, finding, now
        ):
            why = f"{doubt.message}; what a search shows belongs to another row"
            finding = replace(finding, rule="recover|claimed", message=why, resource_id="")
            then = Next.IN_DOUBT
        match then:
            case Next.DONE:
                self._flow.confirmed(intent)
            case Next.REFUSED:
                await decisions.refuse_edited(self._journal, self._run_id, intent, finding, now)
                self._flow.refused(intent)
            case Next.AGAIN:
                await self._resend(doubt, finding)
            case _:
                await decisions.keep_in_doubt(self._journal, self._run_id, intent, finding, now)
                self._flow.in_doubt(intent)
        self._flow.moved.set()

    def _may_look_again(self, opened: _Open, finding: Finding) -> bool:
        """Return whether another look may show more: the search failed, or a payer may have become known meanwhile."""
        is_unsure = finding.rule == "recover|payer" and opened.creates != self.creates
        is_open = finding.settlement is Settlement.UNKNOWN or is_unsure
        return is_open and self._clock.monotonic() < opened.until_s

    def _look_again(self, opened: _Open) -> None:
        opened.tries += 1
        opened.creates = self.creates
        delay_s = BACKOFF.delay_s(opened.tries, self._flow.tools.random)
        opened.due_s = self._clock.monotonic() + delay_s
        heapq.heappush(self._open, opened)
        self.wake()

    async def _resend(self, doubt: Doubt, finding: Finding) -> None:
        intent = doubt.intent
        note = decisions.note_absent if doubt.is_owed else decisions.allow_resend
        await note(self._journal, self._run_id, intent, finding, self._clock.now())
        if intent.interaction is Interaction.UPDATE:
            self.compared.add(intent.key)
        self.probes.pop(intent.key, None)
        if finding.probe_at is not None:
            self.probes[intent.key] = finding.probe_at
        if is_resent_now(doubt, self._run_id, self._options.attempts_max):
            self._flow.queues.again(intent)
        else:
            self._flow.left(intent)
