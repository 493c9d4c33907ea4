"""One HTTP exchange by aiohttp, with the settings that make it safe.

aiohttp's defaults would follow a 307 and post a payment again, take a proxy from the environment,
unpack a bomb, and put the token into the text of errors. Nothing below HTTP raises from here: what
went wrong is a word in the reply, and whether a byte was handed to the socket is a fact in it.
"""

import asyncio
import re
import ssl
import time
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Final, NamedTuple, Self

import aiohttp
from multidict import istr
from yarl import URL

from pipeline.canvas.causes import HTTP2_ONLY, cause
from pipeline.canvas.connections import Attempt, LeaseEnded, OneStepRequest, StrictConnector
from pipeline.errors import ConfigError

TLS: Final = "tls"  # the problem of a connection that cannot be trusted: it stays, so a run stops
LEASE: Final = "lease"  # nothing may be sent any more: another process may have taken over
DNS: Final = "dns"  # the problem of a host that has no address
BODY_BYTES_MAX: Final = 4 * 1024 * 1024
CONNECT_S_MAX: Final = 10.0
# Shorter than servers keep an idle connection, so that no request goes out on one being closed.
KEEPALIVE_S: Final = 4.0
KEPT_HEADERS: Final = ("Location", "Retry-After", "Date", "Content-Type", "fumage-correlation-id")
OWN_HEADERS: Final = {"Accept-Encoding": "identity", "User-Agent": "canvas-ingest"}


class Reply(NamedTuple):
    """What came back. `status` None: no answer, and `problem` says why in a word of ours.

    `handed_off` is False only where no byte of the request can have left. A body longer than the
    bound or cut short is b"" and `problem` is "body". `detail` says why a connection is not trusted
    (`TLS`), one of the texts of `distrust`, or why there is no answer, one of the texts of `cause`.
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

    Raises:
        ConfigError: If `ca_file` holds no certificate.
    """

    def __init__(
        self,
        timeout_s: float,
        concurrency: int,
        ca_file: Path | None = None,
        may_send: Callable[[], bool] | None = None,
    ) -> None:
        self._tls = trust(ca_file)
        self._timeout_s = timeout_s
        self._concurrency = concurrency
        self._may_send = may_send
        self._session: aiohttp.ClientSession | None = None
        self._plain: Mapping[str, str] = {}  # the headers that were checked last; most are the same

    async def __aenter__(self) -> Self:
        """Open the session."""
        self._session = aiohttp.ClientSession(
            connector=StrictConnector(
                limit=self._concurrency, keepalive_timeout=KEEPALIVE_S, ssl=self._tls
            ),
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=min(self._timeout_s, CONNECT_S_MAX)
            ),
            request_class=OneStepRequest,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            headers=OWN_HEADERS,
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
        started_s = time.monotonic()
        try:
            self._check(method, headers)
            async with (
                asyncio.timeout(self._timeout_s),  # of all of it; aiohttp's own has gaps
                self._session.request(
                    method,
                    _address(url),
                    headers=headers,
                    data=body,
                    allow_redirects=False,
                    middlewares=(attempt,),
                ) as response,
            ):
                await answer.read(response)
        except LeaseEnded:
            answer.problem = LEASE
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            answer.detail = distrust(_below(error))
            answer.body, answer.problem = b"", TLS if answer.detail else _problem(error)
            answer.detail = answer.detail or cause(_below(error))
        finally:
            attempt.end(is_whole=answer.is_whole)
        return Reply(
            answer.status,
            answer.headers,
            answer.body,
            attempt.handed_off,
            time.monotonic() - started_s,
            answer.problem,
            answer.detail,
        )

    def _check(self, method: str, headers: Mapping[str, str]) -> None:
        """Raises ValueError for a header that would not stay a line of plain text."""
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
    """The URL as it is sent, not quoted again. Raises ValueError for what is none of http or https."""
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

    @property
    def is_whole(self) -> bool:
        """Whether it came to its end."""
        return self.status is not None and not self.problem

    async def read(self, response: aiohttp.ClientResponse) -> None:
        """Take the head, which counts whatever becomes of the body, and then the body, within its bound."""
        self.status, given = response.status, response.headers
        for name, lower in _KEPT:
            if name in given:
                self.headers[lower] = ", ".join(given.getall(name))  # RFC 9110, 5.3
        connection = response.connection
        protocol = None if connection is None else connection.protocol
        self.body, self.problem = await _bounded(response)
        is_measured = "Content-Length" in given or "Transfer-Encoding" in given
        if protocol is not None and not is_measured:  # the end of the connection is its end
            error = protocol.exception()
            if isinstance(error, aiohttp.ClientOSError):  # and it was a reset
                self.body, self.problem = b"", "body"


