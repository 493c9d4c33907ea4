"""The rate that all workers share, as two rows of PostgreSQL: short statements on one connection.

Each is a transaction of its own, and a frame is divided under a row's lock, by the server's clock: two
workers never get the same slot. That lock is held for a millisecond, and never while a disk is waited
for. No data of source rows is sent here.
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

# What Canvas asks for is committed durably, whatever the server's default. Frames are in a table that a crash
# empties as a whole (journal/rate.sql), so that their commits need no disk.
_ENTER: Final = (
    f"SET statement_timeout = '{_ANSWERS_WITHIN_S:.0f}s'; SET synchronous_commit = on; SET jit = off; LISTEN {_CHANNEL}",
    "DELETE FROM taker WHERE taken_at < now() - interval '1 hour'",
    """
    INSERT INTO target (rate_per_s) VALUES (%(rate_per_s)s)
    ON CONFLICT (id) DO UPDATE SET rate_per_s = excluded.rate_per_s WHERE target.rate_per_s <> excluded.rate_per_s
    """,
)

# One message. The second statement waits for its turn, so that the third sees all that was reported before it.
#
# `asking`: the workers of the next frame are those that have asked since the present one was made; one that died is
# among them once at most. `due`: the next slot may be from then on. After a restart, or in an empty table, it comes
# after all that may have been handed out; an instant further ahead than any that is ever written means that the
# server's clock was set back. `fair`: none gets less than the others unless it wants less (max-min), and what is
# left over is divided in proportion. `upto` and `turn` round so that the sum is right, in another worker's favour
# each time. `share` works as `Share` in canvas/limiter.py.
_RESERVE: Final = """
INSERT INTO frame (id) VALUES (1) ON CONFLICT (id) DO NOTHING;
SELECT FROM frame FOR UPDATE;
WITH asking AS (
    SELECT %(holder)s::text AS holder, %(wanted)s AS wanted, %(width_s)s::double precision AS width_s
    UNION ALL
    SELECT holder, taker.wanted, width_s FROM taker, frame
    WHERE holder <> %(holder)s AND asked_in = number
        AND taken_at > clock_timestamp() - make_interval(secs => 2 * (%(ahead_s)s + greatest(%(frame_s)s, interval_s)))
), paced AS (
    SELECT frame.*, target.cut_at AS last_cut_at, clock_timestamp() AS now, blocked_until,
        (1 + %(late_s)s + (SELECT max(width_s) FROM asking)) / (%(used)s * least(rate_per_s, greatest(0.05, rate_per_s
            * least(1, share + %(growth)s * greatest(0, extract(epoch FROM clock_timestamp() - share_at)))))) AS spacing_s,
        (SELECT asked_in FROM taker WHERE holder = %(holder)s) AS asked_in
    FROM frame, target
), ruled AS (
    SELECT *,
        CASE WHEN blocked_until > now + interval '1 hour' THEN now ELSE blocked_until END AS free_at,
        now + make_interval(secs => %(ahead_s)s + %(frame_s)s + spacing_s) AS restart_at,
        started_at <> pg_postmaster_start_time() AS is_restarted
    FROM paced
), due AS (
    SELECT *,
        greatest(free_at, CASE
            WHEN tat > restart_at + interval '1 minute' THEN restart_at
            WHEN is_restarted THEN greatest(tat, restart_at)
            ELSE tat END) AS due,
        NOT is_restarted AND cut_at = last_cut_at AND tat <= restart_at + interval '1 minute' AS is_valid
    FROM ruled
), next AS (
    SELECT *,
        %(wanted)s > 0 AND due <= now + make_interval(secs => %(ahead_s)s) AS is_made,
        greatest(due, now + make_interval(secs => least(%(reach_s)s + %(width_s)s, %(ahead_s)s))) AS next_at,
        greatest(1, floor(%(frame_s)s / spacing_s)) AS slots,
        number * 618034 %% 1000000 / 1e6::double precision AS turn
    FROM due
), ranked AS (
    SELECT holder, wanted, slots, turn, row_number() OVER rising AS rank, count(*) OVER () AS workers,
        sum(wanted) OVER rising - wanted AS before, sum(wanted) OVER () AS total
    FROM asking, next WHERE wanted > 0 AND is_made
    WINDOW rising AS (ORDER BY wanted, holder)
), fair AS (
    SELECT holder, slots, turn, CASE WHEN total <= slots THEN wanted * slots / total
        ELSE least(wanted, (SELECT max((slots - before) / (workers - rank + 1)) FROM ranked)) END AS part
    FROM ranked
), summed AS (
    SELECT holder, part, turn, least(slots, sum(part) OVER (ORDER BY holder)) AS upto FROM fair
), dealt AS (
    SELECT array_agg(holder ORDER BY holder) AS holders, array_agg(count ORDER BY holder) AS counts FROM (
        SELECT holder, (floor(upto + turn) - floor(lag(upto, 1, 0) OVER (ORDER BY holder) + turn))::integer AS count FROM summed
    ) AS counted
), present AS (
    SELECT now, due, free_at, last_cut_at,
        CASE WHEN is_made THEN number + 1 ELSE number END AS number,
        CASE WHEN is_made THEN next_at ELSE first_at END AS first_at,
        CASE WHEN is_made THEN spacing_s ELSE interval_s END AS interval_s,
        CASE WHEN is_made THEN next_at + make_interval(secs => ceil(slots * spacing_s * 1e6) / 1e6) ELSE due END AS tat,
        CASE WHEN is_made THEN dealt.holders WHEN is_valid THEN next.holders ELSE '{}' END AS holders,
        CASE WHEN is_made THEN dealt.counts WHEN is_valid THEN next.counts ELSE '{}' END AS counts,
        CASE WHEN is_made THEN last_cut_at ELSE cut_at END AS cut_at,
        is_made OR asked_in IS DISTINCT FROM number AS is_new
    FROM next, dealt
), kept AS (
    UPDATE frame SET
        number = present.number, first_at = present.first_at, interval_s = present.interval_s, tat = present.tat,
        holders = present.holders, counts = present.counts, cut_at = present.cut_at, started_at = pg_postmaster_start_time()
    FROM present
), reported AS (
    INSERT INTO taker (holder, taken_at, width_s, asked_in, wanted)
    SELECT %(holder)s, now, %(width_s)s, number, %(wanted)s FROM present
    ON CONFLICT (holder) DO UPDATE SET taken_at = excluded.taken_at, width_s = excluded.width_s,
        asked_in = excluded.asked_in, wanted = excluded.wanted
)
SELECT
    extract(epoch FROM now)::double precision, extract(epoch FROM pg_postmaster_start_time())::double precision,
    extract(epoch FROM first_at)::double precision, interval_s, counts,
    CASE WHEN is_new AND %(wanted)s > 0 AND counts[array_position(holders, %(holder)s::text)] > 0
        THEN array_position(holders, %(holder)s::text) - 1 ELSE -1 END,
    extract(epoch FROM tat)::double precision - %(ahead_s)s,
    extract(epoch FROM free_at)::double precision, extract(epoch FROM last_cut_at)::double precision
FROM present
"""

# Writes nothing, so that the answer comes at once and shows the server's clock best.
_LOOK: Final = """
SELECT
    extract(epoch FROM clock_timestamp())::double precision, extract(epoch FROM pg_postmaster_start_time())::double precision,
    0, 0, ARRAY[]::integer[], -1, 0,
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
), news AS (
    SELECT 1 FROM target, now WHERE abs(extract(epoch FROM now - cut_at)) >= %(cut_pause_s)s
        OR now + make_interval(secs => %(pause_s)s) NOT BETWEEN cut_at AND blocked_until
)
SELECT pg_notify('canvas_ingest_rate', '') FROM cut, news
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
        """Reserve our slots of a frame, by the `wanted` that could be used. Raises JournalError."""
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
        # The client fills in the parameters: several statements in one message can have them only so.
        connection = await psycopg.AsyncConnection.connect(
            self._conninfo, autocommit=True, cursor_factory=psycopg.AsyncClientCursor
        )
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
        while cursor.nextset():
            pass
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
