"""Detect whether a file's first line is a header. If it may be a row, its cells are values and not shown. Pure."""

import re
from collections.abc import Sequence
from typing import Final

from pipeline.rows import synonyms
from pipeline.rows.dates import FORMATS, reads

_NUMBER: Final = re.compile(r"[-($]*[\d,]+(\.\d+)?\)?")
_KNOWN_MIN: Final = 2  # names that are known; of a narrow file, half of its columns


def has_data(line: Sequence[str]) -> bool:
    """Return whether a cell of the line is a number or a date, which no column name is."""
    cells = [cell.strip() for cell in line]
    return any(
        _NUMBER.fullmatch(cell) or any(reads(form, cell) for form in FORMATS) for cell in cells
    )


def is_header(line: Sequence[str]) -> bool:
    """Return whether a line is certainly a header: no data, and enough known names."""
    enough = min(_KNOWN_MIN, (len(line) + 1) // 2)
    return not has_data(line) and synonyms.known(line) >= enough


def column_text(line: Sequence[str], column: str, mapped: str = "") -> str:
    """Return the name of a column of a file's first line, for a message.

    Args:
        line: The first line.
        column: One of its cells.
        mapped: A name of the configuration: the same name in another spelling shows nothing new.

    Returns:
        The name in quotes; `column number 3` if the cell may be a value.
    """
    is_shown = synonyms.is_same(column, mapped) or synonyms.known([column]) or is_header(line)
    return f'"{column}"' if is_shown else f"column number {list(line).index(column) + 1}"
