"""Contestants in interleaved rounds: each is a process of its own, and all share one core in turn.

Machines are noisy, so times say little and ratios taken within one round much. A contestant does the
work once for each line on its standard input, and answers with what it took: the seconds by the clock
and those of CPU, its threads together, in which what else the machine does is not counted.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import IO, Final

ROOT: Final = Path(__file__).resolve().parent.parent
CPU: Final = "cpu_s"  # what `interleaved` has of each round, in microseconds a row
CLOCK: Final = "clock_s"
_ROUNDS, _ROUNDS_QUICK = 7, 2
_MAXRSS_A_MB: Final = (
    1024 * 1024 if sys.platform == "darwin" else 1024
)  # bytes there, KiB elsewhere
_PINNABLE: Final = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
CORES: Final = len(_PINNABLE) or os.cpu_count() or 1

Taken = Mapping[str, Mapping[str, Sequence[float]]]  # contestant -> measure -> round by round


@dataclass(frozen=True)
class Asked:
    """The arguments of the command line."""

    quick: bool
    others: str  # the Python of an environment with fhir.resources and fhirpy
    rows_max: int  # of the growth

    @property
    def rounds(self) -> int:
        """Return the number of rounds."""
        return _ROUNDS_QUICK if self.quick else _ROUNDS


@dataclass(frozen=True)
class Contestant:
    """A command that calls `compete`, and the rows that one round of it works on."""

    command: Sequence[str]
    rows: int


@dataclass(frozen=True)
class Line:
    """A line of the table: a measurement, round by round, beside its goal."""

    what: str
    against: str
    rounds: Sequence[float]
    unit: str = "x"
    goal: float | None = None  # None: only done
    at_most: bool = False  # else the goal is the least
    always: bool = False  # it has to be met in each round; else by the median
    note: str = ""

    @property
    def met(self) -> str:
        """Return whether it reaches its goal."""
        if self.goal is None:
            return ""
        judged = median(self.rounds)
        if self.always:
            judged = max(self.rounds) if self.at_most else min(self.rounds)
        return "yes" if (judged <= self.goal if self.at_most else judged >= self.goal) else "NO"

    def cells(self, *, is_judged: bool) -> tuple[str, ...]:
        """Return the cells of the table; without the verdict on the goal if this run does not measure it."""
        low, middle, high = min(self.rounds), median(self.rounds), max(self.rounds)
        count = len(self.rounds)
        spread = f"{_figure(low)} to {_figure(high)}" if count > 1 else ""
        goal = ""
        if self.goal is not None:
            goal = f"{'at most' if self.at_most else 'at least'} {_figure(self.goal)}"
        shown, met = f"{_figure(middle)} {self.unit}", self.met if is_judged else ""
        return self.what, self.against, shown, spread, str(count), goal, met, self.note


HEADER: Final = ("what", "against", "median", "spread", "rounds", "goal", "met", "")


def _figure(value: float) -> str:
    """Return a number with its significant digits."""
    if value >= 100 or value == int(value):  # noqa: PLR2004 - three digits
        return f"{value:,.0f}"
    return f"{value:.3f}" if value < 1 else f"{value:.2f}"


@contextmanager
def alone_on(core: int) -> Iterator[None]:
    """Pin processes started in this context to one core: the last one (-1), or the one before (-2).

    Where there is one core all share it, and where the system cannot pin, it decides.
    """
    if not _PINNABLE:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {_PINNABLE[max(core, -len(_PINNABLE))]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def on_all_cores() -> Iterator[None]:
    """Let processes started in this context use all cores: several that are measured together."""
    if not _PINNABLE:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, _PINNABLE)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def environment() -> dict[str, str]:
    """Return the environment of a measured process: one core, and modules that are compiled once."""
    own = {**os.environ, "POLARS_MAX_THREADS": "1", "PYTHONPATH": str(ROOT)}
    own.pop("PYTHONDONTWRITEBYTECODE", None)
    return own


@dataclass(frozen=True)
class Usage:
    """The usage of a command, from its start to its end."""

    clock_s: float
    cpu_s: float
    peak_mb: float
    exit_code: int


def used(
    command: Sequence[str], folder: Path, variables: Mapping[str, str], output: IO[bytes] | int
) -> Usage:
    """Run a command in a folder, and return its usage."""
    began_s = time.monotonic()
    with subprocess.Popen(command, cwd=folder, env=variables, stdout=output) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    took_s, cpu_s = time.monotonic() - began_s, usage.ru_utime + usage.ru_stime
    return Usage(took_s, cpu_s, usage.ru_maxrss / _MAXRSS_A_MB, process.returncode)


@cache
def has(python: str, module: str) -> bool:
    """Return whether that Python has that library; if not, print so."""
    done = subprocess.run([python, "-c", f"import {module}"], capture_output=True, check=False)
    if done.returncode:
        print(
            f"{module} is not installed for {python}: its lines are left out; "
            "OTHERS=PYTHON (--others) names the Python of an environment that has it",
            file=sys.stderr,
        )
    return done.returncode == 0


def interleaved(contestants: Mapping[str, Contestant], rounds: int) -> Taken:
    """Return microseconds a row of each contestant, by measure and round. The first round is not counted."""
    with ExitStack() as stack:
        processes = {
            name: stack.enter_context(
                subprocess.Popen(
                    each.command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env=environment(),
                    text=True,
                )
            )
            for name, each in contestants.items()
        }
        taken: dict[str, dict[str, list[float]]] = {name: {} for name in contestants}
        for number in range(rounds + 1):
            for name, process in processes.items():
                for measure, seconds in _once(name, process).items():
                    if number:
                        per_row = seconds / contestants[name].rows * 1e6
                        taken[name].setdefault(measure, []).append(per_row)
        for process in processes.values():
            process.communicate()
    return taken


def _once(name: str, process: "subprocess.Popen[str]") -> dict[str, float]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    answer = process.stdout.readline()
    if not answer:
        sys.exit(f"{name} ended in the middle, with exit code {process.wait()}")
    seconds: dict[str, float] = json.loads(answer)
    return seconds


def compete(work: Callable[[], object]) -> None:
    """Do the work of a contestant for each line on stdin.

    Work that measures a part of itself returns it: a mapping of a name to seconds.
    """
    for _ in sys.stdin:
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        parts = work()
        took = {
            CLOCK: time.perf_counter() - began_s,
            CPU: time.process_time() - began_cpu_s,
            **(parts if isinstance(parts, dict) else {}),
        }
        print(json.dumps(took), flush=True)


def times_as_fast(
    what: str,
    ours: str,
    theirs: str,
    taken: Taken,
    *,
    goal: float | None = None,
    by: str = CPU,
    ours_by: str = "",
) -> Line:
    """Return the ratio of another's time to ours (and the inverse, if so), by one measure, round by round."""
    own, other = taken[ours][ours_by or by], taken[theirs][by]
    rounds = [slow / fast for fast, slow in zip(own, other, strict=True)]
    note = f"{median(own):,.1f} and {median(other):,.1f} us a row"
    return Line(what, theirs, rounds, goal=goal, note=note)
