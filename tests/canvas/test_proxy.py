"""A forward proxy: everything goes through it, and its own errors are never answers of Canvas."""

import re
import socket
from pathlib import Path
from typing import Any

import pytest

from pipeline.app.config.load import load
from pipeline.canvas.judge import judge_create
from pipeline.canvas.proxy import PROXY, PROXY_REFUSES, Proxy, unused
from pipeline.canvas.transport import TLS, Transport
from pipeline.commands import check as doctor
from pipeline.errors import ConfigError
from pipeline.records import Verdict
from pipeline.sandbox import Sandbox, serve
from tests.canvas.transport.server import CLOSE, Script, Server, serving
from tests.support.certificates import Authority
from tests.support.proxy_runs import command
from tests.support.runs import coverages, payments
from tests.support.tinyproxy import Tinyproxy, proxying
from tests.support.world import CREDENTIALS, FEEDS, World, seed

pytestmark = pytest.mark.slow  # starts a proxy

USER, CANARY = "ingest", "canary-of-the-proxy"
SHOWN = {"CANVAS_PROXY_USERNAME": USER, "CANVAS_PROXY_PASSWORD": CANARY}


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def filled(world: World, proxy: Tinyproxy | str, *more: str) -> World:
    world.write_eligibility(coverages())
    world.write_ledger(payments(30))
    url = proxy if isinstance(proxy, str) else proxy.url
    world.write_config(canvas="\n".join([f'proxy = "{url}"', *more]))
    return world


def files_with(text: bytes, folder: Path) -> list[Path]:
    """All but the proxy's own."""
    files = [path for path in folder.rglob("*") if path.is_file() and "tinyproxy" not in path.name]
    return [path for path in files if text in path.read_bytes()]


# A real one ---------------------------------------------------------------------------------------


async def test_a_run_goes_through_it_with_credentials(tmp_path: Path, authority: Authority) -> None:
    sandbox = Sandbox(seed(20))
    with proxying(tmp_path, credentials=f"{USER} {CANARY}") as proxy:
        async with serve(sandbox, tls=authority.server()) as url:
            world = filled(
                World(tmp_path, sandbox, url), proxy, f'ca_file = "{authority.path.name}"'
            )
            code, text = await command(world, "check", str(world.config), **SHOWN)
            assert code == 0, text
            assert f"{proxy.url.removeprefix('http://')} lets requests through" in text
            code, text = await command(world, "run", str(world.config), "--no-progress", **SHOWN)
            assert code == 0, text
    assert len(world.effects) == 70
    target = url.removeprefix("https://")
    assert set(proxy.connects) == {target}
    assert len(proxy.connects) <= 20, "a tunnel is kept, and carries many requests"
    assert not files_with(CANARY.encode(), tmp_path)
    assert CANARY not in text


@pytest.mark.parametrize(
    ("shown", "told"),
    [({}, "asks for credentials (407)"), ({**SHOWN, "CANVAS_PROXY_PASSWORD": f"wrong-{CANARY}"}, "refuses the credentials (401)")],
)  # fmt: skip
async def test_without_the_right_credentials_nothing_is_sent(
    shown: dict[str, str], told: str, tmp_path: Path, authority: Authority
) -> None:
    sandbox = Sandbox(seed(20))
    with proxying(tmp_path, credentials=f"{USER} {CANARY}") as proxy:
        async with serve(sandbox, tls=authority.server()) as url:
            world = filled(
                World(tmp_path, sandbox, url), proxy, f'ca_file = "{authority.path.name}"'
            )
            for name in ("check", "run"):
                code, text = await command(world, name, str(world.config), **shown)
                assert code == 1
                assert f"the proxy {proxy.url.removeprefix('http://')} {told}" in text
                assert "CANVAS_PROXY_USERNAME" in text
                assert CANARY not in text
    assert not sandbox.account()["requests"]["by"], "not even a token was asked for"


async def test_a_target_that_it_does_not_allow(tmp_path: Path, authority: Authority) -> None:
    with proxying(tmp_path, more="ConnectPort 1") as proxy:
        async with (
            serve(Sandbox(seed(1)), tls=authority.server()) as url,
            Transport(5.0, 1, authority.path, proxy=Proxy(proxy.url)) as transport,
        ):
            reply = await transport.exchange("POST", f"{url}/x", {}, b"sent")
    address, target = proxy.url.removeprefix("http://"), url.removeprefix("https://")
    assert (reply.status, reply.problem, reply.handed_off) == (None, PROXY_REFUSES, False)
    assert reply.detail == f"the proxy {address} does not allow {target} (403)"


