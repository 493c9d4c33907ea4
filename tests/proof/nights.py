"""Several nights of real files through `pipeline`'s planner and sender, judged by what really happened.

A seed draws a practice (who paid what, who is insured by whom), how its files are written and
configured, and what goes wrong between the nights: a changed key, a renamed feed, respelled patients,
the same file under a second name, a delivery that comes twice, rows that leave, return or are
corrected, members who leave a roster and are back, a torn or missing file, a night that is stopped and resumed. After each night the reports
are compared with what the local Canvas holds by its own account. The judge is slow, knows the practice
itself, and uses none of the product's code: it reads files that a run leaves behind.

If a run refuses to send, the person in charge undoes what was changed and runs again. A violation
names its seed: `python -m tests.proof nights -n 1 --seed SEED` plays that scenario again.
"""

import asyncio
import logging
import tempfile
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final

from pipeline.commands import run as engine
from pipeline.errors import IngestError
from pipeline.sandbox import Faults, Sandbox, serve
from tests.proof.places import SCRATCH
from tests.proof.practice import (
    OTHER_KEYS,
    PATIENTS,
    PAYERS,
    Files,
    Insurance,
    Payment,
    Setting,
    claim_of,
    configure,
    holder_of,
    insured_of,
    payments_of,
    setting_of,
    write,
)
from tests.proof.roster import Roster
from tests.support.nightly import Clock
from tests.support.world import World, patient_key

NIGHTS_MAX: Final = 5
FAULTS: Final = Faults(lose_before=0.15, lose_after=0.15)
REWRITES: Final = 0.3  # of the nights after the first
NUMBERED: Final = 0.35  # of the scenarios: the files have no order
SETTLED: Final = frozenset(("created", "updated", "unchanged"))
WELL: Final = 0
FINISHED: Final = frozenset((0, 3))  # 3: with rows rejected

# What may change between two nights. A mistake is undone once a run refuses it.
MISTAKES: Final = {
    "ids": ("key", "renamed", "respelled", "second name", "torn", "absent"),
    "times": ("key", "renamed", "respelled", "second name", "torn", "absent"),
    "count": ("key", "renamed", "respelled", "second name", "torn", "absent", "gone", "corrected"),
    "increment": (
        "key",
        "renamed",
        "respelled",
        "second name",
        "torn",
        "absent",
        "delivered twice",
    ),
}
NEWS: Final = {
    "ids": ("key order", "removed", "corrected", "insurance", "stopped", "faults"),
    "times": ("key order", "removed", "insurance", "stopped", "faults"),
    "count": ("key order", "insurance", "stopped", "faults"),
    "increment": ("key order", "insurance", "stopped", "faults"),
}
FIRST_NIGHT: Final = datetime(2026, 11, 20, 3, 30, tzinfo=UTC)
DAYS_MAX: Final = 20  # from one night to the next


# One scenario -------------------------------------------------------------------------------------


@dataclass(slots=True)
class Story:
    """The events in one scenario."""

    seed: int
    nights: list[str] = field(default_factory=list)
    runs: int = 0
    refusals: int = 0
    payments: int = 0
    effects: int = 0
    ended: int = 0  # coverages of members who had left, once for each night after it
    reopened: int = 0
    violations: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Books:
    """The judge's records: what was really paid and delivered, and the sums of all reports."""

    presented: dict[int, Payment] = field(default_factory=dict)
    created: Counter[str] = field(default_factory=Counter)  # rows and cents of payments, by reports
    warned: int = 0  # payments that a warning names as perhaps posted already
    owners: dict[str, int] = field(default_factory=dict)  # resource id -> payment
    roster: Roster = field(default_factory=Roster)
    by_hand: dict[str, dict[str, Any]] = field(default_factory=dict)  # coverages that no row names
    members: dict[int, Insurance] = field(default_factory=dict)  # as they were last in a roster


