"""Answers of any kind: bounded in memory and time, and each in its class.

A server that says what it likes, byte by byte, over a real socket; the real client asks. What counts
is that nothing raises but what stops a run on purpose, and that a write is never called refused or
not applied where it may have happened (docs/guarantees.md, "The four classes of an answer to a POST").
"""

import asyncio
import contextlib
import gzip
import json
import random
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline.canvas.auth import Credentials
from pipeline.canvas.client import Client, Options, transport_of
from pipeline.canvas.judge import Backoff, Judgement, http_date, judge_create, judge_update
from pipeline.canvas.limiter import Limiter
from pipeline.canvas.server_clock import ServerClock
from pipeline.canvas.transport import Reply
from pipeline.clock import SystemClock
from pipeline.errors import CanvasError, IngestError, SearchFailed
from pipeline.fhir.coverage import coverage_changes, coverage_differences, is_like, match_key
from pipeline.fhir.datatypes import is_id
from pipeline.fhir.outcome import issues_of
from pipeline.fhir.payment_notice import paid
from pipeline.records import Exchange, Verdict

ID = "a7c6af04-a22f-47bf-9cc8-d41158b2ad62"
HOST = "127.0.0.1"
TOKEN = "made-up-token-of-this-test"
CREATED = f"HTTP/1.1 201 Created\r\nLocation: /PaymentNotice/{ID}\r\n".encode()
OUTCOME = {
    "resourceType": "OperationOutcome",
    "issue": [{"code": "business-rule", "details": {"text": "Too much"}}],
}
DEEP = b'{"resourceType":"OperationOutcome","issue":' + b"[" * 100_000
TIMEOUT_S = 0.5

Talk = Callable[[asyncio.StreamWriter], Awaitable[None]]  # what goes back for one request


class Liar:
    """A server on loopback that answers whatever the test says; it keeps the heads that it was sent."""

    def __init__(self, *answers: bytes | Talk) -> None:
        self.answers = list(answers)  # one a request; the last one for all that follow
        self.heads: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = [line for line in head.lower().split(b"\r\n") if b"content-length" in line]
            await reader.readexactly(int(length[0].split(b":")[1]) if length else 0)
            self.heads.append(head)
            answer = self.answers[0] if len(self.answers) == 1 else self.answers.pop(0)
            if isinstance(answer, bytes):
                writer.write(answer)
                await writer.drain()
            else:
                await answer(writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has heard enough
        finally:
            writer.close()


@asynccontextmanager
async def asked(liar: Liar, timeout_s: float = TIMEOUT_S) -> AsyncIterator[Client]:
    """A client of that server, with a token."""
    server = await asyncio.start_server(liar.serve, HOST, 0)
    url = f"http://{HOST}:{server.sockets[0].getsockname()[1]}"
    options = Options(
        url,
        Credentials(url + "/auth/token/", token=TOKEN),
        rate_per_s=1_000.0,
        timeout_s=timeout_s,
        backoff=Backoff(0.001, 0.001),
    )
    try:
        async with transport_of(options) as transport:
            yield Client(options, transport, SystemClock(), random.Random(1))
    finally:
        server.close()


async def created(client: Client) -> tuple[Exchange, Judgement]:
    return await client.create(await client.permit(), "PaymentNotice", b'{"made":"up"}')


async def judged(answer: bytes | Talk) -> tuple[Exchange, Judgement]:
    async with asked(Liar(answer)) as client:
        return await created(client)


def whole(status: str, body: bytes = b"", *headers: str) -> bytes:
    length = f"Content-Length: {len(body)}"
    lines = [f"HTTP/1.1 {status}", *headers, length, "Connection: close", "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


@asynccontextmanager
async def bounded(mib: float = 32.0) -> AsyncIterator[None]:
    """Memory at its peak is bounded, and it ends: some of the bodies below have no end."""
    tracemalloc.start()
    try:
        async with asyncio.timeout(60):
            yield
        assert tracemalloc.get_traced_memory()[1] < mib * 2**20
    finally:
        tracemalloc.stop()


# Bodies -------------------------------------------------------------------------------------------

TEXT = json.dumps(OUTCOME)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"null", id="null"),
        pytest.param(b"[]", id="array"),
        pytest.param(b"<html>", id="html"),
        pytest.param(bytes(range(256)), id="any bytes"),
        pytest.param(b"\0" * 1000, id="nuls"),
        pytest.param(TEXT.encode("utf-16"), id="utf-16"),
        pytest.param(b"\xef\xbb\xbf" + TEXT.encode(), id="byte order mark"),
        pytest.param(TEXT.replace("Too", "Für").encode("latin-1"), id="latin-1"),
        pytest.param(DEEP, id="deep"),
        pytest.param(b'{"issue":NaN}', id="nan"),
        pytest.param(b'{"resourceType":"OperationOutcome","issue":[1,null,[],{}]}', id="issues"),
        pytest.param(b'{"issue":' + b"9" * 100_000 + b"}", id="huge integer"),
        pytest.param(gzip.compress(TEXT.encode()), id="gzip that is not named"),
    ],
)
async def test_a_body_never_changes_the_class_of_an_answer(body: bytes) -> None:
    location = f"Location: /PaymentNotice/{ID}"
    _, judgement = await judged(whole("201 Created", body, location))
    assert (judgement.verdict, judgement.resource_id) == (Verdict.ACCEPTED, ID)
    _, judgement = await judged(whole("422 Unprocessable", body))
    assert judgement.verdict is Verdict.REFUSED
    _, judgement = await judged(whole("500 Error", body))
    assert judgement.verdict is Verdict.LOST
    _, judgement = await judged(whole("403 Forbidden", body))
    is_outcome = bool(issues_of(body))
    assert judgement.verdict is (Verdict.REFUSED if is_outcome else Verdict.LOST)
    assert (judgement.stop is None) is is_outcome


