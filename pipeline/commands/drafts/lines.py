"""Find the lines of a text that are no rows: titles above the header, blank lines, totals at the end."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from pipeline.reading.headers import has_data
from pipeline.reading.heading import DELIMITERS, columns_of
from pipeline.reading.inspect import first_and_last
from pipeline.rows import synonyms

_LINES_SEARCHED: Final = 50  # for the header
_KNOWN_MIN: Final = 2  # names that are known in a header below the first line
_FOOTER_MAX: Final = 5  # lines of totals
_TOTAL: Final = re.compile(
    r"(?:grand |sub)?totals?\b|sum\b|(?:record|row|line|payment)s?\s*(?:count|:)|count\b|end of\b|report\b|trailer\b",
    re.IGNORECASE,
)


def layout(path: Path, encoding: str) -> dict[str, Any]:
    """Return the settings of a feed for the lines of a text: its delimiter, and what to leave out.

    Args:
        path: The file.
        encoding: Its encoding.

    Raises:
        InputError: The text cannot be read.
    """
    head, tail = first_and_last(path, encoding)
    number, delimiter, header = _header(head)
    found: dict[str, Any] = {"delimiter": delimiter}
    if number:
        found["skip_lines"] = number
    body = _lines(head)[number + 1 :]
    ends = body if head == tail else _lines(tail)[1:]
    footer = _footer(ends, delimiter, len(header), is_torn=not tail.endswith("\n"))
    if footer:
        found["skip_footer"] = footer
    rows = body[: len(body) - footer] if head == tail else [*body, *ends[: len(ends) - footer]]
    if any(_is_blank(line, delimiter) for line in rows):
        found["blank_lines"] = "skip"
    return found


def _lines(text: str) -> list[str]:
    lines = text.split("\n")
    return lines if lines[-1] else lines[:-1]


def _header(text: str) -> tuple[int, str, Sequence[str]]:
    """Return the number of lines above the header, its delimiter and its cells.

    The first line is the header unless another one has more names that are known, and no data.
    """
    best: tuple[int, int, int] = (-1, 0, 0)
    found: tuple[int, str, Sequence[str]] = (0, DELIMITERS[0], ())
    rest = text
    for number in range(_LINES_SEARCHED):
        for delimiter in DELIMITERS:
            cells = columns_of(rest, delimiter) or []
            rank = (synonyms.known(cells), -number, len(cells))
            is_header = number == 0 or (
                rank[0] >= _KNOWN_MIN and rank[0] > best[0] and not has_data(cells)
            )
            if rank > best and is_header:
                best, found = rank, (number, delimiter, cells)
        _, end, rest = rest.partition("\n")
        if not end:
            break
    return found


def _footer(lines: Sequence[str], delimiter: str, width: int, *, is_torn: bool) -> int:
    """Return the number of lines from the first total to the end of the text; 0 if it ends with a row."""
    last = len(lines)
    while last and _is_blank(lines[last - 1], delimiter):
        last -= 1
    first = last
    while first and last - first < _FOOTER_MAX and _is_total(lines[first - 1], delimiter, width):
        first -= 1
    is_short_and_torn = is_torn and not _TOTAL.match(lines[last - 1]) if first < last else True
    return 0 if is_short_and_torn else len(lines) - first


def _is_total(line: str, delimiter: str, width: int) -> bool:
    """Return whether a line is no row: it has fewer cells than the header, or begins as totals do."""
    cells = next(csv.reader([line], delimiter=delimiter), [])
    filled = [cell.strip() for cell in cells if cell.strip()]
    return bool(filled) and (len(cells) < width or bool(_TOTAL.match(filled[0])))


def _is_blank(line: str, delimiter: str) -> bool:
    return not line.strip(delimiter + '" \t\r')
