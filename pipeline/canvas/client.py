"""A client of one Canvas: no request without a permit, and every request is accounted for.

A permit is a free place among the requests in flight, one permit of the rate limiter, and a valid
token. A write takes its permit first, so that nothing waits between the decision to send and the
sending.
"""

import asyncio
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
from pipeline.canvas.breaker import Breaker
from pipeline.canvas.hosts import FOREIGN_MAX, displayed_host, foreign_host, foreign_locations
from pipeline.canvas.judge import (
    FOREIGN_LOCATION,
    OUTAGE_S_MAX,
    Backoff,
    Judgement,
    http_date,
    judge_create,
    judge_update,
    refuses_token,
    retry_after_s,
)
from pipeline.canvas.limiter import Limiter, Permits
from pipeline.canvas.proxy import PROXY, PROXY_REFUSES, Proxy
from pipeline.canvas.reasons import address, barred, not_fhir, reason, unreachable
from pipeline.canvas.semaphore import FairSemaphore
from pipeline.canvas.server_clock import ServerClock
from pipeline.canvas.transport import Reply, Transport
from pipeline.clock import Clock
from pipeline.errors import (
    AuthError,
    CanvasError,
    Forbidden,
    SearchFailed,
    Stopped,
    Unreachable,
)
from pipeline.fhir.datatypes import is_id
from pipeline.fhir.outcome import issues_of
from pipeline.records import Exchange, Verdict

T = TypeVar("T")

