"""Enter answers in the journal. The next write of a patient is sent only after that."""

import asyncio
from typing import Final

from pipeline.canvas.client import Permit
from pipeline.canvas.judge import Judgement
from pipeline.journal import decisions, writes
from pipeline.journal.writes import Begun
from pipeline.records import Attempt, Exchange, Intent, Interaction
from pipeline.sending.claims import Claims
from pipeline.sending.decide import Next, after_answer
from pipeline.sending.flow import Flow
from pipeline.sending.refusals import Refusals
from pipeline.sending.searcher import Searcher

# Answers are entered together with the next writes that are marked in flight, but no later than `_WAIT_S`. If no
# write can be marked before answers are entered, the answers of `_GATHER_S` are entered in one transaction.
_GATHER_S: Final = 0.01
_WAIT_S: Final = 0.2


class Settler:
    """Takes answers from the senders and enters them in the journal, in groups."""

    def __init__(
        self, flow: Flow, claims: Claims, searcher: Searcher, reads: asyncio.TaskGroup
    ) -> None:
        """`reads`: the group in which the reads run that follow from answers."""
        self._flow = flow
        self._claims = claims
        self._searcher = searcher
        self._reads = reads
        self._run_id = flow.tools.run_id
        self._client = flow.tools.client
        self._journal = flow.tools.journal
        self._clock = flow.tools.clock
        self._options = flow.tools.options
        self._refusals = Refusals(self._client.host, self._client.renew_token)
        self._attempts: list[Attempt] = []  # judged, not yet entered
        self._entering = asyncio.Lock()
        self._entered = asyncio.Event()
        self._sending_is_over = False
        self._has_forgotten_times = False  # because the server's clock was set

    def take(
        self, intent: Intent, permit: Permit, exchange: Exchange, judgement: Judgement
    ) -> None:
        """Take an answer and its judgement, which the answers before it may change."""
        proven = intent.resource_type in self._client.proven
        judgement = self._refusals.weigh(intent, permit, judgement, proven=proven)
        self._attempts.append(
            Attempt(
                intent,
                exchange,
                judgement.verdict,
                judgement.resource_id,
                judgement.rule,
                judgement.message,
                self._client.server_clock.earliest(exchange.sent_at),
                self._client.server_clock.latest(self._clock.now()),
            )
        )
        self._flow.answered.set()
        if judgement.stop is not None:
            self._flow.fail(judgement.stop)

    def end(self) -> None:
        """Enter the remaining answers, and end: nothing more is sent."""
        self._sending_is_over = True
        self._flow.answered.set()
        self._entered.set()

    async def run(self) -> None:
        """Enter answers as they arrive."""
        await self.enter()
        while not self._sending_is_over:
            await self._flow.answered.wait()
            is_entered = await self._gather()
            self._flow.answered.clear()
            if not is_entered:
                await self.enter()
            elif self._attempts:  # they have come since
                self._flow.answered.set()
        await self.enter()

    async def _gather(self) -> bool:
        """Wait for more answers. Returns whether those so far were entered meanwhile, with the next writes."""
        if self._sending_is_over:
            return False
        await asyncio.sleep(_GATHER_S)
        if not (self._attempts and self._flow.queues.is_ready):
            return False
        self._entered.clear()
        try:
            async with asyncio.timeout(_WAIT_S):
                await self._entered.wait()
        except TimeoutError:
            return False
        return True

    async def enter(self, begun: Begun | None = None) -> None:
        """Enter the answers so far, and mark writes in flight, in one transaction."""
        async with self._entering:
            await self._enter(begun)
        self._entered.set()

    async def _enter(self, begun: Begun | None) -> None:
        if self._client.server_clock.was_set and not self._has_forgotten_times:
            self._has_forgotten_times = True
            await decisions.forget_times(self._journal, self._client.server_clock.contradicts)
        asked, self._client.exchanges = self._client.exchanges, []
        unsent, self._claims.unsent = self._claims.unsent, []
        attempts, self._attempts = self._attempts, []
        pending, self._refusals.not_refused = self._refusals.not_refused, []
        now = self._clock.now()
        ends = await writes.settle(
            self._journal, self._run_id, attempts, now, unsent=unsent, asked=asked, begun=begun
        )
        await writes.take_back(self._journal, self._run_id, pending, now)
        for attempt, (state, tries) in zip(attempts, ends, strict=True):
            then = after_answer(state, tries, self._options.attempts_max)
            if then is Next.SEARCH:
                await self._searcher.search_for(attempt.intent, self._options.quiet_s)
            else:
                self._move_on(attempt.intent, then)
            if then is Next.DONE and _is_new_coverage(attempt.intent):
                self._searcher.creates += 1
                self._reads.create_task(
                    self._flow.tools.asks.learn(attempt.intent, attempt.resource_id)
                )
        for intent in pending:
            self._flow.not_refused(intent)
        self._flow.moved.set()

    def _move_on(self, intent: Intent, then: Next) -> None:
        match then:
            case Next.DONE:
                self._flow.confirmed(intent)
            case Next.REFUSED:
                self._flow.refused(intent)
            case Next.AGAIN:
                self._flow.queues.again(intent)
            case _:
                self._flow.left(intent)


def _is_new_coverage(intent: Intent) -> bool:
    return intent.resource_type == "Coverage" and intent.interaction is Interaction.CREATE
