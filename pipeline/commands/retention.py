"""Remove old data of rows that runs left: `journal purge`, and `[retention] days`.

What keeps a payment from being sent twice is never removed: the journal's writes and its audit log stay,
and so does each plan of which something is still needed. `summary.json` of a report stays, because it
holds no row and helps to detect the loss of the journal (`journal/loss_detection.py`).
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from pipeline.clock import utc_text
from pipeline.job import Job
from pipeline.journal import runs
from pipeline.journal.journal import Journal
from pipeline.planning.plan import SEAL
from pipeline.system.temporary import abandoned

_STAYS: Final = "summary.json"
_REPLACEABLE: Final = (  # in state.dir: made anew when it is needed
    "held-*.parquet",
    ".held-*",  # this one and those below are left by runs that were killed
    ".workers-*",
    ".spill",
    "plans/.sending-*",
)

# The reasons to keep a plan of any age.
UNSETTLED: Final = "unsettled"
COMPARED: Final = "compared"
CANCELS: Final = "cancels"


@dataclass(slots=True)
class Purged:
    """Removed data, or data to remove. `beside`: files that only a person can judge."""

    before: str
    runs: list[str] = field(default_factory=list)
    size_bytes: int = 0
    words: int = 0  # writes whose message (it may be Canvas' own) was removed from the journal
    kept: dict[str, list[str]] = field(default_factory=dict)  # run ids, by reason
    beside: list[str] = field(default_factory=list)
    copies: list[str] = field(default_factory=list)  # folders that a killed `init` or `check` left


def purge(
    job: Job, journal: Journal, days: int, now: datetime, who: str, *, is_trial: bool = False
) -> Purged:
    """Remove row data of runs that began `days` ago or earlier.

    Each run is noted in the audit log before its data is removed. The next purge removes what this one did not.

    Args:
        job: The configuration.
        journal: Its journal.
        days: The age from which data is removed.
        now: The present instant.
        who: The user, for the audit log; "" for the configuration.
        is_trial: Remove nothing.

    Returns:
        The removed data, or with `is_trial` the data to remove.

    Raises:
        OSError: A file cannot be removed.
        JournalError: The journal cannot be used.
    """
    before = now - timedelta(days=days)
    purged = Purged(utc_text(before))
    needed = _needed(job, journal)
    gone: dict[str, list[Path]] = {}
    for run_id in runs.run_ids(journal):
        if run_id >= f"{before:%Y%m%dT%H%M%SZ}":
            continue
        paths = list(_of_report(job.report_dir / run_id))
        plan = job.state_dir / "plans" / run_id
        if _is_folder(plan) and run_id in needed:
            purged.kept.setdefault(needed[run_id], []).append(run_id)
        elif _is_folder(plan):
            paths.append(plan)
        if paths:
            gone[run_id] = paths
    replaceable = [path for each in _REPLACEABLE for path in job.state_dir.glob(each)]
    stale = [path for path in replaceable if _is_older(path, before)]
    purged.runs = list(gone)
    purged.size_bytes = sum(
        map(_size, [*stale, *(path for each in gone.values() for path in each)])
    )
    purged.beside = sorted(path.name for path in job.state_dir.glob("journal.sqlite.*"))
    purged.copies = abandoned(remove=not is_trial)
    if is_trial:
        purged.words = runs.count_messages(journal, purged.before)
        return purged
    purged.words = runs.purge(journal, list(gone), purged.before, now, who)
    for path in [*stale, *(path for each in gone.values() for path in each)]:
        _remove(path)
    return purged


def _needed(job: Job, journal: Journal) -> dict[str, str]:
    """Return the plans to keep, by run id, each with its weightiest reason."""
    rewriting = [feed.name for feed in job.feeds if feed.missing in {"end", "cancel"}]
    needed = dict.fromkeys(runs.runs_holding(journal, rewriting), CANCELS)
    for feed in job.feeds:
        if feed.missing != "ignore":
            needed |= dict.fromkeys(runs.last_complete(journal, feed.name), COMPARED)
    return needed | dict.fromkeys(runs.runs_unsettled(journal), UNSETTLED)


def _of_report(folder: Path) -> Iterator[Path]:
    if _is_folder(folder):
        yield from (path for path in sorted(folder.iterdir()) if path.name != _STAYS)


def _is_folder(path: Path) -> bool:
    """Return whether the path is a folder itself: the target of a link is not ours to remove."""
    return path.is_dir() and not path.is_symlink()


def _is_older(path: Path, before: datetime) -> bool:
    return path.lstat().st_mtime < before.timestamp()


def _size(path: Path) -> int:
    inside = path.rglob("*") if _is_folder(path) else (path,)
    return sum(each.lstat().st_size for each in inside)


def _remove(path: Path) -> None:
    if _is_folder(path):
        (path / SEAL).unlink(missing_ok=True)  # first: what is left is no plan
        shutil.rmtree(path)
    else:
        os.unlink(path)  # noqa: PTH108 - a link, and not what it leads to
