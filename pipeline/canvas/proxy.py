"""The forward proxy between this machine and Canvas: its address, its credentials, its own errors.

An https target is reached by CONNECT (RFC 9110, 9.3.6): the proxy sees its host and port, and then
TLS from end to end. Before CONNECT has succeeded no byte of a request has left, so no error of it
says anything about a write, and none is an answer of Canvas.
"""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

PROXY: Final = "proxy"  # the problem of a proxy that cannot be reached, or cannot reach Canvas now
PROXY_REFUSES: Final = "proxy refuses"  # ... that will refuse until credentials or its rules change
AUTHENTICATION_REQUIRED: Final = 407
_UNAUTHORIZED: Final = 401  # tinyproxy's word for wrong credentials
_FORBIDDEN: Final = 403
_GATEWAY: Final = frozenset({502, 503, 504})
_ENVIRONMENT: Final = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
_HOST: Final = re.compile(r"[A-Za-z0-9.:-]{1,253}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Proxy:
    """The proxy's address and credentials. Both credentials are "" if it asks for none."""

    url: str  # http://host:port
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    @property
    def address(self) -> str:
        """Return the proxy's host and port."""
        return self.url.removeprefix("http://")

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers that the proxy gets with each request that it reads (RFC 7617)."""
        if not self.username:
            return {}
        pair = f"{self.username}:{self.password}".encode()
        return {"Proxy-Authorization": f"Basic {base64.b64encode(pair).decode()}"}

    def refusal(self, status: int, target: str) -> tuple[str, str]:
        """Return the problem, and its detail, of an answer of the proxy itself. `target`: host:port."""
        if status in {AUTHENTICATION_REQUIRED, _UNAUTHORIZED}:
            how = "refuses the credentials" if self.username else "asks for credentials"
            return PROXY_REFUSES, f"the proxy {self.address} {how} ({status})"
        if status == _FORBIDDEN:
            return PROXY_REFUSES, f"the proxy {self.address} does not allow {target} (403)"
        what = f"cannot reach {target}" if status in _GATEWAY else f"does not connect to {target}"
        return PROXY, f"the proxy {self.address} {what} ({status})"


def unused(environment: Mapping[str, str]) -> str:
    """Return a warning if the environment names a proxy; "" if not. Nothing but its host is shown."""
    name = next((each for each in _ENVIRONMENT if environment.get(each)), "")
    if not name:
        return ""
    value = environment[name]
    try:
        host = urlsplit(value if "://" in value else f"//{value}").hostname or ""
    except ValueError:
        host = ""
    named = f"names the proxy {host}" if _HOST.fullmatch(host) else "names a proxy"
    return f"{name} {named}, and canvas.proxy is empty: requests to Canvas go out directly"
