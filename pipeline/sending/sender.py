"""Send the writes that are marked in flight, at the allowed rate."""

import asyncio

from pipeline.canvas.breaker import TRIPS_MAX
from pipeline.canvas.client import Permit
from pipeline.canvas.judge import Judgement
from pipeline.canvas.semaphore import FairSemaphore
from pipeline.errors import IngestError, Stopped, Unreachable
from pipeline.records import Exchange, Intent, Interaction, Verdict
from pipeline.sending.claims import Claims
from pipeline.sending.decide import heard
from pipeline.sending.flow import BACKOFF, Flow
from pipeline.sending.settler import Settler


class Sender:
    """Makes one attempt for each write. All senders of an upload share one object, its turn and its breaker."""

    def __init__(self, flow: Flow, claims: Claims, settler: Settler) -> None:
        self._flow = flow
        self._claims = claims
        self._settler = settler
        self._client = flow.tools.client
        self._options = flow.tools.options
        self._stop = flow.tools.stop
        self._breaker = flow.tools.client.breaker
        self._turn = FairSemaphore(1)  # one sender at a time waits for its permit
        self._probed = asyncio.Event()  # the probe after an outage may have been answered

    async def run(self) -> None:
        """Send one write after the other until there are no more."""
        while True:
            intent = await self._claims.queue.get()
            if intent is None:
                return
            self._claims.queued += 1
            await self._turn.acquire()
            try:
                if self._claims.is_low:
                    self._flow.moved.set()
                permit, ticket = await self._permit(intent)
            except IngestError as error:
                self._claims.unsent.append(intent)
                self._flow.fail(error)
                continue
            finally:
                self._turn.release()
                self._claims.queued -= 1
            try:
                exchange, judgement = await self._write(permit, intent)
            except Exception as error:  # noqa: BLE001 - a fault of ours must not cut off the others
                self._flow.fail(error)
                exchange = Exchange("write", permit.granted_at, 0.0, None, problem="fault")
                judgement = Judgement(
                    Verdict.LOST,
                    rule="canvas|no-answer",
                    message="the run failed while it was sent",
                )
            self._breaker.hear(ticket, heard(exchange, judgement), self._options.doubts_max)
            self.wake()
            self._settler.take(intent, permit, exchange, judgement)

    def wake(self) -> None:
        """Wake the senders that wait for a probe: it was answered, or the run stops."""
        self._probed.set()

    async def _write(self, permit: Permit, intent: Intent) -> tuple[Exchange, Judgement]:
        if intent.interaction is Interaction.CREATE:
            return await self._client.create(permit, intent.resource_type, intent.body)
        return await self._client.update(
            permit, intent.resource_type, intent.resource_id, intent.body, intent.held_at
        )

    async def _permit(self, intent: Intent) -> tuple[Permit, int]:
        """Wait until a write may go. After an outage, one write goes first, as a probe.

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
        clock, random = self._flow.tools.clock, self._flow.tools.random
        since_s = clock.monotonic()
        tries = 1
        while not await self._client.is_answering(
            resource_type, after_s=BACKOFF.delay_s(tries, random)
        ):
            tries += 1
            self._flow.answered.set()  # so that the reads are entered as they come
            if clock.monotonic() - since_s > self._flow.tools.outage_s_max:
                raise Unreachable(
                    f"Canvas has not answered for {self._flow.tools.outage_s_max:.0f} s",
                    "run again once it does",
                )
        self._breaker.read_succeeded()
