"""The states of a write, and the only steps between them. Pure data; SQLite enforces the table.

    PENDING   --claim-->       IN_FLIGHT    on disk before the first byte is sent
    IN_FLIGHT --accepted-->    CONFIRMED    2xx with an id
    IN_FLIGHT --refused-->     REFUSED      4xx that speaks of this resource
    IN_FLIGHT --not_applied--> PENDING      known not to have happened
    IN_FLIGHT --lost-->        IN_DOUBT     all else, and whatever is found IN_FLIGHT at the start
    PENDING   --give_up-->     ABANDONED    out of attempts; reported as pending
    REFUSED   --retry-->       PENDING      the next run tries refused rows anew
    ABANDONED --retry-->       PENDING      ... and those that were given up
    IN_DOUBT  --found-->       CONFIRMED    a search shows it
    IN_DOUBT  --absent-->      PENDING      a search after the quiet time shows that it is not there

No path sends twice without `not_applied` or `absent` in between, or Canvas' own refusal.
"""

from typing import Final

from pipeline.records import State, Verdict

TRANSITIONS: Final[dict[tuple[State, str], State]] = {
    (State.PENDING, "claim"): State.IN_FLIGHT,
    (State.IN_FLIGHT, Verdict.ACCEPTED.value): State.CONFIRMED,
    (State.IN_FLIGHT, Verdict.REFUSED.value): State.REFUSED,
    (State.IN_FLIGHT, Verdict.NOT_APPLIED.value): State.PENDING,
    (State.IN_FLIGHT, Verdict.LOST.value): State.IN_DOUBT,
    (State.PENDING, "give_up"): State.ABANDONED,
    (State.REFUSED, "retry"): State.PENDING,
    (State.ABANDONED, "retry"): State.PENDING,
    (State.IN_DOUBT, "found"): State.CONFIRMED,
    (State.IN_DOUBT, "absent"): State.PENDING,
}


def settled(verdict: Verdict) -> State:
    """The state that an answer leads to."""
    return TRANSITIONS[State.IN_FLIGHT, verdict.value]