async def play(seed: int, folder: Path) -> Story:
    """Play one scenario: two to five nights, each run to its end."""
    random = Random(f"{seed} nights")
    story, books = Story(seed), Books()
    is_numbered = Random(f"{seed} numbered").random() < NUMBERED  # drawn apart, as rewrites are
    setting = replace(setting_of(random), is_numbered=is_numbered)
    payments = payments_of(random, 0, random.randint(2, 5))
    insured = insured_of(random, setting.coverage_key, by_row=setting.by_row)
    clock = Clock(FIRST_NIGHT + timedelta(days=random.randint(0, 30)))
    sandbox = Sandbox(_canvas(), fault_seed=seed, clock=clock)
    books.by_hand = _entered_by_hand(sandbox, random, insured)
    async with serve(sandbox) as url:
        world = World(folder, sandbox, url)
        play_night = partial(_night, story, books, world, clock, random)
        files = Files(_ledgers(random, payments), insured)
        last = files
        for night in range(random.randint(2, NIGHTS_MAX)):
            clock.next_day(random.randint(1, DAYS_MAX))
            events = _events(random, setting, night)
            if night and Random(f"{seed} rewrite {night}").random() < REWRITES:
                events.append("rewrite")  # drawn apart: the other events of a seed stay as they are
            story.nights.append(f"{setting.style}: {', '.join(events) or 'as ever'}")
            new = payments_of(random, len(payments), random.randint(0, 3)) if night else []
            payments = payments + new
            books.members |= {each.number: each for each in last.insured}
            files = _delivered(
                random, setting, payments, new if night else payments, last, books.members, events
            )
            wrong = _mistaken(random, setting, files, last, events)
            setting = await play_night(setting, files, wrong, events)
            _judge_hand(story, sandbox, books.by_hand)
            last = files
    story.payments = len(payments)
    story.ended, story.reopened = books.roster.ended, books.roster.reopened
    return story


def _canvas() -> dict[str, Any]:
    """Return a Canvas with two insurers."""
    return {
        "patients": [
            {"id": patient_key(each), "identifiers": [], "balance": "100000.00"}
            for each in range(PATIENTS)
        ],
        "organizations": [
            {"id": its, "name": f"Insurer {its}", "payer_id": payer_id}
            for payer_id, its in PAYERS.items()
        ],
        "claims": [
            {"id": claim_of(each), "patient": patient_key(each)} for each in range(PATIENTS)
        ],
    }


def _entered_by_hand(
    sandbox: Sandbox, random: Random, insured: Sequence[Insurance]
) -> dict[str, dict[str, Any]]:
    """Enter coverages as people do: a member id of the file with an insurer that the file does not name."""
    others = {}
    signs = {each.sign for each in insured}
    for each in insured:
        its = next(its for its in PAYERS.values() if its != PAYERS[each.payer_id])
        if (patient_key(each.patient), each.member, its) in signs or random.random() > 0.2:
            continue
        coverage = _coverage(each, its)
        resource_id = sandbox.add_by_hand("Coverage", coverage)
        others[resource_id] = coverage
    return others


def _coverage(insurance: Insurance, organization: str) -> dict[str, Any]:
    patient = {"reference": f"Patient/{patient_key(insurance.patient)}", "type": "Patient"}
    return {
        "identifier": [
            {
                "type": {
                    "coding": [
                        {
                            "system": "http://terminology.hl7.org/CodeSystem/v2-0203",
                            "code": "MB",
                        }
                    ]
                },
                "value": insurance.member,
            }
        ],
        "status": "active",
        "subscriber": patient,
        "beneficiary": patient,
        "relationship": {"coding": [{"code": "self"}]},
        "period": {"start": "2026-01-01"},
        "payor": [
            {
                "reference": f"Organization/{organization}",
                "type": "Organization",
                "display": f"Insurer {organization}",
            }
        ],
        "order": 5,
    }


