"""Settle writes whose answer was lost, by asking Canvas whether they happened.

A patient's resources are searched until two scans agree, and weighed (`weigh`, pure) against what was sent
and when. A create counts as found only if there is one resource like the write, made while it was being
sent, and claimed by no other row. A failed search says nothing (docs/guarantees.md, "Settling doubt").

An update is settled by one read: Canvas shows the sent content, the content before it, or an edit by
another user, which is never overwritten. It counts as found only if Canvas shows it in an element that
differs from the content before: a payer that was sent by its id can be compared only if the Organization
of that id is known.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

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
from pipeline.fhir.payment_notice import paid
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

_UNKNOWN_PAYER: Final = "recover|payer"
# Of an update: refused by Canvas, or compared before its first send.
_NOT_LOST: Final = ("conflict", "update|unguarded")
_SCANS_MAX: Final = 4  # until two in a row agree
_LESSONS_MAX: Final = 3  # reads of a run that try to learn one payer id
_SKEWS_MAX: Final = 20  # runs whose skew is learned, so that the reads are bounded
# Shortly before our first send by the server's clock: made by another user, if that clock and the one that
# stamps the rows agree. Such a resource is never taken for ours, and beside it ours does not count as absent.
_BEFORE: Final = timedelta(minutes=15)

_REMOVED: Final = (
    "Canvas does not have this resource any more: another user removed it. To create it again: "
    "canvas-ingest review CONFIG --resend KEY, then run again"
)

_INSIDE, _BEFOREHAND, _LATE, _UNTOLD = "inside", "before", "late", "untold"

Like = Mapping[str, datetime | None]  # id -> when it was made, by the server's clock
Content = dict[str, Any]
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

        Canvas shows every payer as an Organization. Only a create proves which one its payer id is: a read
        as old as the write of an update would show the payer that was there before.
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
        """Return `held_at`, a `Date` of the run that wrote last, by the clock of Canvas' conditions."""
        skew = await self._skew(run_id)
        return held_at if skew is None else skew.stamped_by(held_at, latest=latest)

    async def _skew(self, run_id: str) -> Skew | None:
        """Return the lead of the stamps over `Date` in a run, as its payments show; None: not known."""
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
            message = f"{_lost_how(doubt)}; Canvas could not be searched: {error.message}"
            return Finding(Settlement.UNKNOWN, "recover|unsearchable", message)
        claimed = await self._claimed(doubt.intent, like)
        is_time_known = (
            self.client.server_clock.agrees(doubt.ahead)
            if doubt.since is not None
            else doubt.intent.run_id == self.run_id
        )
        quiet = timedelta(seconds=self.quiet_s)
        if doubt.intent.resource_type == "PaymentNotice" and any(like.values()):
            doubt = _by_stamps(doubt, await self._skew(doubt.intent.run_id))
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
            message = f"{_lost_how(doubt)}; Canvas could not be asked: {error.message}"
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
        is_unseen = finding.settlement is Settlement.ABSENT or _is_comparable(sent, organizations)
        return replace(finding, held_at=read_at if is_unseen else dated)

    async def _was_lost_before(self, key: str) -> bool:
        """Return whether an answer to this update was lost since our last confirmed write."""
        if not self.lost_before:
            self.lost_before.append(await asyncio.to_thread(doubts.lost_updates, self.journal))
        return key in self.lost_before[0]

    def _contents(self, doubt: Doubt) -> tuple[Content | None, Content | None]:
        """Return what was sent, and what Canvas was known to hold before it; None if it is not known."""
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
        """Return what Canvas shows of a write that it took, and whose resource is said to be gone.

        ABSENT only if a read answers 404, and two searches show neither the resource nor another one
        like it that no row has.
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
            Candidate(each, made_at, _UNTOLD)
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
        clock is not known, existing resources are noted, so that they are never taken for ours; before a resend
        such a resource may be ours, applied late, and then a person decides.
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
                candidates=tuple(Candidate(each, like[each], _UNTOLD) for each in others),
            )
        before = await doubts.doubt_of(self.journal, intent.key) if others else None
        if before is not None and before.resent:
            return Finding(
                Settlement.UNCLEAR,
                "recover|untimely",
                f"right before it was to go again, a search shows {len(others)} like it that no row has",
                candidates=tuple(Candidate(each, like[each], _UNTOLD) for each in others),
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
        """Return the resources like it, as two scans in a row show them, and those perhaps of another payer.

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
    """Return how the payer of each resource compares with the one that was sent, by id.

    Payments have none. The Organization of a coverage that was sent with one is part of its match key.
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


def weigh_update(
    doubt: Doubt,
    sent: Content | None,
    before: Content | None,
    shown: Content | None,
    organizations: Organizations,
    quiet: timedelta = timedelta(0),
    *,
    is_moved: bool,
    is_probed: bool = False,
    was_lost: bool = False,
    was_lost_before: bool = False,
    read_at: datetime | None = None,
) -> Finding:
    """Decide what a read of a resource to be updated means. Pure.

    Args:
        doubt: The update.
        sent: Its content; None if its plan is gone.
        before: What Canvas was last known to hold; None if it is not known.
        shown: What Canvas shows; None if it has no such resource.
        organizations: The Organizations of payer ids, as far as they are known.
        quiet: The settling delay: how much later than known it may have been made, if its answer was lost.
        is_moved: Another coverage of the patient was written in between, so that Canvas may have given
            this one another `order`; that is not an edit.
        is_probed: It was sent with a later condition already (`_unedited`).
        was_lost: An answer to it was lost in this run.
        was_lost_before: An answer to it was lost in an earlier run: what Canvas changed since our last
            confirmed write may be that update.
        read_at: The oldest instant, by `Date`, of which `shown` may be; None if it is not known. An edit
            after it was not compared, so the condition is no later.
    """
    resource_id = doubt.intent.resource_id
    latest = None
    if doubt.intent.held_at is None and doubt.until is not None:
        # It may have been carried out as late as this; a run that was killed, long after the read.
        held_at = doubt.until + quiet
        latest = held_at if read_at is None else min(held_at, read_at)
        doubt = replace(doubt, intent=doubt.intent._replace(held_at=latest))
    if shown is None:
        return Finding(Settlement.CONFLICT, "canvas|not-found", _REMOVED)
    from_sent = None if sent is None else coverage_differences(sent, shown, organizations)
    from_before = None if before is None else coverage_differences(before, shown, organizations)
    not_ours = {"order"} if is_moved else set[str]()
    if sent is not None and from_sent == () and from_before:
        visible = set(from_before) - not_ours
        if _is_proven(doubt, sent, before, shown, visible, organizations, was_lost=was_lost):
            return Finding(Settlement.FOUND, "recover|found", "a read shows it", resource_id)
        if visible:
            return _unclear_payer(f"Canvas shows changes in {', '.join(sorted(visible))}")
    for like, different in ((before, from_before), (sent, from_sent)):
        if like is not None and different is not None and not set(different) - not_ours:
            was_moved = is_moved and "order" in (from_before or ())
            is_comparable = was_moved or _is_comparable(like, organizations)
            finding = _unedited(
                doubt, is_comparable=is_comparable, is_probed=is_probed, latest=latest
            )
            has_no_condition = not is_comparable and doubt.intent.held_at is None
            is_blind = has_no_condition and (
                before is None or compare_payers(like, shown, organizations) is not Payers.SAME
            )
            may_be_ours = was_lost or was_lost_before
            if is_blind or (finding.settlement is Settlement.CONFLICT and may_be_ours):
                return _unclear_payer("Canvas may have changed it after our last confirmed write")
            return finding
    return _edited(None if from_before is None else set(from_before) - not_ours)


def _is_proven(
    doubt: Doubt,
    sent: Content,
    before: Content | None,
    shown: Content,
    visible: Collection[str],
    organizations: Organizations,
    *,
    was_lost: bool,
) -> bool:
    """Return whether an update of which Canvas shows all that was sent is ours.

    `visible` names the elements in which it differs from what was there before.
    """
    if _is_comparable(sent, organizations):
        return True
    if not set(visible) - {"payor"}:
        return False
    is_named = compare_payers(sent, shown, organizations) is Payers.SAME
    # an earlier look that left it in doubt saw the same, and its rule hides whether it was lost
    is_ours = was_lost and doubt.rule != _UNKNOWN_PAYER
    return is_named or (is_ours and _has_same_payer(sent, before))


def _edited(elements: Collection[str] | None) -> Finding:
    """Return the conflict with an edit of these elements; None: what was there before is not known."""
    message = (
        "Canvas holds another version, and what was there before is not known: edit it in Canvas"
    )
    if elements is not None:
        message = (
            f"another user edited it in Canvas, in {', '.join(sorted(elements))}: correct the file or "
            "Canvas, then run again"
        )
    return Finding(Settlement.CONFLICT, "conflict", message)


def _unclear_payer(what: str) -> Finding:
    """Return a doubt for a person: the only change cannot be compared."""
    message = (
        f"{what}, and Canvas never returns the payer id that was sent: this is our own write or an edit by another user; "
        "look at the payer in Canvas"
    )
    return Finding(Settlement.UNCLEAR, _UNKNOWN_PAYER, message)


def _unedited(
    doubt: Doubt, *, is_comparable: bool, is_probed: bool, latest: datetime | None
) -> Finding:
    """Decide how to send an update again if no comparable element was edited.

    If the payer cannot be compared, the condition is the time of our last write, not of this read. If Canvas
    refuses it, the next condition is one second later, because its clock shows no fractions; if it still
    refuses, the payer was edited. The later condition is for one send only, so that several nights do not
    reach the time of an edit. If we moved the coverage ourselves, no condition can decide. No condition is
    later than `latest`.
    """
    again = Finding(Settlement.ABSENT, "recover|absent", "a read shows what was there before")
    held_at = doubt.intent.held_at
    if is_comparable or held_at is None:
        return again
    again = replace(again, held_at=held_at)
    probe_at = held_at + timedelta(seconds=1)
    probing = replace(again, probe_at=probe_at if latest is None else min(probe_at, latest))
    if doubt.rule != "conflict":
        return probing if is_probed else again  # it was lost on its one send: it goes once more
    if not is_probed:
        return probing
    message = (
        "it was changed in Canvas after our last confirmed write, and in no element that can be compared, so "
        "perhaps in its payer: correct the file or Canvas, then run again"
    )
    return Finding(Settlement.CONFLICT, "conflict", message)


def _has_same_payer(sent: Content, before: Content | None) -> bool:
    """Return whether an update keeps the payer id.

    If it changes the payer, too, its other elements prove nothing about the payer: another user may have
    edited just those. The same holds if Canvas refused it, so that only another user can have edited them.
    """
    return before is not None and payer_id_of(before) == payer_id_of(sent)


def _is_comparable(coverage: Content | None, organizations: Organizations) -> bool:
    return coverage is not None and organization_of(coverage, organizations) is not None


def like_of(intent: Intent, resources: Collection[dict[str, Any]]) -> Like:
    """Return the resources that the intent could be, filtered again: a search may show others, too."""
    if intent.resource_type == "Coverage":
        return {each["id"]: None for each in resources if is_like(each, intent.match_key)}
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
    doubt: Doubt,
    like: Like,
    claimed: Collection[str],
    quiet: timedelta,
    *,
    is_time_known: bool,
    unsure: Collection[str] = (),
) -> Finding:
    """Decide what a search means. Pure.

    Args:
        doubt: The write.
        like: What is like it in Canvas, with the time at which it was made.
        claimed: Ids that belong to other rows, or are known not to be ours.
        quiet: The settling delay: how much later than known it may have been made.
        is_time_known: The server's clock is known, and neither it nor ours was set since the sends; or there is
            none, but this run sent it, after all that was there had been noted.
        unsure: Ids of coverages that may be those of another payer.
    """
    candidates = tuple(
        Candidate(each, made_at, _when(doubt, made_at, quiet, is_time_known=is_time_known))
        for each, made_at in like.items()
        if each not in claimed
    )
    if doubt.attempts == 0 and not doubt.resent:
        return Finding(Settlement.UNCLEAR, doubt.rule, doubt.message, candidates=candidates)
    possible = [each for each in candidates if each.when != _BEFOREHAND]
    if not possible and not any(_is_near(doubt, each, quiet) for each in candidates):
        message = f"{_lost_how(doubt)}; a search shows none like it"
        return Finding(Settlement.ABSENT, "recover|absent", message, candidates=candidates)
    if len(possible) == 1 and possible[0].resource_id in unsure:
        rule, why = _UNKNOWN_PAYER, "a search shows one like it, whose payer cannot be compared"
        return Finding(
            Settlement.UNCLEAR, rule, f"{_lost_how(doubt)}; {why}", candidates=candidates
        )
    if len(possible) == 1 and possible[0].when == _INSIDE:
        message = f"{_lost_how(doubt)}; a search shows it"
        found = possible[0].resource_id
        return Finding(Settlement.FOUND, "recover|found", message, found, candidates)
    if len(possible) > 1:
        rule, why = "recover|several", f"a search shows {len(possible)} like it that no row has"
    else:
        rule, why = "recover|untimely", "a search shows one like it that may be another's"
    return Finding(Settlement.UNCLEAR, rule, f"{_lost_how(doubt)}; {why}", candidates=candidates)


def _by_stamps(doubt: Doubt, skew: Skew | None) -> Doubt:
    """Return a doubt whose times are those of the clock that stamps payments, if it is another one."""
    if skew is None:
        return doubt
    since = skew.stamps(doubt.since, earliest=True)
    return replace(doubt, since=since, until=skew.stamps(doubt.until, earliest=False))


def _lost_how(doubt: Doubt) -> str:
    """Return how its answer was lost, without the results of earlier searches."""
    return doubt.message.partition("; ")[0]


def _when(doubt: Doubt, made_at: datetime | None, quiet: timedelta, *, is_time_known: bool) -> str:
    """Return when a resource was made in relation to the sends, by the server's clock."""
    if doubt.intent.resource_type == "Coverage" or (doubt.since is None and is_time_known):
        return _INSIDE
    if doubt.since is None or doubt.until is None or made_at is None or not is_time_known:
        return _UNTOLD  # no `until`: the server's clock was set while it was being sent
    if made_at < doubt.since:
        return _BEFOREHAND
    if made_at > doubt.until + quiet:
        return _LATE
    return _INSIDE


def _is_near(doubt: Doubt, candidate: Candidate, quiet: timedelta) -> bool:
    """Return whether it was made shortly before our first send, or around our sends by our own clock.

    If a gateway's clock is ahead of that of the stamps, only ours shows that it may be the write.
    """
    made_at, since = candidate.created_at, doubt.since
    if made_at is None or since is None:
        return False
    if made_at >= since - _BEFORE:
        return True
    ahead, until = doubt.ahead, doubt.until
    if ahead is None or made_at < since - ahead - _BEFORE:
        return False
    return until is None or made_at <= until - ahead + quiet + _BEFORE
