"""The start-up time: of `--help`, and until the first write of a run of a small file.

A first write is the moment at which the request arrives at a local server, counted from the start of
the process: imports, configuration, a new journal, the plan, a token and a search are all in it.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from bench.rounds import Asked, Line, environment
from bench.sending import CONFIG
from bench.server import own_server
from bench.validate import feed_of, write

_ROUNDS, _ROUNDS_QUICK = 15, 2
_ROWS: Final = 10
_COMMAND: Final = (
    "-c",
    "from pipeline.app.cli import main; main()",
)  # what the console script does
_BARE: Final = "python -c pass"
_IMPORTS: Final = "import aiohttp, polars, pydantic"
_CREDENTIALS: Final = {"CANVAS_CLIENT_ID": "bench", "CANVAS_CLIENT_SECRET": "bench"}


def measure(asked: Asked) -> Iterator[Line]:
    """Yield the lines of the table."""
    ways: dict[str, Callable[[], float]] = {
        _BARE: lambda: _seconds("-c", "pass"),
        "--help": lambda: _seconds(*_COMMAND, "--help"),
        "--version": lambda: _seconds(*_COMMAND, "--version"),
        _IMPORTS: lambda: _seconds("-c", _IMPORTS),
        "first write": _to_first_write,
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range((_ROUNDS_QUICK if asked.quick else _ROUNDS) + 1):
        for name, seconds in ways.items():
            took_s = seconds()
            if number:  # the first fills the caches, compiled files among them
                taken[name].append(took_s)
    yield _line("canvas-ingest --help", taken["--help"], _BARE, taken[_BARE], 6.0)
    yield _line("canvas-ingest --version", taken["--version"], _BARE, taken[_BARE], None)
    yield _line("start to first write", taken["first write"], _IMPORTS, taken[_IMPORTS], 2.0)


def _line(
    what: str, ours: Sequence[float], against: str, theirs: Sequence[float], goal: float | None
) -> Line:
    rounds = [own / other for own, other in zip(ours, theirs, strict=True)]
    own_ms, other_ms = (sorted(each)[len(each) // 2] * 1e3 for each in (ours, theirs))
    note = f"{own_ms:,.0f} and {other_ms:,.0f} ms"
    return Line(what, against, rounds, goal=goal, at_most=True, note=note)


def _seconds(*arguments: str) -> float:
    began_s = time.monotonic()
    command = [sys.executable, *arguments]
    subprocess.run(command, env=environment(), stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - began_s


def _to_first_write() -> float:
    with TemporaryDirectory() as name, own_server() as (url, server):
        folder = Path(name)
        write("ledger", folder / "ledger.csv", _ROWS)
        settings = CONFIG.format(url=url, rate_per_s=1000, concurrency=4)
        (folder / "config.toml").write_text(settings + feed_of("ledger"))
        command = [sys.executable, *_COMMAND, "run", "config.toml", "-q"]
        began_s = time.monotonic()
        subprocess.run(
            command,
            cwd=folder,
            env=environment() | _CREDENTIALS,
            stdout=subprocess.DEVNULL,
            check=True,
        )
        assert server.stdout is not None
        return float(server.stdout.readline()) - began_s
