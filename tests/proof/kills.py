"""The command killed again and again: no row has two effects, none is lost, and no payer is mistaken.

Worlds are made, each a local Canvas with files and faults of its own. In each the command is started
and killed at random moments; halfway the file names other payers and ends for many coverages. Then it
runs to its end without faults. What the local Canvas did, by its own account, is compared with the
last report. A violation names its world's seed: `play(seed, kills, folder)` plays that world again,
as far as the clock lets it.
"""

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

import orjson
import polars as pl

from pipeline.journal import history, opening
from pipeline.journal.evidence import find_contradictions
from pipeline.sandbox import Faults, Sandbox, serve
from tests.support.world import CREDENTIALS, FEEDS, World, patient_key
from tests.support.world import seed as canvas_of

PATIENTS: Final = 60
KILLS_A_WORLD: Final = 10
WORLDS_AT_ONCE: Final = 2
STEP_MAX: Final = 90
"""Effects between a start and a kill, at most."""
IN_VAIN_MAX: Final = 2
"""Runs of a world that came to their end before they were killed: then little is left to kill."""
HANGS_S: Final = 90.0
FAULTS: Final = {
    "none": Faults(),
    "lost": Faults(lose_before=0.02, lose_after=0.02),
    "flaky": Faults(error_before=0.02, error_after=0.02),
    "late": Faults(late_commit=0.02, late_commit_s=0.3),
    "expiring": Faults(token_uses=50),
    "slow": Faults(latency_s=(0.0, 0.02)),
}
QUIET_S: Final = {"late": 0.6}
"""Above the delay of late commits: below it a search that shows nothing proves nothing."""
ENDED: Final = frozenset((0, 4))
SETTLED: Final = ("created", "updated", "unchanged")
WAITING: Final = ("pending", "in_doubt")
PAYERS: Final = {"60054": "org-a", "87726": "org-u", "00430": "org-m"}
"""Payer id: the Organization that Canvas has for it, which no read of a payer id shows."""
KEYED: Final = FEEDS.replace(
    'path = "eligibility.csv"\n', 'path = "eligibility.csv"\nkey = ["patient", "member_id"]\n'
)
"""A payer is no part of the key: another one is an update."""

Row = tuple[str, str, str, str]
"""(resource type, patient, amount or member id, claim): equal payments are equal rows."""
Meant = tuple[str, str]
"""(Organization, end): what may change of a coverage."""
Place = tuple[str, int]
"""(feed, number of the row in its file)."""


@dataclass(frozen=True)
class Report:
    """The result of many kills."""

    kills: int
    terms: int
    """Those of them that were SIGTERM; the others were SIGKILL."""
    amid: int
    """Those after a world's first effect and before its last."""
    runs: int
    rows: int
    effects: int
    updates: int
    """Those of the effects that are updates of coverages."""
    in_doubt: int
    """Rows in doubt at the end."""
    violations: list[str]


@dataclass
class Story:
    """The events in one world so far."""

    name: str
    rows: dict[Place, Row]
    meant: dict[Place, Meant] = field(default_factory=dict)
    """What the coverages say by now."""
    kills: int = 0
    terms: int = 0
    runs: int = 0
    reached: list[int] = field(default_factory=list)
    """Effects at each kill."""
    effects: int = 0
    updates: int = 0
    in_doubt: int = 0
    violations: list[str] = field(default_factory=list)

    def violate(self, what: str) -> None:
        self.violations.append(f"{self.name}, kills at effects {self.reached}: {what}")


async def run(kills: int, seed: int, folder: Path) -> Report:
    """Kill this many times, in as many worlds as needed, a few side by side."""
    stories: list[Story] = []
    left = kills
    seeds = iter(range(seed * 1_000_000, (seed + 1) * 1_000_000))

    async def work() -> None:
        nonlocal left
        while left > 0:
            share = min(left, KILLS_A_WORLD)
            left -= share
            world_seed = next(seeds)
            story = await play(world_seed, share, folder / f"world-{world_seed}")
            left += share - story.kills
            stories.append(story)

    async with asyncio.TaskGroup() as workers:
        for _ in range(WORLDS_AT_ONCE):
            workers.create_task(work())
    return Report(
        kills=sum(story.kills for story in stories),
        terms=sum(story.terms for story in stories),
        amid=sum(0 < at < story.effects for story in stories for at in story.reached),
        runs=sum(story.runs for story in stories),
        rows=sum(len(story.rows) for story in stories),
        effects=sum(story.effects for story in stories),
        updates=sum(story.updates for story in stories),
        in_doubt=sum(story.in_doubt for story in stories),
        violations=[each for story in stories for each in story.violations],
    )


