"""A gateway that asks for a client certificate, and files that do not hold one."""

import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pipeline.app.config.load import load
from pipeline.canvas.transport import TLS, Transport
from pipeline.errors import ConfigError
from pipeline.job import Job
from pipeline.sandbox import Sandbox, serve
from tests.support.certificates import Authority
from tests.support.proxy_runs import command
from tests.support.runs import coverages, payments
from tests.support.world import CREDENTIALS, FEEDS, World, seed

pytestmark = pytest.mark.slow  # makes certificates


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def asking(authority: Authority) -> ssl.SSLContext:
    """A server's context that takes certificates of this authority only."""
    context = authority.server()
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(authority.path)
    return context


async def test_a_run_with_a_certificate_and_one_without(
    tmp_path: Path, authority: Authority
) -> None:
    sandbox, own = Sandbox(seed(20)), authority.pem(names=("client",))
    async with serve(sandbox, tls=asking(authority)) as url:
        world = World(tmp_path, sandbox, url)
        world.write_eligibility(coverages())
        world.write_ledger(payments(30))
        trusted = f'ca_file = "{authority.path.name}"'
        world.write_config(canvas=trusted)
        code, text = await command(world, "run", str(world.config), "--no-progress")
        assert code == 1, text
        assert not sandbox.account()["requests"]["by"]
        world.write_config(canvas=f'{trusted}\ncert_file = "{own.name}"\nkey_file = "{own.name}"')
        for name in ("check", "run"):
            code, text = await command(world, name, str(world.config))
            assert code == 0, text
    assert len(world.effects) == 70


@contextmanager
def openssl(authority: Authority, version: str) -> Iterator[str]:
    """Serve by OpenSSL itself, which says why it refuses a client; asyncio's server only closes."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    own = str(authority.pem())
    arguments = ["-accept", f"127.0.0.1:{port}", "-cert", own, "-key", own, version, "-www"]
    arguments += ["-CAfile", str(authority.path), "-Verify", "1", "-verify_return_error"]
    process = subprocess.Popen(
        ["openssl", "s_server", *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert process.stdout is not None
        while process.stdout.readline().strip() != b"ACCEPT":  # it takes one connection at a time
            assert process.poll() is None
        yield f"https://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.communicate(timeout=10)


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
@pytest.mark.parametrize("shows_one", [True, False])
async def test_a_gateway_that_says_why_it_refuses(
    version: str, shows_one: bool, tmp_path: Path, authority: Authority
) -> None:
    other = Authority(tmp_path, "another authority").pem(names=("client",))
    certificate = (other, other) if shows_one else None
    with openssl(authority, version) as url:
        async with Transport(5.0, 1, authority.path, certificate=certificate) as transport:
            reply = await transport.exchange("POST", f"{url}/x", {}, b"sent")
    assert (reply.status, reply.problem) == (None, TLS)
    assert "client certificate" in reply.detail


# Files --------------------------------------------------------------------------------------------


def _pem(key: ec.EllipticCurvePrivateKey, password: bytes = b"") -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption(),
    )


KEY = ec.generate_private_key(ec.SECP256R1())
FILES: dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes], bytes], str]] = {
    "no certificate": (lambda _: b"x", lambda pem: pem, r"canvas\.cert_file: no certificate in PEM"),
    "DER": (lambda _: b"\x30\x82", lambda pem: pem, r"canvas\.cert_file: no certificate in PEM"),
    "no key": (lambda pem: pem, lambda _: b"x", r"canvas\.key_file: no private key in PEM"),
    "another key": (lambda pem: pem[pem.index(b"-----BEGIN C") :], lambda _: _pem(KEY), r"canvas\.key_file: the key is not that of the certificate"),
    "encrypted": (lambda pem: pem, lambda _: _pem(KEY, b"word"), r"canvas\.key_file: the key is encrypted"),
    "damaged": (lambda pem: pem, lambda pem: pem.replace(b"M", b"N"), "the certificate or the key is damaged"),
}  # fmt: skip


def job_of(folder: Path, lines: str) -> Job:
    path = folder / "config.toml"
    path.write_text(f'[canvas]\nbase_url = "https://a.example"\n{lines}\n{FEEDS}')
    return load(path, environment=CREDENTIALS)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_not_what_it_should_be(
    name: str, tmp_path: Path, authority: Authority
) -> None:
    of_certificate, of_key, told = FILES[name]
    pem = authority.pem().read_bytes()
    for file, content in (("own.pem", of_certificate(pem)), ("own.key", of_key(pem))):
        (tmp_path / file).write_bytes(content)
        (tmp_path / file).chmod(0o600)
    with pytest.raises(ConfigError, match=told):
        job_of(tmp_path, 'cert_file = "own.pem"\nkey_file = "own.key"')


def test_a_key_that_others_may_read(tmp_path: Path, authority: Authority) -> None:
    own = authority.pem()
    lines = f'cert_file = "{own.name}"\nkey_file = "{own.name}"'
    assert job_of(tmp_path, lines).canvas.certificate == (own, own)
    own.chmod(0o644)
    with pytest.raises(ConfigError, match=r"canvas\.key_file: others may read that file"):
        job_of(tmp_path, lines)
    own.unlink()
    with pytest.raises(ConfigError, match=r"canvas\.cert_file: No such file"):
        job_of(tmp_path, lines)


@pytest.mark.parametrize("line", ['cert_file = "x"', 'key_file = "x"'])
def test_one_of_the_two_is_not_enough(line: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cert_file and key_file go together"):
        job_of(tmp_path, line)
