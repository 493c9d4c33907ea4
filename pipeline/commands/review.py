"""What a person does with the journal: look at what is in doubt, decide on it, look at what is held.

Every decision is written into the trail with who made it, when, and what Canvas showed at that
moment. A resend searches once more right before (docs/guarantees.md, "Settling doubt").
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from random import Random
from typing import Any, Final, NamedTuple

import orjson
import polars as pl

from pipeline.clock import SystemClock, utc_text
from pipeline.cluster.permits import permits_of
from pipeline.commands import retention
from pipeline.commands.run import new_run, open_journal, user
from pipeline.errors import ConfigError, IngestError, SearchFailed
from pipeline.fhir.coverage import Payers, compare_payers, organizations_of
from pipeline.fhir.datatypes import is_id
from pipeline.job import Job
from pipeline.journal import decisions, doubts, history, lookups, runs
from pipeline.journal.audit_log import Line
from pipeline.journal.evidence import Contradictions, find_contradictions
from pipeline.journal.journal import Journal
from pipeline.journal.lookups import Count
from pipeline.journal.payers import payers_seen
from pipeline.planning.earlier import PlannedRow
from pipeline.records import (
    Candidate,
    Disposition,
    Doubt,
    Finding,
    Intent,
    Interaction,
    Settlement,
    State,
    usd,
)
from pipeline.sending.recover import like_of
from pipeline.sending.session import Session, open_session, with_bodies

_DONE: Final = 0
_REFUSED: Final = 3  # a decision was not carried out
_LEFT: Final = 4
_SETTLED: Final = (State.CONFIRMED.value, State.REFUSED.value)


@dataclass(frozen=True, slots=True)
class Decisions:
    """What a person says of writes in doubt, by their keys."""

    confirm: Mapping[str, str] = field(default_factory=dict)  # key -> resource id
    resend: tuple[str, ...] = ()
    abandon: tuple[str, ...] = ()
    resend_absent: bool = False  # all of which a search shows none
    confirm_found: bool = False  # all of which a search shows just one
    foreign: tuple[str, ...] = ()  # resource ids that are somebody else's
    who: str = ""

    @property
    def keys(self) -> list[str]:
        """The writes that they are about."""
        return [*self.confirm, *self.resend, *self.abandon]


class Now(NamedTuple):
    """Where the newest plan has a row whose amount is another one than that of the write in doubt."""

    row: str
    amount_cents: int | None
    run_id: str


@dataclass(frozen=True, slots=True)
class Case:
    """A write in doubt with the evidence. `finding` None: Canvas was not asked."""

    doubt: Doubt
    row: PlannedRow | None
    sent_at: str | None
    finding: Finding | None
    now: Now | None = None


@dataclass(frozen=True, slots=True)
class Decided:
    """What became of one decision."""

    key: str
    what: str  # confirmed, sent again, abandoned, refused
    message: str


@dataclass(frozen=True, slots=True)
class Review:
    """What is in doubt after what was decided. `unasked`: why Canvas was not asked, if it was not."""

    exit_code: int
    cases: list[Case]
    decided: list[Decided]
    unasked: str = ""


async def review(
    job: Job, decisions: Decisions | None = None, *, stop: asyncio.Event | None = None
) -> Review:
    """Carry out decisions, then list what is in doubt with what Canvas shows of it.

    Raises ConfigError for a key that is not in doubt, JournalError, CanvasError.
    """
    decisions = decisions or Decisions()
    clock, random = SystemClock(), Random()  # noqa: S311 - jitter and run ids, no secrets
    with open_journal(job) as journal:
        begun = new_run("review", clock, random)
        runs.start_run(journal, begun)
        left, decided, cases, unasked = 1, list[Decided](), list[Case](), ""
        failure = ""
        try:
            _allowed(journal, decisions)
            is_deciding = bool(decisions.keys or decisions.resend_absent or decisions.confirm_found)
            if is_deciding or doubts.all_doubts(journal):
                async with open_session(
                    job,
                    begun.run_id,
                    journal,
                    clock,
                    random,
                    stop or asyncio.Event(),
                    permits_of(job, clock),
                ) as session:
                    work = _Work(session, decisions)
                    if is_deciding:
                        job.canvas.credentials.require()
                        decided = await work.decide()
                    cases, unasked = await work.cases()
            is_refused = any(each.what == "refused" for each in decided)
            left = _LEFT if doubts.all_doubts(journal) else _REFUSED if is_refused else _DONE
        except IngestError as error:
            left, failure = error.exit_code, str(error)
            raise
        finally:
            ended = replace(
                begun, finished_at=utc_text(clock.now()), exit_code=left, failure=failure
            )
            runs.finish_run(journal, ended)
    return Review(left, cases, decided, unasked)


def _allowed(journal: Journal, decisions: Decisions) -> None:
    """Raises ConfigError where a decision cannot be one: before any of them is carried out."""
    twice = next((key for key in decisions.keys if decisions.keys.count(key) > 1), None)
    if twice is not None:
        raise ConfigError(f"{twice} is decided on twice", "decide on each KEY once")
    wrong = next((each for each in decisions.confirm.values() if not is_id(each)), None)
    if wrong is not None:
        raise ConfigError(
            "--confirm KEY=ID: that is no id of a resource", "1 to 64 of A-Z a-z 0-9 - ."
        )
    in_doubt = {doubt.intent.key for doubt in doubts.all_doubts(journal)}
    for key in decisions.keys:
        state = lookups.states_of(journal, [key]).get(key)
        is_resent = key in decisions.resend and _has_resource(journal, key)
        if key not in in_doubt and state is not State.ABANDONED and not is_resent:
            held = f"it is {state.value}" if state else "the journal does not know it"
            raise ConfigError(
                f"{key} is not in doubt: {held}",
                "name a KEY that `canvas-ingest review CONFIG` lists; or with --resend one that "
                "`canvas-ingest verify CONFIG` reports as missing",
            )


def _has_resource(journal: Journal, key: str) -> bool:
    """Whether Canvas took the write, and nothing of it is under way."""
    known = lookups.known(journal, pl.Series("key", [key])).filter(pl.col("resource_id") != "")
    return not known.filter(pl.col("state").is_in(_SETTLED)).is_empty()


class _Work:
    """The decisions, carried out one after another."""

    def __init__(self, session: Session, decisions: Decisions) -> None:
        self._session = session
        self._journal = session.journal
        self._decisions = decisions
        self._plans = session.plans

    async def cases(self) -> tuple[list[Case], str]:
        """What is in doubt now; and why Canvas was not asked, if it was not."""
        in_doubt = doubts.all_doubts(self._journal)
        rows = self._plans.rows(doubt.intent for doubt in in_doubt)
        sent = self._sent_at([doubt.intent.key for doubt in in_doubt])
        now = self._rows_now(in_doubt)
        findings: Sequence[Finding | None] = [None] * len(in_doubt)
        unasked = ""
        try:
            self._session.job.canvas.credentials.require()
            findings = await asyncio.gather(*map(self._session.recovery.look, in_doubt))
        except IngestError as error:
            unasked = str(error)
        return [
            Case(doubt, rows.get(key), sent.get(key), finding, now.get(key))
            for doubt, finding in zip(in_doubt, findings, strict=True)
            for key in [doubt.intent.key]
        ], unasked

    def _rows_now(self, doubts: Sequence[Doubt]) -> dict[str, Now]:
        """The rows of payments in doubt that have another amount by now."""
        found: dict[str, Now] = {}
        for feed in {each.intent.feed for each in doubts}:
            cents = {
                each.intent.key: each.intent.amount_cents
                for each in doubts
                if each.intent.feed == feed and each.intent.amount_cents is not None
            }
            rows = self._plans.rows_now(feed, list(cents)) if cents else {}
            found |= {
                key: Now(str(row), now, run_id)
                for key, (row, now, run_id) in rows.items()
                if now != cents[key]
            }
        return found

    def _sent_at(self, keys: Sequence[str]) -> dict[str, str | None]:
        frame = lookups.writes_of(self._journal, pl.Series("key", list(keys), dtype=pl.String))
        return dict(frame.select("key", "sent_at").iter_rows())

    async def decide(self) -> list[Decided]:
        """All of them. A resend goes out together with the others, after all else."""
        decided = [await self._named(*pair) for pair in self._decisions.confirm.items()]
        decided += [await self._abandon(key) for key in self._decisions.abandon]
        if self._decisions.confirm_found:
            for doubt in self._left():
                found = _only_one(await self._session.recovery.look(doubt))
                if found is not None:
                    decided.append(await self._confirm(doubt, found))
        again: list[Doubt] = []
        for key in self._decisions.resend:
            doubt = await self._doubt(key)
            step = self._give_up if _has_resource(self._journal, key) else self._release
            decided += await step(doubt, again)
        if self._decisions.resend_absent:
            await self._session.clock.sleep(self._session.job.upload.quiet_s)
            for doubt in with_bodies(self._session.plans, self._left()):
                decided += await self._release(doubt, again, is_all=True)
        return decided + await self._send(again)

    def _left(self) -> list[Doubt]:
        """What is in doubt and was not decided on by its key."""
        named = self._decisions.keys
        return [
            doubt for doubt in doubts.all_doubts(self._journal) if doubt.intent.key not in named
        ]

    async def _doubt(self, key: str) -> Doubt:
        doubt = await doubts.doubt_of(self._journal, key)
        if doubt is None:
            raise ConfigError(
                f"the journal does not know {key}", "see `canvas-ingest review CONFIG`"
            )
        return with_bodies(self._session.plans, [doubt])[0]

    def _held_by(self, doubt: Doubt) -> str | None:
        """Another write in doubt of the same patient, behind which this one cannot move."""
        if lookups.states_of(self._journal, [doubt.intent.key])[doubt.intent.key] is State.IN_DOUBT:
            return None
        others = [
            each.intent.key
            for each in doubts.all_doubts(self._journal)
            if each.intent.lane == doubt.intent.lane
            and not each.is_owed
            and each.intent.key != doubt.intent.key
        ]
        return f"settle {others[0]} first: it is of the same patient" if others else None

    async def _named(self, key: str, resource_id: str) -> Decided:
        doubt = await self._doubt(key)
        if doubt.intent.interaction is Interaction.UPDATE:
            return await self._confirm_update(doubt, resource_id)
        return await self._confirm(doubt, resource_id)

    async def _confirm(self, doubt: Doubt, resource_id: str) -> Decided:
        intent, key = doubt.intent, doubt.intent.key
        held = self._held_by(doubt)
        if held is not None:
            return Decided(key, "refused", held)
        try:
            found = await self._session.client.read(intent.resource_type, resource_id)
        except SearchFailed as error:
            return Decided(key, "refused", f"{resource_id} could not be read: {error.message}")
        if found is None:
            return Decided(key, "refused", f"Canvas has no {intent.resource_type}/{resource_id}")
        like = like_of(intent, [found])
        if resource_id not in like or await self._is_of_another_payer(intent, found):
            compared = "patient, amount or claim"
            if intent.resource_type == "Coverage":
                compared = "patient, member id, status, class, payor or start"
            return Decided(
                key,
                "refused",
                f"{resource_id} is another {intent.resource_type}: {compared} differ",
            )
        finding = Finding(
            Settlement.FOUND,
            "review|confirmed",
            f"{doubt.message}; confirmed by {self._decisions.who}",
            resource_id,
            (Candidate(resource_id, like[resource_id], "named"),),
        )
        is_confirmed = await decisions.confirm(
            self._journal, self._session.run_id, intent, finding, self._now(), self._decisions.who
        )
        if not is_confirmed:
            return Decided(key, "refused", f"{resource_id} belongs to another row already")
        return Decided(key, "confirmed", f"{intent.resource_type}/{resource_id}")

    async def _is_of_another_payer(self, intent: Intent, found: dict[str, Any]) -> bool:
        """Return whether Canvas is known to show another payer than the one that was sent."""
        if intent.resource_type != "Coverage" or not intent.body:
            return False
        organizations = organizations_of(await asyncio.to_thread(payers_seen, self._journal))
        sent = orjson.loads(intent.body)
        return compare_payers(sent, found, organizations) is Payers.OTHER

    async def _confirm_update(self, doubt: Doubt, resource_id: str) -> Decided:
        """Confirm an update that a read shows, or of which a person has compared the payer."""
        intent = doubt.intent
        if resource_id != intent.resource_id:
            named = f"{intent.resource_type}/{intent.resource_id}"
            return Decided(intent.key, "refused", f"it is an update of {named}")
        finding = await self._session.recovery.look(doubt)
        if finding.rule == "recover|payer":
            finding = replace(
                finding,
                settlement=Settlement.FOUND,
                rule="review|confirmed",
                resource_id=resource_id,
            )
        if finding.settlement is not Settlement.FOUND:
            return Decided(intent.key, "refused", finding.message)
        await decisions.confirm(
            self._journal, self._session.run_id, intent, finding, self._now(), self._decisions.who
        )
        return Decided(intent.key, "confirmed", f"{intent.resource_type}/{resource_id}")

    async def _abandon(self, key: str) -> Decided:
        doubt = await self._doubt(key)
        if lookups.states_of(self._journal, [key])[key] is State.ABANDONED:
            return Decided(key, "abandoned", "it was already; it is never sent again")
        held = self._held_by(doubt)
        if held is not None:
            return Decided(key, "refused", held)
        looked = await self._session.recovery.look(doubt)
        finding = replace(
            looked,
            rule="review|abandoned",
            message=f"{doubt.message}; given up by {self._decisions.who}",
            resource_id="",
        )
        await decisions.abandon(
            self._journal,
            self._session.run_id,
            doubt.intent,
            finding,
            self._now(),
            self._decisions.who,
        )
        return Decided(key, "abandoned", "it is never sent again")

    async def _release(
        self, doubt: Doubt, again: list[Doubt], *, is_all: bool = False
    ) -> list[Decided]:
        """Let one go again, if a search right now speaks for it; put it into `again`."""
        key, intent = doubt.intent.key, doubt.intent
        held = self._held_by(doubt)
        if held is not None:
            return [] if is_all else [Decided(key, "refused", held)]
        if not is_all:
            await self._note_foreign(intent)
        finding = await self._session.recovery.look(doubt)
        is_absent = finding.settlement is Settlement.ABSENT or (
            finding.settlement is Settlement.UNCLEAR and not finding.candidates
        )
        if is_all and not is_absent:
            return []
        if finding.settlement is Settlement.UNKNOWN:
            return [Decided(key, "refused", f"not sent: {finding.message}")]
        if not is_absent:
            return [Decided(key, "refused", _why_not_sent(intent, finding))]
        if not intent.body:
            return [Decided(key, "refused", _no_content(intent))]
        await decisions.allow_resend(
            self._journal, self._session.run_id, intent, finding, self._now(), self._decisions.who
        )
        again.append(doubt)
        return []

    async def _give_up(self, doubt: Doubt, again: list[Doubt]) -> list[Decided]:
        """Declare a resource gone if Canvas shows that it is; put a payment into `again`."""
        intent, key = doubt.intent, doubt.intent.key
        held = self._held_by(doubt)
        if held is not None:
            return [Decided(key, "refused", held)]
        is_payment = intent.resource_type == "PaymentNotice"
        if is_payment and not intent.body:
            return [Decided(key, "refused", _no_content(intent))]
        await self._note_foreign(intent)
        await self._be_quiet(key)
        finding = await self._session.recovery.look_for_gone(intent)
        if finding.settlement is not Settlement.ABSENT:
            return [Decided(key, "refused", _why_not_given_up(intent, finding))]
        named = f"{intent.resource_type}/{intent.resource_id}"
        declared = replace(
            finding, rule="review|gone", message=f"{named} declared gone by {self._decisions.who}"
        )
        at = self._now()
        since = self._session.client.server_clock.earliest(at)
        await decisions.declare_gone(
            self._journal, self._session.run_id, intent, declared, at, since, self._decisions.who
        )
        if not is_payment:
            message = f"{named}: the next run whose file has the row creates it again"
            return [Decided(key, "declared gone", message)]
        again.append(replace(doubt, intent=intent._replace(resource_id="")))
        return []

    async def _be_quiet(self, key: str) -> None:
        """Wait until a read can no longer be older than the write itself."""
        (settled_at,) = lookups.writes_of(self._journal, pl.Series("key", [key]))["settled_at"]
        if settled_at is not None:
            since_s = (self._now() - datetime.fromisoformat(settled_at)).total_seconds()
            await self._session.clock.sleep(max(self._session.job.upload.quiet_s - since_s, 0.0))

    async def _note_foreign(self, intent: Intent) -> None:
        """Note the resources of which a person says that they are another's."""
        if self._decisions.foreign:
            await decisions.note_foreign(
                self._journal,
                self._session.run_id,
                intent.resource_type,
                intent.lane,
                self._decisions.foreign,
                self._now(),
                self._decisions.who,
            )

    async def _send(self, again: Sequence[Doubt]) -> list[Decided]:
        if not again:
            return []
        intents = [doubt.intent for doubt in again]
        await self._session.upload(
            iter([intents]), {intent.resource_type for intent in intents}, _nobody
        )
        states = lookups.states_of(self._journal, [intent.key for intent in intents])
        return [
            Decided(intent.key, "sent again", _HOW_IT_ENDED[states[intent.key]])
            for intent in intents
        ]

    def _now(self) -> datetime:
        return self._session.clock.now()


