"""Send the plan's intents to Canvas: never twice, in each patient's order, at the allowed rate.

The claimer marks writes in groups ahead of the senders, so that each is IN_FLIGHT on disk before its first byte; the
answers so far are entered in the same transaction. `concurrency` senders send them. The searcher settles each doubt
once the settling delay is over. These tasks form a group inside that of the settler, which enters the answers in the
journal, and only then lets the next write of a patient go: it ends after all senders. A watcher ends the waits of all tasks once the run is to stop.
`sending/decide.py` decides what follows from an answer or a search.
"""

import asyncio
from collections.abc import Collection, Iterator, Sequence

from pipeline.errors import IngestError
from pipeline.journal import decisions
from pipeline.records import Doubt, Intent
from pipeline.sending.claimer import Claimer
from pipeline.sending.claims import Claims
from pipeline.sending.flow import Flow, Seen, Tools
from pipeline.sending.queues import PatientQueues
from pipeline.sending.searcher import Searcher
from pipeline.sending.sender import Sender
from pipeline.sending.settler import Settler


async def upload(
    batches: Iterator[list[Intent]],
    tools: Tools,
    seen: Seen,
    *,
    doubts: Sequence[Doubt] = (),
    shut: Collection[str] = (),
) -> None:
    """Send the writes until all are sent or the run stops, and settle those in doubt.

    Args:
        batches: The plan's writes, in order.
        tools: The client, the journal and what else sending takes.
        seen: Called with a disposition and the number of rows that reached it.
        doubts: The doubts of earlier runs to settle now.
        shut: The patients whose writes wait for a later run.

    Raises:
        IngestError: The run cannot go on. Answers to the writes in flight are waited for and entered first.
    """
    try:
        await _run(batches, Flow(tools, PatientQueues(shut), seen), doubts)
    except BaseExceptionGroup as group:
        raise _first(group) from None


async def _run(batches: Iterator[list[Intent]], flow: Flow, doubts: Sequence[Doubt]) -> None:
    claims = Claims(flow.tools.options.rate_per_s)
    searcher = Searcher(flow)
    contradicts = flow.tools.client.server_clock.contradicts
    if any(each.ahead is not None and contradicts(each.ahead) for each in doubts):
        await decisions.forget_times(flow.tools.journal, contradicts)
    for doubt in doubts:
        if flow.queues.open(doubt.intent):
            searcher.add(doubt, searcher.still_quiet_s(doubt))
    async with asyncio.TaskGroup() as outer:
        settler = Settler(flow, claims, searcher, outer)
        claimer = Claimer(flow, claims, searcher, settler)
        sender = Sender(flow, claims, settler)
        outer.create_task(settler.run())
        watch = outer.create_task(_watch_stop(flow, searcher, sender))
        async with asyncio.TaskGroup() as senders:
            senders.create_task(claimer.run(batches))
            senders.create_task(searcher.run())
            for _ in range(flow.tools.options.concurrency):
                senders.create_task(sender.run())
        watch.cancel()
        settler.end()
    if flow.failure is not None:
        raise flow.failure


async def _watch_stop(flow: Flow, searcher: Searcher, sender: Sender) -> None:
    await flow.tools.stop.wait()
    flow.tools.client.stop()
    flow.moved.set()
    searcher.wake()
    sender.wake()


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error of ours, or else the first of all."""
    flat = [
        _first(error) if isinstance(error, BaseExceptionGroup) else error
        for error in group.exceptions
    ]
    return next((error for error in flat if isinstance(error, IngestError)), flat[0])
