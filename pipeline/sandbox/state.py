"""The state file: one JSON line for each commit, appended, read again at the next start.

A line is handed to the operating system before its answer is sent, so it outlives the process
(not a power loss). A torn last line, of a process killed while writing, is cut off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import FileIO
    from pathlib import Path

    from pipeline.sandbox.rules import Json


class StateFile:
    """A reader and writer of the lines of one file."""

    def __init__(self, path: Path) -> None:
        """Name the file; nothing is opened yet."""
        self._path = path
        self._file: FileIO | None = None

    def lines(self) -> Iterator[Json]:
        """Yield what was committed, oldest first; nothing if there is no file yet."""
        if not self._path.exists():
            return
        kept = 0
        with self._path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                try:
                    yield orjson.loads(line)
                except orjson.JSONDecodeError:
                    raise ValueError(f"{self._path}: line {number} is damaged") from None
                kept += len(line)
        if kept < self._path.stat().st_size:
            with self._path.open("r+b") as file:
                file.truncate(kept)

    def append(self, line: Json) -> None:
        """Append one line, opening the file (mode 0600) if it is not open."""
        if self._file is None:
            self._path.touch(mode=0o600)
            self._file = self._path.open("ab", buffering=0)
        self._file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))

    def close(self) -> None:
        """Close the file; the next append opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None
