"""The output of `check`: a line for each check, grouped, and below it what to do."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, Final

_WIDTH_MAX: Final = 28  # of the names; a longer one moves its own line, or the message
_NARROW_MAX: Final = 20  # the same,
_NARROW: Final = 100  # if the terminal has fewer columns than this


def checks_text(
    result: Mapping[str, Any], config: str, given: str = "", columns: int | None = None
) -> str:
    """Return the output for the result of `check` as JSON.

    `given`: the options that named feeds and files. `columns`: the width of the terminal, if it is shown on one.
    """
    checks: Sequence[Mapping[str, str]] = result["checks"]
    width = min(
        max(len(check["what"]) for check in checks),
        _NARROW_MAX if columns and columns < _NARROW else _WIDTH_MAX,
    )
    lines = []
    for group, members in groupby(checks, key=lambda check: check["group"]):
        lines.append(group)
        for check in members:
            lines += _lines(check, width, is_broken=columns is not None)
    return "\n".join([*lines, "", *_ending(result, config, given)])


def _lines(check: Mapping[str, str], width: int, *, is_broken: bool) -> list[str]:
    """Return the lines of a check. `is_broken`: after a name that is too long the message is on the next line."""
    indent = " " * (width + 13)
    head = f"  {check['state']:<8} {check['what']:<{width}}"
    if is_broken and len(check["what"]) > width:
        lines = [head, f"{indent}{check['message']}"]
    else:
        lines = [f"{head}  {check['message']}".rstrip()]
    return [*lines, *([f"{indent}-> {check['todo']}"] if check["todo"] else [])]


def _ending(result: Mapping[str, Any], config: str, given: str) -> list[str]:
    counts = result["counts"]
    warnings = "1 warning" if counts["warning"] == 1 else f"{counts['warning']:,} warnings"
    line = f"{counts['wrong']:,} wrong, {warnings}, {counts['ok']:,} ok."
    if counts["wrong"]:
        return [f"{line} Next, once that is fixed:", f"  canvas-ingest check {config}{given}"]
    return [f"{line} Next:", f"  canvas-ingest plan {config}{given}"]
