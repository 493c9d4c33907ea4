"""A real forward proxy made small: tinyproxy on loopback, as long as a test takes."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

_STARTS_WITHIN_S: Final = 10.0


class Tinyproxy:
    """One proxy. `url` names it; `connects` are the targets that it was asked to connect to."""

    def __init__(self, folder: Path, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.log = folder / "tinyproxy.log"

    @property
    def connects(self) -> list[str]:
        lines = self.log.read_text().splitlines()
        return [line.split(" CONNECT ")[1].split()[0] for line in lines if " CONNECT " in line]


@contextmanager
def proxying(folder: Path, *, credentials: str = "", more: str = "") -> Iterator[Tinyproxy]:
    """Serve a proxy. `credentials`: "user password"; `more`: further lines of its configuration."""
    program = shutil.which("tinyproxy")
    if program is None:
        why = "tinyproxy is not installed (Debian: tinyproxy)"
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    proxy = Tinyproxy(folder, port)
    settings = folder / "tinyproxy.conf"
    lines = [f"Port {port}", "Listen 127.0.0.1", "Timeout 30", f'LogFile "{proxy.log}"']
    lines += ["LogLevel Connect", *([f"BasicAuth {credentials}"] if credentials else []), more]
    settings.write_text("\n".join(lines) + "\n")
    process = subprocess.Popen([program, "-d", "-c", settings], stdout=subprocess.DEVNULL)
    try:
        until_s = time.monotonic() + _STARTS_WITHIN_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > until_s:
                    raise
                time.sleep(0.02)
        yield proxy
    finally:
        process.terminate()
        process.wait(_STARTS_WITHIN_S)
