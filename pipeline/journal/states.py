"""The states of a write, and the only steps between them. Pure data; the database enforces the table.

    PENDING   --claim-->       IN_FLIGHT    on disk before the first byte is sent
    IN_FLIGHT --accepted-->    CONFIRMED    2xx with an id
    IN_FLIGHT --refused-->     REFUSED      4xx that speaks of this resource
    IN_FLIGHT --not_applied--> PENDING      known not to have happened
    IN_FLIGHT --lost-->        IN_DOUBT     all else, and all that is IN_FLIGHT when a run starts
    PENDING   --suspected-->   IN_DOUBT     the journal was lost, and Canvas holds one like it
    REFUSED   --retry-->       PENDING      the next run tries refused rows anew
    IN_DOUBT  --found-->       CONFIRMED    a search shows it, or a person names it
    IN_DOUBT  --absent-->      PENDING      a search after the settling delay shows that it is not there
    IN_DOUBT  --abandoned-->   ABANDONED    a person gives it up: the machine never sends it again
    ABANDONED --reopened-->    IN_DOUBT     the person took that back

No path sends twice without `not_applied` or `absent` in between, or Canvas' own refusal. A write
that has no attempts left stays PENDING, and the next run takes it up.

A Coverage can also be updated, with the steps below. An update may be sent any number of times,
because the result is the same. A write with a `resource_id` is an update, and that id never changes.

    CONFIRMED --changed-->     PENDING      the row has other content
    PENDING   --adopted-->     CONFIRMED    Canvas held it already, with the content of the file
    IN_FLIGHT --stale-->       IN_DOUBT     412: Canvas holds another version than we think
    IN_DOUBT  --conflict-->    REFUSED      a read shows that another user edited the resource

One step undoes an effect, and only a person can take it. The database refuses it unless the write gives up its
resource, which is then listed as not ours.

    CONFIRMED --gone-->        PENDING      a person declared that Canvas no longer has the resource
    REFUSED   --gone-->        PENDING      the same of a Coverage whose update was refused for that

The step (`decisions.declare_gone`) is one transaction, right after a read that answers 404 and two searches. A crash
- before it changes nothing: the write still has its resource;
- after it finds a payment PENDING and owed (`resent`), as after `absent`: the next run searches once more, and
  sends it only if nothing like it is there, whether or not a file has the row. A coverage is PENDING
  without a resource, and the next run whose file has the row creates it, or takes over what it finds;
- after the claim that follows finds it IN_FLIGHT, and so IN_DOUBT, as any other send. What Canvas shows from
  before the decision cannot be it (`since`), and it is not sent again without a person's word, for it is
  marked as resent already.
"""

from typing import Final

from pipeline.records import State, Verdict

TRANSITIONS: Final[dict[tuple[State, str], State]] = {
    (State.PENDING, "claim"): State.IN_FLIGHT,
    (State.IN_FLIGHT, Verdict.ACCEPTED.value): State.CONFIRMED,
    (State.IN_FLIGHT, Verdict.REFUSED.value): State.REFUSED,
    (State.IN_FLIGHT, Verdict.NOT_APPLIED.value): State.PENDING,
    (State.IN_FLIGHT, Verdict.LOST.value): State.IN_DOUBT,
    (State.PENDING, "suspected"): State.IN_DOUBT,
    (State.REFUSED, "retry"): State.PENDING,
    (State.IN_DOUBT, "found"): State.CONFIRMED,
    (State.IN_DOUBT, "absent"): State.PENDING,
    (State.IN_DOUBT, "abandoned"): State.ABANDONED,
    (State.ABANDONED, "reopened"): State.IN_DOUBT,
}
OF_COVERAGE: Final[dict[tuple[State, str], State]] = {
    (State.CONFIRMED, "changed"): State.PENDING,
    (State.PENDING, "adopted"): State.CONFIRMED,
    (State.IN_FLIGHT, Verdict.STALE.value): State.IN_DOUBT,
    (State.IN_DOUBT, "conflict"): State.REFUSED,
}
DECLARED_GONE: Final[dict[tuple[State, str], State]] = {
    (State.CONFIRMED, "gone"): State.PENDING,
    (State.REFUSED, "gone"): State.PENDING,
}

_STEPS: Final = {**TRANSITIONS, **OF_COVERAGE, **DECLARED_GONE}
_STATE_AFTER: Final = {name: new for (_, name), new in _STEPS.items()} | {
    "release": State.PENDING,
    "intended": State.PENDING,
}


def state_after(event: str, verdict: str) -> State | None:
    """Return the state that a line of the audit log leads to; None if it leads to none."""
    return _STATE_AFTER.get(verdict if event == "write" else event)


def settled(verdict: Verdict) -> State:
    """Return the state that an answer leads to."""
    return _STEPS[State.IN_FLIGHT, verdict.value]
