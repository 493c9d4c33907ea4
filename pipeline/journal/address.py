"""Resolve the addresses of a journal's database, and decide whether a password may be sent there.

libpq takes parameters from the URL, from PG* variables and from service files, and knows several hosts in one URL.
So its own parser decides: what it would connect to is what is checked, and what is checked is passed on.
"""

import socket
from ipaddress import ip_address
from typing import Final

from psycopg import pq
from psycopg.conninfo import conninfo_to_dict

from pipeline.errors import ConfigError
from pipeline.system.environment import variables

_VERIFYING: Final = frozenset({"verify-full", "verify-ca"})
_DECIDED: Final = ("host", "hostaddr", "sslmode")  # what the check is about


def parameters_of(url: str) -> dict[str, str]:
    """Return the parameters of a connection to the database of `url`, with what the environment adds to its host.

    Raises ConfigError if it is on another machine, or may be, and the server's certificate would not be verified;
    psycopg.ProgrammingError if the URL is none.
    """
    given = {name: str(value) for name, value in conninfo_to_dict(url).items()}
    if "service" in given:
        raise ConfigError(
            "state.url: must not name a service, because its file can name any host",
            "write host and database into state.url",
        )
    whole = {**_defaults(), **given}
    is_verified = whole.get("sslmode") in _VERIFYING
    if not is_verified and not all(_is_here(address) for address in _addresses(whole)):
        raise ConfigError(
            "state.url: the database is on another machine, and the connection is not verified"
            + ("" if _hosts(given) else " (its host comes from PGHOST, PGHOSTADDR or PGSERVICE)"),
            "add sslmode=verify-full to state.url (and sslrootcert=FILE if its certificate is your own)",
        )
    password = variables().get("PGPASSWORD")  # it may be set aside
    known = {"password": password} if password else {}
    return {**known, **given, **{name: whole[name] for name in _DECIDED if whole.get(name)}}


def _defaults() -> dict[str, str]:
    """Return what libpq takes from the environment and its service file, and its own defaults."""
    return {
        option.keyword.decode(): option.val.decode()
        for option in pq.Conninfo.get_defaults()
        if option.val is not None
    }


def _hosts(parameters: dict[str, str]) -> str:
    return parameters.get("hostaddr") or parameters.get("host") or ""


def _addresses(parameters: dict[str, str]) -> list[str]:
    """Return the addresses that libpq tries: those of `hostaddr`, or of `host` if that names none."""
    hosts = parameters.get("host", "").split(",")
    numbers = parameters.get("hostaddr", "").split(",")
    if numbers == [""]:
        return hosts
    names = hosts if len(hosts) == len(numbers) else [""] * len(numbers)
    return [number or name for number, name in zip(numbers, names, strict=True)]


def _is_here(host: str) -> bool:
    """Return whether a host is this machine: a socket, a loopback address, or a name of nothing else."""
    if host == "" or host.startswith(("/", "@")):
        return True
    try:
        found = (
            {str(each[4][0]) for each in socket.getaddrinfo(host, None)}
            if host == "localhost"
            else {host}
        )
        return bool(found) and all(ip_address(each).is_loopback for each in found)
    except (OSError, ValueError):  # a name
        return False
