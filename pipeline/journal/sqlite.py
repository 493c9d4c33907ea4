"""The journal in SQLite, the default: one file, one connection, one process at a time.

WAL with `synchronous=FULL`: in simulated power losses this lost nothing, where NORMAL lost sent
rows (docs/guarantees.md, "Journal"). Only this module imports `sqlite3`.
"""

import os
import shutil
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from pipeline.errors import JournalBusy, JournalError
from pipeline.files import FILE_MODE
from pipeline.journal import loss_detection
from pipeline.journal.holder import busy, read_holder
from pipeline.journal.store import (
    NEW,
    RUN,
    SCHEMA_VERSION,
    UPGRADES,
    Cursor,
    Parameters,
    Store,
    fill,
    foreign,
    mark_upgraded,
    refused,
    schema,
    statements,
)
from pipeline.system.ownership import require_ours

FILE: Final = "journal.sqlite"
_PAGES_A_CHECKPOINT: Final = 8_000  # of 4 KiB: a page that is written often is copied once
_CACHE_KIB: Final = 32_768
_CHECKED_BYTES_MAX: Final = 64 * 1024 * 1024  # a larger one is read whole only after an unclean end


class SqliteStore:
    """An open journal file, held exclusively."""

    part: int = RUN
    epoch: int = 0
    holder: str = ""
    is_stopping: bool = False
    errors: tuple[type[Exception], ...] = (sqlite3.Error,)

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path
        self._file = _identity(path)
        self.sql: Mapping[str, str] = statements()

    def execute(self, sql: str, parameters: Parameters = (), /) -> Cursor:
        """Execute one statement."""
        return self._connection.execute(sql, parameters)

    def executemany(self, sql: str, lines: Sequence[Parameters], /) -> Cursor:
        """Execute one statement for each line."""
        return self._connection.executemany(sql, lines)

    def append(self, lines: Sequence[Sequence[Any]]) -> None:
        """Append numbered lines, each with its hash, to the audit log."""
        self._connection.executemany(self.sql["append"], lines)

    def stream(self, sql: str, parameters: Parameters, size: int, /) -> Iterator[list[Any]]:
        """Yield the rows of one statement in lists of up to `size`."""
        cursor = self._connection.execute(sql, parameters)
        while lines := cursor.fetchmany(size):
            yield lines

    def begin(self) -> None:
        """Begin a transaction. Raises JournalError if the file was replaced or deleted."""
        if _identity(self._path) != self._file:
            raise JournalError(
                "the journal was replaced or deleted while a run held it, and what came after is not in it",
                "put the file back that the run had open; if it is gone, see docs/runbook.md, “The journal is lost”",
            )
        self._connection.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Commit the transaction; it is on disk when this returns."""
        self._connection.execute("COMMIT")

    def rollback(self) -> None:
        """Roll back the transaction."""
        self._connection.rollback()

    def close(self) -> None:
        """Close the journal."""
        self._connection.close()

    def fence(self) -> None:
        """Do nothing: a file has no parts."""

    def forget(self) -> None:
        """Overwrite what is deleted from now on."""
        self._connection.execute("PRAGMA secure_delete = ON").fetchone()

    def is_back(self) -> bool:
        """Return False: a file is not lost and back, as a connection is."""
        return False

    def may_send(self) -> bool:
        """Return True: no other process can hold the file while this one lives."""
        return True

    def as_error(self, error: Exception) -> JournalError:
        """Return a JournalError with SQLite's name for an error, and no value of a row."""
        return _as_error(error)


