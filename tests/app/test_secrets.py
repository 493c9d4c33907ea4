"""Secrets: out of the environment or a file of mode 0600, to Canvas, and nowhere else."""

import asyncio
import hmac
import json
import os
import random
import signal
import subprocess
import sys
from base64 import b64encode, urlsafe_b64encode
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote

import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

import pipeline
from pipeline.app.config.load import load
from pipeline.canvas.assertion import TYPE, private_key_of
from pipeline.canvas.auth import Credentials, Tokens
from pipeline.canvas.client import Client, Options
from pipeline.canvas.judge import Backoff
from pipeline.canvas.transport import Reply, Transport
from pipeline.clock import SystemClock
from pipeline.commands import check as doctor
from pipeline.commands import run as engine
from pipeline.commands.checks.context import State
from pipeline.errors import AuthError, ConfigError
from pipeline.job import Job
from pipeline.sandbox import Sandbox, serve
from pipeline.sandbox.auth import Auth
from pipeline.sandbox.faults import Faults
from pipeline.sandbox.seed import check_seed
from pipeline.system.environment import PASSED_ON
from tests.support.runs import coverages, payments
from tests.support.world import CREDENTIALS, FEEDS, MakeWorld, World, seed

pytestmark = pytest.mark.slow  # starts programs

CANARY = "Canary-0f3b/+7e=9"  # stands for a secret; with signs that URLs and JSON spell otherwise
NAMES = ("CANVAS_CLIENT_ID", "CANVAS_CLIENT_SECRET", "CANVAS_PRIVATE_KEY", "CANVAS_TOKEN")


def spellings(secret: str) -> list[str]:
    """A secret as it would show in a URL, in JSON, in base64 and in hex."""
    coded = [b64encode(b"x" * n + secret.encode()).decode()[8:-4] for n in range(3)]
    return [secret, quote(secret, safe=""), json.dumps(secret)[1:-1], secret.encode().hex(), *coded]


def none_of(secret: str, *texts: str) -> None:
    for text in texts:
        for spelling in spellings(secret):
            assert spelling not in text


def loaded(folder: Path, environment: dict[str, str], canvas: str = "") -> Job:
    path = folder / "config.toml"
    path.write_text(
        f'[canvas]\nbase_url = "https://a.example"\ntoken_url = "https://b.example/"\n{canvas}\n{FEEDS}'
    )
    return load(path, environment=environment)


def kept(path: Path, content: str | bytes = CANARY) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(0o600)
    return path


# Files --------------------------------------------------------------------------------------------


def test_a_file_of_mode_0600_is_read_also_through_a_link(tmp_path: Path) -> None:
    """Kubernetes mounts each secret as a link."""
    kept(tmp_path / "held", f"{CANARY}\n")
    (tmp_path / "link").symlink_to(tmp_path / "held")
    for name in ("held", "link"):
        job = loaded(tmp_path, {"CANVAS_TOKEN_FILE": str(tmp_path / name)})
        assert job.canvas.credentials.token == CANARY


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620, 0o601, 0o666])
def test_a_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    kept(tmp_path / "held").chmod(mode)
    if os.getuid() == 0:
        os.chown(tmp_path / "held", 10_001, 10_001)
    with pytest.raises(ConfigError, match="others may read that file") as refused:
        loaded(tmp_path, {"CANVAS_TOKEN_FILE": str(tmp_path / "held")})
    assert refused.value.fix == f"chmod 600 {tmp_path / 'held'}"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can hand out what is root's")
@pytest.mark.parametrize(
    ("mode", "is_read"),
    [(0o440, True), (0o640, True), (0o660, False), (0o650, False), (0o644, False), (0o441, False)],
)
def test_of_roots_own_the_group_may_read_and_no_more(
    tmp_path: Path, mode: int, *, is_read: bool
) -> None:
    """So Kubernetes hands a secret to a service: 0440, root's, of the service's group."""
    kept(tmp_path / "held").chmod(mode)
    given = {"CANVAS_TOKEN_FILE": str(tmp_path / "held")}
    if is_read:
        assert loaded(tmp_path, given).canvas.credentials.token == CANARY
        return
    with pytest.raises(ConfigError, match="others may read that file"):
        loaded(tmp_path, given)