async def test_of_keys_twice_in_an_outcome_the_last_one_counts_and_nothing_else() -> None:
    twice = TEXT.replace('"code"', '"code": "invalid", "code"').encode()
    _, judgement = await judged(whole("422 Unprocessable", twice))
    assert (judgement.rule, judgement.message) == ("canvas|business-rule", "Too much")


def test_what_is_taken_over_of_an_outcome_is_bounded_and_shows_on_a_terminal_as_it_is() -> None:
    text = "\x1b[2J\u202e\u2066\u200b\x9b31m" + "long" * 1_000
    issue = {"code": "\x1b]0;x" + "y" * 500, "details": {"text": text}}
    body = json.dumps({**OUTCOME, "issue": [issue] * 20_000}).encode()
    judgement = judge_create(Reply(422, {}, body, True, 0.1), "Coverage", HOST, proven=True)
    assert judgement.rule == "canvas|unknown"
    assert len(judgement.message) < 6_000
    assert judgement.message.isprintable()


async def test_a_body_without_end_is_read_no_further_than_its_bound() -> None:
    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(CREATED + b"\r\n")
        while True:
            writer.write(b"x" * 2**20)
            await writer.drain()

    async with bounded():
        exchange, judgement = await judged(endless)
    assert exchange.problem == "body"
    assert judgement.verdict is Verdict.ACCEPTED, "its id had come by then"


@pytest.mark.parametrize("encodings", ["gzip", "gzip, gzip", "deflate", "br", "zstd", "x, y"])
async def test_a_compressed_bomb_is_not_unpacked(encodings: str) -> None:
    bomb = gzip.compress(b" " * (64 * 2**20))
    if "," in encodings:
        bomb = gzip.compress(bomb)
    if encodings == "deflate":
        bomb = zlib.compress(b" " * (64 * 2**20))
    answer = whole("200 OK", bomb, f"Content-Encoding: {encodings}", "Transfer-Encoding-Odd: x")
    async with bounded(), asked(liar := Liar(answer)) as client:
        with pytest.raises(
            SearchFailed, match=r"200, and the body cannot be read: it is (compressed|longer)"
        ):
            await client.search("Coverage", "patient", "Patient/x")
    assert b"Accept-Encoding: identity\r\n" in liar.heads[0]


async def test_a_search_in_gzip_that_was_not_asked_for_is_read() -> None:
    """Such searches left every doubt open: a gateway compressed each answer."""
    found = {"resourceType": "Coverage", "id": ID}
    bundle = {"resourceType": "Bundle", "entry": [{"resource": found}]}
    body = gzip.compress(json.dumps(bundle).encode())
    answer = whole("200 OK", body, "Content-Encoding: gzip")
    async with asked(Liar(answer)) as client:
        assert await client.search("Coverage", "patient", "Patient/x") == [found]


async def test_a_refusal_in_gzip_is_read() -> None:
    answer = whole("422 X", gzip.compress(TEXT.encode()), "Content-Encoding: gzip")
    _, judgement = await judged(answer)
    assert (judgement.verdict, judgement.message) == (Verdict.REFUSED, "Too much")


