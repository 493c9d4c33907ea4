"""Run the proof at any length.

`simulate -n 20000` runs schedules, crash points, power losses and kills, and prints violations and the
shares of rows confirmed, in doubt and pending; `replay SEED` prints what happens in one schedule.
`nights -n 500` plays nights of real files with changed keys, deliveries and rows. `input -n 1000000`
reads hostile rows, and files in proportion; `parquet -n 2000` corrupted Parquet files; `workbooks -n 2000` workbooks; `enrollments -n 10000` X12 834
files; `cluster --kills
100` strikes runs over a cluster. Each ends with 1 if anything was violated.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import orjson

from pipeline.journal.audit_log import Line
from tests.proof import cluster, enrollments, kills, nights, parquet, places, powerloss
from tests.proof import input as hostile
from tests.proof.canvas import Effect
from tests.proof.simulation import Schedule, outcome, over, quiet, swept
from tests.support import postgres

# The numbers of schedules for one kill, one power loss, and one schedule struck at each of its crash points.
_SCHEDULES_A_KILL: Final = 1_000
_SCHEDULES_AN_IMAGE: Final = 20
_SCHEDULES_A_SWEEP: Final = 2_000
_IMAGES_AT_ONCE: Final = 250
_FILES_A_CHILD: Final = 50  # a child takes about half a second to start
_SHOWN_MAX: Final = 20


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.proof", description=__doc__)
    commands = parser.add_subparsers(required=True)
    simulate = commands.add_parser("simulate", help="run many schedules, kills and power losses")
    simulate.add_argument("-n", type=int, default=20_000, help="schedules")
    simulate.add_argument("--seed", type=int, default=0, help="the first one")
    simulate.add_argument(
        "--postgresql", action="store_true", help="schedules and crash points only, on a server"
    )
    simulate.set_defaults(work=lambda asked: _simulate(asked.n, asked.seed, asked.postgresql))
    replay = commands.add_parser("replay", help="run one schedule again and tell what happened")
    replay.add_argument("seed", type=int)
    replay.add_argument("--crash-at", type=int, nargs="*", help="steps; else as the seed says")
    replay.add_argument("--postgresql", action="store_true", help="with the journal on a server")
    replay.set_defaults(work=lambda asked: _replay(asked.seed, asked.crash_at, asked.postgresql))
    rows = commands.add_parser("input", help="hostile rows and text files, judged by a slow reader")
    rows.add_argument("-n", type=int, default=100_000, help="rows; with --only, cases")
    rows.add_argument("--seed", type=int, default=0, help="the first one")
    rows.add_argument("--only", choices=list(hostile.PLAYS), help="one class, one case a seed")
    rows.add_argument("--workers", type=int, default=0, help="processes; 0: as many as processors")
    rows.set_defaults(work=lambda asked: _input(asked.n, asked.seed, asked.only, asked.workers))
    struck = commands.add_parser("cluster", help="runs over a cluster, struck again and again")
    struck.add_argument("--kills", type=int, default=100, help="of workers; the rest in proportion")
    struck.add_argument("--seed", type=int, default=0, help="the first one")
    struck.add_argument(
        "--only", nargs="*", choices=list(cluster.STRIKES), help="kinds; else all, in proportion"
    )
    struck.set_defaults(work=lambda asked: _cluster(asked.kills, asked.seed, asked.only))
    several = commands.add_parser(
        "nights", help="nights of real files with changed keys, feeds, deliveries and rows"
    )
    several.add_argument("-n", type=int, default=200, help="scenarios")
    several.add_argument("--seed", type=int, default=0, help="the first one")
    several.set_defaults(work=lambda asked: _nights(asked.n, asked.seed))
    tables = commands.add_parser(
        "parquet", help="corrupted Parquet files, read as a run reads them"
    )
    tables.add_argument("-n", type=int, default=2_000, help="files")
    tables.add_argument("--seed", type=int, default=0, help="the first one")
    tables.set_defaults(work=lambda asked: _parquet(asked.n, asked.seed))
    books = commands.add_parser(
        "workbooks", help="random and corrupted workbooks, read as a run reads them (make checks)"
    )
    books.add_argument("-n", type=int, default=2_000, help="files")
    books.add_argument("--seed", type=int, default=0, help="the first one")
    books.set_defaults(work=lambda asked: _workbooks(asked.n, asked.seed))
    members = commands.add_parser(
        "enrollments", help="damaged X12 834 files, read as a run reads them"
    )
    members.add_argument("-n", type=int, default=10_000, help="files")
    members.add_argument("--seed", type=int, default=0, help="the first one")
    members.set_defaults(work=lambda asked: _enrollments(asked.n, asked.seed))
    asked = parser.parse_args()
    return int(asked.work(asked))


def _simulate(count: int, seed: int, is_on_server: bool) -> int:
    with _served(is_on_server) as server:
        violations = _schedules(count, seed, server)
        violations += _sweeps(max(count // _SCHEDULES_A_SWEEP, 1), seed, server)
    if not is_on_server:
        violations += _power_losses(max(count // _SCHEDULES_AN_IMAGE, _IMAGES_AT_ONCE), seed)
        violations += _kills(max(count // _SCHEDULES_A_KILL, 10), seed)
    for violation in violations[:_SHOWN_MAX]:
        print(f"  {violation}")
    print(f"violations in all: {len(violations)}")
    return 1 if violations else 0


@contextmanager
def _served(is_on_server: bool) -> Iterator[str]:
    """Yield the address of a PostgreSQL for the journals; "" for journals in files."""
    if not is_on_server:
        yield ""
        return
    if why := postgres.missing():
        sys.exit(why)
    with places.server() as started:
        yield started.url()


def _schedules(count: int, seed: int, server: str) -> list[str]:
    began_s = time.monotonic()
    states: Counter[str] = Counter()
    updates: Counter[str] = Counter()
    payers: Counter[str] = Counter()
    violations: list[str] = []
    crashes = mistaken = effects = orphans = 0
    for each in over(partial(outcome, server=server), range(seed, seed + count)):
        states += each.states
        updates += each.updates
        payers += each.payers
        crashes += each.crashes
        mistaken += each.mistaken
        effects += each.effects
        orphans += each.orphans
        violations += each.violations
    _tell("schedules", count, began_s, violations)
    rows = states.total()
    print(f"  {crashes:,} crashes, {rows:,} rows, {effects:,} effects; {_shares(states)}")
    print(f"  {updates.total():,} of them updates; {_shares(updates)}")
    print(f"  payers: {', '.join(f'{name} {payers[name]:,}' for name in sorted(payers))}")
    print(
        f"  {mistaken:,} rows confirmed by an equal payment made by hand while they were being sent"
    )
    if server:
        print(f"  {orphans:,} payments left in flight by processes that may still be alive")
    return violations


def _shares(counts: Counter[str]) -> str:
    total = counts.total()
    return ", ".join(f"{name} {counts[name] / total:.2%}" for name in sorted(counts))


def _sweeps(count: int, seed: int, server: str) -> list[str]:
    began_s = time.monotonic()
    points, violations = 0, []
    for found, wrong in over(partial(swept, server=server), range(seed, seed + count)):
        points += found
        violations += wrong
    _tell(
        f"crash points of {count:,} schedules, each with another in the recovery",
        points,
        began_s,
        violations,
    )
    return violations


def _power_losses(count: int, seed: int) -> list[str]:
    began_s = time.monotonic()
    rounds = -(-count // _IMAGES_AT_ONCE)
    work = partial(powerloss.run, _IMAGES_AT_ONCE)
    violations = [
        line for report in over(work, range(seed, seed + rounds)) for line in report.violations
    ]
    _tell("power-loss images of the journal", rounds * _IMAGES_AT_ONCE, began_s, violations)
    return violations


def _kills(count: int, seed: int) -> list[str]:
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = asyncio.run(kills.run(count, seed, Path(folder)))
    _tell("kills of the command", report.kills, began_s, report.violations)
    print(
        f"  {report.terms} of them SIGTERM, {report.amid} amid the sending; {report.rows:,} rows, "
        f"{report.effects:,} effects ({report.updates:,} updates), {report.in_doubt:,} in doubt at the end ({report.in_doubt / report.rows:.2%})"
    )
    return report.violations


def _input(count: int, seed: int, only: str | None, workers: int) -> int:
    """Print a table of the cases, a line a class."""
    began_s = time.monotonic()
    cases = {only: count} if only else hostile.cases_of(count)
    tallies = hostile.play_all(cases, seed, workers)
    violations = [each for tally in tallies.values() for each in tally.violations]
    print(f"{'class':<10} {'cases':>10} {'rows':>12} {'refused':>12} {'found':>6}")
    for name, tally in tallies.items():
        print(
            f"{name:<10} {tally.cases:>10,} {tally.rows:>12,} {tally.refused:>12,} {len(tally.violations):>6}"
        )
    print(
        "refused: rows of the class rows, files of the others; each is judged, and refused rightly"
    )
    for violation in violations[:_SHOWN_MAX]:
        print(f"  {violation}")
    files = sum(tally.cases for name, tally in tallies.items() if name != "rows")
    judged = tallies["rows"].rows if "rows" in tallies else 0
    _tell(
        f"hostile input: {judged:,} rows and {files:,} files", judged + files, began_s, violations
    )
    return 1 if violations else 0


def _cluster(count: int, seed: int, only: list[str] | None) -> int:
    if why := postgres.missing():
        print(f"no database can be started here: {why}")
        return 1
    began_s = time.monotonic()
    strikes = Counter(
        {
            kind: -(-count * each // cluster.STRIKES["kill"])
            for kind, each in cluster.STRIKES.items()
        }
    )
    if only:
        strikes = Counter({kind: strikes[kind] for kind in only})
    with tempfile.TemporaryDirectory() as folder:
        told = asyncio.run(cluster.run(strikes, seed, Path(folder), _tell_world))
    for violation in told.violations[:_SHOWN_MAX]:
        print(f"  {violation}")
    _tell("strikes at runs over a cluster", told.strikes.total(), began_s, told.violations)
    for name, number in [*told.strikes.most_common(), *told.kinds.most_common()]:
        print(f"  {number:>5,} {name}")
    print(
        f"  {told.runs} runs, {told.failed} of them reported that they had lost the database or their lease; {told.lease_records} lease records\n"
        f"  {told.row_count:,} rows, {told.writes:,} writes, {told.effects:,} effects, {told.in_doubt:,} in doubt at the end "
        f"({told.in_doubt / max(told.row_count, 1):.2%}), {told.pending:,} behind them\n"
        f"  {told.fullest_s} grants in the fullest second, {cluster.RATE_PER_S:.0f} allowed"
    )
    return 1 if told.violations else 0


def _tell_world(story: cluster.Story) -> None:
    print(
        f"{story.name}: {dict(story.strikes)}, {story.runs} runs, {story.effects:,} effects, "
        f"{story.in_doubt} in doubt, violations {len(story.violations)}",
        *story.violations,
        sep="\n    ",
        flush=True,
    )


def _nights(count: int, seed: int) -> int:
    began_s = time.monotonic()
    stories = list(over(nights.played, range(seed, seed + count)))
    violations = [each for story in stories for each in story.violations]
    for violation in violations[:_SHOWN_MAX]:
        print(f"  {violation}")
    print(
        f"  {sum(len(each.nights) for each in stories):,} nights, {sum(each.runs for each in stories):,} runs, "
        f"{sum(each.refusals for each in stories):,} refused, {sum(each.payments for each in stories):,} payments, "
        f"{sum(each.effects for each in stories):,} posted; {sum(each.ended for each in stories):,} nights of members "
        f"who had left, {sum(each.reopened for each in stories):,} who were back"
    )
    _tell("scenarios of several nights", count, began_s, violations)
    return 1 if violations else 0


def _parquet(count: int, seed: int) -> int:
    began_s = time.monotonic()
    report = parquet.Report()
    with hostile.scratch() as folder:
        for each in range(seed, seed + count):
            parquet.play(each, Path(folder), report)
    for name, number in report.ends.most_common():
        print(f"  {number:>7,} {name}")
    for violation in report.violations[:_SHOWN_MAX]:
        print(f"  {violation}")
    _tell("corrupted Parquet files", count, began_s, report.violations)
    return 1 if report.violations else 0


def _workbooks(count: int, seed: int) -> int:
    from tests.proof import workbooks  # noqa: PLC0415 - openpyxl is installed by `make checks`

    began_s = time.monotonic()
    report = workbooks.Report()
    with hostile.scratch() as folder:
        for each in range(seed, seed + count):
            workbooks.play_damage(each, Path(folder), report)
            workbooks.play_table(each, Path(folder), report)
    for name, number in report.ends.most_common():
        print(f"  {number:>7,} {name}")
    for violation in report.violations[:_SHOWN_MAX]:
        print(f"  {violation}")
    _tell("random and corrupted workbooks", 2 * count, began_s, report.violations)
    return 1 if report.violations else 0


def _enrollments(count: int, seed: int) -> int:
    began_s = time.monotonic()
    report = enrollments.Report()
    with hostile.scratch() as folder:
        for each in range(seed, seed + count):
            enrollments.play(each, Path(folder), report, is_in_child=each % _FILES_A_CHILD == 0)
    for name, number in report.ends.most_common():
        print(f"  {number:>7,} {name}")
    for violation in report.violations[:_SHOWN_MAX]:
        print(f"  {violation}")
    _tell("damaged X12 834 files", count, began_s, report.violations)
    return 1 if report.violations else 0


def _tell(what: str, count: int, began_s: float, violations: list[str]) -> None:
    took_s = time.monotonic() - began_s
    print(f"{what}: {count:,} in {took_s:,.0f} s, violations {len(violations)}", flush=True)


def _replay(seed: int, crash_at: list[int] | None, is_on_server: bool) -> int:
    quiet()
    with _served(is_on_server) as server:
        return _replayed(Schedule(seed, crash_at, server=server))


def _replayed(schedule: Schedule) -> int:
    schedule.trace = schedule.canvas.trace = print
    schedule.tell = _told
    print(schedule.climate, schedule.options, sep="\n")
    for row in schedule.rows:
        print(f"{row.key}: {row.resource_type} of {row.lane}, cents {row.cents}")
    found = schedule.run()
    print(found)
    return 1 if found.violations else 0


def _told(lines: list[Line], effects: list[Effect]) -> None:
    for line in lines:
        print(
            line.number,
            line.at[11:],
            line.run_id,
            line.event,
            line.key,
            line.http_status or "",
            line.verdict,
            line.detail,
        )
    for effect in effects:
        made = orjson.dumps(effect.content.get("created")).decode()
        print(
            f"{effect.resource_id} of {effect.mark or 'somebody else'} at {effect.made_s:.3f} s, created {made}"
        )


if __name__ == "__main__":
    sys.exit(main())
