"""One local Canvas: its store, its application, its faults and its records, without HTTP.

Tests and the commands `sandbox` and `demo` use it. `serve` in `pipeline.sandbox.app` puts it on a socket.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, deque
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pipeline.sandbox import seed as seeds
from pipeline.sandbox.auth import Auth
from pipeline.sandbox.coverage import CONTRACTS
from pipeline.sandbox.faults import FATES, Decision, Faults, decide
from pipeline.sandbox.rules import Json, key_of
from pipeline.sandbox.state import StateFile
from pipeline.sandbox.store import TYPES, Store

if TYPE_CHECKING:
    from collections.abc import Callable
    from decimal import Decimal
    from pathlib import Path

WINDOW_S: Final = 1.0
"""The span over which `Faults.max_per_s` counts."""
SETTLED: Final = Decision()
TAKEN_ORDERS: Final = ("move", "refuse")
"""The older coverage moves down, as the page of Coverage says; or 422, as Canvas' Coverage effect does."""


class Sandbox:
    """A small stateful Canvas. One seed, one contract and one fault seed determine it."""

    def __init__(
        self,
        seed: Json | None = None,
        *,
        contract: str = "2025-10",
        faults: Faults | None = None,
        fault_seed: int = 0,
        state: Path | None = None,
        clock: Callable[[], float] = time.time,
        taken_order: str = "move",
        timezone: str = "UTC",
    ) -> None:
        """Fill it from `seed`, then from the state file if there is one.

        `contract` is `2025-10` or `2023`; `clock` gives seconds since 1970; `taken_order` is what happens to an
        order that another coverage has, one of TAKEN_ORDERS; `timezone` is the practice's. Raises ValueError for
        an unknown contract, an unknown zone, or a seed or state file that cannot be read.
        """
        if contract not in CONTRACTS:
            raise ValueError(f"no contract {contract!r}: use one of {', '.join(CONTRACTS)}")
        if taken_order not in TAKEN_ORDERS:
            raise ValueError(
                f"no taken order {taken_order!r}: use one of {', '.join(TAKEN_ORDERS)}"
            )
        self.contract = CONTRACTS[contract]
        self.clock = clock
        self.fault_seed = fault_seed
        self._state = StateFile(state) if state is not None else None
        start = seed or {}
        self.store = Store(
            start,
            contract=self.contract,
            random_seed=fault_seed,
            state=self._state,
            clock=clock,
            timezone=_zone(timezone),
            refuses_taken_order=taken_order == "refuse",
        )
        drawn = f"{fault_seed}:{self.store.replayed}"
        self.auth = Auth(start, drawn)
        self._random = random.Random(f"correlation:{drawn}")
        self._late: dict[asyncio.TimerHandle, Callable[[], object]] = {}
        self._date = (-1, "")
        self.set_faults(faults or Faults())

    def set_faults(self, faults: Faults) -> None:
        """Change the faults from the next request on; the decisions start afresh."""
        self.faults = faults
        self._asked: Counter[str] = Counter()
        self._fates = 0
        self._admitted: deque[float] = deque()
        self._quiet = _is_quiet(faults)

    def account(self) -> dict[str, Any]:
        """Return the sandbox's own records, as JSON values (see `account.py`)."""
        return {**self.store.account.as_dict(), "plan_types": dict(self.store.plan_types)}

    def resources(self, resource_type: str) -> list[Json]:
        """Return all resources of a type as they are read, in order of creation."""
        return list(self.store.resources[resource_type].values())

    def resource(self, resource_type: str, resource_id: str) -> Json | None:
        """Return one resource as it is read, or None."""
        return self.store.get(resource_type, resource_id)

    def balance(self, patient: str) -> Decimal:
        """Return what a patient owes, in USD."""
        return self.store.balance(patient)

    def set_balance(self, patient: str, balance_usd: Decimal | str) -> None:
        """Set what a patient owes, as new charges would. Raises KeyError, ValueError."""
        self.store.set_balance(patient, seeds.as_usd(balance_usd))

    def add_by_hand(self, resource_type: str, resource: Json) -> str:
        """Add a resource as a person would in the UI, past all checks; return its id.

        Coverage and PaymentNotice as they are read (a missing id is made); Patient, Organization
        and Claim as a seed has them. A payment lowers the balance; a coverage moves the others down.
        """
        if resource_type not in TYPES:
            raise ValueError(f"no type {resource_type!r}: use one of {', '.join(TYPES)}")
        made = {"id": self.store.new_id(dashed=resource_type != "Patient"), **resource}
        payer_id = made.get("payer_id") if resource_type == "Organization" else None
        added = self.store.change_by_hand("add", self._as_read(resource_type, made), payer_id)
        if resource_type == "Patient" and "balance" in made:
            self.set_balance(added, made["balance"])
        return added

    def set_plan_type(self, organization: str, plan_type: str) -> None:
        """Set a payer's plan type: its coverages take it when they are written next."""
        self.store.plan_types[organization] = plan_type

    def edit_by_hand(self, resource_type: str, resource_id: str, changes: Json) -> None:
        """Replace elements of a resource as a person would. Raises KeyError for an unknown id."""
        before = self.store.resources[resource_type][resource_id]
        after = {**before, **changes, "resourceType": resource_type, "id": resource_id}
        self.store.change_by_hand("edit", after)

    def delete_by_hand(self, resource_type: str, resource_id: str) -> None:
        """Delete a resource as a person would. Raises KeyError for an unknown id."""
        self.store.change_by_hand("delete", self.store.resources[resource_type][resource_id])

    def _as_read(self, resource_type: str, made: Json) -> Json:
        if resource_type == "Patient":
            return seeds.patient_as_read(made)
        if resource_type == "Organization":
            return seeds.organization_as_read(made)
        if resource_type == "Claim":
            return seeds.claim_as_read(made)
        if resource_type == "PaymentNotice" and "created" not in made:
            made["created"] = self.store.now_iso()
        return {**made, "resourceType": resource_type}

    def decide(self, method: str, resource_type: str, asked: str, *, write: bool) -> Decision:
        """Decide what happens to the next request that asks for `asked` (a patient or a path)."""
        if self._quiet:
            return SETTLED
        faults = self.faults
        key = f"{self.store.replayed} {method} {resource_type} {asked}"
        self._asked[key] += 1
        struck = faults.strikes(resource_type, write=write)
        if faults.faults_max is not None and self._fates >= faults.faults_max:
            struck = False
        decision = decide(faults, self.fault_seed, f"{key} {self._asked[key]}", struck=struck)
        self._fates += decision.fate != "none"
        return decision

    def admit(self, now_s: float) -> bool:
        """Return whether a request stays below `max_per_s` (monotonic seconds)."""
        cap = self.faults.max_per_s
        if cap is None:
            return True
        while self._admitted and self._admitted[0] <= now_s - WINDOW_S:
            self._admitted.popleft()
        if len(self._admitted) >= cap:
            return False
        self._admitted.append(now_s)
        return True

    def date(self) -> str:
        """Return the value of the Date header, by the sandbox's clock or that of its gateway."""
        second = int(self.clock()) + self.faults.date_offset_s
        if self._date[0] != second:
            self._date = (second, formatdate(second, usegmt=True))
        return self._date[1]

    def correlation_id(self) -> str:
        """Return the next value of fumage-correlation-id, 32 hex digits."""
        return f"{self._random.getrandbits(128):032x}"

    def commit_later(self, delay_s: float, commit: Callable[[], object]) -> None:
        """Call `commit` after a delay, or at `settle`, whichever comes first."""

        def run() -> None:
            del self._late[handle]
            commit()

        handle = asyncio.get_running_loop().call_later(delay_s, run)
        self._late[handle] = commit

    def settle(self) -> int:
        """Make all late commits now; return how many there were."""
        waiting, self._late = self._late, {}
        for handle, commit in waiting.items():
            handle.cancel()
            commit()
        return len(waiting)

    def close(self) -> None:
        """Make the late commits and close the state file; it may be served again."""
        self.settle()
        if self._state is not None:
            self._state.close()


def patient_of(body: object, resource_type: str) -> str:
    """Return the patient key of a write's body, or "" if it has none."""
    if not isinstance(body, dict):
        return ""
    return key_of(body.get("beneficiary" if resource_type == "Coverage" else "request"))


def _is_quiet(faults: Faults) -> bool:
    """Return whether every decision would be the same, so that none has to be made."""
    no_fate = not any(getattr(faults, name) for name in FATES)
    return no_fate and faults.latency_s[1] == 0 and faults.location == SETTLED.location


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        raise ValueError(f"no time zone {name!r}: use a name such as America/New_York") from None
