"""Schedules: the real sender, recovery and journal against a simulated Canvas, killed again and again.

Two nights: the second one updates what the first one created if the file says something else by then,
and people edit coverages by day and now and then by night. A patient may have one member id with two
insurers, both in the files or one entered by hand; payers are sent by id or as an Organization, change
between the nights, and are edited. What is true is decided by the world (`coverages.py`, `canvas.py`),
never by what the product compares with.

A seed decides everything: the rows, the settings, what goes wrong, and where the process is killed.
`python -m tests.proof replay SEED` runs one again and prints what happened.
"""

import logging
import multiprocessing
import os
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from decimal import Decimal
from functools import partial
from itertools import pairwise
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import orjson
import polars as pl

from pipeline.canvas import client as canvas
from pipeline.canvas.auth import Credentials
from pipeline.errors import IngestError
from pipeline.fhir.codes import Contract
from pipeline.fhir.coverage import coverage, match_key, payor_of
from pipeline.fhir.datatypes import fingerprint
from pipeline.fhir.payment_notice import payment_notice
from pipeline.job import UploadSettings
from pipeline.journal import doubts, history, lookups, opening, runs, writes
from pipeline.journal.evidence import find_contradictions
from pipeline.journal.journal import Journal
from pipeline.journal.runs import Run
from pipeline.planning.earlier import EarlierPlans
from pipeline.records import Disposition, Doubt, Intent, Interaction, State
from pipeline.sending.recover import Recovery
from pipeline.sending.session import Session
from tests.proof.canvas import (
    BASE,
    FATES,
    MOVED,
    OURS,
    PERSON,
    SEARCH_FATES,
    Climate,
    Effect,
    SimulatedCanvas,
    of_another,
)
from tests.proof.coverages import NAMES, ORGANIZATIONS, differing, identity
from tests.proof.places import SCRATCH, InDatabase, InFile, Place
from tests.proof.virtual import CrashedError, Inline, LoopClock, VirtualLoop

if TYPE_CHECKING:
    from pipeline.journal.audit_log import Line
    from pipeline.journal.store import Store

T = TypeVar("T")

QUIET_S: Final = 5.0
GATEWAYS: Final = 0.15  # schedules behind a gateway whose clock, in Date, is not that of the stamps
LIVES_MAX: Final = 6
COUNTED_EACH: Final = (
    8  # crash points: the steps of the life after a crash change slowly from one to the next
)
SECOND_LIVES_MAX: Final = 4  # of the second night
_LEARNED: Final = (
    "SELECT payer_id FROM payer_seen GROUP BY payer_id HAVING count(DISTINCT organization) = 1"
)


@dataclass(frozen=True, slots=True)
class Row:
    """One source row, as far as the simulation needs it."""

    key: str
    mark: str
    resource_type: str
    lane: str
    cents: int | None
    body: bytes
    match_key: str
    fingerprint: str

    def intent(self, run_id: str, resource_id: str = "") -> Intent:
        return Intent(
            self.key,
            "feed",
            self.resource_type,
            Interaction.UPDATE if resource_id else Interaction.CREATE,
            self.lane,
            self.body,
            self.fingerprint,
            self.cents,
            "",
            self.match_key,
            run_id,
            resource_id,
        )


@dataclass(slots=True)
class Outcome:
    """The result of one schedule."""

    seed: int
    violations: list[str] = field(default_factory=list)
    crashes: int = 0
    losses: int = 0  # of the journal
    orphans: int = 0  # payments left in flight by a process that may still be alive
    steps: list[int] = field(default_factory=list)  # of each life
    states: Counter[str] = field(default_factory=Counter)
    updates: Counter[str] = field(default_factory=Counter)  # how rows that changed ended
    payers: Counter[str] = field(
        default_factory=Counter
    )  # what the world brought about with payers
    second: int = 0  # the number of the second night's first life
    mistaken: int = 0  # confirmed by an equal payment that somebody made by hand at that moment
    effects: int = 0
    is_skewed: bool = False  # behind a gateway whose Date is of another clock


# Drawing a schedule -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Source:
    """The constant properties of a row on every night."""

    number: int
    lane: str
    cents: int | None  # None: a coverage

    @property
    def key(self) -> str:
        return f"k{self.number}"


