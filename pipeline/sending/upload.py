"""The plan's intents to Canvas: never twice, in a patient's order, at the rate that is allowed.

Four kinds of task in one group: one claims intents in groups ahead of the senders, so that each is
IN_FLIGHT on disk before its first byte; `concurrency` of them send; one writes down the answers and
only then moves the lanes on; one has each doubt settled by a search, once the quiet time is over.
What an answer means is decided in `canvas/judge.py`, what a search means in `sending/recover.py`, what
may follow in `journal/states.py`.
"""

import asyncio
import heapq
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from random import Random
from typing import Final, Protocol

from pipeline.canvas.breaker import TRIPS_MAX, Heard
from pipeline.canvas.client import Client, Permit
from pipeline.canvas.judge import BLOCKED, OUTAGE_S_MAX, Backoff, Judgement
from pipeline.canvas.semaphore import FairSemaphore
from pipeline.clock import Clock
from pipeline.errors import IngestError, JournalError, Stopped, Unreachable
from pipeline.job import UploadSettings
from pipeline.journal import decisions, doubts, writes
from pipeline.journal.journal import Journal
from pipeline.records import (
    Attempt,
    Disposition,
    Doubt,
    Exchange,
    Finding,
    Intent,
    Interaction,
    Settlement,
    State,
    Verdict,
)
from pipeline.sending.queues import PatientQueues
from pipeline.sending.refusals import Refusals

_WAITING_MAX: Final = 20_000  # intents held in memory, about 30 MB
# Claims are made ahead of the senders for as long as a commit takes, so that nobody waits for one;
# and no more, for after a crash each of them is in doubt, though it was never sent.
_AHEAD_S: Final = 0.01
_AHEAD_MAX: Final = 256
_GATHER_S: Final = 0.01  # answers of so long are written down in one transaction
_UPDATES_MIN: Final = (
    3  # sends of an update, whatever attempts_max says: they tell an edit from a move
)
_LOOKS_AT_ONCE: Final = 4  # doubts that are being settled: the rest of the rate is for sending
# Between the reads of an outage, and between searches that fail.
_BACKOFF: Final = Backoff(longest_s=10.0)

_DONE: Final = {
    Interaction.CREATE: Disposition.CREATED,
    Interaction.UPDATE: Disposition.UPDATED,
}

Seen = Callable[[Disposition, int], None]


class Asks(Protocol):
    """Whoever asks Canvas what it holds (`recover.Recovery`)."""

    async def look(self, doubt: Doubt) -> Finding:
        """What Canvas shows of a write in doubt."""

    async def first_look(self, intent: Intent) -> Finding | None:
        """Before a first send that nothing else protects: why it may not go; None: it may."""

    async def condition(self, held_at: datetime, run_id: str) -> datetime:
        """Return `held_at`, a `Date` of the run that wrote last, by the clock that Canvas compares with."""

    async def learn(self, intent: Intent, resource_id: str) -> None:
        """Read back a coverage that was just created, if it shows something that is not known yet."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What it takes to send. `stop` is set by whoever wants to end early, and by a failure."""

    run_id: str
    client: Client
    journal: Journal
    asks: Asks
    options: UploadSettings
    clock: Clock
    random: Random
    stop: asyncio.Event
    outage_s_max: float = OUTAGE_S_MAX  # how long an answer to a read is waited for


async def upload(
    batches: Iterator[list[Intent]],
    tools: Tools,
    seen: Seen,
    *,
    doubts: Sequence[Doubt] = (),
    shut: Collection[str] = (),
) -> None:
    """Send everything, or as much as can be sent until it is stopped; settle what is in doubt.

    `doubts` are those of earlier runs that are to be settled now; `shut` names the lanes of those
    that are not; `seen` is told how rows ended. Raises IngestError if the run cannot go on; whatever
    is in flight then is waited for and written down first.
    """
    sender = _Sender(tools, PatientQueues(shut), seen)
    try:
        await sender.run(batches, doubts)
    except BaseExceptionGroup as group:
        raise _first(group) from None


