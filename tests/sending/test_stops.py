"""What stops a run, and what does not: blocked rows, tokens, and outages."""

import asyncio
import errno
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import polars as pl
import pytest
from aiohttp import web

from pipeline.canvas.auth import Credentials
from pipeline.canvas.causes import cause
from pipeline.canvas.client import Client, Options, transport_of
from pipeline.canvas.judge import Backoff
from pipeline.clock import SystemClock
from pipeline.commands import run as engine
from pipeline.errors import AuthError, Forbidden, SearchFailed, Stopped, Unreachable, WrongHost
from pipeline.sandbox import Faults
from tests.support.between import LOST, Answer, Asked, Slow, between, outcome, page
from tests.support.certificates import Authority
from tests.support.world import LEDGER_ONLY, MakeWorld, World, patient_key


def write_payments(world: World, count: int, **settings: Any) -> None:
    """Write a ledger of one payment a patient, of 1.00, 2.00 ..., and its configuration."""
    world.write_config(feeds=LEDGER_ONLY, **settings)
    world.write_ledger([(f"T{n}", patient_key(n), f"{n + 1}.00", "") for n in range(count)])


def counts(result: engine.Result) -> dict[str, int]:
    return dict(Counter(result.frame["disposition"]))


# Outages ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("concurrency", "doubts_max"), [(8, 3), (1, 2), (4, 1)])
async def test_few_writes_go_to_a_server_that_answers_reads_and_loses_all_writes(
    make_world: MakeWorld, concurrency: int, doubts_max: int
) -> None:
    world = await make_world(patients=60)

    def lose(asked: Asked) -> Answer:
        return LOST if asked.is_write else None

    async with between(world, lose) as server:
        write_payments(world, 60, concurrency=concurrency, doubts_max=doubts_max)
        result = await world.run()
    assert isinstance(result.failure, Unreachable)
    assert len(server.writes) <= concurrency + doubts_max + 3
    assert set(counts(result)) <= {"created", "in_doubt", "pending"}
    assert len(world.effects) == len(server.writes), "each of another row"
    assert max(Counter(effect["amount"] for effect in world.effects).values()) == 1


async def test_after_an_outage_one_write_goes_first_and_the_others_after_its_answer(
    make_world: MakeWorld,
) -> None:
    world = await make_world(patients=60)

    def lose(asked: Asked) -> Answer:
        return LOST if asked.is_write and asked.number <= 6 else None

    async with between(world, lose) as server:
        write_payments(world, 60, concurrency=4, doubts_max=3, resend_absent="none")
        result = await world.run()
    assert (result.failure, result.exit_code) == (None, 0)
    assert counts(result) == {"created": 60}
    assert len(server.writes) == 60


@pytest.mark.parametrize("status", [422, 429, 401, 403])
async def test_a_run_goes_on_whatever_the_first_write_after_an_outage_is_answered_with(
    make_world: MakeWorld, status: int
) -> None:
    """The probe decides nothing about the row: others must not wait for ever."""
    world = await make_world(patients=40)
    write_payments(world, 40)
    struck = 6 + 4  # lost ones, and what follows them

    def answer(asked: Asked) -> Answer:
        if not asked.is_write or asked.number <= 5 or asked.number > struck:
            return None
        if asked.number <= struck - 1:
            return LOST
        if status == 403:
            return page(403)
        return outcome(status, "business-rule", "No")

    async with between(world, answer):
        write_payments(world, 40, concurrency=1, doubts_max=4)
        async with asyncio.timeout(30):
            result = await world.run()
    assert result.failure is None
    left = 1 if status in {422, 403} else 0
    assert counts(result)["created"] == 40 - left


async def test_a_run_that_is_stopped_while_a_probe_is_open_ends_with_its_answer(
    make_world: MakeWorld,
) -> None:
    world = await make_world(patients=30)
    stop = asyncio.Event()

    def lose(asked: Asked) -> Answer:
        if not asked.is_write or asked.number > 6:
            return None
        if asked.number < 6:
            return LOST
        asyncio.get_running_loop().call_later(0.2, stop.set)
        return Slow(1.0, None)

    async with between(world, lose) as server:
        write_payments(world, 30, concurrency=1, doubts_max=5)
        run = asyncio.create_task(engine.run(world.job(), stop=stop))
        async with asyncio.timeout(20):
            result = await run
    assert result.exit_code == 130
    assert len(server.writes) == 6
    assert counts(result)["pending"] == 24


