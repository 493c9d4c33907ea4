"""A server that is faster than any client, so that the client is measured.

nginx, where it is installed; else the small one below, which is also what tells when the first write
arrived. Both take every token, find nothing, and give a created resource an id in `Location`.

    python -m bench.server        prints its address, and at the first write the clock's seconds
"""

import asyncio
import itertools
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, cast

from bench.rounds import alone_on, environment

_READY_S_MAX: Final = 10.0
_SIGNED_IN: Final = '{"access_token":"bench","expires_in":36000,"token_type":"Bearer"}'
_NOTHING: Final = '{"resourceType":"Bundle","type":"searchset","total":0}'
_NGINX: Final = """
daemon off;
master_process off;
pid {folder}/pid;
error_log stderr crit;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  client_body_buffer_size 64k;
  keepalive_requests 100000000;
  default_type application/json;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location = /auth/token/ {{ return 200 '{token}'; }}
    location / {{
      if ($request_method = POST) {{ add_header Location http://127.0.0.1:{port}$uri/$request_id; return 201 '{{}}'; }}
      return 200 '{nothing}';
    }}
  }}
}}
"""


def has_nginx() -> bool:
    """Return whether the system has nginx."""
    return shutil.which("nginx") is not None


@contextmanager
def fast_server() -> Iterator[str]:
    """Yield the address of a server on a core of its own."""
    if not has_nginx():
        with own_server() as (url, _):
            yield url
        return
    with TemporaryDirectory() as name, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        config = Path(name) / "nginx.conf"
        config.write_text(_NGINX.format(folder=name, port=port, token=_SIGNED_IN, nothing=_NOTHING))
        command = ["nginx", "-p", name, "-e", "stderr", "-c", str(config)]
        with _started(command) as process:
            _wait_for(port, process)
            yield f"http://127.0.0.1:{port}"


@contextmanager
def own_server() -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """Yield the address of the small server, and its process, for its output."""
    with _started([sys.executable, "-m", "bench.server"]) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process


@contextmanager
def _started(command: list[str]) -> Iterator["subprocess.Popen[str]"]:
    with (
        alone_on(-2),
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as process,
        alone_on(-1),
    ):
        try:
            yield process
        finally:
            process.terminate()


def _wait_for(port: int, process: "subprocess.Popen[str]") -> None:
    give_up_s = time.monotonic() + _READY_S_MAX
    while process.poll() is None and time.monotonic() < give_up_s:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    sys.exit(f"nginx did not come up (exit code {process.poll()}): what it said stands above")


# The small one ------------------------------------------------------------------------------------


class _Answering(asyncio.Protocol):
    """HTTP/1.1, limited to the needs of our clients: a request has a length or no body."""

    numbers = itertools.count(1)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport of a new connection."""
        self._transport, self._waiting = cast("asyncio.Transport", transport), b""

    def data_received(self, data: bytes) -> None:
        """Answer each request that has arrived as a whole."""
        self._waiting += data
        while (end := self._waiting.find(b"\r\n\r\n")) >= 0:
            head = self._waiting[:end]
            _, _, after = head.lower().partition(b"\r\ncontent-length:")
            end += 4 + int(after.partition(b"\r\n")[0] or b"0")
            if len(self._waiting) < end:
                return
            self._waiting = self._waiting[end:]
            self._transport.write(self._answer(head))

    def _answer(self, head: bytes) -> bytes:
        method, path, _ = head.partition(b"\r\n")[0].decode().split()
        if path == "/auth/token/":
            return _http("200 OK", _SIGNED_IN)
        if method != "POST":
            return _http("200 OK", _NOTHING)
        number = next(self.numbers)
        if number == 1:
            print(time.monotonic(), flush=True)
        return _http("201 Created", "{}", f"Location: {path}/{number:032x}\r\n")


def _http(status: str, body: str, headers: str = "") -> bytes:
    length = f"Content-Type: application/json\r\nContent-Length: {len(body)}"
    return f"HTTP/1.1 {status}\r\nDate: {formatdate(usegmt=True)}\r\n{headers}{length}\r\n\r\n{body}".encode()


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(_Answering, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    import uvloop

    uvloop.run(_serve())
