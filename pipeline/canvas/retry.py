"""What an answer to a write means: the one judgement to argue from documents. Pure.

The four classes are those of reliability.md, "The four classes of an answer to a POST". When in
doubt it is `LOST`: then nothing is sent again, and a search has to settle it.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from random import Random
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from pipeline.canvas.proxy import PROXY, PROXY_REFUSES
from pipeline.canvas.transport import LEASE, Reply
from pipeline.errors import IngestError, WrongHost, taken
from pipeline.fhir.datatypes import is_id
from pipeline.fhir.outcome import issues_of
from pipeline.records import Verdict

_REFUSING: Final = frozenset({400, 406, 411, 413, 414, 415, 422})
_NO_SUCH_ENDPOINT: Final = frozenset({404, 405})
_PROXIES: Final = frozenset({PROXY, PROXY_REFUSES})
_TOO_FAST: Final = frozenset({429, 503})
_URL: Final = re.compile(r"[!#-;=?-\[\]_a-z~]*", re.ASCII)  # the signs of RFC 3986, appendix A
_YEARS: Final = range(2000, 3000)  # of a clock that says anything; others are near the ends of time


class Judgement(NamedTuple):
    """What one answer comes to.

    `too_fast`: Canvas asks for a slower pace. `stop`: why nothing more can be sent at all.
    """

    verdict: Verdict
    resource_id: str = ""
    rule: str = ""
    message: str = ""
    too_fast: bool = False
    stop: IngestError | None = None


def judge_create(reply: Reply, resource_type: str, host: str, *, proven: bool) -> Judgement:
    """Class an answer to a POST. `proven`: a row has already succeeded on this endpoint."""
    if reply.status != 201:  # noqa: PLR2004 - Created
        return _judge(reply, proven=proven)
    resource_id = location_id(reply.headers.get("location", ""), resource_type, host)
    if resource_id is None:
        return _lost("no-id", "created, and the answer names no id")
    return Judgement(Verdict.ACCEPTED, resource_id=resource_id)


def judge_update(reply: Reply, resource_id: str, *, proven: bool) -> Judgement:
    """Class an answer to a PUT of this resource. What is lost or stale, a read has to settle."""
    if reply.status == 200:  # noqa: PLR2004 - OK
        return Judgement(Verdict.ACCEPTED, resource_id=resource_id)
    if reply.status == 412:  # noqa: PLR2004 - Precondition Failed
        return Judgement(
            Verdict.STALE, rule="conflict", message="Canvas holds another version of it"
        )
    if reply.status == 404 and issues_of(reply.body):  # noqa: PLR2004 - Not Found
        return _refusal(reply, 404, proven=True)
    return _judge(reply, proven=proven)


def _judge(reply: Reply, *, proven: bool) -> Judgement:
    status = reply.status
    if status is None:
        if not reply.handed_off:
            return Judgement(
                Verdict.NOT_APPLIED,
                rule="canvas|unreachable",
                message=f"not sent: {reply.detail if reply.problem in _PROXIES else reply.problem}",
                stop=taken() if reply.problem == LEASE else None,
            )
        return _lost("no-answer", f"no answer after it was sent ({reply.problem})")
    if status == 401:  # noqa: PLR2004 - Unauthorized
        return Judgement(
            Verdict.NOT_APPLIED, rule="canvas|unauthorized", message="the token was not taken"
        )
    if status == 429:  # noqa: PLR2004 - Too Many Requests
        return Judgement(
            Verdict.NOT_APPLIED,
            rule="canvas|too-fast",
            message="Canvas asks to go slower",
            too_fast=True,
        )
    return _refusal(reply, status, proven=proven)


def _refusal(reply: Reply, status: int, *, proven: bool) -> Judgement:
    issues = issues_of(reply.body)
    refused = Judgement(
        Verdict.REFUSED,
        rule=f"canvas|{issues[0].code if issues else status}",
        message="; ".join(issue.text for issue in issues if issue.text) or f"HTTP {status}",
    )
    if status in _REFUSING or (status == 403 and issues):  # noqa: PLR2004 - Forbidden
        return refused
    if status == 403:  # noqa: PLR2004 - Forbidden, by something before Canvas
        return Judgement(
            Verdict.LOST,
            rule="canvas|blocked",
            message="HTTP 403 that is not from the FHIR API",
            stop=WrongHost(
                "something before Canvas answers 403 in place of the FHIR API",
                "check canvas.base_url, and that Canvas lets this machine's address in",
            ),
        )
    if status in _NO_SUCH_ENDPOINT:
        if proven:
            return refused
        return Judgement(
            Verdict.NOT_APPLIED,
            rule=f"canvas|{status}",
            message=f"HTTP {status}",
            stop=WrongHost(f"the address answers {status} to a create", "check canvas.base_url"),
        )
    lost = _lost(str(status), f"HTTP {status} says nothing about whether it was applied")
    return Judgement(
        lost.verdict, rule=lost.rule, message=lost.message, too_fast=status in _TOO_FAST
    )


def _lost(what: str, message: str) -> Judgement:
    return Judgement(Verdict.LOST, rule=f"canvas|{what}", message=message)


def location_id(location: str, resource_type: str, host: str) -> str | None:
    """The id in a Location, or None if it has none that can be trusted.

    Seen as `/Coverage/<id>`, absolute with http or https, with or without `/_history/1`: it is the
    segment after the resource type (canvas-api.md, "Answers"). Another host's is not ours, and what
    is no URL (two Locations in one answer are joined by a blank) names nothing for sure.
    """
    head, found, tail = location.rpartition(f"{resource_type}/")
    if not found or not _is_of(head, host):
        return None
    if is_id(tail):
        return tail
    match = _ID_AND_VERSION.fullmatch(tail)
    return match[1] if match is not None and is_id(match[1]) else None


_ID_AND_VERSION: Final = re.compile(r"([^/?#]+)(?:/_history/[^/?#]+)?/?(?:[?#].*)?", re.DOTALL)


@lru_cache(maxsize=16)
def _is_of(head: str, host: str) -> bool:
    """Whether what stands before the resource type in a Location is a path, of this host if of any."""
    if not _URL.fullmatch(head):
        return False
    try:
        parts = urlsplit(head)
    except ValueError:
        return False
    if parts.query or parts.fragment or not (head == "" or head.endswith("/")):
        return False
    return parts.hostname in {None, host}


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before trying again: doubled each time, with jitter, up to a bound."""

    first_s: float = 1.0
    longest_s: float = 30.0

    def delay_s(self, tries: int, random: Random) -> float:
        """Seconds to wait after `tries` (from 1) failures: half of the step to the whole of it."""
        step = min(self.first_s * 2 ** min(tries - 1, 16), self.longest_s)
        return random.uniform(step / 2, step)


def retry_after_s(reply: Reply, now: datetime) -> float | None:
    """Seconds that Retry-After asks for, in either of its forms; None if it does not.

    A date is counted from the server's own `Date`, so that its clock need not agree with ours.
    """
    text = reply.headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", text, re.ASCII):
        return float(text)
    until = http_date(text)
    if until is None:
        return None
    since = http_date(reply.headers.get("date", "")) or now
    return max((until - since).total_seconds(), 0.0)


@lru_cache(maxsize=16)
def http_date(text: str) -> datetime | None:
    """The instant of an HTTP date, or None where it is none, or of no year that a clock shows."""
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    if at.year not in _YEARS:
        return None
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)