def _events(random: Random, setting: Setting, night: int) -> list[str]:
    if night == 0:
        return random.choice(([], [], ["stopped"], ["faults"]))
    mistakes = random.sample(MISTAKES[setting.style], random.choice((0, 1, 1)))
    news = random.sample(NEWS[setting.style], random.choice((0, 1, 2)))
    if mistakes and "corrected" in news:
        news.remove("corrected")  # under another key a corrected payment is another one
    if setting.missing == "end":
        news += random.sample(("left", "back", "insurance"), random.choice((0, 1, 1, 2)))
    return mistakes + news


def _ledgers(random: Random, payments: Sequence[Payment]) -> dict[str, list[Payment]]:
    """Return one file or two; all of them match the feed's glob."""
    at = random.randint(1, len(payments)) if len(payments) > 1 and random.random() < 0.3 else 0
    if not at:
        return {"ledger.csv": list(payments)}
    return {"ledger-1.csv": list(payments[:at]), "ledger-2.csv": list(payments[at:])}


def _delivered(
    random: Random,
    setting: Setting,
    payments: Sequence[Payment],
    new: Sequence[Payment],
    last: Files,
    members: Mapping[int, Insurance],
    events: Sequence[str],
) -> Files:
    """Return tonight's files as they should be. An incremental delivery has only new payments."""
    rows = list(new if setting.style == "increment" else payments)
    insured = list(last.insured)
    if "removed" in events:
        rows = [each for each in rows if random.random() < 0.7]
        insured = [each for each in insured if random.random() < 0.7]
    if "left" in events:
        insured = [each for each in insured if random.random() < 0.5]
    if "back" in events:
        here = {each.number for each in insured}
        insured += [each for number, each in members.items() if number not in here]
    if "corrected" in events and setting.style == "ids":
        rows = _corrected(random, rows)
    if "insurance" in events and insured:
        at = random.randrange(len(insured))
        insured[at] = _changed(random, setting, insured, at)
    return Files(_ledgers(random, rows), insured)


def _corrected(random: Random, rows: Sequence[Payment]) -> list[Payment]:
    at = random.randrange(len(rows)) if rows else -1
    return [
        replace(each, cents=each.cents + 100) if number == at else each
        for number, each in enumerate(rows)
    ]


def _mistaken(
    random: Random, setting: Setting, files: Files, last: Files, events: Sequence[str]
) -> Files:
    """Return the files with a mistake."""
    ledgers = {name: list(rows) for name, rows in files.ledgers.items()}
    name = next(iter(ledgers))
    if "gone" in events:
        ledgers[name] = ledgers[name][1:]
    if "corrected" in events and setting.style == "count":
        ledgers[name] = _corrected(random, ledgers[name])
    if "second name" in events:
        ledgers["ledger-copy.csv"] = list(ledgers[name])
    if "delivered twice" in events:
        ledgers = {f"{old[:-4]}-again.csv": rows for old, rows in last.ledgers.items()}
    return replace(files, ledgers=ledgers, is_torn="torn" in events, is_absent="absent" in events)


def _changed(random: Random, setting: Setting, insured: Sequence[Insurance], at: int) -> Insurance:
    """Return the insurance with another end, or another insurer that no other coverage of the patient has.

    On a roster, also another insurance in its place, with the same order: the one before is then gone.
    """
    before = insured[at]
    if setting.missing == "end" and random.random() < 0.5:
        return replace(before, number=before.number + 100, member=f"{before.member}-next")
    other = next(each for each in PAYERS if each != before.payer_id)
    after = replace(before, payer_id=other)
    taken = {each.sign for each in insured}
    if "payer" not in setting.coverage_key and after.sign not in taken and random.random() < 0.7:
        return after
    if before.holder is not None and random.random() < 0.5:
        return replace(before, holder=holder_of(random, before.patient))
    return replace(before, end=random.choice(("2026-11-30", "2026-12-31")))


# One night ----------------------------------------------------------------------------------------


