"""Connections: which are kept, what is never sent twice, and what is known not to have been sent."""

import asyncio
import contextlib
import itertools
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from pipeline.canvas.transport import DNS, LEASE, Reply, Transport
from tests.canvas.transport.server import CLOSE, RESET, Script, Server, reset, serving

pytestmark = pytest.mark.slow  # waits for connections to end

Serve = Callable[..., Any]
_HANGS_S = 10.0  # what is waited for comes at once, or never


def created(number: int, *lines: bytes) -> bytes:
    head = [b"HTTP/1.1 201 Created", b"Location: /PaymentNotice/%d" % number, *lines]
    return b"\r\n".join([*head, b"Content-Length: 0", b"", b""])


async def send(
    transport: Transport, server: Server, method: str = "POST", body: bytes = b"sent"
) -> Reply:
    content = None if method == "GET" else body
    return await transport.exchange(method, f"{server.url}/x", {}, content)


BlockingStep = bytes | Callable[[], object]


@contextmanager
def answering(script: Callable[[int], Sequence[BlockingStep]]) -> Iterator[str]:
    """A server in a thread of its own, for clients whose loop is busy. Yields its URL.

    For each request it sends the bytes of `script(number)`, and calls what else is in it.
    """
    numbers = itertools.count(1)

    def serve(listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=talk, args=(connection,), daemon=True).start()

    def talk(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while connection.recv(65_536):
                for step in script(next(numbers)):
                    if isinstance(step, bytes):
                        connection.sendall(step)
                    else:
                        step()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
    thread.join(5)


# Kept or not --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "connections"),
    [
        ([created(1)], 1),
        (
            [
                b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX: x\r\n\r\n"
            ],
            1,
        ),
        ([b"HTTP/1.1 100 Continue\r\n\r\n", created(1)], 1),
        ([b"HTTP/1.1 204 No Content\r\n\r\n"], 1),
        ([b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n"], 1),
        ([created(1).replace(b"1.1", b"1.0").replace(b"Con", b"Connection: keep-alive\r\nCon")], 1),
        ([created(1).replace(b"1.1", b"1.0")], 3),
        ([created(1, b"Connection: close")], 3),
        ([created(1, b"connection: x, Close")], 3),
        ([created(1), CLOSE], 3),
        ([created(1), RESET], 3),
    ],
)
async def test_a_connection_is_kept_where_both_sides_keep_it(
    script: Script, connections: int, serve: Serve
) -> None:
    server = await serve(script)
    async with Transport(2.0, 1) as transport:
        for _ in range(3):
            reply = await send(transport, server)
            assert (reply.status, reply.problem) in {(201, ""), (204, ""), (304, "")}
            if connections > 1:
                await server.is_left()
    assert (server.connections, len(server.requests)) == (connections, 3)


@pytest.mark.parametrize("surplus", [b"HTTP/1.1 201 Cre", created(9), b"HTTP/1.1 408 Late\r\n\r\n"])
@pytest.mark.parametrize("wait_s", [0.0, 0.02])
async def test_unsolicited_bytes_are_no_answer(surplus: bytes, wait_s: float, serve: Serve) -> None:
    server = await serve(*([created(number), wait_s, surplus] for number in (1, 2, 3)))
    async with Transport(2.0, 1) as transport:
        await _three_answers_of_their_own(transport, server)
    assert server.connections == 3


async def test_unsolicited_bytes_that_are_no_http(serve: Serve) -> None:
    server = await serve(*([created(number), 0.02, b"x"] for number in (1, 2, 3)))
    async with Transport(2.0, 1) as transport:
        await _three_answers_of_their_own(transport, server)
    assert server.connections == 3


class Surplus:
    """A second answer to each request. It arrives when `arrive` is called, which blocks the loop until then."""

    def __init__(self) -> None:
        self._answered = self._arrived = 0  # requests
        self._wanted, self._sent = threading.Semaphore(0), threading.Semaphore(0)

    def script(self, number: int) -> Sequence[BlockingStep]:
        def wait() -> None:
            self._answered = number
            self._wanted.acquire(timeout=_HANGS_S)

        return [created(number), wait, created(9), self._sent.release]

    def arrive(self, number: int) -> None:
        """Have the second answer to that request at the client's socket, unless it is there already."""
        if self._arrived < number:
            self._wanted.release()
            assert self._sent.acquire(timeout=_HANGS_S)
            self._arrived = number

    async def arrive_after(self, turns: int) -> None:
        """Have each second answer arrive that many turns of the loop after the first one has."""
        while True:
            while self._answered == self._arrived:
                await asyncio.sleep(0)
            number = self._answered
            for _ in range(turns):
                await asyncio.sleep(0)
            self.arrive(number)


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 100])
async def test_what_comes_while_the_loop_is_busy_is_no_answer(turns: int) -> None:
    """With the answer, before it is passed on, or after that: always before the loop looks for more."""
    surplus = Surplus()
    with answering(surplus.script) as url:
        async with Transport(10.0, 1) as transport:
            busy = asyncio.ensure_future(surplus.arrive_after(turns))
            for number in (1, 2, 3):
                reply = await transport.exchange("POST", f"{url}/x", {}, b"sent")
                assert reply.headers.get("location") == f"/PaymentNotice/{number}"
                surplus.arrive(number)
            busy.cancel()