def _only_one(finding: Finding) -> str | None:
    """The one resource that a write in doubt can be; none where it was there before, or is not sure."""
    possible = [each.resource_id for each in finding.candidates if each.when != "before"]
    is_seen = finding.settlement in {Settlement.FOUND, Settlement.UNCLEAR}
    return possible[0] if is_seen and len(possible) == 1 else None


_HOW_IT_ENDED: Final = {
    State.CONFIRMED: "created",
    State.REFUSED: "refused by Canvas",
    State.IN_DOUBT: "in doubt again",
    State.PENDING: "not sent: the next run tries again",
}


def _nobody(disposition: Disposition, count: int) -> None:
    """Nobody watches."""


# What is held -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Inventory:
    """What a journal holds, and whether it is what it was.

    Attributes:
        name: The journal's random name.
        held: The writes by state and resource type.
        lines: The number of lines of the audit log.
        first_break: The line at which the chain of the audit log is broken; 0 if it is whole.
        contradictions: The writes that the table has otherwise than the audit log implies.
        history: The lines of one write, if one was asked for.
    """

    name: str
    held: list[Count]
    lines: int
    first_break: int
    contradictions: Contradictions
    history: list[Line] | None

    @property
    def is_whole(self) -> bool:
        """Return whether the audit log is whole, and the table of writes agrees with it."""
        return not (self.first_break or self.contradictions.count)


