"""Errors about a host that cannot be reached or is not Canvas, and refusals, in words for people. Pure.

They name the host and the path, never a query, a user or a token.
"""

import re
from typing import Final
from urllib.parse import urlsplit

from pipeline.canvas.causes import HTTP2_ONLY
from pipeline.canvas.hosts import masked_host
from pipeline.canvas.proxy import PROXY, PROXY_REFUSES
from pipeline.canvas.transport import DNS, TLS, Reply
from pipeline.errors import CanvasError, Unreachable, WrongHost
from pipeline.fhir.outcome import issues_of
from pipeline.records import counted

REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_OK: Final = 200
_HOST: Final = re.compile(r"[A-Za-z0-9.-]{1,253}|\[?[0-9A-Fa-f:.]{2,45}\]?", re.ASCII)
_NO_ANSWER: Final = {
    "connect": "no connection",
    "timeout": "no answer in time",
    "disconnected": "the connection was closed without an answer",
    DNS: "the host name has no address",
}
_NO_BODY: Final = {"body": "it is cut short or too long", "timeout": "it did not come in time"}
_NOT_FHIR: Final = {
    403: "the address of this machine may be blocked: ask Canvas to let it in; or canvas.base_url is another host",
    404: "this is another host or path: check canvas.base_url (https://fumage-<instance>.canvasmedical.com, no path)",
}


# docs/canvas.md, "Coverage", `order`: the text of such a refusal over FHIR is not known, so both words must be in it.
_TAKEN_ORDER: Final = re.compile(
    r"(?=.*\b(?:order|rank)\b).*\b(?:already|taken|occupied|in use|exists)\b",
    re.IGNORECASE | re.DOTALL,
)
_UNPROCESSABLE: Final = 422


def with_way_out(text: str, resource_type: str, status: int) -> str:
    """Return Canvas' text of a refusal, with what to do about it if the text does not say that."""
    is_taken = status == _UNPROCESSABLE and _TAKEN_ORDER.match(text)
    if resource_type != "Coverage" or not is_taken:
        return text
    return (
        f"{text}; Canvas did not move the other coverage down: give one of the two another order, or end the other "
        "one, then run again. Two that swap their orders: first give one of them an order that is free"
    )


def address(url: str) -> str:
    """Return a URL without user, query and fragment: `https://host:8443/auth/token/`."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def reason(reply: Reply) -> str:
    """Return why a request has no good answer: `connection refused`, `HTTP 503`."""
    if reply.status is not None:
        unread = reply.detail or _NO_BODY.get(reply.problem, reply.problem)
        return f"HTTP {reply.status}" + (
            f", and the body cannot be read: {unread}" if unread else ""
        )
    if reply.problem == "timeout" and not reply.handed_off:
        return "timed out"
    return reply.detail or _NO_ANSWER.get(reply.problem, reply.problem)


def unreachable(url: str, reply: Reply, attempts: int, setting: str) -> CanvasError:
    """Return the error for an address that gave no good answer to several attempts."""
    if reply.detail == HTTP2_ONLY:
        return _http2_only(urlsplit(url).hostname or "")
    times = counted(attempts, "attempt")
    if reply.problem == DNS:
        host = urlsplit(url).hostname
        return Unreachable(
            f"Cannot connect to {address(url)}: there is no host {host}, {times}",
            f"check {setting}, and the name service of this machine",
        )
    setting = "canvas.proxy" if reply.problem == PROXY else setting
    verb = "Cannot connect to" if _is_unconnected(reply) else "No good answer from"
    return Unreachable(
        f"{verb} {address(url)}: {reason(reply)}, {times}",
        f"check {setting}, the network, and whether a firewall or a proxy is in between; then run again",
    )


def _is_unconnected(reply: Reply) -> bool:
    return reply.status is None and not reply.handed_off


def not_fhir(asked: str, url: str, reply: Reply, wanted: str = "") -> CanvasError:
    """Return the error for an answer that is not what FHIR says, and what to do about it.

    `wanted`: the resource type that the answer should have had.
    """
    host = urlsplit(url).hostname or ""
    if (closed := barred(reply, host)) is not None:
        return closed
    if reply.status is None:
        return unreachable(url, reply, 1, "canvas.base_url")
    if reply.status in REDIRECTS:
        return WrongHost(*redirect(url, reply, "canvas.base_url"))
    answered = f"{asked} is answered with {reason(reply)}"
    if issues_of(reply.body) and reply.status != _OK:
        return WrongHost(f"{host}: {answered}", "check canvas.base_url")
    if reply.status == _OK and wanted:
        return WrongHost(
            f"{host}: {answered} and no {wanted}: a login page or another server answers in place of the FHIR API",
            "check canvas.base_url: what answers there is no FHIR server, or a gateway or a proxy in between asks for a login",
        )
    return WrongHost(
        f"{host}: {answered} and no FHIR resource",
        _NOT_FHIR.get(reply.status, "check canvas.base_url: what answers there is no FHIR server"),
    )


def redirect(url: str, reply: Reply, setting: str) -> tuple[str, str]:
    """Return what an answer with a redirect means, and what to do. Redirects are never followed."""
    host = urlsplit(url).hostname or ""
    target = _host_of(reply.headers.get("location", "")) or host
    where = "another path of the same host" if target == host else masked_host(target)
    return (
        f"{address(url)} answers with a redirect (HTTP {reply.status}) to {where}; redirects are not followed",
        f"set {setting} to the address that answers itself, as Canvas gives it",
    )


def barred(reply: Reply, host: str) -> CanvasError | None:
    """Return why no request can succeed until something is changed; None if one may."""
    if reply.problem == PROXY_REFUSES:
        return CanvasError(
            f"Cannot connect to {host}: {reply.detail}",
            "set CANVAS_PROXY_USERNAME and CANVAS_PROXY_PASSWORD as the proxy knows them, and have the hosts of canvas.base_url and canvas.token_url allowed there",
        )
    return untrusted(reply, host) if reply.problem == TLS else None


def untrusted(reply: Reply, host: str) -> CanvasError:
    """Return the error for a TLS connection that cannot be used."""
    if reply.detail == HTTP2_ONLY:
        return _http2_only(host)
    return CanvasError(
        f"the connection to {host} cannot be trusted: {reply.detail}",
        "check canvas.base_url, canvas.token_url, the clock of this machine, and whether something in between answers in place of Canvas; add an authority of your own to canvas.ca_file",
    )


def _http2_only(host: str) -> CanvasError:
    return WrongHost(
        f"{host}: {HTTP2_ONLY}",
        "let the gateway in front of Canvas answer in HTTP/1.1 too, or check canvas.base_url and canvas.token_url",
    )


def _host_of(location: str) -> str:
    """Return the host that a Location names; "" if it names none or is no URL."""
    try:
        host = urlsplit(location).hostname or ""
    except ValueError:
        return ""
    return host if _HOST.fullmatch(host) else ""
