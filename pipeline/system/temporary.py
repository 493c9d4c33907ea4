"""A private folder for copies of rows that a command needs only while it runs: of `init` and of `check`.

It is removed when the command ends, also by SIGTERM and SIGHUP. The next command removes folders of killed commands,
whose lock is free. The lock is on the folder itself. A new folder is unlocked for a moment, and another command may
remove it then, so the command that makes it checks it again once it has the lock.
"""

import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from types import FrameType
from typing import Final

from pipeline.errors import ConfigError
from pipeline.system.environment import SPILL

if sys.platform != "win32":
    import fcntl

_PREFIX: Final = "canvas-ingest-copies-"
_NAMED_BY: Final = ("TMPDIR", "TEMP", "TMP")
_USUAL: Final = ("/tmp", "/var/tmp")  # noqa: S108 - the folder in it is made anew, and is private
_TRIES: Final = 10  # a folder may be taken for an abandoned one before it is locked


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a new folder, mode 0700, that is removed at the end. Raises ConfigError if none can be made."""
    if sys.platform == "win32":  # folders have no locks there
        with TemporaryDirectory(prefix=_PREFIX) as name:
            yield Path(name)
        return
    folder, handle = _made()
    try:
        with _removed_by_signals(folder), _spilling_into(folder / "spill"):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def abandoned(*, remove: bool) -> list[str]:
    """Return the folders of copies that commands of this user left when they were killed; remove them if asked."""
    found: list[str] = []
    if sys.platform == "win32":
        return found
    for folder in (each for place in _places() for each in sorted(place.glob(f"{_PREFIX}*"))):
        with suppress(OSError), _locked(folder) as is_abandoned:
            if is_abandoned:
                found.append(str(folder))
                if remove:
                    shutil.rmtree(folder, ignore_errors=True)
    return found


def _places() -> list[Path]:
    """Return the folders for temporary files, without the current folder: it may be shared, or backed up."""
    named = [os.environ.get(name, "") for name in _NAMED_BY]
    return [Path(each) for each in dict.fromkeys([*named, *_USUAL]) if each]


def _made() -> tuple[Path, int]:
    """Return a new folder and the handle that holds its lock."""
    for place in _places():
        for _ in range(_TRIES):
            try:
                folder = Path(mkdtemp(prefix=_PREFIX, dir=place))
            except OSError:
                break
            with suppress(OSError):  # it was taken for an abandoned one, and removed
                handle = _open(folder)
                if _lock(folder, handle):
                    return folder, handle
                os.close(handle)
            shutil.rmtree(folder, ignore_errors=True)
    raise ConfigError(
        "there is no folder for temporary files that can be written to",
        "set TMPDIR to a folder of your own with room for a copy of the files, or mount one at /tmp",
    )


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Yield whether a folder is ours and no process has its lock, and hold the lock meanwhile."""
    handle = _open(folder)
    try:
        yield os.fstat(handle).st_uid == os.getuid() and _lock(folder, handle)
    finally:
        os.close(handle)


def _open(folder: Path) -> int:
    """Return a handle of a folder itself; the target of a link is not ours."""
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)


def _lock(folder: Path, handle: int) -> bool:
    """Return whether the lock was free, and the folder is still there; it is held until the handle is closed."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return os.path.samestat(os.fstat(handle), folder.lstat())


@contextmanager
def _spilling_into(folder: Path) -> Iterator[None]:
    """Have polars keep rows that do not fit into memory in `folder`, unless the user named another one."""
    if SPILL in os.environ:
        yield
        return
    os.environ[SPILL] = str(folder)
    try:
        yield
    finally:
        os.environ.pop(SPILL, None)


@contextmanager
def _removed_by_signals(folder: Path) -> Iterator[None]:
    """Remove the folder before a signal without a handler ends the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = ("SIGTERM", "SIGHUP")
    numbers = [number for name in names if (number := getattr(signal, name, None))]
    free = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]

    def end(number: int, _: FrameType | None) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    for number in free:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in free:
            signal.signal(number, signal.SIG_DFL)