def inventory(job: Job, key: str | None = None) -> Inventory:
    """Look at all that is held, and check the whole audit log, and the table of writes against it."""
    with open_journal(job) as journal:
        lines = None if key is None else [line for line, _ in history.read_lines(journal, key)]
        return Inventory(
            journal.name,
            lookups.census(journal),
            history.length(journal),
            history.first_break(journal),
            find_contradictions(journal),
            lines,
        )


def inventory_json(inventory: Inventory) -> dict[str, Any]:
    """An inventory as JSON values; ages in days."""
    now = datetime.now(UTC)
    return {
        "shape": 1,
        "journal": inventory.name,
        "held": [
            {
                "state": each.state.value,
                "resource_type": each.resource_type,
                "count": each.count,
                "usd": usd(each.cents) if each.resource_type == "PaymentNotice" else "",
                "oldest_days": _age_days(each.oldest, now),
                "newest_days": _age_days(each.youngest, now),
            }
            for each in inventory.held
        ],
        "lines": inventory.lines,
        "first_break": inventory.first_break,
        "contradictions": asdict(inventory.contradictions),
        "history": None
        if inventory.history is None
        else [line._asdict() for line in inventory.history],
    }


def purge(job: Job, days: int | None, *, is_trial: bool) -> dict[str, Any]:
    """Remove what runs left of rows `days` ago or earlier, as JSON values; None: as configured."""
    days = job.retention_days if days is None else days
    if days is None:
        raise ConfigError(
            "how old is too old is not said",
            "write --older-than DAYS, or set days in [retention] of the configuration",
        )
    with open_journal(job) as journal:
        try:
            purged = retention.purge(
                job, journal, days, datetime.now(UTC), user(), is_trial=is_trial
            )
        except OSError as error:
            raise IngestError(
                f"not all could be removed: {error.strerror}",
                "check who owns the files in state.dir and report.dir, then purge again",
            ) from None
    return {"shape": 1, "exit_code": 0, "days": days, **asdict(purged)}