@dataclass(frozen=True, slots=True)
class Insurance:
    """The payer of a coverage on one night, as its row names it."""

    member_id: str
    organization: str
    payer_id: str  # "": the Organization is named
    name: str | None  # sent as the payor's display


def rows_of(random: Random) -> list[Source]:
    """Return two to eight rows of one to three patients; equal payments of one patient among them."""
    patients = [f"p{number}" for number in range(random.randint(1, 3))]
    rows = []
    for number in range(random.randint(2, 8)):
        lane = random.choice(patients)
        is_coverage = random.random() < 0.4
        rows.append(Source(number, lane, None if is_coverage else random.choice((500, 500, 57))))
    return rows


def _payment(source: Source) -> Row:
    cents = source.cents or 0
    day = date(2026, 1, 1) + timedelta(days=source.number)
    body = payment_notice(
        patient=source.lane, amount=Decimal(cents) / 100, created_on=day, claim=None
    )
    sent = orjson.dumps(body)
    return Row(
        source.key,
        day.isoformat(),
        "PaymentNotice",
        source.lane,
        cents,
        sent,
        "",
        fingerprint(sent),
    )


def _coverage(source: Source, insured: Insurance, order: int, ends_on: date | None) -> Row:
    body = coverage(
        Contract.OF_2025_10,
        status="active",
        beneficiary=source.lane,
        subscriber=source.lane,
        member_id=insured.member_id,
        subscriber_id=None,
        relationship="self",
        payor=payor_of(
            by_payer_id=bool(insured.payer_id),
            value=insured.payer_id or insured.organization,
            display=insured.name,
        ),
        order=order,
        type_code=None,
        start_on=None,
        end_on=ends_on,
        classes={},
    )
    body["relationship"]["text"] = source.key  # the mark: Canvas shows a text of its own
    sent = orjson.dumps(body)
    return Row(
        source.key,
        source.key,
        "Coverage",
        source.lane,
        None,
        sent,
        match_key(body),
        fingerprint(sent),
    )


def nights_of(people: Random, insurers: Random, rows: list[Source]) -> tuple[list[Row], list[Row]]:
    """Return the files of both nights: coverages have other orders, ends and payers in the second."""
    lanes = sorted({row.lane for row in rows})
    orders = {lane: [*range(1, 9)] for lane in lanes}
    is_swapped = people.random() < 0.4
    insured = insured_of(insurers, [row for row in rows if row.cents is None])
    nights = []
    for night in (1, 2):
        if night == 2 and is_swapped:
            for lane in lanes:
                people.shuffle(orders[lane])
        turn = {lane: iter(order) for lane, order in orders.items()}
        said = []
        for row in rows:
            if row.cents is not None:
                said.append(_payment(row))
                continue
            ends_on = date(2026, 12, 31) if night == 2 and people.random() < 0.5 else None
            said.append(
                _coverage(
                    row, insured[row.number][night - 1], min(next(turn[row.lane]), 5), ends_on
                )
            )
        nights.append(said)
    return nights[0], nights[1]


def insured_of(random: Random, coverages: list[Source]) -> dict[int, list[Insurance]]:
    """Return the insurance of each coverage on both nights, by number.

    Coverages of one patient may share a member id; those have different insurers on each night.
    """
    share_by_id, share_moved = random.choice((0.0, 0.5, 1.0)), random.choice((0.0, 0.5, 1.0))
    has_names, is_shared = random.random() < 0.5, random.random() < 0.4
    insured: dict[int, list[Insurance]] = {each.number: [] for each in coverages}
    groups: dict[str, list[int]] = {}  # member id -> coverages
    for each in coverages:
        shared = f"m-{each.lane}"
        has_room = len(groups.get(shared, ())) < len(NAMES)
        member = shared if is_shared and has_room else f"m{each.number}"
        groups.setdefault(member, []).append(each.number)
    for member, numbers in groups.items():
        before = random.sample(list(NAMES), len(numbers))
        is_moved = random.random() < share_moved
        after = random.sample(list(NAMES), len(numbers)) if is_moved else before
        for number, *nights in zip(numbers, before, after, strict=True):
            for night, organization in enumerate(nights):
                if night == 1 and not is_moved:
                    insured[number].append(insured[number][0])
                    continue
                by_id = random.random() < share_by_id
                ids = [each for each, its in ORGANIZATIONS.items() if its == organization]
                name = random.choice((NAMES[organization],) * 4 + ("Plan",))
                insured[number].append(
                    Insurance(
                        member,
                        organization,
                        random.choice(ids) if by_id else "",
                        name if has_names else None,
                    )
                )
    return insured


