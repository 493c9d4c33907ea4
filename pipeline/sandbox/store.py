"""The resources, the patients' balances and the order of their coverages.

Every change, by a client or by hand, is first built as a `Change`, then appended to the state file, then
applied; reading that file at the start applies the same changes again. This module does not use HTTP.
Refusals (422, 404, 412) are values.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from pipeline.sandbox import rules, seed
from pipeline.sandbox.account import Account, Effect
from pipeline.sandbox.coverage import (
    ORDER_MAX,
    Contract,
    CoverageDraft,
    check_subscriber,
    coverage_as_read,
    frees_order,
    member_of,
)
from pipeline.sandbox.rules import Json, PaymentDraft, Refusal, key_of
from pipeline.sandbox.search import FILTERED, Params, index_keys, index_value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from zoneinfo import ZoneInfo

    from pipeline.sandbox.state import StateFile

TYPES: Final = ("Coverage", "PaymentNotice", "Patient", "Organization", "Claim")
SORTED_CACHE_MAX: Final = 64
"""Sorted results kept for the paging of whole namespaces."""


@dataclass(slots=True)
class Change:
    """The content of one commit; `resource` None is a deletion. It is a line of the state file."""

    resource_type: str
    id: str
    resource: Json | None
    at: float
    moved: dict[str, int] = field(default_factory=dict)
    """New orders of other coverages, by id."""
    balances: dict[str, str] = field(default_factory=dict)
    payer_ids: dict[str, str] = field(default_factory=dict)
    plan_type: str | None = None
    """Of a coverage: that of its payer when it was written (docs/canvas.md, Coverage, `Plan type`)."""
    effect: Effect | None = None
    by_hand: str | None = None


class Store:
    """The state of one sandbox. Every method is synchronous, so each commit is whole."""

    def __init__(
        self,
        start: Json,
        *,
        contract: Contract,
        random_seed: int,
        state: StateFile | None,
        clock: Callable[[], float],
        timezone: ZoneInfo,
        refuses_taken_order: bool,
    ) -> None:
        """Fill the store from the seed `start`, then from the state file."""
        self.account = Account()
        self.resources: dict[str, dict[str, Json]] = {name: {} for name in TYPES}
        self.balances: dict[str, Decimal] = {}
        self.contract = contract
        self.plan_types: dict[str, str] = {}
        """By id, of coverages that were written since the start, and of payers. No read shows them."""
        self._clock = clock
        self._timezone = timezone
        self._refuses_taken_order = refuses_taken_order
        self._state = state
        self._payers: dict[str, str] = {}
        self._updated_at: dict[str, float] = {}
        self._index: dict[tuple[str, str, str], dict[str, None]] = {}
        self._sorted: dict[str, dict[tuple[tuple[str, str], ...], list[str]]] = {}
        self._load_seed(start)
        self.replayed = self._load_state()
        """Commits read from the state file: after a restart other ids and tokens are drawn."""
        self._random = random.Random(f"{random_seed}:{self.replayed}")

    def _load_seed(self, start: Json) -> None:
        seed.check_seed(start)
        for patient in start.get("patients", ()):
            self._put(seed.patient_as_read(patient))
            self.balances[patient["id"]] = seed.balance_of(patient)
        for organization in start.get("organizations", ()):
            self._put(seed.organization_as_read(organization))
            if "payer_id" in organization:
                self._payers[organization["payer_id"]] = organization["id"]
            if "plan_type" in organization:
                self.plan_types[organization["id"]] = organization["plan_type"]
        for claim in start.get("claims", ()):
            self._put(seed.claim_as_read(claim))
        for resource_type, name in (
            ("Coverage", "coverages"),
            ("PaymentNotice", "payment_notices"),
        ):
            for resource in start.get(name, ()):
                self._put({**resource, "resourceType": resource_type})

    def _load_state(self) -> int:
        count = 0
        for line in self._state.lines() if self._state else ():
            effect = line.pop("effect", None)
            if effect is not None:
                effect["bumped"] = tuple(effect.get("bumped", ()))
            self._apply(Change(**line, effect=Effect(**effect) if effect else None))
            count += 1
        return count

    def get(self, resource_type: str, resource_id: str) -> Json | None:
        """Return a resource as it is read, or None."""
        return self.resources[resource_type].get(resource_id)

    def find(
        self, resource_type: str, params: Params, *, in_order_of_id: bool
    ) -> list[str] | Refusal:
        """Return the ids that match all of `params` (known ones only), or the refusal.

        In order of creation, or of id. The result must not be changed.
        """
        if not in_order_of_id:
            return self._match(resource_type, params)
        kept, key = self._sorted.setdefault(resource_type, {}), tuple(params)
        if key in kept:
            return kept[key]
        matched = self._match(resource_type, params)
        if isinstance(matched, Refusal):
            return matched
        if len(kept) >= SORTED_CACHE_MAX:
            kept.clear()
        kept[key] = sorted(matched)
        return kept[key]

    def _match(self, resource_type: str, params: Params) -> list[str] | Refusal:
        by_id = self.resources[resource_type]
        hits: Iterable[str] | None = None
        for name, value in params:
            if (resource_type, name) in FILTERED:
                continue
            wanted = index_value(resource_type, name, value)
            if isinstance(wanted, Refusal):
                return wanted
            found = self._lookup(resource_type, name, wanted)
            hits = found if hits is None else [hit for hit in hits if hit in found]
        ids = list(by_id) if hits is None else list(hits)
        for name, value in params:
            matches = FILTERED.get((resource_type, name))
            if matches is not None:
                ids = [hit for hit in ids if matches(by_id[hit], value)]
        return ids

    def _lookup(self, resource_type: str, name: str, value: str) -> dict[str, None]:
        if name == "_id":
            return {value: None} if value in self.resources[resource_type] else {}
        return self._index.get((resource_type, name, value), {})

    def create_coverage(self, draft: CoverageDraft) -> Effect | Refusal:
        """Write a new Coverage; the patient's others of the same order move down."""
        organization = self._resolve_coverage(draft)
        if isinstance(organization, Refusal):
            return organization
        return self._write_coverage(draft, self.new_id(), organization, "create")

    def update_coverage(
        self, draft: CoverageDraft, coverage_id: str, unmodified_since: float | None
    ) -> Effect | Refusal:
        """Replace a Coverage as a whole. `unmodified_since`: seconds since 1970, or None."""
        if coverage_id not in self.resources["Coverage"]:
            return rules.unknown_resource("Coverage", coverage_id)
        updated_at = self._updated_at.get(coverage_id, 0.0)
        if unmodified_since is not None and int(updated_at) > unmodified_since:
            return rules.CONFLICT
        organization = self._resolve_coverage(draft)
        if isinstance(organization, Refusal):
            return organization
        if draft.status == "cancelled" and self._is_linked(self.resources["Coverage"][coverage_id]):
            return rules.LINKED_TO_CLAIM
        return self._write_coverage(draft, coverage_id, organization, "update")

    def create_payment(self, draft: PaymentDraft) -> Effect | Refusal:
        """Write a PaymentNotice and lower the balance.

        Without a claim an amount above the balance is refused; with one it may go negative
        (seed page PaymentNotice, "Don't overpay!").
        """
        refusal = self._check_payment(draft)
        if refusal is not None:
            return refusal
        now = self._clock()
        payment_id = self.new_id()
        change = Change(
            "PaymentNotice",
            payment_id,
            rules.payment_as_read(draft, payment_id, _instant(now)),
            now,
            balances={draft.patient: str(self.balance(draft.patient) - draft.amount_usd)},
        )
        change.effect = effect = self._effect(change, "create")
        self._commit(change)
        return effect

    def balance(self, patient: str) -> Decimal:
        """Return what the patient owes; 0.00 for one who is not known."""
        return self.balances.get(patient, Decimal("0.00"))

    def now_iso(self) -> str:
        """Return the present instant in the form of a PaymentNotice's `created`."""
        return _instant(self._clock())

    def change_by_hand(self, operation: str, resource: Json, payer_id: str | None = None) -> str:
        """Commit a resource that a person entered, edited or deleted in the UI; return its id."""
        now = self._clock()
        resource_type: str = resource["resourceType"]
        resource_id: str = resource["id"]
        change = Change(resource_type, resource_id, resource, now, by_hand=operation)
        before = self.get(resource_type, resource_id)
        if operation == "delete":
            change.resource = None
        if resource_type == "PaymentNotice":
            self._balance_by_hand(change, before)
        if resource_type == "Coverage" and change.resource is not None:
            change.moved = self._moved(resource, before)
        if payer_id is not None:
            change.payer_ids = {payer_id: resource_id}
        self._commit(change)
        return resource_id

    def set_balance(self, patient: str, balance_usd: Decimal) -> None:
        """Set what a patient owes, as new charges would."""
        resource = self.resources["Patient"][patient]
        change = Change("Patient", patient, resource, self._clock(), by_hand="edit")
        change.balances = {patient: str(balance_usd)}
        self._commit(change)

    def new_id(self, *, dashed: bool = True) -> str:
        """Return an id that is not in use: a dashed UUID, or 32 hex digits as patients have."""
        while True:
            digits = f"{self._random.getrandbits(128):032x}"
            digits = f"{digits[:12]}4{digits[13:16]}{'89ab'[int(digits[16], 16) % 4]}{digits[17:]}"
            parts = (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])
            made = "-".join(parts) if dashed else digits
            if not any(made in by_id for by_id in self.resources.values()):
                return made

    def _resolve_coverage(self, draft: CoverageDraft) -> Json | Refusal:
        """Return the payor's Organization, or the 422 for a reference that does not exist."""
        patients = self.resources["Patient"]
        if draft.patient not in patients:
            return rules.unknown_reference("beneficiary", "Patient")
        if draft.subscriber not in patients:
            return rules.unknown_reference("subscriber", "Patient")
        contradiction = check_subscriber(draft)
        if contradiction is not None:
            return contradiction
        found = draft.organization or self._payers.get(draft.payer_id or "", "")
        organization = self.get("Organization", found)
        return organization or rules.unknown_reference("payor", "Organization")

    def _check_payment(self, draft: PaymentDraft) -> Refusal | None:
        if draft.patient not in self.resources["Patient"]:
            return rules.unknown_reference("request", "Patient")
        if draft.claim is None:
            over = draft.amount_usd > self.balance(draft.patient)
            return rules.OVERPAID if over else None
        claim = self.get("Claim", draft.claim)
        if claim is None:
            return rules.unknown_reference("extension", "Claim")
        if key_of(claim["patient"]) != draft.patient:
            return rules.CLAIM_OF_ANOTHER
        return None

    def _is_linked(self, coverage: Json) -> bool:
        """Return whether an active coverage is linked to a claim."""
        patient = key_of(coverage.get("beneficiary"))
        claims = self._index.get(("Claim", "patient", patient), ())
        return coverage["status"] == "active" and any(
            member_of(coverage) in seed.linked_members(self.resources["Claim"][each])
            for each in claims
        )

    def _write_coverage(
        self, draft: CoverageDraft, coverage_id: str, organization: Json, interaction: str
    ) -> Effect | Refusal:
        now = self._clock()
        today = datetime.fromtimestamp(now, self._timezone).date().isoformat()
        resource = coverage_as_read(draft, coverage_id, organization, today, self.contract)
        before = self.get("Coverage", coverage_id)
        if self._refuses_taken_order and self._is_taken(resource, before, today):
            return rules.order_taken(draft.order)
        moved = {} if self._refuses_taken_order else self._moved(resource, before)
        change = Change("Coverage", coverage_id, resource, now, moved)
        change.plan_type = self.plan_types.get(organization["id"])
        change.effect = effect = self._effect(change, interaction)
        self._commit(change)
        return effect

    def _moved(self, coverage: Json, before: Json | None) -> dict[str, int]:
        """Return the new orders of the coverages that this one moves down, by id.

        Only active ones take or hold a rank, and only a write that takes a new rank moves others. A
        moved one takes the next rank, and moves the next in turn; at 5 they stay together (seed page
        Coverage, `order`).
        """
        if coverage.get("status") != "active" or _same_rank(coverage, before):
            return {}
        others = self._active_others(coverage)
        moved: dict[str, int] = {}
        pushed = {coverage.get("order")}
        for rank in range(1, ORDER_MAX):
            if rank not in pushed:
                continue
            for other in others:
                if other.get("order") == rank:
                    moved[other["id"]] = rank + 1
                    pushed.add(rank + 1)
        return moved

    def _is_taken(self, coverage: Json, before: Json | None, today: str) -> bool:
        """Return whether a write takes the rank of another coverage that has not ended."""
        if coverage["status"] != "active" or _same_rank(coverage, before):
            return False
        return any(
            other.get("order") == coverage["order"] and not frees_order(other, today)
            for other in self._active_others(coverage)
        )

    def _active_others(self, coverage: Json) -> list[Json]:
        """Return the other active coverages of a coverage's patient."""
        by_id = self.resources["Coverage"]
        patient = key_of(coverage.get("beneficiary"))
        return [
            by_id[other]
            for other in self._index.get(("Coverage", "patient", patient), ())
            if other != coverage["id"] and by_id[other].get("status") == "active"
        ]

    def _balance_by_hand(self, change: Change, before: Json | None) -> None:
        """Lower the balance by a payment entered by hand; a deleted one gives it back."""
        for payment, sign in ((before, 1), (change.resource, -1)):
            if payment is not None:
                patient = key_of(payment["request"])
                base = Decimal(change.balances.get(patient, self.balance(patient)))
                amount_usd = seed.as_usd(payment["amount"]["value"])
                change.balances[patient] = str(base + sign * amount_usd)

    def _effect(self, change: Change, interaction: str) -> Effect:
        resource = change.resource or {}
        is_payment = change.resource_type == "PaymentNotice"
        return Effect(
            n=len(self.account.effects) + 1,
            at=_instant(change.at),
            monotonic_s=time.monotonic(),
            interaction=interaction,
            resource_type=change.resource_type,
            id=change.id,
            patient=key_of(resource["request" if is_payment else "beneficiary"]),
            amount=f"{seed.as_usd(resource['amount']['value']):.2f}" if is_payment else None,
            claim=rules.claim_of(resource) if is_payment else None,
            member_id=None if is_payment else member_of(resource),
            order=resource.get("order"),
            status=None if is_payment else resource["status"],
            bumped=tuple(change.moved),
        )

    def _commit(self, change: Change) -> None:
        """Append the change to the state file, then apply it."""
        if self._state is not None:
            self._state.append(_line(change))
        self._apply(change)

    def _apply(self, change: Change) -> None:
        if change.resource is None:
            self._remove(change.resource_type, change.id)
        else:
            self._put(change.resource)
            self._updated_at[change.id] = change.at
        for coverage_id, order in change.moved.items():
            self.resources["Coverage"][coverage_id]["order"] = order
            self._updated_at[coverage_id] = change.at
        for patient, balance in change.balances.items():
            self.balances[patient] = Decimal(balance)
        self._payers.update(change.payer_ids)
        if change.plan_type is not None:
            self.plan_types[change.id] = change.plan_type
        if change.effect is not None:
            self.account.effects.append(change.effect)
        if change.by_hand is not None:
            self._note_by_hand(change)

    def _note_by_hand(self, change: Change) -> None:
        self.account.by_hand.append(
            {
                "at": _instant(change.at),
                "operation": change.by_hand,
                "resource_type": change.resource_type,
                "id": change.id,
            }
        )

    def _put(self, resource: Json) -> None:
        resource_type, resource_id = resource["resourceType"], resource["id"]
        before = self.resources[resource_type].get(resource_id)
        self.resources[resource_type][resource_id] = resource
        new = dict.fromkeys(index_keys(resource))
        old = dict.fromkeys(index_keys(before)) if before is not None else {}
        self._forget_keys(resource_type, resource_id, (key for key in old if key not in new))
        for name, value in new:
            if (name, value) not in old:
                self._index.setdefault((resource_type, name, value), {})[resource_id] = None
        self._sorted.pop(resource_type, None)

    def _remove(self, resource_type: str, resource_id: str) -> None:
        resource = self.resources[resource_type].pop(resource_id)
        self._forget_keys(resource_type, resource_id, index_keys(resource))
        self._updated_at.pop(resource_id, None)
        self._sorted.pop(resource_type, None)

    def _forget_keys(
        self, resource_type: str, resource_id: str, keys: Iterable[tuple[str, str]]
    ) -> None:
        for name, value in keys:
            entry = self._index.get((resource_type, name, value), {})
            entry.pop(resource_id, None)
            if not entry:
                self._index.pop((resource_type, name, value), None)


def _same_rank(coverage: Json, before: Json | None) -> bool:
    """Return whether a coverage keeps its rank."""
    if before is None or before.get("status") != "active":
        return False
    if key_of(before.get("beneficiary")) != key_of(coverage.get("beneficiary")):
        return False
    return bool(before.get("order") == coverage.get("order"))


def _line(change: Change) -> Json:
    return {
        "resource_type": change.resource_type,
        "id": change.id,
        "resource": change.resource,
        "at": change.at,
        "moved": change.moved,
        "balances": change.balances,
        "payer_ids": change.payer_ids,
        "plan_type": change.plan_type,
        "by_hand": change.by_hand,
        "effect": None if change.effect is None else change.effect._asdict(),
    }


def _instant(at_s: float) -> str:
    """Write seconds since 1970 as ISO 8601 in UTC, with microseconds."""
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="microseconds")
