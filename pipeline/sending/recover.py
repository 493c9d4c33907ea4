"""Settle writes whose answer was lost, by asking Canvas whether they happened.

A patient's resources are searched until two scans agree, and an update is settled by one read; `weigh.py` decides what
these show. A failed search proves nothing (docs/guarantees.md, "Settling doubt").
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Final

import orjson

from pipeline.canvas.client import Client
from pipeline.canvas.skew import Skew, measure
from pipeline.clock import Clock
from pipeline.errors import CanvasError, SearchFailed, Stopped
from pipeline.fhir.coverage import (
    Organizations,
    Payers,
    compare_payers,
    coverage_differences,
    is_like,
    names_organization,
    organization_of,
    organizations_of,
    payer_id_of,
)
from pipeline.journal import decisions, doubts
from pipeline.journal.journal import Journal
from pipeline.journal.payers import learn_payers, payers_seen
from pipeline.records import (
    Candidate,
    Doubt,
    Finding,
    Intent,
    Interaction,
    PayerEvidence,
    Settlement,
)
from pipeline.sending.weigh import (
    UNTOLD,
    Content,
    Like,
    by_stamps,
    is_comparable_payer,
    like_of,
    lost_how,
    weigh,
    weigh_update,
)

# Of an update: refused by Canvas, or compared before its first send.
_NOT_LOST: Final = ("conflict", "update|unguarded")
_SCANS_MAX: Final = 4  # until two in a row agree
_LESSONS_MAX: Final = 3  # reads of a run that try to learn one payer id
_SKEWS_MAX: Final = 20  # runs whose skew is learned, so that the reads are bounded


# (run, feed, key, fingerprint) -> the content in that run's plan; with fingerprint "" the content that Canvas
# showed when the row was taken over. None if the plan is gone.
Contents = Callable[[str, str, str, str], bytes | None]


@dataclass(frozen=True, slots=True)
class Recovery:
    """Searches and reads of one Canvas, with the data of one journal."""

    client: Client
    journal: Journal
    clock: Clock
    quiet_s: float
    run_id: str
    contents: Contents
    probed: set[str] = field(default_factory=set)  # keys of updates sent with a later condition
    lost: set[str] = field(default_factory=set)  # keys of updates whose answer was lost in this run
    # The same of earlier runs, since the last confirmed write. Loaded once, if a conflict needs them.
    lost_before: list[frozenset[str]] = field(default_factory=list)
    lessons: Counter[str] = field(default_factory=Counter)  # reads by payer id
    skews: dict[str, Skew | None] = field(default_factory=dict)  # by run; None: not known

    async def learn(self, intent: Intent, resource_id: str) -> None:
        """Read back a coverage that was just created, if the Organization of its payer id is not known.

        Canvas shows every payer as an Organization. Only a create proves which one its payer id is, because a
        stale read after an update would show the payer from before it.
        """
        sent = orjson.loads(intent.body)
        payer_id = payer_id_of(sent)
        if payer_id is None or self.lessons[payer_id] >= _LESSONS_MAX:
            return
        self.lessons[payer_id] += 1
        if payer_id in dict(await asyncio.to_thread(payers_seen, self.journal)):
            self.lessons[payer_id] = _LESSONS_MAX
            return
        with suppress(CanvasError, Stopped):  # the next create of this payer tries again
            shown = await self.client.read(intent.resource_type, resource_id)
            if shown is None or coverage_differences(sent, shown, {}):
                return
            organization = organization_of(shown, {})
            if organization is not None:
                self.lessons[payer_id] = _LESSONS_MAX
                evidence = PayerEvidence(payer_id, organization, intent.key, resource_id)
                at = self.clock.now()
                await asyncio.to_thread(learn_payers, self.journal, self.run_id, [evidence], at)

    async def condition(self, held_at: datetime, run_id: str, *, latest: bool = False) -> datetime:
        """Convert `held_at`, a `Date` that run `run_id` saw, to the clock of Canvas' preconditions."""
        skew = await self._skew(run_id)
        return held_at if skew is None else skew.stamped_by(held_at, latest=latest)

    async def _skew(self, run_id: str) -> Skew | None:
        """Return how far the stamps were ahead of `Date` in a run, measured on its payments; None if not known."""
        if run_id not in self.skews and len(self.skews) < _SKEWS_MAX:
            payments = await asyncio.to_thread(doubts.stamped, self.journal, run_id)
            skew = await measure(self.client, payments)
            if skew is None and run_id == self.run_id:
                return None  # its payments may yet come
            self.skews[run_id] = skew
        return self.skews.get(run_id)

    async def look(self, doubt: Doubt) -> Finding:
        """Return what Canvas shows of a write in doubt."""
        if doubt.intent.interaction is Interaction.UPDATE:
            return await self._look_at_update(doubt)
        organizations = await self._organizations()
        sent = await asyncio.to_thread(self._sent, doubt.intent)
        try:
            like, unsure = await self._agreed(doubt.intent, sent, organizations)
        except SearchFailed as error:
            message = f"{lost_how(doubt)}; Canvas could not be searched: {error.message}"
            return Finding(Settlement.UNKNOWN, "recover|unsearchable", message)
        claimed = await self._claimed(doubt.intent, like)
        is_time_known = (
            self.client.server_clock.agrees(doubt.ahead)
            if doubt.since is not None
            else doubt.intent.run_id == self.run_id
        )
        quiet = timedelta(seconds=self.quiet_s)
        if doubt.intent.resource_type == "PaymentNotice" and any(like.values()):
            doubt = by_stamps(doubt, await self._skew(doubt.intent.run_id))
        return weigh(doubt, like, claimed, quiet, is_time_known=is_time_known, unsure=unsure)

    async def _organizations(self) -> Organizations:
        return organizations_of(await asyncio.to_thread(payers_seen, self.journal))

    async def _look_at_update(self, doubt: Doubt) -> Finding:
        intent = doubt.intent
        if doubt.rule not in _NOT_LOST:
            self.lost.add(intent.key)
        try:
            shown, dated = await self.client.look(intent.resource_type, intent.resource_id)
        except SearchFailed as error:
            message = f"{lost_how(doubt)}; Canvas could not be asked: {error.message}"
            return Finding(Settlement.UNKNOWN, "recover|unsearchable", message)
        # A read may be as old as a search may.
        read_at = None if dated is None else dated - timedelta(seconds=int(self.quiet_s))
        sent, before = await asyncio.to_thread(self._contents, doubt)
        organizations = await self._organizations()
        is_moved = await doubts.has_sibling_since(self.journal, intent.key)
        weighed = partial(
            weigh_update,
            doubt,
            sent,
            before,
            shown,
            organizations,
            timedelta(seconds=self.quiet_s),
            is_moved=is_moved,
            is_probed=intent.key in self.probed,
            was_lost=intent.key in self.lost,
            read_at=read_at,
        )
        finding = weighed()
        if finding.settlement is Settlement.CONFLICT and await self._was_lost_before(intent.key):
            finding = weighed(was_lost_before=True)
        is_sent_again = intent.run_id == self.run_id
        if finding.probe_at is not None:
            run_id = doubt.held.run_id
            probe_at = await self.condition(finding.probe_at, run_id, latest=True)
            finding = replace(finding, probe_at=probe_at)
        if finding.probe_at is not None and is_sent_again:
            self.probed.add(intent.key)
        if finding.held_at is not None:
            return finding
        is_unseen = finding.settlement is Settlement.ABSENT or is_comparable_payer(
            sent, organizations
        )
        return replace(finding, held_at=read_at if is_unseen else dated)

    async def _was_lost_before(self, key: str) -> bool:
        """Return whether an answer to this update was lost since our last confirmed write."""
        if not self.lost_before:
            self.lost_before.append(await asyncio.to_thread(doubts.lost_updates, self.journal))
        return key in self.lost_before[0]

    def _contents(self, doubt: Doubt) -> tuple[Content | None, Content | None]:
        """Return what was sent, and what Canvas held before it; None for each if it is not known."""
        intent, held = doubt.intent, doubt.held
        before = self.contents(
            held.run_id or intent.run_id, intent.feed, intent.key, held.fingerprint
        )
        return self._sent(intent), (orjson.loads(before) if before else None)

    def _sent(self, intent: Intent) -> Content | None:
        """Return what was sent; None if the plan of its run is gone."""
        sent = intent.body or self.contents(
            intent.run_id, intent.feed, intent.key, intent.fingerprint
        )
        return orjson.loads(sent) if sent else None

    async def look_for_gone(self, intent: Intent) -> Finding:
        """Return what Canvas shows of a confirmed write whose resource is said to be gone.

        It is ABSENT only if a read answers 404, and two searches show neither the resource nor one like it
        that belongs to no row.
        """
        named = f"{intent.resource_type}/{intent.resource_id}"
        try:
            shown, _ = await self.client.look(intent.resource_type, intent.resource_id)
            scans = [
                each
                for _ in range(2)
                for each in await self.client.of_patient(intent.resource_type, intent.lane)
            ]
        except SearchFailed as error:
            message = f"Canvas could not be asked for {named}: {error.message}"
            return Finding(Settlement.UNKNOWN, "recover|unsearchable", message)
        if shown is not None or any(each.get("id") == intent.resource_id for each in scans):
            message = f"Canvas still has {named}"
            return Finding(Settlement.FOUND, "recover|found", message, intent.resource_id)
        like = like_of(intent, scans)
        claimed = await self._claimed(intent, like)
        candidates = tuple(
            Candidate(each, made_at, UNTOLD)
            for each, made_at in like.items()
            if each not in claimed
        )
        if candidates:
            message = f"a search shows {len(candidates)} like it that no row has"
            return Finding(Settlement.UNCLEAR, "recover|several", message, candidates=candidates)
        return Finding(Settlement.ABSENT, "recover|absent", f"Canvas does not have {named}")

    async def first_look(self, intent: Intent) -> Finding | None:
        """Check before an unprotected first send whether it may be sent. Returns None if it may.

        After a loss of the journal, rows that Canvas seems to hold are set aside for a person. If the server's
        clock is not known, existing resources are noted, so that they are never taken for ours. Before a
        resend, such a resource may be ours, applied late: then a person decides.
        """
        organizations = await self._organizations()
        sent = await asyncio.to_thread(self._sent, intent)
        like, _ = await self.client.persistently(
            lambda: self._agreed(intent, sent, organizations), intent.resource_type
        )
        claimed = await self._claimed(intent, like)
        others = [each for each in like if each not in claimed]
        if self.journal.was_lost and others:
            return Finding(
                Settlement.UNCLEAR,
                "journal|lost",
                f"the journal was lost, and Canvas holds {len(others)} like it",
                candidates=tuple(Candidate(each, like[each], UNTOLD) for each in others),
            )
        before = await doubts.doubt_of(self.journal, intent.key) if others else None
        if before is not None and before.resent:
            return Finding(
                Settlement.UNCLEAR,
                "recover|untimely",
                f"right before it was to go again, a search shows {len(others)} like it that no row has",
                candidates=tuple(Candidate(each, like[each], UNTOLD) for each in others),
            )
        if others:
            await decisions.note_foreign(
                self.journal,
                self.run_id,
                intent.resource_type,
                intent.lane,
                others,
                self.clock.now(),
            )
        return None

    async def _claimed(self, intent: Intent, like: Like) -> set[str]:
        return await doubts.assigned_ids(self.journal, intent.resource_type, intent.lane, like)

    async def _agreed(
        self, intent: Intent, sent: Content | None, organizations: Organizations
    ) -> tuple[Like, set[str]]:
        """Return the resources like the write that two scans in a row show, and those whose payer is not known.

        Raises:
            SearchFailed: No two scans agree.
        """
        before: Like | None = None
        for _ in range(_SCANS_MAX):
            shown = await self.client.of_patient(intent.resource_type, intent.lane)
            now = like_of(intent, shown)
            if now == before:
                payers = _payers_of(intent, sent, shown, organizations)
                like = {each: now[each] for each in now if payers[each] is not Payers.OTHER}
                return like, {each for each in like if payers[each] is Payers.UNKNOWN}
            before = now
        raise SearchFailed("its scans do not agree")


def _payers_of(
    intent: Intent,
    sent: Content | None,
    shown: Collection[Content],
    organizations: Organizations,
) -> Mapping[str, Payers]:
    """Return by id how the payer of each resource compares with the one that was sent.

    A payment has no payer. If a coverage was sent with an Organization, its match key includes it.
    """
    if intent.resource_type != "Coverage" or names_organization(intent.match_key):
        return defaultdict(lambda: Payers.SAME)
    if sent is None:
        return defaultdict(lambda: Payers.UNKNOWN)
    return {
        each["id"]: compare_payers(sent, each, organizations)
        for each in shown
        if is_like(each, intent.match_key)
    }