# Framing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"", "disconnected"),
        (b"\0\0\0\0\r\n\r\n", "disconnected"),
        (b"SSH-2.0-OpenSSH_9.9\r\n", "disconnected"),
        (b"<html>HTTP/0.9</html>", "disconnected"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "disconnected"),
        (b"HTTP/1.1 201\r\n", "disconnected"),
        (b"HTTP/1.1 2O1 Created\r\n\r\n", "disconnected"),
        (b"HTTP/1.1 99999 Created\r\n\r\n", "disconnected"),
        (b"HTTP/1.1 -201 Created\r\n\r\n", "disconnected"),
        (CREATED + b"Content-Length: -1\r\n\r\n", "disconnected"),
        (CREATED + b"Content-Length: 1e3\r\n\r\n", "disconnected"),
        (CREATED + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx", "disconnected"),
        (CREATED + b"No colon\r\n\r\n", "disconnected"),
        (CREATED + b"X: " + b"x" * 2**20 + b"\r\n\r\n", "disconnected"),
        (CREATED + b"X\0Y: z\r\n\r\n", "disconnected"),
    ],
)
async def test_what_is_no_http_is_lost(answer: bytes, problem: str) -> None:
    async with bounded():
        exchange, judgement = await judged(answer)
    assert exchange.problem == problem
    assert judgement.verdict is Verdict.LOST


