"""Detect that the journal is not the one that earlier runs wrote: it would let payments be posted twice.

Three things outside of the journal show it: the high-water mark (the journal's name and the last line of its audit
log, written beside it about once a second), the folders of plans, and the reports. They show a journal that is
missing, replaced, corrupt, or restored from a backup (docs/guarantees.md, "Journal").
"""

import os
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson

from pipeline.errors import JournalError, JournalLost
from pipeline.files import FILE_MODE
from pipeline.system.ownership import require_ours

if TYPE_CHECKING:
    from pipeline.journal.store import Store

ANCHOR: Final = "journal.anchor"  # the file of the high-water mark
_RUN_ID: Final = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{4}")
_NETWORK: Final = re.compile(r"(nfs\d?|cifs|smb\w*|afs|ceph|glusterfs|lustre|fuse\.sshfs)")
_ESCAPED: Final = re.compile(rb"\\([0-3][0-7]{2})")
_GO_ON: Final = (
    "Put the newest journal back where it was. If there is none, run once with --journal-lost: then each row "
    "that Canvas seems to hold already is set aside for you to decide on (canvas-ingest review)."
)
ACKNOWLEDGED: Final = (
    "lost_up_to"  # in `meta`: the last run entered when a person accepted the loss
)
# In the order in which they were entered: run ids sort by time to the second only.
_LAST_RUNS: Final = """
    SELECT run_id FROM run
    WHERE command IN ('plan', 'run') AND rowid > coalesce(
        (SELECT run.rowid FROM meta JOIN run ON run_id = value WHERE name = :name), 0)
    ORDER BY rowid DESC LIMIT :most
"""
_REPORTS_READ: Final = 5  # of the last runs
# Dispositions and rules of rows that were sent before, as a plan's report has them.
_KNOWN_BY: Final = frozenset(
    {"created", "updated", "unchanged", "in_doubt", "refused", "row|changed", "row|abandoned"}
)
_WHAT: Final = {
    "replaced": "the journal is another one than the last run wrote",
    "corrupt": "the journal is damaged",
    "altered": "the table of writes in the journal is not what its audit log implies: it was restored, repaired or "
    "edited without the log",
    "restored": "the journal is older than the last run: it was restored from a backup, or a part of it was deleted",
}


@dataclass(frozen=True, slots=True)
class HighWaterMark:
    """The journal's name and last line, as they are known outside of it."""

    journal: str  # its name, a random one
    number: int  # of the last line of its audit log
    hash: str  # of that line


def lost(loss: str, where: str = "") -> JournalLost:
    """Return the error for "missing" (which names `where` it was), "replaced", "corrupt", "altered" or "restored"."""
    if loss == "missing":
        return JournalLost(
            loss,
            f"Journal not found: {where}. Earlier runs used it; without it a payment could be posted twice, so nothing was sent",
            _GO_ON,
        )
    return JournalLost(
        loss, f"{_WHAT[loss]}, and without what it knew a payment could be posted twice", _GO_ON
    )


def read_anchor(folder: Path) -> HighWaterMark | None:
    """Return the high-water mark; None if there is none that can be read.

    Raises:
        JournalError: The file is not ours alone.
    """
    require_ours(folder / ANCHOR)
    try:
        return HighWaterMark(**orjson.loads((folder / ANCHOR).read_bytes()))
    except (OSError, TypeError, orjson.JSONDecodeError):
        return None


def write_anchor(folder: Path, high_water_mark: HighWaterMark) -> None:
    """Replace the high-water mark in one step. It never names a line that the journal does not have on disk."""
    part = folder / f".{ANCHOR}"
    part.unlink(missing_ok=True)  # created anew: a planted link is not followed
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE), "wb") as file:
        file.write(orjson.dumps(high_water_mark))
    part.replace(folder / ANCHOR)


def traces(
    folder: Path, report_dir: Path | None, journal: str, known: Collection[str]
) -> list[str]:
    """Find runs that left plans or reports of this journal behind and are not in `known`.

    Args:
        folder: The journal's folder.
        report_dir: The folder of all reports; None if there is none.
        journal: The journal's name. If the journal is missing, the base URL that it was for: then a report counts
            if it is of that Canvas, and of a journal in this folder or in one that has none any more (it was moved
            or mounted elsewhere). The report of a plan that found no row sent before does not count: if only plans
            were made, nothing can be lost.
        known: The runs that the journal has.

    Returns:
        The run ids, sorted.
    """
    found = {path.name for path in _folders(folder / "plans")}.difference(known)
    if report_dir:
        found = {run_id for run_id in found if not _is_blank(_summary(report_dir / run_id))}
    second = max(known, default="").rpartition("-")[0]  # run ids sort by time, to the second
    reports = _folders(report_dir) if report_dir else []
    later = [path for path in reports if path.name > second and path.name not in known]
    found.update(path.name for path in later if _is_of(_summary(path), folder, journal))
    return sorted(found)


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if _RUN_ID.fullmatch(path.name))
    except OSError:
        return []


