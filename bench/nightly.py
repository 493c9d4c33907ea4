"""The nightly file, loaded once, then again: the speed of skipping unchanged rows.

    python -m bench.nightly --rows 1000000

tells of a file at its real size against the local Canvas, then with one row in a hundred changed, then
the same again: requests, seconds, rows a second and the peak memory of the command; and how long the
rows of the last night took to be read, skipped and resolved. Everything stays on loopback.
"""

import argparse
import asyncio
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import orjson

from bench.rounds import ROOT, Asked, Contestant, Line, Usage, compete, interleaved, used
from bench.server import fast_server
from pipeline.app.config.load import load
from pipeline.clock import SystemClock
from pipeline.commands.run import open_journal
from pipeline.job import Progress
from pipeline.planning.passes.files import open_files
from pipeline.planning.passes.rows import read_rows
from pipeline.planning.passes.tasks import part_task
from pipeline.planning.state import Build
from pipeline.planning.unchanged import digests
from pipeline.planning.workers import InPlace
from pipeline.reading.read import read
from pipeline.rows.texts import texts_of

_ROWS, _ROWS_QUICK = 200_000, 2_000
PAYER: Final = {"id": "6741b035-2846-45b3-b7a3-251f7b7fc728", "name": "Plan", "payer_id": "60054"}
CREDENTIALS: Final = {"CANVAS_CLIENT_ID": "sandbox", "CANVAS_CLIENT_SECRET": "sandbox"}
CONFIG: Final = """
[canvas]
base_url = "{url}"
token_url = "{url}/auth/token/"
[upload]
rate_per_s = 100000
concurrency = 64
[[feeds]]
name = "eligibility"
kind = "eligibility"
path = "eligibility.csv"
adopt = false   # a first load into an empty Canvas
[feeds.columns]
patient = "MRN"
member_id = "Member"
relationship = "Rel"
payer = "Payer"
order = "Order"
start_on = "Start"
end_on = "End"
plan = "Plan"
"""


def measure(asked: Asked) -> Iterator[Line]:
    """Yield the lines of the table: a night without changes."""
    rows = _ROWS_QUICK if asked.quick else _ROWS
    with TemporaryDirectory() as name, fast_server() as url:
        folder = Path(name)
        (folder / "config.toml").write_text(CONFIG.format(url=url))
        write(folder / "eligibility.csv", rows, 0)
        for _ in range(2):
            summary, _ = run(folder)
        asks = summary["requests"]["total"]
        assert summary["feeds"][0]["dispositions"]["unchanged"] == rows
        contestant = Contestant([sys.executable, "-m", "bench.nightly", "--skip", name], rows)
        taken = interleaved({"skipping": contestant}, asked.rounds)["skipping"]
    night = f"a file of {rows:,} as it was"
    yield Line("requests for unchanged rows", night, [asks], "requests", goal=0, at_most=True)
    for what, part, goal in (
        ("unchanged rows, skipped", "skipping_s", 500_000.0),
        ("unchanged rows, planned", "planning_s", 400_000.0),
    ):
        yield Line(what, night, [1e6 / us for us in taken[part]], "rows/s", goal=goal)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--changed", type=int, default=100, help="one row in so many")
    parser.add_argument("--skip", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.skip:  # as a contestant
        compete(lambda: skipping(asked.skip))
        return
    with TemporaryDirectory() as name:
        folder = Path(name)
        with served(folder, asked.rows) as url:
            (folder / "config.toml").write_text(CONFIG.format(url=url))
            for night, every in (
                ("first", 0),
                ("second", asked.changed),
                ("the same", asked.changed),
            ):
                write(folder / "eligibility.csv", asked.rows, every)
                tell(night, folder, asked.rows)
            tell_skipping(folder, asked.rows)


def patient(number: int) -> str:
    return f"{number:032x}"


def write(path: Path, rows: int, every: int) -> None:
    with path.open("w") as file:
        file.write("MRN,Member,Rel,Payer,Order,Start,End,Plan\n")
        for row in range(rows):
            end = "2026-12-31" if every and row % every == 0 else ""
            file.write(
                f"{patient(row // 2)},M{row:08d},self,60054,{row % 2 + 1},2026-01-01,{end},Gold {row % 7}\n"
            )


@contextmanager
def served(folder: Path, rows: int) -> Iterator[str]:
    """Yield the address of a local Canvas in a process of its own."""
    people = [{"id": patient(number), "identifiers": []} for number in range(rows // 2 + 1)]
    (folder / "seed.json").write_bytes(orjson.dumps({"patients": people, "organizations": [PAYER]}))
    command = [sys.executable, "-m", "pipeline", "sandbox", "--port", "0", "--seed", "seed.json"]
    with subprocess.Popen(
        command, cwd=folder, env=_variables(), stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                found = re.search(r"http://[\d.:]+", line)
                if found:
                    yield found[0]
                    break
        finally:
            process.terminate()


def run(folder: Path) -> tuple[dict[str, Any], Usage]:
    """Run one night of the command, in a process of its own."""
    command = [sys.executable, "-m", "pipeline", "run", "config.toml", "--json", "-q"]
    with (folder / "summary").open("wb") as output:
        usage = used(command, folder, _variables(), output)
    return orjson.loads((folder / "summary").read_bytes()), usage


def _variables() -> dict[str, str]:
    """Return the environment: this tree, on as many cores as there are."""
    return {**os.environ, **CREDENTIALS, "PYTHONPATH": str(ROOT)}


def tell(night: str, folder: Path, rows: int) -> None:
    """Print the figures of one night."""
    summary, usage = run(folder)
    found = {word: count for word, count in summary["feeds"][0]["dispositions"].items() if count}
    print(
        f"{night:>9}: {summary['requests']['total']:>9,} requests, {usage.clock_s:7.1f} s "
        f"({usage.cpu_s:.1f} s of CPU), {rows / usage.clock_s:>9,.0f} rows/s, "
        f"peak {usage.peak_mb:,.0f} MB, exit {summary['exit_code']}, {found}",
        flush=True,
    )


def skipping(folder: Path) -> dict[str, float]:
    """Measure the time to inspect, plan and recognize unchanged rows.

    Seconds of CPU. Skipping is what is done for each of them: read, trimmed, digested, found. Planning
    is that with being written into the plan and held against each other.
    """
    job = load(folder / "config.toml", environment=CREDENTIALS)
    with open_journal(job) as journal:
        run_id = f"bench-{time.monotonic_ns()}"  # of each round
        stop = asyncio.Event()
        build = Build(job, run_id, journal, SystemClock(), Progress(), stop, InPlace())
        began_s = time.process_time()
        open_files(build)
        inspected_s = time.process_time()
        read_rows(build)
        planned_s = time.process_time()
        (feed,) = job.feeds
        task = part_task(build, feed, build.copies)
        for source in task.sources:
            for batch in read(source):
                task.held.find(digests(texts_of(batch.frame, feed), {}))
        skipped_s = time.process_time()
    return {
        "inspecting_s": inspected_s - began_s,
        "planning_s": planned_s - inspected_s,
        "skipping_s": skipped_s - planned_s,
    }


def tell_skipping(folder: Path, rows: int) -> None:
    """Print the same in rows a second."""
    took = skipping(folder)
    both_s = took["inspecting_s"] + took["planning_s"]
    print(
        f" skipping: {rows / took['skipping_s']:,.0f} rows/s are read, trimmed, digested and known again; "
        f"{rows / took['planning_s']:,.0f} rows/s with being written into the plan and held against each other; "
        f"{rows / both_s:,.0f} rows/s with the inspection of the file before it"
    )


if __name__ == "__main__":
    main()
