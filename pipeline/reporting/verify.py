"""Compare what Canvas holds with what the journal says was written, element by element.

A patient's resources come in one search, which also shows strays: resources like one of ours that we did
not make (the same payment entered by hand as well, a second coverage of one member id). Comparing is pure,
and allows for what Canvas changes on a read: a payer id becomes an Organization, a missing start the day
of ingestion, `created` the time of the row. A payer id can be compared only if its Organization is known;
all resources of one payer id together may show it.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

from pipeline.fhir.coverage import (
    Organizations,
    coverage_differences,
    member_ids,
    organization_of,
    payer_id_of,
)
from pipeline.fhir.payment_notice import paid

Json = Mapping[str, Any]

_EVIDENCE_MIN: Final = (
    2  # resources that show the same Organization: one alone may have been edited
)


class Outcome(StrEnum):
    """The result of comparing a resource."""

    MATCH = "match"
    MOVED = "moved"  # only its order differs, exactly as a later write of ours moved it
    DIFFERS = "differs"  # `elements` names the differences
    MISSING = "missing"  # the journal holds its id, and Canvas does not show it
    STRAY = "stray"  # Canvas shows it, like one of ours, and we did not make it
    UNREAD = "unread"  # Canvas could not be searched: nothing is known


@dataclass(frozen=True, slots=True)
class Written:
    """A write that the journal holds as confirmed. `sent` None: its plan is gone."""

    key: str
    feed: str
    resource_type: str
    lane: str
    resource_id: str
    amount_cents: int | None
    claim: str
    run_id: str
    fingerprint: str
    sent: Json | None = None
    moved_to: int | None = None  # the order to which later writes of ours moved it; None: not moved


@dataclass(frozen=True, slots=True)
class Verified:
    """One resource, compared. `key` is "" for a stray; `cents` is the amount in Canvas' answer."""

    outcome: Outcome
    feed: str
    resource_type: str
    lane: str
    resource_id: str
    key: str = ""
    elements: tuple[str, ...] = ()
    cents: int | None = None
    payer: tuple[str, str] | None = None  # payer id and Organization that could not be compared
    is_bare: bool = False  # the sent content is no longer known: only id and patient were compared


def verify(
    written: Sequence[Written],
    found: Sequence[Json],
    foreign: Collection[str],
    organizations: Organizations,
) -> list[Verified]:
    """Compare one patient's writes of one resource type with all that Canvas shows of them. Pure.

    Args:
        written: The writes that the journal holds as confirmed.
        found: The resources that Canvas shows.
        foreign: Ids that a person declared not to be ours.
        organizations: The Organizations of payer ids, as far as they are known.

    Returns:
        A line for each write, and one for each stray.
    """
    by_id = {str(each.get("id")): each for each in found}
    lines = [_compared(each, by_id.get(each.resource_id), organizations) for each in written]
    ours = {each.resource_id for each in written}
    signs = Counter(_sign(by_id[each]) for each in ours & by_id.keys())
    first = written[0]
    return lines + [
        Verified(
            Outcome.STRAY,
            first.feed,
            first.resource_type,
            first.lane,
            resource_id,
            cents=_cents(resource),
        )
        for resource_id, resource in by_id.items()
        if resource_id not in ours
        and resource_id not in foreign
        and _patient(resource) == f"Patient/{first.lane}"
        and signs[_sign(resource)]
    ]


def unread(written: Sequence[Written]) -> list[Verified]:
    """Return the lines of a patient whom Canvas could not be searched for."""
    return [_line(Outcome.UNREAD, each) for each in written]


