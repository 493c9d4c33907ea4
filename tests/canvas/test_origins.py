"""Where a token may go: to the configured address, over a connection that is trusted, and nowhere else."""

import asyncio
import contextlib
import os
import random
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pipeline.app.config.load import load
from pipeline.canvas.auth import Credentials
from pipeline.canvas.client import Client, Options
from pipeline.canvas.judge import Judgement
from pipeline.canvas.transport import TLS, Transport
from pipeline.clock import SystemClock
from pipeline.commands import check as doctor
from pipeline.errors import CanvasError, ConfigError
from pipeline.reading import fetch as fetching
from pipeline.reading.fetch import fetch
from pipeline.records import Verdict
from pipeline.sandbox import Sandbox, serve
from tests.support.certificates import Authority
from tests.support.object_store import VARIABLES, Store
from tests.support.object_store import served as stored
from tests.support.runs import coverages, payments
from tests.support.world import CREDENTIALS, FEEDS, World, seed

HOST = "127.0.0.1"

# Addresses ----------------------------------------------------------------------------------------

TAKEN = [
    "https://fumage-example.canvasmedical.com",
    "https://fumage-example.canvasmedical.com:8443/fhir",
    "https://xn--bcher-kva.example",
    "https://10.0.0.1",
    "https://[2001:db8::1]:443",
    "http://127.0.0.1",
    "http://127.0.0.1:8765",
    "http://[::1]:8765",
]
LOOK_ALIKE = [
    "http://fumage-example.canvasmedical.com",
    "http://127.0.0.1.evil.example",
    "http://127.0.0.1.nip.io",
    "http://127.0.0.1-evil.example",
    "http://localhost.evil.example",
    "http://localhost.",
    "http://127.0.0.1.",
    "http://localhost:80@evil.example",
    "http://127.0.0.1@evil.example",
    "http://127.0.0.1:80@evil.example",
    "http://user:password@127.0.0.1",
    "http://evil.example#127.0.0.1",
    "http://evil.example?127.0.0.1",
    "http://evil.example/127.0.0.1",
    "http://evil.example\\@127.0.0.1",
    "http://127.0.0.1\\@evil.example",
    "http://127.0.0.1\\.evil.example",
    "http:\\\\127.0.0.1",
    "http://0.0.0.0",
    "http://0",
    "http://127.1",
    "http://127.0.0.2",
    "http://127.000.000.001",
    "http://0127.0.0.1",
    "http://2130706433",
    "http://0x7f.1",
    "http://0x7f000001",
    "http://017700000001",
    "http://[::ffff:127.0.0.1]",
    "http://[::ffff:7f00:1]",
    "http://[::]",
    "http://[0:0:0:0:0:0:0:1]",
    "http://[::1%25lo]",
    "http://[::1]evil.example",
    "http://::1",
    "http://%31%32%37.0.0.1",
    "http://127.0.0.1%2eevil.example",
    "http://127.0.0.1%00.evil.example",
    "http://①②⑦.0.0.1",
    "http://127。0。0。1",
    "http://127.0.0.1\u200b",
    "http://ⓛocalhost",
    "http://1oca1host",
    "http://lоcalhost",  # noqa: RUF001 - a Cyrillic letter
    "http://[fe80::1]",
    "http:///127.0.0.1",
    "http:127.0.0.1",
    "//127.0.0.1",
    "127.0.0.1",
    "ws://127.0.0.1",
    "ftp://127.0.0.1",
    "file:///etc/passwd",
    "javascript:alert(1)",
]
NO_ADDRESS = [
    "https://",
    "https:///fhir",
    "https://:443",
    "https://host:0",
    "https://host:65536",
    "https://host:99999999",
    "https://host:-1",
    "https://host:+443",
    "https://host:４４３",  # noqa: RUF001 - full-width digits
    "https://host:",
    "https://user@host",
    "https://host@evil.example",
    "https://fumage-example.canvasmedical.com\\@evil.example",
    "https://ca\tnvas.example",
    "https://canvas.example\r\nX: y",
    " https://canvas.example",
    "https://canvas.example ",
    "https://canvas example",
    "https://canvas.example.",
    "https://canvas..example",
    "https://-canvas.example",
    "https://cаnvas.example",  # noqa: RUF001 - a Cyrillic letter
    "https://canvas%2eexample",
    "https://[::1",
    "https://[::1]x",
    "https://[v1.x]",
    "https://host?query",
    "https://host#fragment",
    "HTTPS://host",
]