# Blocked rows -------------------------------------------------------------------------------------


async def test_a_row_that_a_firewall_blocks_is_set_aside_and_the_others_go(
    make_world: MakeWorld,
) -> None:
    world = await make_world(patients=20)

    def block(asked: Asked) -> Answer:
        return page() if asked.is_write and b'"value":8.00' in asked.body else None

    async with between(world, block) as server:
        write_payments(world, 20, concurrency=2)
        result = await world.run()
    assert (result.failure, result.exit_code) == (None, 4)
    assert counts(result) == {"created": 19, "in_doubt": 1}
    (doubt,) = result.frame.filter(pl.col("disposition") == "in_doubt").to_dicts()
    assert (doubt["row"], doubt["rule"]) == (8, "recover|absent")
    assert "blocked: HTTP 403 that is not from the FHIR API" in doubt["message"]
    assert len(server.writes) == 20


async def test_a_firewall_that_blocks_several_rows_in_a_row_stops_the_run(
    make_world: MakeWorld,
) -> None:
    world = await make_world(patients=40)

    def block(asked: Asked) -> Answer:
        return page() if asked.is_write and asked.number > 10 else None

    async with between(world, block) as server:
        write_payments(world, 40, concurrency=2)
        result = await world.run()
    assert isinstance(result.failure, WrongHost)
    assert "127.0.0.1" in result.failure.message
    assert counts(result)["created"] == 10
    assert len(server.writes) <= 10 + 3 + 1
    assert counts(result)["in_doubt"] == len(server.writes) - 10
    assert counts(result)["pending"] == 40 - len(server.writes)


async def test_a_firewall_that_blocks_the_first_row_stops_the_run(make_world: MakeWorld) -> None:
    world = await make_world(patients=20)

    def block(asked: Asked) -> Answer:
        return page() if asked.is_write else None

    async with between(world, block) as server:
        write_payments(world, 20, concurrency=1)
        result = await world.run()
    assert isinstance(result.failure, WrongHost)
    assert counts(result) == {"in_doubt": 1, "pending": 19}
    assert len(server.writes) == 1


async def test_blocked_rows_with_others_between_them_stop_nothing(make_world: MakeWorld) -> None:
    world = await make_world(patients=30)

    def block(asked: Asked) -> Answer:
        return page() if asked.is_write and asked.number % 3 == 0 else None

    async with between(world, block):
        write_payments(world, 30, concurrency=1)
        result = await world.run()
    assert result.failure is None
    assert counts(result) == {"created": 20, "in_doubt": 10}


async def test_a_gateway_that_loses_its_route_refuses_no_rows(make_world: MakeWorld) -> None:
    """A 404 that is not from the FHIR API, for every row after some succeeded."""
    world = await make_world(patients=30)

    def lose_route(asked: Asked) -> Answer:
        return page(404) if asked.is_write and asked.number > 5 else None

    async with between(world, lose_route) as server:
        write_payments(world, 30, concurrency=1)
        result = await world.run()
    assert isinstance(result.failure, WrongHost)
    assert counts(result) == {"created": 5, "pending": 25}
    assert len(server.writes) == 5 + 3


# Tokens -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "text", "repeats"),
    [
        ("expired", "Session over", False),
        ("login", "", False),
        ("forbidden", "The access token has expired", False),
        ("security", "Invalid token", False),
        ("forbidden", "Authorization failed", True),
    ],
)
async def test_a_403_because_of_the_token_gets_a_new_one_and_refuses_no_row(
    make_world: MakeWorld, code: str, text: str, repeats: bool
) -> None:
    world = await make_world(patients=30)
    first: list[str] = []

    def expire(asked: Asked) -> Answer:
        if not asked.is_write:
            return None
        first[:] = first or [asked.token]
        is_over = asked.token == first[0] and asked.number > 8
        return outcome(403, code, text) if is_over else None

    async with between(world, expire) as server:
        write_payments(world, 30, concurrency=2)
        result = await world.run()
    assert (result.failure, result.exit_code) == (None, 0)
    assert counts(result) == {"created": 30}
    assert len(server.tokens) == 2
    assert len(server.writes) <= 30 + (3 if repeats else 1) + 1


