"""A client of one Canvas: no request without a permit, and every request is accounted for.

A permit is a free place among the requests in flight, one grant of the rate limiter, and the token
that is good now. A write takes its permit before it is made, so that nothing waits between the
decision to send and the sending.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from random import Random
from typing import Any, Final, TypeVar
from urllib.parse import urlencode, urlsplit

import orjson

from pipeline.canvas.auth import Credentials, Tokens
from pipeline.canvas.limiter import Grants, Limiter
from pipeline.canvas.places import Places
from pipeline.canvas.proxy import PROXY, PROXY_REFUSES, Proxy
from pipeline.canvas.retry import (
    Backoff,
    Judgement,
    http_date,
    judge_create,
    judge_update,
    retry_after_s,
)
from pipeline.canvas.server_clock import ServerClock
from pipeline.canvas.transport import DNS, TLS, Reply, Transport
from pipeline.clock import Clock
from pipeline.errors import (
    AuthError,
    CanvasError,
    Forbidden,
    SearchFailed,
    Unreachable,
    WrongHost,
)
from pipeline.fhir.datatypes import is_id
from pipeline.fhir.outcome import issues_of
from pipeline.records import Exchange, Verdict

T = TypeVar("T")

_JSON: Final = "application/json"  # what the pages of Canvas send
_CORRELATION_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,100}")
_TRIES_MAX: Final = 5  # of a request that may be repeated: tokens and reads
_RETRY_AFTER_S_MAX: Final = 900.0
_SEARCHED_BY: Final = {"Coverage": "patient", "PaymentNotice": "request"}
_PAGE: Final = 100  # the most that Canvas gives
_PAGES_MAX: Final = 1_000  # of one search
_SEARCH_BYTES_MAX: Final = 32 * 1024 * 1024  # of its pages; read, they take some ten times as much
_QUERY: Final = re.compile(
    r"[!$%&-;=?@A-Z_a-z~]{1,4000}", re.ASCII
)  # RFC 3986, 3.4, of bounded length
_OK: Final = 200
_NOT_FOUND: Final = 404
_UNAUTHORIZED: Final = 401
_NO_SUCH_ID: Final = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True, slots=True)
class Options:
    """Where Canvas is, and how it is spoken to."""

    base_url: str  # without a slash at the end
    credentials: Credentials
    rate_per_s: float = 5.0
    concurrency: int = 4
    timeout_s: float = 30.0
    backoff: Backoff = field(default_factory=Backoff)
    ca_file: Path | None = None  # the only authorities that are trusted; None: the machine's
    certificate: tuple[Path, Path] | None = None  # shown to a gateway, and its key
    proxy: Proxy | None = None
    unused_proxy: str = ""  # a warning: the environment names a proxy, and `proxy` is None


def transport_of(options: Options, may_send: Callable[[], bool] | None = None) -> Transport:
    """Return what carries the requests to Canvas. Use it as an async context.

    `may_send` is asked right before the bytes of each.
    """
    return Transport(
        options.timeout_s,
        options.concurrency,
        options.ca_file,
        may_send,
        proxy=options.proxy,
        certificate=options.certificate,
    )


@dataclass(frozen=True, slots=True)
class Permit:
    """The right to send one request now."""

    token: str = field(repr=False)
    granted_at: datetime


class Client:
    """Requests to one Canvas, through one transport. `grants`: where None, the rate is for it alone."""

    def __init__(
        self,
        options: Options,
        transport: Transport,
        clock: Clock,
        random: Random,
        grants: Grants | None = None,
    ) -> None:
        self._options = options
        self._transport = transport
        self._clock = clock
        self._random = random
        self._host = urlsplit(options.base_url).hostname or ""
        self._limiter = grants or Limiter(options.rate_per_s, clock)
        self._tokens = Tokens(options.credentials, self._post_form, clock)
        self._places = Places(options.concurrency)
        self.server_clock = ServerClock()
        self._probed: set[str] = set()  # resource types that a search has succeeded on
        self.proven: set[str] = set()  # resource types that a create has succeeded on
        self._free_s = clock.monotonic()  # when an answer last asked for no pause
        self._pauses = 0  # in a row, without an answer in between that asked for none
        self.exchanges: list[
            Exchange
        ] = []  # all but creates; taken out by whoever writes them down

    def stop(self) -> None:
        """Nothing new is sent from now on: whoever waits for a permit gets Stopped."""
        self._limiter.stop()

    async def permit(self) -> Permit:
        """Wait for a place, a token and a grant. Raises AuthError, Unreachable or Stopped.

        The place is given back when the request that it is for has ended.
        """
        await self._places.take()
        try:
            token = await self._tokens.current()
            await self._limiter.grant()
        except BaseException:
            self._places.give_back()
            raise
        return Permit(token, self._clock.now())

    # Writing --------------------------------------------------------------------------------------

    async def create(
        self, permit: Permit, resource_type: str, body: bytes
    ) -> tuple[Exchange, Judgement]:
        """POST one resource, once."""
        reply = await self._send("POST", f"{self._options.base_url}/{resource_type}", permit, body)
        judgement = judge_create(
            reply, resource_type, self._host, proven=resource_type in self.proven
        )
        return self._written(permit, resource_type, reply, judgement)

    async def update(
        self,
        permit: Permit,
        resource_type: str,
        resource_id: str,
        body: bytes,
        unmodified_since: datetime | None,
    ) -> tuple[Exchange, Judgement]:
        """PUT one whole resource, once. `body` is that of a create: the id is put into it.

        `unmodified_since` is an instant of the server's clock: Canvas refuses (412) what was changed
        after it. None: without that guard.
        """
        whole = body[:-1] + b',"id":' + orjson.dumps(resource_id) + b"}"
        url = f"{self._options.base_url}/{resource_type}/{resource_id}"
        guard = {}
        if unmodified_since is not None:
            guard["If-Unmodified-Since"] = format_datetime(
                unmodified_since.astimezone(UTC), usegmt=True
            )
        reply = await self._send("PUT", url, permit, whole, guard)
        judgement = judge_update(reply, resource_id, proven=resource_type in self.proven)
        return self._written(permit, resource_type, reply, judgement)

    def _written(
        self, permit: Permit, resource_type: str, reply: Reply, judgement: Judgement
    ) -> tuple[Exchange, Judgement]:
        if judgement.verdict is Verdict.ACCEPTED:
            self.proven.add(resource_type)
        elif permit.token in judgement.message:  # a gateway that repeats what it was sent
            message = judgement.message.replace(permit.token, "***")
            judgement = judgement._replace(message=message)
        stop = self._heed(reply, permit, too_fast=judgement.too_fast)
        if stop is not None:
            judgement = judgement._replace(stop=stop)
        return self._exchange("write", permit, reply), judgement

    # Reading --------------------------------------------------------------------------------------

    async def sign_in(self) -> str:
        """Get a token. Returns the scope that its answer names, "" where it names none.

        Raises AuthError, Unreachable, CanvasError.
        """
        await self._tokens.current()
        return self._tokens.scope

    async def capabilities(self) -> dict[str, Any]:
        """The CapabilityStatement at `/metadata`, which needs no token; asked once, not repeated.

        Raises WrongHost, Unreachable, CanvasError.
        """
        await self._limiter.grant()
        asked_at = self._clock.now()
        url = f"{self._options.base_url}/metadata"
        reply = await self._transport.exchange("GET", url, {"Accept": _JSON}, None)
        self.exchanges.append(self._exchange("read", Permit("", asked_at), reply))
        self.server_clock.hear(reply.headers.get("date", ""), asked_at, self._clock.now())
        content = _json_of(reply)
        if reply.status == _OK and content.get("resourceType") == "CapabilityStatement":
            return content
        raise not_fhir("/metadata", reply, self._host)

    async def reach(self) -> None:
        """Send one request, only to see whether it gets through. Raises CanvasError if a proxy is why not."""
        await self._limiter.grant()
        permit = Permit("", self._clock.now())
        url = f"{self._options.base_url}/metadata"
        reply = await self._transport.exchange("GET", url, {"Accept": _JSON}, None)
        self.exchanges.append(self._exchange("read", permit, reply))
        if reply.problem in {PROXY, PROXY_REFUSES}:
            raise not_fhir("/metadata", reply, self._host)

    async def probe(self, resource_type: str) -> None:
        """Can this resource be searched? Asked before the first write; finds a wrong address or token.

        Asked once. Raises WrongHost, Forbidden, AuthError, Unreachable or Stopped.
        """
        if resource_type in self._probed:
            return
        reply = await self._get(f"{resource_type}?_id={_NO_SUCH_ID}&_count=1", "search")
        if reply.status == _OK:
            self._probed.add(resource_type)
            return
        issues = issues_of(reply.body)
        if reply.status == 403 and issues:  # noqa: PLR2004 - Forbidden
            raise Forbidden(
                f"the application may not read {resource_type}",
                f"give it the scope for {resource_type}.read and .write",
            )
        raise not_fhir(f"a search for {resource_type}", reply, self._host)

    async def is_answering(self, resource_type: str, after_s: float) -> bool:
        """One read, `after_s` seconds from now, not repeated: does Canvas answer again?"""
        self._limiter.pause(after_s)
        reply = await self._get_once(f"{resource_type}?_id={_NO_SUCH_ID}&_count=1", "search")
        return reply.status == _OK

    async def search(self, resource_type: str, parameter: str, value: str) -> list[dict[str, Any]]:
        """All resources that a search shows, following its pages; not repeated where it fails.

        Canvas ignores parameters that it does not know, so what comes back is to be filtered again.
        Raises SearchFailed where a page is missing or is no page: that is never "nothing found".
        """
        query = urlencode({parameter: value, "_count": _PAGE})
        seen, found, size = set[str](), list[dict[str, Any]](), 0
        while query not in seen and len(seen) < _PAGES_MAX and size < _SEARCH_BYTES_MAX:
            seen.add(query)
            reply = await self._get_once(f"{resource_type}?{query}", "search")
            entries, after = _page_of(reply, resource_type, self._host)
            found += entries
            size += len(reply.body)
            if after is None:
                return found
            query = after
        raise SearchFailed("its pages do not come to an end")

    async def page(self, resource_type: str, query: str) -> tuple[list[dict[str, Any]], str | None]:
        """One page of a search, and the query of the next; for searches of many pages.

        Not repeated where it fails, and to be filtered again, as `search`. Raises SearchFailed.
        """
        reply = await self._get_once(f"{resource_type}?{query}", "search")
        return _page_of(reply, resource_type, self._host)

    async def of_patient(self, resource_type: str, patient: str) -> list[dict[str, Any]]:
        """All that a search shows of one patient's resources, by the patient's key."""
        return await self.search(resource_type, _SEARCHED_BY[resource_type], f"Patient/{patient}")

    async def persistently(self, ask: Callable[[], Awaitable[T]], resource_type: str) -> T:
        """What a search gives, made again while it fails, after a longer wait each time.

        Raises SearchFailed where it fails to the end: that is never "nothing found".
        """
        why = ""
        for tries in range(1, _TRIES_MAX + 1):
            try:
                return await ask()
            except SearchFailed as error:
                why = error.message
            if tries < _TRIES_MAX:
                await self._clock.sleep(self._options.backoff.delay_s(tries, self._random))
        raise SearchFailed(
            f"Canvas cannot be searched for {resource_type}: {why}, {_TRIES_MAX} times",
            f"check that the application may read {resource_type}, and the network, then run again",
        )

    async def read(self, resource_type: str, resource_id: str) -> dict[str, Any] | None:
        """One resource by its id, or None where Canvas has none. Raises SearchFailed, Unreachable."""
        reply = await self._get(f"{resource_type}/{resource_id}", "read")
        if reply.status == _NOT_FOUND:
            return None
        content = _json_of(reply)
        if reply.status != _OK or content.get("resourceType") != resource_type:
            raise SearchFailed(f"the answer to a read is {reply.status}, and no {resource_type}")
        return content

    async def look(
        self, resource_type: str, resource_id: str
    ) -> tuple[dict[str, Any] | None, datetime | None]:
        """A read that is not repeated: the resource, and the server's clock. Raises SearchFailed."""
        reply = await self._get_once(f"{resource_type}/{resource_id}", "read")
        content, dated = _json_of(reply), http_date(reply.headers.get("date", ""))
        if reply.status == _NOT_FOUND and issues_of(reply.body):
            return None, dated
        if reply.status != _OK or reply.problem or content.get("id") != resource_id:
            raise SearchFailed(f"a read is answered with {_spelt(reply)}")
        return content, dated

    async def _get(self, path: str, purpose: str) -> Reply:
        """A read, tried again while that can help."""
        for tries in range(1, _TRIES_MAX + 1):
            reply = await self._get_once(path, purpose)
            if not _is_passing(reply):
                return reply
            self._limiter.pause(self._options.backoff.delay_s(tries, self._random))
        raise Unreachable(
            f"Canvas does not answer a read: {_spelt(reply)}, {_TRIES_MAX} times",
            "check canvas.base_url and the network, then run again",
        )

    async def _get_once(self, path: str, purpose: str) -> Reply:
        """One read; a second one where the token had expired."""
        for _ in range(2):
            permit = await self.permit()
            reply = await self._send("GET", f"{self._options.base_url}/{path}", permit, None)
            self.exchanges.append(self._exchange(purpose, permit, reply))
            stop = self._heed(reply, permit, too_fast=reply.status in {429, 503})
            if stop is not None:
                raise stop
            if reply.status != _UNAUTHORIZED:
                break
        return reply

    # Underneath -----------------------------------------------------------------------------------

    async def _send(
        self,
        method: str,
        url: str,
        permit: Permit,
        body: bytes | None,
        guard: Mapping[str, str] | None = None,
    ) -> Reply:
        headers = {"Authorization": f"Bearer {permit.token}", "Accept": _JSON}
        if body is not None:
            headers["Content-Type"] = _JSON
        if guard:
            headers.update(guard)
        try:
            reply = await self._transport.exchange(method, url, headers, body)
        finally:
            self._places.give_back()
        date = reply.headers.get("date", "")
        self.server_clock.hear(date, permit.granted_at, self._clock.now())
        return reply

    async def _post_form(self, url: str, form: Callable[[], bytes]) -> Reply:
        headers = {
            "Content-Type": "application/x-www-form-urlencoded",
            "Accept": "application/json",
        }
        for tries in range(1, _TRIES_MAX + 1):
            await self._limiter.grant()
            granted = Permit("", self._clock.now())
            reply = await self._transport.exchange("POST", url, headers, form())
            self.exchanges.append(self._exchange("token", granted, reply))
            if (barred := _barred(reply, urlsplit(url).hostname or "")) is not None:
                raise barred
            if not _is_passing(reply) or reply.status == _UNAUTHORIZED:  # RFC 6749, 5.2
                return reply
            delay_s = retry_after_s(reply, self._clock.now()) or self._options.backoff.delay_s(
                tries, self._random
            )
            self._limiter.pause(min(delay_s, _RETRY_AFTER_S_MAX))
        raise Unreachable(
            f"the token endpoint does not answer: {_spelt(reply)}, {_TRIES_MAX} times",
            "check canvas.token_url and the network, then run again",
        )

    def _heed(self, reply: Reply, permit: Permit, *, too_fast: bool) -> CanvasError | None:
        """What an answer means for all requests to come. Returns why the run must stop, if it must."""
        if (barred := _barred(reply, self._host)) is not None:
            return barred
        if reply.status == _UNAUTHORIZED:
            try:
                self._tokens.refused(permit.token)
            except AuthError as error:
                return error
            return None
        if reply.status is not None:
            self._tokens.accepted()
        if too_fast:
            return self._slow_down(reply)
        self._pauses = 0
        self._free_s = self._clock.monotonic()
        return None

    def _slow_down(self, reply: Reply) -> CanvasError | None:
        """Canvas asks for a slower pace. Returns why the run must stop, if it asks for too much."""
        self._pauses += 1
        asked_s = retry_after_s(reply, self._clock.now())
        if asked_s is None:
            pause_s = self._options.backoff.delay_s(self._pauses, self._random)
        else:
            pause_s = asked_s
        stop = self._asks_too_much(asked_s)
        self._limiter.slow_down(pause_s if stop is None else 0.0)
        return stop

    def _asks_too_much(self, asked_s: float | None) -> CanvasError | None:
        throttled_s = self._clock.monotonic() - self._free_s
        if throttled_s > _RETRY_AFTER_S_MAX:
            return Unreachable(
                f"Canvas has answered nothing but “go slower” for {throttled_s:.0f} s",
                "run again later, with a lower upload.rate_per_s; a quota may be used up",
            )
        if asked_s is not None and asked_s > _RETRY_AFTER_S_MAX:
            return Unreachable(
                f"Canvas asks to wait for {asked_s:.0f} s, longer than a run waits",
                "run again after that time",
            )
        return None

    def _exchange(self, purpose: str, permit: Permit, reply: Reply) -> Exchange:
        told = reply.headers.get("fumage-correlation-id", "")
        correlation_id = told if _CORRELATION_ID.fullmatch(told) else ""  # the page shows it
        return Exchange(
            purpose,
            permit.granted_at,
            reply.latency_s,
            reply.status,
            correlation_id,
            reply.problem,
            http_date(reply.headers.get("date", "")),
        )


