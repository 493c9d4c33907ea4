"""OperationOutcome: what Canvas says when it refuses.

Source: canvas-api.md, "Answers": one or more issues with `code` and `details.text`; the text is
never in `diagnostics`. HTML and plain bodies happen, so nothing here raises.
"""

import re
from dataclasses import dataclass

import orjson

_TEXT_LENGTH_MAX = 500
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


@dataclass(frozen=True, slots=True)
class Issue:
    """One issue: FHIR's code (`business-rule`) and Canvas' own words."""

    code: str
    text: str


def issues_of(body: bytes) -> list[Issue]:
    """The issues of an OperationOutcome, or an empty list for any other body."""
    try:
        outcome = orjson.loads(body)
    except orjson.JSONDecodeError:
        return []
    if not isinstance(outcome, dict) or outcome.get("resourceType") != "OperationOutcome":
        return []
    entries = outcome.get("issue")
    return (
        [_issue(entry) for entry in entries if isinstance(entry, dict)]
        if isinstance(entries, list)
        else []
    )


def _issue(entry: dict[str, object]) -> Issue:
    details = entry.get("details")
    text = details.get("text") if isinstance(details, dict) else None
    code = entry.get("code")
    return Issue(_clean(code) or "unknown", _clean(text))


def _clean(value: object) -> str:
    """Text without control characters (a terminal may show it), and of bounded length."""
    return _CONTROL.sub(" ", value)[:_TEXT_LENGTH_MAX] if isinstance(value, str) else ""
