"""What an answer is, byte by byte. All of it comes after the request was sent."""

import gzip
import re
import zlib
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from pipeline.canvas.bodies import BODY_BYTES_MAX
from pipeline.canvas.transport import Transport
from tests.canvas.transport.server import CLOSE, RESET, Script, Server, serving

ID = "/PaymentNotice/1"
HEAD = b"HTTP/1.1 201 Created\r\nLocation: /PaymentNotice/1\r\n"
EMPTY = HEAD + b"Content-Length: 0\r\n\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
NEXT = b"HTTP/1.1 201 Created\r\nLocation: /PaymentNotice/2\r\nContent-Length: 0\r\n\r\n"
LOST = (None, None, b"", "disconnected")
CREATED = (201, ID, b"", "")
WITH_BODY = (201, ID, b"body", "")
CUT = (201, ID, b"", "body")
HUGE = b"x" * BODY_BYTES_MAX


def headed(*lines: bytes) -> bytes:
    return b"\r\n".join([b"HTTP/1.1 201 Created", *lines, b"Content-Length: 0", b"", b""])


def encoded(encoding: bytes, body: bytes) -> bytes:
    return (
        HEAD + b"Content-Encoding: %s\r\nContent-Length: %d\r\n\r\n" % (encoding, len(body)) + body
    )


def in_chunks(body: bytes) -> bytes:
    return b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"