_JSON: Final = "application/json"  # what the pages of Canvas send
_CORRELATION_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,100}")
_TRIES_MAX: Final = 5  # attempts of a request that may be repeated: tokens and reads
_RETRY_AFTER_S_MAX: Final = 900.0
_SEARCHED_BY: Final = {"Coverage": "patient", "PaymentNotice": "request"}
_PAGE: Final = 100  # resources on a page, the most that Canvas allows
_PAGES_MAX: Final = 1_000  # of one search
_SEARCH_BYTES_MAX: Final = (
    32 * 1024 * 1024
)  # of its pages; parsed, they take about ten times as much
_QUERY: Final = re.compile(
    r"[!$%&-;=?@A-Z_a-z~]{1,4000}", re.ASCII
)  # RFC 3986, 3.4, of bounded length
_OK: Final = 200
_NOT_FOUND: Final = 404
_NO_SUCH_ID: Final = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True, slots=True)
class Options:
    """The address of Canvas and the settings of the connection to it."""

    base_url: str  # without a slash at the end
    credentials: Credentials
    rate_per_s: float = 5.0
    concurrency: int = 4
    timeout_s: float = 30.0
    backoff: Backoff = field(default_factory=Backoff)
    outage_s_max: float = OUTAGE_S_MAX  # how long an outage is waited for
    ca_file: Path | None = None  # the only authorities that are trusted; None: the machine's
    certificate: tuple[Path, Path] | None = None  # shown to a gateway, and its key
    proxy: Proxy | None = None
    unused_proxy: str = ""  # a warning: the environment names a proxy, and `proxy` is None
    location_hosts: tuple[str, ...] = ()  # beside that of base_url: hosts that a Location may name


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
    """Requests to one Canvas, through one transport. `permits` None: the client has a rate limiter of its own."""

    def __init__(
        self,
        options: Options,
        transport: Transport,
        clock: Clock,
        random: Random,
        permits: Permits | None = None,
    ) -> None:
        self._options = options
        self._transport = transport
        self._clock = clock
        self._random = random
        self.host = urlsplit(options.base_url).hostname or ""
        self._hosts = frozenset({self.host, *options.location_hosts})
        self._foreign = 0  # creates in a row whose Location names another host
        self._limiter = permits or Limiter(options.rate_per_s, clock)
        self._tokens = Tokens(options.credentials, self._post_form, self._limiter.pause, clock)
        self._stopped = asyncio.Event()
        self._in_flight = FairSemaphore(options.concurrency)
        self.server_clock = ServerClock()
        self.breaker = Breaker()
        self._probed: set[str] = set()  # resource types that a search has succeeded on
        self.proven: set[str] = set()  # resource types that a write has succeeded on
        self._free_s = clock.monotonic()  # when an answer last asked for no pause
        self._pauses = 0  # in a row, without an answer in between that asked for none
        self.exchanges: list[
            Exchange
        ] = []  # all but writes; the caller that enters them in the journal removes them

    def stop(self) -> None:
        """Send nothing new from now on. Everything that waits for a permit gets Stopped."""
        self._stopped.set()
        self._limiter.stop()

    async def permit(self) -> Permit:
        """Wait for a free place, a token and the rate limiter. Raises AuthError, Unreachable or Stopped.

        The place is returned when its request has ended.
        """
        await self._in_flight.acquire()
        try:
            token = await self._tokens.current()
            await self._limiter.permit()
        except BaseException:
            self._in_flight.release()
            raise
        return Permit(token, self._clock.now())

    def release(self, permit: Permit) -> None:  # noqa: ARG002 - one permit is one place
        """Return a permit that is not used."""
        self._in_flight.release()

    def renew_token(self, token: str) -> bool:
        """Replace a token for the requests to come. Returns False if there is only one."""
        return self._tokens.renew(token)

    # Writing --------------------------------------------------------------------------------------

    async def create(
        self, permit: Permit, resource_type: str, body: bytes
    ) -> tuple[Exchange, Judgement]:
        """POST one resource, once."""
        reply = await self._send("POST", f"{self._options.base_url}/{resource_type}", permit, body)
        judgement = judge_create(
            reply, resource_type, self.host, self._hosts, proven=resource_type in self.proven
        )
        if judgement.verdict is Verdict.ACCEPTED:
            self._foreign = 0
        elif judgement.rule == FOREIGN_LOCATION:
            self._foreign += 1
        if self._foreign >= FOREIGN_MAX:
            host = foreign_host(reply.headers.get("location", ""), self._hosts)
            judgement = judgement._replace(stop=foreign_locations(host))
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

        `unmodified_since` is an instant of the server's clock: Canvas refuses the update (412) if the
        resource was changed after it. None: without that condition.
        """
        whole = body[:-1] + b',"id":' + orjson.dumps(resource_id) + b"}"
        url = f"{self._options.base_url}/{resource_type}/{resource_id}"
        precondition = {}
        if unmodified_since is not None:
            precondition["If-Unmodified-Since"] = format_datetime(
                unmodified_since.astimezone(UTC), usegmt=True
            )
        reply = await self._send("PUT", url, permit, whole, precondition)
        proven = resource_type in self.proven
        judgement = judge_update(reply, resource_id, self.host, resource_type, proven=proven)
        return self._written(permit, resource_type, reply, judgement)

    def _written(
        self, permit: Permit, resource_type: str, reply: Reply, judgement: Judgement
    ) -> tuple[Exchange, Judgement]:
        if judgement.verdict is Verdict.ACCEPTED:
            self.proven.add(resource_type)
        elif permit.token in judgement.message:  # a gateway that repeats the request
            message = judgement.message.replace(permit.token, "***")
            judgement = judgement._replace(message=message)
        stop = self._heed(reply, permit, too_fast=judgement.too_fast)
        if stop is not None:
            judgement = judgement._replace(stop=stop)
        return self._exchange("write", permit, reply), judgement

    # Reading --------------------------------------------------------------------------------------

    async def sign_in(self) -> str:
        """Get a token. Returns the scope that its answer names, or "".

        Raises AuthError, Unreachable, CanvasError.
        """
        await self._tokens.current()
        return self._tokens.scope

    async def capabilities(self) -> dict[str, Any]:
        """Return the CapabilityStatement at `/metadata`, which needs no token. Not repeated.

        Raises WrongHost, Unreachable, CanvasError.
        """
        await self._limiter.permit()
        asked_at = self._clock.now()
        url = f"{self._options.base_url}/metadata"
        reply = await self._transport.exchange("GET", url, {"Accept": _JSON}, None)
        self.exchanges.append(self._exchange("read", Permit("", asked_at), reply))
        self.server_clock.hear(reply.headers.get("date", ""), asked_at, self._clock.now())
        content = _json_of(reply)
        if reply.status == _OK and content.get("resourceType") == "CapabilityStatement":
            return content
        raise not_fhir("/metadata", url, reply, "CapabilityStatement")

    async def reach(self) -> None:
        """Send one request, only to see whether it gets through. Raises CanvasError if a proxy is why not."""
        await self._limiter.permit()
        permit = Permit("", self._clock.now())
        url = f"{self._options.base_url}/metadata"
        reply = await self._transport.exchange("GET", url, {"Accept": _JSON}, None)
        self.exchanges.append(self._exchange("read", permit, reply))
        if reply.problem in {PROXY, PROXY_REFUSES}:
            raise not_fhir("/metadata", url, reply)

    async def probe(self, resource_type: str) -> None:
        """Search for this resource type once, before the first write: a wrong address or token fails.

        Only a Bundle is a good answer: the login page of a gateway has status 200 too.

        Raises:
            CanvasError: WrongHost, Forbidden, AuthError or Unreachable.
            Stopped: The client was stopped.
        """
        if resource_type in self._probed:
            return
        reply = await self._get(f"{resource_type}?_id={_NO_SUCH_ID}&_count=1", "search")
        if _is_bundle(reply):
            self._probed.add(resource_type)
            return
        issues = issues_of(reply.body)
        if reply.status == 403 and issues:  # noqa: PLR2004 - Forbidden
            raise Forbidden(
                f"the application may not read {resource_type}",
                f"give it the scope for {resource_type}.read and .write",
            )
        url = f"{self._options.base_url}/{resource_type}"
        raise not_fhir(f"a search for {resource_type}", url, reply, "Bundle")

    async def is_answering(self, resource_type: str, after_s: float) -> bool:
        """Return whether Canvas answers one read, `after_s` seconds from now. Not repeated."""
        self._limiter.pause(after_s)
        reply = await self._get_once(f"{resource_type}?_id={_NO_SUCH_ID}&_count=1", "search")
        return _is_bundle(reply)

    async def search(self, resource_type: str, parameter: str, value: str) -> list[dict[str, Any]]:
        """Return all resources that a search shows, of all its pages. A failure is not repeated.

        Canvas ignores parameters that it does not know, so the caller has to filter the result again.
        Raises SearchFailed if a page is missing or cannot be read: that never means "nothing found".
        """
        query = urlencode({parameter: value, "_count": _PAGE})
        seen, found, size = set[str](), list[dict[str, Any]](), 0
        while query not in seen and len(seen) < _PAGES_MAX and size < _SEARCH_BYTES_MAX:
            seen.add(query)
            reply = await self._get_once(f"{resource_type}?{query}", "search")
            entries, after = _page_of(reply, resource_type, self._hosts)
            found += entries
            size += len(reply.body)
            if after is None:
                return found
            query = after
        raise SearchFailed("the search has no last page")

    async def page(self, resource_type: str, query: str) -> tuple[list[dict[str, Any]], str | None]:
        """Return one page of a search and the query of the next one, for searches of many pages.

        As in `search`, a failure is not repeated, and the caller has to filter the result again.
        Raises SearchFailed.
        """
        reply = await self._get_once(f"{resource_type}?{query}", "search")
        return _page_of(reply, resource_type, self._hosts)

    async def of_patient(self, resource_type: str, patient: str) -> list[dict[str, Any]]:
        """Return the resources of one patient that a search by the patient's key shows."""
        return await self.search(resource_type, _SEARCHED_BY[resource_type], f"Patient/{patient}")

    async def persistently(self, ask: Callable[[], Awaitable[T]], resource_type: str) -> T:
        """Return the result of a search, repeated while it fails, with longer waits each time.

        Raises SearchFailed if every attempt fails (that never means "nothing found"), and Stopped.
        """
        why = ""
        for tries in range(1, _TRIES_MAX + 1):
            try:
                return await ask()
            except SearchFailed as error:
                why = error.message
            if tries < _TRIES_MAX:
                await self._sleep(self._options.backoff.delay_s(tries, self._random))
        raise SearchFailed(
            f"{self.host} cannot be searched for {resource_type}: {why}, {_TRIES_MAX} attempts",
            f"check that the application may read {resource_type}, and the network, then run again",
        )

    async def _sleep(self, seconds: float) -> None:
        """Wait. Raises Stopped at once if the run stops meanwhile."""
        waits = [
            asyncio.ensure_future(self._clock.sleep(seconds)),
            asyncio.ensure_future(self._stopped.wait()),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()
        if self._stopped.is_set():
            raise Stopped("the run is stopping")

    async def read(self, resource_type: str, resource_id: str) -> dict[str, Any] | None:
        """Return one resource by its id, or None if Canvas has none. Raises SearchFailed, Unreachable."""
        reply = await self._get(f"{resource_type}/{resource_id}", "read")
        if reply.status == _NOT_FOUND and issues_of(reply.body):
            return None
        content = _json_of(reply)
        if reply.status != _OK or content.get("resourceType") != resource_type:
            raise SearchFailed(
                f"a read is answered with HTTP {reply.status} and no {resource_type}"
            )
        return content

    async def look(
        self, resource_type: str, resource_id: str
    ) -> tuple[dict[str, Any] | None, datetime | None]:
        """Read a resource once. Returns it and the server's clock. Raises SearchFailed."""
        reply = await self._get_once(f"{resource_type}/{resource_id}", "read")
        content, dated = _json_of(reply), http_date(reply.headers.get("date", ""))
        if reply.status == _NOT_FOUND and issues_of(reply.body):
            return None, dated
        if reply.status != _OK or reply.problem or content.get("id") != resource_id:
            raise SearchFailed(f"a read has no usable answer: {reason(reply)}")
        return content, dated

    async def _get(self, path: str, purpose: str) -> Reply:
        """Read, and repeat while that can help."""
        for tries in range(1, _TRIES_MAX + 1):
            reply = await self._get_once(path, purpose)
            if not _is_passing(reply):
                return reply
            self._limiter.pause(self._options.backoff.delay_s(tries, self._random))
        url = f"{self._options.base_url}/{path.partition('?')[0]}"
        raise unreachable(url, reply, _TRIES_MAX, "canvas.base_url")

    async def _get_once(self, path: str, purpose: str) -> Reply:
        """Make one read, and again with a new token while the token is refused."""
        for _ in range(_TRIES_MAX):
            permit = await self.permit()
            reply = await self._send("GET", f"{self._options.base_url}/{path}", permit, None)
            self.exchanges.append(self._exchange(purpose, permit, reply))
            stop = self._heed(reply, permit, too_fast=reply.status in {429, 503})
            if stop is not None:
                raise stop
            if not refuses_token(reply):
                break
        return reply

    # Underneath -----------------------------------------------------------------------------------

    async def _send(
        self,
        method: str,
        url: str,
        permit: Permit,
        body: bytes | None,
        precondition: Mapping[str, str] | None = None,
    ) -> Reply:
        headers = {"Authorization": f"Bearer {permit.token}", "Accept": _JSON}
        if body is not None:
            headers["Content-Type"] = _JSON
        if precondition:
            headers.update(precondition)
        try:
            reply = await self._transport.exchange(method, url, headers, body)
        finally:
            self._in_flight.release()
        date = reply.headers.get("date", "")
        self.server_clock.hear(date, permit.granted_at, self._clock.now())
        return reply

    async def _post_form(self, url: str, form: Callable[[], bytes]) -> Reply:
        headers = {
            "Content-Type": "application/x-www-form-urlencoded",
            "Accept": "application/json",
        }
        began_s, tries = self._clock.monotonic(), 0
        while True:
            tries += 1
            await self._limiter.permit()
            granted = Permit("", self._clock.now())
            reply = await self._transport.exchange("POST", url, headers, form())
            self.exchanges.append(self._exchange("token", granted, reply))
            if (closed := barred(reply, urlsplit(url).hostname or "")) is not None:
                raise closed
            if not _is_passing(reply):
                return reply
            waited_s = self._clock.monotonic() - began_s
            if self._gives_up(tries, waited_s):
                raise unreachable(url, reply, tries, "canvas.token_url")
            wait_s = retry_after_s(reply, self._clock.now()) or 0.0
            if wait_s > _RETRY_AFTER_S_MAX:
                raise _asks_too_much(url, wait_s)
            self._limiter.pause(wait_s or self._options.backoff.delay_s(tries, self._random))

    def _gives_up(self, tries: int, waited_s: float) -> bool:
        """Return whether no further attempt is made to get a token.

        The first token of a run is tried for a few times only, because the address may be wrong.
        Later ones are waited for as long as an outage may last.
        """
        if self._tokens.has_been_given:
            return waited_s > self._options.outage_s_max
        return tries >= _TRIES_MAX

    def _heed(self, reply: Reply, permit: Permit, *, too_fast: bool) -> CanvasError | None:
        """Apply what an answer means for later requests. Returns why the run must stop, or None."""
        if (closed := barred(reply, self.host)) is not None:
            return closed
        if refuses_token(reply):
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
        """Slow down as Canvas asks. Returns why the run must stop if it asks for too much."""
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
                f"{self.host} has asked to slow down (429 or 503) for {throttled_s:.0f} s, without any other answer",
                "run again later, with a lower upload.rate_per_s; a quota may be used up",
            )
        if asked_s is not None and asked_s > _RETRY_AFTER_S_MAX:
            return _asks_too_much(self._options.base_url, asked_s)
        return None

    def _exchange(self, purpose: str, permit: Permit, reply: Reply) -> Exchange:
        shown = reply.headers.get("fumage-correlation-id", "")
        correlation_id = shown if _CORRELATION_ID.fullmatch(shown) else ""  # the page shows it
        return Exchange(
            purpose,
            permit.granted_at,
            reply.latency_s,
            reply.status,
            correlation_id,
            reply.problem,
            http_date(reply.headers.get("date", "")),
        )


