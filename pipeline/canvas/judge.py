"""Judge one answer to a write by itself. Pure. `sending/refusals.py` judges several answers in a row.

There are five classes: accepted, refused, not applied, stale (412) and lost. An answer that fits none for
certain is `LOST`: nothing is sent again until a search has settled it.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum
from functools import lru_cache
from random import Random
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import orjson

from pipeline.canvas.hosts import displayed_host, foreign_host
from pipeline.canvas.proxy import PROXY, PROXY_REFUSES
from pipeline.canvas.reasons import with_way_out
from pipeline.canvas.transport import LEASE, Reply
from pipeline.errors import IngestError, WrongHost, lease_lost
from pipeline.fhir.datatypes import is_id
from pipeline.fhir.outcome import issues_of
from pipeline.records import Verdict

BLOCKED: Final = "canvas|blocked"  # the rule of a 403 that is not from the FHIR API
OUTAGE_S_MAX: Final = 900.0  # how long an outage is waited for
_REFUSING: Final = frozenset({400, 406, 411, 413, 414, 415, 422})
_NO_SUCH_ENDPOINT: Final = frozenset({404, 405})
_PROXIES: Final = frozenset({PROXY, PROXY_REFUSES})
_TOO_FAST: Final = frozenset({429, 503})
FOREIGN_LOCATION: Final = "canvas|location-host"
_URL: Final = re.compile(r"[!#-;=?-\[\]_a-z~]*", re.ASCII)  # the signs of RFC 3986, appendix A
# Of a 403 that is about the token: FHIR R4, ValueSet issue-type, and what gateways write.
_TOKEN_CODES: Final = frozenset({"login", "expired"})
_TOKEN_TEXT: Final = re.compile(
    r"\b(token|session|credentials?)\b.{0,60}\b(expired|invalid|revoked|not valid|inactive)\b"
    r"|\b(expired|invalid|revoked|inactive)\b.{0,60}\b(token|session|credentials?)\b",
    re.IGNORECASE | re.DOTALL,
)
_YEARS: Final = range(2000, 3000)  # of a usable clock; others come near the limits of datetime


class Refusal(Enum):
    """A refusal that may be about more than one row, if it is repeated."""

    FORBIDDEN = "forbidden"  # 403 from the FHIR API
    BLOCKED = "blocked"  # 403 from something in between
    NO_ENDPOINT = "no endpoint"  # 404 or 405 from something in between


class Judgement(NamedTuple):
    """The meaning of one answer.

    `too_fast`: Canvas asks for a slower pace. `stop`: why nothing more can be sent at all.
    """

    verdict: Verdict
    resource_id: str = ""
    rule: str = ""
    message: str = ""
    too_fast: bool = False
    stop: IngestError | None = None
    refusal: Refusal | None = None


def judge_create(
    reply: Reply,
    resource_type: str,
    host: str,
    hosts: frozenset[str] = frozenset(),
    *,
    proven: bool,
) -> Judgement:
    """Class an answer to a POST.

    Args:
        reply: The answer.
        resource_type: What was to be created.
        host: That of canvas.base_url.
        hosts: Those that its Location may name; empty: `host`.
        proven: A row has already succeeded on this endpoint.
    """
    if reply.status != 201:  # noqa: PLR2004 - Created
        return _judge(reply, host, resource_type, proven=proven)
    hosts = hosts or frozenset({host})
    location = reply.headers.get("location", "")
    resource_id = location_id(location, resource_type, hosts)
    if resource_id is not None:
        return Judgement(Verdict.ACCEPTED, resource_id=resource_id)
    foreign = foreign_host(location, hosts)
    if foreign and location_id(location, resource_type, frozenset({foreign})) is not None:
        message = f"created, and its Location names {displayed_host(foreign)}, which is not in canvas.location_hosts"
        return Judgement(Verdict.LOST, rule=FOREIGN_LOCATION, message=message)
    return _lost("no-id", "created, and the answer has no usable id")


def judge_update(
    reply: Reply, resource_id: str, host: str = "", resource_type: str = "Coverage", *, proven: bool
) -> Judgement:
    """Class an answer to a PUT of this resource. A read has to settle a lost or a stale one."""
    if reply.status == 200:  # noqa: PLR2004 - OK
        if _is_page(reply):
            return _lost("not-fhir", "answered with a page that is not from the FHIR API")
        return Judgement(Verdict.ACCEPTED, resource_id=resource_id)
    if reply.status == 412:  # noqa: PLR2004 - Precondition Failed
        return Judgement(
            Verdict.STALE, rule="conflict", message="Canvas holds another version of it"
        )
    if reply.status == 404 and issues_of(reply.body):  # noqa: PLR2004 - Not Found
        return _refusal(reply, 404, host, resource_type, proven=True)
    return _judge(reply, host, resource_type, proven=proven)


def _is_page(reply: Reply) -> bool:
    """Return whether the answer to an update has a body that no FHIR API sends: a page, or JSON that is no resource.

    Canvas sends none, or `null`; other FHIR servers send the resource. Any other body says nothing. A create has
    its Location, so that its body is never looked at.
    """
    body = reply.body.strip()
    if body.startswith(b"<"):
        return True
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return isinstance(content, dict) and "resourceType" not in content


def _judge(reply: Reply, host: str, resource_type: str, *, proven: bool) -> Judgement:
    status = reply.status
    if status is None:
        if not reply.handed_off:
            return Judgement(
                Verdict.NOT_APPLIED,
                rule="canvas|unreachable",
                message=f"not sent: {reply.detail if reply.problem in _PROXIES else reply.problem}",
                stop=lease_lost() if reply.problem == LEASE else None,
            )
        return _lost("no-answer", f"no answer after it was sent ({reply.problem})")
    if refuses_token(reply):
        return Judgement(
            Verdict.NOT_APPLIED,
            rule="canvas|unauthorized",
            message=f"the token was not accepted (HTTP {status})",
        )
    if status == 429:  # noqa: PLR2004 - Too Many Requests
        return Judgement(
            Verdict.NOT_APPLIED,
            rule="canvas|too-fast",
            message="Canvas asks to go slower",
            too_fast=True,
        )
    return _refusal(reply, status, host, resource_type, proven=proven)


def refuses_token(reply: Reply) -> bool:
    """Return whether an answer is about the token: a 401, or a 403 whose OperationOutcome says so."""
    if reply.status != 403:  # noqa: PLR2004 - Forbidden
        return reply.status == 401  # noqa: PLR2004 - Unauthorized
    return any(
        issue.code in _TOKEN_CODES or _TOKEN_TEXT.search(issue.text)
        for issue in issues_of(reply.body)
    )


def _refusal(
    reply: Reply, status: int, host: str, resource_type: str, *, proven: bool
) -> Judgement:
    issues = issues_of(reply.body)
    text = "; ".join(issue.text for issue in issues if issue.text)
    refused = Judgement(
        Verdict.REFUSED,
        rule=f"canvas|{issues[0].code if issues else status}",
        message=with_way_out(text, resource_type, status) or f"HTTP {status}",
    )
    if status in _REFUSING:
        return refused
    if status == 403:  # noqa: PLR2004 - Forbidden
        if issues:
            return refused._replace(refusal=Refusal.FORBIDDEN)
        return Judgement(
            Verdict.LOST,
            rule=BLOCKED,
            message="blocked: HTTP 403 that is not from the FHIR API",
            stop=None if proven else blocked(host, resource_type, "before any succeeded"),
            refusal=Refusal.BLOCKED,
        )
    if status in _NO_SUCH_ENDPOINT:
        if proven:
            return refused if issues else refused._replace(refusal=Refusal.NO_ENDPOINT)
        return Judgement(
            Verdict.NOT_APPLIED,
            rule=f"canvas|{status}",
            message=f"HTTP {status}",
            stop=WrongHost(
                f"{host} answers {status} to a write of {resource_type}", "check canvas.base_url"
            ),
        )
    lost = _lost(str(status), f"HTTP {status} does not say whether it was applied")
    return Judgement(
        lost.verdict, rule=lost.rule, message=lost.message, too_fast=status in _TOO_FAST
    )


def blocked(host: str, resource_type: str, when: str) -> WrongHost:
    """Return the error for a firewall or the like that answers writes in place of Canvas."""
    return WrongHost(
        f"something between this machine and {host} answers a write of {resource_type} with 403, in place of the FHIR API ({when})",
        "check whether Canvas lets the address of this machine in, whether a firewall is in between, and canvas.base_url",
    )


def _lost(what: str, message: str) -> Judgement:
    return Judgement(Verdict.LOST, rule=f"canvas|{what}", message=message)


def location_id(location: str, resource_type: str, hosts: frozenset[str]) -> str | None:
    """Return the id in a Location, or None if it has none that can be trusted.

    Canvas sends `/Coverage/<id>`, or an absolute http or https URL, with or without `/_history/1`: the
    id is the segment after the resource type. A Location of a host outside `hosts` is not trusted, nor is
    one that is not a URL (two Locations in one answer are joined by a blank).
    """
    head, found, tail = location.rpartition(f"{resource_type}/")
    if not found or not _is_of(head, hosts):
        return None
    if is_id(tail):
        return tail
    match = _ID_AND_VERSION.fullmatch(tail)
    return match[1] if match is not None and is_id(match[1]) else None


_ID_AND_VERSION: Final = re.compile(r"([^/?#]+)(?:/_history/[^/?#]+)?/?(?:[?#].*)?", re.DOTALL)


@lru_cache(maxsize=16)
def _is_of(head: str, hosts: frozenset[str]) -> bool:
    """Return whether the part of a Location before the resource type is a path, or a URL on one of `hosts`."""
    if not _URL.fullmatch(head):
        return False
    try:
        parts = urlsplit(head)
    except ValueError:
        return False
    if parts.query or parts.fragment or not (head == "" or head.endswith("/")):
        return False
    return parts.hostname is None or parts.hostname in hosts


@dataclass(frozen=True, slots=True)
class Backoff:
    """The wait before another attempt: doubled each time, with jitter, up to a bound."""

    first_s: float = 1.0
    longest_s: float = 30.0

    def delay_s(self, tries: int, random: Random) -> float:
        """Return the seconds to wait after `tries` (from 1) failures: 50 to 100 % of the step."""
        step = min(self.first_s * 2 ** min(tries - 1, 16), self.longest_s)
        return random.uniform(step / 2, step)


def retry_after_s(reply: Reply, now: datetime) -> float | None:
    """Return the seconds that Retry-After asks for, in either of its forms; None if it is missing.

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
    """Return the instant of an HTTP date, or None if it is none or its year is not plausible."""
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    if at.year not in _YEARS:
        return None
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)
