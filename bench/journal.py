"""The journal in PostgreSQL beside the one in SQLite, and what a row costs the database.

Whole runs and journal steps in groups are compared round by round. Statements, commits and WAL are those from the
sealed plan to the last recorded answer, of a PostgreSQL started for this, at several rates.

    python -m bench.journal run|groups FOLDER CANVAS [SERVER]      a contestant; SERVER: the address of PostgreSQL
"""

import asyncio
import gc
import logging
import os
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple

from bench.rounds import Asked, Contestant, Line, compete, interleaved, on_all_cores, times_as_fast
from bench.sending import CONCURRENCY, CONFIG, SENDING, Timed
from bench.server import fast_server
from bench.validate import feed_of, write
from pipeline.app import logs
from pipeline.app.config.load import load
from pipeline.app.progress import Display, watch
from pipeline.commands import run as engine
from pipeline.job import Progress
from pipeline.journal import opening, runs, writes
from pipeline.journal.runs import Run
from pipeline.journal.store import Database
from pipeline.records import Attempt, Exchange, Intent, Interaction, Verdict

_ROWS, _ROWS_QUICK = 20_000, 500
_GROUP: Final = 128
_WHOLE, _GROUPS = "whole_s", "groups_s"
_UNLIMITED: Final = 100_000
_RATES: Final = {5: 50, 50: 500, 500: 4_000, _UNLIMITED: 10_000}  # by rate: the rows
_STATEMENTS_MAX, _COMMITS_MAX, _WAL_KB_MAX = 2.0, 0.3, 1.5  # a row, at a rate of 50
_JUDGED: Final = 50
_AT: Final = datetime(2026, 11, 21, tzinfo=UTC)
_BY_KIND: Final = """SELECT coalesce(sum(calls), 0), coalesce(sum(calls) FILTER (WHERE query = 'COMMIT' OR query LIKE 'UPDATE %' AND query NOT LIKE 'UPDATE write%'), 0)
FROM pg_stat_statements JOIN pg_database ON dbid = pg_database.oid AND datname = current_database()
WHERE query NOT LIKE '%taker%' AND query NOT LIKE '%target%' AND query NOT LIKE '%pg_stat_statements%'"""
_WAL: Final = "SELECT CAST(pg_current_wal_insert_lsn() - '0/0' AS BIGINT)"


