"""The rate that all workers share, as one row of PostgreSQL: short statements on one connection.

Each is a transaction of its own, and a batch is computed under the row's lock, by the server's clock:
two workers never get the same slot. No data of source rows is sent here.
A statement that fails is made again, on a new connection, until the database has been silent for a
minute: a reservation whose answer was lost costs its slots, and permits nothing.
"""

import asyncio
import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from secrets import token_hex
from typing import Any, Final

import psycopg
from psycopg.conninfo import make_conninfo

from pipeline.clock import Clock
from pipeline.errors import JournalError
from pipeline.journal.address import parameters_of
from pipeline.records import Reserved

_CHANNEL: Final = "canvas_ingest_rate"
_ANSWERS_WITHIN_S: Final = 3.0  # else the connection is given up
_PATIENCE_S: Final = 60.0  # a restart of the server takes less
_RETRY_S: Final = 0.1  # doubled with each failure
_RETRY_S_MAX: Final = 2.0
_CONNECTION: Final = {"connect_timeout": "5", "application_name": "canvas-ingest rate"}

# The commit is awaited, whatever the server's default: slots that a crash forgot would be handed out twice.
_ENTER: Final = (
    f"SET statement_timeout = '{_ANSWERS_WITHIN_S:.0f}s'; SET synchronous_commit = on; LISTEN {_CHANNEL}",
    "DELETE FROM taker WHERE taken_at < now() - interval '1 hour'",
    """
    INSERT INTO target (rate_per_s) VALUES (%(rate_per_s)s)
    ON CONFLICT (id) DO UPDATE SET rate_per_s = excluded.rate_per_s WHERE target.rate_per_s <> excluded.rate_per_s
    """,
)

# `share` works as `Share` in canvas/limiter.py. Each worker may hold a future batch; after a restart the next
# slot comes after all that may have been handed out before. An instant further ahead than any that is ever
# written means that the server's clock was set back.
_RESERVE: Final = """
WITH reported AS (
    INSERT INTO taker (holder, taken_at, width_s) VALUES (%(holder)s, clock_timestamp(), %(width_s)s)
    ON CONFLICT (holder) DO UPDATE SET taken_at = excluded.taken_at, width_s = excluded.width_s
), others AS (
    SELECT count(*) + 1 AS workers, coalesce(max(width_s), 0) AS others_width_s FROM taker
    WHERE holder <> %(holder)s AND taken_at > clock_timestamp() - interval '2 seconds'
), held AS (
    SELECT *, clock_timestamp() AS now FROM target FOR UPDATE
), paced AS (
    SELECT *,
        (1 + %(late_s)s + greatest(others_width_s, %(width_s)s)) / (%(used)s * least(rate_per_s, greatest(0.05, rate_per_s
            * least(1, share + %(growth)s * greatest(0, extract(epoch FROM now - share_at)))))) AS interval_s
    FROM held, others
), reaching AS (
    SELECT *,
        greatest(%(ahead_s)s, workers * interval_s) AS ahead_s,
        make_interval(secs => greatest(%(restart_s)s, 2 * workers * interval_s)) AS restart,
        CASE WHEN blocked_until > now + interval '1 hour' THEN now ELSE blocked_until END AS free_at
    FROM paced
), due AS (
    SELECT *,
        greatest(free_at, CASE
            WHEN tat > now + restart + interval '1 minute' THEN now + restart
            WHEN started_at <> pg_postmaster_start_time() THEN greatest(tat, now + restart)
            ELSE tat END) AS due
    FROM reaching
), batch AS (
    SELECT *,
        greatest(due, now + make_interval(secs => %(reach_s)s + %(width_s)s)) AS first,
        CASE WHEN %(wanted)s > 0 AND due <= now + make_interval(secs => ahead_s)
            THEN greatest(1, least(%(wanted)s, %(batch_s)s / interval_s / workers))::integer ELSE 0 END AS slots
    FROM due
), taken AS (
    UPDATE target SET
        started_at = pg_postmaster_start_time(),
        tat = CASE WHEN slots = 0 THEN due ELSE first + make_interval(secs => ceil(slots * interval_s * 1e6) / 1e6) END
    FROM batch
)
SELECT
    extract(epoch FROM now)::double precision, extract(epoch FROM pg_postmaster_start_time())::double precision,
    extract(epoch FROM first)::double precision, interval_s::double precision, slots,
    extract(epoch FROM due)::double precision - ahead_s,
    extract(epoch FROM free_at)::double precision, extract(epoch FROM cut_at)::double precision
FROM batch
"""

# Writes nothing, so that the answer comes at once and shows the server's clock best.
_LOOK: Final = """
SELECT
    extract(epoch FROM clock_timestamp())::double precision, extract(epoch FROM pg_postmaster_start_time())::double precision,
    0, 0, 0, 0,
    extract(epoch FROM CASE WHEN blocked_until > now() + interval '1 hour' THEN now() ELSE blocked_until END)::double precision,
    extract(epoch FROM cut_at)::double precision
FROM target
"""

_SLOW_DOWN: Final = """
WITH now AS (
    SELECT statement_timestamp() AS now
), cut AS (
    UPDATE target SET
        blocked_until = greatest(CASE WHEN blocked_until > now + interval '1 hour' THEN now ELSE blocked_until END,
            now + make_interval(secs => %(pause_s)s)),
        share = CASE WHEN abs(extract(epoch FROM now - cut_at)) < %(cut_pause_s)s THEN share ELSE greatest(%(share_min)s,
            least(1, share + %(growth)s * greatest(0, extract(epoch FROM now - share_at))) / 2) END,
        share_at = CASE WHEN abs(extract(epoch FROM now - cut_at)) < %(cut_pause_s)s THEN share_at ELSE now END,
        cut_at = CASE WHEN abs(extract(epoch FROM now - cut_at)) < %(cut_pause_s)s THEN cut_at ELSE now END
    FROM now
    RETURNING 1
)
SELECT pg_notify('canvas_ingest_rate', '') FROM cut
"""