class SqlitePlace:
    """The folder of the journal's file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / FILE

    @property
    def where(self) -> str:
        """Return the path of the file."""
        return os.path.normpath(self._path)

    def is_empty(self) -> bool:
        """Return whether there is no file, or nothing in it.

        Raises:
            JournalError: The folder is on a network file system, or a file is not ours alone.
        """
        loss_detection.refuse_network(self._folder)
        for name in (FILE, f"{FILE}-wal", f"{FILE}-shm", f"{FILE}-journal"):
            require_ours(self._folder / name)
        return not self._path.exists() or not self._path.stat().st_size

    def open(self, base_url: str, loss: str = "") -> Store:
        """Open the journal, or create its file. Raises JournalLost if it is corrupt."""
        path = self._path
        is_new = False
        is_clean = not path.with_name(f"{FILE}-wal").exists()  # SQLite removes it when it closes
        if not path.exists():
            path.touch(mode=FILE_MODE)
        is_small = path.stat().st_size < _CHECKED_BYTES_MAX
        try:
            connection = sqlite3.connect(path, isolation_level=None, timeout=0)
        except sqlite3.Error as error:
            raise _not_opened(error, path) from None
        store = SqliteStore(connection, path)
        try:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute(f"PRAGMA wal_autocheckpoint = {_PAGES_A_CHECKPOINT}")
            connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            connection.execute("BEGIN EXCLUSIVE")
            if connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0:
                is_new = True
                for name in ("schema", *NEW):
                    _apply(connection, f"{name}.sql")
                fill(store, base_url, loss)
            elif names := UPGRADES.get(_version(connection)):
                for name in names:
                    _apply(connection, f"{name}.sql")
                mark_upgraded(store)
            connection.execute("COMMIT")
            is_checked = is_small or not is_clean
            if is_checked and connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                raise loss_detection.lost("corrupt")
            _check(connection, base_url, path)
        except BaseException as error:
            connection.close()
            if isinstance(error, sqlite3.Error):
                raise _not_opened(error, path) from None
            raise
        if is_new:
            _sync_folder(path.parent)
            _sync_folder(path.parent.resolve().parent)
        return store

    def set_aside(self, loss: str) -> None:
        """Rename what is left of the old files."""
        at = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        for path in self._folder.glob(f"{FILE}*"):
            if f"{FILE}." not in path.name:
                path.rename(self._folder / path.name.replace(FILE, f"{FILE}.{loss}-{at}"))

    def to_look_at(self, scratch: Path) -> "SqlitePlace":
        """Copy the journal to a folder. Raises JournalBusy if another run holds it."""
        if (self._folder / f"{FILE}-wal").exists():  # SQLite removes it when it closes
            _refuse_held(self._path)
        for name in (FILE, f"{FILE}-wal"):
            if (self._folder / name).exists():
                shutil.copyfile(self._folder / name, scratch / name)
        return SqlitePlace(scratch)


def _identity(path: Path) -> tuple[int, int] | None:
    """Return device and inode of a file; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _refuse_held(path: Path) -> None:
    """Raise JournalBusy if another run holds the journal; creates no file beside it."""
    address = f"{path.resolve().as_uri()}?mode=ro&readonly_shm=1"
    try:
        with closing(sqlite3.connect(address, uri=True, timeout=0)) as connection:
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except sqlite3.Error as error:
        found = _not_opened(error, path)
        if isinstance(found, JournalBusy):
            raise found from None


def _apply(connection: sqlite3.Connection, name: str) -> None:
    """Execute a schema script, statement by statement: `executescript` would commit."""
    statement = ""
    for line in schema(name).splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            connection.execute(statement)
            statement = ""


def _version(connection: sqlite3.Connection) -> str:
    found = connection.execute("SELECT value FROM meta WHERE name = 'schema_version'").fetchone()
    return "" if found is None else str(found[0])


def _check(connection: sqlite3.Connection, base_url: str, path: Path) -> None:
    meta = dict(connection.execute("SELECT name, value FROM meta").fetchall())
    if meta.get("schema_version") != SCHEMA_VERSION:
        raise JournalError(
            f"{path.name} was written by another version of canvas-ingest",
            "use the version that wrote it",
        )
    if meta["base_url"] != base_url:
        raise foreign(meta["base_url"], base_url)


def _not_opened(error: sqlite3.Error, path: Path) -> JournalError:
    if getattr(error, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return busy(read_holder(path.parent))
    if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
        return loss_detection.lost("corrupt")
    return _as_error(error)


def _as_error(error: Exception) -> JournalError:
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    if isinstance(error, sqlite3.IntegrityError):
        return refused(name)
    return JournalError(
        f"the journal cannot be read or written ({name})",
        "check the disk of state.dir (space, permissions), then run again",
    )


def _sync_folder(folder: Path) -> None:
    """Sync a folder: a new file in it survives a power loss only then."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