@pytest.mark.parametrize("name", [*NAMES, "CANVAS_INGEST_WEBHOOK_URL"])
@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("missing", "No such file"),
        ("folder", "Is a directory"),
        ("pipe", "is no file"),
        ("device", "is no file"),
        ("empty", "is empty"),
        ("blank", "is empty"),
        ("endless", "is too long"),
        ("no text", "holds no text"),
        ("utf-16", "holds no text"),
    ],
)
def test_a_file_that_holds_no_secret_is_refused_at_once_and_shown_nowhere(
    tmp_path: Path, name: str, what: str, why: str
) -> None:
    path = tmp_path / "held"
    if what == "folder":
        path.mkdir(mode=0o700)
    elif what == "pipe":
        os.mkfifo(path, 0o600)  # opening it would wait for whoever writes
    elif what == "device":
        path = Path("/dev/zero")
    elif what != "missing":
        content = {"empty": b"", "blank": b" \n", "no text": CANARY.encode() + b"\xff\xfe"}
        kept(path, content.get(what, CANARY.encode("utf-16")))
    if what == "endless":
        os.truncate(path, 2**40)  # a file with a hole: a terabyte that takes no room
    with pytest.raises(ConfigError, match=f"{name}_FILE: .*{why}") as refused:
        loaded(tmp_path, {f"{name}_FILE": str(path)})
    none_of(CANARY, str(refused.value), repr(refused.value))


@pytest.mark.parametrize("name", ["CANVAS_CLIENT_ID", "CANVAS_CLIENT_SECRET", "CANVAS_TOKEN"])
@pytest.mark.parametrize("sign", ["\r\n", "\n", "\0", "\x1b", "\x7f", "é", "\u200b", "\ud800"])
def test_a_secret_of_several_lines_or_beyond_ascii_is_refused_before_it_is_a_header(
    tmp_path: Path, name: str, sign: str
) -> None:
    with pytest.raises(ConfigError, match=f"{name}: holds a line break") as refused:
        loaded(tmp_path, {name: f"{CANARY}{sign}X: y"})
    none_of(CANARY, str(refused.value))


def test_a_secret_in_the_configuration_is_an_unknown_key_and_not_repeated(tmp_path: Path) -> None:
    for key in ("client_secret", "token", "private_key"):
        with pytest.raises(ConfigError, match=f"canvas.{key}: no such key") as refused:
            loaded(tmp_path, {}, f'{key} = "{CANARY}"')
        none_of(CANARY, str(refused.value))


# Masking ------------------------------------------------------------------------------------------


def test_no_repr_holds_a_secret(tmp_path: Path, keys: "Keys") -> None:
    secrets: list[dict[str, str]] = [
        {"CANVAS_TOKEN": CANARY},
        {"CANVAS_CLIENT_ID": CANARY, "CANVAS_CLIENT_SECRET": CANARY},
        {"CANVAS_CLIENT_ID": CANARY, "CANVAS_PRIVATE_KEY": keys.pem(keys.rsa)},
        {"CANVAS_TOKEN": "x", "CANVAS_INGEST_WEBHOOK_URL": f"https://a.example/{CANARY}"},
    ]
    for environment in secrets:
        job = loaded(tmp_path, environment, 'key_id = "one"')
        client = Client(job.canvas, Transport(1.0, 1), SystemClock(), random.Random(1))
        credentials = job.canvas.credentials
        shown = [repr(each) for each in (job, job.canvas, credentials, client, client._tokens)]
        shown += [str(each) for each in (job, credentials, client.__dict__["_options"])]
        none_of(CANARY, *shown)
        for line in keys.pem(keys.rsa).splitlines()[1:-1]:
            none_of(line, *shown)


