"""The command `join`: send partitions of a run that another process began."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pipeline.cluster.senders import is_offered, offer_of, send_free
from pipeline.errors import ConfigError
from pipeline.job import Job
from pipeline.journal import opening
from pipeline.records import counted

_LOOK_EVERY_S: Final = 1.0
_INTERRUPTED: Final = 130


@dataclass(frozen=True, slots=True)
class Joined:
    """The result of a process that joined a run. `run_id` is "" if no run was under way."""

    run_id: str = ""
    partitions: int = 0
    dispositions: Mapping[str, int] = field(default_factory=dict)
    exit_code: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return it for `--json`."""
        return {
            "command": "join",
            "run_id": self.run_id,
            "partitions": self.partitions,
            "dispositions": dict(self.dispositions),
            "exit_code": self.exit_code,
        }

    def as_text(self) -> str:
        """Return it for a person."""
        if not self.run_id:
            return "No run is under way: there was nothing to send."
        rows = ", ".join(f"{count:,} {name}" for name, count in self.dispositions.items() if count)
        parts = counted(self.partitions, "partition")
        text = (
            f"Sent {parts} of run {self.run_id} to the end; rows of this process: {rows or 'none'}."
        )
        if self.exit_code == 1:
            return f"{text}\nThe run ended before all partitions were sent. Run it again: it goes on where it ended."
        return text


async def join(
    load: Callable[[Sequence[str]], Job], *, wait_s: float = 0.0, stop: asyncio.Event
) -> Joined:
    """Send free partitions of the run under way until none is left or the run ends.

    Waits while that run still plans.

    Args:
        load: Loads the configuration with these feeds only; all if there are none.
        wait_s: Seconds for which a run is waited for if none is under way.
        stop: Set it to end early: what is in flight is finished first, and other processes send the rest.

    Raises:
        ConfigError: The journal is not in a database, or the configuration is not the run's.
        JournalError: The database does not answer, or its journal cannot be used.
        IngestError: This process cannot send.
    """
    job = load(())
    if job.database is None:
        raise ConfigError(
            "join needs a journal that several processes reach, and this one is a file of one machine",
            'set [state] url to a PostgreSQL database, and engine = "join" for the run',
        )
    job.canvas.credentials.require()
    clock = asyncio.get_running_loop().time
    until_s = clock() + wait_s
    while not stop.is_set():
        sending = offer_of(job.state_dir)
        if sending is not None and await asyncio.to_thread(is_offered, job, sending):
            own = load(sending.feeds)
            sent = await asyncio.to_thread(send_free, own, sending, stop.is_set)
            code = _INTERRUPTED if stop.is_set() else 0 if sent.is_complete else 1
            return Joined(sending.run_id, sent.partitions, sent.counts, code)
        if await asyncio.to_thread(opening.is_held, job.database):
            until_s = max(until_s, clock() + 2 * _LOOK_EVERY_S)  # it plans, or ends
        elif clock() >= until_s:
            return Joined()
        await _sleep(stop)
    return Joined(exit_code=_INTERRUPTED)


async def _sleep(stop: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(_LOOK_EVERY_S):
            await stop.wait()
    except TimeoutError:
        return