def climate_of(random: Random) -> tuple[Climate, bool]:
    """Return the faults; and whether lost writes and stale searches keep to the settling delay."""
    climate = Climate(has_date=random.random() > 0.1, skew_s=random.choice((0, 0, 0.7, -90, 7200)))
    for fate in random.sample(FATES, random.randint(1, 5)):
        climate.fates[fate] = random.choice((0.03, 0.1, 0.3))
    for fate in random.sample(SEARCH_FATES, random.randint(0, 3)):
        climate.searches[fate] = random.choice((0.05, 0.2))
    climate.late_s, climate.stale_s = QUIET_S * 0.45, QUIET_S * 0.45
    if random.random() < 0.15:
        climate.rate_foreign = 0.03
    climate.skew_jumps = random.random() < 0.05
    is_bounded = random.random() < 0.75
    if not is_bounded:
        climate.late_s, climate.stale_s = QUIET_S * 8, QUIET_S * 3
    return climate, is_bounded


def options_of(random: Random) -> UploadSettings:
    return UploadSettings(
        concurrency=random.choice((1, 2, 4)),
        rate_per_s=random.choice((20.0, 200.0, 2000.0)),
        attempts_max=random.choice((1, 3)),
        doubts_max=random.choice((1, 3)),
        quiet_s=QUIET_S,
        resend_absent=random.choice(("none", "coverage", "all")),
    )


# Carrying it out ----------------------------------------------------------------------------------


