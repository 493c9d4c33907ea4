"""One HTTP exchange by aiohttp, with the settings that make it safe.

aiohttp's defaults would follow a 307 and post a payment again, take a proxy from the environment,
unpack a bomb, and put the token into the text of errors. Nothing below HTTP raises from here: what
went wrong is a word in the reply, and whether a byte was handed to the socket is a fact in it.
"""

import asyncio
import os
import re
import ssl
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple, Self

import aiohttp
from multidict import istr
from yarl import URL

from pipeline.canvas.bodies import BodyProblem, read_body
from pipeline.canvas.causes import cause
from pipeline.canvas.connections import Attempt, LeaseEnded, OneStepRequest, StrictConnector
from pipeline.canvas.proxy import AUTHENTICATION_REQUIRED, PROXY, Proxy
from pipeline.canvas.trust import distrust, trust

TLS: Final = "tls"  # the problem of a connection that cannot be trusted: it stays, so a run stops
LEASE: Final = "lease"  # nothing may be sent any more: another process may have taken over
DNS: Final = "dns"  # the problem of a host that has no address
BODY: Final = "body"  # the problem of a body that is cut short, too long or cannot be decoded
CONNECT_S_MAX: Final = 10.0
# Shorter than servers keep an idle connection, so that no request goes out on one being closed.
KEEPALIVE_S: Final = 4.0
KEPT_HEADERS: Final = ("Location", "Retry-After", "Date", "Content-Type", "fumage-correlation-id")
OWN_HEADERS: Final = {"Accept-Encoding": "identity", "User-Agent": "canvas-ingest"}


class Reply(NamedTuple):
    """An answer, or the reason why there is none: `status` is None, and `problem` names it.

    `handed_off` is False only if no byte of the request can have left, or a proxy passed nothing on.
    A body that is cut short, too long or cannot be decoded is b"" and `problem` is `BODY`. `detail`
    says why: of a body, of a proxy (`PROXY`, `PROXY_REFUSES`), why a connection is not trusted
    (`TLS`, one of the texts of `distrust`), or why there is no answer (one of the texts of `cause`).
    """

    status: int | None
    headers: Mapping[str, str]  # names in lower case
    body: bytes
    handed_off: bool
    latency_s: float
    problem: str = ""
    detail: str = ""