async def _night(
    story: Story,
    books: Books,
    world: World,
    clock: Clock,
    random: Random,
    setting: Setting,
    files: Files,
    wrong: Files,
    events: Sequence[str],
) -> Setting:
    """Run a night to its end; undo what a run refuses. Returns the setting for the next night."""
    tonight = _reset(setting, events)
    before = len(_effects(world))
    run_once = partial(_run, story, books, world, clock, random)
    result = await run_once(tonight, wrong, events)
    asked = set() if result is None else _rewritten(result)
    if result is not None and result.exit_code not in FINISHED and result.failure is None:
        clock.next_day(random.choice((0, 0, 1)))
        result = await run_once(tonight, wrong, ())  # resumed
    if result is not None and result.failure is None:
        _judge_end(story, books, world, clock, result, wrong, tonight)
        if "rewrite" in events:
            _judge_rewritten(story, world, result, asked, before)
        return tonight
    story.refusals += 1
    result = await run_once(setting, files, ())
    if result is not None and result.failure is None:
        _judge_end(story, books, world, clock, result, files, setting)
    return setting


def _reset(setting: Setting, events: Sequence[str]) -> Setting:
    """Return the setting after tonight's events."""
    changes: dict[str, Any] = {}
    if "key" in events:
        changes["key"] = OTHER_KEYS[setting.style]
    elif "key order" in events:
        changes["key"] = setting.key[::-1]
    if "renamed" in events:
        changes["feed"] = "payments" if setting.feed == "ledger" else "ledger"
    if "respelled" in events:
        changes["is_respelled"] = not setting.is_respelled
    return replace(setting, **changes)


async def _run(
    story: Story,
    books: Books,
    world: World,
    clock: Clock,
    random: Random,
    setting: Setting,
    files: Files,
    events: Sequence[str],
) -> engine.Result | None:
    """Run once. Returns None if the configuration is refused."""
    configure(world, setting)
    write(world, files, setting)
    story.runs += 1
    before = len(_effects(world))
    world.sandbox.set_faults(FAULTS if "faults" in events else Faults())
    stop = asyncio.Event()
    watch = asyncio.ensure_future(_stop_after(world, stop, before + random.randint(1, 4)))
    if "stopped" not in events:
        watch.cancel()
    try:
        condition = "member_id is not null" if "rewrite" in events else None
        result = await engine.run(world.job(rewrite=condition), stop=stop, clock=clock)
    except IngestError:
        if len(_effects(world)) != before:
            _violate(story, "a run that was refused has sent something")
        return None
    finally:
        watch.cancel()
        world.sandbox.settle()
        world.sandbox.set_faults(Faults())
    if result.failure is None or len(_effects(world)) > before:
        for _, _, payment in files.payments():
            books.presented.setdefault(payment.number, payment)
    _judge_run(story, books, world, result, files)
    if result.failure is None:
        for what in books.roster.judge_run(result.folder, setting, clock.now()):
            _violate(story, what)
    return result


async def _stop_after(world: World, stop: asyncio.Event, effects: int) -> None:
    while len(_effects(world)) < effects:
        await asyncio.sleep(0.001)
    stop.set()


def _effects(world: World) -> list[dict[str, Any]]:
    return world.effects


# The judge ----------------------------------------------------------------------------------------


def _violate(story: Story, what: str) -> None:
    story.violations.append(
        f"seed {story.seed}, night {len(story.nights)} ({story.nights[-1]}): {what}"
    )


def created_by(summary: Mapping[str, Any]) -> Counter[str]:
    """Return rows and cents of payments that Canvas took in that run, by its report."""
    posted: Counter[str] = Counter()
    for feed in summary["feeds"]:
        if feed["resource_type"] == "PaymentNotice":
            posted["rows"] += feed["dispositions"]["created"]
            posted["cents"] += _cents(feed["amount_usd"]["created"])
    for settled in summary["settled"].values():  # of earlier runs (docs/reports.md)
        if "usd" in (created := settled.get("created", {})):
            posted["rows"] += created["rows"]
            posted["cents"] += _cents(created["usd"])
    return posted