def compare_unknown_payers(lines: Sequence[Verified]) -> tuple[list[Verified], dict[str, Verified]]:
    """Compare the payers whose Organization is not known with each other. Pure.

    Resources of one payer id that show several Organizations cannot all be right: those of any but the most
    frequent one differ. If at least `_EVIDENCE_MIN` resources show one and none shows another, that is the
    Organization.

    Returns:
        The lines, and by payer id a line that shows its Organization.
    """
    shown: dict[str, Counter[str]] = {}
    for line in lines:
        if line.payer is not None:
            shown.setdefault(line.payer[0], Counter())[line.payer[1]] += 1
    usual = {payer_id: counts.most_common(1)[0][0] for payer_id, counts in shown.items()}
    compared = [
        line
        if line.payer is None or line.payer[1] == usual[line.payer[0]]
        else replace(line, outcome=Outcome.DIFFERS, elements=(*line.elements, "payor"), payer=None)
        for line in lines
    ]
    learned = {
        line.payer[0]: line
        for line in lines
        if line.payer is not None
        and len(shown[line.payer[0]]) == 1
        and shown[line.payer[0]].total() >= _EVIDENCE_MIN
        and line.outcome is Outcome.MATCH
    }
    return [
        replace(line, payer=None) if line.payer and line.payer[0] in learned else line
        for line in compared
    ], learned


def _compared(write: Written, found: Json | None, organizations: Organizations) -> Verified:
    if found is None:
        return _line(Outcome.MISSING, write)
    elements = differences(write, found, organizations)
    if not elements:
        outcome = Outcome.MATCH
    elif elements == ("order",) and found.get("order") == write.moved_to:
        outcome = Outcome.MOVED
    else:
        outcome = Outcome.DIFFERS
    line = _line(outcome, write, elements, _cents(found))
    is_bare = write.resource_type == "Coverage" and write.sent is None
    return replace(line, payer=_unknown_payer(write, found, organizations), is_bare=is_bare)


def _unknown_payer(
    write: Written, found: Json, organizations: Organizations
) -> tuple[str, str] | None:
    """Return the payer id that was sent and the Organization that Canvas shows, if they cannot be compared."""
    try:
        if write.sent is None or organization_of(dict(write.sent), organizations) is not None:
            return None
        payer_id, shown = payer_id_of(dict(write.sent)), organization_of(dict(found), {})
    except (AttributeError, IndexError, KeyError, TypeError):
        return None  # not as Canvas writes them
    return None if payer_id is None or shown is None else (payer_id, shown)


def _line(
    outcome: Outcome, write: Written, elements: tuple[str, ...] = (), cents: int | None = None
) -> Verified:
    return Verified(
        outcome,
        write.feed,
        write.resource_type,
        write.lane,
        write.resource_id,
        write.key,
        elements,
        cents,
    )


# Comparing ----------------------------------------------------------------------------------------


def differences(write: Written, found: Json, organizations: Organizations) -> tuple[str, ...]:
    """Return the elements in which what Canvas shows is not what was sent; sorted, never their values."""
    try:
        if write.resource_type == "PaymentNotice":
            return _payment_differences(write, found)
        if write.sent is None:
            return () if _patient(found) == f"Patient/{write.lane}" else ("beneficiary",)
        return coverage_differences(dict(write.sent), found, organizations)
    except (AttributeError, IndexError, KeyError, TypeError):
        return ("resource",)  # not as Canvas writes them


def _payment_differences(write: Written, found: Json) -> tuple[str, ...]:
    notice = paid(found)
    if notice is None:
        return ("resource",)
    pairs = {
        "amount": (write.amount_cents, notice.cents),
        "extension": (write.claim, notice.claim),
        "request": (f"Patient/{write.lane}", notice.patient),
        "status": ("active", found["status"]),
    }
    return tuple(name for name, (sent, shown) in pairs.items() if sent != shown)


def _sign(resource: Json) -> tuple[Any, ...]:
    """Return a value that two resources of a patient share if they are the same thing twice."""
    notice = paid(resource)
    if notice is not None:
        return (notice.cents, notice.claim)
    try:
        coverage = dict(resource)
        return (member_ids(coverage)[0], resource["status"], organization_of(coverage, {}))
    except (AttributeError, IndexError, KeyError, TypeError):
        return (id(resource),)  # like no other


def _patient(resource: Json) -> str | None:
    element = resource.get("beneficiary", resource.get("request"))
    return element.get("reference") if isinstance(element, dict) else None


def _cents(resource: Json) -> int | None:
    notice = paid(resource)
    return None if notice is None else notice.cents