async def test_a_server_that_speaks_first_is_sent_nothing() -> None:
    class Greeting(Server):
        async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(created(9))
            self.requests.append(await reader.read(1000))
            writer.close()

    async with serving(Greeting()) as server, Transport(2.0, 1) as transport:
        reply = await send(transport, server)
        await server.is_left()
        assert (reply.status, reply.problem, reply.handed_off) == (None, "disconnected", False)
    assert b"".join(server.requests) == b""


async def _three_answers_of_their_own(transport: Transport, server: Server) -> None:
    for number in (1, 2, 3):
        reply = await send(transport, server)
        assert reply.headers.get("location") == f"/PaymentNotice/{number}"
        await server.is_played()
    assert len(server.requests) == 3


async def test_one_that_has_waited_too_long_is_not_used(
    serve: Serve,
) -> None:
    for keepalive_s, connections in ((60.0, 1), (0.05, 2)):
        server = await serve([created(1)])
        async with Transport(2.0, 1, keepalive_s=keepalive_s) as transport:
            await send(transport, server)
            await asyncio.sleep(0.2)
            await send(transport, server)
        assert server.connections == connections


async def test_no_more_connections_than_requests_in_flight(serve: Serve) -> None:
    server = await serve([0.02, created(1)])
    async with Transport(2.0, 3) as transport:
        replies = await asyncio.gather(*(send(transport, server) for _ in range(12)))
    assert {reply.status for reply in replies} == {201}
    assert (server.connections, server.open_most, len(server.requests)) == (3, 3, 12)


async def test_waiting_for_a_place_counts_as_time_and_sends_nothing(serve: Serve) -> None:
    server = await serve([5.0])
    async with Transport(1.0, 1) as transport:
        first = asyncio.ensure_future(send(transport, server))
        while not server.requests:
            await asyncio.sleep(0.01)
        blocked = asyncio.ensure_future(transport.exchange("POST", f"{server.url}/x", {}, b""))
        replies = [await first, await blocked]
    assert [each.problem for each in replies] == ["timeout", "timeout"]
    assert replies[0].handed_off
    assert len(server.requests) == 1 + replies[1].handed_off


async def test_each_connection_is_closed_at_the_end(serve: Serve) -> None:
    server = await serve([created(1)])
    async with Transport(2.0, 4) as transport:
        await asyncio.gather(*(send(transport, server) for _ in range(4)))
        assert server.open == 4
    await server.is_left()
    assert server.open == 0
    with pytest.raises(RuntimeError, match="not open"):
        await Transport(1.0, 1).exchange("GET", server.url, {}, None)


# Never twice --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "PUT", "GET"])
@pytest.mark.parametrize("end", [CLOSE, RESET])
async def test_what_a_closing_connection_took_is_lost_and_not_sent_again(
    method: str, end: str, serve: Serve
) -> None:
    server = await serve([created(1)], [end], [created(3)])
    async with Transport(2.0, 1) as transport:
        replies = [await send(transport, server, method) for _ in range(3)]
    assert [each.status for each in replies] == [201, None, 201]
    assert (replies[1].problem, replies[1].handed_off) == ("disconnected", True)
    assert replies[2].headers["location"] == "/PaymentNotice/3"
    assert len(server.requests) == 3


async def test_a_cancelled_request_leaves_nothing_to_the_next(serve: Serve) -> None:
    server = await serve([0.3, created(1)], [created(2)])
    async with Transport(2.0, 1) as transport:
        first = asyncio.ensure_future(send(transport, server))
        while not server.requests:
            await asyncio.sleep(0.01)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        reply = await send(transport, server)
    assert reply.headers["location"] == "/PaymentNotice/2"
    assert server.connections == 2
    await server.is_left()
    assert server.open == 0


