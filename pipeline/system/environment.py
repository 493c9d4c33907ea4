"""Secrets in the environment, and the variables that a child process gets.

The kernel shows the environment that a program was started with in /proc for as long as it runs. Secrets are therefore
set aside while children are started, and reach a worker through a pipe.
"""

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

PREFIX: Final = "CANVAS_"  # variables with it are ours, and most of them secret
_SECRETS: Final = frozenset({"PGPASSWORD"})  # of the journal's database
# Variables that locate programs and folders, or set the language and the trusted authorities.
PASSED_ON: Final = (
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "TZ", "LANG", "LANGUAGE", "SSL_CERT_FILE", "SSL_CERT_DIR",
)  # fmt: skip
_PASSED_ON_PREFIX: Final = "LC_"

SPILL: Final = "POLARS_OOC_SPILL_DIR"  # for rows that polars moves out of memory; unset, all users share a folder

_aside: dict[str, str] = {}
_holders = 0
_lock = threading.Lock()


def variables() -> Mapping[str, str]:
    """Return the environment, with the variables that are set aside."""
    with _lock:
        return {**os.environ, **_aside}


def secrets() -> dict[str, str]:
    """Return the variables that a child must not be started with."""
    return {name: value for name, value in variables().items() if is_secret(name)}


def is_secret(name: str) -> bool:
    """Return whether a variable may hold a secret of ours."""
    return name.startswith(PREFIX) or name in _SECRETS


def hide() -> None:
    """Remove the secrets from this process's environment: only `variables` returns them from now on."""
    global _holders  # noqa: PLW0603 - the environment is the process's own
    with _lock:
        _holders += 1
        for name in filter(is_secret, list(os.environ)):
            _aside[name] = os.environ.pop(name)


@contextmanager
def hidden() -> Iterator[None]:
    """Remove the secrets from the environment until the block ends; blocks may overlap."""
    global _holders  # noqa: PLW0603 - the same
    hide()
    try:
        yield
    finally:
        with _lock:
            _holders -= 1
            if not _holders:
                os.environ.update(_aside)
                _aside.clear()


def of_command(named: tuple[str, ...]) -> dict[str, str]:
    """Return the environment of a command that the configuration names, with the variables of `named`."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in PASSED_ON or name.startswith(_PASSED_ON_PREFIX) or name in named
    }


def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