def _spelt(reply: Reply) -> str:
    """What an answer was, in a few words: its status, or why there is none, or no body."""
    if reply.status is None:
        return reply.detail if reply.problem == PROXY else reply.problem
    if not reply.problem:
        return str(reply.status)
    why = reply.detail or (
        "it did not come in time" if reply.problem == "timeout" else "it is cut short"
    )
    return f"{reply.status}, and the body cannot be read: {why}"


def _is_passing(reply: Reply) -> bool:
    """Whether the same request may well succeed a little later."""
    return reply.status is None or reply.status in {401, 429} or reply.status >= 500  # noqa: PLR2004


def not_fhir(asked: str, reply: Reply, host: str) -> CanvasError:
    """What it means that something is not answered as FHIR has it, and what to do about it."""
    if (barred := _barred(reply, host)) is not None:
        return barred
    if reply.problem == PROXY:
        return Unreachable(reply.detail, "check canvas.proxy, and that the proxy runs")
    if reply.problem == DNS:
        return Unreachable(
            f"there is no host {host}",
            "check canvas.base_url (https://fumage-<instance>.canvasmedical.com), and the name service of this machine",
        )
    if reply.status is None:
        return Unreachable(
            f"{host} does not answer: {_NO_ANSWER.get(reply.problem, reply.problem)}",
            "check canvas.base_url, the network, and whether a firewall or proxy is in between",
        )
    told = f"{asked} is answered with {_spelt(reply)}"
    if issues_of(reply.body):
        return WrongHost(told, "check canvas.base_url")
    return WrongHost(
        f"{told} and no FHIR resource",
        _NOT_FHIR.get(reply.status, "check canvas.base_url: what answers there is no FHIR server"),
    )