@pytest.mark.filterwarnings("ignore:Sending a large body directly")  # no row is as large
async def test_an_answer_before_the_body_was_taken(serve: Serve) -> None:
    server = await serve(
        [b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n", 0.1], [created(2)]
    )
    server.reads_bodies = False
    async with Transport(2.0, 1) as transport:
        reply = await send(transport, server, body=b"x" * 50_000_000)
        assert (reply.status, reply.handed_off) == (413, True)
        server.reads_bodies = True
        assert (await send(transport, server)).headers["location"] == "/PaymentNotice/2"
    assert server.connections == 2


@pytest.mark.filterwarnings("ignore:Sending a large body directly")  # no row is as large
async def test_what_was_given_up_does_not_go_out_later() -> None:
    taken, is_given_up = asyncio.get_running_loop().create_future(), asyncio.Event()

    class Slow(Server):
        async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            await is_given_up.wait()
            writer.transport.resume_reading()  # type: ignore[attr-defined]
            size = 0
            with contextlib.suppress(ConnectionError):
                while part := await reader.read(1_000_000):
                    size += len(part)
            taken.set_result(size)
            writer.close()

    async with serving(Slow()) as server, Transport(1.0, 1) as transport:
        reply = await send(transport, server, body=b"x" * 50_000_000)
        is_given_up.set()
        assert (reply.problem, reply.handed_off) == ("timeout", True)
        assert await taken < 50_000_000


async def test_a_server_that_takes_nothing_more_but_answers() -> None:
    class Ending(Server):
        async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.requests.append(await reader.readuntil(b"sent"))
            writer.write(created(len(self.requests)))
            self.open += 1
            writer.write_eof()  # half of the connection stays open
            await reader.read()
            writer.close()
            self.open -= 1

    async with serving(Ending()) as server, Transport(2.0, 1) as transport:
        for number in (1, 2):
            reply = await send(transport, server)
            assert reply.headers["location"] == f"/PaymentNotice/{number}"
            await server.is_left()
    assert len(server.requests) == 2


# Not sent -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://127.0.0.1:{free}/", "connect"),
        ("http://nosuch.invalid/", DNS),
        ("http://a..b/", "disconnected"),
        (f"http://{'a' * 64}.invalid/", "disconnected"),
        ("ftp://127.0.0.1/", "disconnected"),
        ("http://", "disconnected"),
        ("127.0.0.1", "disconnected"),
        ("http://127.0.0.1:65536/", "disconnected"),
        ("http://[::1/", "disconnected"),
    ],
)
async def test_what_cannot_be_sent_is_known_not_to_be(url: str, problem: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        free = listening.getsockname()[1]
    async with Transport(5.0, 1) as transport:
        reply = await transport.exchange("POST", url.format(free=free), {}, b"sent")
    assert (reply.status, reply.headers, reply.body) == (None, {}, b"")
    assert (reply.problem, reply.handed_off) == (problem, False)


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("POST", "/x", {"Authorization": "Bearer a\r\nX-Evil: 1"}),
        ("POST", "/x", {"Authorization": "Bearer a\nX-Evil: 1"}),
        ("POST", "/x", {"Authorization": "Bearer a\0"}),
        ("POST", "/x", {"A\r\nX-Evil": "1"}),
        ("POST /y HTTP/1.1\r\nX-Evil: 1\r\n", "/x", {}),
    ],
)
async def test_a_line_break_sends_nothing(
    method: str, path: str, headers: Mapping[str, str], serve: Serve
) -> None:
    server = await serve([created(1)])
    async with Transport(0.5, 1) as transport:
        reply = await transport.exchange(method, server.url + path, headers, b"sent")
    assert (reply.status, server.requests) == (None, [])
    assert (reply.problem, reply.handed_off) == ("disconnected", False)


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/x HTTP/1.1\r\nX-Evil: 1\r\n", {}),
        ("/x\r\nX-Evil: 1", {}),
        ("/é", {}),
        ("/x", {"A": "é"}),
        ("/x", {"A:": "1"}),
        ("/x", {"": "1"}),
    ],
)
async def test_what_is_no_plain_text_is_not_sent(
    path: str, headers: Mapping[str, str], serve: Serve
) -> None:
    server = await serve([created(1)])
    async with Transport(0.5, 1) as transport:
        reply = await transport.exchange("POST", server.url + path, headers, b"sent")
    assert (reply.problem, reply.handed_off, server.requests) == ("disconnected", False, [])


