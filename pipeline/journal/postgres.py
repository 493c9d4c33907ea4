"""The journal in PostgreSQL, for runs that several processes share: `[state] url`.

Only the holder of a lease may write and send: the lease of the run (part 0), or of one part of its sending.
The database holds the lease as an epoch and an end. A thread with a connection of its own renews it, and each
transaction checks it. Its time is counted from before the request, by a clock that cannot be set
(docs/guarantees.md, "Workers"). Beside the shared rate limiter, only this module imports `psycopg`.
"""

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson
import psycopg
from psycopg.conninfo import make_conninfo

from pipeline.errors import (
    ConfigError,
    IngestError,
    JournalBusy,
    JournalError,
    Stopped,
    lease_lost,
)
from pipeline.journal.address import parameters_of
from pipeline.journal.dialect import columns, groups_of, translate
from pipeline.journal.holder import Holder, busy
from pipeline.journal.process import is_gone, ourselves
from pipeline.journal.store import (
    NEW,
    RUN,
    SCHEMA_VERSION,
    UPGRADES,
    Cursor,
    Database,
    Parameters,
    Parts,
    fill,
    foreign,
    mark_upgraded,
    refused,
    schema,
    statements,
)

_MARGIN_S: Final = 1.0  # nothing is handed to a socket in the last second of a lease
_TICK_S: Final = 1.0  # a lease is renewed, and its progress stored, at least this often
_CONNECT_S: Final = 5
_AWAY_S: Final = 0.2  # between attempts to connect again
_ROWS_A_MESSAGE: Final = 1_000
_BACK_WITHIN_S: Final = 60.0  # the time to wait for a server that is restarted
_MAKE: Final = 0x63616E76  # the lock under which tables are made
VERSION_MIN: Final = 14  # of the server: older ones get no security fixes any more
_CHAPTER: Final = "docs/operations.md, “The journal in PostgreSQL”"
_FIX: Final = "check [state] url (with sslrootcert, where the certificate is your own authority's), that the server runs, and the password (PGPASSWORD, or a password file), then run again"
_WORDS_MAX: Final = 400
# Faults of the database's setup by SQLSTATE: the message, and what to do.
_KNOWN: Final = {
    "25006": (
        "the database of [state] url takes no writes: it is a standby, or is set to read only",
        "name the primary in [state] url (of several hosts, target_session_attrs=read-write finds it), then run again",
    ),
    "42501": (
        "the user of [state] url may not do in its database what the journal needs",
        f"give it the rights of {_CHAPTER}, then run again",
    ),
    "53100": (
        "the disk of PostgreSQL, which holds the journal, is full",
        "make room there, then run again",
    ),
    **dict.fromkeys(
        ("42P01", "42P07", "42703", "42710", "42723", "42804"),
        (
            "the database of [state] url holds tables that are not the journal's, or not all of the journal's",
            f"give the journal a database of its own ({_CHAPTER}), or restore the whole of it, then run again",
        ),
    ),
}

Connection = psycopg.Connection[Any]


def monotonic_s() -> float:
    """Return seconds of a clock that cannot be set and, where there is one, runs while the machine sleeps."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request for a lease of the run, or of a part of its sending."""

    part: int = RUN
    run_epoch: int = 0  # of the run's own lease, if this is for a part
    counts: Callable[[], Mapping[str, int]] = dict  # rows by disposition so far, to be shown


