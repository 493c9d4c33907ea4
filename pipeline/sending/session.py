"""A connection to Canvas, with the journal and the recovery that go with it."""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from random import Random

from pipeline.canvas import client as canvas
from pipeline.canvas.limiter import Permits
from pipeline.clock import Clock
from pipeline.job import Job
from pipeline.journal import doubts, writes
from pipeline.journal.doubts import shut_queues
from pipeline.journal.journal import Journal
from pipeline.planning.earlier import EarlierPlans
from pipeline.planning.plan import Plan
from pipeline.records import Doubt, Intent
from pipeline.sending.flow import Seen, Tools
from pipeline.sending.recover import Recovery
from pipeline.sending.upload import upload


@dataclass(frozen=True, slots=True)
class Session:
    """All that is needed to send: a connection, a journal, and searches of Canvas (`recovery`)."""

    job: Job
    run_id: str
    client: canvas.Client
    journal: Journal
    recovery: Recovery
    plans: EarlierPlans
    clock: Clock
    random: Random
    stop: asyncio.Event

    async def record(self) -> None:
        """Enter the requests so far that are not writes in the journal."""
        asked, self.client.exchanges = self.client.exchanges, []
        await writes.record(self.journal, self.run_id, asked)

    async def settle(self, doubts: Sequence[Doubt], seen: Seen) -> None:
        """Settle what earlier runs left in doubt, and send again what is allowed."""
        if doubts:
            await self.upload(
                iter(()), {each.intent.resource_type for each in doubts}, seen, doubts
            )

    async def upload(
        self,
        batches: Iterator[list[Intent]],
        types: Collection[str],
        seen: Seen,
        doubts: Sequence[Doubt] = (),
        shut: Collection[str] = (),
    ) -> None:
        """Send, after a check that Canvas answers for each resource type.

        Patients in `shut`, and those with a write in doubt that is not in `doubts`, wait for a later run.
        """
        for resource_type in sorted(types):
            await self.client.probe(resource_type)
        open_lanes = {doubt.intent.lane for doubt in doubts}
        tools = Tools(
            self.run_id,
            self.client,
            self.journal,
            self.recovery,
            self.job.upload,
            self.clock,
            self.random,
            self.stop,
            self.job.canvas.outage_s_max,
        )
        shut_lanes = (shut_queues(self.journal) - open_lanes).union(shut)
        await upload(batches, tools, seen, doubts=doubts, shut=shut_lanes)


@asynccontextmanager
async def open_session(
    job: Job,
    run_id: str,
    journal: Journal,
    clock: Clock,
    random: Random,
    stop: asyncio.Event,
    limiter: AbstractAsyncContextManager[Permits],
) -> AsyncIterator[Session]:
    """Yield a connection to Canvas.

    Requests that are not writes are entered in the journal at its end.

    Args:
        job: The configuration.
        run_id: The run.
        journal: Its journal.
        clock: Of this process.
        random: For jitter.
        stop: Ends the sending once it is set.
        limiter: The source of permits, as an async context.
    """
    # Nothing is sent past the end of a lease.
    may_send = None if job.database is None else journal.may_send
    async with (
        canvas.transport_of(job.canvas, may_send) as transport,
        limiter as permits,
    ):
        client = canvas.Client(job.canvas, transport, clock, random, permits)
        plans = EarlierPlans.of(job.state_dir, journal)
        recovery = Recovery(client, journal, clock, job.upload.quiet_s, run_id, plans.content)
        watch = asyncio.ensure_future(_stop_client(stop, client))
        try:
            yield Session(job, run_id, client, journal, recovery, plans, clock, random, stop)
        finally:
            watch.cancel()
            await writes.record(journal, run_id, client.exchanges)


def with_bodies(plans: EarlierPlans, doubts: Sequence[Doubt]) -> list[Doubt]:
    """Return the doubts with the sent bodies from the plans of their runs, if a plan is there and unchanged."""
    rows = plans.rows(doubt.intent for doubt in doubts)
    return [
        replace(doubt, intent=doubt.intent._replace(body=rows[doubt.intent.key].body))
        if doubt.intent.key in rows
        else doubt
        for doubt in doubts
    ]


async def _stop_client(stop: asyncio.Event, client: canvas.Client) -> None:
    await stop.wait()
    client.stop()


def lanes_owed(session: Session, plan: Plan) -> set[str]:
    """Return the patients with a write of an earlier run that is still to be sent and not in this plan."""
    owed = [each for each in doubts.all_doubts(session.journal) if each.is_owed]
    keys = [each.intent.key for each in owed]
    planned = {key for feed in plan.meta["feeds"] if keys for key in plan.find(feed, keys)["key"]}
    return {
        each.intent.lane
        for each in with_bodies(session.plans, owed)
        if each.intent.body and each.intent.key not in planned
    }


def intents_of(job: Job, plan: Plan) -> Iterator[list[Intent]]:
    """Yield the writes to send: the feeds in the configured order, with cancellations and ends before and after.

    These go after all coverages, unless a coverage of their patient takes their `order`, or would move them.
    """
    for feed in job.feeds:
        yield plan.cancels(feed.name, is_last=False)
    coverages = [feed.name for feed in job.feeds if feed.traits.resource_type == "Coverage"]
    for feed in job.feeds:
        yield from plan.intents(feed.name, feed.traits.resource_type, in_order=not feed.order_by)
        if coverages[-1:] == [feed.name]:
            for name in coverages:
                yield plan.cancels(name, is_last=True)
