"""Check that files and folders are ours alone, by owner, kind, link count and write permissions.

Another user of the machine who can replace a journal, a plan or a configuration decides what is sent, or what is
executed (`[notify] command`). POSIX only; elsewhere nothing is known of other users.
"""

import os
import stat
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import ConfigError, JournalError
from pipeline.files import FOLDER_MODE, displayed


class Fault(NamedTuple):
    """A defect of a file or folder, and what to do about it."""

    message: str
    fix: str


def private_folder(folder: Path) -> None:
    """Make a folder that only its owner can look into, or close one to others.

    Raises:
        ConfigError: It cannot be made, is not ours, or others can replace it. Or its path is not UTF-8: polars
            writes below it, and takes no other.
    """
    if displayed(folder) != str(folder):
        raise ConfigError(f"{folder}: the path is not UTF-8", "name another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be made: {error.strerror}", "name a folder of your own"
        ) from None
    fault = fault_of_folder(folder)
    if fault is not None:
        raise ConfigError(*fault)
    folder.chmod(FOLDER_MODE)


def fault_of_folder(folder: Path) -> Fault | None:
    """Return why a folder that is there cannot be relied on; None if it can."""
    found = folder.lstat()
    if stat.S_ISLNK(found.st_mode) or _is_of_another(found):
        return Fault(f"{folder} is a link, or belongs to another user", "name a folder of your own")
    return fault_above(folder)


def fault_above(path: Path) -> Fault | None:
    """Return why others can replace this file or folder by another one; None if they cannot.

    They can if it is below a folder that everyone can write to, unless only owners may rename there (the sticky bit,
    as in /tmp) or the file system is mounted read-only (as Kubernetes mounts a ConfigMap). Members of a folder's
    group are trusted.
    """
    for folder in path.resolve().parents:
        mode = folder.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX and not _is_read_only(folder):
            return Fault(
                f"{folder}, a folder above {path.name}, can be written to by all users of this machine",
                f"chmod o-w {folder}, or name another place",
            )
    return None


def require_safe_config(path: Path, found: os.stat_result) -> None:
    """Raise ConfigError if all users can write to a configuration (`found` is of the open file) or replace it."""
    if os.name != "posix":
        return
    if found.st_mode & stat.S_IWOTH and not _is_read_only(path):
        raise ConfigError(
            f"{path} can be written to by all users of this machine, and [notify] command is executed",
            f"chmod o-w {path}",
        )
    fault = fault_above(path)
    if fault is not None:
        raise ConfigError(*fault)


def require_ours(path: Path) -> None:
    """Raise JournalError if `path` is anything but a file of ours without another name; a missing one is fine."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    what = (
        "is not a file"
        if not stat.S_ISREG(found.st_mode)
        else "belongs to another user"
        if _is_of_another(found)
        else "is known by another name, too (a hard link)"
        if found.st_nlink > 1
        else ""
    )
    if what:
        raise JournalError(
            f"{path} {what}, so that others may change it",
            "find out who put it there; run as the user who owns state.dir, with the journal's own file in its place",
        )


def _is_of_another(found: os.stat_result) -> bool:
    return hasattr(os, "geteuid") and found.st_uid != os.geteuid()


def _is_read_only(path: Path) -> bool:
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