def _summary(report: Path) -> dict[str, Any]:
    """Return a report's summary; empty if there is none that can be read."""
    try:
        summary = orjson.loads((report / "summary.json").read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return {}
    return summary if isinstance(summary, dict) else {}


def _is_of(summary: Mapping[str, Any], folder: Path, journal: str) -> bool:
    try:
        of_run = summary["journal"]
        is_here = Path(of_run["dir"]) == folder.resolve() or not _has_journal(Path(of_run["dir"]))
        is_lost = of_run["base_url"] == journal and is_here and not _is_blank(summary)
        return bool(of_run["id"] == journal or is_lost)
    except (KeyError, TypeError):
        return False


def _has_journal(folder: Path) -> bool:
    """Return whether another journal than ours is kept in a folder, or in a database that is used from there."""
    return (folder / ANCHOR).exists()


def _is_blank(summary: Mapping[str, Any]) -> bool:
    """Return whether a summary is of a plan that found no row sent before."""
    try:
        words = {
            word
            for feed in summary["feeds"]
            for word, count in [*feed["dispositions"].items(), *feed["rules"].items()]
            if count
        }
        is_plan = summary["command"] == "plan" and summary["in_doubt_elsewhere"] == 0
    except (AttributeError, KeyError, TypeError):
        return False
    return is_plan and words.isdisjoint(_KNOWN_BY)


def loss_of(
    folder: Path,
    high_water_mark: HighWaterMark | None,
    store: "Store",
    report_dir: Path | None,
) -> str:
    """Return how an open journal differs from what is known outside of it.

    Returns:
        "replaced", "restored", or "" if it does not differ.
    """
    name = store.execute("SELECT value FROM meta WHERE name = 'journal'").fetchone()[0]
    if high_water_mark is not None:
        if high_water_mark.journal != name:
            return "replaced"
        line = store.execute(store.sql["line_hash"], {"number": high_water_mark.number}).fetchone()
        if high_water_mark.number and (line is None or line[0] != high_water_mark.hash):
            return "restored"
    known = {line[0] for line in store.execute(store.sql["run_ids"]).fetchall()}
    if traces(folder, report_dir, name, known):
        return "restored"
    return "restored" if report_dir and _reports_more(store, report_dir, name) else ""


def _reports_more(store: "Store", report_dir: Path, journal: str) -> bool:
    """Return whether a report of one of the last runs counts more lines than the audit log has.

    That is so if the backup was made while that run was under way: the journal then knows the run itself.
    """
    head = store.execute(store.sql["head"], {"part": 0}).fetchone()
    length = head[0] if head else 0
    asked = {"name": ACKNOWLEDGED, "most": _REPORTS_READ}
    last = store.execute(_LAST_RUNS, asked).fetchall()
    return any(_lines_of(_summary(report_dir / run_id), journal) > length for (run_id,) in last)


def _lines_of(summary: Mapping[str, Any], journal: str) -> int:
    try:
        of_run = summary["journal"]
        return int(of_run["lines"]) if of_run["id"] == journal else 0
    except (KeyError, TypeError, ValueError):
        return 0


def refuse_network(folder: Path) -> None:
    """Raise JournalError for a folder on a network file system, where SQLite's locks do not hold; Linux only."""
    with suppress(OSError):
        kind = file_system_of(folder.resolve(), Path("/proc/mounts").read_bytes())
        if _NETWORK.fullmatch(kind):
            raise JournalError(
                f"state.dir is on a network file system ({kind}), where locks and syncs do not hold",
                "name a folder on a local disk",
            )


def file_system_of(folder: Path, mounts: bytes) -> str:
    """Return the kind of file system that a folder is on, by the lines of /proc/mounts; "" if unknown.

    The kernel writes a blank, tab, line feed, # or backslash in a path as a backslash and three octal
    digits (fs/proc_namespace.c, `mangle`).
    Of several mounts on one point the last one is in effect.
    """
    path, found, longest = f"{folder}/", "", 0
    for line in mounts.split(b"\n"):
        _, point, kind, *_ = [*line.split(b" "), b"", b"", b""]
        at = os.fsdecode(_ESCAPED.sub(lambda match: bytes([int(match[1], 8)]), point))
        if len(at) >= longest and path.startswith(f"{at.rstrip('/')}/"):
            found, longest = kind.decode("ascii", "replace"), len(at)
    return found