async def echo(request: web.BaseRequest) -> web.StreamResponse:
    """A gateway that repeats what it was sent, in each place that an answer has."""
    told = request.headers.get("Authorization", "") + (await request.read()).decode()
    if request.path == "/metadata":
        statement = {"resourceType": "CapabilityStatement", "fhirVersion": [told]}
        return web.json_response(statement)
    if request.path == "/auth/token/":
        form = parse_qs(told)
        token = {"access_token": form["client_secret"][0] + "-token", "scope": told}
        return web.json_response(token)
    issue = {"code": "invalid", "details": {"text": told}, "diagnostics": told}
    body = {"resourceType": "OperationOutcome", "issue": [issue], "error": told}
    if request.method == "GET":
        return web.json_response({"resourceType": "Bundle", "note": told})
    headers = {"X-Echo": told.replace("\n", "")}
    status = 401 if request.path == "/auth/refused/" else 422
    return web.json_response({**body, "error_description": told}, status=status, headers=headers)


@pytest.mark.parametrize(
    ("command", "is_refused"), [("run", False), ("run", True), ("check", False), ("check", True)]
)
async def test_a_server_that_repeats_a_secret_gets_it_into_nothing_that_is_written(
    tmp_path: Path, command: str, is_refused: bool
) -> None:
    runner = web.ServerRunner(web.Server(echo), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    world = World(tmp_path, Sandbox(), url)  # its address is another server's
    world.write_eligibility(coverages(3))
    world.write_ledger(payments(5, patients=3))
    text = world.write_config().read_text()
    if is_refused:
        world.config.write_text(text.replace("/auth/token/", "/auth/refused/"))
    environment = {"CANVAS_CLIENT_ID": CANARY, "CANVAS_CLIENT_SECRET": CANARY}
    logged = () if is_refused else ("--log-format", "json", "--json")
    done = await cli(world.folder, command, "config.toml", "-v", *logged, env=environment)
    await runner.cleanup()
    ends = {("run", False): 3, ("run", True): 1, ("check", False): 0, ("check", True): 1}
    assert done.returncode == ends[command, is_refused], done.stdout + done.stderr
    none_of(CANARY, done.stdout, done.stderr)
    written = [path for path in world.folder.rglob("*") if path.is_file()]
    assert command == "check" or any(path.name == "report.html" for path in written)
    for path in written:
        none_of(CANARY, path.read_bytes().decode("latin-1"), str(path))


async def cli(
    folder: Path, *arguments: str, env: dict[str, str]
) -> "subprocess.CompletedProcess[str]":
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "pipeline", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, **env},
    )


async def test_an_error_that_nobody_catches_shows_no_secret(make_world: MakeWorld) -> None:
    """The interpreter's own hook, over the Python API, with the secret in each frame's locals."""
    world = await make_world()
    world.write_config()
    program = (
        "import asyncio, sys, warnings; import pipeline; from pipeline.canvas import transport\n"
        "class Planted(BaseException): pass\n"  # as a panic of a library is one
        "async def fail(self, method, url, headers, body): raise Planted(self, method)\n"
        "transport.Transport.exchange = fail\n"
        "world = pipeline.run_sync('config.toml')\n"
    )
    world.write_eligibility(coverages(3))
    world.write_ledger(payments(5, patients=3))
    environment = {"CANVAS_CLIENT_ID": CANARY, "CANVAS_CLIENT_SECRET": CANARY}
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-X", "dev", "-c", program],
        capture_output=True,
        text=True,
        check=False,
        cwd=world.folder,
        env={**os.environ, **environment, "PYTHONPATH": str(Path(pipeline.__file__).parents[1])},
    )
    assert "Traceback (most recent call last)" in done.stderr
    assert "Planted" in done.stderr
    none_of(CANARY, done.stdout, done.stderr)


