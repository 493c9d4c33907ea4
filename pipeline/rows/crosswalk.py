"""Source id -> Canvas id, by kind. Pure: the tables are read, or searched for, elsewhere.

Nothing is guessed: no hit and several hits are told apart, and what comes out is always an id that
can stand in a reference.
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
    """How one kind of reference becomes a Canvas id.

    `table` None: the source's value is the id. A value of None in the table: several targets.
    `target` says what the id names: a resource's key, a payer id, or an Organization.
    `is_search`: the table is what Canvas showed of the identifiers that it was asked for.
    """

    target: Target = "key"
    table: Mapping[str, str | None] | None = field(default=None, repr=False)
    is_search: bool = False

    def find(self, source: str) -> str:
        """The id for a source id. Raises Unknown or Ambiguous."""
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
    """Whether Canvas can be searched for it: what no identifier can be would fail the search."""
    return 0 < len(text) <= _IDENTIFIER_LENGTH_MAX and text.isprintable()


def table_of(pairs: Iterable[tuple[str | None, str | None]]) -> dict[str, str | None]:
    """A table from (source, target) pairs.

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
    """The crosswalks of a run."""

    patient: Crosswalk = Crosswalk()
    payer: Crosswalk = Crosswalk(target="payer_id")
    claim: Crosswalk = Crosswalk()
