"""A cluster as the examples set one up: their files, their certificates, a scheduler and two workers.

What is theirs but for paths, addresses and ports is run on loopback. All that passes between scheduler,
workers and command is kept on its way, and searched for values of rows and for secrets.
"""

import asyncio
import json
import os
import re
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from pipeline.app.config.load import load
from pipeline.sandbox.faults import Faults
from tests.support.certificates import Authority
from tests.support.planted import (
    PLANTED,
    Shown,
    configure,
    coverage,
    forms_of,
    found_in,
    payment,
    write,
)
from tests.support.postgres import Server, missing, served
from tests.support.world import CREDENTIALS, LEDGER_ONLY, MakeWorld, World, patient_key

distributed = pytest.importorskip("distributed")
pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
SCHEDULER = "dask.example.org"
WORKERS = ("worker-1", "worker-2")
# Every process of the cluster keeps what it gives to others, and what it is given, as it is before TLS.
KEPT = """
import os
from distributed.comm import tcp

if not hasattr(tcp.to_frames, "is_kept"):  # a preload may be loaded twice
    file = open(os.path.join(os.environ["KEPT_IN"], f"{os.getpid()}.kept"), "ab", buffering=0)
    given, taken = tcp.to_frames, tcp.from_frames

    async def to_frames(*arguments, **options):
        frames = await given(*arguments, **options)
        file.write(b"".join(map(bytes, frames)))
        return frames

    async def from_frames(frames, *arguments, **options):
        file.write(b"".join(map(bytes, frames)))
        return await taken(frames, *arguments, **options)

    to_frames.is_kept = True
    tcp.to_frames, tcp.from_frames = to_frames, from_frames
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def certificates(folder: Path, *names: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [EXAMPLES / "cluster-certificates", folder, *names],
        capture_output=True,
        text=True,
        check=False,
    )


@dataclass
class Cluster:
    """A scheduler and workers, by the units' own command lines. Only the workers have secrets."""

    folder: Path
    secrets: dict[str, str]
    port: int = field(default_factory=free_port)
    web_port: int = field(default_factory=free_port)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return f"tls://127.0.0.1:{self.port}"

    def section(self) -> str:
        tls = self.folder / "tls"
        return (
            f'[engine]\nkind = "dask"\nscheduler = "{self.address}"\npartitions = 4\n'
            f'ca_file = "{tls}/ca.pem"\ncert_file = "{tls}/command.pem"\nkey_file = "{tls}/command.key"\n'
        )

    def security(self) -> Any:
        tls = self.folder / "tls"
        return distributed.Security(
            require_encryption=True,
            tls_ca_file=str(tls / "ca.pem"),
            tls_client_cert=str(tls / "command.pem"),
            tls_client_key=str(tls / "command.key"),
        )

    def said(self) -> bytes:
        return b"".join(path.read_bytes() for path in sorted(self.folder.glob("*.said")))

    def passed(self) -> bytes:
        return b"".join(path.read_bytes() for path in sorted(self.folder.glob("*.kept")))

    def begin(self, *hosts: str) -> None:
        """Start them, and wait until the workers among them are there."""
        before = self._registered()
        for host in hosts:
            self._begin(host)
        workers = len(set(hosts) - {SCHEDULER})
        until_s = time.monotonic() + 30
        while self._registered() < before + workers:
            assert time.monotonic() < until_s, self.said()[-2_000:]
            time.sleep(0.05)

    def _registered(self) -> int:
        return self.said().count(b"Register worker")

    def _begin(self, host: str) -> None:
        kind = "scheduler" if host == SCHEDULER else "worker"
        words, environment = _unit(f"dask-{kind}.service")
        assert environment == {"DASK_CONFIG": "/etc/canvas-ingest/dask.yaml"}
        here = self._files(host)
        changed = {
            "8786": str(self.port),
            "9000": "0",  # two of them are on one machine here
            "9001": "0",
            "127.0.0.1:8787": f"127.0.0.1:{self.web_port}",
            "tls://dask.example.org:8786": self.address,
            "%H": host,
            "/run/dask-worker": str(here),
        }
        with (self.folder / f"{host}.said").open("ab") as log:
            self.processes[host] = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "dask",
                    *(changed.get(word, word) for word in words[1:]),
                    "--host",
                    "127.0.0.1",
                ],
                cwd=self.folder,
                env={
                    "PATH": os.environ["PATH"],
                    "HOME": str(self.folder),
                    "PYTHONPATH": str(ROOT),
                    "KEPT_IN": str(self.folder),
                    f"DASK_DISTRIBUTED__{kind.upper()}__PRELOAD": str(self.folder / "kept.py"),
                    "DASK_CONFIG": str(here / "dask.yaml"),
                    # Dask's operator sets it so, TLS or not; the argument counts.
                    "DASK_SCHEDULER_ADDRESS": "tcp://127.0.0.1:9",
                    **(self.secrets if kind == "worker" else {}),
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _files(self, host: str) -> Path:
        """What is in /etc/canvas-ingest of a host."""
        here, tls = self.folder / host, self.folder / "tls"
        here.mkdir(mode=0o700, exist_ok=True)
        shutil.copy(tls / "ca.pem", here / "ca.pem")
        shutil.copy(tls / f"{host}.pem", here / "host.pem")
        shutil.copy(tls / f"{host}.key", here / "host.key")
        settings = (EXAMPLES / "dask.yaml").read_text()
        (here / "dask.yaml").write_text(settings.replace("/etc/canvas-ingest/tls", str(here)))
        return here

    def end(self) -> None:
        for process in reversed(self.processes.values()):
            process.terminate()
            try:
                process.wait(20)
            finally:
                process.kill()


def _unit(name: str) -> tuple[list[str], dict[str, str]]:
    """What a unit starts, and with which environment."""
    text = (EXAMPLES / name).read_text()
    started = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
    set_ = dict(
        each.split("=", 1) for each in re.findall(r"^Environment=(.*)$", text, re.MULTILINE)
    )
    return shlex.split(started[0]), set_


@contextmanager
def started(folder: Path, secrets: dict[str, str]) -> Iterator[Cluster]:
    """A cluster of two workers, with certificates of its own."""
    assert certificates(folder / "tls", SCHEDULER, *WORKERS, "command").returncode == 0
    (folder / "kept.py").write_text(KEPT)
    cluster = Cluster(folder, secrets)
    try:
        cluster.begin(SCHEDULER, *WORKERS)
        yield cluster
    finally:
        cluster.end()


@pytest.fixture(scope="module")
def secrets(postgres_server: Server) -> dict[str, str]:
    return {
        "CANVAS_CLIENT_ID": "planted-id-4711",
        "CANVAS_CLIENT_SECRET": "planted-secret-Wm3",
        "PGPASSWORD": postgres_server.password,
    }


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, secrets: dict[str, str]) -> Iterator[Cluster]:
    with started(tmp_path_factory.mktemp("cluster"), secrets) as found:
        yield found


