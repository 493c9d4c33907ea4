"""Number a patient's coverages in the file's order (`order_from = "sequence"`). Pure.

Active coverages get 1, 2, ... by their line (medical first, `fhir/codes.py`), and stay in the order in which Canvas has
them within a line; new ones follow in the file's order. So a file that is sorted otherwise changes nothing, and if the
primary leaves, the secondary moves up.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from pipeline.fhir.codes import MEDICAL
from pipeline.planning.ranks import ORDER_MAX

SIXTH_MESSAGE: Final = (
    f"the patient has more active coverages than the {ORDER_MAX} that Canvas ranks, and this is one too many: "
    "end another one, or leave this one out"
)


class Phase(IntEnum):
    """The part that a coverage has in the numbers."""

    ACTIVE = 0
    ENDED = (
        1  # on or before the day of the run: it has freed its order (docs/canvas.md, "Coverage")
    )
    CANCELLED = 2


@dataclass(frozen=True, slots=True)
class Member:
    """One coverage of a patient, by the first of its rows that is good.

    Attributes:
        key: Its identity in the journal.
        line: Its line of coverage; MEDICAL if its row is rejected.
        place: Where its row is in the files.
        phase: Whether it is active.
        held: The order that Canvas was last confirmed to have; None if Canvas does not have it as active.
        is_fixed: Its row is rejected, or may not update it, so that it keeps its order.
    """

    key: str
    line: int
    place: int
    phase: Phase
    held: int | None
    is_fixed: bool = False


def number(members: Sequence[Member], reserved: Collection[int]) -> dict[str, int | None]:
    """Return the order of each coverage that is not fixed; None: the patient has five others.

    A coverage that Canvas has goes before new ones if there are more than five. A fixed one keeps its order; those
    that were behind it stay behind it, and so do new ones, as long as there are orders for all that follow. One that has
    ended keeps its order unless an active one takes it; then it goes behind all active ones, at most to the last order. A
    cancelled one has the last order, because Canvas ranks it nowhere.

    Args:
        members: The coverages of today's files. Fixed ones are `held`.
        reserved: The orders of other coverages of the patient that keep theirs.
    """
    kept = [(order, MEDICAL) for order in reserved]
    kept += [(each.held, each.line) for each in members if each.is_fixed and each.held is not None]
    taken = {order for order, _ in kept}
    going = [each for each in members if not each.is_fixed]
    active = [each for each in going if each.phase is Phase.ACTIVE]
    first = sorted(active, key=lambda each: (each.held is None, *_turn(each)))
    room = max(ORDER_MAX - len(taken), 0)
    numbers: dict[str, int | None] = {each.key: None for each in first[room:]}
    orders, last = dict[str, int](), 0
    in_turn = sorted(first[:room], key=_turn)
    for left, each in zip(range(len(in_turn) - 1, -1, -1), in_turn, strict=True):
        before = max((order for order, line in kept if _is_before(order, line, each)), default=0)
        free = [n for n in range(last + 1, ORDER_MAX + 1) if n not in taken]
        behind = [n for n in free if n > before]
        # Those that follow need an order behind this one.
        last = behind[0] if len(behind) > left else free[0]
        orders[each.key] = last
    ended = [each for each in going if each.phase is Phase.ENDED]
    orders |= _of_ended(ended, taken.union(orders.values()))
    orders |= {each.key: ORDER_MAX for each in going if each.phase is Phase.CANCELLED}
    return numbers | orders


def _is_before(order: int, line: int, member: Member) -> bool:
    """Return whether a coverage that keeps its order stays before another one."""
    return line <= member.line if member.held is None else order < member.held


def _turn(member: Member) -> tuple[int, int, int]:
    """Return what coverages are sorted by: the line, the order in Canvas, the place in the files."""
    held = ORDER_MAX + 1 if member.held is None else member.held
    return member.line, held, member.place


def _of_ended(ended: Sequence[Member], taken: Collection[int]) -> dict[str, int]:
    """Return the orders of coverages that have ended, given those that are taken."""
    orders: dict[str, int] = {}
    last, used = max(taken, default=0), set(taken)
    moving = []
    for each in sorted(ended, key=_turn):
        if each.held is None or each.held in used:
            moving.append(each)
        else:
            orders[each.key] = each.held
            used.add(each.held)
    for each in moving:
        order = next((n for n in range(last + 1, ORDER_MAX) if n not in used), ORDER_MAX)
        orders[each.key] = order
        used.add(order)
    return orders
