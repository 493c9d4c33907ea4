"""TLS: a certificate is always checked, name and date and signer, before a byte of a request leaves."""

import asyncio
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from pipeline.canvas.transport import TLS, Transport
from tests.canvas.transport.server import CLOSE, RESET, Script, Server, reset, serving

CREATED: Final = (
    b"HTTP/1.1 201 Created\r\nLocation: /PaymentNotice/1\r\nContent-Length: 4\r\n\r\nbody"
)
Serve = Callable[..., Any]


class Authority:
    """An authority of our own, and the certificates that it signs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.certificate = folder / "authority.pem"
        self._openssl("req", "-x509", "-subj", "/CN=authority", *_key(folder / "authority.key"), "-out", self.certificate)  # fmt: skip

    def serves(self, name: str, days: int = 2) -> ssl.SSLContext:
        """What a server shows; `name` as in IP:127.0.0.1. Fewer than no days: it has expired."""
        certificate, key = self.folder / "server.pem", self.folder / "server.key"
        request, extensions = self.folder / "server.csr", self.folder / "server.ext"
        extensions.write_text(f"subjectAltName={name}\nbasicConstraints=critical,CA:FALSE\n")
        self._openssl("req", "-new", "-subj", "/CN=server", *_key(key), "-out", request)
        self._openssl(
            "x509", "-req", "-in", request, "-extfile", extensions, "-days", str(days), "-out", certificate,
            "-CA", self.certificate, "-CAkey", self.folder / "authority.key", "-CAcreateserial",
        )  # fmt: skip
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, key)
        return context

    def _openssl(self, *arguments: str | Path) -> None:
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def _key(path: Path) -> list[str | Path]:
    return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", path]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def good(authority: Authority) -> ssl.SSLContext:
    return authority.serves("IP:127.0.0.1")


async def test_a_connection_is_kept(
    serve: Serve, authority: Authority, good: ssl.SSLContext
) -> None:
    server = await serve([CREATED], context=good)
    async with Transport(5.0, 1, authority.certificate) as transport:
        for _ in range(3):
            reply = await transport.exchange("POST", f"{server.url}/x", {}, b"x" * 100_000)
            assert (reply.status, reply.body, reply.problem) == (201, b"body", "")
            await asyncio.sleep(0.02)
    assert server.connections == 1
    assert server.requests[2].endswith(b"x" * 100_000)


@pytest.mark.parametrize(
    ("name", "days", "is_ours"),
    [
        ("IP:127.0.0.1", 2, False),  # signed by nobody known
        ("DNS:elsewhere.example", 2, True),
        ("DNS:127.0.0.1", 2, True),  # an address that is written as a name
        ("IP:127.0.0.1", -1, True),  # expired
    ],
)
async def test_what_is_not_trusted_gets_nothing(
    name: str, days: int, is_ours: bool, serve: Serve, authority: Authority
) -> None:
    server = await serve([CREATED], context=authority.serves(name, days))
    async with Transport(5.0, 1, authority.certificate if is_ours else None) as transport:
        reply = await transport.exchange("POST", f"{server.url}/x", {}, b"sent")
    assert (reply.status, reply.problem, reply.handed_off) == (None, TLS, False)
    assert server.requests == []


async def test_a_server_without_tls_gets_nothing(serve: Serve, authority: Authority) -> None:
    server = await serve([CREATED])
    async with Transport(0.5, 1, authority.certificate) as transport:
        reply = await transport.exchange(
            "POST", server.url.replace("http:", "https:"), {}, b"sent" * 100
        )
    assert (reply.status, reply.handed_off) == (None, False)
    assert server.requests == []


@pytest.mark.parametrize("end", [CLOSE, RESET, "silence"])
async def test_a_handshake_that_fails_sends_nothing(end: str, authority: Authority) -> None:
    class Failing(Server):
        async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(-1 if end == "silence" else 1)
            if end == RESET:
                reset(writer)
            writer.close()

    async with serving(Failing()) as server, Transport(0.5, 1, authority.certificate) as transport:
        url = server.url.replace("http:", "https:")
        reply = await transport.exchange("POST", f"{url}/x", {}, b"sent")
    problem = "timeout" if end == "silence" else "connect"
    assert (reply.status, reply.problem, reply.handed_off) == (None, problem, False)


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ([CREATED[:-2], CLOSE], (201, "body")),
        ([CREATED[:-2], 0.02, RESET], (201, "body")),
        ([CREATED[:30], CLOSE], (None, "disconnected")),
        ([CLOSE], (None, "disconnected")),
        ([RESET], (None, "disconnected")),
        ([CREATED.replace(b"Content-Length: 4\r\n", b""), CLOSE], (201, "")),
    ],
)
async def test_what_is_cut_is_as_without_tls(
    script: Script,
    expected: tuple[int | None, str],
    serve: Serve,
    authority: Authority,
    good: ssl.SSLContext,
) -> None:
    server = await serve(script, [CREATED], context=good)
    async with Transport(5.0, 1, authority.certificate) as transport:
        reply = await transport.exchange("POST", f"{server.url}/x", {}, b"sent")
        assert (reply.status, reply.problem, reply.handed_off) == (*expected, True)
        assert (await transport.exchange("GET", f"{server.url}/x", {}, None)).status == 201
    assert len(server.requests) == 2