class Transport:
    """A session of at most `concurrency` connections. Use it as an async context.

    Args:
        timeout_s: Seconds for a whole exchange: the wait for a connection and the body included.
        concurrency: Connections in use at a time.
        ca_file: The only authorities that are trusted; None: those of the machine.
        may_send: Asked right before the bytes of each request; None: always.
        proxy: The forward proxy that all requests go through; None: none, whatever the environment says.
        certificate: Shown to a gateway that asks for one: PEM files of a certificate and its key.
        keepalive_s: Seconds for which a connection without a request is kept.

    Raises:
        ConfigError: If one of the files does not hold what it should.
    """

    def __init__(
        self,
        timeout_s: float,
        concurrency: int,
        ca_file: Path | None = None,
        may_send: Callable[[], bool] | None = None,
        *,
        proxy: Proxy | None = None,
        certificate: tuple[Path, Path] | None = None,
        keepalive_s: float = KEEPALIVE_S,
    ) -> None:
        self._tls = trust(ca_file, certificate)
        self._proxy = proxy
        self._timeout_s = timeout_s
        self._concurrency = concurrency
        self._may_send = may_send
        self._keepalive_s = keepalive_s
        self._session: aiohttp.ClientSession | None = None
        self._plain: Mapping[str, str] = {}  # the headers that were checked last; most are the same

    async def __aenter__(self) -> Self:
        """Open the session."""
        self._session = aiohttp.ClientSession(
            connector=StrictConnector(
                limit=self._concurrency, keepalive_timeout=self._keepalive_s, ssl=self._tls
            ),
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=min(self._timeout_s, CONNECT_S_MAX)
            ),
            request_class=OneStepRequest,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            headers=OWN_HEADERS,
            proxy=None if self._proxy is None else URL(self._proxy.url),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it."""
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()
            await asyncio.sleep(0)  # it is the loop that closes the sockets

    async def exchange(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> Reply:
        """Send one request, once. Whatever goes wrong below HTTP is a word in the reply."""
        if self._session is None:
            raise RuntimeError("the transport is not open")
        attempt, answer = Attempt(self._may_send), _Answer()
        started_s, proxy = time.monotonic(), self._proxy
        try:
            self._check(method, headers)
            address = _address(url)
            shown = {} if proxy is None else proxy.headers
            if proxy is not None and address.scheme == "http":  # it reads the request itself
                headers = {**headers, **shown, "Connection": "close"}
            async with (
                asyncio.timeout(self._timeout_s),  # of all of it; aiohttp's own has gaps
                self._session.request(
                    method,
                    address,
                    headers=headers,
                    data=body,
                    allow_redirects=False,
                    middlewares=(attempt,),
                    proxy_headers=shown,
                ) as response,
            ):
                await answer.read(response)
        except LeaseEnded:
            answer.problem = LEASE
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            answer.fail(error, handed_off=attempt.handed_off)
            if proxy is not None and not attempt.handed_off and answer.problem != TLS:
                answer.problem, answer.detail = _of_proxy(error, proxy, address)
        except ValueError as error:  # a request that HTTP does not know
            answer.problem = _problem(error)
        finally:
            attempt.end()
        latency_s = time.monotonic() - started_s
        if proxy is not None and answer.status == AUTHENTICATION_REQUIRED:
            # An answer of the proxy, which passed nothing on (RFC 9110, 15.5.8).
            refusal = proxy.refusal(AUTHENTICATION_REQUIRED, "")
            return Reply(None, {}, b"", False, latency_s, *refusal)
        return Reply(
            answer.status,
            answer.headers,
            answer.body,
            attempt.handed_off,
            latency_s,
            answer.problem,
            answer.detail,
        )

    def _check(self, method: str, headers: Mapping[str, str]) -> None:
        """Raise ValueError if a header would not stay one line of plain text."""
        if not (method.isascii() and method.isalpha()):
            raise ValueError("not a method")
        if headers != self._plain:
            if not all(_NAME.fullmatch(name) for name in headers):
                raise ValueError("not the name of a header")
            if not all(value.isascii() and value.isprintable() for value in headers.values()):
                raise ValueError("a header is not plain text")
            self._plain = dict(headers)


_NAME: Final = re.compile(r"[A-Za-z0-9-]+", re.ASCII)
_PLAIN_URL: Final = re.compile(r"https?://[!-~]+", re.ASCII)


@lru_cache(maxsize=64)
def _address(url: str) -> URL:
    """Return the URL as it is sent, not quoted again. Raises ValueError if it is not http or https."""
    address = URL(url, encoded=True)
    if not (_PLAIN_URL.fullmatch(url) and address.raw_host) or address.raw_user is not None:
        raise ValueError("not an address of http or https")
    return address


class _Answer:
    """An answer, as far as it came."""

    __slots__ = ("body", "detail", "headers", "problem", "status")

    def __init__(self) -> None:
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.body = b""
        self.problem = self.detail = ""

    def fail(self, error: BaseException, *, handed_off: bool) -> None:
        """Set the problem and its detail, in words of ours."""
        self.detail = distrust(_below(error), handed_off=handed_off)
        self.body, self.problem = b"", TLS if self.detail else _problem(error)
        self.detail = self.detail or cause(_below(error))

    async def read(self, response: aiohttp.ClientResponse) -> None:
        """Take the head, which counts whatever becomes of the body, and then the body, within its bound."""
        self.status, given = response.status, response.headers
        for name, lower in _KEPT:
            if name in given:
                self.headers[lower] = ", ".join(given.getall(name))  # RFC 9110, 5.3
        connection = response.connection
        protocol = None if connection is None else connection.protocol
        try:
            self.body = await read_body(response)
        except BodyProblem as unread:
            self.problem, self.detail = BODY, str(unread)
        is_measured = "Content-Length" in given or "Transfer-Encoding" in given
        if protocol is not None and not is_measured:  # the end of the connection is its end
            error = protocol.exception()
            if isinstance(error, aiohttp.ClientOSError):  # and it was a reset
                self.body, self.problem = b"", BODY


_KEPT: Final = tuple((istr(name), name.lower()) for name in KEPT_HEADERS)


def _below(error: BaseException) -> BaseException:
    """Return the error of the TLS library that aiohttp's is about; the error itself if there is none."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return error.certificate_error
    if isinstance(error, aiohttp.ClientConnectorError):
        return error.os_error
    below: BaseException | None = error
    while below is not None and not isinstance(below, ssl.SSLError):
        below = below.__cause__
    return below or error


def _of_proxy(error: BaseException, proxy: Proxy, address: URL) -> tuple[str, str]:
    """Return the problem, and its detail, of what failed before the request left; the proxy is named."""
    name, target = f"the proxy {proxy.address}", f"{address.raw_host}:{address.port}"
    match error:
        case aiohttp.ClientHttpProxyError():
            return proxy.refusal(error.status, target)
        case aiohttp.ClientConnectorDNSError():
            return PROXY, f"{name} has no address: the name is unknown here"
        case aiohttp.ClientProxyConnectionError():
            why = os.strerror(error.os_error.errno or 0).lower()
            return PROXY, f"{name} cannot be reached ({why})"
        case TimeoutError():
            return PROXY, f"{name} gave no connection to {target} in time"
        case aiohttp.ClientConnectorError():
            return PROXY, f"{target} ended the connection through {name}"
        case _:
            return PROXY, f"{name} ended the connection, or is no HTTP proxy"


def _problem(error: BaseException) -> str:
    """Return a word for the error; never its own text, which holds addresses and tokens."""
    match error:
        case TimeoutError() | asyncio.TimeoutError():
            return "timeout"
        case aiohttp.ClientConnectorDNSError():
            return DNS
        case aiohttp.ClientConnectorError():
            return "connect"
        case aiohttp.ClientPayloadError():
            return BODY
        case _:
            return "disconnected"