# Memory, and other processes ----------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux' own")
def test_the_command_leaves_no_core_dump_and_nobody_of_the_same_user_reads_its_memory() -> None:
    program = (
        "import ctypes, resource; from pipeline.app.cli import cli\n"
        "most = resource.getrlimit(resource.RLIMIT_CORE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_CORE, (most, most))\n"
        "cli(['completion', 'bash'], standalone_mode=False)\n"
        "print(resource.getrlimit(resource.RLIMIT_CORE)[0], ctypes.CDLL(None).prctl(3))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "0 0"


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux' own")
def test_the_memory_and_the_environment_of_a_run_are_root_s(tmp_path: Path) -> None:
    """As the kernel has it of a process that is not dumpable: whose environ is no user's."""
    env = {**os.environ, "CANVAS_TOKEN": CANARY}
    with subprocess.Popen(
        [sys.executable, "-m", "pipeline", "sandbox", "--port", "0"],
        stdout=subprocess.PIPE,
        cwd=tmp_path,
        env=env,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            folder = Path(f"/proc/{process.pid}")
            assert CANARY not in (folder / "cmdline").read_text()
            limits = (folder / "limits").read_text().splitlines()
            (core,) = (line for line in limits if "core file size" in line)
            assert core.split()[4] == "0"
            assert (folder / "environ").stat().st_uid == 0
        finally:
            process.send_signal(signal.SIGABRT)  # where a core dump would be made
            process.wait()
    assert not list(tmp_path.iterdir())


async def test_no_secret_reaches_the_command_that_is_told_how_a_run_ended(
    make_world: MakeWorld,
) -> None:
    world = await make_world()
    world.write_config()
    told = world.folder / "told"
    command = f'[notify]\non = [0, 1, 2, 3, 4]\ncommand = ["/bin/sh", "-c", "env > {told}"]\n'
    world.config.write_text(world.config.read_text() + command)
    secrets = dict.fromkeys(NAMES, CANARY) | {
        "CANVAS_INGEST_WEBHOOK_URL": f"https://a.example/{CANARY}"
    }
    await cli(world.folder, "run", "config.toml", "-q", env=secrets)
    assert "PATH=" in told.read_text()
    none_of(CANARY, told.read_text())


async def test_the_command_that_is_told_gets_the_usual_variables_and_those_that_are_named(
    make_world: MakeWorld,
) -> None:
    """Secrets of other programs are in the environment of a service too."""
    world = await make_world()
    world.write_config()
    told = world.folder / "told"
    section = (
        f'[notify]\non = [0, 1, 2, 3, 4]\ncommand = ["/bin/sh", "-c", "env > {told}"]\n'
        'env = ["PAGER_ROUTE"]\n'
    )
    world.config.write_text(world.config.read_text() + section)
    usual = {"LANG": "C.UTF-8", "LC_TIME": "C", "TZ": "America/New_York", "PAGER_ROUTE": "night"}
    foreign = dict.fromkeys(("AWS_SECRET_ACCESS_KEY", "PGPASSWORD", "SOME_API_KEY"), CANARY)
    await cli(world.folder, "run", "config.toml", "-q", env={**usual, **foreign})
    given = dict(line.split("=", 1) for line in told.read_text().splitlines())
    assert usual.items() <= given.items()
    of_the_shell = {"PWD", "OLDPWD", "SHLVL", "_"}
    assert given.keys() - of_the_shell <= usual.keys() | set(PASSED_ON)
    none_of(CANARY, told.read_text())


@pytest.mark.parametrize("name", ["CANVAS_TOKEN", "PGPASSWORD"])
def test_a_secret_is_not_handed_to_that_command_by_its_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"notify\.env: must name no variable that begins with"):
        loaded(tmp_path, {}, f'[notify]\ncommand = ["true"]\nenv = ["{name}"]\n')


# Keys ---------------------------------------------------------------------------------------------


class Keys:
    """Keys of several kinds, made once."""

    def __init__(self) -> None:
        self.rsa = rsa.generate_private_key(65537, 2048)
        self.ec = ec.generate_private_key(ec.SECP384R1())

    @staticmethod
    def pem(key: Any, password: bytes = b"") -> str:
        secured = BestAvailableEncryption(password) if password else NoEncryption()
        return str(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, secured).decode())

    @staticmethod
    def jwk(key: Any, **other: Any) -> dict[str, Any]:
        kind = "RSA" if isinstance(key, rsa.RSAPrivateKey | rsa.RSAPublicKey) else "EC"
        reader: Any = {"RSA": jwt.algorithms.RSAAlgorithm, "EC": jwt.algorithms.ECAlgorithm}[kind]
        return {**json.loads(reader.to_jwk(key)), **other}

    def public(self) -> list[dict[str, Any]]:
        return [
            self.jwk(self.rsa.public_key(), kid="one"),
            self.jwk(self.ec.public_key(), kid="two"),
        ]