class Lease:
    """A lease that is held until `release`, or until it is lost."""

    def __init__(self, database: Database, asked: Asked, epoch: int, deadline_s: float) -> None:
        self.part, self.epoch, self.holder = asked.part, epoch, ourselves()
        self.lost = threading.Event()
        self.is_stopping = False  # the process that began the run asks all its parts to end
        self._database = database
        self._asked = asked
        self._deadline_s = deadline_s
        self._over = threading.Event()
        self._connection: Connection | None = None
        self._thread = threading.Thread(target=self._keep, name=f"lease-{self.part}", daemon=True)
        self._thread.start()

    @property
    def names(self) -> dict[str, object]:
        """Return the parameters of the statements about leases."""
        return {
            "part": self.part,
            "epoch": self.epoch,
            "holder": self.holder,
            "run_epoch": self._asked.run_epoch,
            "ttl_s": self._database.lease_s,
        }

    def is_held(self) -> bool:
        """Return whether no other process can have taken the lease by now."""
        return not self.lost.is_set() and monotonic_s() < self._deadline_s - _MARGIN_S

    def release(self) -> None:
        """Stop renewing the lease. The store that wrote under it frees it in the database."""
        self._over.set()
        self._thread.join()
        if self._connection is not None:
            self._connection.close()

    def _keep(self) -> None:
        wait_s = every_s = min(self._database.lease_s / 3, _TICK_S)
        while not self._over.wait(wait_s):
            if monotonic_s() >= self._deadline_s:
                self.lost.set()
            if self.lost.is_set():
                return
            wait_s = _AWAY_S
            with suppress(psycopg.Error, OSError):
                self._renew()
                wait_s = every_s

    def _renew(self) -> None:
        if self._connection is None or self._connection.closed:
            self._connection = _connect(self._database)
        asked_s = monotonic_s()
        values = {**self.names, "counts": orjson.dumps(self._asked.counts()).decode()}
        sql = statements("queries_postgres.sql")
        renewed = _execute(self._connection, sql["renew"], values).fetchone()
        if renewed is None:
            self.lost.set()
            return
        self.is_stopping = bool(renewed[0])
        self._deadline_s = asked_s + self._database.lease_s
        if self.part != RUN:
            _execute(self._connection, sql["store_counts"], values)


class PostgresStore:
    """An open journal in a database. Without a lease, all changes are rolled back."""

    errors: tuple[type[Exception], ...] = (psycopg.Error,)

    def __init__(self, connection: Connection, database: Database, lease: Lease | None) -> None:
        self.part: int = lease.part if lease else RUN
        self.epoch: int = lease.epoch if lease else 0
        self.holder: str = lease.holder if lease else ""
        self.lease = lease
        self.sql: Mapping[str, str] = {**statements(), **statements("queries_postgres.sql")}
        self._connection = connection
        self._database = database

    def execute(self, sql: str, parameters: Parameters = (), /) -> Cursor:
        """Execute one statement."""
        return _execute(self._connection, sql, parameters)

    def executemany(self, sql: str, lines: Sequence[Parameters], /) -> Cursor:
        """Execute one statement for each line, or once for all lines if it takes lists."""
        if "unnest(" in sql:
            return self.execute(sql, columns(lines))
        cursor = self._connection.cursor()
        cursor.executemany(translate(sql), lines)
        return cursor

    def append(self, lines: Sequence[Sequence[Any]]) -> None:
        """Append numbered lines to the audit log: one row for those of a run, with the hash of the last one."""
        self.executemany(self.sql["append"], list(groups_of(self.part, lines)))

    def stream(self, sql: str, parameters: Parameters, size: int, /) -> Iterator[list[Any]]:
        """Yield the rows of one statement in lists of up to `size`."""
        rows = self._connection.cursor().stream(
            translate(sql), parameters or None, size=min(size, _ROWS_A_MESSAGE)
        )
        while lines := list(itertools.islice(rows, size)):
            yield lines

    def begin(self) -> None:
        """Begin a transaction. Raises JournalTaken if the lease is not ours any more."""
        if self.lease is None:
            self.execute("SAVEPOINT step")
            return
        lease = self.lease
        both = self.sql["begin"].format(part=int(lease.part), epoch=int(lease.epoch))
        held = self._connection.execute(both, prepare=False)
        held.nextset()
        if held.fetchone() is None:
            lease.lost.set()
            raise lease_lost()

    def commit(self) -> None:
        """Commit the transaction; it is on disk when this returns."""
        self.execute("COMMIT" if self.lease else "RELEASE step")

    def rollback(self) -> None:
        """Roll back the transaction."""
        if self.lease:
            self._connection.rollback()
        else:
            self.execute("ROLLBACK TO step")

    def close(self) -> None:
        """Close the journal; from now on another process may hold it."""
        if self.lease is not None:
            self.lease.release()
            with suppress(psycopg.Error):
                self.execute(self.sql["let_go"], self.lease.names)
        self._connection.close()

    def fence(self) -> None:
        """End the leases of all parts, inside a transaction."""
        _fence(self._connection)

    def forget(self) -> None:
        """Do nothing: VACUUM removes what was deleted."""

    def is_back(self) -> bool:
        """Return whether the connection was lost and has been replaced.

        Raises JournalTaken once the lease is over, JournalError after a minute.
        """
        if self.lease is None or not self._connection.closed:
            return False
        lost = self.lease.lost
        try:
            self._connection = _reconnect(self._database, lost.is_set)
        except psycopg.OperationalError as error:
            raise (lease_lost() if lost.is_set() else _as_error(error)) from None
        return True

    @property
    def is_stopping(self) -> bool:
        """Return whether the process that began the run asks all its parts to end."""
        return self.lease is not None and self.lease.is_stopping

    def may_send(self) -> bool:
        """Return whether the lease is still ours, with a second to spare."""
        return self.lease is not None and self.lease.is_held()

    def as_error(self, error: Exception) -> JournalError:
        """Return a JournalError that names the kind of an error by its SQLSTATE, and no value of a row."""
        return _as_error(error)