_NOT_FHIR: Final = {
    403: "the address of this machine may be blocked: ask Canvas to let it in; or canvas.base_url is another host",
    404: "this is another host or path: check canvas.base_url (https://fumage-<instance>.canvasmedical.com, no path)",
}
_NO_ANSWER: Final = {
    "connect": "no connection",
    "timeout": "not in time",
    "disconnected": "it closes the connection",
}


def _barred(reply: Reply, host: str) -> CanvasError | None:
    """Return why no further request can succeed until something is changed; None if one may."""
    if reply.problem == PROXY_REFUSES:
        return CanvasError(reply.detail, _PROXY_FIX)
    return _untrusted(reply, host) if reply.problem == TLS else None


_PROXY_FIX: Final = "set CANVAS_PROXY_USERNAME and CANVAS_PROXY_PASSWORD as the proxy knows them, and have the hosts of canvas.base_url and canvas.token_url allowed there"


def _untrusted(reply: Reply, host: str) -> CanvasError:
    return CanvasError(
        f"the connection to {host} is not to be trusted: {reply.detail}",
        "check canvas.base_url, canvas.token_url, the clock of this machine, and whether something in between answers for Canvas; an authority of your own goes into canvas.ca_file",
    )


def _json_of(reply: Reply) -> dict[str, Any]:
    """The object of an answer; empty where it holds none, or one that is nested beyond all reason.

    orjson reads some 1,000 levels, at which Python's own comparing and printing give up; it writes
    254 of them.
    """
    try:
        content = orjson.loads(reply.body)
        orjson.dumps(content)
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return {}
    return content if isinstance(content, dict) else {}