@pytest.fixture(scope="module")
def keys() -> Keys:
    return Keys()


@pytest.mark.parametrize("kind", ["rsa", "ec"])
@pytest.mark.parametrize("form", ["pem", "pkcs1", "jwk", "jwk without kid"])
def test_a_key_is_pem_or_a_jwk_and_names_its_algorithm(keys: Keys, kind: str, form: str) -> None:
    key: Any = getattr(keys, kind)
    traditional = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    text = {
        "pem": keys.pem(key),
        "pkcs1": traditional.decode(),
        "jwk": json.dumps(keys.jwk(key, kid="one")),
        "jwk without kid": json.dumps(keys.jwk(key)),
    }[form]
    read = private_key_of(text, "" if form == "jwk" else "one")
    assert (read.key_id, read.algorithm) == ("one", {"rsa": "RS384", "ec": "ES384"}[kind])


@pytest.fixture(scope="module")
def unfit(keys: Keys) -> dict[str, tuple[str, str]]:
    """Keys that are refused, each with a word of why."""
    jwk = keys.jwk(keys.rsa, kid="one")
    short = rsa.generate_private_key(65537, 1024)  # noqa: S505 - to be refused
    public = keys.rsa.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return {
        "public PEM": (public.decode(), "public half"),
        "public JWK": (json.dumps(keys.public()[0]), "public half"),
        "encrypted": (keys.pem(keys.rsa, b"password"), "encrypted"),
        "short": (keys.pem(short), "too short"),
        "another curve": (keys.pem(ec.generate_private_key(ec.SECP256R1())), "another kind"),
        "Ed25519": (keys.pem(ed25519.Ed25519PrivateKey.generate()), "another kind"),
        "symmetric": (json.dumps({"kty": "oct", "k": CANARY, "kid": "one"}), "another type"),
        "a set": (json.dumps({"keys": [jwk]}), "a set of them"),
        "no type": (json.dumps({"d": CANARY}), "another type"),
        "no number": (json.dumps({**jwk, "n": 5}), "damaged"),
        "no modulus": (json.dumps({"kty": "RSA", "d": CANARY, "e": "AQAB"}), "damaged"),
        "half of it": (json.dumps({k: v for k, v in jwk.items() if k != "qi"}), "damaged"),
        "other numbers": (json.dumps({**jwk, "d": jwk["n"]}), "damaged"),
        "no base64": (json.dumps({**jwk, "d": "\u00e9"}), "damaged"),
        "cut JSON": (json.dumps(jwk)[:-5], "no JSON"),
        "cut PEM": (keys.pem(keys.rsa)[:-100], "neither PEM nor a JWK"),
        "a password": (CANARY, "neither PEM nor a JWK"),
    }


UNFIT = [
    "public PEM",
    "public JWK",
    "encrypted",
    "short",
    "another curve",
    "Ed25519",
    "symmetric",
    "a set",
    "no type",
    "no number",
    "no modulus",
    "half of it",
    "other numbers",
    "no base64",
    "cut JSON",
    "cut PEM",
    "a password",
]


@pytest.mark.parametrize("what", UNFIT)
def test_a_key_that_cannot_sign_is_refused_and_shown_nowhere(
    tmp_path: Path, keys: Keys, unfit: dict[str, tuple[str, str]], what: str
) -> None:
    text, why = unfit[what]
    assert unfit.keys() == set(UNFIT)
    environment = {"CANVAS_CLIENT_ID": "me", "CANVAS_PRIVATE_KEY": text}
    with pytest.raises(ConfigError, match=f"CANVAS_PRIVATE_KEY: .*{why}") as refused:
        loaded(tmp_path, environment, 'key_id = "one"')
    shown = f"{refused.value!s}{refused.value!r}"
    none_of(CANARY, shown)
    none_of(str(keys.jwk(keys.rsa)["d"]), shown)
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__ or refused.value.__context__ is None


