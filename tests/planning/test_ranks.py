"""What the file says of a patient's orders is what Canvas ends with, however it bumps."""

from collections.abc import Collection, Mapping, Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.planning.ranks import ORDER_MAX, after, sequence

Orders = dict[str, int]
Case = tuple[Orders, Orders, set[str]]  # before, wanted, written


def bumped(orders: Mapping[str, int], order: int, *, cascades: bool) -> Orders:
    """Whoever stands at this order, one further down, and so on where it cascades."""
    if order == ORDER_MAX or order not in orders.values():
        return dict(orders)
    below = bumped(orders, order + 1, cascades=True) if cascades else dict(orders)
    return below | {key: order + 1 for key, held in orders.items() if held == order}


def carried_out(
    before: Mapping[str, int],
    wanted: Mapping[str, int],
    turns: Sequence[str],
    bumping: Collection[str],
    *,
    cascades: bool = True,
) -> Orders:
    """What a Canvas ends with in which only writes of `bumping` bump."""
    orders = dict(before)
    for key in turns:
        if orders.get(key) != wanted[key] and key in bumping:
            orders.pop(key, None)
            orders = bumped(orders, wanted[key], cascades=cascades)
        orders[key] = wanted[key]
    return orders


@st.composite
def cases(draw: st.DrawFn, *, ties: bool = False) -> Case:
    """Unchanged, updated and created keys, with coverages that the file does not know."""
    order = st.integers(1, ORDER_MAX)
    given_orders = draw(st.lists(order, min_size=1, max_size=5, unique=not ties))
    wanted = {f"k{number}": order for number, order in enumerate(given_orders)}
    unknown = draw(st.lists(order, max_size=2))
    before = {f"u{number}": order for number, order in enumerate(unknown)}
    written = set()
    for key, own in wanted.items():
        kind = draw(st.sampled_from(["unchanged", "updated", "created"]))
        if kind != "unchanged":
            written.add(key)
        if kind != "created":
            before[key] = own if kind == "unchanged" else draw(order)
    return before, wanted, written


SWAP: Case = ({"a": 1, "b": 2}, {"a": 2, "b": 1}, {"a", "b"})
NEW_PRIMARY: Case = ({"u": 1, "s": 2, "t": 3}, {"n": 1, "s": 2, "t": 3}, {"n"})


@pytest.mark.parametrize(
    ("orders", "key", "order", "expected"),
    [
        ({}, "a", 3, {"a": 3}),
        ({"a": 1, "b": 2}, "c", 3, {"a": 1, "b": 2, "c": 3}),
        ({"a": 1, "b": 2, "c": 4}, "n", 1, {"n": 1, "a": 2, "b": 3, "c": 4}),
        ({"a": 1, "b": 2}, "b", 1, {"b": 1, "a": 2}),
        ({"a": 1, "b": 2, "c": 3}, "c", 1, {"c": 1, "a": 2, "b": 3}),
        ({"a": 1, "b": 1}, "a", 1, {"a": 1, "b": 1}),
        ({"a": 2, "b": 2}, "n", 2, {"n": 2, "a": 3, "b": 3}),
        ({"a": 4, "b": 5}, "n", 4, {"n": 4, "a": 5, "b": 5}),
        ({"a": 5}, "n", 5, {"n": 5, "a": 5}),
    ],
)
def test_a_write_takes_its_order_and_bumps_what_stands_there(
    orders: Orders, key: str, order: int, expected: Orders
) -> None:
    given_orders = dict(orders)
    assert after(orders, key, order) == expected
    assert orders == given_orders