async def test_a_row_that_is_not_refused_after_all_may_have_an_equal_one_in_flight(
    make_world: MakeWorld,
) -> None:
    """Two equal payments of a patient: the journal lets no two of them be in flight together."""
    world = await make_world(patients=4)
    first: list[str] = []

    def expire(asked: Asked) -> Answer:
        if not asked.is_write:
            return None
        first[:] = first or [asked.token]
        if asked.token != first[0] or asked.number == 1:
            return None
        is_late = patient_key(3).encode() in asked.body or asked.number > 4
        return Slow(1.0 if is_late else 0.0, outcome(403, "forbidden", "Authorization failed"))

    async with between(world, expire) as server:
        world.write_config(feeds=LEDGER_ONLY, concurrency=3)
        rows = [(0, "1.00"), (1, "5.00"), (1, "5.00"), (2, "6.00"), (3, "7.00")]
        world.write_ledger([(f"T{n}", patient_key(p), a, "") for n, (p, a) in enumerate(rows)])
        result = await world.run()
        again = await world.run()
    assert len(server.tokens) == 3, "one more for the second run"
    assert result.failure is None
    assert set(counts(result)) <= {"created", "pending"}
    assert counts(again).get("unchanged", 0) + counts(again).get("created", 0) == 5
    assert len(world.effects) == 5


async def test_403_for_every_row_with_a_new_token_too_stops_and_refuses_no_row(
    make_world: MakeWorld,
) -> None:
    world = await make_world(patients=40)
    healed: list[bool] = []

    def forbid(asked: Asked) -> Answer:
        is_over = asked.is_write and asked.number > 8 and not healed
        return outcome(403, "forbidden", "Authorization failed") if is_over else None

    async with between(world, forbid) as server:
        write_payments(world, 40, concurrency=2)
        result = await world.run()
        sent, tokens = len(server.writes), len(server.tokens)
        healed.append(True)
        again = await world.run()
    assert isinstance(result.failure, Forbidden)
    assert "with 403 with a new token too (3 patients in a row)" in result.failure.message
    assert counts(result) == {"created": 8, "pending": 32}
    assert tokens == 2
    assert sent <= 8 + 2 * (3 + 1)
    assert counts(again) == {"unchanged": 8, "created": 32}
    assert len(world.effects) == 40


async def test_403_for_the_first_rows_stops_and_refuses_none(make_world: MakeWorld) -> None:
    world = await make_world(patients=20)

    def forbid(asked: Asked) -> Answer:
        return outcome(403, "forbidden", "Authorization failed") if asked.is_write else None

    async with between(world, forbid) as server:
        write_payments(world, 20, concurrency=1)
        result = await world.run()
    assert isinstance(result.failure, Forbidden)
    assert "PaymentNotice.write" in result.failure.fix
    assert counts(result) == {"pending": 20}
    assert (len(server.writes), len(server.tokens)) == (3, 1)


async def test_a_403_of_single_rows_refuses_them(make_world: MakeWorld) -> None:
    world = await make_world(patients=30)

    def forbid(asked: Asked) -> Answer:
        is_forbidden = asked.is_write and asked.number % 3 == 0
        return outcome(403, "forbidden", "Authorization failed") if is_forbidden else None

    async with between(world, forbid) as server:
        write_payments(world, 30, concurrency=1)
        result = await world.run()
    assert (result.failure, result.exit_code) == (None, 3)
    assert counts(result) == {"created": 20, "refused": 10}
    assert len(server.tokens) == 1


