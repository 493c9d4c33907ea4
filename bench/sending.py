"""The whole run against a server that is faster, compared with scripts that only post.

Ours is the run of the command: plan, journal with `synchronous=FULL`, report, at a rate that never
holds it up. "Sending" is the part of it that the scripts do too: from the moment at which the plan is
sealed to the last answer written down. All send the same bodies.
"""

import gc
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from bench.rounds import (
    CLOCK,
    CPU,
    Asked,
    Contestant,
    Line,
    compete,
    has,
    interleaved,
    times_as_fast,
)
from bench.server import fast_server
from bench.validate import feed_of, planning, write
from pipeline.app import logs
from pipeline.app.config.load import load
from pipeline.app.progress import Display, watch
from pipeline.commands import run as engine
from pipeline.job import Progress

CONCURRENCY: Final = 64
_ROWS, _ROWS_QUICK = 20_000, 500
_SHARE: Final = 10  # of the rows, for those that wait for the disk, or open a connection, each time
_CPU_MAX: Final = 2.2  # times that of the bare loop
_WHOLE_MIN: Final = 2_500 / 12_000  # rows a second, where the bare loop does the second figure
_OURS: Final = "run"
BARE: Final = "bare aiohttp loop, same shape"
NAIVE: Final = "task a row, commit a record"
FHIRPY: Final = "fhirpy"
SENDING, SENDING_CPU = "sending_s", "sending_cpu_s"
CONFIG: Final = """
[canvas]
base_url = "{url}"
token_url = "{url}/auth/token/"
[upload]
rate_per_s = {rate_per_s}
concurrency = {concurrency}
"""


def measure(asked: Asked) -> Iterator[Line]:
    """Yield the lines of the table."""
    rows = _ROWS_QUICK if asked.quick else _ROWS
    with TemporaryDirectory() as name, fast_server() as url:
        folder = Path(name)
        few = rows // _SHARE
        write("ledger", folder / "ledger.csv", rows)
        with planning("ledger", folder / "ledger.csv") as batches:
            bodies = [body for lines in batches() for body in lines["body"]]
        (folder / "all").write_bytes(b"\n".join(bodies))
        (folder / "few").write_bytes(b"\n".join(bodies[:few]))
        posting = ("-m", "bench.posting")
        to_all = (url, str(folder / "all"), str(CONCURRENCY))
        to_few = (url, str(folder / "few"), str(CONCURRENCY))
        contestants = {
            _OURS: Contestant([sys.executable, "-m", "bench.sending", name, url], rows),
            BARE: Contestant([sys.executable, *posting, "bare", *to_all], rows),
            NAIVE: Contestant([sys.executable, *posting, "naive", *to_few], few),
        }
        if has(asked.others, "fhirpy"):
            contestants[FHIRPY] = Contestant([asked.others, *posting, "fhirpy", *to_few], few)
        taken = interleaved(contestants, asked.rounds)
    goals = {BARE: None, NAIVE: 4.0, FHIRPY: 2.5}
    for other in [name for name in goals if name in taken]:
        yield times_as_fast(
            "sending", _OURS, other, taken, goal=goals[other], by=CLOCK, ours_by=SENDING
        )
    yield times_as_fast(
        "sending, by CPU", _OURS, BARE, taken, goal=1 / _CPU_MAX, by=CPU, ours_by=SENDING_CPU
    )
    yield times_as_fast("plan + send + report", _OURS, BARE, taken, goal=_WHOLE_MIN, by=CLOCK)


class Timed(Progress):
    """Notes when each stage began."""

    def __init__(self) -> None:
        self.began: dict[str, tuple[float, float]] = {}
        super().__init__()

    def __setattr__(self, name: str, value: Any) -> None:
        """Note the time if a stage begins; set the attribute."""
        if name == "stage":
            self.began[value] = time.perf_counter(), time.process_time()
        super().__setattr__(name, value)

    def between(self, first: str, last: str) -> tuple[float, float]:
        """Return seconds by the clock and of CPU from one stage's beginning to another's."""
        began, ended = self.began[first], self.began[last]
        return ended[0] - began[0], ended[1] - began[1]


def main() -> None:
    """Run ours: `python -m bench.sending FOLDER URL`, with `ledger.csv` in the folder."""
    source, url = Path(sys.argv[1]) / "ledger.csv", sys.argv[2]

    def work() -> dict[str, float]:
        with TemporaryDirectory() as name:
            toml = Path(name) / "config.toml"
            toml.write_text(
                CONFIG.format(url=url, rate_per_s=100_000, concurrency=CONCURRENCY)
                + feed_of("ledger")
            )
            job = load(toml, inputs={"ledger": source}, environment={"CANVAS_TOKEN": "bench"})
            progress = Timed()
            result = watch(
                lambda _, stop: engine.run(job, progress=progress, stop=stop), Display.NONE
            )
            assert result.exit_code == 0, result.summary
        sending_s, sending_cpu_s = progress.between("sending", "reporting")
        return {SENDING: sending_s, SENDING_CPU: sending_cpu_s}

    logs.configure("text", logging.ERROR)
    gc.freeze()  # as the command does once its modules are there
    compete(work)


if __name__ == "__main__":
    main()
