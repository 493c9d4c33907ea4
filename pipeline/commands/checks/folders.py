"""Checks of the folders that a run writes into, and of the room on their disks."""

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from pipeline.commands.checks.context import Check, Context, ok, warning, wrong
from pipeline.files import OTHERS
from pipeline.job import Job
from pipeline.reading.source import Source
from pipeline.system.ownership import fault_of_folder

_GROUP: Final = "Folders"
# What a run leaves behind, roughly: an estimate, on the large side.
_STATE_BYTES_A_ROW: Final = 1_500
_REPORT_BYTES_A_ROW: Final = 600


def check_folders(context: Context) -> Iterator[Check]:
    """Check that state.dir and report.dir can be used."""
    job = context.job
    for name, folder in (("state.dir", job.state_dir), ("report.dir", job.report_dir)):
        yield _check_folder(name, Path(os.path.normpath(folder)))


def _check_folder(name: str, folder: Path) -> Check:
    there = _nearest(folder)
    if not there.is_dir():
        return wrong(_GROUP, name, f"{there} is no folder", f"name another {name}")
    if not os.access(there, os.W_OK | os.X_OK):
        return wrong(
            _GROUP,
            name,
            f"{there} cannot be written to",
            f"give the user who runs this the right to, or name another {name}",
        )
    if there != folder:
        return ok(_GROUP, name, f"{folder} will be made")
    fault = fault_of_folder(folder)
    if fault is not None:
        return wrong(_GROUP, name, *fault)
    if os.name == "posix" and folder.stat().st_mode & OTHERS:
        message = f"others can look into {folder}; a run closes it to them"
        return warning(_GROUP, name, message, f"chmod 700 {folder}")
    return ok(_GROUP, name, f"{folder} is there, and yours alone")


def check_disks(job: Job, sources: Sequence[Source]) -> Iterator[Check]:
    """Check what a run of these files needs against what is free; both folders may be on one disk."""
    rows = sum(source.rows for source in sources)
    size = sum(source.stamp.size for source in sources)
    copies = sum(each.readable.stat().st_size for each in sources if each.readable != each.path)
    needs = {
        "state.dir": (job.state_dir, rows * _STATE_BYTES_A_ROW + size + copies),
        "report.dir": (job.report_dir, rows * _REPORT_BYTES_A_ROW + size),
    }
    disks: dict[int, list[str]] = {}
    for name, (folder, _) in needs.items():
        disks.setdefault(_nearest(folder).stat().st_dev, []).append(name)
    for names in disks.values():
        need = sum(needs[name][1] for name in names)
        free = shutil.disk_usage(_nearest(needs[names[0]][0])).free
        message = f"{_size(free)} free, and a run needs some {_size(need)}"
        what = f"disk of {' and '.join(names)}"
        yield (
            wrong(_GROUP, what, message, "make room there")
            if free < need
            else ok(_GROUP, what, message)
        )


def _nearest(folder: Path) -> Path:
    """Return the folder, or the first one above it that is there."""
    there = folder
    while not there.exists() and not there.is_symlink() and there != there.parent:
        there = there.parent
    return there


def _size(size: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:  # noqa: PLR2004 - as the units have it
            return f"{size:,.0f} {unit}"
        size /= 1000
    return f"{size:,.1f} GB"