async def test_a_token_that_is_valid_only_after_a_moment_is_waited_for(
    make_world: MakeWorld,
) -> None:
    world = await make_world(patients=5)
    began_s = time.monotonic()

    def know(asked: Asked) -> Answer:
        is_early = not asked.is_for_token and time.monotonic() - began_s < 1.5
        return outcome(401, "unknown", "Authentication failed") if is_early else None

    async with between(world, know) as server:
        write_payments(world, 5)
        result = await world.run()
    assert (result.failure, counts(result)) == (None, {"created": 5})
    assert len(server.tokens) <= 4


async def test_tokens_that_are_never_accepted_end_the_run_after_a_bounded_wait(
    make_world: MakeWorld,
) -> None:
    world = await make_world(patients=5)

    def refuse(asked: Asked) -> Answer:
        return None if asked.is_for_token else outcome(401, "unknown", "Authentication failed")

    async with between(world, refuse) as server:
        write_payments(world, 5)
        began_s = time.monotonic()
        result = await world.run()
    assert isinstance(result.failure, AuthError)
    assert counts(result) == {"pending": 5}
    assert (len(server.tokens), len(server.writes)) == (5, 0)
    assert 7.0 <= time.monotonic() - began_s < 12.0


async def test_an_outage_that_takes_the_token_endpoint_along_is_waited_for(
    make_world: MakeWorld,
) -> None:
    """It lasts longer than the five attempts for a first token, which end after 15 s."""
    world = await make_world(patients=20, faults=Faults(token_uses=12))
    down_s: list[float] = []

    def fail(asked: Asked) -> Answer:
        if asked.is_for_token and asked.number == 2 and not down_s:
            down_s.append(time.monotonic())
        return page(503) if down_s and time.monotonic() - down_s[0] < 16.0 else None

    async with between(world, fail):
        write_payments(world, 20, concurrency=2)
        result = await world.run()
    assert (result.failure, counts(result)) == (None, {"created": 20})


async def test_a_token_endpoint_that_answers_201_is_accepted(make_world: MakeWorld) -> None:
    world = await make_world(patients=2)

    def create(asked: Asked) -> Answer:
        if asked.is_for_token:
            return web.json_response({"access_token": "made-up", "expires_in": 60}, status=201)
        bundle = {"resourceType": "Bundle", "type": "searchset"}
        return outcome(422, "business-rule", "No") if asked.is_write else web.json_response(bundle)

    async with between(world, create) as server:
        write_payments(world, 2)
        result = await world.run()
    assert (result.failure, counts(result)) == (None, {"refused": 2})
    assert {each.token for each in server.writes} == {"made-up"}


@pytest.mark.parametrize("seconds", [1, 100_000])
async def test_a_token_endpoint_that_asks_to_wait_is_obeyed(
    make_world: MakeWorld, seconds: int
) -> None:
    world = await make_world(patients=2)

    def throttle(asked: Asked) -> Answer:
        if asked.is_for_token and asked.number == 1:
            return web.Response(status=429, headers={"Retry-After": str(seconds)})
        return None

    async with between(world, throttle) as server:
        write_payments(world, 2)
        began_s = time.monotonic()
        async with asyncio.timeout(20):
            result = await world.run()
    if seconds == 1:
        assert counts(result) == {"created": 2}
        assert time.monotonic() - began_s >= 1.0
    else:
        assert isinstance(result.failure, Unreachable)
        assert "/auth/token/ asks to wait for 100,000 s" in result.failure.message
        assert len(server.tokens) == 1


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_token_endpoint_that_redirects_is_named_with_its_target(
    make_world: MakeWorld, status: int
) -> None:
    world = await make_world(patients=1)

    def redirect(asked: Asked) -> Answer:
        target = {"Location": "https://user:secret@elsewhere.example/auth/token/?code=secret"}
        return web.Response(status=status, headers=target) if asked.is_for_token else None

    async with between(world, redirect) as server:
        write_payments(world, 1)
        result = await world.run()
    assert isinstance(result.failure, AuthError)
    assert f"redirect (HTTP {status}) to elsewhere.example" in result.failure.message
    assert "canvas.token_url" in result.failure.fix
    assert "secret" not in str(result.failure)
    assert len(server.tokens) == 1


# Stopping -----------------------------------------------------------------------------------------