class Schedule:
    """One seed's world, life after life.

    `crash_at` names the steps of the lives at which they are killed; None: drawn from the seed.
    """

    def __init__(
        self, seed: int, crash_at: Sequence[int] | None = None, *, server: str = ""
    ) -> None:
        self.random = Random(seed)
        self._server = server
        self.people = Random(f"{seed} people")  # drawn apart: the first night is what it was
        insurers = Random(f"{seed} insurers")
        self.rows, self.later = nights_of(self.people, insurers, rows_of(self.random))
        self._said = {(row.key, row.fingerprint): row for row in (*self.rows, *self.later)}
        self.climate, self.is_bounded = climate_of(self.random)
        self.options = options_of(self.random)
        self.climate.bumps = self.people.choice(("none", "next", "all"))
        self.climate.update_bumps = self.people.random() < 0.5
        self.climate.has_fractions = self.people.random() < 0.3
        self.climate.shows_names = insurers.random() < 0.6
        self.climate.rate_insurers = insurers.choice((0.0, 0.0, 0.02))
        gateway = Random(f"{seed} answers")
        if gateway.random() < GATEWAYS:
            self.climate.date_skew_s = gateway.choice((-3600.0, -5.0, 5.0, 3600.0))
        self.canvas = SimulatedCanvas(self.random, self.people, self.climate, self.step)
        self._say(self.rows)
        if not (self.climate.has_date and self.is_bounded):
            self.canvas.unguarded_s = 0.0
        self.outcome = Outcome(seed, is_skewed=self.climate.date_skew_s != 0)
        self.now_s = 0.0
        self.trace: Callable[[str], None] = lambda _: None
        self.tell: Callable[[list[Line], list[Effect]], None] = lambda *_: None
        self._crash_at = crash_at
        self._step = 0
        self._crash_step: int | None = None
        self._run = 0
        self._is_fair = False
        # A clock that was set by less than a minute passes for one that goes wrong.
        self._jumps_s = 60.0 if self.climate.skew_jumps else 0.0
        self._spans: dict[str, tuple[float, float]] = {}  # run id -> from when to when it lived
        self._claimed_in: dict[str, list[str]] = {}  # key -> run ids
        self._found: set[str] = set()  # keys whose answer was lost, and a search showed them
        self._plans: dict[tuple[str, str, str], bytes] = {}  # run, key, fingerprint -> body
        self._are_plans_gone = self.people.random() < 0.1  # those of the first night
        self._known: set[str] = set()  # the ids that the journal held when the last life ended
        self._is_second = False
        for _ in range(self.random.choice((0, 0, 1, 2))):  # entered by hand, long before or just so
            row = self.random.choice(self.rows)
            made_s = -self.random.choice((0.5, 30.0, 5000.0))
            body = orjson.loads(row.body)
            if row.resource_type == "Coverage" and insurers.random() < 0.5:
                body = of_another(body, insurers)
            effect = self.canvas._commit(made_s, row.resource_type, body)
            effect.mark = ""
            effect.versions[0] = replace(effect.versions[0], author=PERSON, payer_id="")

    def _say(self, rows: Sequence[Row]) -> None:
        """Give the world the content of a night's files."""
        for row in rows:
            if row.resource_type == "Coverage":
                self.canvas.said.setdefault(row.mark, []).append(orjson.loads(row.body))

    def step(self, what: str) -> None:
        """Note that something has just happened; perhaps kill the process here."""
        self._step += 1
        if self._step == self._crash_step:
            self.trace(f"killed: {what}, step {self._step}")
            raise CrashedError

    def run(self) -> Outcome:
        """Run all lives; the last two of them without faults. Returns the findings."""
        with tempfile.TemporaryDirectory(dir=SCRATCH, prefix="simulation-") as name:
            self.folder = Path(name)
            self.place = self._placed()
            self.place.renew()
            for life in range(LIVES_MAX):
                if not self._life(self._crash_of(life)):
                    break
            if any(row.resource_type == "Coverage" for row in self.rows):
                self._second_night()
            self._heal()
            self._life(None)
            if self._is_second:
                self._life(None)  # an update may take two: 412, and what was read
            wrote = self._written
            self._life(None)
            self._check(wrote)
        return self.outcome

    def _placed(self) -> Place:
        """Return the place of its journal. For every other seed it is not known whether the killed process is gone."""
        if not self._server:
            return InFile(self.folder)
        seed = self.outcome.seed
        return InDatabase(self.folder, self._server, Random(f"{seed} cuts"), is_elsewhere(seed))

    @property
    def _written(self) -> int:
        """Return how often Canvas was sent a create, or applied an update."""
        return self.canvas.posts + sum(
            version.author == OURS for each in self.canvas.effects for version in each.versions[1:]
        )

    def _second_night(self) -> None:
        """Let a day go by: people edit, and the file has other content."""
        self.outcome.second = len(self.outcome.steps)
        began_s = self.now_s
        self.now_s += self.people.choice((2.0, 30.0, 5000.0))
        for at_s in sorted(
            self.people.uniform(began_s, self.now_s)
            for _ in range(self.people.choice((0, 1, 2, len(self.rows))))
        ):
            self.canvas.somebody_edits(at_s, self._known)
        self.rows, self._is_second = self.later, True
        self._say(self.later)
        self.climate.rate_edits = self.people.choice((0.0, 0.0, 0.02))
        first = self.outcome.second
        for life in range(first, first + SECOND_LIVES_MAX):
            if not self._life(self._crash_of(life)):
                break

    def _crash_of(self, life: int) -> int | None:
        if self._crash_at is not None:
            return (self._crash_at[life] or None) if life < len(self._crash_at) else None
        return self.random.randint(1, 120) if self.random.random() < 0.6 else None

    def _heal(self) -> None:
        """End the faults: late writes commit, and from now on nothing goes wrong."""
        self.now_s += self.climate.late_s + QUIET_S
        self.canvas.settle()
        self.climate.fates = {}
        self.climate.searches = {}
        self.climate.rate_foreign = 0.0
        self.climate.rate_edits = self.climate.rate_insurers = 0.0
        self.climate.skew_jumps = False
        self._is_fair = True

    def _life(self, crash_step: int | None) -> bool:
        """Run the program once. Returns True if it was killed."""
        self._step, self._crash_step = 0, crash_step
        self._run += 1
        self.now_s += self.random.choice((0.0, 1.0, 100.0))
        is_usual = not (self._is_fair or self._is_second)
        if self._crash_at is None and is_usual and self.random.random() < 0.03:
            self._lose()
        loop = VirtualLoop(self.now_s, self.random, self.step)
        wrong_s = self.random.choice((0.0, 0.0, 0.0, 0.0, 5.0, 3000.0, -3000.0))
        wrong_s = 0.0 if self._is_fair else wrong_s
        self.canvas.client_was_set |= abs(wrong_s) > 60
        store = self.place.open()
        journal = Journal(store, Inline(), self.folder)
        self.canvas.claimed = lambda: {
            line[0] for line in store.execute("SELECT resource_id FROM write").fetchall()
        }
        self.canvas.learned = lambda: frozenset(
            line[0] for line in store.execute(_LEARNED).fetchall()
        )
        killed = False
        try:
            loop.run(self._main(loop, LoopClock(loop, wrong_s), journal))
        except CrashedError:
            killed = True
            self.canvas.forget(self.now_s)
            self.canvas.kills_s.append(loop.time())
            self.outcome.crashes += 1
        except IngestError as error:
            self.trace(f"ended: {type(error).__name__}")
        finally:
            self._crash_step = None
            self.outcome.steps.append(self._step)
            self._spans[f"r{self._run}"] = (self.now_s, loop.time())
            self.now_s = loop.time()
            store.rollback()
            self._known = self.canvas.claimed()
            self._look(store)
            self.place.leave(store, is_killed=killed)
        return killed

    def _lose(self) -> None:
        """Lose the journal; some time later a person lets the run go on without it."""
        self.trace("the journal is lost")
        self.outcome.losses += 1
        self.now_s += 60 + self.climate.late_s + self.climate.stale_s
        self.place.renew()
        opening.enter_loss(
            self.place.open(is_steady=True), self.folder, BASE, None, "missing"
        ).close()
        self._claimed_in.clear()

    async def _main(self, loop: VirtualLoop, clock: LoopClock, journal: Journal) -> None:
        import asyncio  # noqa: PLC0415 - beside the loop it belongs to

        run_id = f"r{self._run}"
        self.trace(f"life {self._run} at {loop.time():.3f}")
        runs.start_run(journal, Run(run_id, "run", clock.now().isoformat()))
        options = canvas.Options(
            BASE,
            Credentials("https://sim/auth/token/", "id", "secret"),
            self.options.rate_per_s,
            self.options.concurrency,
        )
        transport = cast("Any", self.canvas)
        client = canvas.Client(options, transport, clock, self.random)
        recovery = Recovery(client, journal, clock, QUIET_S, run_id, self._planned_body)
        job = cast(
            "Any", SimpleNamespace(upload=self.options, canvas=replace(options, outage_s_max=60.0))
        )
        stop = asyncio.Event()
        if not self._is_fair and self.random.random() < 0.1:
            loop.call_later(self.random.uniform(0, 10), stop.set)
        plans = EarlierPlans(Path("no plan is on disk"), partial(runs.plan_sha256, journal))
        sending = Session(job, run_id, client, journal, recovery, plans, clock, self.random, stop)
        await sending.settle(
            [self._with_body(doubt) for doubt in doubts.all_doubts(journal)], _nobody
        )
        intents = self._plan(run_id, journal)
        types = {intent.resource_type for intent in intents}
        if intents and not stop.is_set():
            await sending.upload(iter([intents]), types, _nobody)
        await writes.record(journal, run_id, client.exchanges)

    def _plan(self, run_id: str, journal: Journal) -> list[Intent]:
        """Decide each row as `planning/resolve.py` does."""
        keys = pl.Series("key", [row.key for row in self.rows], dtype=pl.String)
        known = {line["key"]: line for line in lookups.known(journal, keys).to_dicts()}
        intents = []
        for row in self.rows:
            line = known.get(row.key, {"state": "PENDING", "fingerprint": "", "resource_id": ""})
            state, is_same = State(line["state"]), line["fingerprint"] == row.fingerprint
            if state in {State.PENDING, State.REFUSED} or (
                state is State.CONFIRMED and row.resource_type == "Coverage" and not is_same
            ):
                intents.append(row.intent(run_id, line["resource_id"]))
        for intent in intents:
            self._plans[run_id, intent.key, intent.fingerprint] = intent.body
        return intents

    def _planned_body(self, run_id: str, _: str, key: str, held: str) -> bytes | None:
        is_gone = self._are_plans_gone and int(run_id[1:]) <= self.outcome.second
        return None if is_gone else self._plans.get((run_id, key, held))

    def _with_body(self, doubt: Doubt) -> Doubt:
        asked = doubt.intent
        body = self._plans[asked.run_id, asked.key, asked.fingerprint]
        return replace(doubt, intent=asked._replace(body=body))

    # The invariants -------------------------------------------------------------------------------

    def _look(self, store: "Store") -> None:
        """Check after each life: a coverage that the journal holds as confirmed has the content of its row."""
        by_id = {each.resource_id: each for each in self.canvas.effects}
        for key, fingerprint_, interaction, resource_id in store.execute(
            "SELECT key, fingerprint, interaction, resource_id FROM write"
            " WHERE state = 'CONFIRMED' AND resource_type = 'Coverage'"
        ).fetchall():
            row, effect = self._said[key, fingerprint_], by_id.get(resource_id)
            if effect is None:
                self._violated(f"{key} is confirmed by a resource that is not there")
                continue
            sent = orjson.loads(row.body)
            if interaction == Interaction.UPDATE.value:
                if all(differing(sent, each.content) for each in effect.versions[effect.own :]):
                    self._violated(f"{key} is updated, and Canvas never held what it says")
            elif all(identity(sent) != identity(each.content) for each in effect.versions):
                self._violated(f"{key} is confirmed by a coverage that is another's")

    def _check(self, wrote: int) -> None:
        store = self.place.open()
        journal = Journal(store, Inline(), self.folder)
        written = lookups.writes_of(journal, pl.Series("key", [row.key for row in self.rows]))
        ends = {line["key"]: line for line in written.to_dicts()}
        self._check_trail(journal)
        store.close()
        for found in self.canvas.violations:
            self._violated(found)
        made = Counter(each.mark for each in self.canvas.effects if each.mark)
        by_id = {each.resource_id: each for each in self.canvas.effects}
        self.outcome.effects = made.total()
        for row in self.rows:
            end = ends.get(row.key)
            state = State(end["state"]) if end else State.PENDING
            self.outcome.states[state.value] += 1
            if (count := self._effects_of(row)) > self._effects_max(row):
                self._violated(f"{row.key} ({row.resource_type}) has {count} effects")
            if state is State.CONFIRMED and end is not None:
                self._check_confirmed(row, end["resource_id"], by_id)
            elif (
                made[row.mark]
                and state is not State.IN_DOUBT
                and self._effects_max(row) == 1
                and (end is None or end["interaction"] == Interaction.CREATE.value)
                and not self.outcome.losses  # then a row behind a doubt may have one from before
            ):
                self._violated(f"{row.key} has an effect and is {state.value}")
            if state is State.IN_FLIGHT:
                self._violated(f"{row.key} is left in flight")
            if end is not None and end["interaction"] == Interaction.UPDATE.value:
                self._check_update(row, state, end, by_id)
        ids = [end["resource_id"] for end in ends.values() if end["resource_id"]]
        if len(ids) != len(set(ids)):
            self._violated("a resource belongs to two rows")
        is_settled = not (self.outcome.states[State.PENDING.value] or self.canvas.was_set)
        if self._written != wrote and is_settled:
            self._violated("the last run had no news, and sent something")
        self._check_lanes(ends)
        self._count_payers()

    def _count_payers(self) -> None:
        """Count the cases that test payers, so that a world without them is noticed."""
        said = {row.mark: row for row in self.rows if row.resource_type == "Coverage"}
        for effect in self.canvas.effects:
            if effect.resource_type != "Coverage":
                continue
            self.outcome.payers["entered by hand"] += not effect.mark
            for before, after in pairwise(effect.versions):
                if "payor" not in differing(before.content, after.content):
                    continue
                self.outcome.payers["edited" if after.author == PERSON else "updated"] += 1
            if effect.mark in said and effect.versions[-1].payer_id:
                self.outcome.payers["sent by id"] += 1

    def _check_trail(self, journal: Journal) -> None:
        if history.first_break(journal):
            self._violated("the chain of the audit log is broken")
        if found := find_contradictions(journal).count:
            self._violated(f"the table of writes contradicts the audit log about {found}")
        lines = [line for line, _ in history.read_lines(journal)]
        self.tell(lines, self.canvas.effects)
        self._found = {line.key for line in lines if line.event == "found"}
        for line in lines:
            if line.event == "claim":
                self._claimed_in.setdefault(line.key, []).append(line.run_id)
        if self._server and is_elsewhere(self.outcome.seed):
            self._check_orphans(lines)

    def _check_orphans(self, lines: list["Line"]) -> None:
        """Check that a payment sent by a process that may still be alive is not sent by another one."""
        payments = {row.key for row in self.rows if row.resource_type == "PaymentNotice"}
        orphans = set[str]()
        for line in lines:
            if line.event == "crashed" and line.key in payments:
                orphans.add(line.key)
                self.outcome.orphans += 1
            elif line.event in {"absent", "claim"} and line.key in orphans:
                self._violated(f"{line.key} may yet be sent by a process, and was sent by another")

    def _effects_of(self, row: Row) -> int:
        """Return how many resources a row was made into.

        If the journal is lost before the row names another insurer, nothing connects the new coverage
        with the old one: each insurer then has its own.
        """
        made = [each for each in self.canvas.effects if each.mark == row.mark]
        if row.resource_type != "Coverage" or not self.outcome.losses:
            return len(made)
        insurers = Counter(identity(each.versions[0].content) for each in made)
        return max(insurers.values(), default=0)

    def _effects_max(self, row: Row) -> int:
        """Return 1; 2 if the user let absence be believed, and a write came later than the settling delay.

        Or if a gateway's Date and the client's own clock were both wrong by far: no other clock is known.
        """
        allowed = self.options.resend_absent
        is_resent = allowed == "all" or (allowed == "coverage" and row.resource_type == "Coverage")
        is_wrong = self.canvas.client_was_set or abs(self.climate.skew_s) > 60
        is_timeless = abs(self.climate.date_skew_s) > 60 and is_wrong
        return 2 if is_resent and (is_timeless or not self.is_bounded) else 1

    def _check_confirmed(self, row: Row, resource_id: str, by_id: dict[str, Any]) -> None:
        effect = by_id.get(resource_id)
        if effect is None:
            self._violated(f"{row.key} is confirmed by a resource that is not there")
            return
        if row.resource_type == "Coverage":
            return  # `_look` has judged it
        same = (effect.content["request"], effect.content["amount"])
        sent = orjson.loads(row.body)
        if same != (sent["request"], sent["amount"]):
            self._violated(f"{row.key} is confirmed by another payment")
        if effect.mark == row.mark:
            return
        # An equal payment of the patient, made while this one may have been under way: whose it is no
        # client can tell. Anything earlier or later than the clocks leave open is told apart.
        lives = [self._spans[run_id] for run_id in self._claimed_in.get(row.key, ())]
        if not lives:
            self._violated(f"{row.key} was never sent, and is confirmed by {resource_id}")
            return
        slack_s = 8 + self._jumps_s + abs(self.climate.date_skew_s)
        earliest_s = min(life[0] for life in lives) - slack_s
        latest_s = max(life[1] for life in lives) + 60 + 2 * QUIET_S + slack_s
        twins = [each.mark for each in self.rows if each.key != row.key]
        if effect.mark in twins or earliest_s <= effect.made_s <= latest_s:
            self.outcome.mistaken += effect.mark not in twins
            return
        self._violated(f"{row.key} is confirmed by a payment of another time")

    def _check_update(
        self, row: Row, state: State, end: dict[str, Any], by_id: dict[str, Effect]
    ) -> None:
        rule = str(end["rule"])
        is_conflict = state is State.REFUSED and rule == "conflict"
        self.outcome.updates["conflict" if is_conflict else state.value] += 1
        effect = by_id.get(end["resource_id"])
        if effect is None:
            self._violated(f"{row.key} is an update of a resource that is not there")
            return
        since = effect.versions[effect.own :]  # our last version, and what came after it
        is_edited = any(each.author == PERSON for each in since) or (
            self.canvas.was_set
            # Then when its answer was lost is not known.
            or (self.canvas.client_was_set and row.key in self._found)
            or self._are_plans_gone
            or not self.is_bounded
            or (self.climate.date_skew_s < 0 and self._is_blind(effect))
            or any(each.author == MOVED for each in since)  # by a person's coverage, or no Date
        )
        if is_conflict and not is_edited:
            self._violated(f"{row.key} is refused for an edit that nobody made")

    @staticmethod
    def _is_blind(effect: Effect) -> bool:
        """Return whether the payer of our last version cannot be compared: no create has shown its Organization."""
        return effect.versions[effect.own].payer_id not in {"", *effect.learned}

    def _check_lanes(self, ends: dict[str, dict[str, Any]]) -> None:
        """Check that what is pending in the end waits for a doubt of its patient."""
        doubted = {
            row.lane
            for row in self.rows
            if row.key in ends and ends[row.key]["state"] == State.IN_DOUBT.value
        }
        # A Date that is behind lets an update pass once the last write of it is older.
        young = {
            row.lane
            for row in self.rows
            if self.climate.date_skew_s < 0
            and row.key in ends
            and ends[row.key]["interaction"] == Interaction.UPDATE.value
        }
        for row in self.rows:
            is_pending = row.key not in ends or ends[row.key]["state"] == State.PENDING.value
            is_free = row.lane not in doubted | young
            if is_pending and is_free and not self.canvas.was_set:
                self._violated(f"{row.key} is pending, and nothing is in its way")

    def _violated(self, what: str) -> None:
        violation = f"seed {self.outcome.seed}: {what}"
        if violation not in self.outcome.violations:
            self.outcome.violations.append(violation)