def _heard(exchange: Exchange, judgement: Judgement) -> Heard:
    """Return what an answer says about the server, whatever it means for the row."""
    if exchange.http_status is None:
        return Heard.LOST
    if judgement.verdict is Verdict.NOT_APPLIED or judgement.rule == BLOCKED:
        return Heard.NOTHING
    return Heard.LOST if judgement.verdict is Verdict.LOST else Heard.ANSWERED


def _is_new_coverage(intent: Intent) -> bool:
    return intent.resource_type == "Coverage" and intent.interaction is Interaction.CREATE


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What went wrong first; our own errors before all others."""
    flat = [
        _first(error) if isinstance(error, BaseExceptionGroup) else error
        for error in group.exceptions
    ]
    return next((error for error in flat if isinstance(error, IngestError)), flat[0])


@dataclass(order=True, slots=True)
class _Open:
    """A doubt that waits for its search."""

    due_s: float
    number: int
    doubt: Doubt = field(compare=False)
    until_s: float = field(compare=False)  # searches that fail are given up then
    tries: int = field(compare=False, default=0)
    creates: int = field(compare=False, default=-1)  # coverages created when it was looked at last


class _Sender:
    def __init__(self, tools: Tools, lanes: PatientQueues, seen: Seen) -> None:
        self._run_id = tools.run_id
        self._client = tools.client
        self._journal = tools.journal
        self._asks = tools.asks
        self._options = tools.options
        self._outage_s_max = tools.outage_s_max
        self._clock = tools.clock
        self._random = tools.random
        self._stop = tools.stop
        self._lanes = lanes
        self._seen = seen
        self._ahead = max(1, min(int(tools.options.rate_per_s * _AHEAD_S), _AHEAD_MAX))
        self._claimed: asyncio.Queue[Intent | None] = asyncio.Queue()  # None: there is no more
        self._turn = FairSemaphore(1)  # one sender at a time waits for its permit
        self._queued = 0  # senders with a claim and no permit yet
        self._moved = asyncio.Event()  # there may be something to claim
        self._answered = asyncio.Event()  # there may be something to write down
        self._attempts: list[Attempt] = []  # judged, not yet written down
        self._unsent: list[Intent] = []  # claimed, never handed to a socket
        self._breaker = tools.client.breaker
        self._probed = asyncio.Event()  # the probe after an outage may have been answered
        self._probes: dict[str, datetime] = {}  # conditions of updates, each until its answer
        self._compared: set[str] = set()  # updates whose resource was read right before
        self._refusals = Refusals(tools.client.host, tools.client.renew_token)
        self._sending_is_over = False
        self._open: list[_Open] = []  # doubts, those due first in front
        self._stirred = asyncio.Event()  # there may be a doubt to settle, or no more of them
        self._claiming_is_over = False
        self._has_forgotten_times = False  # because the server's clock was set
        self._creates = 0  # coverages that were created: each may show what a payer id is
        self._failure: Exception | None = None  # what came first

    async def run(self, batches: Iterator[list[Intent]], doubts: Sequence[Doubt]) -> None:
        contradicts = self._client.server_clock.contradicts
        if any(each.ahead is not None and contradicts(each.ahead) for each in doubts):
            await decisions.forget_times(self._journal, contradicts)
        for doubt in doubts:
            if self._lanes.open(doubt.intent):
                self._doubt(doubt, self._still_quiet_s(doubt))
        async with asyncio.TaskGroup() as outer:
            outer.create_task(self._write_down(outer))
            watch = outer.create_task(self._watch_stop())
            async with asyncio.TaskGroup() as senders:
                senders.create_task(self._claim_ahead(batches))
                senders.create_task(self._settle_doubts())
                for _ in range(self._options.concurrency):
                    senders.create_task(self._send())
            watch.cancel()
            self._sending_is_over = True
            self._answered.set()
        if self._failure is not None:
            raise self._failure

    # Stopping -------------------------------------------------------------------------------------

    async def _watch_stop(self) -> None:
        await self._stop.wait()
        self._client.stop()
        self._moved.set()
        self._stirred.set()
        self._probed.set()

    def _fail(self, error: Exception) -> None:
        """The run cannot go on, whatever it is. What is in flight is waited for and written down."""
        if self._failure is None and not isinstance(error, Stopped):
            self._failure = error
        self._stop.set()

    # Claiming -------------------------------------------------------------------------------------

    async def _claim_ahead(self, batches: Iterator[list[Intent]]) -> None:
        try:
            await self._claim_all(batches)
        except JournalError:
            raise
        except Exception as error:  # noqa: BLE001 - a plan that cannot be read: what was sent is still to be written down
            self._fail(error)
        while not self._claimed.empty():
            left = self._claimed.get_nowait()
            if left is not None:
                self._unsent.append(left)
        for _ in range(self._options.concurrency):
            self._claimed.put_nowait(None)
        self._claiming_is_over = True
        self._stirred.set()

    async def _claim_all(self, batches: Iterator[list[Intent]]) -> None:
        exhausted = False
        while not self._stop.is_set():
            self._moved.clear()
            while not exhausted and len(self._lanes) < _WAITING_MAX:
                exhausted = not await self._offer_next(batches)
            wanted = self._ahead - self._behind_the_next()
            group = self._lanes.take(wanted) if 2 * wanted >= self._ahead else []
            if group:
                await self._claim(group)
            elif exhausted and self._lanes.is_empty:
                return
            else:
                await self._moved.wait()

    def _behind_the_next(self) -> int:
        """Claims that are not sent yet, without the one whose turn it is."""
        return self._claimed.qsize() + max(self._queued - 1, 0)

    async def _claim(self, group: list[Intent]) -> None:
        at = self._clock.now()
        since = self._client.server_clock.earliest(at)
        sure = []
        guarded, edited = await self._with_guards(group)
        for intent in guarded:
            if intent.interaction is Interaction.UPDATE:
                is_guarded = intent.held_at is not None and intent.key not in edited
                if is_guarded or intent.key in self._compared:
                    sure.append(intent)
                else:
                    await self._compare_first(intent)
                continue
            is_money_untold = since is None and intent.resource_type == "PaymentNotice"
            is_protected = not (is_money_untold or self._journal.was_lost)
            if is_protected or await self._may_go(intent):
                sure.append(intent)
        await writes.begin(self._journal, self._run_id, sure, at, since)
        for intent in sure:
            self._claimed.put_nowait(intent)

    async def _with_guards(self, group: list[Intent]) -> tuple[list[Intent], set[str]]:
        """Return the writes, updates with the instant after which Canvas must not have changed them.

        And the keys of those of which a read has found an edit: the condition let it pass then, and may again.
        """
        keys = [each.key for each in group if each.interaction is Interaction.UPDATE]
        known = await doubts.last_confirmed(self._journal, keys) if keys else {}
        conditions = dict(self._probes)
        for key, held in known.items():
            if key not in conditions and held.at is not None:
                conditions[key] = await self._asks.condition(held.at, held.run_id)
        guarded = [
            each._replace(held_at=conditions[each.key])
            if each.interaction is Interaction.UPDATE and each.key in conditions
            else each
            for each in group
        ]
        return guarded, {key for key, held in known.items() if held.is_edited}

    async def _compare_first(self, intent: Intent) -> None:
        """Compare what Canvas holds before an update is sent that its condition does not protect.

        Where a create was lost, Canvas may have taken it as late as the quiet time allows, and is told
        so; and a read may be as old again: an edit of just then would be seen by neither.
        """
        self._compared.add(intent.key)
        untold = Finding(
            Settlement.UNKNOWN,
            "update|unguarded",
            "not known when Canvas took the last write of it, or edited by another user since",
        )
        await decisions.suspect(self._journal, self._run_id, intent, untold, self._clock.now())
        doubt = await doubts.doubt_of(self._journal, intent.key)
        is_lost = doubt is not None and doubt.until is not None
        wait_s = self._still_quiet_s(doubt) + self._options.quiet_s if doubt and is_lost else 0.0
        await self._in_doubt(intent, wait_s)

    async def _in_doubt(self, intent: Intent, wait_s: float) -> None:
        doubt = await doubts.doubt_of(self._journal, intent.key)
        if doubt is not None:
            self._doubt(replace(doubt, intent=doubt.intent._replace(body=intent.body)), wait_s)

    async def _may_go(self, intent: Intent) -> bool:
        """Whether a look at Canvas speaks against the first send of this one."""
        try:
            finding = await self._asks.first_look(intent)
        except IngestError as error:
            self._lanes.again(intent)
            self._fail(error)
            return False
        if finding is None:
            return True
        await decisions.suspect(self._journal, self._run_id, intent, finding, self._clock.now())
        self._end_in_doubt(intent)
        return False

    async def _offer_next(self, batches: Iterator[list[Intent]]) -> bool:
        """Offer the next part of the plan to the lanes. False: there is none."""
        batch = await asyncio.to_thread(next, batches, None)
        if batch is None:
            return False
        dropped = sum(not self._lanes.offer(intent) for intent in batch)
        self._seen(Disposition.PENDING, dropped)
        return True

    # Sending --------------------------------------------------------------------------------------

    async def _send(self) -> None:
        while True:
            intent = await self._claimed.get()
            if intent is None:
                return
            self._queued += 1
            await self._turn.acquire()
            try:
                if 2 * self._behind_the_next() <= self._ahead:
                    self._moved.set()
                permit, ticket = await self._permit(intent)
            except IngestError as error:
                self._unsent.append(intent)
                self._fail(error)
                continue
            finally:
                self._turn.release()
                self._queued -= 1
            try:
                exchange, judgement = await self._write(permit, intent)
            except Exception as error:  # noqa: BLE001 - a fault of ours must not cut off the others
                self._fail(error)
                exchange = Exchange("write", permit.granted_at, 0.0, None, problem="fault")
                judgement = Judgement(
                    Verdict.LOST,
                    rule="canvas|no-answer",
                    message="the run failed while it was sent",
                )
            self._breaker.hear(ticket, _heard(exchange, judgement), self._options.doubts_max)
            self._probed.set()
            proven = intent.resource_type in self._client.proven
            judgement = self._refusals.weigh(intent, permit, judgement, proven=proven)
            self._judged(intent, exchange, judgement)

    async def _write(self, permit: Permit, intent: Intent) -> tuple[Exchange, Judgement]:
        if intent.interaction is Interaction.CREATE:
            return await self._client.create(permit, intent.resource_type, intent.body)
        return await self._client.update(
            permit, intent.resource_type, intent.resource_id, intent.body, intent.held_at
        )

    async def _permit(self, intent: Intent) -> tuple[Permit, int]:
        """Wait until one write may go. After an outage one goes first, as a probe.

        Returns:
            The permit of the client, and the ticket of the breaker.
        """
        while True:
            if self._stop.is_set():
                raise Stopped("the run is stopping")
            await self._probe_is_answered()
            if self._breaker.is_open:
                await self._outlast(intent.resource_type)
            permit = await self._client.permit()
            ticket = self._breaker.admit()
            if ticket is not None:
                return permit, ticket
            self._client.release(permit)  # an outage began while it waited

    async def _probe_is_answered(self) -> None:
        while self._breaker.is_probing:
            if self._stop.is_set():
                raise Stopped("the run is stopping")
            self._probed.clear()
            await self._probed.wait()

    async def _outlast(self, resource_type: str) -> None:
        """Wait until Canvas answers a read."""
        if self._breaker.trips > TRIPS_MAX:
            raise Unreachable(
                "answers to writes are lost while reads succeed",
                "ask Canvas support, with the correlation ids of the report",
            )
        since_s = self._clock.monotonic()
        tries = 1
        while not await self._client.is_answering(
            resource_type, after_s=_BACKOFF.delay_s(tries, self._random)
        ):
            tries += 1
            self._answered.set()  # so that the reads are written down as they come
            if self._clock.monotonic() - since_s > self._outage_s_max:
                raise Unreachable(
                    f"Canvas has not answered for {self._outage_s_max:.0f} s",
                    "run again once it does",
                )
        self._breaker.read_succeeded()

    # What an answer means for all others ----------------------------------------------------------

    def _judged(self, intent: Intent, exchange: Exchange, judgement: Judgement) -> None:
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
        self._answered.set()
        if judgement.stop is not None:
            self._fail(judgement.stop)

    # Writing down ---------------------------------------------------------------------------------

    async def _write_down(self, reads: asyncio.TaskGroup) -> None:
        while True:
            over = self._sending_is_over
            await self._write_answers(reads)
            if over:
                return
            await self._answered.wait()
            if not self._sending_is_over:
                await asyncio.sleep(_GATHER_S)
            self._answered.clear()

    async def _write_answers(self, reads: asyncio.TaskGroup) -> None:
        if self._client.server_clock.was_set and not self._has_forgotten_times:
            self._has_forgotten_times = True
            await decisions.forget_times(self._journal, self._client.server_clock.contradicts)
        asked, self._client.exchanges = self._client.exchanges, []
        unsent, self._unsent = self._unsent, []
        attempts, self._attempts = self._attempts, []
        pending, self._refusals.not_refused = self._refusals.not_refused, []
        now = self._clock.now()
        ends = await writes.settle(
            self._journal, self._run_id, attempts, now, unsent=unsent, asked=asked
        )
        await writes.take_back(self._journal, self._run_id, pending, now)
        for attempt, (state, tries) in zip(attempts, ends, strict=True):
            if not self._move_on(attempt.intent, state, tries):
                await self._in_doubt(attempt.intent, self._options.quiet_s)
            elif state is State.CONFIRMED and _is_new_coverage(attempt.intent):
                self._creates += 1
                reads.create_task(self._asks.learn(attempt.intent, attempt.resource_id))
        for intent in pending:
            self._not_refused(intent)
        self._moved.set()

    def _move_on(self, intent: Intent, state: State, tries: int) -> bool:
        """Let its lane go on. False: a search has to settle it first."""
        match state:
            case State.CONFIRMED:
                self._lanes.ended(intent)
                self._seen(_DONE[intent.interaction], 1)
            case State.REFUSED:
                self._refused(intent)
            case State.PENDING if tries < self._options.attempts_max:
                self._lanes.again(intent)
            case State.PENDING:
                self._seen(Disposition.PENDING, 1 + self._lanes.shut(intent))
            case _:  # lost; or refused for an edit of just now, which a read may not show yet
                return False
        return True

    def _refused(self, intent: Intent) -> None:
        self._seen(Disposition.REFUSED, 1)
        self._seen(Disposition.PENDING, self._lanes.refused(intent))

    def _not_refused(self, intent: Intent) -> None:
        """Send it again in this run, unless the run stops or later writes of its patient wait."""
        self._seen(Disposition.REFUSED, -1)
        if self._stop.is_set() or not self._lanes.offer_if_idle(intent):
            self._seen(Disposition.PENDING, 1)

    # Settling doubt -------------------------------------------------------------------------------

    def _doubt(self, doubt: Doubt, wait_s: float) -> None:
        """Have it settled, `wait_s` seconds from now. Its lane is open until then."""
        due_s = self._clock.monotonic() + max(wait_s, 0.0)
        number = len(self._open)
        opened = _Open(due_s, number, doubt, due_s + self._outage_s_max)
        heapq.heappush(self._open, opened)
        self._stirred.set()

    def _still_quiet_s(self, doubt: Doubt) -> float:
        """What is left of the quiet time of an earlier run's doubt, by the server's clock.

        All of it where one of the two clocks was set since.
        """
        quiet_s = self._options.quiet_s
        clock = self._client.server_clock
        now = clock.earliest(self._clock.now())
        if now is None or doubt.until is None or not clock.agrees(doubt.ahead):
            return quiet_s
        return min(quiet_s - (now - doubt.until).total_seconds(), quiet_s)

    async def _settle_doubts(self) -> None:
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
        self._seen(Disposition.IN_DOUBT, len(self._open))

    async def _next_due(self) -> _Open | None:
        """Wait until a search is due. None: there will be no more."""
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
            finding = await self._asks.look(doubt)
        except JournalError:
            raise
        except Exception as error:  # noqa: BLE001 - as above
            self._fail(error)
            self._seen(Disposition.IN_DOUBT, 1)
            return
        self._answered.set()
        now = self._clock.now()
        if self._may_look_again(opened, finding):
            opened.tries += 1
            opened.creates = self._creates
            delay_s = _BACKOFF.delay_s(opened.tries, self._random)
            opened.due_s = self._clock.monotonic() + delay_s
            heapq.heappush(self._open, opened)
            self._stirred.set()
            return
        is_absent = finding.settlement is Settlement.ABSENT
        if doubt.is_owed and not is_absent:
            await decisions.suspect(self._journal, self._run_id, intent, finding, now)
        is_found = finding.settlement is Settlement.FOUND and await decisions.confirm(
            self._journal, self._run_id, intent, finding, now
        )
        if is_found:
            self._lanes.ended(intent)
            self._seen(_DONE[intent.interaction], 1)
        elif finding.settlement is Settlement.CONFLICT:
            await decisions.refuse_edited(self._journal, self._run_id, intent, finding, now)
            self._refused(intent)
        elif is_absent and (doubt.is_owed or self._may_resend(doubt)):
            await self._resend(doubt, finding)
        else:
            if finding.settlement is Settlement.FOUND:
                why = f"{doubt.message}; what a search shows belongs to another row"
                finding = replace(finding, rule="recover|claimed", message=why, resource_id="")
            await decisions.keep_in_doubt(self._journal, self._run_id, intent, finding, now)
            self._end_in_doubt(intent)
        self._moved.set()

    def _may_look_again(self, opened: _Open, finding: Finding) -> bool:
        """Return whether another look may show more: a search failed, or a payer may be learned meanwhile."""
        is_unsure = finding.rule == "recover|payer" and opened.creates != self._creates
        is_open = finding.settlement is Settlement.UNKNOWN or is_unsure
        return is_open and self._clock.monotonic() < opened.until_s

    def _may_resend(self, doubt: Doubt) -> bool:
        """Once, and of the kinds of which a duplicate can be undone, or as the user decided.

        An update comes to the same however often it is sent. What may still be sent by a process that is
        frozen, or cut off, is for a person to decide on.
        """
        if doubt.intent.interaction is Interaction.UPDATE:
            return True
        if doubt.is_orphan:
            return False
        allowed = self._options.resend_absent
        is_coverage = doubt.intent.resource_type == "Coverage"
        return not doubt.resent and (allowed == "all" or (allowed == "coverage" and is_coverage))

    async def _resend(self, doubt: Doubt, finding: Finding) -> None:
        intent = doubt.intent
        note = decisions.note_absent if doubt.is_owed else decisions.allow_resend
        await note(self._journal, self._run_id, intent, finding, self._clock.now())
        is_update = intent.interaction is Interaction.UPDATE
        most = max(self._options.attempts_max, _UPDATES_MIN)
        is_over = is_update and doubt.attempts >= most
        if is_update:
            self._compared.add(intent.key)
        self._probes.pop(intent.key, None)
        if finding.probe_at is not None:
            self._probes[intent.key] = finding.probe_at
        if intent.body and not is_over and not (is_update and intent.run_id != self._run_id):
            self._lanes.again(intent)
        else:  # its plan is gone, or a newer file says what is to be sent: the run that reads it sends it
            self._seen(Disposition.PENDING, 1 + self._lanes.shut(intent))

    def _end_in_doubt(self, intent: Intent) -> None:
        self._seen(Disposition.IN_DOUBT, 1)
        self._seen(Disposition.PENDING, self._lanes.shut(intent))
        self._moved.set()