async def test_a_search_that_is_repeated_ends_at_once_when_the_run_stops() -> None:
    credentials = Credentials("http://127.0.0.1:1/t", token="t")
    options = Options("http://127.0.0.1:1", credentials, backoff=Backoff(60.0, 60.0))

    async def fail() -> None:
        raise SearchFailed("no")

    async with transport_of(options) as transport:
        client = Client(options, transport, SystemClock(), Random(1))
        searching = asyncio.ensure_future(client.persistently(fail, "Coverage"))
        await asyncio.sleep(0.05)
        client.stop()
        with pytest.raises(Stopped):
            async with asyncio.timeout(1):
                await searching


# Messages -----------------------------------------------------------------------------------------

SETTINGS = bytes.fromhex(
    "00001204000000000000030000006400040010000000060000400000000408000000000000"
)


@asynccontextmanager
async def answering(what: bytes, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Yield the port of a server that sends these bytes in answer to a request or, by TLS, at once."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            if tls is None:
                await reader.read(1)
            writer.write(what)
            await writer.drain()
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def test_a_token_endpoint_that_is_not_there_is_named_with_the_reason(
    make_world: MakeWorld,
) -> None:
    world = await make_world(patients=1)
    write_payments(world, 1)
    refusing = "http://127.0.0.1:9/auth/token/"
    text = world.config.read_text()
    world.config.write_text(text.replace(f"{world.url}/auth/token/", refusing))
    result = await world.run()
    assert isinstance(result.failure, Unreachable)
    assert result.failure.message == f"Cannot connect to {refusing}: connection refused, 5 attempts"
    assert "canvas.token_url" in result.failure.fix


async def test_a_read_without_an_answer_names_the_address_and_the_reason(
    make_world: MakeWorld,
) -> None:
    world = await make_world(patients=1)

    def fail(asked: Asked) -> Answer:
        return None if asked.is_for_token else page(502)

    async with between(world, fail):
        write_payments(world, 1)
        result = await world.run()
        assert isinstance(result.failure, Unreachable)
        message = f"No good answer from {world.url}/PaymentNotice: HTTP 502, 5 attempts"
    assert result.failure.message == message


@pytest.mark.parametrize("is_tls", [False, True])
async def test_a_server_of_http_2_only_is_named(
    make_world: MakeWorld, tmp_path: Path, *, is_tls: bool
) -> None:
    world = await make_world(patients=1)
    authority = Authority(tmp_path)
    tls = authority.server() if is_tls else None
    async with answering(SETTINGS, tls) as port:
        write_payments(world, 1, canvas=f'ca_file = "{authority.path}"\n')
        url = f"http{'s' if is_tls else ''}://127.0.0.1:{port}"
        world.config.write_text(world.config.read_text().replace(f'"{world.url}"', f'"{url}"'))
        result = await world.run()
    assert isinstance(result.failure, WrongHost)
    assert result.failure.message.startswith("127.0.0.1: it answers in HTTP/2 only")


async def test_a_ca_file_without_its_root_is_named(make_world: MakeWorld, tmp_path: Path) -> None:
    world = await make_world(patients=1)
    between_them = Authority(tmp_path, "an intermediate", signed_by=Authority(tmp_path, "the root"))
    async with answering(b"", between_them.server()) as port:
        write_payments(world, 1, canvas=f'ca_file = "{between_them.path}"\n')
        url = f"https://127.0.0.1:{port}"
        world.config.write_text(world.config.read_text().replace(f'"{world.url}"', f'"{url}"'))
        result = await world.run()
    assert result.failure is not None
    assert "its root certificate is missing" in result.failure.message
    assert "canvas.ca_file" in result.failure.fix


def test_several_reasons_are_named_once_each_and_their_texts_are_not_repeated() -> None:
    refused, unreachable = f"[Errno {errno.ECONNREFUSED}] secret", f"[Errno {errno.ENETUNREACH}] x"
    error = OSError(f"Multiple exceptions: {refused}, {unreachable}, {refused}")
    assert cause(error) == "connection refused and network unreachable"
    assert cause(OSError("secret")) == cause(ValueError("secret")) == ""