async def ran(
    world: World, environment: dict[str, str], *arguments: str
) -> tuple[int, bytes, bytes]:
    """The command, in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "pipeline", arguments[0], str(world.config), *arguments[1:],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment},
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    return process.returncode or 0, out, err


async def test_a_plan_and_a_run_go_through_it_and_nothing_of_a_row_or_a_secret_does(
    make_world: MakeWorld, cluster: Cluster, secrets: dict[str, str], database: str
) -> None:
    world = await make_world(patients=12)
    world.sandbox.auth._client_id = secrets["CANVAS_CLIENT_ID"]
    world.sandbox.auth._client_secret = secrets["CANVAS_CLIENT_SECRET"]
    write(
        world, "eligibility", [*(coverage(number) for number in range(8)), coverage(9, order="x")]
    )
    write(world, "ledger", [payment(number) for number in range(12)])
    where = ("--engine", "dask", "--scheduler", cluster.address)

    # With SQLite nothing but planning is done by workers, who need no secret for it.
    configure(world, more=cluster.section())
    code, out, err = await ran(world, secrets, "plan", "-v")
    assert code == 3, err
    assert b"20 to create" in out
    assert b"make_part" in cluster.passed()
    assert not world.effects
    shutil.rmtree(world.folder / "state")

    configure(world, more=f'[state]\nurl = "{database}"\n{cluster.section()}')
    code, out, err = await ran(world, secrets, "run", *where, "-v", "--log-format", "json")
    assert code == 3, err
    assert len(world.effects) == 20

    shown = Shown()
    shown.left_in(world.folder)
    shown.add("stdout", out)
    shown.add("stderr", err)
    shown.add("what scheduler and workers say", cluster.said())
    passed = cluster.passed()
    assert b"send_on_worker" in passed
    assert str(world.config).encode() not in passed, (
        "not even the path: it is in a file of state.dir"
    )
    shown.add("what passed", passed)
    assert not shown.leaks
    tokens = {f"token {n}": token for n, token in enumerate(world.sandbox.auth._tokens)}
    assert len(tokens) >= 2, "workers have their own"
    for name, secret in {**secrets, **tokens}.items():
        forms = forms_of(secret).values()
        where_found = [
            where for where, text in shown.texts.items()
            if not where.endswith(" environ") and any(form in text for form in forms)
        ]  # fmt: skip
        assert not where_found, name


@pytest.mark.parametrize("how", ["tcp", "another authority", "no certificate"])
async def test_who_has_no_certificate_of_the_cluster_is_not_let_in(
    cluster: Cluster, tmp_path: Path, how: str
) -> None:
    """The scheduler, and a worker, whose address others may learn."""
    found = re.search(rb"Start worker at: +tls://(127.0.0.1:\d+)", cluster.said())
    assert found is not None
    other = Authority(tmp_path, "another authority").pem()
    for address in (f"127.0.0.1:{cluster.port}", found[1].decode()):
        if how == "tcp":
            reader, writer = await asyncio.open_connection(*address.split(":"))
        else:
            context = ssl.create_default_context(cafile=cluster.folder / "tls" / "ca.pem")
            context.check_hostname = False
            if how == "another authority":
                context.load_cert_chain(other)
            host, port = address.split(":")
            reader, writer = await asyncio.open_connection(host, port, ssl=context)
        with suppress(ssl.SSLError, ConnectionError):
            writer.write(b"\0" * 64)
            assert await asyncio.wait_for(reader.read(), 10) == b"", "it hangs up and says nothing"
        writer.close()


async def test_no_page_shows_what_is_going_on(cluster: Cluster) -> None:
    ports = [
        cluster.web_port,
        *map(int, re.findall(rb"dashboard at: +127.0.0.1:(\d+)", cluster.said())),
    ]
    pages = (
        "/status",
        "/info/main/workers.html",
        "/json/counts.json",
        "/metrics",
        "/api/v1/get_workers",
    )
    async with ClientSession() as session:
        for port in ports:
            for page, status in (("/health", 200), *((page, 404) for page in pages)):
                async with session.get(f"http://127.0.0.1:{port}{page}") as answer:
                    assert (page, answer.status) == (page, status)


@pytest.mark.parametrize("by", ["a signal", "the scheduler"])
async def test_a_worker_that_is_told_to_end_finishes_what_is_in_flight(
    make_world: MakeWorld, cluster: Cluster, secrets: dict[str, str], database: str, by: str
) -> None:
    """As `systemctl stop dask-worker` does, a node that is drained, and Dask: no payment is in doubt."""
    world = await make_world(patients=40, faults=Faults(latency_s=(0.3, 0.4)))
    world.sandbox.auth._client_id = secrets["CANVAS_CLIENT_ID"]
    world.sandbox.auth._client_secret = secrets["CANVAS_CLIENT_SECRET"]
    world.write_ledger(
        [(f"t{n}", patient_key(n % 40), f"{n + 1}.00", "") for n in range(480)]
    )  # 16 s
    world.write_config(
        feeds=f'[state]\nurl = "{database}"\nlease_s = 3.0\n{cluster.section()}{LEDGER_ONLY}',
        rate_per_s=30.0,
    )
    async with distributed.Client(
        cluster.address, security=cluster.security(), asynchronous=True
    ) as client:
        running = asyncio.ensure_future(ran(world, secrets, "run", "--json"))
        while len(world.effects) < 20:
            assert not running.done(), running.result()
            await asyncio.sleep(0.05)
        # Dask decides who gets how many partitions: one worker may have none.
        sending = await client.processing()
        known = (await client.scheduler.identity())["workers"]
        name = known[max(sending, key=lambda address: len(sending[address]))]["name"]
        leaving = cluster.processes[name]
        if by == "a signal":
            leaving.send_signal(signal.SIGTERM)
        else:
            await client.retire_workers(names=[name], close_workers=True, remove=True)
    code, out, err = await running
    shown = leaving.wait(20)
    cluster.begin(name)
    assert shown == 0
    assert code == 0, err
    assert len(world.effects) == 480
    lease_records = json.loads(out)["workers"]
    assert {each["ended"] for each in lease_records} == {"done", "stopped"}
    assert len(lease_records) > 4, "somebody else went on"


# The database, over TLS ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    """A server whose certificate is for 127.0.0.1 only; and its authority."""
    if why := missing():
        pytest.skip(why)
    authority = Authority(tmp_path_factory.mktemp("authority"))
    with served(certificate=authority.pem()) as server:
        yield server, authority.path


async def test_a_database_is_reached_over_tls_and_by_its_own_name_only(
    make_world: MakeWorld, with_tls: tuple[Server, Path], tmp_path: Path
) -> None:
    server, root = with_tls
    world = await make_world(patients=4)
    world.write_ledger([(f"t{n}", patient_key(n), f"{n + 1}.00", "") for n in range(4)])
    told = {**CREDENTIALS, "PGPASSWORD": server.password}
    other = Authority(tmp_path, "another authority").path

    async def ended(url: str, environment: dict[str, str] = told) -> tuple[int, str]:
        world.write_config(feeds=f'[state]\nurl = "{url}"\n{LEDGER_ONLY}')
        code, out, err = await ran(world, environment, "run")
        return code, (out + err).decode()

    name = server.create()
    wrong_host = server.url(name, sslmode="verify-full", sslrootcert=str(root)).replace(
        "127.0.0.1", "localhost"
    )
    for url, said in (
        (server.url(name, sslmode="verify-full", sslrootcert=str(other)), "certificate verify failed"),
        (wrong_host, 'does not match host name "localhost"'),
        (server.url(name, sslmode="verify-full", sslrootcert="/none"), 'root certificate file "/none" does not exist'),
    ):  # fmt: skip
        code, text = await ended(url)
        assert code == 1, text
        assert said in text
        assert "sslrootcert" in text
    good = server.url(name, sslmode="verify-full", sslrootcert=str(root))
    code, text = await ended(good, {**told, "PGPASSWORD": "wrong"})
    assert (code, "password authentication failed" in text) == (1, True), text
    assert not world.effects
    code, text = await ended(good)
    assert code == 0, text
    assert len(world.effects) == 4
    with server.connect(name) as connection:
        looked = "SELECT count(*) FROM pg_stat_ssl WHERE ssl AND pid = pg_backend_pid()"
        assert connection.execute(looked).fetchone() == (1,)


async def test_a_database_without_tls_is_not_talked_to(
    make_world: MakeWorld, database: str, postgres_server: Server
) -> None:
    world = await make_world(patients=1)
    world.write_config(feeds=f'[state]\nurl = "{database}?sslmode=verify-full"\n{LEDGER_ONLY}')
    world.write_ledger([("t", patient_key(0), "1.00", "")])
    told = {**CREDENTIALS, "PGPASSWORD": postgres_server.password}
    code, out, err = await ran(world, told, "run")
    assert code == 1
    assert b"SSL" in out + err
    assert not world.effects


# The page -----------------------------------------------------------------------------------------


def test_the_configuration_of_the_page_is_one(tmp_path: Path) -> None:
    (text,) = re.findall(
        r"```toml\n(.*?)```", (ROOT / "docs" / "cluster.md").read_text(), re.DOTALL
    )
    assert certificates(tmp_path / "tls", "host").returncode == 0
    (tmp_path / "config.toml").write_text(text)
    job = load(tmp_path / "config.toml", environment=CREDENTIALS)
    assert job.database is not None
    assert (job.engine.kind, job.engine.partition_count) == ("dask", 16)
    assert job.engine.key_file == str(tmp_path / "tls" / "host.key")


def test_certificates_are_made_once_and_for_names_only(tmp_path: Path) -> None:
    assert certificates(tmp_path / "tls", "a").returncode == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "tls").iterdir()}
    assert set(before) == {"ca.pem", "ca.key", "ca.srl", "a.pem", "a.key"}
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "tls").iterdir()} == {0o600}
    for names, said in (
        (("a",), "is there already"),
        (("ca",), 'and not "ca"'),
        (("b/../c",), "a name is letters"),
        (("b", "-c"), "a name is letters"),
        ((), "usage:"),
    ):
        refused = certificates(tmp_path / "tls", *names)
        assert (refused.returncode, said in refused.stderr) == (2, True), refused.stderr
    assert {path.name: path.read_bytes() for path in (tmp_path / "tls").iterdir()} == before
    assert certificates(tmp_path / "tls", "b").returncode == 0
    assert (tmp_path / "tls" / "ca.pem").read_bytes() == before["ca.pem"], "the same authority"


# What workers log ---------------------------------------------------------------------------------


def test_on_a_worker_too_logs_are_an_allow_list(tmp_path: Path) -> None:
    """Whoever starts a worker is Dask, which has said nothing of ours: the first job that is loaded does."""
    (tmp_path / "config.toml").write_text(
        f'[canvas]\nbase_url = "https://example.com"\n{LEDGER_ONLY}'
    )
    code = (
        "import structlog, sys, pickle\n"
        "from pipeline.app.config.load import load\n"
        "again = pickle.loads(pickle.dumps(load(sys.argv[1], environment={}).again))\n"
        "again()\n"
        f"structlog.get_logger().warning('lease_lost', partition=3, patient={PLANTED[0]!r})\n"
        f"structlog.get_logger().warning({PLANTED[1]!r})\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, tmp_path / "config.toml"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=True,
    )
    assert b"lease_lost" in done.stderr
    assert b"partition=3" in done.stderr
    assert not found_in(done.stdout + done.stderr)
