"""Checked addresses: of web services, files, objects and databases."""

import re
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import parse_qs, urlsplit

from pydantic import AfterValidator

from pipeline.canvas.hosts import LOOPBACK
from pipeline.reading.address import address_of, is_address, is_wild

_LABEL: Final = "[A-Za-z0-9](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
# Narrower than the standard: programs differ in what they make of a user, a backslash, a blank, a
# letter beyond ASCII or a port of six digits in an address, and this one decides where a secret goes.
_ADDRESS: Final = re.compile(
    rf"(?P<scheme>https?)://(?P<host>{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:]+\])(?::(?P<port>[0-9]{{1,5}}))?"
    r"(?P<path>/[\w.~!$&'()*+,;=:@%/-]*)?(?P<query>\?[\w.~!$&'()*+,;=:@%/?-]*)?",
    re.ASCII,
)


def secure_url(url: str) -> str | None:
    """Return an address that a secret may be sent to; None for any other.

    It is https, or http to this machine. `localhost` over http becomes 127.0.0.1, so that no name service
    is asked for its address.
    """
    match = _ADDRESS.fullmatch(url)
    if match is None or not 0 < int(match["port"] or 1) < 65_536:  # noqa: PLR2004 - ports
        return None
    if match["scheme"] == "https":
        return url
    if match["host"] == "localhost":
        return url.replace("localhost", "127.0.0.1", 1)
    return url if match["host"] in LOOPBACK else None


def is_loopback(url: str) -> bool:
    """Return whether a web address names this machine."""
    match = _ADDRESS.fullmatch(url)
    return match is not None and match["host"] in LOOPBACK


def located(text: str, folder: Path) -> Path | str:
    """Return a path that starts at the folder of the configuration; the address of an object as it is.

    `folder` has no links in it, so that `..` at the beginning means its parent.
    """
    if is_address(text):
        return text
    while text.startswith("../"):
        folder, text = folder.parent, text.removeprefix("../").lstrip("/")
    return folder / text


def _is_location(text: str) -> str:
    if is_address(text):
        address_of(text)
    return text


def _is_one_location(text: str) -> str:
    if is_address(text) and is_wild(address_of(text).key):
        raise ValueError("must be one object: no *, ? or [ in its key")
    return text


# A path from the configuration file's folder on, or the address of an object; or a glob of either.
Location = Annotated[str, AfterValidator(_is_location)]
OneLocation = Annotated[str, AfterValidator(_is_one_location)]


def _is_database(url: str) -> str:
    """Check an address of PostgreSQL: no password, and a verified connection to another machine."""
    if not url:
        return url
    try:
        parts = urlsplit(url)
        host, options = parts.hostname or "", parse_qs(parts.query)
        is_fit = parts.scheme in {"postgresql", "postgres"} and url.isprintable()
        has_password = parts.password is not None or "password" in options
    except ValueError:
        is_fit, has_password, host, options = False, False, "", {}
    if not is_fit:
        raise ValueError(
            "must be an address of PostgreSQL: postgresql://user@host:5432/database?sslmode=verify-full"
        )
    if has_password:
        raise ValueError(
            "must hold no password: set PGPASSWORD, or name a password file (PGPASSFILE)"
        )
    is_near = host in {"", "localhost", "127.0.0.1", "::1"} and not {"host", "hostaddr"} & {
        *options
    }
    mode = options.get("sslmode", [""])[-1]
    if not is_near and mode not in {"verify-full", "verify-ca"}:
        raise ValueError(
            "must have sslmode=verify-full where the database is on another machine (and sslrootcert=FILE, where its certificate is your own)"
        )
    return url


DatabaseAddress = Annotated[str, AfterValidator(_is_database)]
