"""The circuit breaker of writes: every order of answers, in bounded numbers."""

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.canvas.breaker import TRIPS_MAX, Breaker, Heard

ANSWERED, LOST, NOTHING = Heard.ANSWERED, Heard.LOST, Heard.NOTHING


def opened(lost_max: int = 3) -> Breaker:
    breaker = Breaker()
    for _ in range(lost_max):
        breaker.hear(sent(breaker), LOST, lost_max)
    assert breaker.is_open
    return breaker


def sent(breaker: Breaker) -> int:
    ticket = breaker.admit()
    assert ticket is not None
    return ticket


def test_lost_answers_in_a_row_open_it_and_a_read_lets_one_write_through() -> None:
    breaker = opened()
    assert breaker.admit() is None
    breaker.read_succeeded()
    probe = sent(breaker)
    assert (breaker.is_probing, breaker.admit()) == (True, None)
    breaker.hear(probe, ANSWERED, 3)
    assert (breaker.is_open, breaker.is_probing, breaker.trips) == (False, False, 0)
    assert breaker.admit() == breaker.admit()


def test_a_probe_that_is_lost_opens_it_again() -> None:
    breaker = opened()
    breaker.read_succeeded()
    breaker.hear(sent(breaker), LOST, 3)
    assert (breaker.is_open, breaker.trips) == (True, 2)


def test_a_probe_that_says_nothing_makes_the_next_write_the_probe() -> None:
    breaker = opened()
    breaker.read_succeeded()
    breaker.hear(sent(breaker), NOTHING, 3)
    assert (breaker.is_open, breaker.is_probing, breaker.trips) == (False, False, 1)
    sent(breaker)
    assert breaker.admit() is None


@pytest.mark.parametrize("late", [ANSWERED, LOST, NOTHING])
def test_what_was_sent_before_it_opened_decides_nothing(late: Heard) -> None:
    breaker = Breaker()
    tickets = [sent(breaker) for _ in range(4)]
    for ticket in tickets[:2]:
        breaker.hear(ticket, LOST, 2)
    breaker.hear(tickets[2], late, 2)
    assert breaker.is_open
    breaker.read_succeeded()
    sent(breaker)
    breaker.hear(tickets[3], late, 2)
    assert breaker.is_probing
    assert breaker.trips == 1


def test_answers_that_say_nothing_neither_count_nor_begin_anew() -> None:
    breaker = Breaker()
    for heard in (LOST, NOTHING, LOST):
        assert not breaker.is_open
        breaker.hear(sent(breaker), heard, 2)
    assert breaker.is_open


@given(
    st.integers(1, 8),
    st.integers(1, 5),
    st.lists(st.tuples(st.integers(0, 7), st.sampled_from([LOST, NOTHING])), max_size=200),
)
def test_few_writes_get_lost_and_none_waits_for_ever(
    concurrency: int, lost_max: int, answers: list[tuple[int, Heard]]
) -> None:
    """Reads succeed, answers arrive in any order, none of them says that a write is answered."""
    breaker, flying, lost = Breaker(), deque[int](), 0
    for turn, heard in answers:
        while len(flying) < concurrency:
            if breaker.is_open and breaker.trips <= TRIPS_MAX:
                breaker.read_succeeded()
            ticket = breaker.admit()
            if ticket is None:
                break
            flying.append(ticket)
        if not flying:
            assert breaker.trips > TRIPS_MAX, "else one write may always go"
            break
        flying.rotate(turn)
        breaker.hear(flying.popleft(), heard, lost_max)
        lost += heard is LOST
    assert lost <= concurrency + lost_max + TRIPS_MAX
