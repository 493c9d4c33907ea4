"""The turn in which a patient's coverages are written, so that their orders end as the file says. Pure.

An active coverage that takes an `order` which another one of the patient has moves the older one down
(docs/canvas.md, "Coverage"). Canvas does not document whether that one moves the next in turn, and
whether an update moves others at all: the turns found here give the right result either way.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

ORDER_MAX: Final = 5  # docs/canvas.md, "Coverage"


def sequence(
    before: Mapping[str, int], wanted: Mapping[str, int], written: Collection[str]
) -> list[str]:
    """Return the keys to write, in turn, so that the orders end as `wanted`.

    A write at an order moves only coverages at that order and below (greater), so in ascending order the
    written ones stay. For the same reason a key that was moved before its turn only moves further without a
    write of its own, and one that was not moved by then is never moved: one pass forces all writes that are
    needed and no others.

    Args:
        before: The orders of the active coverages in Canvas, also of those that the file does not know.
        wanted: The orders of the file's active coverages.
        written: The keys that are created or updated anyway. A key of `wanted` that is not in it is an
            unchanged row, in `before` at exactly its wanted order. It is written again if the writes
            before it move it. If it is at another order, or not in `before`, it is left alone, as is one that
            shares its wanted order with another key of `wanted`. Of written keys that share an order, the
            last one given gets it.
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
    """Return the orders of a patient's coverages after a write of `key` with `order`.

    docs/canvas.md, "Coverage", is read at its widest: an update moves others as a create does, and a moved
    coverage moves the next in turn, up to the first free order; at ORDER_MAX they stay together. A write
    that keeps its order moves none.
    """
    free = first_free(orders, key, order)
    moved = {other: held + (order <= held < free) for other, held in orders.items()}
    return moved | {key: order}


def after_all(writes: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Return the orders of a patient's coverages after these writes (key and order), in turn."""
    orders: dict[str, int] = {}
    for key, order in writes:
        orders = after(orders, key, order)
    return orders


def first_free(orders: Mapping[str, int], key: str, order: int) -> int:
    """Return the first order, from `order` up, that no other coverage has: none beyond it is moved.

    `order` itself if the write keeps its order.
    """
    if orders.get(key) == order:
        return order
    taken = {held for other, held in orders.items() if other != key}
    return next((each for each in range(order, ORDER_MAX) if each not in taken), ORDER_MAX)


def can_be_last(
    before: Mapping[str, int], gone: Mapping[str, int], writes: Sequence[tuple[str, int | None]]
) -> set[str]:
    """Return the keys of `gone` whose cancellation or end can go behind all writes of the patient.

    None of the writes may take the order of such a coverage, or move it: then the orders end as if it were
    cancelled or ended before the writes.

    Args:
        before: The orders of the patient's other active coverages in Canvas, and of those that are to be ended.
        gone: The orders of those that are to be cancelled or ended.
        writes: Key and order of each write, in turn. An order of None: it becomes inactive.
    """
    last = dict(gone)
    while touched := _touched({**before, **last}, last, writes):
        del last[min(touched, key=lambda key: last[key])]  # without it others may be left alone
    return set(last)


def _touched(
    orders: Mapping[str, int], kept: Mapping[str, int], writes: Sequence[tuple[str, int | None]]
) -> set[str]:
    """Return the keys of `kept` whose order one of the writes takes, or moves."""
    touched: set[str] = set()
    for key, order in writes:
        if order is None:
            orders = {other: held for other, held in orders.items() if other != key}
        elif orders.get(key) != order:
            free = first_free(orders, key, order)
            touched |= {other for other in kept if order <= orders[other] <= free}
            orders = after(orders, key, order)
    return touched
