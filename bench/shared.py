"""The shared rate of several workers: how close they come to it, and that they never exceed it together.

Each worker (bench/taker.py) is a process that takes grants from a PostgreSQL started for this, and logs
the machine's monotonic clock. The share is told of all logs together, from their first grant to the last,
starting included: no more than 0.988 of the rate can be reached, for the slots are that far apart.
"""

import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

from bench.rate import fullest_second, share_of
from bench.rounds import ROOT, Asked, Line, environment, on_all_cores

_RATES: Final = (50, 200, 1000)
_WORKERS: Final = (1, 2, 4)
_SECONDS, _SECONDS_QUICK = 12, 2
_TAKERS: Final = 32  # requests in flight, of each worker
_HEADROOM: Final = 0.998 / 1.01  # what the slots leave of the rate (cluster/shared_limiter.py)


class _Taken(NamedTuple):
    share: float
    fullest: int
    messages_per_s: float


def measure(asked: Asked) -> Iterator[Line]:
    """Yield the lines of the table."""
    from tests.support import postgres  # noqa: PLC0415 - psycopg is an extra

    if why := postgres.missing():
        print(f"{why}: the lines of the shared rate are left out", file=sys.stderr)
        return
    seconds = _SECONDS_QUICK if asked.quick else _SECONDS
    cases = [(4, True)] if asked.quick else [*((count, False) for count in _WORKERS), (4, True)]
    with on_all_cores(), postgres.served() as server:
        os.environ["PGPASSWORD"] = server.password
        for rate in _RATES:
            for count, is_killed in cases:
                name = server.create()
                taken = _taken(server.url(name), rate, count, seconds, is_killed=is_killed)
                server.drop(name)
                against = f"rate_per_s = {rate}, {count} worker{'s' if count > 1 else ''}"
                if is_killed:
                    against += ", one killed and replaced"
                note = f"{taken.messages_per_s:.1f} reservations/s; at most {_HEADROOM:.3f}"
                yield Line("rate shared", against, [taken.share], "of it", note=note)
                yield Line(
                    "fullest second", against, [taken.fullest], "grants", goal=rate, at_most=True, always=True
                )  # fmt: skip


def _taken(url: str, rate: int, count: int, seconds: float, *, is_killed: bool) -> _Taken:
    import psycopg  # noqa: PLC0415 - an extra

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute((ROOT / "pipeline" / "journal" / "rate.sql").read_text())
        with TemporaryDirectory() as name:
            logs = [Path(name) / str(number) for number in range(count + is_killed)]
            workers = [_start(url, rate, log) for log in logs[:count]]
            time.sleep(seconds / 2)
            if is_killed:
                workers[-1].send_signal(signal.SIGKILL)
                time.sleep(0.5)
                workers.append(_start(url, rate, logs[-1]))
            time.sleep(seconds / 2)
            for worker in workers:
                worker.communicate()
            log = sorted(at for each in logs for (at,) in _read(each))
        time.sleep(1.0)  # until the server has counted
        (messages,) = connection.execute(
            "SELECT n_tup_ins + n_tup_upd FROM pg_stat_user_tables WHERE relname = 'taker'"
        ).fetchone() or (0,)
    took_s = log[-1] - log[0]
    return _Taken(share_of(instants(log), rate), fullest_second(instants(log)), messages / took_s)


def instants(log: Iterable[float]) -> list[datetime]:
    """Return monotonic seconds as instants of some day."""
    return [datetime.fromtimestamp(at, UTC) for at in log]


def _start(url: str, rate: int, log: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "bench.taker", url, str(rate), "--takers", str(_TAKERS)]
    with log.open("wb") as file:
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=file, env=environment())


def _read(log: Path) -> Iterator[tuple[float]]:
    whole = log.read_bytes()
    yield from struct.iter_unpack("d", whole[: len(whole) // 8 * 8])
