"""Copy standard input into the run's own folder; from then on it is a file.

It can be read once. A second reader in this process gets the copy, as long as it is there.
"""

import os
import shutil
import sys
from pathlib import Path
from typing import BinaryIO, Final

from pipeline.errors import ConfigError, InputError
from pipeline.files import FILE_MODE

STANDARD_INPUT: Final = "-"  # in place of a path
ORIGIN: Final = "standard input"  # in reports
_MAGIC: Final = {
    b"\x1f\x8b": "csv.gz",
    b"\x28\xb5\x2f\xfd": "csv.zst",
    b"PAR1": "parquet",
    b"PK\x03\x04": "xlsx",
}
_PART_BYTES: Final = 1 << 20
_copies: list[Path] = []


def require_piped(names: list[str]) -> None:
    """Raise ConfigError if several feeds read standard input, or if it is a terminal.

    Args:
        names: The feeds whose input is `-`.
    """
    if len(names) > 1:
        raise ConfigError(
            f"--input: standard input is named for {' and '.join(names)}",
            "name it for one feed, and files for the others",
        )
    if names and (sys.stdin is None or sys.stdin.isatty()):
        raise ConfigError(
            f"--input {names[0]}=-: standard input is a terminal",
            f"pipe a file into it: canvas-ingest ... --input {names[0]}=- < FILE",
        )


def copy_standard_input(folder: Path) -> Path:
    """Copy standard input into a folder.

    Args:
        folder: For the copy; it has no other files.

    Returns:
        The path of the copy. Its ending says what it holds: text, .gz, .zst, Parquet or .xlsx.

    Raises:
        InputError: It is empty, cannot be copied, or was read before.
    """
    before = _copies[-1] if _copies else None
    if before is not None and before.exists():
        path = folder / before.name
        path.hardlink_to(before)
        return path
    if before is not None:
        raise InputError("it was read before", "start the command again", file=ORIGIN)
    try:
        path = _copy(sys.stdin.buffer, folder)
    except OSError as error:
        raise InputError(
            f"it cannot be copied into state.dir: {os.strerror(error.errno or 0)}",
            "check the disk of state.dir: there must be room for all of it",
            file=ORIGIN,
        ) from None
    _copies.append(path)
    return path


def _copy(stream: BinaryIO, folder: Path) -> Path:
    head = stream.read(4)
    ending = next((each for magic, each in _MAGIC.items() if head.startswith(magic)), "csv")
    path = folder / f"standard-input.{ending}"
    with path.open("xb") as file:
        path.chmod(FILE_MODE)
        file.write(head)
        shutil.copyfileobj(stream, file, _PART_BYTES)
    return path