class PostgresPlace:
    """A database for the journal; libpq takes the password from the environment or a password file."""

    def __init__(self, database: Database, asked: Asked | None = None) -> None:
        self._database = database
        self._asked = asked or Asked()
        self._is_looked_at = False
        self.where = "the database of [state] url"

    def is_empty(self) -> bool:
        """Return whether the database holds no journal. Raises JournalError if it does not answer."""
        with _opening(), _connect(self._database) as connection:
            return _is_new(connection)

    def open(self, base_url: str, loss: str = "") -> PostgresStore:
        """Open the journal, or create its tables. Raises JournalBusy while another process holds it.

        A part continues a run that is under way, so it waits for a server that is restarted.
        """
        is_part = self._asked.part != RUN
        while True:
            with _opening():
                connect = _reconnect if is_part else _connect
                connection = connect(self._database)
            try:
                with _opening():
                    check_server(connection)
                    _make(connection, self._database, base_url, loss)
                    if self._is_looked_at:
                        return self._to_look_at(connection, base_url)
                    with connection.transaction():
                        _upgrade(connection, self._database)
                    _check(connection, base_url)
                    return PostgresStore(connection, self._database, self._take_lease(connection))
            except BaseException as error:
                is_away = connection.closed and isinstance(error, JournalError)
                connection.close()
                if not (is_part and is_away):
                    raise

    def set_aside(self, loss: str) -> None:
        """Do nothing: a loss leaves what the database holds correct."""

    def to_look_at(self, scratch: Path) -> "PostgresPlace":  # noqa: ARG002 - nothing is copied
        """Return the same place, to be opened in a transaction that is never committed."""
        place = PostgresPlace(self._database, self._asked)
        place._is_looked_at = True
        return place

    def _to_look_at(self, connection: Connection, base_url: str) -> PostgresStore:
        left_s, _ = _holding(connection, RUN)
        if left_s is not None:
            sql = statements("queries_postgres.sql")["holders"]
            raise _busy_with(connection, _execute(connection, sql, {"part": RUN}).fetchall())
        # It blocks no other process, so it may take long. A user without the right to write fails now.
        _execute(connection, "SET idle_in_transaction_session_timeout = 0")
        _execute(connection, "BEGIN ISOLATION LEVEL REPEATABLE READ")
        _execute(connection, "SELECT FROM lease FOR KEY SHARE")
        _upgrade(connection, self._database)  # rolled back with all else
        _check(connection, base_url)
        return PostgresStore(connection, self._database, None)

    def _take_lease(self, connection: Connection) -> Lease:
        """Take the lease; that of a run waits until the lease of a dead holder ends by itself."""
        asked = self._asked
        sql, ttl_s = statements("queries_postgres.sql"), self._database.lease_s
        names = {
            "part": asked.part,
            "run_epoch": asked.run_epoch,
            "ttl_s": ttl_s,
            "holder": ourselves(),
        }
        first_end: float | None = None
        while True:
            asked_s = monotonic_s()
            with connection.transaction():
                before = _execute(connection, sql["holders"], names).fetchall()
                found = _execute(
                    connection, sql["take_part" if asked.part else "take_run"], names
                ).fetchone()
                if found is not None and asked.part == RUN:
                    _execute(connection, sql["fence_parts"])
                if found is not None:
                    _orphan(connection, before)
            if found is not None:
                return Lease(self._database, asked, int(found[0]), asked_s + ttl_s)
            left_s, end = _holding(connection, asked.part)
            if asked.part != RUN:
                _refuse_ended(connection, asked)
                raise _busy("another process sends this part")
            if first_end is not None and end > first_end:
                raise _busy_with(connection, before)  # renewed: its holder is alive
            first_end = end if first_end is None else first_end
            time.sleep(min(max(left_s or 0.0, 0.05), ttl_s / 4))