@pytest.mark.parametrize(
    "rest",
    [
        pytest.param(b"Content-Length: 99999999999\r\n\r\nshort", id="too long a length"),
        pytest.param(b"Content-Length: 1\r\n\r\nmore than that", id="too short a length"),
        pytest.param(b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n", id="no length of a chunk"),
        pytest.param(b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFFF\r\n", id="huge chunk"),
        pytest.param(b"Transfer-Encoding: chunked\r\n\r\n4\r\nnul", id="a chunk cut short"),
        pytest.param(
            b"Transfer-Encoding: chunked\r\n\r\n4;a=b\r\nnull\r\n0\r\nLocation: /PaymentNotice/other\r\n\r\n",
            id="trailers",
        ),
        pytest.param(b"Transfer-Encoding: gzip\r\n\r\n\x1f\x8b", id="another transfer encoding"),
    ],
)
async def test_a_body_that_is_cut_or_misframed_takes_nothing_back(rest: bytes) -> None:
    """The id had come; where head and body arrive as one, a parser may see the fault first.

    A trailer is no header, and is not asked.
    """

    async def head_first(writer: asyncio.StreamWriter) -> None:
        head, _, body = rest.partition(b"\r\n\r\n")
        writer.write(CREATED + head + b"\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(body)

    _, judgement = await judged(head_first)
    assert (judgement.verdict, judgement.resource_id) == (Verdict.ACCEPTED, ID)
    _, judgement = await judged(CREATED + rest)
    assert judgement.verdict in {Verdict.ACCEPTED, Verdict.LOST}
    assert judgement.resource_id in {ID, ""}


async def test_a_length_and_chunks_at_once_are_never_taken_for_a_refusal() -> None:
    both = b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nnull\r\n0\r\n\r\n"
    _, judgement = await judged(CREATED + both)
    assert judgement.verdict in {Verdict.ACCEPTED, Verdict.LOST}


async def test_a_flood_of_provisional_answers_ends_with_the_time_of_a_request() -> None:
    async def flood(writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 100)
            await writer.drain()

    async with bounded(mib=64):
        exchange, judgement = await judged(flood)
    assert judgement.verdict is Verdict.LOST
    assert exchange.problem in {"timeout", "disconnected"}


async def test_provisional_answers_before_the_real_one_are_passed_over() -> None:
    early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\nLocation: /x\r\n\r\n"
    _, judgement = await judged(early + CREATED + b"Content-Length: 0\r\n\r\n")
    assert judgement.resource_id == ID


async def test_headers_without_end_are_given_up() -> None:
    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(CREATED)
        while True:
            writer.write(b"X-More: and more\r\n" * 100)
            await writer.drain()

    async with bounded():
        _, judgement = await judged(endless)
    assert judgement.verdict is Verdict.LOST


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        pytest.param(b"HTTP/1.1 201 ", Verdict.LOST, id="a first line"),
        pytest.param(CREATED + b"X: ", Verdict.LOST, id="a head"),
        pytest.param(CREATED + b"\r\n", Verdict.ACCEPTED, id="a body"),
    ],
)
async def test_a_slow_drip_ends_with_the_time_of_a_request(text: bytes, verdict: Verdict) -> None:
    """A byte now and then would keep a timeout of single reads from ever coming."""

    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(text)
        for byte in b"x" * 100_000:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(TIMEOUT_S / 10)

    async with bounded():
        exchange, judgement = await judged(drip)
    assert exchange.problem == "timeout"
    assert judgement.verdict is verdict


# Redirects ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 305, 307, 308])
@pytest.mark.parametrize("where", ["same origin", "foreign", "another scheme", "no address"])
async def test_a_redirect_is_lost_and_never_followed(status: int, where: str) -> None:
    foreign = Liar(whole("201 Created", b"", f"Location: /PaymentNotice/{ID}"))
    server = await asyncio.start_server(foreign.serve, HOST, 0)
    port = server.sockets[0].getsockname()[1]
    location = {
        "same origin": f"/PaymentNotice/{ID}",
        "foreign": f"http://localhost:{port}/PaymentNotice",
        "another scheme": f"https://{HOST}:{port}/PaymentNotice",
        "no address": "\\\\x",
    }[where]
    liar = Liar(whole(f"{status} Moved", b"", f"Location: {location}"))
    async with server, asked(liar) as client:
        _, judgement = await created(client)
    assert judgement.verdict is Verdict.LOST
    assert len(liar.heads) == 1
    assert not foreign.heads, "nor is the token sent there"


async def test_a_token_endpoint_that_redirects_gets_the_secret_once_and_no_other_host_does() -> (
    None
):
    foreign = Liar(whole("200 OK", b'{"access_token":"x"}'))
    server = await asyncio.start_server(foreign.serve, HOST, 0)
    port = server.sockets[0].getsockname()[1]
    liar = Liar(whole("307 Moved", b"", f"Location: http://{HOST}:{port}/auth/token/"))
    async with server, asked(liar) as client:
        url = client._options.base_url
        client._tokens._credentials = Credentials(url + "/t/", "made-up", "made-up")
        client._tokens._renew_at_s = float("-inf")
        with pytest.raises(CanvasError, match="redirect \\(HTTP 307\\)"):
            await client.sign_in()
    assert (len(liar.heads), len(foreign.heads)) == (1, 0)


# Locations ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param((), id="none"),
        pytest.param(("Location:",), id="empty"),
        pytest.param((f"Location: /PaymentNotice/{ID}", "Location: /PaymentNotice/b"), id="two"),
        pytest.param((f"Location: /PaymentNotice/a, /PaymentNotice/{ID}",), id="two in one"),
        pytest.param((rf"Location: http://evil.example\@{HOST}/PaymentNotice/{ID}",), id="slash"),
        pytest.param((f"Location: http://[{HOST}/PaymentNotice/{ID}",), id="bracket"),
        pytest.param((f"Location: /Coverage/{ID}",), id="another type"),
        pytest.param(("Location: /PaymentNotice/..",), id="dots"),
        pytest.param(("Location: /PaymentNotice/%2e%2e",), id="dots in per cent"),
        pytest.param(("Location: /PaymentNotice/\xff",), id="latin-1"),
        pytest.param((f"Location: /PaymentNotice/{'a' * 65}",), id="too long"),
    ],
)
async def test_a_create_whose_id_cannot_be_trusted_is_lost_and_never_refused(
    headers: tuple[str, ...],
) -> None:
    _, judgement = await judged(whole("201 Created", b"", *headers))
    assert (judgement.verdict, judgement.rule) == (Verdict.LOST, "canvas|no-id")


@pytest.mark.parametrize(
    "location",
    [
        pytest.param("https://evil.example", id="foreign"),
        pytest.param("//evil.example", id="foreign, no scheme"),
        pytest.param("http://EVIL.example:8443/fhir", id="port and path"),
        pytest.param(f"http://{HOST}@evil.example", id="user"),
    ],
)
async def test_a_location_on_a_host_that_is_not_listed_is_lost_and_names_the_host(
    location: str,
) -> None:
    answer = whole("201 Created", b"", f"Location: {location}/PaymentNotice/{ID}")
    _, judgement = await judged(answer)
    assert (judgement.verdict, judgement.rule) == (Verdict.LOST, "canvas|location-host")
    assert "the host evil.example, which is not in canvas.location_hosts" in judgement.message
    assert judgement.stop is None, "one alone may be a stray answer"


