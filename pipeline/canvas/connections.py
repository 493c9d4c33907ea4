"""Connections of aiohttp, made strict: what is sent, and on what, is decided in one step.

aiohttp's pool hands out a kept connection without looking for bytes that arrived on it since, so an
unsolicited answer would become the answer to the next request: one payment's id on another's row.
And on Python 3.11 aiohttp writes the body, and with it the head, one turn of the event loop after
its trace hook `on_request_headers_sent`. In that turn a lease may end, and bytes may arrive. Here the
connection is examined, the caller is asked, and all bytes are written, without a turn in between.
"""

import asyncio
import select
from collections.abc import Callable

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import Connection
from aiohttp.http import StreamWriter
from aiohttp.tracing import Trace
from multidict import istr


class LeaseEnded(Exception):
    """Nothing may be sent any more: another process may have taken over."""


class TooEarly(aiohttp.ClientConnectionError):
    """Bytes or the end came before the request. `message` has the bytes that were read, if any."""

    def __init__(self, protocol: ResponseHandler | None) -> None:
        super().__init__("bytes or the end came before the request")
        read = b"" if protocol is None else protocol._tail  # noqa: SLF001 - what no parser has seen
        self.message = repr(bytes(read[:64]))


class Attempt:
    """One request on its way: whether a byte of it may have left, and a middleware that says so.

    aiohttp repeats a PUT or a GET by itself if a kept connection breaks, unless it sees another
    error than its own two for that.
    """

    __slots__ = ("_may_send", "_transport", "handed_off")

    def __init__(self, may_send: Callable[[], bool] | None) -> None:
        self._may_send = may_send
        self._transport: asyncio.Transport | None = None
        self.handed_off = False

    async def __call__(
        self, request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """Carry the request, once."""
        if isinstance(request, OneStepRequest):
            request.attempt = self
        try:
            return await send(request)
        except aiohttp.ClientConnectorError:
            raise  # there was no connection, and aiohttp does not try again
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
            raise aiohttp.ClientConnectionError("disconnected") from error

    def hand_off(self, transport: asyncio.Transport | None) -> None:
        """Take a last look, right before the bytes. Raises LeaseEnded if nothing may be sent any more."""
        if self._may_send is not None and not self._may_send():
            raise LeaseEnded
        self._transport = transport
        self.handed_off = True

    def end(self, *, is_whole: bool) -> None:
        """Abort a connection whose answer is not whole, or that still holds bytes of the request.

        To close it is not enough: what is in its buffer would go out later, when the write may long
        have been given up.
        """
        transport = self._transport
        if transport is None or (is_whole and transport.is_closing()):
            return
        if not is_whole or transport.get_write_buffer_size():
            transport.abort()


class OneStepRequest(aiohttp.ClientRequest):
    """A request that is written whole, in the step of the last look."""

    DEFAULT_HEADERS = dict[istr, str]()  # noqa: RUF012 - none, as ours are complete; the base class has an instance variable
    attempt: Attempt

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        """Write it. Nothing here waits. Raises LeaseEnded or ClientConnectionError, with no byte sent."""
        protocol = conn.protocol
        # The first bytes of TLS may be tickets; a kept connection was examined a moment ago.
        if (
            protocol is None
            or not _is_quiet(protocol)
            or (not self.is_ssl() and _is_readable(protocol))
        ):
            raise TooEarly(protocol)
        via_proxy = self.proxy is not None and not self.is_ssl()
        target = str(self.url) if via_proxy else self.url.raw_path_qs
        writer = StreamWriter(protocol, self.loop)
        await writer.write_headers(f"{self.method} {target} HTTP/1.1", self.headers)  # into memory
        self.attempt.hand_off(protocol.transport)
        if self._body is not None:
            await writer.write(await self._body.as_bytes(), drain=False)
        writer.set_eof()
        self.response = self.response_class(
            self.method,
            self.original_url,
            writer=None,
            continue100=None,
            timer=self._timer,
            request_info=self.request_info,
            traces=[],
            loop=self.loop,
            session=self.session,
            stream_writer=writer,
        )
        return self.response


class StrictConnector(aiohttp.TCPConnector):
    """A pool that keeps a connection only as long as nothing at all arrives on it."""

    async def _get(self, key: ConnectionKey, traces: list[Trace]) -> Connection | None:
        while (connection := await super()._get(key, traces)) is not None:
            protocol = connection.protocol
            if protocol is not None and _is_quiet(protocol) and not _is_readable(protocol):
                break
            connection.close()
        return connection


def _is_quiet(protocol: ResponseHandler) -> bool:
    """Return whether it is open, and has read nothing that no request asked for."""
    transport, parser = protocol.transport, protocol._parser  # noqa: SLF001 - half an answer shows only there
    if transport is None or transport.is_closing() or protocol.should_close:
        return False
    return parser is None or parser.feed_eof() is None


def _is_readable(protocol: ResponseHandler) -> bool:
    """Return whether bytes, or the end, are in the socket: they arrived while the loop was busy."""
    if protocol.transport is None:
        return True
    poller = select.poll()
    poller.register(protocol.transport.get_extra_info("socket").fileno(), select.POLLIN)
    return bool(poller.poll(0))
