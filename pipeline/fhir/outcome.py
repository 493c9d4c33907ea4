"""OperationOutcome: the reason when Canvas refuses.

Source: docs/canvas.md, "Answers": one or more issues with `code` and `details.text`. Canvas leaves
`diagnostics` empty, but a gateway may use it: it is read if `details.text` is missing. HTML and
plain bodies happen, so nothing here raises. The result is bounded because it goes to the journal
and to people: few issues, short texts, no control characters.
"""

import re
from dataclasses import dataclass
from typing import Final

import orjson

_ISSUES_MAX = 10
_TEXT_LENGTH_MAX = 500
# Control characters, invisible ones, and those that change the direction of a text.
_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]+")


# FHIR R4, ValueSet issue-severity: issues that do not make an operation fail.
_HARMLESS: Final = frozenset({"information", "warning"})
# FHIR R4, ValueSet issue-type. A code becomes part of a rule and is counted in the summary, so free
# text is never accepted as one.
CODES: Final = frozenset(
    """
    invalid structure required value invariant security login unknown expired forbidden suppressed processing
    not-supported duplicate multiple-matches not-found deleted too-long code-invalid extension too-costly
    business-rule conflict transient lock-error no-store exception timeout incomplete throttled informational
    """.split()  # noqa: SIM905 - a list of this length is to be read
)


@dataclass(frozen=True, slots=True)
class Issue:
    """One issue: its FHIR code (`business-rule`; "unknown" for any other), and the text of Canvas."""

    code: str
    text: str


def issues_of(body: bytes) -> list[Issue]:
    """Return the issues of an OperationOutcome that made the operation fail.

    Issues of severity `information` or `warning` are left out, unless there are no others.

    Returns:
        An empty list for any other body.
    """
    try:
        outcome = orjson.loads(body)
    except orjson.JSONDecodeError:
        return []
    if not isinstance(outcome, dict) or outcome.get("resourceType") != "OperationOutcome":
        return []
    found = outcome.get("issue")
    entries = [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []
    reasons = [each for each in entries if not _is_harmless(each)]
    return [_issue(entry) for entry in (reasons or entries)[:_ISSUES_MAX]]


def _is_harmless(entry: dict[str, object]) -> bool:
    severity = entry.get("severity")
    return isinstance(severity, str) and severity in _HARMLESS


def _issue(entry: dict[str, object]) -> Issue:
    details = entry.get("details")
    text = _clean(details.get("text")) if isinstance(details, dict) else ""
    code = entry.get("code")
    return Issue(
        code if isinstance(code, str) and code in CODES else "unknown",
        text or _clean(entry.get("diagnostics")),
    )


def _clean(value: object) -> str:
    """Return text of bounded length that is safe to show on a terminal."""
    return _UNSEEN.sub(" ", value[:_TEXT_LENGTH_MAX]) if isinstance(value, str) else ""
