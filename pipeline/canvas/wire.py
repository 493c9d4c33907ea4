"""One HTTP exchange by httptools on an asyncio protocol: the promises of `transport` at a fifth of its CPU.

A connection carries one exchange at a time, and nothing is sent a second time from here. It is kept
only where the answer ended by its own length, the whole request was taken, and neither side closes;
bytes that nobody asked for end it, so that no answer can be taken for another request's. Answers
are read as aiohttp reads them (both by llhttp); tests/transport holds the two together.
"""

import asyncio
import re
import socket
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple, Self, cast
from urllib.parse import urlsplit

import httptools

from pipeline.canvas.places import Places
from pipeline.canvas.transport import (
    BODY_BYTES_MAX,
    CONNECT_S_MAX,
    DNS,
    KEEPALIVE_S,
    KEPT_HEADERS,
    LEASE,
    OWN_HEADERS,
    TLS,
    Reply,
    distrust,
    trust,
)

_HEAD_BYTES_MAX: Final = 64 * 1024
_FIELDS_MAX: Final = 128  # as aiohttp has it, and the next
_FIELD_BYTES_MAX: Final = 8190
_NEXT_ADDRESS_S: Final = 2.0  # then another address is tried, where there is one
_KEPT: Final = {name.lower().encode(): name.lower() for name in KEPT_HEADERS}
_PORTS: Final = {"http": 80, "https": 443}
_SWITCHING: Final = 101  # the one status below 200 that is an answer


# As getaddrinfo gives it.
_Address = tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[Any, ...]]


class _Origin(NamedTuple):
    scheme: str
    host: str
    port: int


