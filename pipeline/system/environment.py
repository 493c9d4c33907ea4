"""Which variables of the environment are secrets of ours, and which of them a child process gets.

The kernel shows the environment that a program was started with in /proc for as long as it runs. So secrets are set
aside while children are started, and reach a worker through a pipe.
"""

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

PREFIX: Final = "CANVAS_"  # what begins so is ours, and most of it secret
_SECRETS: Final = frozenset({"PGPASSWORD"})  # of the journal's database
# What a program needs in order to be found, to speak the right language and to trust the right servers.
PASSED_ON: Final = (
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "TZ", "LANG", "LANGUAGE", "SSL_CERT_FILE", "SSL_CERT_DIR",
)  # fmt: skip
_PASSED_ON_PREFIX: Final = "LC_"

SPILL: Final = "POLARS_OOC_SPILL_DIR"  # where polars puts rows if memory is short; else a folder that all users share

_aside: dict[str, str] = {}
_holders = 0
_lock = threading.Lock()


def variables() -> Mapping[str, str]:
    """Return the environment with what is set aside."""
    with _lock:
        return {**os.environ, **_aside}


def secrets() -> dict[str, str]:
    """Return the variables that a child must not be started with."""
    return {name: value for name, value in variables().items() if is_secret(name)}


def is_secret(name: str) -> bool:
    """Return whether a variable may hold a secret of ours."""
    return name.startswith(PREFIX) or name in _SECRETS


def hide() -> None:
    """Take the secrets out of this process's environment: only `variables` knows them from now on."""
    global _holders  # noqa: PLW0603 - the environment is the process's own
    with _lock:
        _holders += 1
        for name in filter(is_secret, list(os.environ)):
            _aside[name] = os.environ.pop(name)


@contextmanager
def hidden() -> Iterator[None]:
    """Take the secrets out of the environment until the block ends; blocks may overlap."""
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
