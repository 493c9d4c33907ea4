"""The output of `check`: a line for each check, grouped, and below it what to do."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, Final

_WIDTH_MAX: Final = 28  # of the names; a longer one moves its own line


def checks_text(result: Mapping[str, Any], config: str, given: str = "") -> str:
    """Return the output for the result of `check` as JSON; `given`: the options that named feeds and files."""
    checks: Sequence[Mapping[str, str]] = result["checks"]
    width = min(max(len(check["what"]) for check in checks), _WIDTH_MAX)
    lines = []
    for group, members in groupby(checks, key=lambda check: check["group"]):
        lines.append(group)
        for check in members:
            lines += _lines(check, width)
    return "\n".join([*lines, "", *_ending(result, config, given)])


def _lines(check: Mapping[str, str], width: int) -> list[str]:
    head = f"  {check['state']:<8} {check['what']:<{width}}  "
    lines = [f"{head}{check['message']}".rstrip()]
    if check["todo"]:
        lines.append(f"{'':<{width + 13}}-> {check['todo']}")
    return lines


def _ending(result: Mapping[str, Any], config: str, given: str) -> list[str]:
    counts = result["counts"]
    warnings = "1 warning" if counts["warning"] == 1 else f"{counts['warning']:,} warnings"
    line = f"{counts['wrong']:,} wrong, {warnings}, {counts['ok']:,} ok."
    if counts["wrong"]:
        return [f"{line} Next, once that is fixed:", f"  canvas-ingest check {config}{given}"]
    return [f"{line} Next:", f"  canvas-ingest plan {config}{given}"]
