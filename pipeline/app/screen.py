"""Text on a terminal: broken between words to its width, and with colours for verdicts.

In a pipe, a file or a log a text stays as it is: a sentence is one line, and nothing is coloured. As users expect, a
NO_COLOR that is not empty and `--no-color` turn colours off, and FORCE_COLOR turns them on in a pipe too.
"""

import os
import re
import sys
from collections.abc import Mapping
from typing import IO, Any, Final

import click

from pipeline.reporting.layout import COLUMNS, wrapped
from pipeline.reporting.masking import shown

_COLUMNS_MIN: Final = 40
_COLUMNS_MAX: Final = 120  # longer lines are hard to read
_GOOD: Final = "green"
_FIX: Final = "yellow"
_PERSON: Final = "magenta"
_BAD: Final = "red"
# The group `verdict` of the first pattern that a line has is coloured. By the exit code:
_EXITS: Final = {"0": _GOOD, "3": _FIX, "4": _PERSON}
_EXIT: Final = re.compile(r"(?P<verdict>Exit (\d+): .*)")
_VERDICTS: Final = tuple(
    (re.compile(pattern), colour)
    for pattern, colour in (
        # what `check` found
        (r" {2}(?P<verdict>ok) ", _GOOD),
        (r" {2}(?P<verdict>warning) ", _FIX),
        (r" {2}(?P<verdict>wrong) ", _BAD),
        # the table of a run, and what `verify` found
        (r"(?P<verdict>rejected|refused) +[\d,]+( |$)", _FIX),
        (r"(?P<verdict>in doubt) +[\d,]+( |$)", _PERSON),
        (r" *[\d,]+ {2}(?P<verdict>match|moved) ?", _GOOD),
        (r" *[\d,]+ {2}(?P<verdict>differ|missing|strays) ", _FIX),
        (r" *[\d,]+ {2}(?P<verdict>unread) ", _BAD),
        # sentences
        (r"(?P<verdict>Balanced:) ", _GOOD),
        (r"(?P<verdict>NOT BALANCED:) ", _BAD),
        (r"(?P<verdict>Warning:) ", _FIX),
        (r"(?P<verdict>(Failed|Error):) ", _BAD),
        (r"The audit log is (?P<verdict>whole): ", _GOOD),
        (r"The audit log is (?P<verdict>BROKEN) ", _BAD),
        (r"The table of writes does (?P<verdict>NOT) agree ", _BAD),
        (r"(?P<verdict>Nothing is in doubt\.)$", _GOOD),
        (r"(?P<verdict>[\d,]+ writes? (is|are)( still)? in doubt)[:;] ", _PERSON),
        (r"(?P<verdict>[1-9][\d,]* wrong), [\d,]+ warnings?, [\d,]+ ok\.", _BAD),
        (r"(?P<verdict>0 wrong), [\d,]+ warnings?, [\d,]+ ok\.", _GOOD),
    )
)


def columns_of(stream: IO[Any]) -> int | None:
    """Return the columns of the terminal to which a stream goes, from 40 to 120; None if it goes elsewhere."""
    if not stream.isatty():
        return None
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and int(given):
        width = int(given)
    else:
        try:
            width = os.get_terminal_size(stream.fileno()).columns or COLUMNS
        except OSError:
            width = COLUMNS
    return min(max(width, _COLUMNS_MIN), _COLUMNS_MAX)


def table_columns() -> int:
    """Return the columns that the tables on stdout may have."""
    return columns_of(sys.stdout) or COLUMNS


def is_coloured(
    stream: IO[Any], environment: Mapping[str, str] = os.environ, *, allowed: bool = True
) -> bool:
    """Return whether what goes to a stream has colours. `allowed` False: `--no-color`."""
    if not allowed or environment.get("NO_COLOR"):
        return False
    if forced := environment.get("FORCE_COLOR"):
        return forced not in {"0", "false"}
    return stream.isatty() and environment.get("TERM") != "dumb"


def may_colour() -> bool:
    """Return whether the command that runs was typed without `--no-color`."""
    context = click.get_current_context(silent=True)
    return context is None or context.color is not False


def print_text(text: str, *, err: bool = False) -> None:
    """Print a text for a person.

    Names of files and columns come from strangers, so control characters of a terminal are made visible.
    """
    stream = sys.stderr if err else sys.stdout
    text = "\n".join(map(shown, text.split("\n")))
    if columns := columns_of(stream):
        text = wrapped(text, columns)
    coloured = is_coloured(stream, allowed=may_colour())
    if coloured:
        text = painted(text)
    click.echo(text, err=err, color=coloured)


def painted(text: str) -> str:
    """Return a text with colours for its verdicts."""
    return "\n".join(map(_painted, text.split("\n")))


def _painted(line: str) -> str:
    found, colour = _EXIT.match(line), ""
    if found:
        colour = _EXITS.get(found[2], _BAD)
    else:
        for pattern, colour in _VERDICTS:  # noqa: B007 - that of the pattern that was found
            if found := pattern.match(line):
                break
    if not found:
        return line
    start, end = found.span("verdict")
    return f"{line[:start]}{click.style(line[start:end], fg=colour, bold=True)}{line[end:]}"
