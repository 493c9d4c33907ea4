"""One HTTP exchange. The only home of aiohttp, and of the settings that make it safe.

aiohttp's defaults would follow a 307 and post a payment again, take a proxy from the environment,
unpack a bomb, and put the token into the text of errors (reliability.md, "aiohttp's defaults").
Nothing below HTTP raises from here: what went wrong is a word in the reply, and whether a byte was
handed to the socket is a fact in it.
"""

import asyncio
import ssl
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Final, NamedTuple, Self

import aiohttp
from yarl import URL

from pipeline.canvas.causes import HTTP2_ONLY, cause
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

    `ca_file` names the only authorities that are trusted; None: those of the machine. Raises
    ConfigError where it holds none.
    """

    def __init__(self, timeout_s: float, concurrency: int, ca_file: Path | None = None) -> None:
        self._tls = trust(ca_file)
        self._timeout = aiohttp.ClientTimeout(
            total=timeout_s, sock_connect=min(timeout_s, CONNECT_S_MAX)
        )
        self._concurrency = concurrency
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Open the session."""
        trace = aiohttp.TraceConfig()
        trace.on_request_headers_sent.append(_note_hand_off)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self._concurrency, keepalive_timeout=KEEPALIVE_S, ssl=self._tls
            ),
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            middlewares=[_only_once],
            trace_configs=[trace],
            trust_env=False,
            auto_decompress=False,
            headers=OWN_HEADERS,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it."""
        if self._session is not None:
            await self._session.close()

    async def exchange(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> Reply:
        """Send one request. Whatever goes wrong below HTTP is a word in the reply."""
        if self._session is None:
            raise RuntimeError("the transport is not open")
        sent = SimpleNamespace(handed_off=False)
        started_s = time.monotonic()
        status: int | None = None
        kept: dict[str, str] = {}
        detail = ""
        try:
            async with self._session.request(
                method,
                URL(url, encoded=True),
                headers=headers,
                data=body,
                allow_redirects=False,
                trace_request_ctx=sent,
            ) as response:
                status = response.status
                kept = {
                    name.lower(): ", ".join(response.headers.getall(name))  # RFC 9110, 5.3
                    for name in KEPT_HEADERS
                    if name in response.headers
                }
                content, problem = await _bounded(response)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            detail = distrust(_below(error))
            content, problem = b"", TLS if detail else _problem(error)
            detail = detail or cause(_below(error))
        latency_s = time.monotonic() - started_s
        return Reply(status, kept, content, sent.handed_off, latency_s, problem, detail)


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


async def _only_once(
    request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Aiohttp would send a PUT or a GET again when a kept connection breaks: unless it sees this error."""
    try:
        return await send(request)
    except aiohttp.ClientConnectorError:
        raise  # there was no connection, and aiohttp does not try again
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise aiohttp.ClientConnectionError("disconnected") from error


async def _note_hand_off(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
    """Called right before the first byte of a request goes to the socket."""
    context.trace_request_ctx.handed_off = True


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