async def test_the_certificate_must_be_that_of_the_target(
    tmp_path: Path, authority: Authority
) -> None:
    with proxying(tmp_path) as proxy:
        tls = authority.server(names=("elsewhere.example",))
        async with (
            serve(sandbox := Sandbox(seed(1)), tls=tls) as url,
            Transport(5.0, 1, authority.path, proxy=Proxy(proxy.url)) as transport,
        ):
            reply = await transport.exchange("POST", f"{url}/x", {}, b"sent")
    assert (reply.status, reply.problem, reply.handed_off) == (None, TLS, False)
    assert "another address" in reply.detail
    assert not sandbox.account()["requests"]["by"]


async def test_an_http_target_goes_through_it(tmp_path: Path) -> None:
    sandbox = Sandbox(seed(20))
    with proxying(tmp_path, credentials=f"{USER} {CANARY}") as proxy:
        async with serve(sandbox) as url:
            world = filled(World(tmp_path, sandbox, url), proxy)
            code, text = await command(world, "run", str(world.config), "--no-progress")
            assert (code, "asks for credentials (407)" in text) == (1, True), text
            assert not sandbox.account()["requests"]["by"]
            code, text = await command(world, "run", str(world.config), "--no-progress", **SHOWN)
    assert code == 0, text
    assert len(world.effects) == 70
    assert not proxy.connects, "only https needs CONNECT"


# Its own errors -----------------------------------------------------------------------------------