class Wire:
    """At most `concurrency` connections in use. Use it as an async context.

    `ca_file` names the only authorities that are trusted; None: those of the machine. Raises
    ConfigError where it holds none.
    """

    def __init__(
        self,
        timeout_s: float,
        concurrency: int,
        ca_file: Path | None = None,
        may_send: Callable[[], bool] | None = None,
    ) -> None:
        self._timeout_s = timeout_s
        self._may_send = may_send  # asked right before the bytes; None: always
        self._places = Places(concurrency)
        self._tls = trust(ca_file)
        self._idle: defaultdict[_Origin, deque[_Connection]] = defaultdict(deque)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._headers: Mapping[str, str] = {}  # those of the last request, as most are again
        self._lines = ""

    async def __aenter__(self) -> Self:
        """Open it."""
        self._loop = asyncio.get_running_loop()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close all connections."""
        self._loop = None
        for idle in self._idle.values():
            for connection in idle:
                connection.drop()
        self._idle.clear()
        await asyncio.sleep(0)  # it is the loop that closes them

    async def exchange(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> Reply:
        """Send one request. Whatever goes wrong below HTTP is a word in the reply."""
        if self._loop is None:
            raise RuntimeError("the transport is not open")
        loop, started_s = self._loop, self._loop.time()
        due_s = started_s + self._timeout_s
        try:
            origin, start = _start(method, url)
            request = _request(start, self._lines_of(headers), body)
            if not self._places.take_free():
                async with asyncio.timeout_at(due_s):
                    await self._places.take()
        except TimeoutError:
            return _unsent("timeout", loop.time() - started_s)
        except ValueError:  # a request that HTTP does not know
            return _unsent("disconnected", loop.time() - started_s)
        try:
            try:
                connection = self._kept(origin, started_s)
                if connection is None:
                    connection = await self._connected(origin, due_s, loop)
            except (OSError, ValueError) as error:
                return _unsent(_problem(error), loop.time() - started_s, distrust(error))
            if self._may_send is not None and not self._may_send():
                connection.drop()
                return _unsent(LEASE, loop.time() - started_s)
            answer = await self._answer(connection, request, due_s)
            if connection.is_reusable:
                connection.idle_since_s = loop.time()
                self._idle[origin].append(connection)
            else:
                connection.drop()
        finally:
            self._places.give_back()
        return Reply(
            answer.status,
            answer.headers,
            b"" if answer.problem else b"".join(answer.parts),
            handed_off=True,
            latency_s=loop.time() - started_s,
            problem=answer.problem,
        )

    def _lines_of(self, headers: Mapping[str, str]) -> str:
        """The lines of these headers. Raises ValueError where one would not stay a line."""
        if headers != self._headers:
            for name, value in headers.items():
                if not (_is_plain(name) and name.replace("-", "").isalnum() and _is_plain(value)):
                    raise ValueError("a header is not plain text")
            self._lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            self._headers = dict(headers)
        return self._lines

    def _kept(self, origin: _Origin, now_s: float) -> "_Connection | None":
        """The connection used last; those that have waited too long are closed."""
        idle = self._idle[origin]
        while idle and not idle[0].is_fresh(now_s):
            idle.popleft().drop()
        while idle:
            connection = idle.pop()
            if connection.is_reusable:
                return connection
            connection.drop()
        return None

    async def _connected(
        self, origin: _Origin, due_s: float, loop: asyncio.AbstractEventLoop
    ) -> "_Connection":
        """A new connection. Raises OSError (TimeoutError, gaierror, SSLError), or ValueError."""
        is_private = origin.scheme == "https"
        async with asyncio.timeout_at(min(due_s, loop.time() + CONNECT_S_MAX)):
            _, connection = await loop.create_connection(
                lambda: _Connection(loop),
                sock=await _socket_to(origin, loop),
                ssl=self._tls if is_private else None,
                server_hostname=origin.host.rstrip(".") if is_private else None,
            )
        if connection.is_closed:
            raise ConnectionError("closed as soon as it was open")
        return connection

    async def _answer(self, connection: "_Connection", request: bytes, due_s: float) -> "_Answer":
        try:
            return await connection.ask(request, due_s)
        except BaseException:  # cancelled: what comes now would be nobody's
            connection.drop()
            raise


async def _socket_to(origin: _Origin, loop: asyncio.AbstractEventLoop) -> socket.socket:
    """Connected to one of its addresses. Raises OSError: that of the last one, where none answers."""
    *others, last = await loop.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
    for address in others:
        with suppress(OSError):
            async with asyncio.timeout(_NEXT_ADDRESS_S):
                return await _connected_socket(address, loop)
    return await _connected_socket(last, loop)


async def _connected_socket(address: _Address, loop: asyncio.AbstractEventLoop) -> socket.socket:
    family, kind, protocol, _, where = address
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        await loop.sock_connect(sock, where)
    except BaseException:
        sock.close()
        raise
    return sock


class _Answer:
    """An answer, as far as it has come."""

    __slots__ = ("headers", "is_measured", "parts", "problem", "size", "status")

    def __init__(self) -> None:
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.is_measured = False  # it says where it ends; else the end of the connection does
        self.parts: list[bytes] = []
        self.size = 0
        self.problem = ""


class _Connection(asyncio.Protocol):
    """One connection. The second half of its methods are the parser's."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._parser = httptools.HttpResponseParser(self)
        # As aiohttp sets it: of form only, and a connection carries one exchange at a time.
        self._parser.set_dangerous_leniencies(
            lenient_headers=True,
            lenient_optional_cr_before_lf=True,
            lenient_spaces_after_chunk_size=True,
        )
        self._answer: _Answer | None = None  # None: nobody has asked, or it is complete
        self._reply: asyncio.Future[_Answer] | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._due_s = 0.0
        self._head_bytes = self._fields = 0
        self._has_nul = False  # somewhere in what came, then each header is looked at
        self._is_sound = True
        self.idle_since_s = 0.0

    def ask(self, request: bytes, due_s: float) -> "asyncio.Future[_Answer]":
        """Send this request; its answer comes by `due_s`, whatever happens."""
        self._answer, self._reply = _Answer(), self._loop.create_future()
        self._head_bytes, self._due_s = 0, due_s
        if self._alarm is None:  # one that is set rings early, and is set again
            self._alarm = self._loop.call_at(due_s, self._ring)
        self._transport.write(request)
        return self._reply

    @property
    def is_closed(self) -> bool:
        """Whether it is known that nothing can be sent on it."""
        return not self._is_sound or self._transport.is_closing()

    @property
    def is_reusable(self) -> bool:
        """Whether another request may follow the last one, which was taken whole."""
        return not self.is_closed and self._transport.get_write_buffer_size() == 0

    def is_fresh(self, now_s: float) -> bool:
        """Whether it has not waited for longer than servers keep a connection."""
        return now_s - self.idle_since_s < KEEPALIVE_S

    def drop(self) -> None:
        """Close it now."""
        self._is_sound = False
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._transport.abort()

    def _ring(self) -> None:
        self._alarm = None
        if self._answer is None:
            self.drop()
        elif self._loop.time() < self._due_s:
            self._alarm = self._loop.call_at(self._due_s, self._ring)
        else:
            self._fail("timeout")

    def _fail(self, problem: str = "") -> None:
        """It ends here; what had come of an answer is handed over with a problem."""
        self.drop()
        answer = self._answer
        if answer is not None:
            if answer.status is None:
                answer.headers.clear()
            answer.problem = problem or ("disconnected" if answer.status is None else "body")
            self._hand_over()

    def _hand_over(self) -> None:
        answer, self._answer = self._answer, None
        if answer is not None and self._reply is not None and not self._reply.done():
            self._reply.set_result(answer)

    # What the loop calls --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        if self._answer is None:
            self._fail()
            return
        if self._answer.status is None:
            self._head_bytes += len(data)
        if b"\0" in data:
            self._has_nul = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail()
        answer = self._answer
        if answer is not None and answer.status is None and self._head_bytes > _HEAD_BYTES_MAX:
            self._fail()

    def connection_lost(self, error: Exception | None) -> None:
        """It is closed, and with it an answer that does not say where it ends."""
        answer = self._answer
        if error is None and answer is not None and answer.status and not answer.is_measured:
            self._hand_over()
        self._fail()

    # What the parser calls: to raise ends the connection ------------------------------------------

    def on_message_begin(self) -> None:
        """An answer begins."""
        if self._answer is None:
            raise ValueError("more than was asked for")
        self._fields = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer: those count, and are not read."""
        self._fields += 1
        if (
            self._fields > _FIELDS_MAX
            or len(value) > _FIELD_BYTES_MAX
            or len(name) > _FIELD_BYTES_MAX
        ):
            raise ValueError("a header too many, or too long")
        if self._has_nul and b"\0" in value:
            raise ValueError("a NUL")
        answer, name = self._answer, name.lower()
        if answer is None or answer.status is not None:
            return
        kept = _KEPT.get(name)
        if kept is not None:
            text = value.rstrip(b" \t").decode("utf-8", "surrogateescape")
            before = answer.headers.get(kept)
            answer.headers[kept] = text if before is None else f"{before}, {text}"
        elif name == b"content-length":
            answer.is_measured = True
        elif name == b"transfer-encoding":
            answer.is_measured = value.lower().rstrip(b" \t").endswith(b"chunked")

    def on_headers_complete(self) -> None:
        """The head is whole."""
        status = self._parser.get_status_code()
        if self._answer is None:
            return
        if 100 <= status < 200 and status != _SWITCHING:  # noqa: PLR2004 - Informational
            self._answer.headers.clear()
        else:
            self._answer.status = status

    def on_body(self, data: bytes) -> None:
        """A part of the body."""
        if self._answer is not None:
            self._answer.size += len(data)
            if self._answer.size > BODY_BYTES_MAX:
                raise ValueError("a body too long")
            self._answer.parts.append(data)

    def on_message_complete(self) -> None:
        """It is whole, or was only word that one will come."""
        if self._answer is None or self._answer.status is None:
            return
        if self._answer.status == _SWITCHING or not self._parser.should_keep_alive():
            self._is_sound = False
        self._hand_over()


@lru_cache(maxsize=64)
def _start(method: str, url: str) -> tuple[_Origin, str]:
    """Whom to connect to, and how the request begins. Raises ValueError for what is no URL."""
    parts = urlsplit(url)
    host, default_port = parts.hostname, _PORTS.get(parts.scheme)
    if re.fullmatch(r"[!-~]+", url) is None or not (method.isascii() and method.isalpha()):
        raise ValueError("not a method and a URL")
    if not host or default_port is None or parts.username is not None:
        raise ValueError("not an address of http or https")
    port = parts.port or default_port
    named = f"[{host}]" if ":" in host else host
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = [f"{method} {target} HTTP/1.1"]
    lines.append(f"Host: {named if port == default_port else f'{named}:{port}'}")
    lines += (f"{name}: {value}" for name, value in OWN_HEADERS.items())
    return _Origin(parts.scheme, host, port), "\r\n".join(lines) + "\r\n"


def _request(start: str, lines: str, body: bytes | None) -> bytes:
    if body is None:
        return f"{start}{lines}\r\n".encode()
    return f"{start}{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable()


def _unsent(problem: str, latency_s: float, detail: str = "") -> Reply:
    problem = TLS if detail else problem
    return Reply(None, {}, b"", False, latency_s, problem, detail)


def _problem(error: Exception) -> str:
    """A word for why there is no connection; never the error's own text, which holds addresses."""
    match error:
        case TimeoutError():
            return "timeout"
        case socket.gaierror():
            return DNS
        case OSError():
            return "connect"
        case _:  # a host that no name service can be asked for
            return "disconnected"