async def test_a_connection_that_ends_as_it_begins() -> None:
    class Refusing(Server):
        async def serve(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            reset(writer)

    async with serving(Refusing()) as server, Transport(2.0, 1) as transport:
        for _ in range(20):
            reply = await send(transport, server)
            assert reply.status is None
            assert reply.problem in {"connect", "disconnected"}


async def test_the_next_address_is_tried(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with two addresses, where nobody listens at the first."""
    server = await serve([created(1)])
    port = int(server.url.rpartition(":")[2])
    real = socket.getaddrinfo

    def both(host: Any, *rest: Any, **options: Any) -> Any:
        found = real("127.0.0.1", *rest, **options)
        if host not in {"two.test", b"two.test"}:
            return real(host, *rest, **options)
        return [(*each[:4], (address, port)) for address in ("127.0.0.9", "127.0.0.1") for each in found[:1]]  # fmt: skip

    async def resolve(host: Any, *rest: Any, **options: Any) -> Any:
        return both(host, *rest, **options)

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve, raising=False)
    async with Transport(2.0, 1) as transport:
        reply = await transport.exchange("POST", f"http://two.test:{port}/x", {}, b"sent")
    assert reply.status == 201


@pytest.mark.parametrize(("method", "body"), [("POST", b"sent"), ("PUT", b"sent"), ("GET", None)])
async def test_no_byte_is_sent_after_the_lease(
    method: str, body: bytes | None, serve: Serve
) -> None:
    """Neither on a new connection nor on a kept one."""
    server, holds = await serve([created(1)]), [True]
    async with Transport(2.0, 1, may_send=lambda: holds[0]) as transport:
        assert (await transport.exchange("POST", f"{server.url}/x", {}, b"sent")).status == 201
        holds[0] = False
        for _ in range(2):  # on the kept one; then on a new one
            reply = await transport.exchange(method, f"{server.url}/x", {}, body)
            assert (reply.status, reply.problem, reply.handed_off) == (None, LEASE, False)
        holds[0] = True
        assert (await transport.exchange(method, f"{server.url}/x", {}, body)).status == 201
    assert [each.startswith(b"POST" if n == 0 else method.encode()) for n, each in enumerate(server.requests)] == [True, True]  # fmt: skip


async def test_nothing_lies_between_the_last_look_and_the_bytes() -> None:
    """From the moment of the look on, the loop waits for the bytes: what is sent was sent before."""
    came, arrivals = threading.Semaphore(0), list[bool]()

    def look() -> bool:
        asyncio.get_running_loop().call_soon(
            lambda: arrivals.append(came.acquire(timeout=_HANGS_S))
        )
        return True

    with answering(lambda number: [came.release, created(number)]) as url:
        async with Transport(2 * _HANGS_S, 1, may_send=look) as transport:
            for _ in range(2):
                assert (await transport.exchange("POST", f"{url}/x", {}, b"sent")).status == 201
    assert arrivals == [True, True]


# What goes out ------------------------------------------------------------------------------------


async def test_what_is_sent(serve: Serve) -> None:
    server = await serve([created(1)])
    headers = {"Authorization": "Bearer t", "Accept": "application/json"}
    typed = {**headers, "Content-Type": "application/json"}
    given: list[tuple[str, str, dict[str, str], bytes | None]] = [
        ("GET", "/Coverage?patient=Patient%2F1&_count=100", headers, None),
        ("POST", "/Coverage", typed, b'{"a":"\xc3\xa9"}'),
        ("POST", "", typed, b""),
        ("PUT", "/Coverage/1#top", {**typed, "If-Unmodified-Since": "x"}, b"{}"),
    ]
    async with Transport(2.0, 1) as transport:
        for method, path, lines, body in given:
            await transport.exchange(method, server.url + path, lines, body)
    host = server.url.removeprefix("http://")
    own = {"Host": host, "Accept-Encoding": "identity", "User-Agent": "canvas-ingest"}
    for request, (method, path, lines, body) in zip(server.requests, given, strict=True):
        length = {} if body is None else {"Content-Length": str(len(body))}
        expected = {f"{name}: {value}".encode() for name, value in (own | lines | length).items()}
        head, _, rest = request.partition(b"\r\n\r\n")
        first, *sent = head.split(b"\r\n")
        assert first == f"{method} {path.partition('#')[0] or '/'} HTTP/1.1".encode()
        assert (set(sent), len(sent), rest) == (expected, len(expected), body or b"")