@pytest.mark.parametrize(
    ("before", "wanted", "written", "expected"),
    [
        pytest.param(*SWAP, ["b", "a"], id="swap"),
        pytest.param(*NEW_PRIMARY, ["n", "s", "t"], id="a new primary pushes all"),
        pytest.param(
            {"u": 1, "s": 2, "t": 4}, {"n": 1, "s": 2, "t": 4}, {"n"}, ["n", "s"], id="up to a gap"
        ),
        pytest.param(
            {"a": 1, "b": 2, "c": 4}, {"a": 1, "b": 2, "c": 4, "n": 3}, {"n"}, ["n"], id="free"
        ),
        pytest.param({"a": 1, "b": 2}, {"a": 1, "b": 2}, {"b"}, ["b"], id="the order is kept"),
        pytest.param({"a": 1, "b": 2}, {"a": 1, "b": 2}, set(), [], id="nothing is written"),
        pytest.param(
            {"u": 3, "c": 4}, {"n": 3, "c": 4}, {"n"}, ["n", "c"], id="unknown in the way"
        ),
        pytest.param({"u": 5}, {"n": 5}, {"n"}, ["n"], id="unknown at the end"),
        pytest.param({"b": 3}, {"a": 2, "b": 3}, {"a", "u"}, ["a"], id="written, but not active"),
        pytest.param({}, {"y": 2, "x": 2}, {"x", "y"}, ["y", "x"], id="tied: as given"),
        pytest.param({"a": 1}, {"n": 1, "a": 1}, {"n"}, ["n"], id="tied: never forced"),
        pytest.param(
            {"c": 2},
            {"x": 1, "c": 2, "y": 1},
            {"x", "y"},
            ["x", "y", "c"],
            id="tied: pushes others",
        ),
        pytest.param({"u": 1, "a": 3}, {"n": 1, "a": 2}, {"n"}, ["n"], id="stood elsewhere before"),
        pytest.param({"u": 1}, {"n": 1, "a": 2}, {"n"}, ["n"], id="not in Canvas, not written"),
    ],
)
def test_what_is_written_and_in_which_turn(
    before: Orders, wanted: Orders, written: set[str], expected: list[str]
) -> None:
    assert sequence(before, wanted, written) == expected


@given(cases() | cases(ties=True), st.sets(st.sampled_from([f"k{number}" for number in range(5)])))
@example(SWAP, set())
@example(NEW_PRIMARY, set())
def test_every_key_with_an_order_of_its_own_ends_there_however_canvas_bumps(
    case: Case, some: set[str]
) -> None:
    before, wanted, written = case
    turns = sequence(before, wanted, written)
    created = set(turns) - set(before)
    own = {key: order for key, order in wanted.items() if list(wanted.values()).count(order) == 1}
    for bumping, cascades in (
        (turns, True),
        (turns, False),
        (created, True),
        (created, False),
        (some, True),  # an update that makes a cancelled one active may be neither of the two
        (some, False),
    ):
        ended = carried_out(before, wanted, turns, bumping, cascades=cascades)
        assert {key: ended[key] for key in own} == own


@given(cases(ties=True))
def test_every_written_key_goes_once_and_no_key_twice_in_ascending_order(case: Case) -> None:
    before, wanted, written = case
    turns = sequence(before, wanted, written)
    assert written <= set(turns) <= set(wanted)
    places = [(wanted[key], list(wanted).index(key)) for key in turns]
    assert places == sorted(set(places))


@given(cases())
@example(NEW_PRIMARY)
def test_nothing_is_forced_that_would_end_right_without_it(case: Case) -> None:
    before, wanted, written = case
    turns = sequence(before, wanted, written)
    for forced in set(turns) - written:
        without = [key for key in turns if key != forced]
        assert carried_out(before, wanted, without, without)[forced] != wanted[forced]


@given(cases(ties=True))
def test_the_bump_is_the_widest_of_the_readings(case: Case) -> None:
    before, wanted, _ = case
    for key in wanted:
        assert after(before, key, wanted[key]) == carried_out(before, wanted, [key], [key])


@given(cases(ties=True))
def test_of_tied_keys_the_last_one_given_gets_the_order(case: Case) -> None:
    before, wanted, _ = case
    turns = sequence(before, wanted, set(wanted))
    ended = carried_out(before, wanted, turns, turns)
    for order in set(wanted.values()):
        tied = [key for key in wanted if wanted[key] == order]
        assert ended[tied[-1]] == order
