"""A real nginx made small: a gateway in front of one address, in a temporary folder, on loopback."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

_STARTS_WITHIN_S: Final = 10.0
_ENDS_WITHIN_S: Final = 10.0
_CONFIGURATION: Final = """
daemon off;
{user}
worker_processes 1;
pid {folder}/pid;
events {{ worker_connections 256; }}
http {{
  access_log {folder}/access.log;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port}{tls};
    {server}
    location / {{
      proxy_pass {upstream};
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      {location}
    }}
  }}
}}
"""


def missing() -> str:
    """Return why no nginx can be started here; "" if one can."""
    return "" if _program() else "nginx is not installed (Debian: nginx-light)"


def _program() -> str | None:
    """Return the path of nginx: Debian keeps it in a folder that is not in every user's PATH."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")


@contextmanager
def served(
    upstream: str, *, server: str = "", location: str = "", certificate: Path | None = None
) -> Iterator[str]:
    """Start a gateway in front of `upstream`; yield its address.

    Args:
        upstream: Address of what it stands before.
        server: Further directives of its server.
        location: Further directives of its only location.
        certificate: PEM file with certificate and key; then it speaks TLS.
    """
    port = _free_port()
    if certificate is not None:
        server += f"\nssl_certificate {certificate}; ssl_certificate_key {certificate};"
    with TemporaryDirectory(prefix="ingest-nginx-") as folder:
        path = Path(folder) / "nginx.conf"
        path.write_text(
            _CONFIGURATION.format(
                user="user root;" if os.getuid() == 0 else "",
                folder=folder,
                port=port,
                tls=" ssl" if certificate is not None else "",
                server=server,
                upstream=upstream,
                location=location,
            )
        )
        process = subprocess.Popen(
            [_program() or "nginx", "-p", folder, "-c", str(path), "-e", f"{folder}/error.log"]
        )
        try:
            _wait_for(port, process, Path(folder) / "error.log")
            yield f"{'http' if certificate is None else 'https'}://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(_ENDS_WITHIN_S)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    until_s = time.monotonic() + _STARTS_WITHIN_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > until_s:
                why = log.read_text() if log.exists() else "no log"
                raise RuntimeError(f"nginx does not start: {why}") from None
            time.sleep(0.02)
        else:
            return
