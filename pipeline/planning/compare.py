"""The plan as a diff: what updates would change, element by element. Pure."""

from collections.abc import Iterable
from typing import Final

import orjson
import polars as pl

from pipeline.fhir.coverage import Organizations, coverage_changes
from pipeline.planning.tables import CHANGES

UNKNOWN: Final = "unknown"  # in place of an element: the content in Canvas is no longer known
_OTHER: Final = "resource"  # the difference has no named element

Pair = tuple[int, bytes | None, bytes]  # seq, the last confirmed content, the content to send


def compare(pairs: Iterable[Pair], organizations: Organizations) -> pl.DataFrame:
    """Return a line (`tables.CHANGES`) for each element of each update that it would change."""
    lines: list[tuple[int, str, str | None, str | None]] = []
    for seq, before, after in pairs:
        if before is None:
            lines.append((seq, UNKNOWN, None, None))
            continue
        if before == after:
            continue  # written again as it is, such as for an earlier run
        changes = coverage_changes(orjson.loads(before), orjson.loads(after), organizations)
        for element, (held, meant) in (changes or {_OTHER: (None, None)}).items():
            lines.append((seq, element, _text(held), _text(meant)))
    return pl.DataFrame(lines, schema=CHANGES, orient="row")


def _text(value: object) -> str | None:
    return None if value is None else str(value)