@contextmanager
def parts_of(database: Database, run_id: str, run_epoch: int) -> Iterator[Callable[[], Parts]]:
    """Yield a function that returns the parts of a run.

    It waits for a server that is restarted. Raises JournalError.
    """
    connection = _reconnect(database, lambda: False)

    def look() -> Parts:
        nonlocal connection
        sql = statements("queries_postgres.sql")["parts_of_run"]
        while True:
            try:
                found = _execute(connection, sql, {"run_id": run_id, "run_epoch": run_epoch})
                line = found.fetchone()
                connection.rollback()
            except psycopg.OperationalError:
                connection.close()
                with _opening():
                    connection = _reconnect(database, lambda: False)
                continue
            except psycopg.Error as error:
                raise _as_error(error) from None
            return Parts(line[0], set(line[1]), set(line[2]))

    try:
        yield look
    finally:
        connection.close()


def is_held(database: Database) -> bool:
    """Return whether a run is under way. Raises JournalError."""
    with _opening(), _connect(database) as connection:
        return not _is_new(connection) and _holding(connection, RUN)[0] is not None


def _fence(connection: Connection) -> None:
    """End the leases of all parts."""
    sql = statements("queries_postgres.sql")
    before = _execute(connection, sql["holders"], {"part": RUN}).fetchall()
    _execute(connection, sql["fence_parts"])  # waits for what they are just committing
    _orphan(connection, [(part, holder) for part, holder in before if part != RUN])


def _orphan(connection: Connection, before: Sequence[tuple[int, str]]) -> None:
    """Mark the writes in flight of holders that lost their lease but may still be alive."""
    parts = [part for part, holder in before if not is_gone(holder)]
    if parts:
        _execute(connection, statements("queries_postgres.sql")["orphan"], {"parts": parts})


def _refuse_ended(connection: Connection, asked: Asked) -> None:
    """Raise JournalBusy if the run of a part has ended, Stopped if it is to end."""
    sql = statements("queries_postgres.sql")["run_of_parts"]
    found = _execute(connection, sql, {"run_epoch": asked.run_epoch}).fetchone()
    if found is None:
        raise _busy("the run that this part belongs to has ended")
    if found[0]:
        raise Stopped("the run is stopping")


def _holding(connection: Connection, part: int) -> tuple[float | None, float]:
    """Return the seconds for which the run or a part is still held (None: free), and the lease's end in Unix time."""
    sql = statements("queries_postgres.sql")["who_holds"]
    left_s, end = _execute(connection, sql, {"part": part}).fetchone()
    return left_s, end or 0.0


def _busy_with(connection: Connection, holders: Sequence[tuple[int, str]]) -> JournalBusy:
    """Return the error that names the first of the holders, and the run that has not ended."""
    if not holders:
        return busy(None)
    host, process, *_ = holders[0][1].split(" ")
    run = _execute(connection, statements()["run_under_way"]).fetchone() or ("", "")
    return busy(Holder(run[0], host, int(process), run[1]))


def _busy(what: str) -> JournalBusy:
    return JournalBusy(what, "wait until it has ended, then run again")


@contextmanager
def _opening() -> Iterator[None]:
    """Raise errors of psycopg as ours; while a journal is opened they hold no value of a row."""
    try:
        yield
    except psycopg.Error as error:
        raise _opening_error(error) from None


def _connect(database: Database) -> Connection:
    # A session that freezes inside a transaction would keep other processes from taking its lease.
    idle_ms = int(database.lease_s * 1000)
    connection = psycopg.connect(
        make_conninfo("", **parameters_of(database.url)),
        autocommit=True,
        connect_timeout=_CONNECT_S,
        application_name="canvas-ingest",
        options=f"-c idle_in_transaction_session_timeout={idle_ms} -c synchronous_commit=on -c jit=off",
        keepalives_idle=5,
        keepalives_interval=2,
        keepalives_count=3,
        tcp_user_timeout=idle_ms,
    )
    connection.prepare_threshold = 1
    return connection


def _reconnect(database: Database, is_over: Callable[[], bool] = lambda: False) -> Connection:
    """Connect to a server that may be restarting, for up to a minute. Raises the error of the last attempt."""
    until_s = monotonic_s() + _BACK_WITHIN_S
    while True:
        try:
            return _connect(database)
        except psycopg.OperationalError:
            if monotonic_s() > until_s or is_over():
                raise
            time.sleep(_AWAY_S)


def _is_new(connection: Connection) -> bool:
    return bool(_execute(connection, "SELECT to_regclass('meta') IS NULL").fetchone()[0])


