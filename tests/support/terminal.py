"""Commands on a real terminal: a pty of a given size, and what was written to it."""

import asyncio
import fcntl
import os
import pty
import re
import struct
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_ERASED = re.compile(r"\x1b\[2K|\x1b\[1A|\r(?!\n)")


@dataclass
class Shown:
    """What a command wrote to its terminal. `first_s`: when it first wrote something."""

    code: int
    raw: str
    first_s: float
    parts: list[str] = field(default_factory=list)

    @property
    def lines(self) -> list[str]:
        """Return the lines that are left on the screen, without colours and the line of progress."""
        return [
            ESCAPE.sub("", _ERASED.split(line)[-1])
            for line in self.raw.replace("\r\n", "\n").split("\n")
        ]

    @property
    def moments(self) -> list[str]:
        """Return what the line of progress showed, one after another."""
        shown = (ESCAPE.sub("", each).strip("\n") for each in _ERASED.split(self.raw))
        return [each for each in shown if each.strip()]


async def on_terminal(
    arguments: Sequence[str],
    columns: int = 80,
    rows: int = 24,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Shown:
    """Run the command on a pty of that size."""
    main, worker = pty.openpty()
    fcntl.ioctl(worker, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    written: list[bytes] = []
    started, first_s = time.monotonic(), 0.0

    def read() -> None:
        nonlocal first_s
        try:
            written.append(os.read(main, 65536))
            first_s = first_s or time.monotonic() - started
        except OSError:  # its other end is closed
            loop.remove_reader(main)
            ended.set()

    kept = {name: value for name, value in os.environ.items() if name not in _OF_TERMINALS}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pipeline", *arguments, cwd=folder,
        env={**kept, "TERM": "xterm-256color", **(environment or {})},
        stdin=worker, stdout=worker, stderr=worker,
    )  # fmt: skip
    os.close(worker)
    loop.add_reader(main, read)
    code = await process.wait()
    await ended.wait()
    os.close(main)
    return Shown(code, b"".join(written).decode(), first_s)


_OF_TERMINALS = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TERM")
