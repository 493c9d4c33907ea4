"""Tables and sentences for a terminal, by its width. Pure.

Tables fit COLUMNS, and a cell is never cut. Only sentences are broken, between words, and never inside an amount.
"""

import re
import textwrap
from collections.abc import Collection, Sequence
from typing import Final

COLUMNS: Final = 80  # of a table if no terminal says otherwise: a mail, a log, a file
_GAP: Final = "  "
_GLUE: Final = "\0"  # in place of a space that stays; no text that is shown has this character
_AMOUNT: Final = re.compile(r"(?<=\d) (?=USD\b|%)|(?<=\bUSD) (?=[-(\d])")
_LAST_GAP: Final = re.compile(r" {2,}(?=\S)")
_HANGING_MAX: Final = 0.6  # of the width: what is left is enough for words
_COMMAND: Final = re.compile(r" *(-> )?canvas-ingest ")


def table(rows: Sequence[Sequence[str]], *, left: Collection[int] = (0,)) -> list[str]:
    """Return the rows as lines. The columns `left` are flush left, all others are numbers, flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        _GAP.join(
            cell.ljust(width) if number in left else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def width_of(lines: Sequence[str]) -> int:
    """Return the length of the longest line."""
    return max(map(len, lines), default=0)


def wrapped(text: str, columns: int) -> str:
    """Return a text whose lines are broken between words to fit `columns`.

    What follows is indented to where the last column of its line begins. A command stays one line, to be copied.
    """
    return "\n".join(part for line in text.split("\n") for part in _broken(line, columns))


def _broken(line: str, columns: int) -> list[str]:
    if len(line) <= columns or _COMMAND.match(line):
        return [line]
    return [
        part.replace(_GLUE, " ")
        for part in textwrap.wrap(
            _AMOUNT.sub(_GLUE, line),
            columns,
            subsequent_indent=" " * _indent(line, columns),
            break_long_words=False,
            break_on_hyphens=False,
        )
    ]


def _indent(line: str, columns: int) -> int:
    """Return where the last column of a line begins; of a sentence, two more than the sentence itself."""
    ends = [gap.end() for gap in _LAST_GAP.finditer(line, 0, int(columns * _HANGING_MAX))]
    start = len(line) - len(line.lstrip())
    if not ends or ends[-1] == start:
        return start + (3 if line.startswith("-> ", start) else 2)
    return ends[-1] + (3 if line.startswith("-> ", ends[-1]) else 0)