@pytest.mark.parametrize(
    "host",
    [
        pytest.param(f"{HOST}.evil-\xe9.example", id="not ASCII"),
        pytest.param("a" * 64 + ".example", id="long label"),
        pytest.param(".".join(["a" * 60] * 5), id="long name"),
        pytest.param("evil.example;[31m", id="escape"),
        pytest.param("[::ffff:7f00:1]", id="address"),
    ],
)
async def test_a_host_that_is_no_plain_name_is_never_printed(host: str) -> None:
    async with asked(
        Liar(whole("201 Created", b"", f"Location: http://{host}/PaymentNotice/{ID}"))
    ) as client:
        judgements = [(await created(client))[1] for _ in range(3)]
    assert all(judgement.verdict is Verdict.LOST for judgement in judgements)
    printed = "".join(f"{judgement.message} {judgement.stop}" for judgement in judgements)
    assert host.strip("[]") not in printed


@pytest.mark.parametrize("host", ["evil.example", "EVIL.example"])
async def test_a_next_page_on_a_host_that_is_not_listed_names_the_host(host: str) -> None:
    link = {"relation": "next", "url": f"https://{host}/PaymentNotice?request=Patient/a&_offset=1"}
    body = json.dumps({"resourceType": "Bundle", "entry": [], "link": [link]}).encode()
    async with asked(Liar(whole("200 OK", body))) as client:
        with pytest.raises(SearchFailed, match=r"the host evil\.example, which is not in canvas"):
            await client.of_patient("PaymentNotice", "a")


# Searches -----------------------------------------------------------------------------------------


def notice(number: int = 0, **other: Any) -> dict[str, Any]:
    return {"resourceType": "PaymentNotice", "id": f"n-{number}", **other}


def bundle(*resources: Any, after: Any = None, **other: Any) -> bytes:
    content = {
        "resourceType": "Bundle",
        "entry": [{"resource": each} for each in resources],
        "link": [{"relation": "next", "url": after}] if after is not None else [],
        **other,
    }
    return whole("200 OK", json.dumps(content).encode())


async def searched(*answers: bytes | Talk) -> tuple[list[dict[str, Any]], Liar]:
    liar = Liar(*answers)
    async with asked(liar, timeout_s=30.0) as client:  # whole answers: only a busy machine is slow
        return await client.search("PaymentNotice", "request", "Patient/x"), liar


@pytest.mark.parametrize(
    "after",
    [
        pytest.param("https://evil.example/PaymentNotice?a=b", id="foreign"),
        pytest.param("//evil.example/PaymentNotice?a=b", id="foreign, no scheme"),
        pytest.param(f"http://{HOST}@evil.example/PaymentNotice?a=b", id="user"),
        pytest.param("https://127.0.0.1.evil.example/PaymentNotice?a=b", id="alike"),
        pytest.param("http://[::1/PaymentNotice?a=b", id="bracket"),
        pytest.param("/Coverage?a=b", id="another type"),
        pytest.param("javascript:alert(1)", id="no page"),
        pytest.param("/PaymentNotice", id="no query"),
        pytest.param("/PaymentNotice?", id="empty query"),
        pytest.param("/PaymentNotice?a=b HTTP/1.1\r\nX: y", id="another request in it"),
        pytest.param("/PaymentNotice?a=\u202e", id="no ascii"),
        pytest.param("/PaymentNotice?a=\0", id="nul"),
        pytest.param("/PaymentNotice?a=" + "b" * 100_000, id="too long"),
        pytest.param("", id="empty"),
        pytest.param(5, id="number"),
        pytest.param({}, id="object"),
        pytest.param(False, id="false"),
    ],
)
async def test_a_next_page_that_is_not_of_this_canvas_is_not_asked_for(after: Any) -> None:
    liar = Liar(bundle(notice(), after=after))
    async with asked(liar) as client:
        with pytest.raises(SearchFailed):
            await client.search("PaymentNotice", "request", "Patient/x")
    assert len(liar.heads) == 1


async def test_a_next_page_without_an_address_is_not_the_last_page() -> None:
    content = {"resourceType": "Bundle", "link": [{"relation": "next", "url": None}]}
    with pytest.raises(SearchFailed):
        await searched(whole("200 OK", json.dumps(content).encode()))


@pytest.mark.parametrize("scheme", ["http", "https", "ftp"])
async def test_the_token_goes_to_the_configured_origin_whatever_the_next_page_says(
    scheme: str,
) -> None:
    """Another scheme or port of the host: only its query is used, on the configured address."""
    after = f"{scheme}://{HOST}:1/fhir/PaymentNotice?page=2"
    found, liar = await searched(bundle(notice(1), after=after), bundle(notice(2)))
    assert [each["id"] for each in found] == ["n-1", "n-2"]
    assert liar.heads[1].startswith(b"GET /PaymentNotice?page=2 HTTP/1.1\r\n")
    assert b"Bearer " + TOKEN.encode() in liar.heads[1]