@pytest.mark.parametrize(
    ("key_id", "kid", "says"),
    [("", None, "canvas.key_id is missing"), ("two", "one", "canvas.key_id is not the kid")],
)
def test_a_key_needs_one_id(
    tmp_path: Path, keys: Keys, key_id: str, kid: str | None, says: str
) -> None:
    text = json.dumps(keys.jwk(keys.ec, **({"kid": kid} if kid else {})))
    with pytest.raises(ConfigError, match=says):
        loaded(tmp_path, {"CANVAS_PRIVATE_KEY": text}, f'key_id = "{key_id}"')


def test_a_secret_and_a_key_are_one_too_many(tmp_path: Path, keys: Keys) -> None:
    environment = {**CREDENTIALS, "CANVAS_PRIVATE_KEY": keys.pem(keys.ec)}
    with pytest.raises(ConfigError, match="are both set"):
        loaded(tmp_path, environment, 'key_id = "one"')


@pytest.mark.parametrize("kind", ["rsa", "ec"])
async def test_a_run_with_a_key_in_place_of_a_secret(tmp_path: Path, keys: Keys, kind: str) -> None:
    sandbox = Sandbox({**seed(20), "client_secret": "another", "public_keys": keys.public()})
    kept(tmp_path / "key.pem", keys.pem(getattr(keys, kind)))
    environment = {
        "CANVAS_CLIENT_ID": "sandbox",
        "CANVAS_PRIVATE_KEY_FILE": str(tmp_path / "key.pem"),
    }
    async with serve(sandbox) as url:
        world = World(tmp_path, sandbox, url)
        world.write_eligibility(coverages())
        world.write_ledger(payments(30))
        world.write_config(canvas=f'key_id = "{"one" if kind == "rsa" else "two"}"')
        job = load(world.config, environment=environment)
        checks = {check.what: check for check in await doctor.check(job)}
        algorithm = "RS384" if kind == "rsa" else "ES384"
        told = f"CANVAS_CLIENT_ID and CANVAS_PRIVATE_KEY ({algorithm}): there"
        assert checks["secrets"].message == told
        assert checks["token"].state is State.OK
        assert (await engine.run(job)).exit_code == 0
        assert len(world.effects) == 70

        world.write_config(canvas='key_id = "unknown"')
        job = load(world.config, environment=environment)
        checks = {check.what: check for check in await doctor.check(job)}
        assert checks["token"].state is State.WRONG
        assert "(invalid_client)" in checks["token"].message
        assert "registered under canvas.key_id" in checks["token"].todo