async def play(seed: int, kills: int, folder: Path) -> Story:
    """Play one world: kill it, let it end without faults, run once more, and check the result."""
    random = Random(seed)
    faults = random.choice(list(FAULTS))
    resend = random.choice(["none", "coverage", "all", "all"])
    organizations = [
        {"id": its, "name": f"Insurer {its}", "payer_id": payer_id}
        for payer_id, its in PAYERS.items()
    ]
    canvas = {**canvas_of(PATIENTS), "organizations": organizations}
    sandbox = Sandbox(canvas, faults=FAULTS[faults], fault_seed=seed)
    async with serve(sandbox) as url:
        world = World(folder, sandbox, url)
        name = f"seed {seed} (faults {faults}, resend_absent {resend})"
        story = Story(name, write_files(world, random))
        world.write_config(
            rate_per_s=400.0, quiet_s=QUIET_S.get(faults, 0.3), concurrency=8, resend_absent=resend,
            feeds=KEYED,
        )  # fmt: skip
        insure(world, story, random)
        await kill_again_and_again(world, story, kills // 2, random)
        insure(world, story, random)
        await kill_again_and_again(world, story, kills, random)
        await asyncio.sleep(0.1)  # what a killed run sent may still be under way
        sandbox.set_faults(Faults())
        sandbox.settle()
        await end(world, story)
        check(world, story)
    return story


def write_files(world: World, random: Random) -> dict[Place, Row]:
    """Write two coverages and several payments a patient, of which some are equal, and some copays."""
    world.folder.mkdir(parents=True)
    coverages: list[tuple[str, str]] = []
    payments: list[tuple[str, str, str]] = []
    for number in range(PATIENTS):
        patient = patient_key(number)
        for order in ("1", "2"):
            member = f"M{number}-{order}"
            coverages.append((patient, member))
        mine: list[tuple[str, str, str]] = []
        for _ in range(random.randint(4, 8)):
            claim = f"f0dfefbe-3fe0-4ee7-bd44-{number:012x}" if random.random() < 0.2 else ""
            new = (patient, f"{random.randint(1, 99)}.{random.randint(0, 99):02}", claim)
            mine.append(random.choice(mine) if mine and random.random() < 0.4 else new)
        payments += mine
    random.shuffle(coverages)
    random.shuffle(payments)
    world.write_ledger([(f"T{at:05}", *payment) for at, payment in enumerate(payments)])
    rows: dict[Place, Row] = {}
    for at, (patient, member) in enumerate(coverages, 1):
        rows["eligibility", at] = ("Coverage", patient, member, "")
    for at, payment in enumerate(payments, 1):
        rows["ledger", at] = ("PaymentNotice", *payment)
    return rows


def insure(world: World, story: Story, random: Random) -> None:
    """Write the coverages: at first with any payer, then many with another payer or end."""
    coverages: list[tuple[str, ...]] = []
    for place, (resource_type, patient, member, _) in story.rows.items():
        if resource_type != "Coverage":
            continue
        payer_id = random.choice(list(PAYERS))
        meant = (PAYERS[payer_id], random.choice(("", "2026-12-31")))
        if place in story.meant and random.random() < 0.5:
            meant = story.meant[place]
            payer_id = next(each for each, its in PAYERS.items() if its == meant[0])
        story.meant[place] = meant
        order = member.rpartition("-")[2]
        coverages.append((patient, member, "self", payer_id, order, "2026-01-01", meant[1]))
    world.write_eligibility(coverages)


# Killing ------------------------------------------------------------------------------------------


async def kill_again_and_again(world: World, story: Story, kills: int, random: Random) -> None:
    """Start and kill until it was killed often enough, or there is nothing left to kill."""
    in_vain = 0
    while story.kills < kills and in_vain < IN_VAIN_MAX:
        number = random.choice([signal.SIGKILL] * 3 + [signal.SIGTERM])
        code = await started(world, story, number, moment(world, random))
        is_killed = code == -signal.SIGKILL or (
            # before there is a handler, while Python starts, SIGTERM ends it as it ends anything
            number == signal.SIGTERM and code in {130, -signal.SIGTERM}
        )
        if is_killed:
            story.kills += 1
            story.terms += number == signal.SIGTERM
            story.reached.append(done(world))
        else:
            in_vain += 1


def moment(world: World, random: Random) -> Callable[[], bool]:
    """Return a function that tells whether the moment has come: a time from now, or a number of further effects or requests."""
    loop = asyncio.get_running_loop()
    kind = random.choice(["time", "effects", "effects", "requests"])
    if kind == "time":
        due_s = loop.time() + random.choice([0.1, 1.0, 2.5]) * random.random()
        return lambda: loop.time() >= due_s
    account = world.sandbox.store.account
    if kind == "effects":
        effects = done(world) + random.randint(1, STEP_MAX)
        return lambda: done(world) >= effects
    requests = account.requests_total + random.randint(1, 40)
    return lambda: account.requests_total >= requests


async def started(
    world: World,
    story: Story,
    number: signal.Signals | None = None,
    is_due: Callable[[], bool] = lambda: False,
) -> int:
    """Run the command, signal it once the moment has come, and return its exit code."""
    story.runs += 1
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pipeline", "run", str(world.config), "--no-progress",
        env={**os.environ, **CREDENTIALS},
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    told = asyncio.ensure_future(process.communicate())
    try:
        async with asyncio.timeout(HANGS_S):
            while process.returncode is None and not is_due():
                await asyncio.sleep(0.002)
            if number is not None and process.returncode is None:
                process.send_signal(number)
            _, stderr = await told
    except TimeoutError:
        story.violate(f"run {story.runs} did not end within {HANGS_S:.0f} s")
        process.kill()
        return await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    code = await process.wait()
    expected = {
        signal.SIGKILL: ENDED | {-signal.SIGKILL},
        signal.SIGTERM: ENDED | {-signal.SIGTERM, 130},
    }
    if code not in (ENDED if number is None else expected[number]):
        told_last = " ".join(stderr.decode().split())[-400:]
        story.violate(f"run {story.runs} ended with {code}: {told_last}")
    return code


async def end(world: World, story: Story) -> None:
    """Run to the end, then once more: the second run sends only what was left over."""
    code = await started(world, story)
    if code not in ENDED:
        return
    left = lines(world).filter(pl.col("disposition") == "pending").height
    before = posts(world)
    await started(world, story)
    again = posts(world) - before
    if again and not left:
        story.violate(f"the last run sent {again} writes, and nothing was left over")


# Looking ------------------------------------------------------------------------------------------


def done(world: World) -> int:
    return len(world.sandbox.store.account.effects)


def posts(world: World) -> int:
    by: dict[str, dict[str, int]] = world.sandbox.account()["requests"]["by"]
    writes = ("POST /Coverage", "PUT /Coverage", "POST /PaymentNotice")
    return sum(sum(by.get(write, {}).values()) for write in writes)


def lines(world: World) -> pl.DataFrame:
    return pl.read_parquet(world.folder / "reports" / "latest" / "reconciliation.parquet")


def check(world: World, story: Story) -> None:
    """Compare the effects in the local Canvas with the last report."""
    story.effects = done(world)
    if not (world.folder / "reports" / "latest").exists():
        story.violate("no run left a report")
        return
    frame = lines(world)
    story.in_doubt = frame.filter(pl.col("disposition") == "in_doubt").height
    rows = story.rows
    story.updates = sum(each["interaction"] == "update" for each in world.effects)
    looks = (
        effects_amiss(world, rows),
        rows_amiss(world, frame, rows),
        payers_amiss(world, frame, story.meant),
        waiting_amiss(frame, rows),
    )
    for look in (*looks, summary_amiss(world, frame), journal_amiss(world)):
        for what in look:
            story.violate(what)


def effects_amiss(world: World, rows: dict[Place, Row]) -> Iterator[str]:
    """Check that there are never more effects than rows, and never two open writes of a patient."""
    asked = Counter(rows.values())
    created = Counter(
        row_of(effect) for effect in world.effects if effect["interaction"] == "create"
    )
    for row, count in created.items():
        if count > asked[row]:
            yield f"{count} effects of {row}, of which there are {asked[row]} rows"
    open_writes = world.sandbox.account()["open_writes_max"]
    if open_writes > 1:
        yield f"{open_writes} open writes of one patient"


def row_of(effect: dict[str, Any]) -> Row:
    told = effect["amount"] or effect["member_id"]
    return effect["resource_type"], effect["patient"], told, effect["claim"] or ""


def rows_amiss(world: World, frame: pl.DataFrame, rows: dict[Place, Row]) -> Iterator[str]:
    """Check each row: reported once, with an id of its own if it arrived, and a reason if not."""
    ends = {
        (feed, row): (disposition, resource_id)
        for feed, row, disposition, resource_id in frame.select(
            "feed", "row", "disposition", "resource_id"
        ).iter_rows()
    }
    if frame.height != len(rows) or ends.keys() != rows.keys():
        yield f"{frame.height} lines of {len(ends)} rows, and the files hold {len(rows)}"
        return
    by_id = {effect["id"]: row_of(effect) for effect in world.effects}
    owned: Counter[str] = Counter()
    doubted: Counter[Row] = Counter()
    for place, row in rows.items():
        disposition, resource_id = ends[place]
        if disposition in SETTLED:
            owned[resource_id] += 1
            if by_id.get(resource_id) != row:
                yield f"{place} is {disposition}, and its id is of {by_id.get(resource_id)}"
            elif world.sandbox.resource(row[0], resource_id) is None:
                yield f"{place} is {disposition}, and its resource is gone"
        elif disposition in WAITING and resource_id:  # an update: the resource is its own already
            owned[resource_id] += 1
            if by_id.get(resource_id) != row or row[0] != "Coverage":
                yield f"{place} is {disposition}, and its id is of {by_id.get(resource_id)}"
        elif disposition == "in_doubt":
            doubted[row] += 1
        elif disposition != "pending":
            yield f"{place} is {disposition}, and nothing is wrong with it"
    yield from (f"{count} rows have the id {each}" for each, count in owned.items() if count > 1)
    ownerless = Counter(row for each, row in by_id.items() if each not in owned)
    for row, count in ownerless.items():
        if count > doubted[row]:
            yield f"{count} effects of {row} that no row claims, and {doubted[row]} rows in doubt"


def payers_amiss(world: World, frame: pl.DataFrame, meant: dict[Place, Meant]) -> Iterator[str]:
    """Check that a coverage that a report calls settled has the insurer and the end of its row in Canvas."""
    for feed, row, disposition, resource_id in frame.select(
        "feed", "row", "disposition", "resource_id"
    ).iter_rows():
        if (feed, row) not in meant or disposition not in SETTLED:
            continue
        shown = world.sandbox.resource("Coverage", resource_id)
        if shown is None:
            continue  # `rows_amiss` says so
        payer = shown["payor"][0]["reference"].partition("/")[2]
        if (payer, shown["period"].get("end", "")) != meant[feed, row]:
            yield f"{(feed, row)} is {disposition}, and Canvas has another payer or end"


def waiting_amiss(frame: pl.DataFrame, rows: dict[Place, Row]) -> Iterator[str]:
    """Check that without faults a row waits only for a doubt of its patient."""
    ends = {
        (feed, row): end for feed, row, end in frame.select("feed", "row", "disposition").rows()
    }
    shut = {rows[place][1] for place, end in ends.items() if end == "in_doubt"}
    yield from (
        f"{place} is pending, and nothing of its patient is in doubt"
        for place, end in ends.items()
        if end == "pending" and rows[place][1] not in shut
    )


def summary_amiss(
    world: World, frame: pl.DataFrame, codes: Collection[int] = ENDED
) -> Iterator[str]:
    """Check that the summary balances, and agrees with the lines."""
    summary = orjson.loads((world.folder / "reports" / "latest" / "summary.json").read_bytes())
    if not summary["balanced"] or summary["exit_code"] not in codes:
        yield f"balanced is {summary['balanced']}, exit_code {summary['exit_code']}"
    for feed in summary["feeds"]:
        told = {word: count for word, count in feed["dispositions"].items() if count}
        found = Counter(frame.filter(pl.col("feed") == feed["name"])["disposition"].to_list())
        if told != dict(found) or found.total() != feed["rows_read"]:
            yield f"{feed['name']}: the summary has {told}, the lines have {dict(found)}"


def journal_amiss(world: World) -> Iterator[str]:
    """Yield an error if the audit log, or the table of writes, was damaged by what was killed."""
    with opening.open_journal(world.folder / "state", world.url) as journal:
        broken, found = history.first_break(journal), find_contradictions(journal).count
    if found:
        yield f"the table of writes contradicts the audit log about {found}"
    if broken:
        yield f"the trail breaks at line {broken}"