def _age_days(at: str | None, now: datetime) -> float | None:
    if at is None:
        return None
    return round((now - datetime.fromisoformat(at)).total_seconds() / 86400, 3)


def _why_not_sent(intent: Intent, finding: Finding) -> str:
    if intent.interaction is Interaction.UPDATE:
        return f"not sent: {finding.message}"
    seen = ", ".join(each.resource_id for each in finding.candidates)
    return (
        f"not sent: Canvas shows {seen}. If that is this row: --confirm {intent.key}=ID. "
        f"If it is somebody else's: --resend {intent.key} --foreign ID"
    )


def _no_content(intent: Intent) -> str:
    return f"not sent: the plan of run {intent.run_id}, which has the content, is gone, or was changed after it was made"


def _why_not_given_up(intent: Intent, finding: Finding) -> str:
    if not finding.candidates:
        return f"nothing was changed: {finding.message}"
    seen = ", ".join(each.resource_id for each in finding.candidates)
    return (
        f"nothing was changed: Canvas shows {seen}, which is like it. If that takes its place, leave it as it is. "
        f"If it is another one: --resend {intent.key} --foreign ID"
    )


def _where(row: PlannedRow | None) -> str | None:
    if row is None:
        return None
    return str(row.row) if row.row is not None else "a row that is gone from its file"


