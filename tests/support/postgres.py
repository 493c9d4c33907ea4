"""A real PostgreSQL made small: a cluster in a temporary folder, on loopback, as long as the tests take."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from secrets import token_hex
from tempfile import mkdtemp
from typing import Any, Final

import psycopg

_USER: Final = "ingest"
_STARTS_WITHIN_S: Final = 30.0


@cache
def missing() -> str:
    """Return why no server can be started here; "" if one can."""
    if not _program("initdb"):
        return "PostgreSQL's server programs are not installed (Debian: postgresql)"
    if os.getuid() == 0 and not _owner():
        return "PostgreSQL does not run as root, and there is no user postgres"
    return ""


def _program(name: str) -> str:
    """Return the path of a program of the server: Debian keeps them outside of PATH."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    found = [shutil.which(name), *(str(folder / name) for folder in reversed(folders))]
    return next((each for each in found if each and Path(each).exists()), "")


def _owner() -> str | None:
    """Return the user that the server runs as, if we are root."""
    import pwd  # noqa: PLC0415 - there is none on Windows

    if os.getuid() != 0:
        return None
    with suppress(KeyError):
        return pwd.getpwnam("postgres").pw_name
    return None


class Server:
    """One server. `kill` and `stop` may be followed by `start`, on the same port with the same data."""

    def __init__(
        self,
        *,
        base: Path | None = None,
        auth: str = "scram-sha-256",
        certificate: Path | None = None,
        **settings: str,
    ) -> None:
        """Make the cluster. `certificate`: PEM with its key, shown to clients that ask for TLS."""
        self.folder = Path(mkdtemp(dir=base, prefix="ingest-postgres-"))
        self.password = token_hex(16)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": "200",
            "shared_buffers": "64MB",
            **settings,
        }
        self._process: subprocess.Popen[bytes] | None = None
        owner, told = _owner(), self.folder / "password"
        told.write_text(self.password)
        if owner:
            shutil.chown(self.folder, owner)
            shutil.chown(told, owner)
        self._run(
            "initdb", "-D", str(self.data), "-U", _USER, "-A", auth, "--pwfile", str(told),
            "-E", "UTF8", "--locale", "C", "--no-sync",
        )  # fmt: skip
        told.unlink()
        if certificate:
            shown = self.folder / "server.pem"
            shutil.copyfile(certificate, shown)
            shown.chmod(0o600)
            if owner:
                shutil.chown(shown, owner)
            self._settings |= {"ssl": "on", "ssl_cert_file": str(shown), "ssl_key_file": str(shown)}

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def url(self, database: str = "postgres", **options: str) -> str:
        """Return the address of a database, without the password."""
        more = "&".join(f"{name}={value}" for name, value in options.items())
        return f"postgresql://{_USER}@127.0.0.1:{self.port}/{database}" + (more and f"?{more}")

    def connect(self, database: str = "postgres") -> "psycopg.Connection[Any]":
        return psycopg.connect(self.url(database), password=self.password, autocommit=True)

    def create(self, template: str = "template1") -> str:
        """Make a new database, and return its name."""
        name = f"t{token_hex(6)}"
        with self.connect() as connection:
            connection.execute(f'CREATE DATABASE {name} TEMPLATE "{template}"')
        return name

    def drop(self, name: str) -> None:
        with self.connect() as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def start(self) -> None:
        """Start it, and wait until it answers."""
        told = [part for each in self._settings.items() for part in ("-c", "=".join(each))]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [_program("postgres"), "-D", str(self.data), "-p", str(self.port), *told],
                stdout=log, stderr=log, cwd=self.folder, user=_owner(), start_new_session=True,
            )  # fmt: skip
        until_s = time.monotonic() + _STARTS_WITHIN_S
        while True:
            try:
                self.connect().close()
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > until_s:
                    raise
                time.sleep(0.02)
            else:
                return

    def stop(self) -> None:
        """Stop it as an operator does who does not wait for clients."""
        self._signal(signal.SIGINT)

    def kill(self) -> None:
        """Stop it as a power cut does, except that the disk keeps its content."""
        self._signal(signal.SIGQUIT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(_STARTS_WITHIN_S)
            self._process = None

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [_program(program), *arguments],
            check=True,
            cwd=self.folder,
            user=_owner(),
            stdout=subprocess.DEVNULL,
        )


@contextmanager
def served(**options: Any) -> Iterator[Server]:
    """Yield a server that is removed in the end."""
    server = Server(**options)
    try:
        server.start()
        yield server
    finally:
        server.remove()
