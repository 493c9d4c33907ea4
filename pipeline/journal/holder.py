"""The process that holds a journal file, named beside it, for the message of a process that finds it held.

The lock of the database decides who may write; this file only names the holder. It is written once the lock is
held and removed before it is released, so that a killed process leaves one behind, which is then not believed.
"""

import os
import socket
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import orjson

from pipeline.errors import JournalBusy
from pipeline.files import write_private

HOLDER: Final = "journal.holder"
_FIX: Final = "wait until it has ended, then run again"


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that holds the journal. `run_id` is "" until its run has begun; `since` is ISO, in UTC."""

    run_id: str
    host: str
    pid: int
    since: str


def write_holder(folder: Path, run_id: str, since: str) -> None:
    """Name this process as the holder. That fails silently: nothing depends on it."""
    ours = Holder(run_id, socket.gethostname(), os.getpid(), since)
    with suppress(OSError):
        write_private(folder / HOLDER, orjson.dumps(asdict(ours)))


def remove_holder(folder: Path) -> None:
    """Remove the name of the holder, while the journal is still held."""
    with suppress(OSError):
        (folder / HOLDER).unlink(missing_ok=True)


def read_holder(folder: Path) -> Holder | None:
    """Return who holds the journal; None if it is not known, or has ended."""
    try:
        noted = orjson.loads((folder / HOLDER).read_bytes())
        found = Holder(
            str(noted["run_id"]), str(noted["host"]), int(noted["pid"]), str(noted["since"])
        )
        datetime.fromisoformat(found.since)
        is_here = found.host == socket.gethostname()
        if is_here and not _is_alive(found.pid):
            return None
    except (OSError, KeyError, TypeError, ValueError):
        return None
    return found


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # another user's
    return True


def busy(holder: Holder | None) -> JournalBusy:
    """Return the error of a process that finds the journal held."""
    if holder is None:
        return JournalBusy("Another run is using this journal", _FIX)
    run = f"{holder.run_id}, " if holder.run_id else ""
    since = f", since {_local(holder.since)}" if holder.since else ""
    return JournalBusy(
        f"Another run is using this journal: {run}PID {holder.pid} on {holder.host}{since}", _FIX
    )


def _local(since: str) -> str:
    """Return an instant as the clock of this machine shows it, with the day if it is not today."""
    at = datetime.fromisoformat(since).astimezone()
    return f"{at:%H:%M}" if at.date() == datetime.now(at.tzinfo).date() else f"{at:%Y-%m-%d %H:%M}"