TARGET = "canvas.example:443"
ERRORS: dict[str, tuple[Script, str, str]] = {
    "407": ([b"HTTP/1.1 407 X\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n"], PROXY_REFUSES, "refuses the credentials (407)"),
    "403": ([b"HTTP/1.1 403 X\r\nContent-Length: 5\r\n\r\nno no"], PROXY_REFUSES, f"does not allow {TARGET} (403)"),
    "502": ([b"HTTP/1.1 502 X\r\n\r\n", CLOSE], PROXY, f"cannot reach {TARGET} (502)"),
    "503": ([b"HTTP/1.0 503 X\r\n\r\npage", CLOSE], PROXY, f"cannot reach {TARGET} (503)"),
    "504": ([b"HTTP/1.1 504 X\r\nContent-Length: 0\r\n\r\n"], PROXY, f"cannot reach {TARGET} (504)"),
    "201": ([b"HTTP/1.1 201 Created\r\nLocation: /PaymentNotice/1\r\nContent-Length: 0\r\n\r\n"], PROXY, f"does not connect to {TARGET} (201)"),
    "302": ([b"HTTP/1.1 302 X\r\nLocation: http://login.example/\r\nContent-Length: 0\r\n\r\n"], PROXY, f"does not connect to {TARGET} (302)"),
    "no HTTP": ([b"SSH-2.0-OpenSSH\r\n", CLOSE], PROXY, "ended the connection, or is no HTTP proxy"),
    "closed": ([CLOSE], PROXY, "ended the connection, or is no HTTP proxy"),
    "silence": ([5.0], PROXY, f"gave no connection to {TARGET} in time"),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
async def test_an_error_of_the_proxy_is_its_own(name: str) -> None:
    script, problem, told = ERRORS[name]
    async with serving(Server(script)) as server:
        proxy = Proxy(server.url, USER, CANARY)
        async with Transport(1.0, 1, proxy=proxy) as transport:
            reply = await transport.exchange(
                "POST",
                "https://canvas.example/PaymentNotice",
                {"Authorization": "Bearer t"},
                b"sent",
            )
    assert (reply.status, reply.headers, reply.handed_off) == (None, {}, False)
    assert reply.problem == problem
    assert reply.detail == f"the proxy {proxy.address} {told}"
    judgement = judge_create(reply, "PaymentNotice", "canvas.example", proven=True)
    assert (judgement.verdict, judgement.message) == (
        Verdict.NOT_APPLIED,
        f"not sent: {reply.detail}",
    )
    (head,) = server.requests
    assert head.startswith(b"CONNECT canvas.example:443 HTTP/1.1\r\n")
    assert b"Proxy-Authorization: Basic " in head
    assert b"Bearer" not in head


async def test_a_proxy_that_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    for address, told in (
        (f"127.0.0.1:{port}", "cannot be reached (connection refused)"),
        ("nosuch.invalid:3128", "has no address: the name is unknown here"),
    ):
        async with Transport(5.0, 1, proxy=Proxy(f"http://{address}")) as transport:
            reply = await transport.exchange("POST", "https://canvas.example/x", {}, b"sent")
        assert (reply.status, reply.problem, reply.handed_off) == (None, PROXY, False)
        assert reply.detail == f"the proxy {address} {told}"


@pytest.mark.parametrize(("status", "passed_on"), [(407, False), (502, True), (503, True)])
async def test_what_it_says_to_a_request_that_it_read(status: int, passed_on: bool) -> None:
    """Over http the proxy has the request: only its 407 says that it passed nothing on."""
    async with (
        serving(Server([b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status])) as server,
        Transport(1.0, 1, proxy=Proxy(server.url, USER, CANARY)) as transport,
    ):
        reply = await transport.exchange("POST", "http://127.0.0.1:9/PaymentNotice", {}, b"sent")
    assert reply.handed_off is passed_on
    verdict = judge_create(reply, "PaymentNotice", "127.0.0.1", proven=True).verdict
    assert verdict is (Verdict.LOST if passed_on else Verdict.NOT_APPLIED)
    (head,) = server.requests
    assert head.startswith(b"POST http://127.0.0.1:9/PaymentNotice HTTP/1.1\r\n")
    assert b"Proxy-Authorization: Basic " in head


async def test_what_it_is_shown_is_in_no_repr() -> None:
    proxy = Proxy("http://127.0.0.1:1", USER, CANARY)
    assert CANARY not in repr(proxy)
    assert USER not in repr(proxy)


# Configuration ------------------------------------------------------------------------------------


def job_of(folder: Path, line: str, **variables: str) -> Any:
    path = folder / "config.toml"
    path.write_text(f'[canvas]\nbase_url = "https://a.example"\n{line}\n{FEEDS}')
    return load(path, environment={**CREDENTIALS, **variables})


@pytest.mark.parametrize(
    "url",
    [
        "https://proxy.example:3128",
        "http://proxy.example",
        "http://user:canary-of-the-proxy@proxy.example:3128",
        "http://proxy.example:3128/path",
        "http://proxy.example:0",
        "http://proxy.example:65536",
        "socks5://proxy.example:1080",
        "proxy.example:3128",
        "http://proxy.example:3128\\n",
    ],
)
def test_only_a_host_and_a_port_are_taken(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"canvas\.proxy: must be http://host:port") as refused:
        job_of(tmp_path, f'proxy = "{url}"')
    assert CANARY not in str(refused.value)


@pytest.mark.parametrize(
    "variables",
    [
        {"CANVAS_PROXY_USERNAME": USER},
        {"CANVAS_PROXY_PASSWORD": CANARY},
        {"CANVAS_PROXY_USERNAME": f"{USER}:x", "CANVAS_PROXY_PASSWORD": CANARY},
    ],
)
def test_credentials_are_a_pair(variables: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="CANVAS_PROXY_USERNAME and CANVAS_PROXY_PASSWORD") as why:
        job_of(tmp_path, 'proxy = "http://proxy.example:3128"', **variables)
    assert CANARY not in str(why.value)


def test_a_password_from_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text(f"{CANARY}\n")
    secret.chmod(0o600)
    variables = {"CANVAS_PROXY_USERNAME": USER, "CANVAS_PROXY_PASSWORD_FILE": str(secret)}
    job = job_of(tmp_path, 'proxy = "http://proxy.example:3128"', **variables)
    assert job.canvas.proxy == Proxy("http://proxy.example:3128", USER, CANARY)
    assert CANARY not in repr(job)
    secret.chmod(0o644)
    with pytest.raises(ConfigError, match="CANVAS_PROXY_PASSWORD_FILE: others may read that file"):
        job_of(tmp_path, 'proxy = "http://proxy.example:3128"', **variables)


# The environment's --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
async def test_a_proxy_of_the_environment_is_named_and_not_used(name: str, tmp_path: Path) -> None:
    sandbox = Sandbox(seed(20))
    async with serve(sandbox) as url:
        world = filled(World(tmp_path, sandbox, url), "")
        variables = {name: f"http://{USER}:{CANARY}@proxy.example:3128"}
        told = f"{name} names the proxy proxy.example, and canvas.proxy is empty"
        for arguments in (("check",), ("run", "--no-progress")):
            code, text = await command(world, arguments[0], str(world.config), *arguments[1:], **variables)  # fmt: skip
            assert (code, told in re.sub(r"\s+", " ", text)) == (0, True), text
            assert CANARY not in text
            assert USER not in text.replace("canvas-ingest", "")
        checks = await doctor.check(world.job())
    assert all(each.what != "proxy" for each in checks), "none is named there"


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("proxy.example:3128", "names the proxy proxy.example,"),
        (f"http://{CANARY}@[::1]:1", "names the proxy ::1,"),
        (f"http://[{CANARY}", "names a proxy,"),
        (f"{CANARY} with blanks", "names a proxy,"),
    ],
)
def test_nothing_but_its_host_is_shown(value: str, told: str) -> None:
    assert told in unused({"ALL_PROXY": value})
    assert CANARY not in unused({"ALL_PROXY": value})
    assert unused({"ALL_PROXY": "", "NO_PROXY": "x"}) == ""