def _in_doubt(summary: Mapping[str, Any]) -> Counter[str]:
    """Return rows and cents of payments whose answers are lost, by the report of a run."""
    feeds = [feed for feed in summary["feeds"] if feed["resource_type"] == "PaymentNotice"]
    return Counter(
        rows=sum(feed["dispositions"]["in_doubt"] for feed in feeds),
        cents=sum(_cents(feed["amount_in_doubt_usd"]) for feed in feeds),
    )


def warned_by(summary: Mapping[str, Any]) -> int:
    """Return payments that a report warns of as perhaps posted before, under another key."""
    return sum(each["count"] for each in summary.get("warnings", ()) if "repeats" in each["rule"])


def _cents(usd: str) -> int:
    return int(Decimal(usd) * 100)


def _judge_run(
    story: Story, books: Books, world: World, result: engine.Result, files: Files
) -> None:
    """Check after every run, even a failed one: nothing is posted twice, and the reports add up."""
    summary = result.summary
    books.created += created_by(summary)
    books.warned += warned_by(summary)
    posted = [each for each in _effects(world) if each["resource_type"] == "PaymentNotice"]
    story.effects = len(posted)
    held = Counter(
        (each["patient"], _cents(each["amount"]), each["claim"] or "") for each in posted
    )
    paid = Counter(each.sign for each in books.presented.values())
    twice = sum((held - paid).values())
    is_well = f"exit {result.exit_code}"
    if twice > books.warned:
        _violate(
            story, f"{twice} payments posted that nobody made ({is_well}), {books.warned} warned of"
        )
    cents = sum(_cents(each["amount"]) for each in posted)
    doubtful = _in_doubt(
        summary
    )  # a night that was stopped may leave some: Canvas took them, or not
    rows, more = len(posted) - books.created["rows"], cents - books.created["cents"]
    if not (0 <= rows <= doubtful["rows"] and 0 <= more <= doubtful["cents"]):
        _violate(
            story,
            f"reports say {books.created['rows']} created, {books.created['cents']} cents, and Canvas "
            f"took {len(posted)}, {cents} cents ({is_well})",
        )
    if (files.is_torn or files.is_absent) and result.exit_code == WELL:
        _violate(story, "a file was torn or absent, and the run ended with 0")


def _judge_end(
    story: Story,
    books: Books,
    world: World,
    clock: Clock,
    result: engine.Result,
    files: Files,
    setting: Setting,
) -> None:
    """Check after the last run of a night that was not refused: each row is where its report says."""
    frame = result.frame
    ends = {
        (feed, file, row): (word, resource_id or "", rule or "")
        for feed, file, row, word, resource_id, rule in frame.select(
            "feed", "file", "row", "disposition", "resource_id", "rule"
        ).iter_rows()
    }
    by_file = {(Path(file).name, row): end for (_, file, row), end in ends.items()}
    owners = {} if setting.style == "count" else books.owners  # equal rows may change places
    _judge_payments(story, owners, world, by_file, files)
    _judge_coverages(story, world, by_file, files)
    settled = {
        row - 1: resource_id
        for (name, row), (word, resource_id, _) in by_file.items()
        if name == "eligibility.csv" and word in SETTLED
    }
    for place, resource_id in settled.items():  # a row that names its insurer takes it over
        entered = books.by_hand.get(resource_id)
        if entered and _shown_insurance(entered)[:3] == files.insured[place].sign:
            del books.by_hand[resource_id]
    is_well = result.exit_code == WELL
    for what in books.roster.judge_night(
        files.insured, settled, world.sandbox, setting, clock.now(), is_well=is_well
    ):
        _violate(story, what)
    words = {word for word, _, _ in ends.values()}
    if result.exit_code == WELL and words - SETTLED - {"duplicate"}:
        _violate(story, f"exit 0, and rows are {', '.join(sorted(words))}")


def _rewritten(result: engine.Result) -> set[str]:
    """Return the unchanged coverages that a run writes again, by its report."""
    lines = result.frame.select("rule", "resource_id").iter_rows()
    return {resource_id for rule, resource_id in lines if "row|rewritten" in (rule or "")}


