"""Weigh what Canvas shows of a write whose answer was lost. Pure.

A create counts as found only if there is one resource like the write, made while it was being sent, and belonging to
no other row. An update is settled by one read: Canvas shows the sent content, the content before it, or an edit by
another user, which is never overwritten. It counts as found only if Canvas shows it in an element that differs from
the content before. A payer that was sent by its id can be compared only if the Organization of that id is known
(docs/guarantees.md, "Settling doubt").
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from pipeline.canvas.skew import Skew
from pipeline.fhir.coverage import (
    Organizations,
    Payers,
    compare_payers,
    coverage_differences,
    is_like,
    organization_of,
    payer_id_of,
)
from pipeline.fhir.payment_notice import paid
from pipeline.records import Candidate, Doubt, Finding, Intent, Settlement

_UNKNOWN_PAYER: Final = "recover|payer"
# Shortly before our first send by the server's clock: made by another user, if that clock and the one that
# stamps the rows agree. Such a resource is never taken for ours, and beside it ours does not count as absent.
_BEFORE: Final = timedelta(minutes=15)
_REMOVED: Final = (
    "Canvas does not have this resource any more: another user removed it. To create it again: "
    "canvas-ingest review CONFIG --resend KEY, then run again"
)
_INSIDE, _BEFOREHAND, _LATE, UNTOLD = "inside", "before", "late", "untold"
Like = Mapping[str, datetime | None]  # id -> when it was made, by the server's clock
Content = dict[str, Any]


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
    """Decide what a read of the resource of an update in doubt means. Pure.

    Args:
        doubt: The update.
        sent: Its content; None if its plan is gone.
        before: What Canvas was last known to hold; None if it is not known.
        shown: What Canvas shows; None if it has no such resource.
        organizations: The Organizations of payer ids, as far as they are known.
        quiet: The settling delay: how long after its last send a write with a lost answer may still be applied.
        is_moved: Another write of ours may have given it another `order`; that is not an edit.
        is_probed: It was sent with a later condition already (`_unedited`).
        was_lost: An answer to it was lost in this run.
        was_lost_before: An answer to it was lost in an earlier run: an edit may be that update.
        read_at: The oldest state that `shown` may be, by `Date`; no condition is later. None if it is not known.
    """
    resource_id = doubt.intent.resource_id
    latest = None if doubt.intent.held_at is not None else _latest_condition(doubt, quiet, read_at)
    if latest is not None:
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
            is_comparable = was_moved or is_comparable_payer(like, organizations)
            finding = _unedited(
                doubt, is_comparable=is_comparable, is_probed=is_probed, latest=latest
            )
            is_named = compare_payers(like, shown, organizations) is Payers.SAME
            is_blind = not is_comparable and _is_blind(
                doubt, latest, is_named=is_named, is_known=before is not None
            )
            is_edited = finding.settlement is Settlement.CONFLICT
            if is_blind or (is_edited and (was_lost or was_lost_before)):
                return _unclear_payer("Canvas may have changed it after our last confirmed write")
            return finding
    return _edited(None if from_before is None else set(from_before) - not_ours)


def _is_blind(doubt: Doubt, latest: datetime | None, *, is_named: bool, is_known: bool) -> bool:
    """Return whether an update of a payer that cannot be compared could overwrite an edit unnoticed.

    Args:
        doubt: The update.
        latest: The latest instant of our last write, if that is a guess.
        is_named: The payers agree by name.
        is_known: The content before it is known.
    """
    if doubt.intent.held_at is None:
        return not (is_known and is_named)
    # Neither the content before nor the payer says who made a change that Canvas reports, or may let pass.
    is_changed = latest is not None or doubt.rule == "conflict"
    return is_changed and not (is_known or is_named)


def _latest_condition(doubt: Doubt, quiet: timedelta, read_at: datetime | None) -> datetime | None:
    """Return the latest instant of our last write, or of the read if that is earlier; None if it is not known.

    A write of a run that was killed may have been carried out long after the read that compared it.
    """
    if doubt.until is None:
        return None
    held_at = doubt.until + quiet
    return held_at if read_at is None else min(held_at, read_at)


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
    """Return whether an update is ours, given that Canvas shows all that was sent.

    `visible` names the elements in which it differs from what was there before.
    """
    if is_comparable_payer(sent, organizations):
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


def is_comparable_payer(coverage: Content | None, organizations: Organizations) -> bool:
    """Return whether the Organization of the payer that was sent is known."""
    return coverage is not None and organization_of(coverage, organizations) is not None


def like_of(intent: Intent, resources: Collection[dict[str, Any]]) -> Like:
    """Return the resources that the intent could be. The program filters again: a search may show others, too."""
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
        quiet: The settling delay: how long after its last send the write may still be applied.
        is_time_known: The server's clock is known, and neither it nor ours was set since the sends. Or it is not
            known, but this run sent the write, and noted before it what Canvas already held.
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
        message = f"{lost_how(doubt)}; a search shows none like it"
        return Finding(Settlement.ABSENT, "recover|absent", message, candidates=candidates)
    if len(possible) == 1 and possible[0].resource_id in unsure:
        rule, why = _UNKNOWN_PAYER, "a search shows one like it, whose payer cannot be compared"
        return Finding(Settlement.UNCLEAR, rule, f"{lost_how(doubt)}; {why}", candidates=candidates)
    if len(possible) == 1 and possible[0].when == _INSIDE:
        message = f"{lost_how(doubt)}; a search shows it"
        found = possible[0].resource_id
        return Finding(Settlement.FOUND, "recover|found", message, found, candidates)
    if len(possible) > 1:
        rule, why = "recover|several", f"a search shows {len(possible)} like it that no row has"
    else:
        rule, why = "recover|untimely", "a search shows one like it that may be another's"
    return Finding(Settlement.UNCLEAR, rule, f"{lost_how(doubt)}; {why}", candidates=candidates)


def by_stamps(doubt: Doubt, skew: Skew | None) -> Doubt:
    """Return the doubt with its times converted to the clock that stamps payments, if `skew` is known."""
    if skew is None:
        return doubt
    since = skew.stamps(doubt.since, earliest=True)
    return replace(doubt, since=since, until=skew.stamps(doubt.until, earliest=False))


def lost_how(doubt: Doubt) -> str:
    """Return how its answer was lost, without the results of earlier searches."""
    return doubt.message.partition("; ")[0]


def _when(doubt: Doubt, made_at: datetime | None, quiet: timedelta, *, is_time_known: bool) -> str:
    """Return when a resource was made in relation to the sends, by the server's clock."""
    if doubt.intent.resource_type == "Coverage" or (doubt.since is None and is_time_known):
        return _INSIDE
    if doubt.since is None or doubt.until is None or made_at is None or not is_time_known:
        return UNTOLD  # no `until`: the server's clock was set while it was being sent
    if made_at < doubt.since:
        return _BEFOREHAND
    if made_at > doubt.until + quiet:
        return _LATE
    return _INSIDE


def _is_near(doubt: Doubt, candidate: Candidate, quiet: timedelta) -> bool:
    """Return whether a candidate was made shortly before our first send, or around our sends by our own clock.

    If a gateway's clock is ahead of the clock of the stamps, only our clock shows that it may be the write.
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
