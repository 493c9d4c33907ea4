"""Translate source ids to Canvas ids, by kind. Pure: the tables are read, or searched for, elsewhere.

Nothing is guessed: no hit and several hits are different errors, and the result is always an id that can
be part of a reference.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

_IDENTIFIER_LENGTH_MAX: Final = 255

Target = Literal["key", "payer_id", "organization"]


class Unknown(LookupError):
    """The source id is in no line of the table."""


class Ambiguous(LookupError):
    """The source id stands for several different ids."""


@dataclass(frozen=True, slots=True)
class Crosswalk:
    """The translation of one kind of reference to a Canvas id.

    Attributes:
        target: What the id names: a resource's key, a payer id, or an Organization.
        table: The ids by source id; None as a value: several targets. None: the source's value is the id.
        is_search: The table has the results of searching Canvas for identifiers.
    """

    target: Target = "key"
    table: Mapping[str, str | None] | None = field(default=None, repr=False)
    is_search: bool = False

    def find(self, source: str) -> str:
        """Return the id for a source id. Raises Unknown or Ambiguous."""
        if self.table is None:
            return source
        try:
            found = self.table[source]
        except KeyError:
            raise Unknown from None
        if found is None:
            raise Ambiguous
        return found


def is_identifier(text: str) -> bool:
    """Return whether Canvas can be searched for a text: a search for any other text would fail."""
    return 0 < len(text) <= _IDENTIFIER_LENGTH_MAX and text.isprintable()


def table_of(pairs: Iterable[tuple[str | None, str | None]]) -> dict[str, str | None]:
    """Return a table from (source, target) pairs.

    The same pair twice is one hit; a source with two targets is None, "several".
    Pairs with a blank side are left out.
    """
    table: dict[str, str | None] = {}
    for source, target in pairs:
        source, target = (source or "").strip(), (target or "").strip()  # noqa: PLW2901 - trimmed
        if not source or not target:
            continue
        if table.setdefault(source, target) != target:
            table[source] = None
    return table


@dataclass(frozen=True, slots=True)
class Crosswalks:
    """The crosswalks of a run.

    With `by_row`, the text of a subscriber is the Patient key of another row, which a pass has found.
    """

    patient: Crosswalk = Crosswalk()
    payer: Crosswalk = Crosswalk(target="payer_id")
    claim: Crosswalk = Crosswalk()
    by_row: bool = False

    @property
    def subscriber(self) -> Crosswalk:
        """Return the crosswalk of subscribers."""
        return Crosswalk() if self.by_row else self.patient
