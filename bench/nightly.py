"""The nightly file at its real size: loaded once, then again with one row in a hundred changed.

    python -m bench.nightly --rows 1000000

Prints, for each night, requests, seconds, rows a second and the peak memory of the command; and for
the last one how long the rows took to be read, skipped and resolved. Everything stays on loopback.
"""

import argparse
import asyncio
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from pipeline import config
from pipeline.clock import SystemClock
from pipeline.engine import open_journal
from pipeline.feeds.texts import texts_of
from pipeline.held import digests
from pipeline.job import Progress
from pipeline.planning import Planner
from pipeline.stages.read import read

PAYER = {"id": "6741b035-2846-45b3-b7a3-251f7b7fc728", "name": "Plan", "payer_id": "60054"}
CREDENTIALS = {"CANVAS_CLIENT_ID": "sandbox", "CANVAS_CLIENT_SECRET": "sandbox"}
CONFIG = """
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--changed", type=int, default=100, help="one row in so many")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
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
    """A local Canvas in a process of its own."""
    people = [{"id": patient(number), "identifiers": []} for number in range(rows // 2 + 1)]
    (folder / "seed.json").write_bytes(orjson.dumps({"patients": people, "organizations": [PAYER]}))
    command = [sys.executable, "-m", "pipeline", "sandbox", "--port", "0", "--seed", "seed.json"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                found = re.search(r"http://[\d.:]+", line)
                if found:
                    yield found[0]
                    break
        finally:
            process.terminate()


def tell(night: str, folder: Path, rows: int) -> None:
    """One night of the command, in a process of its own."""
    began_s = time.monotonic()
    command = [
        sys.executable,
        "-m",
        "pipeline",
        "run",
        "config.toml",
        "--json",
        "-q",
        "--no-progress",
    ]
    with (
        (folder / "summary").open("wb") as output,
        subprocess.Popen(
            command, cwd=folder, env=os.environ | CREDENTIALS, stdout=output
        ) as process,
    ):
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    took_s = time.monotonic() - began_s
    summary: dict[str, Any] = orjson.loads((folder / "summary").read_bytes())
    found = {word: count for word, count in summary["feeds"][0]["dispositions"].items() if count}
    print(
        f"{night:>9}: {summary['requests']['total']:>9,} requests, {took_s:7.1f} s "
        f"({usage.ru_utime + usage.ru_stime:.1f} s of CPU), {rows / took_s:>9,.0f} rows/s, "
        f"peak {usage.ru_maxrss // 1024:,} MB, exit {process.returncode}, {found}",
        flush=True,
    )


def tell_skipping(folder: Path, rows: int) -> None:
    """How fast unchanged rows are read from the file, and known again as what Canvas holds."""
    job = config.load(folder / "config.toml", environment=CREDENTIALS)
    with open_journal(job) as journal:
        planner = Planner(job, "bench", journal, SystemClock(), Progress(), asyncio.Event())
        began_s = time.monotonic()
        planner.open()
        inspected_s = time.monotonic()
        planner.read()
        planned_s = time.monotonic()
        (feed,) = job.feeds
        held = planner.held(feed)
        for source in planner.sources[feed.name]:
            for batch in read(source):
                held.find(digests(texts_of(batch.frame, feed), {}))
        skipped_s = time.monotonic()
    print(
        f" skipping: {rows / (skipped_s - planned_s):,.0f} rows/s are read, trimmed, digested and known again; "
        f"{rows / (planned_s - inspected_s):,.0f} rows/s with being written into the plan and held against each other; "
        f"{rows / (planned_s - began_s):,.0f} rows/s with the inspection of the file before it"
    )


if __name__ == "__main__":
    main()
