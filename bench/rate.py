"""The rate of a run: how close it comes to its limit, and that it never exceeds it, by the journal's log.

Each request's grant stands in the trail. The share is that of the writes, from the first grant to the
last; the fullest second is looked for among the grants of all requests, wherever it begins.
"""

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from bench.rounds import Asked, Line, environment
from bench.sending import CONCURRENCY, CONFIG
from bench.server import fast_server
from bench.validate import feed_of, write

_RATES: Final = (50, 200, 1000)
_SECONDS, _SECONDS_QUICK = 10, 1
_ROUNDS, _ROUNDS_QUICK = 3, 1
_GRANTS: Final = (
    "SELECT event, at FROM trail WHERE event IN ('write', 'search', 'read', 'token') ORDER BY at"
)


def measure(asked: Asked) -> Iterator[Line]:
    """Yield the lines of the table."""
    seconds = _SECONDS_QUICK if asked.quick else _SECONDS
    rounds = range(_ROUNDS_QUICK if asked.quick else _ROUNDS)
    with fast_server() as url:
        taken = [{rate: _grants(url, rate, seconds) for rate in _RATES} for _ in rounds]
    for rate in _RATES:
        shares = [
            share_of([at for event, at in each[rate] if event == "write"], rate) for each in taken
        ]
        fullest = [fullest_second([at for _, at in each[rate]]) for each in taken]
        against = f"rate_per_s = {rate}"
        yield Line("rate reached", against, shares, "of it", goal=0.985, note=f"{seconds} s each")
        yield Line(
            "fullest second", against, fullest, "grants", goal=rate, at_most=True, always=True
        )


def _grants(url: str, rate: int, seconds: int) -> list[tuple[str, datetime]]:
    """Return the permits of one run, in order: their purpose and instant."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        write("ledger", folder / "ledger.csv", rate * seconds)
        settings = CONFIG.format(url=url, rate_per_s=rate, concurrency=CONCURRENCY)
        (folder / "config.toml").write_text(settings + feed_of("ledger"))
        command = [sys.executable, "-m", "pipeline", "run", "config.toml", "-q", "--json"]
        ran = subprocess.run(
            command,
            cwd=folder,
            env=environment() | {"CANVAS_TOKEN": "bench"},
            stdout=subprocess.PIPE,
            check=True,
        )
        (feed,) = json.loads(ran.stdout)["feeds"]
        assert feed["dispositions"]["created"] == rate * seconds
        with closing(sqlite3.connect(folder / "state" / "journal.sqlite")) as journal:
            return [(event, datetime.fromisoformat(at)) for event, at in journal.execute(_GRANTS)]


def share_of(granted: Sequence[datetime], rate: int) -> float:
    """Return the share of the rate that these permits used."""
    return (len(granted) - 1) / (granted[-1] - granted[0]).total_seconds() / rate


def fullest_second(granted: Sequence[datetime]) -> int:
    """Return the most permits in any second, the first included."""
    fullest = first = 0
    for last, at in enumerate(granted):
        while at - granted[first] >= timedelta(seconds=1):
            first += 1
        fullest = max(fullest, last - first + 1)
    return fullest
