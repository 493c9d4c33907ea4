"""The move of a journal to another address of the same Canvas (`journal move`).

A new address may be another Canvas, to which the journal's rows were never sent, or a copy of it. The
resources that were confirmed last are therefore read back through the new address before it is bound.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Final

from pipeline.canvas.client import Client
from pipeline.clock import SystemClock, utc_text
from pipeline.cluster.permits import permits_of
from pipeline.commands.run import new_run, user
from pipeline.errors import ConfigError, IngestError, JournalForeign
from pipeline.job import Job
from pipeline.journal import lookups, opening, runs
from pipeline.journal.journal import Journal
from pipeline.journal.runs import Run
from pipeline.reporting.verify import Written, differences
from pipeline.sending.session import open_session

_SAMPLE: Final = 10  # of each resource type, the newest: a copy that is older lacks them
_TYPES: Final = ("Coverage", "PaymentNotice")


@dataclass(frozen=True, slots=True)
class Move:
    """A journal that was moved. `compared`: the number of resources that were read back."""

    bound_before: str
    base_url: str
    compared: int

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "shape": 1,
            "exit_code": 0,
            "before": self.bound_before,
            "base_url": self.base_url,
            "compared": self.compared,
        }


async def move(job: Job, *, stop: asyncio.Event | None = None) -> Move:
    """Bind the journal of a job to its `canvas.base_url`, if what it holds as confirmed is there.

    Raises:
        ConfigError: There is nothing to move, or nothing is confirmed that could be compared.
        JournalForeign: The new address shows another Canvas.
        JournalError, CanvasError: The journal or Canvas cannot be read.
    """
    job.canvas.credentials.require()
    clock, random = SystemClock(), Random()  # noqa: S311 - jitter and run ids, no secrets
    base_url = job.canvas.base_url
    with opening.open_to_move(
        job.state_dir, base_url, job.report_dir, database=job.database
    ) as journal:
        run = new_run("move", clock, random)
        runs.start_run(journal, run)
        with _finished(journal, run, clock):
            sample = _sample_of(journal)
            async with open_session(
                job,
                run.run_id,
                journal,
                clock,
                random,
                stop or asyncio.Event(),
                permits_of(job, clock),
            ) as session:
                await _compare(session.client, sample, base_url)
            before = journal.base_url
            opening.move(journal, run.run_id, base_url, clock.now(), user())
    return Move(before, base_url, len(sample))


@contextmanager
def _finished(journal: Journal, run: Run, clock: SystemClock) -> Iterator[None]:
    """Enter in the journal how the run ended."""
    code, failure = 1, ""
    try:
        yield
        code = 0
    except IngestError as error:
        code, failure = error.exit_code, str(error)
        raise
    finally:
        finished_at = utc_text(clock.now())
        runs.finish_run(
            journal, replace(run, finished_at=finished_at, exit_code=code, failure=failure)
        )


def _sample_of(journal: Journal) -> list[Written]:
    """Return the writes of each type that Canvas confirmed last. Raises ConfigError if there are none."""
    frames = [lookups.newest_confirmed(journal, resource_type, _SAMPLE) for resource_type in _TYPES]
    sample = [Written(*line) for frame in frames for line in frame.iter_rows()]
    if sample:
        return sample
    if lookups.census(journal):
        fix = f"set canvas.base_url back to {journal.base_url}, run until a write is confirmed, and move then"
    else:
        fix = "nothing was ever sent with it: name another state.dir (or state.url)"
    raise ConfigError(
        "the journal cannot be moved: it holds no confirmed write, so nothing shows that the new address is the same Canvas",
        fix,
    )


async def _compare(client: Client, sample: list[Written], base_url: str) -> None:
    """Read the sample through the new address. Raises JournalForeign if it is not there, or another one."""
    for resource_type in sorted({write.resource_type for write in sample}):
        await client.probe(resource_type)
    missing = [write for write in sample if not await _is_there(client, write)]
    if missing:
        raise JournalForeign(
            f"{base_url} is not the Canvas of this journal: of the {len(sample)} newest confirmed resources "
            f"{len(missing)} are missing there, or are of another patient or amount",
            "the journal stays as it was: correct canvas.base_url, or load another Canvas with a configuration and state.dir of its own",
            base_url,
        )


async def _is_there(client: Client, write: Written) -> bool:
    """Return whether Canvas shows this resource, of the same patient, and a payment's amount and claim.

    Other elements may have been edited in Canvas since.
    """
    found = await client.read(write.resource_type, write.resource_id)
    if found is None or found.get("id") != write.resource_id:
        return False
    return not set(differences(write, found, {})) - {"status"}
