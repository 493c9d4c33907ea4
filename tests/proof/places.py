"""The places of the schedules' journals: a file, or a database of a real PostgreSQL.

What a killed process leaves behind is here: a file that was not closed; or a lease that was not released,
which runs out before the next life, and whose holder is known to be gone or, as on another machine, is not.
"""

import atexit
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Final, Protocol

import psycopg

from pipeline.journal import opening
from pipeline.journal.postgres import Lease, PostgresPlace, PostgresStore
from pipeline.journal.process import ourselves
from pipeline.journal.sqlite import SqlitePlace
from pipeline.journal.store import Database, Store
from tests.proof.canvas import BASE
from tests.support.postgres import Server, served

SCRATCH: Final = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())  # noqa: S108 - a memory disk
_LEASE_S: Final = 3_600.0  # of real time, which a schedule does not know
_CUT_IN: Final = 50  # transactions in which the connection is cut once
_EMPTIED: Final = """
    BEGIN;
    SET LOCAL session_replication_role = replica; -- no trigger, this once
    DELETE FROM trail_group; DELETE FROM write; DELETE FROM foreign_resource;
    DELETE FROM run_feed; DELETE FROM stint; DELETE FROM run; DELETE FROM payer_seen; DELETE FROM feed_key;
    DELETE FROM meta WHERE name IN ('loss', 'lost_up_to');
    UPDATE lease SET holder = NULL, expires_at = '-infinity';
    COMMIT;
"""


class Place(Protocol):
    """The place of one schedule's journal."""

    def renew(self) -> None:
        """Return an empty one, without a trace of another."""

    def open(self, *, is_steady: bool = False) -> Store:
        """Open it, as the next life does. `is_steady`: nothing goes wrong with it."""

    def leave(self, store: Store, *, is_killed: bool) -> None:
        """End the life; `is_killed`: without closing anything."""


class InFile:
    """A journal in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def renew(self) -> None:
        for path in self._folder.glob("journal*"):
            path.unlink()
        shutil.copy(_template(), self._folder / "journal.sqlite")

    def open(self, *, is_steady: bool = False) -> Store:  # noqa: ARG002 - a file is
        place = SqlitePlace(self._folder)
        return opening.connect(place, self._folder, BASE, None, after_loss=False)

    def leave(self, store: Store, *, is_killed: bool) -> None:  # noqa: ARG002 - a file closes the same
        store.close()


@cache
def _template() -> Path:
    """Return a new journal, to be copied."""
    folder = Path(tempfile.mkdtemp(dir=SCRATCH, prefix="simulation-template-"))
    InFile(folder).open().close()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder / "journal.sqlite"


@dataclass(frozen=True, slots=True)
class InDatabase:
    """A journal in the one database that this process has on a server; the connection is cut now and then.

    `is_elsewhere`: the killed process ran on another machine, and may be alive as far as is known.
    """

    folder: Path
    url: str  # of the server's own database, which takes anybody's word
    random: Random
    is_elsewhere: bool

    def renew(self) -> None:
        for path in self.folder.glob("journal*"):
            path.unlink()
        _administrator(self.url).execute(_EMPTIED)

    def open(self, *, is_steady: bool = False) -> Store:
        store = _place(self.url).open(BASE)
        return store if is_steady else _CutStore(store, self.random)

    def leave(self, store: Store, *, is_killed: bool) -> None:
        if not is_killed:
            store.close()
            return
        assert isinstance(store, PostgresStore)
        assert store.lease is not None
        store._connection.close()
        store.lease.release()  # its thread dies with the process
        holder = ourselves() if self.is_elsewhere else _gone()
        _administrator(self.url).execute(
            "UPDATE lease SET holder = %s, expires_at = '-infinity' WHERE part = 0", (holder,)
        )


class _CutStore(PostgresStore):
    """A store whose connection is cut now and then: before its commit is carried out, or after."""

    def __init__(self, store: PostgresStore, random: Random) -> None:
        assert isinstance(store.lease, Lease)
        super().__init__(store._connection, store._database, store.lease)
        self._random = random

    def commit(self) -> None:
        fate = self._random.randrange(2 * _CUT_IN)
        if fate == 0:
            self._connection.close()
        super().commit()
        if fate == 1:
            self._connection.close()
            raise psycopg.OperationalError


def _place(url: str) -> PostgresPlace:
    return PostgresPlace(Database(_database(url), _LEASE_S))


@cache
def _database(url: str) -> str:
    """Return the address of a database of this process."""
    with psycopg.connect(url, autocommit=True) as connection:
        (name,) = connection.execute("SELECT 'p' || gen_random_uuid()").fetchone() or ("",)
        connection.execute(f'CREATE DATABASE "{name}"')
    return url.rpartition("/")[0] + f"/{name}"


@cache
def _administrator(url: str) -> "psycopg.Connection[Any]":
    """Return a connection to it that stays, with its tables."""
    _place(url).open(BASE).close()
    return psycopg.connect(_database(url), autocommit=True)


@cache
def _gone() -> str:
    """Return a holder that is known to have ended."""
    with subprocess.Popen(["true"]) as process:
        number = process.pid
    host, _, begun, machine = ourselves().split(" ", 3)
    return f"{host} {number} {begun} {machine}"


@contextmanager
def server() -> Iterator[Server]:
    """Yield a server for many schedules: in memory, and without passwords, which take time."""
    with served(base=SCRATCH, auth="trust") as started:
        yield started