def as_json(reviewed: Review) -> dict[str, Any]:
    """A review as JSON values."""
    return {
        "shape": 1,
        "exit_code": reviewed.exit_code,
        "decided": [
            {"key": each.key, "what": each.what, "message": each.message}
            for each in reviewed.decided
        ],
        "unasked": reviewed.unasked,
        "in_doubt": [
            {
                "key": case.doubt.intent.key,
                "feed": case.doubt.intent.feed,
                "row": _where(case.row),
                "source_id": case.row.source_id if case.row else None,
                "interaction": case.doubt.intent.interaction.value,
                "resource_type": case.doubt.intent.resource_type,
                "resource_id": case.doubt.intent.resource_id,
                "patient": case.doubt.intent.lane,
                "amount_cents": case.doubt.intent.amount_cents,
                "now": None if case.now is None else case.now._asdict(),
                "run_id": case.doubt.intent.run_id,
                "sent_at": case.sent_at,
                "rule": case.doubt.rule,
                "message": case.doubt.message,
                "finding": None
                if case.finding is None
                else {
                    "settlement": case.finding.settlement.value,
                    "rule": case.finding.rule,
                    "message": case.finding.message,
                    "candidates": [
                        {
                            "id": each.resource_id,
                            "created": utc_text(each.created_at) if each.created_at else None,
                            "when": each.when,
                        }
                        for each in case.finding.candidates
                    ],
                },
            }
            for case in reviewed.cases
        ],
    }
