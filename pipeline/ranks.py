"""In which turn a patient's coverages are written, so that their orders end as the file says. Pure.

An active coverage that takes an `order` which another one of the patient has bumps the older one
down (canvas-api.md, "Coverage"). Whether that one bumps the next in turn, and whether an update
bumps at all, is not said there: what is decided here comes out right either way.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Final

ORDER_MAX: Final = 5  # canvas-api.md, "Coverage"


def sequence(
    before: Mapping[str, int], wanted: Mapping[str, int], written: Collection[str]
) -> list[str]:
    """The keys to write, in turn, so that the orders end as `wanted`.

    `before` holds the orders of the active coverages in Canvas, also of those that the file does
    not know; `wanted` what the file says of its active ones; `written` the keys that are created or
    updated anyway. Precondition: a key of `wanted` that is not in `written` is an unchanged row, in
    `before` at exactly its wanted order. It is written again if the writes ahead of it move it. One
    that stands elsewhere, or nowhere, is left alone; so is one that shares its wanted order with
    another key of `wanted`. Of written keys that share one, the last one given gets it.

    A write at an order moves only what stands there and below (greater), so in ascending order what
    was written stays. So too a key that was moved before its turn only moves further without a
    write of its own, and one that was not is not moved any more: one pass forces all that it must
    and nothing else.
    """
    claims = Counter(wanted.values())
    orders = dict(before)
    turns: list[str] = []
    for key, order in sorted(wanted.items(), key=lambda item: item[1]):
        is_unchanged = before.get(key) == order and claims[order] == 1
        if key in written or (is_unchanged and orders[key] != order):
            orders = after(orders, key, order)
            turns.append(key)
    return turns


def after(orders: Mapping[str, int], key: str, order: int) -> dict[str, int]:
    """The orders of a patient's coverages after a write of `key` with `order`.

    The bump of canvas-api.md, "Coverage", read at its widest: an update bumps as a create does, and
    who is bumped bumps in turn, up to the first free order; at ORDER_MAX they stay together. A
    write that keeps its order bumps nobody.
    """
    if orders.get(key) == order:
        return dict(orders)
    taken = {held for other, held in orders.items() if other != key}
    free = next((each for each in range(order, ORDER_MAX) if each not in taken), ORDER_MAX)
    moved = {other: held + (order <= held < free) for other, held in orders.items()}
    return moved | {key: order}
