"""Validate and map, from a file's text to the plan's columns, compared with the code that people write instead.

Ours is the planner itself: rows read, checked, mapped, keys and hashes and all. What it does for a
file before that (bench.nightly tells it) has no counterpart in the others. fhir.resources is no
dependency: `--others` names the Python of an environment that has it.
"""

import asyncio
import csv
import json
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Final

import polars as pl

from bench.reference import by_pydantic
from bench.rounds import Asked, Contestant, Line, compete, has, interleaved, times_as_fast
from pipeline.app.config.load import load
from pipeline.clock import SystemClock
from pipeline.commands.run import open_journal
from pipeline.job import Progress
from pipeline.planning.parts import rows_with_verdicts
from pipeline.planning.passes.files import open_files
from pipeline.planning.passes.relate import relate_rows
from pipeline.planning.passes.tasks import part_task
from pipeline.planning.state import Build
from pipeline.planning.workers import InPlace
from pipeline.reading.read import read
from pipeline.rows.texts import texts_of

REFERENCE: Final = "csv.DictReader + pydantic + json.dumps"
FHIR_RESOURCES: Final = "csv.DictReader + fhir.resources"
_ROWS, _ROWS_QUICK = 200_000, 5_000
_CHECKED: Final = 1000
_FHIR_SHARE: Final = 50  # it is so slow that one row in so many tells
_ELIGIBILITY: Final = {
    "patient": "MRN", "relationship": "Rel", "subscriber": "Subscriber", "member_id": "Member",
    "subscriber_id": "Subscriber ID", "payer": "Payer", "payer_name": "Payer Name", "type": "Type",
    "plan": "Plan", "subplan": "Subplan", "group": "Group", "subgroup": "Subgroup", "order": "Order",
    "start_on": "Start", "end_on": "End", "status": "Status",
}  # fmt: skip
_LEDGER: Final = {
    "transaction_id": "TXN", "patient": "MRN", "amount": "Amount", "posted_on": "Posted",
    "claim": "Claim", "entry_type": "Type", "currency": "Currency",
}  # fmt: skip
MAPPED: Final = {"eligibility": _ELIGIBILITY, "ledger": _LEDGER}
# Columns that files have and nobody maps.
_BESIDE: Final = ("Last Name", "First Name", "Birth Date", "Sex", "Phone", "ZIP")
NOWHERE: Final = """
[canvas]
base_url = "http://127.0.0.1:9"
token_url = "http://127.0.0.1:9/auth/token/"
"""
_FEED: Final = """
[[feeds]]
name = "{kind}"
kind = "{kind}"
path = "{kind}.csv"
[feeds.columns]
{columns}
"""
_PAYERS: Final = [
    ("60054", "Aetna"), ("00710", "Blue Cross Blue Shield"), ("62308", "Cigna"), ("87726", "UnitedHealthcare"),
    ("08202", "Medicare Part B"), ("61101", "Humana"), ("99726", "TRICARE East"),
]  # fmt: skip


def measure(asked: Asked) -> Iterator[Line]:
    """Yield the lines of the table."""
    rows = _ROWS_QUICK if asked.quick else _ROWS
    with TemporaryDirectory() as name:
        for kind in MAPPED:
            path = Path(name) / f"{kind}.csv"
            write(kind, path, rows)
            check(kind, path)
            yield from _measure(kind, path, rows, asked)


def _measure(kind: str, path: Path, rows: int, asked: Asked) -> Iterator[Line]:
    ours = f"validate + map, {kind}"
    reference = ("-m", "bench.reference")
    contestants = {
        ours: Contestant([sys.executable, "-m", "bench.validate", kind, str(path)], rows),
        REFERENCE: Contestant(
            [sys.executable, *reference, "pydantic", kind, str(path), str(rows)], rows
        ),
    }
    if has(asked.others, "fhir.resources"):
        few = rows // _FHIR_SHARE
        contestants[FHIR_RESOURCES] = Contestant(
            [asked.others, *reference, "fhir.resources", kind, str(path), str(few)], few
        )
    taken = interleaved(contestants, asked.rounds)
    yield times_as_fast(ours, ours, REFERENCE, taken, goal=5.0)
    if FHIR_RESOURCES in taken:
        yield times_as_fast(ours, ours, FHIR_RESOURCES, taken, goal=80.0)


# Synthetic rows -----------------------------------------------------------------------------------


def write(kind: str, path: Path, rows: int) -> None:
    """Write a file of synthetic rows, the same each time: 22 columns of eligibility, 13 of a ledger."""
    deque(grown(kind, path, [rows]), maxlen=0)