_KEPT: Final = tuple((istr(name), name.lower()) for name in KEPT_HEADERS)


def trust(ca_file: Path | None) -> ssl.SSLContext:
    """What a peer must show: a certificate for its name, of a trusted authority, by TLS 1.2 or later.

    There is no way to do without. Raises ConfigError for a file without certificates.
    """
    if ca_file is None:
        return _trust_as_the_machine()
    context = _strict()
    try:
        context.load_verify_locations(ca_file)
    except OSError as error:  # an ssl.SSLError is one, too
        is_read = isinstance(error, ssl.SSLError)
        raise ConfigError(
            f"canvas.ca_file: {'no certificate in it' if is_read else error.strerror}",
            "name a PEM file that holds the certificates of your authority",
        ) from None
    return context


@cache
def _trust_as_the_machine() -> ssl.SSLContext:
    """Read once: it holds some hundred authorities, and takes 20 ms."""
    context = _strict()
    context.load_default_certs()
    return context


def _strict() -> ssl.SSLContext:
    """Not `ssl.create_default_context`, which writes the session's keys where SSLKEYLOGFILE says."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def distrust(error: BaseException) -> str:
    """Why a TLS connection is not to be trusted; "" where it is only that it broke off."""
    match error:
        case ssl.SSLCertVerificationError():
            return _CERTIFICATES.get(error.verify_code, "its certificate is not valid")
        case ssl.SSLEOFError() | ssl.SSLZeroReturnError() | ssl.SSLSyscallError():
            return ""
        case ssl.SSLError():
            return _HANDSHAKES.get(error.reason or "", "it agrees on no TLS that is safe")
        case _:
            return ""


# By the codes of OpenSSL's x509_vfy.h, and the names of its reasons.
_CERTIFICATES: Final = {
    2: "the authority that signed it was itself signed by one that is not trusted here: its root certificate is missing",
    9: "its certificate is not valid yet",
    10: "its certificate has expired",
    18: "its certificate is signed by nobody but itself",
    19: "its certificate is signed by an authority that is not trusted here",
    20: "its certificate is signed by an authority that is not trusted here",
    21: "its certificate is signed by an authority that is not trusted here",
    62: "its certificate is for another name",
    64: "its certificate is for another address",
}
_HANDSHAKES: Final = {
    "TLSV1_ALERT_NO_APPLICATION_PROTOCOL": HTTP2_ONLY,
    "NO_APPLICATION_PROTOCOL": HTTP2_ONLY,
} | dict.fromkeys(
    ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"),
    "what answers there speaks no TLS",
)


def _below(error: BaseException) -> BaseException:
    """The error of the TLS library that aiohttp's is about; the error itself where there is none."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return error.certificate_error
    return error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error


async def _bounded(response: aiohttp.ClientResponse) -> tuple[bytes, str]:
    parts, size = [], 0
    while chunk := await response.content.read(BODY_BYTES_MAX + 1 - size):
        parts.append(chunk)
        size += len(chunk)
        if size > BODY_BYTES_MAX:
            return b"", "body"
    return b"".join(parts), ""


def _problem(error: BaseException) -> str:
    """A word for it; never the error's own text, which holds addresses and tokens."""
    match error:
        case TimeoutError() | asyncio.TimeoutError():
            return "timeout"
        case aiohttp.ClientConnectorDNSError():
            return DNS
        case aiohttp.ClientConnectorError():
            return "connect"
        case aiohttp.ClientPayloadError():
            return "body"
        case _:
            return "disconnected"
