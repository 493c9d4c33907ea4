"""Files that are there whole or not at all, for their owner only, and still there after a power loss.

A file's name is bytes and need not be UTF-8: `displayed` decides how it is shown.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

FILE_MODE: Final = 0o600  # for the owner only: files and folders may hold rows of patients
FOLDER_MODE: Final = 0o700
OTHERS: Final = 0o077  # what a group and other users may do


def displayed(name: str | os.PathLike[str]) -> str:
    r"""Return a path, or a text with paths in it, as UTF-8: bytes that are not are shown as `\xff`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


@contextmanager
def replacing(path: Path, mode: int = FILE_MODE) -> Iterator[Path]:
    """Yield a new file beside `path` that takes its place once it is written; if it is not, nothing changes.

    The file is new: an existing file of that name, left by a killed run or planted as a link, is never
    written to.
    """
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE))
    try:
        yield part
        part.chmod(mode)
        sync(part)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync(path.parent)


def may_be_file(path: Path) -> bool:
    """Return whether a path is a file, or in a folder that this user may not look into."""
    try:
        return path.is_file()
    except PermissionError:
        return True


def write_private(path: Path, content: bytes) -> None:
    """Write a whole file or nothing of it, for its owner only."""
    with replacing(path) as part:
        part.write_bytes(content)


def sync(path: Path) -> None:
    """Wait until it is on disk: a file's content, or the names in a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file: 64 hex digits. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