def grown(kind: str, path: Path, sizes: Sequence[int]) -> Iterator[int]:
    """Yield the same file at one size after another."""
    random = Random(20261121)  # noqa: S311 - rows, no secrets
    make = _eligibility if kind == "eligibility" else _ledger
    done = 0
    for size in sizes:
        with path.open("a" if done else "w", newline="", encoding="utf-8") as file:
            columns = [*MAPPED[kind].values(), *_BESIDE]
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            if not done:
                writer.writeheader()
            for number in range(done, size):
                beside = dict(zip(_BESIDE, _person(number), strict=True))
                writer.writerow({**make(number, random), **beside})
        done = size
        yield size


def _person(number: int) -> Sequence[str]:
    born = f"{1930 + number % 90}-{number % 12 + 1:02}-{number % 28 + 1:02}"
    return f"Last{number:06}", "First", born, "FM"[number % 2], f"555{number:07}", "48104"


def _eligibility(number: int, random: Random) -> dict[str, str]:
    payer, name = random.choice(_PAYERS)
    is_own = random.choice([True, True, False])
    cells = {
        "patient": f"{number:032x}",
        "relationship": "self" if is_own else random.choice(["spouse", "child"]),
        "subscriber": "" if is_own else f"{number // 2:032x}",
        "member_id": f"W{number:09}",
        "subscriber_id": "" if is_own else f"W{number // 2:09}",
        "payer": payer,
        "payer_name": name,
        "type": random.choice(["PPO", "HMO", "POS", "EHCPOL"]),
        "plan": random.choice(["Choice Plus", "PPO 500", "HMO Blue, Statewide"]),
        "subplan": random.choice(["Bronze", "Silver", "Gold"]),
        "group": f"G{random.randrange(3000):05}",
        "subgroup": random.choice(["", "A", "B"]),
        "order": str(number % 2 + 1),
        "start_on": f"{random.randrange(2019, 2027)}-{random.randrange(1, 13):02}-01",
        "end_on": random.choice(["", "", "2027-12-31"]),
        "status": "active",
    }
    return {_ELIGIBILITY[name]: text for name, text in cells.items()}


def _ledger(number: int, random: Random) -> dict[str, str]:
    is_copay = random.choice([True, False])
    cells = {
        "transaction_id": f"T{number:010}",
        "patient": f"{random.randrange(1, 50_000):032x}",
        "amount": f"{random.randrange(1, 400_000) / 100:.2f}",
        "posted_on": f"2026-{random.randrange(1, 12):02}-{random.randrange(1, 29):02}",
        "claim": f"{number:032x}" if is_copay else "",
        "entry_type": "COPAY" if is_copay else "PAYMENT",
        "currency": "USD",
    }
    return {_LEDGER[name]: text for name, text in cells.items()}


def feed_of(kind: str) -> str:
    """Return the part of a configuration that reads such a file."""
    columns = "\n".join(f'{name} = "{column}"' for name, column in MAPPED[kind].items())
    return _FEED.format(kind=kind, columns=columns)


# Ours ---------------------------------------------------------------------------------------------


@contextmanager
def planning(kind: str, path: Path) -> Iterator[Callable[[], Iterator[pl.DataFrame]]]:
    """Yield a planner of one file, up to the point where a batch of rows is written to the plan."""
    with TemporaryDirectory() as name:
        toml = Path(name) / "config.toml"
        toml.write_text(NOWHERE + feed_of(kind))
        job = load(toml, inputs={kind: path}, environment={})
        (feed,) = job.feeds
        with open_journal(job) as journal:
            stop = asyncio.Event()
            build = Build(job, "bench", journal, SystemClock(), Progress(), stop, InPlace())
            open_files(build)
            relate_rows(build)
            task = part_task(build, feed, build.copies)
            yield lambda: (
                rows_with_verdicts(batch, task, texts_of(batch.frame, feed)).lines
                for batch in read(task.sources[0])
            )


def check(kind: str, path: Path) -> None:
    """Check that both write the same resources: otherwise the comparison is meaningless."""
    few = path.with_name(f"few-{kind}.csv")
    few.write_text("".join(path.read_text().splitlines(keepends=True)[: _CHECKED + 1]))
    theirs = [json.loads(text) for text in by_pydantic(kind, few, _CHECKED)]
    with planning(kind, few) as batches:
        ours = [json.loads(body) for lines in batches() for body in lines["body"]]
    assert ours == theirs


def main() -> None:
    """Run one contestant: `python -m bench.validate KIND FILE`."""
    kind, path = sys.argv[1:]
    with planning(kind, Path(path)) as batches:
        compete(lambda: deque(batches(), maxlen=0))


if __name__ == "__main__":
    main()