def _make(connection: Connection, database: Database, base_url: str, loss: str) -> None:
    """Create the tables if there are none, in one process at a time."""
    if not _is_new(connection):
        return
    with connection.transaction():
        _execute(connection, f"SELECT pg_advisory_xact_lock({_MAKE})")
        if _is_new(connection):
            for name in ("schema", *NEW):
                connection.execute(schema(f"{name}_postgres.sql"))
            connection.execute(schema("rate.sql"))
            fill(PostgresStore(connection, database, None), base_url, loss)


def _upgrade(connection: Connection, database: Database) -> None:
    """Upgrade a journal of an older schema in the open transaction, one process at a time."""
    if _version(connection) not in UPGRADES:
        return
    _execute(connection, f"SELECT pg_advisory_xact_lock({_MAKE})")
    if names := UPGRADES.get(_version(connection)):
        for name in names:
            connection.execute(schema(f"{name}_postgres.sql"))
        mark_upgraded(PostgresStore(connection, database, None))


def _version(connection: Connection) -> str:
    sql = "SELECT value FROM meta WHERE name = 'schema_version'"
    found = _execute(connection, sql).fetchone()
    return "" if found is None else str(found[0])


def _check(connection: Connection, base_url: str) -> None:
    meta = dict(_execute(connection, "SELECT name, value FROM meta").fetchall())
    if meta.get("schema_version") != SCHEMA_VERSION:
        raise JournalError(
            "the journal in this database was written by another version of canvas-ingest",
            "use the version that wrote it",
        )
    if meta["base_url"] != base_url:
        raise foreign(meta["base_url"], base_url)


def check_server(connection: Connection, version_min: int = VERSION_MIN) -> None:
    """Raise JournalError if the server cannot hold a journal."""
    if connection.info.server_version // 10_000 < version_min:
        raise JournalError(
            f"the server of [state] url is PostgreSQL {connection.info.server_version // 10_000}, and the journal needs {version_min} or later",
            "name a newer server",
        )
    if connection.info.parameter_status("server_encoding") != "UTF8":
        raise JournalError(
            "the database of [state] url does not hold every character (its encoding is not UTF8)",
            "make it with `CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0`",
        )
    if _execute(connection, "SHOW fsync").fetchone()[0] != "on":
        raise JournalError(
            "the server of [state] url does not keep what it commits when the power fails (fsync = off)",
            "set fsync = on in its configuration, and restart it",
        )


def _execute(connection: Connection, sql: str, parameters: Parameters = ()) -> Cursor:
    # A prepared statement would keep the plan made for empty tables, which scans all rows.
    return connection.execute(translate(sql), parameters or None, prepare=False)


def _as_error(error: Exception) -> JournalError:
    """Return the error by SQLSTATE and kind, without the server's text: it may quote values of a row.

    An error without a SQLSTATE is about the connection (hosts, certificates, users, passwords). Its text
    is libpq's, which quotes no values.
    """
    state = getattr(error, "sqlstate", None)
    name = f"{type(error).__name__} {state}" if state else type(error).__name__
    if isinstance(error, psycopg.IntegrityError):
        return refused(name)
    if state in _KNOWN:
        return JournalError(*_KNOWN[state])
    if isinstance(error, psycopg.OperationalError) and state is None:
        return JournalError("PostgreSQL, which holds the journal, does not answer", _FIX)
    return JournalError(f"the journal cannot be read or written ({name})", _FIX)


def _opening_error(error: psycopg.Error) -> IngestError:
    """Return the error with libpq's words, which name host, user and database, and never the password."""
    if error.sqlstate is not None or not isinstance(
        error, psycopg.OperationalError | psycopg.ProgrammingError
    ):
        return _as_error(error)
    words = "".join(each if each.isprintable() else " " for each in str(error))
    words = " ".join(words.removeprefix("connection failed: ").split())[:_WORDS_MAX]
    if isinstance(error, psycopg.ProgrammingError):
        return ConfigError(
            f"[state] url is not an address that PostgreSQL knows: {words}",
            "correct it: postgresql://user@host:5432/database?sslmode=verify-full",
        )
    if error.pgconn is not None and error.pgconn.needs_password:
        return JournalError(
            f"PostgreSQL, which holds the journal, asks for a password, and none is given: {words}",
            "set PGPASSWORD, or name a password file of mode 0600 (PGPASSFILE), then run again",
        )
    return JournalError(f"PostgreSQL, which holds the journal, cannot be reached: {words}", _FIX)