async def test_pages_in_a_circle_end() -> None:
    one = bundle(notice(1), after="/PaymentNotice?page=2")
    with pytest.raises(SearchFailed, match="has no last page"):
        await searched(bundle(after="/PaymentNotice?page=2"), one)


async def test_ever_new_pages_end() -> None:
    numbers = iter(range(10_000))

    async def ever_new(writer: asyncio.StreamWriter) -> None:
        writer.write(bundle(after=f"/PaymentNotice?page={next(numbers)}"))

    with pytest.raises(SearchFailed, match="has no last page"):
        await searched(ever_new)
    assert next(numbers) == 1_000


async def test_ever_new_pages_of_great_size_end_by_their_bytes() -> None:
    numbers = iter(range(10_000))
    filling = notice(1, note="x" * (4 * 2**20 - 1_000))

    async def ever_new(writer: asyncio.StreamWriter) -> None:
        writer.write(bundle(filling, after=f"/PaymentNotice?page={next(numbers)}"))
        await writer.drain()

    with pytest.raises(SearchFailed, match="has no last page"):
        await searched(ever_new)
    assert next(numbers) < 12, "some 32 MiB, and not 1,000 pages"


@pytest.mark.parametrize("total", [0, 1, 10**30, -1, "many", None, [], 1.5])
async def test_a_total_that_lies_is_not_asked(total: Any) -> None:
    found, _ = await searched(
        bundle(notice(1), after="/PaymentNotice?page=2", total=total), bundle(notice(2))
    )
    assert len(found) == 2


DEEPER = json.loads("[" * 900 + "]" * 900)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"[]", id="array"),
        pytest.param(b'{"resourceType":"OperationOutcome"}', id="another resource"),
        pytest.param(b'{"resourceType":"Bundle","entry":null}', id="null for entries"),
        pytest.param(b'{"resourceType":"Bundle","entry":{"resource":1}}', id="an object for them"),
        pytest.param(b'{"resourceType":"Bundle","entry":"x"}', id="a text for them"),
        pytest.param(b'{"resourceType":"Bundle","entry":[{}]}', id="no resource"),
        pytest.param(b'{"resourceType":"Bundle","entry":[{"resource":null}]}', id="null"),
        pytest.param(b'{"resourceType":"Bundle","entry":[{"resource":[]}]}', id="array inside"),
        pytest.param(b'{"resourceType":"Bundle","link":5}', id="a number for links"),
        pytest.param(b'{"resourceType":"Bundle","link":[{"url":"x"}]}', id="no relation"),
        pytest.param(b'\xef\xbb\xbf{"resourceType":"Bundle"}', id="byte order mark"),
        pytest.param('{"resourceType":"Bundle"}'.encode("utf-16"), id="utf-16"),
        pytest.param(b'{"resourceType":"Bundle","x":NaN}', id="nan"),
        pytest.param(b'{"resourceType":"Bundle","x":1e400}', id="beyond a float"),
        pytest.param(b'{"resourceType":"Bundle","x":"\\ud800"}', id="half a character"),
        pytest.param(b'{"resourceType":"Bundle","x":' + b"[" * 9**5, id="deep"),
        pytest.param(
            json.dumps({"resourceType": "Bundle", "x": DEEPER}).encode(), id="read, and too deep"
        ),
    ],
)
async def test_a_page_that_is_none_is_a_failed_search_and_never_an_empty_one(
    content: bytes,
) -> None:
    with pytest.raises(SearchFailed):
        await searched(whole("200 OK", content))


@pytest.mark.parametrize("given_id", [None, 5, "", "..", "a/b", "a?b", "\x1b[2J", "x" * 65, []])
async def test_a_resource_without_an_id_that_can_be_trusted_fails_the_search(given_id: Any) -> None:
    """It would become part of an address, and be shown to people."""
    with pytest.raises(SearchFailed, match=r"no id|not a valid Bundle"):
        await searched(bundle({**notice(), "id": given_id}))


@pytest.mark.parametrize("answer", [b"", whole("200 OK", DEEP), whole("404 No", DEEP)])
async def test_a_read_that_is_no_answer_is_never_read_as_not_there(answer: bytes) -> None:
    async with asked(Liar(answer)) as client:
        with pytest.raises(SearchFailed):
            await client.look("Coverage", ID)


# What is made of a resource that was read ---------------------------------------------------------