def measure(asked: Asked) -> Iterator[Line]:
    """Yield the lines of the table."""
    from tests.support import postgres  # noqa: PLC0415 - psycopg is an extra

    if why := postgres.missing():
        print(f"{why}: the lines of the journal in PostgreSQL are left out", file=sys.stderr)
        return
    rows = _ROWS_QUICK if asked.quick else _ROWS
    with TemporaryDirectory() as name, fast_server() as url, on_all_cores():
        server = postgres.Server(shared_preload_libraries="pg_stat_statements")
        try:
            server.start()
            os.environ["PGPASSWORD"] = server.password
            write("ledger", Path(name) / "ledger.csv", rows)
            yield from _compared(name, url, server.url(), rows, asked.rounds)
            for rate, most in _RATES.items():
                write("ledger", Path(name) / "ledger.csv", most // (10 if asked.quick else 1))
                yield from _costs(Path(name), url, server.url(), rate)
        finally:
            server.remove()


def _compared(folder: str, url: str, server: str, rows: int, rounds: int) -> Iterator[Line]:
    goals = {("run", _WHOLE): 0.75, ("run", SENDING): None, ("groups", _GROUPS): 0.8}
    names = {
        _WHOLE: "whole run, PostgreSQL", SENDING: "sending, PostgreSQL",
        _GROUPS: f"journal in groups of {_GROUP}, PostgreSQL",
    }  # fmt: skip
    for way in ("run", "groups"):
        command = [sys.executable, "-m", "bench.journal", way, folder, url]
        contestants = {
            "SQLite": Contestant(command, rows),
            "PostgreSQL": Contestant([*command, server], rows),
        }
        taken = interleaved(contestants, rounds)
        for (judged, by), goal in goals.items():
            if judged == way:
                yield times_as_fast(
                    names[by], "PostgreSQL", "SQLite", taken, goal=goal, by=by, ours_by=by
                )


# What a row costs ---------------------------------------------------------------------------------


class _Cost(NamedTuple):
    statements: int
    commits: int
    wal_bytes: int


class _Costs(Timed):
    """Notes what the database has done when each stage begins."""

    def __init__(self, connection: Any) -> None:
        self.costs: dict[str, _Cost] = {}
        self._connection = connection
        super().__init__()

    def __setattr__(self, name: str, value: Any) -> None:
        """Note the cost so far if a stage begins; set the attribute."""
        if name == "stage":
            calls = self._connection.execute(_BY_KIND).fetchone()
            self.costs[value] = _Cost(*calls, *self._connection.execute(_WAL).fetchone())
        super().__setattr__(name, value)


def _costs(folder: Path, url: str, server: str, rate: int) -> Iterator[Line]:
    import psycopg  # noqa: PLC0415 - an extra

    database = _created(server)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        connection.execute("CHECKPOINT")
        progress = _Costs(connection)
        rows = _run(folder, url, database, rate, progress)
    first, last = progress.costs["sending"], progress.costs["reporting"]
    against = "unlimited" if rate == _UNLIMITED else f"rate_per_s = {rate}"
    figures = [(after - before) / rows for before, after in zip(first, last, strict=True)]
    units = {"statements": _STATEMENTS_MAX, "commits": _COMMITS_MAX, "kB of WAL": _WAL_KB_MAX}
    figures[2] /= 1000
    for figure, (unit, most) in zip(figures, units.items(), strict=True):
        goal = most if rate == _JUDGED else None
        yield Line(f"{unit} a row", against, [figure], "", goal=goal, at_most=True)


# Contestants --------------------------------------------------------------------------------------


def _created(server: str) -> str:
    """Make a database, and return its address."""
    import psycopg  # noqa: PLC0415 - an extra

    name = f"bench{token_hex(6)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"{server.rpartition('/')[0]}/{name}"


def _run(folder: Path, url: str, database: str, rate: int, progress: Progress) -> int:
    """Send the ledger of a folder, and return the number of its rows."""
    with TemporaryDirectory() as name:
        toml = Path(name) / "config.toml"
        state = f'[state]\nurl = "{database}"\n' if database else ""
        upload = CONFIG.format(url=url, rate_per_s=rate, concurrency=CONCURRENCY)
        toml.write_text(upload + state + feed_of("ledger"))
        job = load(
            toml, inputs={"ledger": folder / "ledger.csv"}, environment={"CANVAS_TOKEN": "bench"}
        )
        result = watch(lambda _, stop: engine.run(job, progress=progress, stop=stop), Display.NONE)
        assert result.exit_code == 0, result.summary
        return int(result.summary["feeds"][0]["dispositions"]["created"])


async def _step(folder: Path, database: str, rows: int) -> float:
    """Claim and settle rows in groups, and return the seconds."""
    there = Database(database) if database else None
    with opening.open_journal(folder, "http://127.0.0.1:9", database=there) as journal:
        runs.start_run(journal, Run("r1", "run", _AT.isoformat()))
        intents = [_intent(number) for number in range(rows)]
        began_s = time.perf_counter()
        for start in range(0, rows, _GROUP):
            group = intents[start : start + _GROUP]
            await writes.begin(journal, "r1", group, _AT, _AT)
            await writes.settle(journal, "r1", [_answer(each) for each in group], _AT)
        return time.perf_counter() - began_s


def _intent(number: int) -> Intent:
    key, lane = (sha256(f"{word}{number}".encode()).hexdigest() for word in ("key", "lane"))
    return Intent(
        key, "ledger", "PaymentNotice", Interaction.CREATE, lane[:32], b"{}", key, number, "", "", "r1",
        day="2026-11-21",
    )  # fmt: skip


def _answer(intent: Intent) -> Attempt:
    exchange = Exchange("write", _AT, 0.1, 201, intent.key[:16], dated=_AT)
    return Attempt(
        intent, exchange, Verdict.ACCEPTED, intent.key[-32:], "", "", since=_AT, until=_AT
    )


def main() -> None:
    """Be a contestant."""
    way, folder, url, *server = sys.argv[1:]

    def work() -> dict[str, float]:
        database = _created(server[0]) if server else ""
        if way == "groups":
            rows = sum(1 for _ in (Path(folder) / "ledger.csv").open()) - 1
            with TemporaryDirectory() as name:
                return {_GROUPS: asyncio.run(_step(Path(name), database, rows))}
        progress = Timed()
        began_s = time.perf_counter()
        _run(Path(folder), url, database, _UNLIMITED, progress)
        whole_s = time.perf_counter() - began_s
        return {_WHOLE: whole_s, SENDING: progress.between("sending", "reporting")[0]}

    logs.configure("text", logging.ERROR)
    gc.freeze()
    compete(work)


if __name__ == "__main__":
    main()
