"""What follows from an answer, and from a search for a lost one, as tables."""

from typing import Any

import pytest

from pipeline.canvas.breaker import Heard
from pipeline.canvas.judge import BLOCKED, Judgement
from pipeline.clock import HandClock
from pipeline.records import Doubt, Exchange, Intent, Interaction, Settlement, State, Verdict
from pipeline.sending.decide import Next, after_answer, after_search, heard, is_resent_now


@pytest.mark.parametrize(
    ("state", "attempts", "then"),
    [
        (State.CONFIRMED, 1, Next.DONE),
        (State.REFUSED, 1, Next.REFUSED),
        (State.PENDING, 1, Next.AGAIN),
        (State.PENDING, 2, Next.AGAIN),
        (State.PENDING, 3, Next.LATER),
        (State.PENDING, 4, Next.LATER),
        (State.IN_DOUBT, 1, Next.SEARCH),
        (State.IN_DOUBT, 3, Next.SEARCH),
    ],
)
def test_after_an_answer(state: State, attempts: int, then: Next) -> None:
    assert after_answer(state, attempts, attempts_max=3) is then


@pytest.mark.parametrize("state", [each for each in State if each is not State.PENDING])
def test_only_what_is_pending_goes_again_after_an_answer(state: State) -> None:
    assert after_answer(state, 0, attempts_max=3) is not Next.AGAIN


PAYMENT, COVERAGE = {"resource_type": "PaymentNotice"}, {"resource_type": "Coverage"}
UPDATE = {**COVERAGE, "interaction": Interaction.UPDATE}
NONE, COVERAGES, ALL = "none", "coverage", "all"


def doubt(
    *,
    attempts: int = 1,
    resent: int = 0,
    is_owed: bool = False,
    is_orphan: bool = False,
    **asked: Any,
) -> Doubt:
    intent = Intent("k1", "f", "Coverage", Interaction.CREATE, "p1", b"{}", "", None, "", "", "r1")
    return Doubt(
        intent._replace(**asked),
        attempts,
        resent,
        None,
        None,
        is_owed,
        None,
        "canvas|500",
        "lost",
        is_orphan=is_orphan,
    )


@pytest.mark.parametrize(
    ("of", "allowed", "then"),
    [
        # what a search does not show
        (PAYMENT, NONE, Next.IN_DOUBT),
        (PAYMENT, COVERAGES, Next.IN_DOUBT),
        (PAYMENT, ALL, Next.AGAIN),
        (COVERAGE, NONE, Next.IN_DOUBT),
        (COVERAGE, COVERAGES, Next.AGAIN),
        (COVERAGE, ALL, Next.AGAIN),
        # a second time
        ({**PAYMENT, "resent": 1}, ALL, Next.IN_DOUBT),
        ({**COVERAGE, "resent": 1}, ALL, Next.IN_DOUBT),
        # and may still be sent by a process that is cut off
        ({**PAYMENT, "is_orphan": True}, ALL, Next.IN_DOUBT),
        ({**COVERAGE, "is_orphan": True}, ALL, Next.IN_DOUBT),
        # an earlier search decided that it goes again
        ({**PAYMENT, "is_owed": True, "resent": 1}, NONE, Next.AGAIN),
        # an update has the same effect however often it is sent
        (UPDATE, NONE, Next.AGAIN),
        ({**UPDATE, "resent": 5, "is_orphan": True}, NONE, Next.AGAIN),
    ],
)
def test_after_a_search_that_shows_nothing(of: dict[str, Any], allowed: str, then: Next) -> None:
    assert after_search(doubt(**of), Settlement.ABSENT, allowed) is then


@pytest.mark.parametrize("of", [PAYMENT, COVERAGE, UPDATE, {**PAYMENT, "is_owed": True}])
@pytest.mark.parametrize(
    ("settlement", "then"),
    [
        (Settlement.FOUND, Next.DONE),
        (Settlement.CONFLICT, Next.REFUSED),
        (Settlement.UNCLEAR, Next.IN_DOUBT),
        (Settlement.UNKNOWN, Next.IN_DOUBT),
    ],
)
def test_after_any_other_search_nothing_goes_again(
    of: dict[str, Any], settlement: Settlement, then: Next
) -> None:
    assert after_search(doubt(**of), settlement, ALL) is then


@pytest.mark.parametrize(
    ("of", "attempts_max", "is_now"),
    [
        (PAYMENT, 3, True),
        ({**PAYMENT, "run_id": "r0"}, 3, True),
        ({**PAYMENT, "attempts": 9}, 3, True),
        ({**PAYMENT, "body": b""}, 3, False),
        (UPDATE, 3, True),
        ({**UPDATE, "body": b""}, 3, False),
        ({**UPDATE, "run_id": "r0"}, 3, False),
        ({**UPDATE, "attempts": 2}, 1, True),
        ({**UPDATE, "attempts": 3}, 1, False),
        ({**UPDATE, "attempts": 3}, 4, True),
        ({**UPDATE, "attempts": 4}, 4, False),
    ],
)
def test_which_resend_goes_in_this_run(
    of: dict[str, Any], attempts_max: int, *, is_now: bool
) -> None:
    assert is_resent_now(doubt(**of), "r1", attempts_max) is is_now


@pytest.mark.parametrize(
    ("status", "judgement", "what"),
    [
        (201, Judgement(Verdict.ACCEPTED), Heard.ANSWERED),
        (422, Judgement(Verdict.REFUSED), Heard.ANSWERED),
        (412, Judgement(Verdict.STALE), Heard.ANSWERED),
        (500, Judgement(Verdict.LOST), Heard.LOST),
        (None, Judgement(Verdict.LOST), Heard.LOST),
        (None, Judgement(Verdict.NOT_APPLIED), Heard.LOST),
        (429, Judgement(Verdict.NOT_APPLIED), Heard.NOTHING),
        (403, Judgement(Verdict.LOST, rule=BLOCKED), Heard.NOTHING),
    ],
)
def test_what_an_answer_says_about_the_server(
    status: int | None, judgement: Judgement, what: Heard
) -> None:
    assert heard(Exchange("write", HandClock().now(), 0.0, status), judgement) is what