COVERAGE = {
    "resourceType": "Coverage",
    "id": "c-1",
    "status": "active",
    "identifier": [{"value": "M1"}],
    "subscriberId": "M1",
    "subscriber": {"reference": "Patient/p"},
    "beneficiary": {"reference": "Patient/p"},
    "relationship": {"coding": [{"code": "self"}]},
    "period": {"start": "2026-01-01"},
    "payor": [{"reference": "Organization/o"}],
    "class": [
        {"type": {"coding": [{"code": "plan"}]}, "value": "A"},
        {"type": {"coding": [{"code": "plan"}]}, "value": "B"},
    ],
    "order": 1,
}
NOTICE = {
    "resourceType": "PaymentNotice",
    "id": "n-1",
    "status": "active",
    "request": {"reference": "Patient/p"},
    "created": "2026-11-21T02:00:00+00:00",
    "amount": {"value": 12.5, "currency": "USD"},
    "extension": [
        {
            "url": "http://schemas.canvasmedical.com/fhir/copayment-claims",
            "extension": [{"url": "claim", "valueReference": {"reference": "Claim/c"}}],
        }
    ],
}
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
) | st.builds(json.loads, st.just("[" * 240 + "]" * 240))


@st.composite
def spoiled(draw: st.DrawFn, resource: dict[str, Any]) -> dict[str, Any]:
    """The resource with up to three of its parts, at any depth, replaced by anything."""
    content = json.loads(json.dumps(resource))
    for _ in range(draw(st.integers(1, 3))):
        part: Any = content
        while True:
            keys = list(part) if isinstance(part, dict) else list(range(len(part)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(part[key], dict | list) and draw(st.booleans()):
                part = part[key]
                continue
            part[key] = draw(ANYTHING)
            break
    return dict(content)


@given(spoiled(NOTICE))
def test_no_payment_is_read_out_of_what_is_none(resource: dict[str, Any]) -> None:
    found = paid(resource)
    assert found is None or (found.cents >= 0 and isinstance(found.claim, str))


@given(spoiled(COVERAGE), spoiled(COVERAGE))
def test_a_spoiled_coverage_is_compared_without_falling_over(
    shown: dict[str, Any], other: dict[str, Any]
) -> None:
    assert isinstance(is_like(shown, match_key(COVERAGE)), bool)
    assert isinstance(coverage_differences(COVERAGE, shown, {}), tuple)
    assert isinstance(coverage_changes(other, COVERAGE, {}), dict)


# Any answer at all --------------------------------------------------------------------------------

DATES = [
    "Sat, 21 Nov 2026 02:00:00 GMT",
    "Fri, 31 Dec 9999 23:59:59 GMT",
    "Fri, 31 Dec 9999 23:59:59 -2359",
    "Mon, 01 Jan 0001 00:00:00 GMT",
    "Mon, 01 Jan 0001 00:00:00 +2359",
    "Sat, 21 Nov 2026 02:00:00 +999999999",
    "Sat, 21 Nov 99999999999999999999 02:00:00 GMT",
    "Sat, 99 Nov 2026 99:99:99 GMT",
    "1 1 1",
]
VALUES = (
    st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_characters="\x7f"))
    | st.sampled_from(DATES)
    | st.integers().map(str)
    | st.sampled_from([f"/PaymentNotice/{ID}", f"https://evil.example/PaymentNotice/{ID}", "/x"])
)
NAMES = ["Location", "Retry-After", "Date", "Content-Type", "fumage-correlation-id", "X-Other"]
BODIES = (
    st.binary(max_size=200)
    | ANYTHING.map(lambda value: json.dumps(value).encode())
    | ANYTHING.map(lambda value: json.dumps({**OUTCOME, "issue": [value]}).encode())
    | spoiled(OUTCOME).map(lambda value: json.dumps(value).encode())
)
HEADERS = st.lists(st.tuples(st.sampled_from(NAMES), VALUES), max_size=6)
MAY_BE_REFUSED = {400, 403, 404, 405, 406, 411, 413, 414, 415, 422}


def holds(status: int | None, judgement: Judgement, *, proven: bool, handed_off: bool) -> None:
    """What must be true of the class of any answer to a create."""
    verdict = judgement.verdict
    assert (verdict is Verdict.ACCEPTED) is bool(judgement.resource_id)
    if verdict is Verdict.ACCEPTED:
        assert status == 201
        assert is_id(judgement.resource_id)
    elif verdict is Verdict.REFUSED:
        assert status in MAY_BE_REFUSED
    elif verdict is Verdict.NOT_APPLIED:
        assert not handed_off or status in {401, 429} or (status in {404, 405} and not proven)
    else:
        assert verdict is Verdict.LOST
    assert judgement.rule or verdict is Verdict.ACCEPTED
    assert len(judgement.rule) < 100
    assert len(judgement.message) < 10_000


