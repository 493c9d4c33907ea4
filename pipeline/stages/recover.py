"""Doubt settled by asking Canvas: did a write whose answer was lost happen?

A patient's resources are searched until two scans agree, and weighed (`weigh`, pure) against what was
sent and when. Only what is certain is settled: one resource, like the write, made while it was being
sent, and claimed by no other row. A failed search says nothing (reliability.md, "Settling doubt").

An update is settled by one read: Canvas shows what we sent, or what was there before, or what
somebody else made of it, and that is never written over.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

import orjson

from pipeline.canvas.client import Client
from pipeline.clock import Clock
from pipeline.errors import SearchFailed
from pipeline.fhir.coverage import coverage_differences, is_like
from pipeline.fhir.payment_notice import paid
from pipeline.journal.journal import Journal
from pipeline.records import Candidate, Doubt, Finding, Intent, Interaction, Settlement

_SCANS_MAX: Final = 4  # until two in a row agree
# Shortly before our first send by the server's clock: made by somebody else, if that clock and the
# one that stamps the rows agree. It is never taken for ours, nor is ours called absent beside it.
_BEFORE: Final = timedelta(minutes=15)

_INSIDE, _BEFOREHAND, _LATE, _UNTOLD = "inside", "before", "late", "untold"

Like = Mapping[str, datetime | None]  # id -> when it was made, by the server's clock
Content = dict[str, Any]
# (run, feed, key, fingerprint) -> what that run's plan was to send; with fingerprint "" what Canvas
# showed when the row was taken over. None where the plan is gone.
Contents = Callable[[str, str, str, str], bytes | None]


@dataclass(frozen=True, slots=True)
class Recovery:
    """Asks one Canvas, with the memory of one journal."""

    client: Client
    journal: Journal
    clock: Clock
    quiet_s: float
    run_id: str
    contents: Contents
    probed: set[str] = field(default_factory=set)  # keys of updates whose condition was moved on

    async def look(self, doubt: Doubt) -> Finding:
        """What Canvas shows of a write in doubt."""
        if doubt.intent.interaction is Interaction.UPDATE:
            return await self._look_at_update(doubt)
        try:
            like = await self._agreed(doubt.intent)
        except SearchFailed as error:
            message = f"{_lost_how(doubt)}; Canvas could not be searched: {error.message}"
            return Finding(Settlement.UNKNOWN, "recover|unsearchable", message)
        claimed = await self._claimed(doubt.intent, like)
        is_told = (
            self.client.server_clock.agrees(doubt.ahead)
            if doubt.since is not None
            else doubt.intent.run_id == self.run_id
        )
        return weigh(doubt, like, claimed, timedelta(seconds=self.quiet_s), is_told=is_told)

    async def _look_at_update(self, doubt: Doubt) -> Finding:
        intent = doubt.intent
        try:
            shown, dated = await self.client.look(intent.resource_type, intent.resource_id)
        except SearchFailed as error:
            message = f"{_lost_how(doubt)}; Canvas could not be asked: {error.message}"
            return Finding(Settlement.UNKNOWN, "recover|unsearchable", message)
        sent, before = await asyncio.to_thread(self._contents, doubt)
        is_moved = await self.journal.has_sibling_since(intent.key)
        is_probed = intent.key in self.probed
        finding = weigh_update(
            doubt,
            sent,
            before,
            shown,
            timedelta(seconds=self.quiet_s),
            is_moved=is_moved,
            is_probed=is_probed,
        )
        is_sent_again = intent.run_id == self.run_id
        if finding.probe_at is not None and is_sent_again:
            self.probed.add(intent.key)
        if dated is None or finding.held_at is not None:
            return finding
        if finding.settlement is Settlement.ABSENT or _has_reference(sent):
            dated -= timedelta(seconds=int(self.quiet_s))  # a read may be as old, as a search may
        return replace(finding, held_at=dated)

    def _contents(self, doubt: Doubt) -> tuple[Content | None, Content | None]:
        """What was sent, and what Canvas was known to hold before it; None where it is not known."""
        intent, held = doubt.intent, doubt.held
        sent = intent.body or self.contents(
            intent.run_id, intent.feed, intent.key, intent.fingerprint
        )
        before = self.contents(
            held.run_id or intent.run_id, intent.feed, intent.key, held.fingerprint
        )
        return (orjson.loads(sent) if sent else None), (orjson.loads(before) if before else None)

    async def first_look(self, intent: Intent) -> Finding | None:
        """Before a first send that nothing else protects: may it go? None: yes.

        With a journal that was lost, what Canvas holds already is set aside for a person. Where the
        server's clock is not known, what is there now is noted, so that it is never taken for ours;
        but before a resend it may be ours, carried out late, and then a person decides.
        """
        like = await self.client.persistently(lambda: self._agreed(intent), intent.resource_type)
        claimed = await self._claimed(intent, like)
        others = [each for each in like if each not in claimed]
        if self.journal.was_lost and others:
            return Finding(
                Settlement.UNCLEAR,
                "journal|lost",
                f"the journal was lost, and Canvas holds {len(others)} like it",
                candidates=tuple(Candidate(each, like[each], _UNTOLD) for each in others),
            )
        before = await self.journal.doubt(intent.key) if others else None
        if before is not None and before.resent:
            return Finding(
                Settlement.UNCLEAR,
                "recover|untimely",
                f"right before it was to go again, a search shows {len(others)} like it that no row has",
                candidates=tuple(Candidate(each, like[each], _UNTOLD) for each in others),
            )
        if others:
            await self.journal.note_foreign(
                self.run_id, intent.resource_type, intent.lane, others, self.clock.now()
            )
        return None

    async def _claimed(self, intent: Intent, like: Like) -> set[str]:
        return await self.journal.claimed(intent.resource_type, intent.lane, like)

    async def _agreed(self, intent: Intent) -> Like:
        """What is like it, as two scans in a row show it. Raises SearchFailed where no two agree."""
        before: Like | None = None
        for _ in range(_SCANS_MAX):
            shown = await self.client.of_patient(intent.resource_type, intent.lane)
            now = like_of(intent, shown)
            if now == before:
                return now
            before = now
        raise SearchFailed("its scans do not agree")


def weigh_update(
    doubt: Doubt,
    sent: Content | None,
    before: Content | None,
    shown: Content | None,
    quiet: timedelta = timedelta(0),
    *,
    is_moved: bool,
    is_probed: bool = False,
) -> Finding:
    """What a read of a resource that was to be updated comes to. Pure.

    `is_moved`: we wrote another coverage of the patient in between, so that Canvas may have given
    this one another `order`; that is then nobody's edit. `is_probed`: it was sent with a later
    condition already (`_unedited`). `quiet`: how much later than we know it may have been made, where
    its answer was lost.
    """
    resource_id = doubt.intent.resource_id
    if doubt.intent.held_at is None and doubt.until is not None:
        doubt = replace(doubt, intent=doubt.intent._replace(held_at=doubt.until + quiet))
    if shown is None:
        message = "Canvas has no such resource any more: somebody removed it"
        return Finding(Settlement.CONFLICT, "canvas|not-found", message)
    from_sent = None if sent is None else coverage_differences(sent, shown)
    if from_sent == ():
        return Finding(Settlement.FOUND, "recover|found", "a read shows it", resource_id)
    from_before = None if before is None else coverage_differences(before, shown)
    not_ours = {"order"} if is_moved else set()
    for like, different in ((before, from_before), (sent, from_sent)):
        if different is not None and not set(different) - not_ours:
            was_moved = is_moved and "order" in (from_before or ())
            return _unedited(doubt, like, was_moved=was_moved, is_probed=is_probed)
    if from_before is None:
        message = "Canvas holds another version, and what we sent before is no longer known: edit it by hand"
        return Finding(Settlement.CONFLICT, "conflict", message)
    elements = ", ".join(sorted(set(from_before) - not_ours))
    message = (
        f"somebody edited it in Canvas, in {elements}: mend the file or Canvas, then run again"
    )
    return Finding(Settlement.CONFLICT, "conflict", message)


def _unedited(doubt: Doubt, like: Content | None, *, was_moved: bool, is_probed: bool) -> Finding:
    """Nothing that can be compared was edited: it may be written again, from what was read.

    A payer that was sent by its id comes back as an Organization, and cannot be compared. Then
    Canvas has to say that nothing happened since our last write, and not since this read: once
    with the second after it, for its clock shows no fractions; and where it still says no, the
    payer is what somebody edited. That later condition is for one send, lest nights add up to the
    edit. Where we moved the coverage ourselves, no condition can tell.
    """
    again = Finding(Settlement.ABSENT, "recover|absent", "a read shows what was there before")
    held_at = doubt.intent.held_at
    if was_moved or held_at is None or _has_reference(like):
        return again
    again = replace(again, held_at=held_at)
    probing = replace(again, probe_at=held_at + timedelta(seconds=1))
    if doubt.rule != "conflict":
        return probing if is_probed else again  # it was lost on its one send: it goes once more
    if not is_probed:
        return probing
    message = "somebody edited it in Canvas, in payor: mend the file or Canvas, then run again"
    return Finding(Settlement.CONFLICT, "conflict", message)


def _has_reference(coverage: Content | None) -> bool:
    return coverage is not None and "reference" in coverage["payor"][0]


def like_of(intent: Intent, resources: Collection[dict[str, Any]]) -> Like:
    """Those resources that the intent could be, filtered anew: a search may show others too."""
    if intent.resource_type == "Coverage":
        return {each["id"]: None for each in resources if is_like(each, intent.likeness)}
    like: dict[str, datetime | None] = {}
    for each in resources:
        notice = paid(each)
        if notice is not None and (notice.patient, notice.cents, notice.claim) == (
            f"Patient/{intent.lane}",
            intent.amount_cents,
            intent.claim,
        ):
            like[each["id"]] = notice.created_at
    return like


def weigh(
    doubt: Doubt, like: Like, claimed: Collection[str], quiet: timedelta, *, is_told: bool
) -> Finding:
    """What a search comes to. `claimed` are ids of other rows, or known not to be ours.

    `is_told`: the server's clock is known, and neither it nor ours was set since the sends; or
    there is none, but it was this very run that sent it, after all that was there had been noted.
    """
    candidates = tuple(
        Candidate(each, made_at, _when(doubt, made_at, quiet, is_told=is_told))
        for each, made_at in like.items()
        if each not in claimed
    )
    if doubt.attempts == 0 and not doubt.resent:
        return Finding(Settlement.UNCLEAR, doubt.rule, doubt.message, candidates=candidates)
    possible = [each for each in candidates if each.when != _BEFOREHAND]
    if not possible and not any(_is_near(doubt, each) for each in candidates):
        message = f"{_lost_how(doubt)}; a search shows none like it"
        return Finding(Settlement.ABSENT, "recover|absent", message, candidates=candidates)
    if len(possible) == 1 and possible[0].when == _INSIDE:
        message = f"{_lost_how(doubt)}; a search shows it"
        found = possible[0].resource_id
        return Finding(Settlement.FOUND, "recover|found", message, found, candidates)
    if len(possible) > 1:
        rule, why = "recover|several", f"a search shows {len(possible)} like it that no row has"
    else:
        rule, why = "recover|untimely", "a search shows one like it that may be another's"
    return Finding(Settlement.UNCLEAR, rule, f"{_lost_how(doubt)}; {why}", candidates=candidates)


def _lost_how(doubt: Doubt) -> str:
    """How its answer was lost, without what earlier searches came to."""
    return doubt.message.partition("; ")[0]


def _when(doubt: Doubt, made_at: datetime | None, quiet: timedelta, *, is_told: bool) -> str:
    """Where the making of a resource lies against the sends, by the server's clock."""
    if doubt.intent.resource_type == "Coverage" or (doubt.since is None and is_told):
        return _INSIDE
    if doubt.since is None or doubt.until is None or made_at is None or not is_told:
        return _UNTOLD  # no `until`: the server's clock was set while it was being sent
    if made_at < doubt.since:
        return _BEFOREHAND
    if made_at > doubt.until + quiet:
        return _LATE
    return _INSIDE


def _is_near(doubt: Doubt, candidate: Candidate) -> bool:
    made_at, since = candidate.created_at, doubt.since
    return made_at is not None and since is not None and made_at >= since - _BEFORE
