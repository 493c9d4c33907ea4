"""The shared rate of several workers: how close they come to it, and that they never exceed it together.

Each worker (bench/taker.py) is a process that takes permits from a PostgreSQL started for this, and logs the
machine's monotonic clock. The share is that of all logs together, from their first permit until the workers
are to end: no more than 0.988 of the rate can be reached, because the slots are that far apart. Messages to
the database are counted by each worker; the highest number counts.
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
from statistics import quantiles
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple

from bench.rate import fullest_second, share_of
from bench.rounds import ROOT, Asked, Line, environment, on_all_cores

_RATES: Final = (5, 50, 200, 1000)
_SECONDS, _SECONDS_QUICK = 12, 2
_MESSAGES: Final = 4  # a second and worker, at most
_GRANT: Final = struct.Struct("d")
TOLD: Final = struct.Struct(
    "dd?"
)  # a message: when it was sent, how long it took, whether it reserves
_HEADROOM: Final = 0.998 / 1.01  # what the slots leave of the rate (cluster/shared_limiter.py)


class _Case(NamedTuple):
    what: str
    workers: int
    struck: signal.Signals | None = None  # what one of them gets in the middle
    takers: int = 32  # requests in flight, of each worker
    takes_s: float = 0.0  # seconds that a request lasts


_CASES: Final = (
    _Case("1 worker", 1),
    _Case("2 workers", 2),
    _Case("4 workers", 4),
    _Case("4 workers, one killed and replaced", 4, signal.SIGKILL),
    _Case("4 workers, one frozen and replaced", 4, signal.SIGSTOP),
)
# Senders that wait for each answer: more of them than the rate allows, and fewer.
_SENDERS: Final = (
    (200, _Case("2 workers with 4 requests of 20 ms at a time", 2, None, 4, 0.02)),
    (2000, _Case("2 workers with 4 requests of 5 ms at a time", 2, None, 4, 0.005)),
)


class _Taken(NamedTuple):
    share: float
    fullest: int
    messages_per_s: float  # of each worker
    reservation_ms: list[float]


def measure(asked: Asked) -> Iterator[Line]:
    """Yield the lines of the table."""
    from tests.support import postgres  # noqa: PLC0415 - psycopg is an extra

    if why := postgres.missing():
        print(f"{why}: the lines of the shared rate are left out", file=sys.stderr)
        return
    seconds = _SECONDS_QUICK if asked.quick else _SECONDS
    cases = [(rate, case) for rate in _RATES for case in _CASES] + list(_SENDERS)
    with on_all_cores(), postgres.served() as server:
        os.environ["PGPASSWORD"] = server.password
        for rate, case in [(200, _CASES[-2])] if asked.quick else cases:
            name = server.create()
            taken = _taken(server.url(name), rate, case, seconds)
            server.drop(name)
            against = f"rate_per_s = {rate}, {case.what}"
            note = f"at most {_HEADROOM:.3f}"
            yield Line("rate shared", against, [taken.share], "of it", note=note)
            yield Line(
                "fullest second", against, [taken.fullest], "grants", goal=rate, at_most=True, always=True
            )  # fmt: skip
            took = quantiles(taken.reservation_ms, n=20)
            note = f"a reservation: {took[9]:.1f} ms, 95 % within {took[18]:.1f}"
            yield Line(
                "messages", against, [taken.messages_per_s], "a second and worker",
                goal=_MESSAGES, at_most=True, note=note,
            )  # fmt: skip


def _taken(url: str, rate: int, case: _Case, seconds: float) -> _Taken:
    import psycopg  # noqa: PLC0415 - an extra

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute((ROOT / "pipeline" / "journal" / "rate.sql").read_text())
    with TemporaryDirectory() as name:
        count = case.workers + (case.struck is not None)
        logs = [Path(name) / str(number) for number in range(count)]
        workers = [_start(url, rate, case, log) for log in logs[: case.workers]]
        time.sleep(seconds / 2)
        if case.struck is not None:
            workers[-1].send_signal(case.struck)
            time.sleep(0.5)
            workers.append(_start(url, rate, case, logs[-1]))
        time.sleep(seconds / 2)
        ended_s = time.monotonic()  # then they end one after the other
        if case.struck is not None:
            workers[case.workers - 1].kill()
        for worker in workers:
            worker.communicate()
        log = sorted(at for each in logs for (at,) in _read(each, _GRANT) if at <= ended_s)
        told = [list(_read(each.with_suffix(".told"), TOLD)) for each in logs]
    per_s = [(len(each) - 1) / (each[-1][0] - each[0][0]) for each in told if len(each) > 1]
    took_ms = [
        1e3 * took_s for each in told for _, took_s, is_reservation in each if is_reservation
    ]
    return _Taken(
        share_of(instants(log), rate),
        fullest_second(instants(log)),
        max(per_s, default=0.0),
        took_ms,
    )


def instants(log: Iterable[float]) -> list[datetime]:
    """Return monotonic seconds as instants of some day."""
    return [datetime.fromtimestamp(at, UTC) for at in log]


def _start(url: str, rate: int, case: _Case, log: Path) -> "subprocess.Popen[bytes]":
    command = [
        sys.executable, "-m", "bench.taker", url, str(rate), "--takers", str(case.takers),
        "--takes", str(case.takes_s), "--told", str(log.with_suffix(".told")),
    ]  # fmt: skip
    with log.open("wb") as file:
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=file, env=environment())


def _read(log: Path, record: struct.Struct) -> Iterator[tuple[Any, ...]]:
    whole = log.read_bytes() if log.exists() else b""  # it was struck before it began
    yield from record.iter_unpack(whole[: len(whole) // record.size * record.size])
