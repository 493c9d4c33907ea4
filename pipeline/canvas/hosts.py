"""The hosts that a URL in an answer may name, and the name that a message gives any other host. Pure.

A URL in an answer is hostile input: it is compared, and its host is printed only if it is a plain name.
"""

import re
from contextlib import suppress
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from pipeline.errors import WrongHost

_LABEL: Final = r"[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?"  # RFC 1123, 2.1; `_` as in container names
_NAME: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*", re.ASCII)
_NAME_MAX: Final = 253  # RFC 1035, 3.1, as text
LOOPBACK: Final = frozenset({"127.0.0.1", "[::1]", "localhost"})  # this machine, in a URL
FOREIGN_MAX: Final = 3  # creates in a row: one may be a stray answer, three are a setting


def is_host_name(text: str) -> bool:
    """Return whether a text is a host name in lower case, or an IPv4 address, without a port."""
    return len(text) <= _NAME_MAX and _NAME.fullmatch(text) is not None


def foreign_host(url: str, hosts: frozenset[str]) -> str:
    """Return the host that a URL names if it is none of `hosts`; "" if it names none, or one of them."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return ""
    return "" if host in hosts else host


def displayed_host(host: str) -> str:
    """Return the name of an answer's host for a message; a text that is no plain name is not repeated."""
    return f"the host {masked_host(host)}" if is_host_name(host) else "a host that is no plain name"


def masked_host(host: str) -> str:
    """Return a host of an answer without labels that have digits, which may be an id, a day or an amount of a row.

    An IP address is shown.
    """
    with suppress(ValueError):
        return str(ip_address(host.strip("[]")))
    return ".".join("[…]" if any(map(str.isdigit, label)) else label for label in host.split("."))


def foreign_locations(host: str) -> WrongHost:
    """Return the error of a run in which `FOREIGN_MAX` creates in a row named a foreign host."""
    return WrongHost(
        f"the answers to {FOREIGN_MAX} creates in a row have a Location on {displayed_host(host)}, "
        "which is not that of canvas.base_url and not in canvas.location_hosts",
        "if it is a host of your Canvas or its gateway, add it to canvas.location_hosts, or have the gateway "
        "rewrite Location; then run again: a search settles the rows that are in doubt",
    )
