"""Contestants in interleaved rounds: each is a process of its own, and all share one core in turn.

Machines are noisy, so times say little and ratios taken within one round much. A contestant does the
work once for each line on its standard input, and answers with the seconds of CPU that it took, its
threads together: what else the machine does meanwhile is not counted.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Contestant:
    """A command that calls `compete`, and the work that one round of it is."""

    command: Sequence[str]
    rows: int


@dataclass(frozen=True)
class Ratio:
    """How many times as fast ours is as something else; a line of the table."""

    what: str
    than: str
    rounds: Sequence[float]
    goal: float | None  # None: only told
    ours_us: float  # a row, the median
    theirs_us: float

    def cells(self) -> tuple[str, ...]:
        """As the table shows it."""
        low, middle, high = min(self.rounds), median(self.rounds), max(self.rounds)
        goal = "" if self.goal is None else f"{self.goal:g}"
        met = "" if self.goal is None else "yes" if middle >= self.goal else "NO"
        spread = f"{low:.1f} to {high:.1f}"
        per_row = f"{self.ours_us:.1f}", f"{self.theirs_us:.1f}"
        return (self.what, self.than, f"{middle:.1f}", spread, goal, met, *per_row)


HEADER: Final = (
    "ours",
    "as fast as",
    "times",
    "spread",
    "goal",
    "met",
    "us a row, ours",
    "us a row, theirs",
)


def interleaved(contestants: Mapping[str, Contestant], rounds: int) -> dict[str, list[float]]:
    """Microseconds a row of each contestant, round by round. The first round is not counted."""
    own = {**os.environ, "POLARS_MAX_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with ExitStack() as stack:
        processes = {
            name: stack.enter_context(
                subprocess.Popen(
                    each.command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env=own,
                    text=True,
                )
            )
            for name, each in contestants.items()
        }
        taken: dict[str, list[float]] = {name: [] for name in contestants}
        for number in range(rounds + 1):
            for name, process in processes.items():
                seconds = _once(name, process)
                if number:
                    taken[name].append(seconds / contestants[name].rows * 1e6)
        for process in processes.values():
            process.communicate()
    return taken


def _once(name: str, process: "subprocess.Popen[str]") -> float:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    answer = process.stdout.readline()
    if not answer:
        sys.exit(f"{name} ended in the middle, with exit code {process.wait()}")
    return float(json.loads(answer))


def compete(work: Callable[[], Any]) -> None:
    """What a contestant does: the work, for each line that it is given."""
    for _ in sys.stdin:
        began_cpu_s = time.process_time()
        work()
        print(json.dumps(time.process_time() - began_cpu_s), flush=True)


def ratio(
    what: str, than: str, taken: Mapping[str, Sequence[float]], ours: str, goal: float | None
) -> Ratio:
    """Ours against another contestant, round by round."""
    pairs = zip(taken[ours], taken[than], strict=True)
    rounds = [theirs / own for own, theirs in pairs]
    return Ratio(what, than, rounds, goal, median(taken[ours]), median(taken[than]))