class Target:
    """The row of one Canvas. Calls follow one another; `pacing` is that of cluster/shared_limiter.py."""

    def __init__(
        self,
        url: str,
        pacing: Mapping[str, float],
        clock: Clock,
        *,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        """Keep the settings; the connection opens with the first call. libpq takes a password from the environment."""
        self._conninfo = make_conninfo("", **{**_CONNECTION, **parameters_of(url)})
        self._pacing = pacing
        self._clock = clock
        self._patience_s = patience_s
        self._holder = f"{socket.gethostname()}-{os.getpid()}-{token_hex(4)}"
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self.hinted: Callable[[], None] = lambda: None

    async def look(self) -> Reserved:
        """Ask for the clock and the state, without slots. Raises JournalError."""
        return await self._reserved(_LOOK, {})

    async def reserve(self, wanted: int, width_s: float) -> Reserved:
        """Reserve up to `wanted` slots. Raises JournalError."""
        asked = {**self._pacing, "holder": self._holder, "wanted": wanted, "width_s": width_s}
        return await self._reserved(_RESERVE, asked)

    async def slow_down(self, pause_s: float) -> None:
        """Halve the rate and hand out no slot for `pause_s` seconds; other workers get a hint. Raises JournalError."""
        await self._persistently(_SLOW_DOWN, {**self._pacing, "pause_s": pause_s})

    async def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._hear_nothing(connection)
            await connection.close()

    async def _reserved(self, statement: str, parameters: Mapping[str, Any]) -> Reserved:
        asked_s, answered_s, row = await self._persistently(statement, parameters)
        if row is None:
            raise JournalError(
                "the database cannot say how fast may be sent: its table target is empty",
                "nothing may be deleted there while a run is going on; run again",
            )
        return Reserved(asked_s, answered_s, *row)

    async def _persistently(
        self, statement: str, parameters: Mapping[str, Any]
    ) -> tuple[float, float, Any]:
        """Return when it was asked, when it was answered, and the row, of the first attempt that succeeds."""
        began_s, retry_s = self._clock.monotonic(), _RETRY_S
        while True:
            try:
                connection = self._connection or await self._connect()
                asked_s = self._clock.monotonic()
                row = await self._once(connection, statement, parameters)
                return asked_s, self._clock.monotonic(), row
            except psycopg.ProgrammingError as error:
                raise JournalError(
                    f"the database cannot say how fast may be sent: {_first_line(error)}",
                    "see [state] url: the journal of this program has to be there, and its user may read and write it",
                ) from None
            except psycopg.Error as error:
                await self.close()
                silent_s = self._clock.monotonic() - began_s
                if silent_s > self._patience_s:
                    raise JournalError(
                        f"the database of [state] url has not said for {silent_s:.0f} s how fast may be sent: {_first_line(error)}",
                        "see that it runs and can be reached from here, then run again: nothing was sent in the meantime",
                    ) from None
            await self._clock.sleep(retry_s)
            retry_s = min(2 * retry_s, _RETRY_S_MAX)

    async def _connect(self) -> "psycopg.AsyncConnection[Any]":
        connection = await psycopg.AsyncConnection.connect(self._conninfo, autocommit=True)
        connection.add_notify_handler(lambda _: self.hinted())
        self._connection = connection
        for statement in _ENTER:
            parameters = self._pacing if "%" in statement else None
            await self._once(connection, statement, parameters)
        return connection

    async def _once(
        self,
        connection: "psycopg.AsyncConnection[Any]",
        statement: str,
        parameters: Mapping[str, Any] | None,
    ) -> Any:
        """Return the first row of the answer.

        If none comes in time, or the caller was cancelled, the connection is cut: a request to cancel
        would have to wait for the server again.
        """
        self._hear_nothing(connection)
        asking = asyncio.ensure_future(connection.execute(statement, parameters))
        try:
            await asyncio.wait({asking}, timeout=_ANSWERS_WITHIN_S)
        finally:
            if not asking.done():
                with suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as line:
                    line.shutdown(socket.SHUT_RDWR)
                await asyncio.wait({asking})
                asking.exception()
        cursor = await asking
        self._hear_hints(connection)
        return await cursor.fetchone() if cursor.description else None

    def _hear_hints(self, connection: "psycopg.AsyncConnection[Any]") -> None:
        """Look for hints that arrive between statements, when no other code reads the connection."""
        loop, line = asyncio.get_running_loop(), connection.pgconn

        def hear() -> None:
            try:
                line.consume_input()
            except psycopg.Error:  # the next statement will find that it is closed
                self._hear_nothing(connection)
                return
            while line.notifies():
                self.hinted()

        loop.add_reader(connection.fileno(), hear)

    @staticmethod
    def _hear_nothing(connection: "psycopg.AsyncConnection[Any]") -> None:
        with suppress(psycopg.Error):
            asyncio.get_running_loop().remove_reader(connection.fileno())


def _first_line(error: psycopg.Error) -> str:
    """Return the first line of the server's or the network's error: it names hosts and tables, never a row."""
    return str(error).partition("\n")[0] or type(error).__name__
