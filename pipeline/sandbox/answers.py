"""Answers as values: status, headers and body, before anything is sent. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import orjson

from pipeline.sandbox.rules import Json, Refusal, outcome, refuse

if TYPE_CHECKING:
    from pipeline.sandbox.account import Effect

FHIR_JSON: Final = "application/fhir+json"
HTML: Final = "text/html; charset=utf-8"
REASONS: Final = {
    403: "403 Forbidden",
    502: "502 Bad Gateway",
    503: "503 Service Temporarily Unavailable",
}
CUT_BODY: Final = b'{"resourceType": "Cover'
CUT_LENGTH: Final = 512
"""Content-Length promised by a 201 whose body is cut."""


@dataclass(slots=True)
class Answer:
    """One HTTP answer.

    `effect` is what it wrote; `cut` ends it before its Content-Length; `lost` closes the
    connection in its place.
    """

    status: int
    body: bytes = b""
    content_type: str = FHIR_JSON
    headers: dict[str, str] = field(default_factory=dict)
    effect: Effect | None = None
    cut: bool = False
    lost: bool = False

    @property
    def outcome(self) -> str:
        """Return the status as the account counts it, or `lost`."""
        return "lost" if self.lost else str(self.status)


def json_answer(status: int, value: Any, content_type: str = "application/json") -> Answer:
    """Build an answer with a JSON body."""
    return Answer(status, orjson.dumps(value), content_type)


def resource_answer(resource: Json) -> Answer:
    """Build the answer of a read or search."""
    return Answer(200, orjson.dumps(resource))


def refusal_answer(refusal: Refusal) -> Answer:
    """Build the answer of a refusal: an OperationOutcome."""
    answer = Answer(refusal.status, orjson.dumps(outcome(refusal)))
    if refusal.status == 401:
        answer.headers["WWW-Authenticate"] = "Bearer"
    return answer


def html_answer(status: int) -> Answer:
    """Build a page as an edge or a proxy returns it."""
    title = REASONS.get(status, str(status))
    page = (
        f"<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{title}</h1>"
        "</center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
    )
    return Answer(status, page.encode(), HTML)


def error_answer(status: int) -> Answer:
    """Build a 5xx: 502 and 503 are pages of a proxy, the others OperationOutcomes."""
    if status in REASONS:
        return html_answer(status)
    return refusal_answer(refuse(status, "exception", "Internal Server Error"))


def throttled_answer(retry_after: str | None) -> Answer:
    """Build a 429 of the edge; `retry_after` is the header's value, None: no header."""
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    return Answer(429, b"Too Many Requests\n", "text/plain; charset=utf-8", headers)


def location_of(form: str, host: str, resource_type: str, resource_id: str) -> str:
    """Write Location in one of `faults.LOCATION_FORMS`."""
    scheme, _, history = form.partition("_")
    path = f"/{resource_type}/{resource_id}" + ("/_history/1" if history else "")
    return path if scheme == "relative" else f"{scheme}://{host}{path}"
