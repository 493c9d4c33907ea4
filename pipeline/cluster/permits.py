"""The permits of a run: of this process alone or, with a database, of all workers that share a rate."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pipeline.canvas.limiter import Limiter, Permits
from pipeline.clock import Clock
from pipeline.cluster.shared_limiter import SharedLimiter, pacing
from pipeline.job import Job


@asynccontextmanager
async def permits_of(job: Job, clock: Clock) -> AsyncIterator[Permits]:
    """Yield the source of permits for the requests of a job."""
    if job.database is None:
        yield Limiter(job.canvas.rate_per_s, clock)
        return
    from pipeline.cluster.shared_rate import Target  # noqa: PLC0415 - an extra, which SQLite does without

    target = Target(job.database.url, pacing(job.canvas.rate_per_s), clock)
    async with SharedLimiter(target, clock) as slots:
        yield slots
