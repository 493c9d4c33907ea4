"""Take writes from the patient queues and mark them in flight, in groups ahead of the senders."""

import asyncio
from collections.abc import Iterator
from typing import Final

from pipeline.errors import IngestError, JournalError
from pipeline.journal import decisions, doubts
from pipeline.journal.writes import Begun
from pipeline.records import Disposition, Finding, Intent, Interaction, Settlement
from pipeline.sending.claims import Claims
from pipeline.sending.flow import Flow
from pipeline.sending.searcher import Searcher
from pipeline.sending.settler import Settler

_WAITING_MAX: Final = 20_000  # intents kept in memory, about 30 MB


class Claimer:
    """Marks each write IN_FLIGHT on disk before a sender has it, in one transaction with the answers so far."""

    def __init__(self, flow: Flow, claims: Claims, searcher: Searcher, settler: Settler) -> None:
        self._flow = flow
        self._claims = claims
        self._searcher = searcher
        self._settler = settler
        self._run_id = flow.tools.run_id
        self._journal = flow.tools.journal
        self._clock = flow.tools.clock
        self._server_clock = flow.tools.client.server_clock
        self._stop = flow.tools.stop

    async def run(self, batches: Iterator[list[Intent]]) -> None:
        """Mark writes until there are no more, or the run stops."""
        try:
            await self._claim_all(batches)
        except JournalError:
            raise
        except Exception as error:  # noqa: BLE001 - a plan that cannot be read: answers must still be entered
            self._flow.fail(error)
        self._claims.end(self._flow.tools.options.concurrency)
        self._searcher.end()

    async def _claim_all(self, batches: Iterator[list[Intent]]) -> None:
        exhausted = False
        queues = self._flow.queues
        while not self._stop.is_set():
            self._flow.moved.clear()
            while not exhausted and len(queues) < _WAITING_MAX:
                exhausted = not await self._offer_next(batches)
            group = queues.take(self._claims.room) if self._claims.is_low else []
            if group:
                await self._claim(group)
            elif exhausted and queues.is_empty:
                return
            else:
                await self._flow.moved.wait()

    async def _offer_next(self, batches: Iterator[list[Intent]]) -> bool:
        """Offer the next part of the plan to the patient queues. Returns False if there is none."""
        batch = await asyncio.to_thread(next, batches, None)
        if batch is None:
            return False
        dropped = sum(not self._flow.queues.offer(intent) for intent in batch)
        self._flow.seen(Disposition.PENDING, dropped)
        return True

    async def _claim(self, group: list[Intent]) -> None:
        at = self._clock.now()
        since = self._server_clock.earliest(at)
        sure = []
        guarded, edited = await self._with_preconditions(group)
        for intent in guarded:
            if intent.interaction is Interaction.UPDATE:
                is_guarded = intent.held_at is not None and intent.key not in edited
                if is_guarded or intent.key in self._searcher.compared:
                    sure.append(intent)
                else:
                    await self._compare_first(intent)
                continue
            is_money_untold = since is None and intent.resource_type == "PaymentNotice"
            is_protected = not (is_money_untold or self._journal.was_lost)
            if is_protected or await self._may_go(intent):
                sure.append(intent)
        await self._settler.enter(Begun(sure, at, since))
        for intent in sure:
            self._claims.queue.put_nowait(intent)

    async def _with_preconditions(self, group: list[Intent]) -> tuple[list[Intent], set[str]]:
        """Return the writes with their preconditions, and the keys of updates whose resource was edited.

        The precondition of an update is `held_at`: Canvas must not have changed the resource after it. A read has found
        the edits, which the precondition let pass, and may let pass again.
        """
        keys = [each.key for each in group if each.interaction is Interaction.UPDATE]
        known = await doubts.last_confirmed(self._journal, keys) if keys else {}
        conditions = dict(self._searcher.probes)
        for key, held in known.items():
            if key not in conditions and held.at is not None:
                condition = self._flow.tools.asks.condition
                conditions[key] = await condition(held.at, held.run_id)
        guarded = [
            each._replace(held_at=conditions[each.key])
            if each.interaction is Interaction.UPDATE and each.key in conditions
            else each
            for each in group
        ]
        return guarded, {key for key, held in known.items() if held.is_edited}

    async def _compare_first(self, intent: Intent) -> None:
        """Read the resource before an update is sent that its precondition does not protect.

        If the create was lost, Canvas may have applied it up to one settling delay later, and a read may show what
        Canvas held another settling delay ago. The read waits for both, because it would otherwise miss an edit
        made in that time.
        """
        searcher = self._searcher
        searcher.compared.add(intent.key)
        untold = Finding(
            Settlement.UNKNOWN,
            "update|unguarded",
            "not known when Canvas took the last write of it, or edited by another user since",
        )
        await decisions.suspect(self._journal, self._run_id, intent, untold, self._clock.now())
        doubt = await doubts.doubt_of(self._journal, intent.key)
        is_lost = doubt is not None and doubt.until is not None
        quiet_s = self._flow.tools.options.quiet_s
        wait_s = searcher.still_quiet_s(doubt) + quiet_s if doubt and is_lost else 0.0
        await searcher.search_for(intent, wait_s)

    async def _may_go(self, intent: Intent) -> bool:
        """Search Canvas before the first send of a write. Returns whether it may be sent."""
        try:
            finding = await self._flow.tools.asks.first_look(intent)
        except IngestError as error:
            self._flow.queues.again(intent)
            self._flow.fail(error)
            return False
        if finding is None:
            return True
        await decisions.suspect(self._journal, self._run_id, intent, finding, self._clock.now())
        self._flow.in_doubt(intent)
        return False
