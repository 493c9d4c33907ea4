"""OperationOutcome: what Canvas says when it refuses.

Source: canvas-api.md, "Answers": one or more issues with `code` and `details.text`; the text is
never in `diagnostics`. HTML and plain bodies happen, so nothing here raises. What is taken over is
bounded, for it goes to the journal and to people: few issues, short texts, nothing that a terminal
would obey.
"""

import re
from dataclasses import dataclass
from typing import Final

import orjson

_ISSUES_MAX = 10
_TEXT_LENGTH_MAX = 500
# Control characters, and those that are not seen or turn the direction of a text.
_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]+")


# FHIR R4, ValueSet issue-type. A code is told where words are not (it becomes a rule, and is counted in the
# summary), so that any other text is none.
CODES: Final = frozenset(
    """
    invalid structure required value invariant security login unknown expired forbidden suppressed processing
    not-supported duplicate multiple-matches not-found deleted too-long code-invalid extension too-costly
    business-rule conflict transient lock-error no-store exception timeout incomplete throttled informational
    """.split()  # noqa: SIM905 - a list of this length is to be read
)


@dataclass(frozen=True, slots=True)
class Issue:
    """One issue: FHIR's code (`business-rule`), "unknown" for any other, and Canvas' own words."""

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
        [_issue(entry) for entry in entries[:_ISSUES_MAX] if isinstance(entry, dict)]
        if isinstance(entries, list)
        else []
    )


def _issue(entry: dict[str, object]) -> Issue:
    details = entry.get("details")
    text = details.get("text") if isinstance(details, dict) else None
    code = entry.get("code")
    return Issue(code if isinstance(code, str) and code in CODES else "unknown", _clean(text))


def _clean(value: object) -> str:
    """Text that a terminal may show, and of bounded length."""
    return _UNSEEN.sub(" ", value[:_TEXT_LENGTH_MAX]) if isinstance(value, str) else ""