def loaded(folder: Path, url: str, key: str = "base_url") -> str:
    """The address that a job of this configuration has."""
    other = {"base_url": "https://a.example", "token_url": "https://b.example"}
    lines = "".join(f"{name} = {value!r}\n" for name, value in {**other, key: url}.items())
    path = folder / "config.toml"
    path.write_text("[canvas]\n" + lines.replace("\\x", "\\u00").replace("'", '"') + FEEDS)
    job = load(path, environment=CREDENTIALS)
    return job.canvas.base_url if key == "base_url" else job.canvas.credentials.token_url


@pytest.mark.parametrize("key", ["base_url", "token_url"])
@pytest.mark.parametrize("url", TAKEN)
def test_https_and_http_to_loopback_literals_are_taken(tmp_path: Path, url: str, key: str) -> None:
    assert loaded(tmp_path, url, key) == url


@pytest.mark.parametrize("key", ["base_url", "token_url"])
@pytest.mark.parametrize("url", LOOK_ALIKE + NO_ADDRESS)
def test_what_looks_like_this_machine_or_is_no_address_is_refused(
    tmp_path: Path, url: str, key: str
) -> None:
    with pytest.raises(ConfigError, match=rf"canvas\.{key}: must be https://") as refused:
        loaded(tmp_path, url, key)
    assert "evil" not in str(refused.value)
    assert "password" not in str(refused.value)


@pytest.mark.parametrize("url", LOOK_ALIKE)
def test_a_webhook_is_held_to_the_same_addresses(tmp_path: Path, url: str) -> None:
    (tmp_path / "config.toml").write_text(f'[canvas]\nbase_url = "https://a.example"\n{FEEDS}')
    environment = {**CREDENTIALS, "CANVAS_INGEST_WEBHOOK_URL": url}
    with pytest.raises(ConfigError, match="CANVAS_INGEST_WEBHOOK_URL: ") as refused:
        load(tmp_path / "config.toml", environment=environment)
    assert "evil" not in str(refused.value)
    assert "password" not in str(refused.value)