async def test_each_try_for_a_token_is_signed_anew(keys: Keys) -> None:
    """A server that failed after it had read an assertion takes it no second time."""
    forms: list[dict[str, list[str]]] = []

    async def token(request: web.BaseRequest) -> web.StreamResponse:
        forms.append(parse_qs((await request.read()).decode(), strict_parsing=True))
        answer = {"access_token": "made-up"}
        return web.json_response(answer, status=200 if len(forms) == 3 else 503)

    runner = web.ServerRunner(web.Server(token), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    key = private_key_of(keys.pem(keys.ec), "two")
    credentials = Credentials(f"{url}/auth/token/", "me", private_key=key, scope="a b")
    options = Options(url, credentials, rate_per_s=1_000.0, backoff=Backoff(0.001, 0.001))
    async with Transport(2.0, 1) as transport:
        client = Client(options, transport, SystemClock(), random.Random(1))
        await client.sign_in()
    await runner.cleanup()
    assert {form["client_assertion_type"][0] for form in forms} == {TYPE}
    assert all("client_secret" not in form and form["scope"] == ["a b"] for form in forms)
    claims = [
        jwt.decode(
            form["client_assertion"][0],
            keys.ec.public_key(),
            algorithms=["ES384"],
            audience=f"{url}/auth/token/",
            issuer="me",
        )
        for form in forms
    ]
    assert len({claim["jti"] for claim in claims}) == 3
    assert all(0 < claim["exp"] - claim["iat"] <= 300 for claim in claims)
    assert all(claim["sub"] == "me" for claim in claims)
    headers = [jwt.get_unverified_header(form["client_assertion"][0]) for form in forms]
    assert all((head["alg"], head["kid"]) == ("ES384", "two") for head in headers)


NOW = 1_800_000_000.0
URL = "https://canvas.example/auth/token/"


@pytest.mark.parametrize(
    ("fault", "claims", "headers"),
    [
        ("none", {}, {}),
        ("another audience", {"aud": "https://evil.example/"}, {}),
        ("its host only", {"aud": "https://canvas.example"}, {}),
        ("another issuer", {"iss": "somebody"}, {}),
        ("another subject", {"sub": "somebody"}, {}),
        ("expired", {"exp": NOW}, {}),
        ("too long a life", {"exp": NOW + 301}, {}),
        ("no end", {"exp": None}, {}),
        ("no id", {"jti": None}, {}),
        ("another key", {}, {"kid": "two"}),
        ("an unknown key", {}, {"kid": "three"}),
        ("no key", {}, {"kid": ""}),
    ],
)
def test_the_sandbox_takes_an_assertion_that_is_whole_and_each_once(
    keys: Keys, fault: str, claims: dict[str, Any], headers: dict[str, Any]
) -> None:
    start = {"public_keys": keys.public()}
    check_seed(start)
    auth = Auth(start, "0")
    good = {"iss": "sandbox", "sub": "sandbox", "aud": URL, "exp": NOW + 240, "jti": fault}
    content = {name: value for name, value in {**good, **claims}.items() if value is not None}
    signed = jwt.encode(content, keys.rsa, "RS384", {"kid": "one", **headers})
    assert asked(auth, signed) == (200 if fault == "none" else 401)
    assert asked(auth, signed) == 401, "a second time"


def asked(auth: Auth, signed: str, **other: str) -> int:
    form = {
        "grant_type": "client_credentials",
        "client_assertion_type": TYPE,
        "client_assertion": signed,
        **other,
    }
    body = "&".join(f"{name}={quote(value, safe='')}" for name, value in form.items())
    return auth.issue(body.encode(), URL, Faults(), NOW).status


def by_hand(head: dict[str, Any], claims: dict[str, Any], key: bytes) -> str:
    """An assertion that a library would not sign: with nothing, or with what everybody knows."""
    parts = [json.dumps(each).encode() for each in (head, claims)]
    signed = b".".join(urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    mac = hmac.digest(key, signed, "sha384") if key else b""
    return (signed + b"." + urlsafe_b64encode(mac).rstrip(b"=")).decode()


def test_the_sandbox_takes_no_other_signature_and_not_two_ways_at_once(keys: Keys) -> None:
    auth = Auth({"public_keys": keys.public()}, "0")
    good = {"iss": "sandbox", "sub": "sandbox", "aud": URL, "exp": NOW + 240, "jti": "1"}
    public = keys.rsa.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    head = {"kid": "one"}
    assert asked(auth, by_hand({**head, "alg": "none"}, good, b"")) == 401
    assert asked(auth, by_hand({**head, "alg": "HS384"}, good, public)) == 401
    assert asked(auth, jwt.encode(good, keys.rsa, "RS256", head)) == 401
    signed = jwt.encode(good, keys.rsa, "RS384", head)
    assert asked(auth, signed[:-4] + "AAAA") == 401
    assert asked(auth, "no.jwt.at all") == 401
    assert asked(auth, signed, client_assertion_type="x") == 401
    assert asked(auth, signed, client_secret="sandbox") == 400
    assert asked(auth, signed) == 200


async def test_a_token_that_is_no_header_is_refused() -> None:
    for token in ("", "a\r\nb", "\x7f", "é", "x" * 8_001, 5, None, ["x"], {"a": "b"}):

        async def answer(_: str, __: object, token: object = token) -> Reply:
            return Reply(200, {}, json.dumps({"access_token": token}).encode(), True, 0.1)

        tokens = Tokens(
            Credentials("https://a.example/", "me", "made-up"), answer, print, SystemClock()
        )
        with pytest.raises(AuthError, match="has no access_token"):
            await tokens.current()


def test_what_the_helpers_of_this_file_find() -> None:
    """The search for a secret would see it in each of its spellings."""
    for text in (CANARY, quote(CANARY, safe=""), b64encode(b"user:" + CANARY.encode()).decode()):
        with pytest.raises(AssertionError):
            none_of(CANARY, f"...{text}...")