def _judge_rewritten(
    story: Story, world: World, result: engine.Result, asked: set[str], before: int
) -> None:
    """Check that what was to be written again was written in this night, even if its run ended early."""
    written = {each["id"] for each in _effects(world)[before:]}
    for word, resource_id in result.frame.select("disposition", "resource_id").iter_rows():
        if word in SETTLED and resource_id in asked - written:
            _violate(story, f"coverage {resource_id} is {word}, and was not written again")


def _judge_payments(
    story: Story,
    owners: dict[str, int],
    world: World,
    ends: Mapping[tuple[str, int], tuple[str, str, str]],
    files: Files,
) -> None:
    seen: Counter[int] = Counter()
    duplicates: Counter[int] = Counter()
    for name, row, payment in files.payments():
        word, resource_id, _ = ends.get((name, row), ("lost", "", ""))
        seen[payment.number] += 1
        if word == "duplicate":
            duplicates[payment.number] += 1
        elif word == "lost":
            _violate(story, f"{name}:{row} is in no report")
        elif word in SETTLED:
            owner = owners.setdefault(resource_id, payment.number)
            if owner != payment.number:
                _violate(story, f"payments {owner} and {payment.number} are one resource")
            shown = world.sandbox.resource("PaymentNotice", resource_id)
            if shown is None or _shown_sign(shown) != payment.sign:
                _violate(story, f"payment {payment.number} is {word}, and Canvas holds another")
    for number, count in duplicates.items():
        if count >= seen[number]:
            _violate(story, f"payment {number} is the duplicate of another one")


def _shown_sign(notice: Mapping[str, Any]) -> tuple[str, int, str]:
    claims = [
        inner["valueReference"]["reference"].rpartition("/")[2]
        for outer in notice.get("extension", ())
        for inner in outer["extension"]
    ]
    patient = notice["request"]["reference"].rpartition("/")[2]
    return patient, _cents(str(notice["amount"]["value"])), claims[0] if claims else ""


def _judge_coverages(
    story: Story,
    world: World,
    ends: Mapping[tuple[str, int], tuple[str, str, str]],
    files: Files,
) -> None:
    for row, insurance in enumerate(files.insured, 1):
        word, resource_id, _ = ends.get(("eligibility.csv", row), ("lost", "", ""))
        if word == "lost":
            _violate(story, f"eligibility.csv:{row} is in no report")
        if word not in SETTLED:
            continue
        shown = world.sandbox.resource("Coverage", resource_id)
        subscriber = patient_key(insurance.subscriber)
        meant = (*insurance.sign, "active", insurance.end, subscriber)
        if shown is None or _shown_insurance(shown) != meant:
            _violate(story, f"coverage {insurance.number} is {word}, and Canvas holds another")


def _shown_insurance(coverage: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        coverage["beneficiary"]["reference"].rpartition("/")[2],
        coverage["identifier"][0]["value"],
        coverage["payor"][0]["reference"].rpartition("/")[2],
        coverage["status"],
        coverage["period"].get("end", ""),
        coverage["subscriber"]["reference"].rpartition("/")[2],
    )


def _judge_hand(story: Story, sandbox: Sandbox, others: Mapping[str, dict[str, Any]]) -> None:
    """Check that coverages that people entered for another insurer are unchanged."""
    for resource_id, entered in others.items():
        shown = sandbox.resource("Coverage", resource_id)
        if shown is None or any(
            shown.get(name) != entered[name] for name in ("status", "payor", "period", "identifier")
        ):
            _violate(story, f"another insurer's coverage {resource_id} was written over")


def quiet() -> None:
    """Keep the product's log lines and warnings out of what the judge prints."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")


def played(seed: int) -> Story:
    """Play one scenario in a folder of its own."""
    quiet()
    with tempfile.TemporaryDirectory(dir=SCRATCH, prefix="nights-") as folder:
        return asyncio.run(play(seed, Path(folder)))