@settings(max_examples=500)
@given(
    st.none() | st.integers(100, 599),
    st.dictionaries(st.sampled_from([name.lower() for name in NAMES]), VALUES | st.text()),
    BODIES,
    st.booleans(),
    st.booleans(),
)
@example(201, {"location": f"/PaymentNotice/{ID}", "date": DATES[1]}, b"", True, True)
def test_any_reply_has_one_verdict(
    status: int | None, headers: dict[str, str], body: bytes, handed_off: bool, proven: bool
) -> None:
    handed_off = handed_off or status is not None
    reply = Reply(status, headers, body, handed_off, 0.1, "" if status else "timeout")
    judgement = judge_create(reply, "PaymentNotice", HOST, proven=proven)
    holds(status, judgement, proven=proven, handed_off=handed_off)
    updated = judge_update(reply, ID, proven=proven)
    assert updated.verdict in Verdict
    if status is not None and 200 <= status < 300:
        assert judgement.verdict in {Verdict.ACCEPTED, Verdict.LOST}
        assert updated.verdict in {Verdict.ACCEPTED, Verdict.LOST}


@given(st.sampled_from(DATES) | st.text(), st.sampled_from(DATES) | st.text())
@example(DATES[1], DATES[3])
@example(DATES[2], DATES[4])
def test_no_date_of_a_server_ends_a_run(one: str, other: str) -> None:
    clock, now = ServerClock(), datetime(2026, 11, 21, 2, tzinfo=UTC)
    for text in (one, other):
        clock.hear(text, now, now)
        at = http_date(text)
        assert at is None or at.astimezone(UTC).year > 1990
        assert clock.latest(now) is None or clock.earliest(now) is not None


def test_any_answer_over_a_socket_has_one_verdict() -> None:
    """The same over the real transport: any status, headers and body, well framed or not."""
    with asyncio.Runner() as runner:
        liar = Liar()
        context = asked(liar)
        client = runner.run(context.__aenter__())

        @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(st.integers(100, 599), HEADERS, BODIES, st.integers(-3, 3), st.binary(max_size=20))
        @example(201, [("Date", DATES[1]), ("Location", f"/PaymentNotice/{ID}")], b"", 0, b"")
        @example(429, [("Retry-After", DATES[1]), ("Date", DATES[3])], b"", 0, b"")
        def check(
            status: int, headers: list[tuple[str, str]], body: bytes, off: int, surplus: bytes
        ) -> None:
            lines = [f"{name}: {value}".encode("latin-1", "replace") for name, value in headers]
            lines = [b"HTTP/1.1 %d x" % status, *lines, b"Content-Length: %d" % (len(body) + off)]
            liar.answers = [b"\r\n".join([*lines, b"", b""]) + body + surplus]
            assert isinstance(client._limiter, Limiter)
            client._limiter._paused_until_s = float("-inf")  # it would wait as it was told to
            client._tokens._refused, client._tokens._renew_at_s = 0, float("inf")
            client._pauses, client._free_s = 0, client._clock.monotonic()
            proven = "PaymentNotice" in client.proven
            exchange, judgement = runner.run(created(client))
            holds(exchange.http_status, judgement, proven=proven, handed_off=True)
            assert exchange.correlation_id.isascii()

        check()
        runner.run(context.__aexit__(None, None, None))


async def test_any_answer_to_a_question_is_an_error_of_ours_or_a_resource() -> None:
    """Each question that the client knows, put to servers that answer nonsense of their own."""
    answers = [
        whole("200 OK", body)
        for body in (
            b"",
            b"5",
            b"[]",
            b"{}",
            DEEP,
            b'{"resourceType":"CapabilityStatement","fhirVersion":[]}',
            b'{"access_token":5}',
            b'{"access_token":"\\u0000"}',
            b'{"error":[]}',
        )
    ]
    for answer in (*answers, b"", whole("404 No"), whole("302 Found", b"", "Location: /")):
        async with asked(Liar(answer)) as client:
            for ask in (
                client.sign_in,
                client.capabilities,
                lambda known=client: known.probe("Coverage"),
                lambda known=client: known.read("Coverage", ID),
                lambda known=client: known.look("Coverage", ID),
                lambda known=client: known.of_patient("Coverage", "p"),
            ):
                with contextlib.suppress(IngestError):
                    await ask()
