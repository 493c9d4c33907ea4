"""The journal on disk: SQLite, one connection, one thread, one transaction a group of writes.

WAL with `synchronous=FULL`: in simulated power losses this lost nothing, where NORMAL lost sent
rows (reliability.md, "Journal"). A failed commit ends the run: what cannot be written down must not
be sent. The only home of `sqlite3`.
"""

import asyncio
import os
import re
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Final, Self, TypeVar

import orjson
import polars as pl

from pipeline.clock import utc_text
from pipeline.errors import JournalBusy, JournalError, JournalForeign
from pipeline.journal import states
from pipeline.records import Attempt, Exchange, Intent, State, Verdict

T = TypeVar("T")

_SCHEMA_VERSION: Final = "1"
_FILE: Final = "journal.sqlite"
_KEYS_A_QUERY: Final = 10_000

_KNOWN_SCHEMA: Final = dict.fromkeys(("key", "state", "fingerprint", "resource_id"), pl.String)
_WRITES_SCHEMA: Final = {
    "key": pl.String,
    "state": pl.String,
    "run_id": pl.String,
    "attempts": pl.Int64,
    "resource_id": pl.String,
    "rule": pl.String,
    "message": pl.String,
    "http_status": pl.Int64,
    "correlation_id": pl.String,
    "sent_at": pl.String,
    "settled_at": pl.String,
}
_EXCHANGES_SCHEMA: Final = {
    "purpose": pl.String,
    "attempt": pl.Int64,
    "sent_at": pl.String,
    "latency_ms": pl.Float64,
    "http_status": pl.Int64,
}


@dataclass(frozen=True, slots=True)
class Run:
    """One run as the journal knows it. `exit_code` None: it never came to its end."""

    run_id: str
    command: str
    started_at: str
    finished_at: str | None = None
    exit_code: int | None = None
    failure: str = ""