def _nobody(disposition: Disposition, count: int) -> None:
    """Ignore progress."""


def is_elsewhere(seed: int) -> bool:
    """Return whether the killed process ran on another machine, if the journal is in a database."""
    return seed % 2 == 1


def quiet() -> None:
    """Silence the coroutines that a killed process leaves behind."""
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore", RuntimeWarning)
    sys.unraisablehook = lambda _: None


def outcome(seed: int, server: str = "") -> Outcome:
    """Run one schedule, killed at the steps that its seed gives."""
    quiet()
    return Schedule(seed, server=server).run()


def crash_points(seed: int, server: str = "") -> Iterator[Outcome]:
    """Run one schedule killed at each step in turn, and once more at some step of the life after that.

    First in the first night, then in the second one.

    The second step moves on with the first, so that over the whole every part of a recovery is struck. How many
    steps that life has is counted now and then, and wherever it ended before the second step.
    """
    quiet()
    whole = Schedule(seed, ()).run()
    for unharmed in dict.fromkeys(((), (0,) * whole.second)):
        at, steps = len(unharmed), 0
        for first in range(1, whole.steps[at] + 1):
            if first % COUNTED_EACH == 1:
                steps = Schedule(seed, (*unharmed, first)).run().steps[at + 1]
            second = _second(first, steps)
            found = Schedule(seed, (*unharmed, first, second), server=server).run()
            if found.steps[at + 1] < second:  # it was not struck
                steps = found.steps[at + 1]
                if _second(first, steps) != second:
                    struck = (*unharmed, first, _second(first, steps))
                    found = Schedule(seed, struck, server=server).run()
            yield found


def _second(first: int, steps: int) -> int:
    return first * 7 % max(steps, 1) + 1


def swept(seed: int, server: str = "") -> tuple[int, list[str]]:
    """Return the number of crash points of a schedule, and what they violated."""
    found = list(crash_points(seed, server))
    return len(found), [line for each in found for line in each.violations]


def over(
    work: Callable[[int], T], seeds: Sequence[int], processes: int | None = None
) -> Iterator[T]:
    """Do work for each seed, on all cores."""
    context = multiprocessing.get_context("forkserver")
    count = processes or os.cpu_count() or 1
    with ProcessPoolExecutor(count, mp_context=context) as pool:
        yield from pool.map(work, seeds, chunksize=max(min(20, len(seeds) // count), 1))
