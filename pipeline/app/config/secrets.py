"""Secrets: from environment variables, or from files that those name and that other users may not read.

They are never in the TOML file: its sections reject keys that they do not know (`extra="forbid"`), and have none
for a secret.
"""

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pipeline.errors import ConfigError
from pipeline.files import OTHERS

_SECRET_BYTES_MAX: Final = 64 * 1024


def secret(name: str, environment: Mapping[str, str], *, is_one_line: bool = True) -> str:
    """Return a secret from the variable `name`, or from the file that `name`_FILE names; "" if neither is set.

    Raises:
        ConfigError: The file is missing, open to others, or no text; or the secret has more than one line.
    """
    path = environment.get(f"{name}_FILE", "")
    text = (_held_in(path, name) if path else environment.get(name, "")).strip()
    if is_one_line and not (text.isascii() and text.isprintable()):  # RFC 6749, appendix A
        raise ConfigError(
            f"{name}: holds a line break, or another character that no secret has",
            "copy it anew, as one line",
        )
    return text


def _held_in(path: str, name: str) -> str:
    """Return the text of the file of a secret.

    The opened file is checked, because the path may name another one by then.
    """
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise _no_secret(name, "that is no file")
            if _is_open_to_others(status):
                raise ConfigError(f"{name}_FILE: others may read that file", f"chmod 600 {path}")
            content = file.read(_SECRET_BYTES_MAX + 1)
    except OSError as error:
        raise _no_secret(name, str(error.strerror)) from None
    if not content.strip() or len(content) > _SECRET_BYTES_MAX:
        raise _no_secret(name, "that file is too long" if content.strip() else "that file is empty")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise _no_secret(name, "that file holds no text") from None


def _is_open_to_others(status: os.stat_result) -> bool:
    """Return whether other users may read the file of a secret.

    A file of root may be readable by its group (0640, 0440): so Kubernetes gives one to a service. This is
    the rule of PostgreSQL for keys.
    """
    open_bits = 0o037 if status.st_uid == 0 else OTHERS
    return os.name == "posix" and bool(status.st_mode & open_bits)


def _open_without_waiting(path: str, flags: int) -> int:
    """Open a file; a pipe without a writer does not block."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _no_secret(name: str, why: str) -> ConfigError:
    return ConfigError(f"{name}_FILE: {why}", "name a file that holds the secret, mode 0600")


def require_readable(name: str, path: Path) -> None:
    """Raise ConfigError if the file of the option `name` cannot be read, or is a key that others may read."""
    try:
        status = path.stat()
        path.open("rb").close()
    except OSError as error:
        raise ConfigError(f"{name}: {error.strerror}", f"check the path {path}") from None
    if name.endswith("key_file") and _is_open_to_others(status):
        raise ConfigError(f"{name}: others may read that file", f"chmod 600 {path}")