def _queries() -> dict[str, str]:
    text = resources.files("pipeline.journal").joinpath("queries.sql").read_text()
    parts = re.split(r"^-- name: (\w+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


class Journal:
    """One Canvas' journal, held exclusively from `open` to `close`."""

    def __init__(self, connection: sqlite3.Connection, pool: ThreadPoolExecutor) -> None:
        self._connection = connection
        self._pool = pool
        self._sql = _queries()
        self._broken = False

    # Opening --------------------------------------------------------------------------------------

    @classmethod
    def open(cls, folder: Path, base_url: str) -> Self:
        """Open the journal in `folder`, or make it.

        Raises JournalBusy if another run holds it, JournalForeign if it belongs to another
        `base_url`, JournalError if it cannot be trusted.
        """
        pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        try:
            return cls(pool.submit(_connect, folder, base_url).result(), pool)
        except BaseException:
            pool.shutdown()
            raise

    def close(self) -> None:
        """Let it go."""
        self._pool.submit(self._connection.close).result()
        self._pool.shutdown()

    def __enter__(self) -> Self:
        """Use it as a context."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    # Sending --------------------------------------------------------------------------------------

    async def claim(self, run_id: str, intents: Sequence[Intent]) -> None:
        """PENDING -> IN_FLIGHT for a group, in one durable transaction, before any of it is sent."""
        await self._write(lambda: self._claim(run_id, intents))

    def _claim(self, run_id: str, intents: Sequence[Intent]) -> None:
        for intent in intents:
            key = {"key": intent.key}
            self._execute("open_again", key)
            self._execute(
                "enter",
                {
                    **key,
                    "run_id": run_id,
                    "feed": intent.feed,
                    "resource_type": intent.resource_type,
                    "lane": intent.lane,
                    "amount_cents": intent.amount_cents,
                    "claim": intent.claim,
                    "fingerprint": intent.fingerprint,
                },
            )
            self._must(self._execute("claim", key), intent.key)

    async def release(self, intents: Sequence[Intent]) -> None:
        """Take back claims that were never handed to a socket."""
        if not intents:
            return
        await self._write(
            lambda: [
                self._must(self._execute("release", {"key": intent.key}), intent.key)
                for intent in intents
            ]
        )

    async def settle(
        self, run_id: str, attempts: Sequence[Attempt], at: datetime, attempts_max: int
    ) -> list[State]:
        """Write down what answers came to. Returns the state of each write, in order.

        An id that another row already has is no proof: that write is in doubt. A write that did
        not happen and has no attempts left is ABANDONED.
        """
        if not attempts:
            return []
        return await self._write(
            lambda: [
                self._settle(run_id, attempt, utc_text(at), attempts_max) for attempt in attempts
            ]
        )

    def _settle(self, run_id: str, attempt: Attempt, at: str, attempts_max: int) -> State:
        intent, exchange = attempt.intent, attempt.exchange
        number = int(self._execute("attempts", {"key": intent.key}).fetchone()[0])
        self._record(run_id, exchange, intent.key, number, attempt.verdict)
        state, rule, message = states.settled(attempt.verdict), attempt.rule, attempt.message
        if state is State.CONFIRMED and self._is_claimed(attempt):
            state, rule = State.IN_DOUBT, "canvas|id-of-another-row"
            message = "Canvas answered with the id of another row's resource"
        settled = {
            "key": intent.key,
            "state": state.value,
            "resource_id": attempt.resource_id if state is State.CONFIRMED else None,
            "rule": rule,
            "message": message,
            "http_status": exchange.http_status,
            "correlation_id": exchange.correlation_id,
            "sent_at": utc_text(exchange.sent_at),
            "settled_at": at,
        }
        self._must(self._execute("settle", settled), intent.key)
        if state is State.PENDING and number >= attempts_max:
            self._must(self._execute("give_up", {"key": intent.key}), intent.key)
            return State.ABANDONED
        return state

    def _is_claimed(self, attempt: Attempt) -> bool:
        resource = {
            "resource_type": attempt.intent.resource_type,
            "resource_id": attempt.resource_id,
        }
        return self._execute("id_is_claimed", resource).fetchone() is not None

    async def record(self, run_id: str, exchanges: Sequence[Exchange]) -> None:
        """Write down requests that were no writes of rows."""
        if not exchanges:
            return

        def record() -> None:
            for exchange in exchanges:
                self._record(run_id, exchange, "", 1, None)

        await self._write(record)

    def _record(
        self, run_id: str, exchange: Exchange, key: str, attempt: int, verdict: Verdict | None
    ) -> None:
        self._execute(
            "record",
            {
                "run_id": run_id,
                "purpose": exchange.purpose,
                "key": key,
                "attempt": attempt,
                "sent_at": exchange.sent_at.isoformat(timespec="microseconds"),
                "latency_ms": round(exchange.latency_s * 1000, 3),
                "http_status": exchange.http_status,
                "correlation_id": exchange.correlation_id,
                "verdict": verdict.value if verdict else "",
                "problem": exchange.problem,
            },
        )

    # Runs -----------------------------------------------------------------------------------------

    def start_run(self, run: Run) -> int:
        """Enter a run. What an earlier one left in flight is in doubt from now on: how many."""

        def start() -> int:
            self._execute(
                "start_run", {"run_id": run.run_id, "command": run.command, "at": run.started_at}
            )
            return self._execute("doubt_in_flight", {"at": run.started_at}).rowcount

        return self._write_now(start)

    def finish_run(self, run: Run) -> None:
        """Enter how it ended."""
        ended = {
            "run_id": run.run_id,
            "at": run.finished_at,
            "exit_code": run.exit_code,
            "failure": run.failure,
        }
        self._write_now(lambda: self._execute("finish_run", ended))

    def enter_feeds(self, run_id: str, totals: Iterable[tuple[str, int, int]]) -> None:
        """Enter (feed, rows read, cents read) of a run that passed its guards."""
        lines = [
            {"run_id": run_id, "feed": feed, "rows_read": rows, "cents_read": cents}
            for feed, rows, cents in totals
        ]
        self._write_now(lambda: [self._execute("enter_feed", line) for line in lines])

    def last_feed(self, feed: str) -> tuple[int, int] | None:
        """Rows and cents that a feed's files held in the last run that passed its guards."""
        line = self._read(lambda: self._execute("last_feed", {"feed": feed}).fetchone())
        return None if line is None else (int(line[0]), int(line[1]))

    def run(self, run_id: str | None) -> Run | None:
        """A run, or the last one."""
        name, parameters = ("last_run", {}) if run_id is None else ("run", {"run_id": run_id})
        line = self._read(lambda: self._execute(name, parameters).fetchone())
        return None if line is None else Run(*line)

    # Looking up -----------------------------------------------------------------------------------

    def known(self, keys: pl.Series) -> pl.DataFrame:
        """What is held of these keys: key, state, fingerprint, resource_id."""
        return self._frame("known", keys, _KNOWN_SCHEMA)

    def writes(self, keys: pl.Series) -> pl.DataFrame:
        """What the report shows of these keys."""
        return self._frame("writes", keys, _WRITES_SCHEMA)

    def shut_lanes(self) -> set[str]:
        """The patients with a write in doubt."""
        return {line[0] for line in self._read(lambda: self._execute("shut_lanes", {}).fetchall())}

    def doubts(self) -> int:
        """How many writes are in doubt."""
        return int(self._read(lambda: self._execute("doubts", {}).fetchone())[0])

    def exchanges(self, run_id: str) -> pl.DataFrame:
        """All requests of a run, in the order of their grants."""
        lines = self._read(lambda: self._execute("exchanges", {"run_id": run_id}).fetchall())
        return pl.DataFrame(lines, schema=_EXCHANGES_SCHEMA, orient="row")

    def _frame(
        self, query: str, keys: pl.Series, schema: Mapping[str, type[pl.DataType]]
    ) -> pl.DataFrame:
        def look_up() -> list[tuple[object, ...]]:
            lines: list[tuple[object, ...]] = []
            for part in keys.to_frame().iter_slices(_KEYS_A_QUERY):
                listed = orjson.dumps(part.to_series().to_list()).decode()
                lines += self._execute(query, {"keys": listed}).fetchall()
            return lines

        return pl.DataFrame(self._read(look_up), schema=schema, orient="row")

    # The one thread -------------------------------------------------------------------------------

    def _execute(self, name: str, parameters: Mapping[str, object]) -> sqlite3.Cursor:
        return self._connection.execute(self._sql[name], parameters)

    @staticmethod
    def _must(cursor: sqlite3.Cursor, key: str) -> None:
        if cursor.rowcount != 1:
            raise JournalError(
                f"the journal holds row {key} in another state than expected, so nothing more is sent",
                "run again: what the journal holds is true",
            )

    async def _write(self, step: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._transaction, step)

    def _write_now(self, step: Callable[[], T]) -> T:
        return self._pool.submit(self._transaction, step).result()

    def _read(self, step: Callable[[], T]) -> T:
        return self._pool.submit(self._guarded, step).result()

    def _transaction(self, step: Callable[[], T]) -> T:
        """All of a step or nothing of it, on disk when this returns."""
        if self._broken:
            raise JournalError("the journal could not be written before", "run again")
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            result = self._guarded(step)
            self._connection.execute("COMMIT")
        except BaseException as error:
            self._broken = True
            with suppress(sqlite3.Error):
                self._connection.rollback()
            if isinstance(error, sqlite3.Error):
                raise _unwritable(error) from None
            raise
        return result

    def _guarded(self, step: Callable[[], T]) -> T:
        try:
            return step()
        except sqlite3.Error as error:
            raise _unwritable(error) from None


def _unwritable(error: sqlite3.Error) -> JournalError:
    """SQLite's own word for it, which holds no value of a row."""
    return JournalError(
        f"the journal cannot be read or written ({getattr(error, 'sqlite_errorname', type(error).__name__)})",
        "check the disk of state.dir (space, permissions), then run again",
    )


def _connect(folder: Path, base_url: str) -> sqlite3.Connection:
    path = folder / _FILE
    is_new = not path.exists()
    if is_new:
        path.touch(mode=0o600)
    connection = sqlite3.connect(path, isolation_level=None, timeout=0)
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("BEGIN EXCLUSIVE")
        if connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0:
            _create(connection, base_url)
        connection.execute("COMMIT")
        _check(connection, base_url, path)
    except BaseException as error:
        connection.close()
        if isinstance(error, sqlite3.Error):
            raise _not_opened(error, path) from None
        raise
    if is_new:
        _sync_folder(folder)
    return connection


def _create(connection: sqlite3.Connection, base_url: str) -> None:
    for statement in _statements(
        resources.files("pipeline.journal").joinpath("schema.sql").read_text()
    ):
        connection.execute(statement)
    pairs = {(old.value, new.value) for (old, _), new in states.TRANSITIONS.items()}
    connection.executemany("INSERT INTO transition (old, new) VALUES (?, ?)", sorted(pairs))
    meta = [("schema_version", _SCHEMA_VERSION), ("base_url", base_url)]
    connection.executemany("INSERT INTO meta (name, value) VALUES (?, ?)", meta)


def _statements(script: str) -> list[str]:
    statements, held = [], ""
    for line in script.splitlines(keepends=True):
        held += line
        if sqlite3.complete_statement(held):
            statements.append(held)
            held = ""
    return statements


def _check(connection: sqlite3.Connection, base_url: str, path: Path) -> None:
    meta = dict(connection.execute("SELECT name, value FROM meta").fetchall())
    if meta.get("schema_version") != _SCHEMA_VERSION:
        raise JournalError(
            f"{path.name} was written by another version of canvas-ingest",
            "use the version that wrote it",
        )
    if meta["base_url"] != base_url:
        raise JournalForeign(
            f"this journal belongs to {meta['base_url']}, and canvas.base_url is {base_url}",
            "give each Canvas its own state.dir",
        )


def _not_opened(error: sqlite3.Error, path: Path) -> JournalError:
    if getattr(error, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return JournalBusy(
            f"another run holds the journal ({path.name})",
            "wait until it has ended, then run again",
        )
    if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
        return JournalError(
            f"the journal ({path.name}) is damaged, and without it a payment could be posted twice",
            "restore it from a backup; do not delete it",
        )
    return _unwritable(error)


def _sync_folder(folder: Path) -> None:
    """A new file survives a power loss only once its folder is on disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