ANSWERS: dict[str, tuple[Script, tuple[Any, ...]]] = {
    "no body": ([EMPTY], CREATED),
    "a body of a length": ([HEAD + b"Content-Length: 4\r\n\r\nbody"], WITH_BODY),
    "byte by byte": ([bytes([byte]) for byte in HEAD + b"Content-Length: 4\r\n\r\nbody"], WITH_BODY),
    "chunks": ([CHUNKED + b"2\r\nbo\r\n2;x=y\r\ndy\r\n0\r\n\r\n"], WITH_BODY),
    "chunks one by one": ([CHUNKED, b"2\r\nbo\r\n", b"2\r\ndy\r", b"\n0\r\n", b"\r\n"], WITH_BODY),
    "a trailer is no header": (
        [
            b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nLocation: /PaymentNotice/9\r\n\r\n"
        ],
        (201, None, b"body", ""),
    ),
    "a body until the end": ([HEAD + b"\r\nbo", b"dy", CLOSE], WITH_BODY),
    "HTTP/1.0": ([HEAD.replace(b"1.1", b"1.0") + b"\r\nbody", CLOSE], WITH_BODY),
    "a coding until the end": ([HEAD + b"Transfer-Encoding: gzip\r\n\r\nbody", CLOSE], WITH_BODY),
    "no encoding": ([encoded(b"identity", b"body")], WITH_BODY),
    "gzip that was not asked for": ([encoded(b"gzip", gzip.compress(b"body"))], WITH_BODY),
    "x-gzip in capitals": ([encoded(b"X-GZIP", gzip.compress(b"body"))], WITH_BODY),
    "gzip in chunks": ([CHUNKED[:-2] + b"Content-Encoding: gzip\r\n\r\n", in_chunks(gzip.compress(b"body"))], WITH_BODY),
    "gzip of nothing": ([encoded(b"gzip", b"")], CREATED),
    "gzip as long as may be": ([encoded(b"gzip", gzip.compress(HUGE))], (201, ID, HUGE, "")),
    "gzip too long": ([encoded(b"gzip", gzip.compress(HUGE + b"x"))], CUT),
    "a bomb": ([encoded(b"gzip", gzip.compress(b"x" * 200_000_000))], CUT),
    "gzip that is cut": ([encoded(b"gzip", gzip.compress(b"body")[:-4])], CUT),
    "gzip and more": ([encoded(b"gzip", gzip.compress(b"body") + b"more")], CUT),
    "no gzip": ([encoded(b"gzip", b"body")], CUT),
    "deflate": ([encoded(b"deflate", zlib.compress(b"body"))], CUT),
    "gzip twice": ([encoded(b"gzip, gzip", gzip.compress(gzip.compress(b"body")))], CUT),
    "204": ([b"HTTP/1.1 204 No Content\r\n\r\n"], (204, None, b"", "")),
    "304 with a length": (
        [b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"],
        (304, None, b"", ""),
    ),
    "a redirect is not followed": (
        [b"HTTP/1.1 307 Moved\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"],
        (307, "http://127.0.0.1:1/", b"", ""),
    ),
    "100 first": ([b"HTTP/1.1 100 Continue\r\n\r\n", EMPTY], CREATED),
    "100 in one go": ([b"HTTP/1.1 100 Continue\r\n\r\n" + EMPTY], CREATED),
    "early hints are no answer": (
        [b"HTTP/1.1 103 Early Hints\r\nLocation: /PaymentNotice/9\r\n\r\n", EMPTY],
        CREATED,
    ),
    "only early hints": (
        [b"HTTP/1.1 103 Early Hints\r\nLocation: /PaymentNotice/9\r\n\r\n", CLOSE],
        LOST,
    ),
    "101": ([b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", CLOSE], (101, None, b"", "")),
    "an odd status": (
        [b"HTTP/1.1 799 Odd\r\nContent-Length: 0\r\n\r\n"],
        (799, None, b"", ""),
    ),
    "no reason": ([b"HTTP/1.1 201\r\nContent-Length: 0\r\n\r\n"], (201, None, b"", "")),
    "lines that end in LF": ([EMPTY.replace(b"\r\n", b"\n")], CREATED),
    "names in any case": ([headed(b"LOCATION: /PaymentNotice/1")], CREATED),
    "blanks around a value": ([headed(b"Location: \t /PaymentNotice/1 \t ")], CREATED),
    "no blank before it": ([headed(b"Location:/PaymentNotice/1")], CREATED),
    "two of a kind": (
        [headed(b"Location: /PaymentNotice/1", b"Location: /x")],
        (201, "/PaymentNotice/1, /x", b"", ""),
    ),
    "not ASCII": ([headed("Location: /é".encode())], (201, "/é", b"", "")),
    "not UTF-8": ([headed(b"Location: /\xe9")], (201, "/\udce9", b"", "")),
    "a NUL": ([headed(b"Location: /Payment\0Notice/1")], LOST),
    "a blank before the colon": ([headed(b"Location : /PaymentNotice/1")], LOST),
    "two lengths": ([headed(b"Content-Length: 4") + b"body"], LOST),
    "two equal lengths": ([headed(b"Content-Length: 0")], LOST),
    "a length and chunks": ([headed(b"Transfer-Encoding: chunked") + b"0\r\n\r\n"], LOST),
    "a length below zero": ([HEAD + b"Content-Length: -1\r\n\r\n"], LOST),
    "a length beyond 64 bits": ([HEAD + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n"], LOST),
    "a length that is no number": ([HEAD + b"Content-Length: 0x4\r\n\r\nbody"], LOST),
    "HTTP/2": ([b"HTTP/2 201 Created\r\n\r\n", CLOSE], LOST),
    "another protocol": ([b"SSH-2.0-OpenSSH\r\n", CLOSE], LOST),
    "a page without a head": ([b"<html></html>", CLOSE], LOST),
    "a status of two digits": ([b"HTTP/1.1 20 OK\r\n\r\n", CLOSE], LOST),
    "a status of four": ([b"HTTP/1.1 2010 Created\r\n\r\n", CLOSE], LOST),
    "nothing": ([CLOSE], LOST),
    "nothing, reset": ([RESET], LOST),
    "cut in the status": ([b"HTTP/1.1 20", CLOSE], LOST),
    "cut after the first line": ([b"HTTP/1.1 201 Created\r\n", CLOSE], LOST),
    "cut in the id": ([HEAD[:-3], CLOSE], LOST),
    "cut in the id, reset": ([HEAD[:-3], 0.02, RESET], LOST),
    "cut after the id": ([HEAD, CLOSE], LOST),
    "cut before the body": ([HEAD + b"Content-Length: 4\r\n\r\n", CLOSE], CUT),
    "cut in the body": ([HEAD + b"Content-Length: 4\r\n\r\nbod", CLOSE], CUT),
    "cut in the body, reset": ([HEAD + b"Content-Length: 4\r\n\r\nbod", 0.02, RESET], CUT),
    "cut in a chunk": ([CHUNKED + b"4\r\nbod", CLOSE], CUT),
    "cut between chunks": ([CHUNKED + b"4\r\nbody\r\n", CLOSE], CUT),
    "cut before the trailers": ([CHUNKED + b"4\r\nbody\r\n0\r\n", CLOSE], CUT),
    "a value as long as may be": ([headed(b"Location: /PaymentNotice/1", b"X: " + b"x" * 8190)], CREATED),
    "a value too long": ([headed(b"X: " + b"x" * 8191)], LOST),
    "a name too long": ([headed(b"x" * 8191 + b": x")], LOST),
    "a reason too long": ([b"HTTP/1.1 201 " + b"x" * 70_000, 0.02, b"\r\n\r\n"], LOST),
    "as many headers as may be": ([headed(b"Location: /PaymentNotice/1", *[b"X: x"] * 126)], CREATED),
    "a header too many": ([headed(*[b"X: x"] * 128)], LOST),
    "headers without end": ([b"HTTP/1.1 201 Created\r\n"] + [b"X: " + b"x" * 8000 + b"\r\n"] * 300, LOST),
    "a value without end": ([b"HTTP/1.1 201 Created\r\nX: "] + [b"x" * 65_536] * 64, LOST),
    "a body as long as may be": ([HEAD + b"Content-Length: %d\r\n\r\n" % len(HUGE) + HUGE], (201, ID, HUGE, "")),
    "a body too long": ([HEAD + b"Content-Length: %d\r\n\r\n" % (len(HUGE) + 1) + HUGE + b"x"], CUT),
    "a body too long, in chunks": ([CHUNKED] + [b"10000\r\n" + b"x" * 65_536 + b"\r\n"] * 65, CUT),
    "a body too long, until the end": ([HEAD + b"\r\n" + HUGE + b"x", CLOSE], CUT),
    "late": ([5.0, EMPTY], (None, None, b"", "timeout")),
    "a head that stalls": ([HEAD, 5.0], (None, None, b"", "timeout")),
    "a body that stalls": ([HEAD + b"Content-Length: 4\r\n\r\nbo", 5.0], (201, ID, b"", "timeout")),
    "a drip": ([step for byte in EMPTY for step in (bytes([byte]), 0.05)], (None, None, b"", "timeout")),
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
async def test_an_answer_and_the_one_after_it(name: str, serve: Callable[..., Any]) -> None:
    script, expected = ANSWERS[name]
    server = await serve(script, [NEXT])
    async with Transport(0.8 if expected[3] == "timeout" else 20.0, 1) as transport:
        for given in (expected, (201, "/PaymentNotice/2", b"", "")):
            reply = await transport.exchange("POST", f"{server.url}/x", {}, b"sent")
            assert reply.handed_off
            location = reply.headers.get("location")
            assert (reply.status, location, reply.body, reply.problem) == given
    assert len(server.requests) == 2


async def test_what_is_kept_of_the_headers(serve: Callable[..., Any]) -> None:
    kept = {
        "retry-after": "7",
        "date": "Sat, 21 Nov 2026 02:00:00 GMT",
        "content-type": "text/html",
        "fumage-correlation-id": "1",
    }
    lines = [f"{name}: {value}".encode() for name, value in kept.items()]
    server = await serve([headed(b"Server: x", b"Set-Cookie: a=b", *lines)])
    async with Transport(2.0, 1) as transport:
        for _ in range(2):
            reply = await transport.exchange("GET", f"{server.url}/x", {}, None)
            assert reply.headers == kept
    assert b"a=b" not in server.requests[1]


@pytest.mark.parametrize(
    ("encoding", "body", "detail"),
    [
        (b"br", b"body", "it is compressed by br, which was not asked for"),
        (
            b"secret-of-a-patient",
            b"body",
            "it is compressed in an unknown way, which was not asked for",
        ),
        (b"gzip", b"body", "its gzip cannot be read"),
        (b"gzip", gzip.compress(HUGE + b"x"), "it is longer than 4 MiB"),
    ],
)
async def test_a_body_that_cannot_be_read_says_why(
    encoding: bytes, body: bytes, detail: str, serve: Callable[..., Any]
) -> None:
    server = await serve([encoded(encoding, body)])
    async with Transport(2.0, 1) as transport:
        reply = await transport.exchange("GET", f"{server.url}/x", {}, None)
    assert (reply.status, reply.problem, reply.detail) == (201, "body", detail)


# docs/operations.md, "Connections and secrets": what the parser does with these is a limit, and a safe one.
@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ([CHUNKED + b"zz\r\nbody\r\n"], LOST),
        ([CHUNKED + b"2\r\nbo\r\n", 0.02, b"zz\r\n"], (201, ID, b"", "timeout")),
        ([CHUNKED + b"0\r\n" + b"X: x\r\n" * 129 + b"\r\n"], LOST),
        ([HEAD + b"\r\nbody", 0.02, RESET], CUT),
        ([EMPTY + b"surplus"], LOST),
        ([HEAD + b"Connection: close\r\nContent-Length: 0\r\n\r\nsurplus"], LOST),
    ],
)
async def test_a_damaged_answer_is_never_another_one(
    script: Script, expected: tuple[Any, ...], serve: Callable[..., Any]
) -> None:
    server = await serve(script, [NEXT])
    async with Transport(0.3, 1) as transport:
        for given in (expected, (201, "/PaymentNotice/2", b"", "")):
            reply = await transport.exchange("POST", f"{server.url}/x", {}, b"sent")
            location = reply.headers.get("location")
            assert (reply.status, location, reply.body, reply.problem) == given


async def test_no_damaged_answer_names_an_id_that_was_not_sent() -> None:
    await compare(Random(20261121), 150)


async def compare(random: Random, answers: int) -> int:
    """Send damaged answers; return how many of them were taken for a created resource.

    Whatever was damaged: the Location that is read is a header line of the bytes that were sent, and
    an answer that is cut in its head is none.
    """
    created = 0
    server = Server([])
    async with serving(server), Transport(0.5, 1) as transport:
        for _ in range(answers):
            server.scripts = (_damaged(random),)
            sent = b"".join(step for step in server.scripts[0] if isinstance(step, bytes))
            reply = await transport.exchange("POST", f"{server.url}/x", {}, b"sent")
            assert reply.handed_off
            location = reply.headers.get("location")
            if reply.status is None or location is None:
                continue
            # A line may go on in the next one (RFC 9112, 5.2).
            unfolded = re.sub(rb"\r?\n[ \t]+", b" ", sent)
            lines = [line.strip() for line in re.split(rb"\r?\n", unfolded)]
            for each in location.split(", "):
                named = each.encode("utf-8", "surrogateescape")
                assert any(
                    line.lower().startswith(b"location") and line.endswith(named) for line in lines
                ), server.scripts
            assert b"%d" % reply.status in sent
            created += 1
    return created


def _damaged(random: Random) -> Script:
    """An answer of the table with a few bytes changed, left out or doubled, in pieces, then the end."""
    scripts = [script for script, _ in ANSWERS.values() if 5.0 not in script]
    whole = b"".join(step for step in random.choice(scripts) if isinstance(step, bytes))[:2000]
    damaged = bytearray(whole)
    for _ in range(random.randrange(4)):
        place = random.randrange(len(damaged) + 1)
        damaged[place : place + random.randrange(3)] = random.choice(
            [b"", b"\r", b"\n", b"\r\n", b":", b" ", b"0", b"\0", random.randbytes(2), damaged[place : place + 20]]
        )  # fmt: skip
    cuts = sorted(random.randrange(len(damaged) + 1) for _ in range(random.randrange(3)))
    pieces = [
        bytes(damaged[start:end])
        for start, end in zip([0, *cuts], [*cuts, len(damaged)], strict=True)
    ]
    steps: list[bytes | float | str] = []
    for piece in pieces:
        steps += [piece, 0.001]
    return [*steps, random.choice([CLOSE, RESET])]