def test_a_webhook_may_have_a_query(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(f'[canvas]\nbase_url = "https://a.example"\n{FEEDS}')
    url = "https://hooks.example:443/a/b?code=x%2Fy&z=~1"
    environment = {**CREDENTIALS, "CANVAS_INGEST_WEBHOOK_URL": url}
    assert load(tmp_path / "config.toml", environment=environment)


def test_localhost_is_127_0_0_1_and_no_name_service_is_asked(tmp_path: Path) -> None:
    assert loaded(tmp_path, "http://localhost:8765/fhir") == "http://127.0.0.1:8765/fhir"


@pytest.mark.parametrize(
    ("endpoint", "allowed"),
    [
        ("http://127.0.0.1:9000", True),
        ("http://localhost:9000", True),
        ("http://[", False),
        ("http://127.0.0.1@evil.example", False),
        ("http://store.example", False),
        ("", False),
    ],
)
def test_a_store_is_asked_over_http_on_this_machine_only(
    tmp_path: Path, endpoint: str, allowed: bool
) -> None:
    (tmp_path / "config.toml").write_text(f'[canvas]\nbase_url = "https://a.example"\n{FEEDS}')
    environment = {**CREDENTIALS, "AWS_ENDPOINT_URL": endpoint}
    job = load(tmp_path / "config.toml", environment=environment)
    assert job.objects.allow_http is allowed


# Connections --------------------------------------------------------------------------------------


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OLD_PROTOCOL = b"\x15\x03\x02\x00\x02\x02\x46"  # a server's alert: protocol_version
NO_TLS = b"SSH-2.0-OpenSSH\r\n"


@asynccontextmanager
async def served(handle: Handle, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server's port; at the end all that it has begun is waited for."""
    begun = set[asyncio.Task[None] | None]()

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        begun.add(asyncio.current_task())
        with contextlib.suppress(OSError):
            await handle(reader, writer)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    # The server's side of a handshake that fails is told to the loop, and is none of ours.
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    server = await asyncio.start_server(one, HOST, 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await asyncio.gather(*filter(None, begun))


class Door:
    """Keeps what it is told once a connection stands; `shut` is its answer to a handshake."""

    def __init__(self, shut: bytes = NO_TLS, status: int = 500) -> None:
        self.heard = b""
        self.status = status
        self.shut = shut

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while text := await reader.read(65536):
            self.heard += text
            if text.startswith(b"\x16"):
                writer.write(self.shut)
            elif b"\r\n\r\n" in text:
                writer.write(b"HTTP/1.1 %d x\r\nContent-Length: 0\r\n\r\n" % self.status)


@asynccontextmanager
async def behind(
    tls: ssl.SSLContext | bytes, ca_file: Path | None
) -> AsyncIterator[tuple[Client, Door]]:
    """A client of a server with that certificate, or with that answer to a handshake."""
    door = Door(tls) if isinstance(tls, bytes) else Door()
    async with served(door.serve, None if isinstance(tls, bytes) else tls) as port:
        url = f"https://{HOST}:{port}"
        credentials = Credentials(f"{url}/auth/token/", token="made-up")
        options = Options(url, credentials, rate_per_s=100.0, timeout_s=2.0, ca_file=ca_file)
        async with Transport(2.0, 4, ca_file) as transport:
            yield Client(options, transport, SystemClock(), random.Random(1)), door


async def created(client: Client) -> Judgement:
    _, judgement = await client.create(await client.permit(), "PaymentNotice", b"{}")
    return judgement


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("expired", "its certificate has expired"),
        ("not yet valid", "its certificate is not valid yet"),
        ("another name", "its certificate is for another address"),
        ("self-signed", "its certificate is self-signed"),
        ("another authority", "signed by an authority that is not trusted here"),
        ("old protocol", "it agrees on no TLS that is safe"),
        ("no TLS", "what answers there speaks no TLS"),
    ],
)
async def test_a_connection_that_is_not_trusted_stops_the_run_and_nothing_was_sent(
    tmp_path: Path, authority: Authority, what: str, why: str
) -> None:
    makers: dict[str, Callable[[], ssl.SSLContext | bytes]] = {
        "expired": lambda: authority.server(days=(-3, -1)),
        "not yet valid": lambda: authority.server(days=(1, 3)),
        "another name": lambda: authority.server(names=("canvas.example", "10.0.0.1")),
        "self-signed": lambda: authority.server(signs_itself=True),
        "another authority": lambda: Authority(tmp_path, "another one").server(),
        "old protocol": lambda: OLD_PROTOCOL,
        "no TLS": lambda: NO_TLS,
    }
    async with behind(makers[what](), authority.path) as (client, door):
        judgement = await created(client)
        assert judgement.verdict is Verdict.NOT_APPLIED, "never lost: no byte was handed over"
        assert judgement.stop is not None
        assert why in judgement.stop.message
        assert "canvas.ca_file" in judgement.stop.fix
        assert judgement.stop.exit_code == 1
        with pytest.raises(CanvasError, match="cannot be trusted"):
            await client.probe("Coverage")
        client._tokens._credentials = Credentials(f"{client._options.base_url}/t/", "a", "b")
        client._tokens._renew_at_s = float("-inf")
        with pytest.raises(CanvasError, match="cannot be trusted"):
            await client.sign_in()
        assert len(client.exchanges) == 2, "once each: it is not tried again"
        assert b"made-up" not in door.heard
        assert b"POST" not in door.heard


async def test_a_handshake_that_breaks_off_is_a_connection_that_failed_and_may_be_tried_again(
    authority: Authority,
) -> None:
    async def slam(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with served(slam) as port, Transport(2.0, 1, authority.path) as transport:
        reply = await transport.exchange("POST", f"https://{HOST}:{port}/", {}, b"")
    assert (reply.status, reply.handed_off) == (None, False)
    assert reply.problem not in {"", TLS}


async def test_a_handshake_that_hangs_ends_with_the_time_of_a_request(authority: Authority) -> None:
    async def hang(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async with served(hang) as port, Transport(0.2, 1, authority.path) as transport:
        reply = await transport.exchange("POST", f"https://{HOST}:{port}/", {}, b"")
    assert (reply.status, reply.handed_off, reply.problem) == (None, False, "timeout")


async def test_without_the_authority_s_file_only_those_of_the_machine_are_trusted(
    authority: Authority,
) -> None:
    async with behind(authority.server(), None) as (client, _):
        assert (await created(client)).stop is not None
    async with behind(authority.server(), authority.path) as (client, _):
        assert (await created(client)).verdict is Verdict.LOST, "it was let in, and said 500"


@pytest.mark.parametrize("content", [None, "", "no certificate", "folder"])
def test_a_file_without_certificates_is_refused_before_anything_is_asked(
    tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "ca.pem"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_text(content)
    (tmp_path / "config.toml").write_text(
        f'[canvas]\nbase_url = "https://a.example"\nca_file = "ca.pem"\n{FEEDS}'
    )
    with pytest.raises(ConfigError, match=r"canvas\.ca_file: "):
        load(tmp_path / "config.toml", environment=CREDENTIALS)


async def test_the_keys_of_a_session_are_written_nowhere(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys.log"))
    async with behind(authority.server(), authority.path) as (client, _):
        await created(client)
    assert not (tmp_path / "keys.log").exists()


@pytest.mark.parametrize("name", ["http_proxy", "https_proxy", "all_proxy"])
async def test_no_proxy_of_the_environment_is_asked(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    door = Door()
    async with served(door.serve) as port, behind(authority.server(), authority.path) as asked:
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        for spelling in (name, name.upper()):
            monkeypatch.setenv(spelling, f"http://{HOST}:{port}")
        client, canvas = asked
        assert (await created(client)).verdict is Verdict.LOST
        async with Transport(2.0, 1) as transport:
            await transport.exchange("GET", f"http://{HOST}:{port}/direct", {}, None)
    assert b"POST /PaymentNotice" in canvas.heard
    assert door.heard.startswith(b"GET /direct"), "as a server, not as a proxy"
    assert b"CONNECT" not in door.heard


async def test_a_store_on_this_machine_is_not_asked_through_a_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over http: what is not encrypted would be told to the proxy."""
    door = Door(status=404)
    store = Store(drop={"ledger.csv": b"a,b\n"})
    async with served(door.serve) as port, stored(store) as endpoint:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://{HOST}:{port}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        for name, value in {**VARIABLES, "AWS_ENDPOINT_URL": endpoint}.items():
            monkeypatch.setenv(name, value)
        options = fetching.Options(allow_http=True)
        ((copy, _),) = await asyncio.to_thread(
            fetch, "s3://drop/ledger.csv", "feed ledger", tmp_path, options, lambda: None
        )
    assert copy.read_bytes() == b"a,b\n"
    assert not door.heard


# Whole runs ---------------------------------------------------------------------------------------


async def command(world: World, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """The command itself, on uvloop where there is one."""
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "pipeline", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=world.folder,
        env={**os.environ, **CREDENTIALS},
    )


async def test_a_run_over_tls_with_an_authority_of_one_s_own_and_one_without(
    tmp_path: Path, authority: Authority
) -> None:
    sandbox = Sandbox(seed(20))
    async with serve(sandbox, tls=authority.server()) as url:
        world = World(tmp_path, sandbox, url)
        world.write_eligibility(coverages())
        world.write_ledger(payments(30))
        world.write_config()
        run = ("run", str(world.config), "--no-progress")
        refused = await command(world, *run)
        assert refused.returncode == 1
        told = refused.stdout + refused.stderr
        assert "its certificate is signed by an authority that is not trusted here" in told
        assert "Traceback" not in told
        assert not world.effects
        assert not sandbox.account()["requests"]["by"], "not even a token was asked for"
        world.write_config(canvas=f'ca_file = "{authority.path.name}"')
        checks = await doctor.check(world.job())
        assert doctor.as_json(checks)["exit_code"] == 0, checks
        assert (await world.run()).exit_code == 0
        assert len(world.effects) == 70
