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
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Final, Self

import aiohttp
from yarl import URL

TLS: Final = "tls"  # the problem of a certificate that is not trusted: it stays, so a run stops
DNS: Final = "dns"  # the problem of a host that has no address
_BODY_BYTES_MAX: Final = 4 * 1024 * 1024
_CONNECT_S_MAX: Final = 10.0
# Shorter than servers keep an idle connection, so that no request goes out on one being closed.
_KEEPALIVE_S: Final = 4.0
_KEPT_HEADERS: Final = ("Location", "Retry-After", "Date", "Content-Type", "fumage-correlation-id")


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back. `status` None: no answer, and `problem` says why in a word of ours.

    `handed_off` is False only where no byte of the request can have left. A body longer than the
    bound or cut short is b"" and `problem` is "body".
    """

    status: int | None
    headers: Mapping[str, str]  # names in lower case
    body: bytes
    handed_off: bool
    latency_s: float
    problem: str = ""


class Transport:
    """A session of at most `concurrency` connections. Use it as an async context."""

    def __init__(self, timeout_s: float, concurrency: int) -> None:
        self._timeout = aiohttp.ClientTimeout(
            total=timeout_s, sock_connect=min(timeout_s, _CONNECT_S_MAX)
        )
        self._concurrency = concurrency
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Open the session."""
        trace = aiohttp.TraceConfig()
        trace.on_request_headers_sent.append(_note_hand_off)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._concurrency, keepalive_timeout=_KEEPALIVE_S),
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            trace_configs=[trace],
            trust_env=False,
            auto_decompress=False,
            headers={"Accept-Encoding": "identity", "User-Agent": "canvas-ingest"},
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
                    for name in _KEPT_HEADERS
                    if name in response.headers
                }
                content, problem = await _bounded(response)
        except (
            aiohttp.ClientConnectorCertificateError,
            aiohttp.ClientConnectorSSLError,
            ssl.SSLError,
        ):
            content, problem = b"", TLS
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            content, problem = b"", _problem(error)
        return Reply(status, kept, content, sent.handed_off, time.monotonic() - started_s, problem)


async def _note_hand_off(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
    """Called right before the first byte of a request goes to the socket."""
    context.trace_request_ctx.handed_off = True


async def _bounded(response: aiohttp.ClientResponse) -> tuple[bytes, str]:
    parts, size = [], 0
    while chunk := await response.content.read(_BODY_BYTES_MAX + 1 - size):
        parts.append(chunk)
        size += len(chunk)
        if size > _BODY_BYTES_MAX:
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
