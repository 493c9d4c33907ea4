"""Carry out a sealed plan: enter what is ours without being sent, and send the rest."""

import asyncio

import polars as pl

from pipeline.cluster.partitions import run_partitions
from pipeline.job import Progress
from pipeline.journal import decisions, lookups, writes
from pipeline.journal.journal import Journal
from pipeline.journal.subscribers import ids_passed_on, note_subscribers
from pipeline.planning.plan import Plan
from pipeline.planning.workers import Workers
from pipeline.records import ADOPTED, Disposition, Finding, Settlement, State
from pipeline.rows.feed import Feed
from pipeline.sending.session import Session, intents_of, lanes_owed


async def upload(session: Session, workers: Workers, plan: Plan, progress: Progress) -> None:
    """Enter what the plan decided without a request, then send its writes.

    Args:
        session: The open session of the run.
        workers: Who sends, if the engine is a cluster.
        plan: The sealed plan.
        progress: Updated during the upload.
    """
    job = session.job
    progress.stage = "sending"
    progress.to_send = sum(meta["to_send"] for meta in plan.meta["feeds"].values())
    types = {
        feed.traits.resource_type for feed in job.feeds if plan.meta["feeds"][feed.name]["to_send"]
    }

    def seen(disposition: Disposition, count: int) -> None:
        progress.dispositions[disposition] += count
        progress.sent += count

    await _enter(session, plan)
    if types:
        shut = lanes_owed(session, plan)
        try:
            if job.engine.kind == "embedded":
                await session.upload(intents_of(job, plan), types, seen, shut=shut)
            else:
                await run_partitions(session, plan, sorted(types), shut, workers, progress)
        finally:
            await _note_displaced(session, plan)


async def _enter(session: Session, plan: Plan) -> None:
    """Enter what is ours without being sent, and what must be remembered although no file asks for it again."""
    now = session.clock.now()
    found = Finding(Settlement.FOUND, ADOPTED, "Canvas held it already: taken over")
    for feed in session.job.feeds:
        if feed.traits.resource_type != "Coverage":
            continue
        for adopted in plan.adopted(feed.name):
            await decisions.adopt(session.journal, session.run_id, adopted, found, now)
        await writes.intend(session.journal, session.run_id, plan.cancels(feed.name), now)
        for rewritten in plan.rewritten(feed.name):
            await writes.intend(session.journal, session.run_id, rewritten, now)
        await writes.mark_moved(session.journal, session.run_id, plan.kept(feed.name), now)
        if session.job.references.subscriber_by_row:
            await asyncio.to_thread(_note_subscribers, session.journal, plan, feed)
    await writes.mark_moved(session.journal, session.run_id, plan.meta["displaced"], now)


def _note_subscribers(journal: Journal, plan: Plan, feed: Feed) -> None:
    """Enter whose row has which subscriber id, for dependents that come alone in a later file."""
    for rows in plan.subscribers(feed.name, ids_passed_on(journal)):
        note_subscribers(journal, rows)


async def _note_displaced(session: Session, plan: Plan) -> None:
    """Note the coverages that Canvas may have moved: the next file writes them again.

    These are the ones that the plan expects, and all of a patient with a changed order and a write that
    did not arrive.
    """
    journal, lanes = session.journal, pl.Series("lane", plan.meta["reordered"], dtype=pl.String)
    ranks = lookups.ranks(journal, lanes)
    failed = ranks.filter(pl.col("state") != State.CONFIRMED.value)["lane"]
    doubtful = ranks.filter(pl.col("lane").is_in(failed.implode()) & pl.col("rank").is_not_null())
    keys = [*plan.meta["displaced"], *doubtful["key"]]
    await writes.mark_moved(journal, session.run_id, keys, session.clock.now())
