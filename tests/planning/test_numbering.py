"""A patient's coverages are numbered in the file's order, and keep their numbers."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.fhir import codes
from pipeline.planning.numbering import Member, Phase, number

ACTIVE, ENDED, CANCELLED = Phase.ACTIVE, Phase.ENDED, Phase.CANCELLED


def member(
    key: str, held: int | None = None, line: int = 0, phase: Phase = ACTIVE, *, fixed: bool = False
) -> Member:
    return Member(key, line, 0, phase, held, fixed)


def numbered(members: Sequence[Member], reserved: set[int] | None = None) -> dict[str, int | None]:
    """Number the members, whose places are those of the sequence."""
    placed = [replace(each, place=place) for place, each in enumerate(members)]
    return number(placed, reserved or set())


@pytest.mark.parametrize(
    ("members", "reserved", "orders"),
    [
        ([member("a"), member("b")], set(), {"a": 1, "b": 2}),
        ([member("b", 2), member("a", 1)], set(), {"a": 1, "b": 2}),
        ([member("new"), member("b", 2)], set(), {"b": 1, "new": 2}),
        ([member("v", line=2), member("d", line=1), member("m")], set(), {"m": 1, "d": 2, "v": 3}),
        ([member("m"), member("d", 1, line=1)], set(), {"m": 1, "d": 2}),
        # A coverage that keeps its order
        ([member("a", 1, fixed=True), member("b", 2)], set(), {"b": 2}),
        ([member("b", 2, fixed=True), member("c", 3)], set(), {"c": 3}),
        ([member("b", 2, fixed=True), member("new")], set(), {"new": 3}),
        ([member("b", 5, fixed=True), member("new")], set(), {"new": 1}),
        ([member("d", 1, line=1, fixed=True), member("m")], set(), {"m": 2}),
        ([member("b", 3)], {1, 2}, {"b": 3}),
        ([member("b", 3)], {2}, {"b": 3}),
        ([member("new")], {1, 2}, {"new": 3}),
        ([member("new")], {1, 2, 3, 4, 5}, {"new": None}),
        # More than five
        ([*(member(key) for key in "abcdef")], set(), dict(zip("abcdef", [1, 2, 3, 4, 5, None], strict=True))),
        ([member("m"), *(member(key, at) for at, key in enumerate("abcde", 1))], set(), {**dict(zip("abcde", range(1, 6), strict=True)), "m": None}),
        # Ended and cancelled
        ([member("a", 1, phase=ENDED), member("b", 2)], set(), {"b": 1, "a": 2}),
        ([member("a", 4, phase=ENDED), member("b", 2)], set(), {"b": 1, "a": 4}),
        ([member("a", phase=ENDED), member("b", phase=CANCELLED)], set(), {"a": 1, "b": 5}),
        ([*(member(key) for key in "abcde"), member("z", 2, phase=ENDED)], set(), {**dict(zip("abcde", range(1, 6), strict=True)), "z": 5}),
    ],
)  # fmt: skip
def test_the_order_of_each(
    members: list[Member], reserved: set[int], orders: dict[str, int | None]
) -> None:
    assert numbered(members, reserved) == orders


@st.composite
def families(draw: st.DrawFn, *, kept: bool) -> tuple[list[Member], set[int]]:
    """Draw a patient's coverages; each order that Canvas has is that of one of them."""
    orders = draw(st.permutations([1, 2, 3, 4, 5]))
    reserved = set(orders[: draw(st.integers(0, 2))]) if kept else set()
    free = [order for order in orders if order not in reserved]
    members = []
    for at in range(draw(st.integers(0, 7))):
        has_held: bool = draw(st.booleans())
        held = free.pop() if free and has_held else None
        line, phase = draw(st.integers(0, 3)), draw(st.sampled_from(Phase))
        if phase is CANCELLED:
            held = None
        may_be_fixed: bool = draw(st.booleans())
        fixed = kept and held is not None and may_be_fixed
        members.append(Member(f"k{at}", line, at, phase, held, fixed))
    return members, reserved


def naive(members: Sequence[Member]) -> dict[str, int | None]:
    """Number active coverages of which none is kept, as the page says it."""
    orders: dict[str, int | None] = {}
    active = [each for each in members if each.phase is ACTIVE]
    chosen = [each for each in active if each.held is not None]
    for line in range(4):
        chosen += [each for each in active if each.held is None and each.line == line]
    chosen, left = chosen[:5], chosen[5:]
    at = 0
    for line in range(4):
        known = [each for each in chosen if each.line == line and each.held is not None]
        new = [each for each in chosen if each.line == line and each.held is None]
        for each in [*sorted(known, key=lambda one: one.held or 0), *new]:
            at += 1
            orders[each.key] = at
    return {**orders, **{each.key: None for each in left}}


@given(families(kept=False))
def test_active_ones_are_numbered_as_a_person_would(drawn: tuple[list[Member], set[int]]) -> None:
    members, _ = drawn
    found = number(members, set())
    active = {each.key for each in members if each.phase is ACTIVE}
    assert {key: order for key, order in found.items() if key in active} == naive(members)


def test_three_new_ones_that_do_not_fit_behind_a_kept_one_stay_as_they_were_numbered() -> None:
    """Two of them swapped their orders each night."""
    new = [Member(f"k{at}", line, at, ACTIVE, None) for at, line in enumerate((2, 2, 1))]
    found = number(new, {3})
    assert found == {"k2": 1, "k0": 4, "k1": 5}
    assert number([replace(each, held=found[each.key]) for each in new], {3}) == found


@given(families(kept=True), st.randoms())
def test_the_next_night_changes_nothing(
    drawn: tuple[list[Member], set[int]], random: Random
) -> None:
    members, reserved = drawn
    found = number(members, reserved)
    places = list(range(len(members)))
    random.shuffle(places)
    tomorrow = [
        replace(
            each,
            place=place,
            held=each.held
            if each.is_fixed
            else None
            if each.phase is CANCELLED
            else found[each.key],
        )
        for each, place in zip(members, places, strict=True)
        if each.is_fixed or found[each.key] is not None
    ]
    again = number(tomorrow, reserved)
    assert again == {key: order for key, order in found.items() if order is not None}


@given(families(kept=True))
def test_no_order_is_taken_from_another(drawn: tuple[list[Member], set[int]]) -> None:
    members, reserved = drawn
    found = number(members, reserved)
    going = [each for each in members if not each.is_fixed]
    assert found.keys() == {each.key for each in going}
    active = [found[each.key] for each in going if each.phase is ACTIVE]
    kept = reserved | {each.held for each in members if each.is_fixed and each.held}
    orders = [order for order in active if order is not None]
    assert len(set(orders)) == len(orders)
    assert not kept.intersection(orders)
    assert active.count(None) == max(0, len(active) + len(kept) - 5)
    ended = [found[each.key] for each in going if each.phase is ENDED]
    assert not {order for order in ended if order != 5}.intersection([*orders, *kept])


def test_each_line_names_types_of_canvas() -> None:
    assert codes.LINES.keys() <= set(codes.TYPES)
    lines = [codes.line_of(code) for code in ("PPO", "DENTAL", "DENTPRG", "VISPOL", "pay", None)]
    assert lines == [
        codes.MEDICAL,
        codes.DENTAL,
        codes.DENTAL,
        codes.VISION,
        codes.OTHER_LINE,
        codes.MEDICAL,
    ]
