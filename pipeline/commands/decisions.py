"""The decisions of a person on writes in doubt, carried out.

Each is written into the audit log with who made it, when, and what Canvas showed at that moment. A
resend searches once more right before (docs/guarantees.md, "Settling doubt").
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

import orjson
import polars as pl

from pipeline.errors import ConfigError, SearchFailed
from pipeline.fhir.coverage import Payers, compare_payers, organizations_of
from pipeline.journal import decisions, doubts, lookups
from pipeline.journal.journal import Journal
from pipeline.journal.payers import payers_seen
from pipeline.records import (
    Candidate,
    Disposition,
    Doubt,
    Finding,
    Intent,
    Interaction,
    Settlement,
    State,
)
from pipeline.sending.session import Session, with_bodies
from pipeline.sending.weigh import like_of

_SETTLED: Final = (State.CONFIRMED.value, State.REFUSED.value)
_HOW_IT_ENDED: Final = {
    State.CONFIRMED: "created",
    State.REFUSED: "refused by Canvas",
    State.IN_DOUBT: "in doubt again",
    State.PENDING: "not sent: the next run tries again",
}


@dataclass(frozen=True, slots=True)
class Decisions:
    """The decisions of a person on writes in doubt, by their keys."""

    confirm: Mapping[str, str] = field(default_factory=dict)  # key -> resource id
    resend: tuple[str, ...] = ()
    abandon: tuple[str, ...] = ()
    resend_absent: bool = False  # all of which a search shows none
    confirm_found: bool = False  # all of which a search shows just one
    foreign: tuple[str, ...] = ()  # ids of resources that are another user's
    who: str = ""
    lines: Mapping[str, int] = field(default_factory=dict)  # key -> its line in a file of decisions

    @property
    def keys(self) -> list[str]:
        """Return the writes that they are about."""
        return [*self.confirm, *self.resend, *self.abandon]


@dataclass(frozen=True, slots=True)
class Decided:
    """The result of one decision."""

    key: str
    what: str  # confirmed, sent again, abandoned, refused
    message: str


def has_resource(journal: Journal, key: str) -> bool:
    """Return whether Canvas took the write, and nothing of it is under way."""
    known = lookups.known(journal, pl.Series("key", [key])).filter(pl.col("resource_id") != "")
    return not known.filter(pl.col("state").is_in(_SETTLED)).is_empty()


class Decider:
    """Carries out decisions, one after another."""

    def __init__(self, session: Session, decisions: Decisions) -> None:
        self._session = session
        self._journal = session.journal
        self._decisions = decisions

    async def decide(self) -> list[Decided]:
        """Carry out all of them. Resends go out together, after all else."""
        decided = [await self._named(*pair) for pair in self._decisions.confirm.items()]
        decided += [await self._abandon(key) for key in self._decisions.abandon]
        if self._decisions.confirm_found:
            for doubt in self._left():
                found = only_one(await self._session.recovery.look(doubt))
                if found is not None:
                    decided.append(await self._confirm(doubt, found))
        again: list[Doubt] = []
        for key in self._decisions.resend:
            doubt = await self._doubt(key)
            step = self._give_up if has_resource(self._journal, key) else self._release
            decided += await step(doubt, again)
        if self._decisions.resend_absent:
            await self._session.clock.sleep(self._session.job.upload.quiet_s)
            for doubt in with_bodies(self._session.plans, self._left()):
                decided += await self._release(doubt, again, is_all=True)
        return decided + await self._send(again)

    def _left(self) -> list[Doubt]:
        """Return what is in doubt and was not decided on by its key."""
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

    def _must_wait(self, doubt: Doubt) -> str | None:
        """Return why a write must wait for another one in doubt of the same patient; None if it need not."""
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
        why = self._must_wait(doubt)
        if why is not None:
            return Decided(key, "refused", why)
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
        why = self._must_wait(doubt)
        if why is not None:
            return Decided(key, "refused", why)
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
        """Let a write go again if a search right now speaks for it; put it into `again`."""
        key, intent = doubt.intent.key, doubt.intent
        why = self._must_wait(doubt)
        if why is not None:
            return [] if is_all else [Decided(key, "refused", why)]
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
        why = self._must_wait(doubt)
        if why is not None:
            return [Decided(key, "refused", why)]
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
            iter([intents]), {intent.resource_type for intent in intents}, _ignore
        )
        states = lookups.states_of(self._journal, [intent.key for intent in intents])
        return [
            Decided(intent.key, "sent again", _HOW_IT_ENDED[states[intent.key]])
            for intent in intents
        ]

    def _now(self) -> datetime:
        return self._session.clock.now()


def only_one(finding: Finding) -> str | None:
    """Return the one resource that a write in doubt can be; None if it was there before, or is not sure."""
    possible = [each.resource_id for each in finding.candidates if each.when != "before"]
    is_seen = finding.settlement in {Settlement.FOUND, Settlement.UNCLEAR}
    return possible[0] if is_seen and len(possible) == 1 else None


def _ignore(disposition: Disposition, count: int) -> None:
    """Ignore how rows end."""


def _why_not_sent(intent: Intent, finding: Finding) -> str:
    if intent.interaction is Interaction.UPDATE:
        return f"not sent: {finding.message}"
    seen = ", ".join(each.resource_id for each in finding.candidates)
    return (
        f"not sent: Canvas shows {seen}. If that is this row: --confirm {intent.key}=ID. "
        f"If it is another user's: --resend {intent.key} --foreign ID"
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
