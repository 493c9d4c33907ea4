"""The sandbox's own records: effects in commit order, requests, arrivals, open writes.

They do not depend on any client, so that a client's report can be compared with them. They are compact:
tuples and arrays, with bounds on mere traces.
"""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

ARRIVALS_MAX: Final = 2_000_000
"""Arrivals kept, 8 bytes each; those beyond are only counted."""
ATTEMPTS_MAX: Final = 1_000_000
"""Attempts kept in `writes_of`, over all patients; those beyond are only counted."""


class Effect(NamedTuple):
    """One committed create or update, by a client (never by hand)."""

    n: int
    at: str
    """ISO 8601, UTC, by the sandbox's clock."""
    monotonic_s: float
    interaction: str
    """`create` or `update`."""
    resource_type: str
    id: str
    patient: str
    amount: str | None
    """USD with two decimals; of a PaymentNotice only, like `claim`."""
    claim: str | None
    member_id: str | None
    """Of a Coverage only, like `order`, `status` and `bumped`."""
    order: int | None
    status: str | None = None
    bumped: tuple[str, ...] = ()
    """Ids of the patient's other coverages whose order this write moved down."""


class Attempt(NamedTuple):
    """One write request as it ended, whether or not it had an effect."""

    arrived_s: float
    method: str
    resource_type: str
    outcome: str
    """The status, or `lost` if the connection was closed without an answer."""
    effect: int | None
    """`n` of its effect; None if it had none (or not yet: a late commit)."""


class Open(Protocol):
    """A request that is being served; its transport is None once the client has gone."""

    @property
    def transport(self) -> object | None:
        """Return the connection, or None."""


@dataclass(slots=True)
class Account:
    """The sandbox's own records."""

    effects: list[Effect] = field(default_factory=list)
    by_hand: list[dict[str, Any]] = field(default_factory=list)
    requests: dict[str, Counter[str]] = field(default_factory=dict)
    requests_total: int = 0
    arrivals: array[float] = field(default_factory=lambda: array("d"))
    arrivals_dropped: int = 0
    attempts: dict[str, list[Attempt]] = field(default_factory=dict)
    attempts_kept: int = 0
    attempts_dropped: int = 0
    open_writes: dict[str, list[Open]] = field(default_factory=dict)
    open_writes_max: int = 0
    open_writes_max_patient: str | None = None

    def arrive(self, at_s: float) -> None:
        """Record the arrival of a FHIR request (monotonic seconds)."""
        if len(self.arrivals) < ARRIVALS_MAX:
            self.arrivals.append(at_s)
        else:
            self.arrivals_dropped += 1

    def answer(self, what: str, outcome: str) -> None:
        """Count one request, `METHOD /Type`, by its status or `lost`."""
        self.requests_total += 1
        counts = self.requests.get(what)
        if counts is None:
            counts = self.requests[what] = Counter()
        counts[outcome] += 1

    def open_write(self, patient: str, request: Open) -> None:
        """Note that a write of this patient began; those whose client has gone do not count."""
        others = self.open_writes.setdefault(patient, [])
        others.append(request)
        still_open = sum(1 for other in others if other.transport is not None)
        if still_open > self.open_writes_max:
            self.open_writes_max, self.open_writes_max_patient = still_open, patient

    def close_write(self, patient: str, request: Open, attempt: Attempt) -> None:
        """Note how a write of this patient ended."""
        others = self.open_writes[patient]
        others.remove(request)
        if not others:
            del self.open_writes[patient]
        if self.attempts_kept < ATTEMPTS_MAX:
            self.attempts_kept += 1
            self.attempts.setdefault(patient, []).append(attempt)
        else:
            self.attempts_dropped += 1

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return {
            "effects": [effect._asdict() for effect in self.effects],
            "by_hand": list(self.by_hand),
            "requests": {
                "total": self.requests_total,
                "by": {what: dict(counts) for what, counts in sorted(self.requests.items())},
            },
            "arrivals": self.arrivals.tolist(),
            "arrivals_dropped": self.arrivals_dropped,
            "open_writes_max": self.open_writes_max,
            "open_writes_max_patient": self.open_writes_max_patient,
            "writes_of": {
                patient: [attempt._asdict() for attempt in attempts]
                for patient, attempts in self.attempts.items()
            },
            "writes_of_dropped": self.attempts_dropped,
        }