def _asks_too_much(url: str, asked_s: float) -> CanvasError:
    return Unreachable(
        f"{address(url)} asks to wait for {asked_s:,.0f} s (Retry-After); a run waits for {_RETRY_AFTER_S_MAX:.0f} s at most",
        "run again after that time",
    )


def _is_passing(reply: Reply) -> bool:
    """Return whether the same request may succeed a little later."""
    return reply.status is None or reply.status == 429 or reply.status >= 500  # noqa: PLR2004


def _json_of(reply: Reply) -> dict[str, Any]:
    """Return the JSON object of an answer; empty if it has none, or one that is nested too deeply.

    orjson reads about 1,000 levels, too many for Python to compare and print; it writes 254.
    """
    try:
        content = orjson.loads(reply.body)
        orjson.dumps(content)
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_bundle(reply: Reply) -> bool:
    content = _json_of(reply)
    is_bundle = content.get("resourceType") == "Bundle" and isinstance(
        content.get("entry", []), list
    )
    return is_bundle and reply.status == _OK and not reply.problem


def _page_of(
    reply: Reply, resource_type: str, hosts: frozenset[str]
) -> tuple[list[dict[str, Any]], str | None]:
    """Return the resources of a page and the query of the next one. Raises SearchFailed."""
    content = _json_of(reply)
    entries, links = content.get("entry", []), content.get("link", [])
    if not _is_bundle(reply):
        failed = f"a search for {resource_type} has no usable answer: {reason(reply)}"
        is_odd = reply.status == _OK and not reply.problem
        raise SearchFailed(f"{failed} without a Bundle that can be read" if is_odd else failed)
    try:
        resources = [entry["resource"] for entry in entries]
        found = [each for each in resources if each["resourceType"] == resource_type]
        urls = [link["url"] for link in links if link["relation"] == "next"]
        if not all(isinstance(url, str) for url in urls):
            raise SearchFailed("the next page of the search has no address")
        parts = urlsplit(urls[0]) if urls else None
        if not all(is_id(each["id"]) for each in found):
            raise SearchFailed("a resource of the search has no id")
    except (AttributeError, KeyError, TypeError, ValueError):
        raise SearchFailed(f"a page of {resource_type} is not a valid Bundle") from None
    if parts is None:
        return found, None
    foreign = foreign_host(urls[0], hosts)
    if foreign:
        raise SearchFailed(
            f"the next page of the search is on {displayed_host(foreign)}, which is not in canvas.location_hosts"
        )
    if not parts.path.endswith(f"/{resource_type}") or not _QUERY.fullmatch(parts.query):
        raise SearchFailed("the next page of the search is on another path")
    return found, parts.query