def _page_of(
    reply: Reply, resource_type: str, host: str
) -> tuple[list[dict[str, Any]], str | None]:
    """The resources of a page, and the query of the next one. Raises SearchFailed."""
    content = _json_of(reply)
    entries, links = content.get("entry", []), content.get("link", [])
    if reply.status != _OK or reply.problem or content.get("resourceType") != "Bundle":
        told = f"a search for {resource_type} is answered with {_spelt(reply)}"
        is_odd = reply.status == _OK and not reply.problem
        raise SearchFailed(f"{told}, and no Bundle that can be read" if is_odd else told)
    try:
        resources = [entry["resource"] for entry in entries]
        found = [each for each in resources if each["resourceType"] == resource_type]
        urls = [link["url"] for link in links if link["relation"] == "next"]
        if not all(isinstance(url, str) for url in urls):
            raise SearchFailed("its next page has no address")
        parts = urlsplit(urls[0]) if urls else None
        if not all(is_id(each["id"]) for each in found):
            raise SearchFailed("a resource in it has no id")
    except (AttributeError, KeyError, TypeError, ValueError):
        raise SearchFailed(f"a page of {resource_type} is not as FHIR has it") from None
    if parts is None:
        return found, None
    is_ours = parts.hostname in {None, host} and parts.path.endswith(f"/{resource_type}")
    if not is_ours or not _QUERY.fullmatch(parts.query):
        raise SearchFailed("its next page is not of this Canvas")
    return found, parts.query
