"""Decode untrusted files in a process of their own, into a copy that can be trusted.

A damaged Parquet file or workbook can make the library that decodes it panic, abort, hang, or ask for any
amount of memory, and nothing in the same process survives an abort. The sender's bytes are therefore decoded
by a child with limits on memory and time, which knows no secret, opens no other file and reaches no network
(`decoder.py`). It writes the columns as text into a Parquet file, and this process reads only that copy.
"""

import errno
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn

from pipeline.errors import InputError
from pipeline.reading.bounds import DECODING_BYTES_MAX, DECODING_S_MAX

PARQUET: Final = "Parquet file"
WORKBOOK: Final = "workbook"
X12: Final = "X12 interchange"
NO_ROOM: Final = "no room"  # a refusal of the child; `count` is the number of the system's error
_OS_ERROR: Final = re.compile(r"\(os error (\d+)\)")  # as polars writes it
_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_SMALLER: Final = {
    PARQUET: "in smaller row groups",
    WORKBOOK: "in several workbooks",
    X12: "in several files",
}
_POLARS: Final = {
    "POLARS_IDEAL_MORSEL_SIZE": "2000",  # as the next, to need little memory
    "POLARS_ROW_GROUP_PREFETCH_SIZE": "1",
    "POLARS_IMPORT_INTERVAL_AS_STRUCT": "1",  # else polars panics at a column of intervals that is not mapped
}


@dataclass(frozen=True, slots=True)
class Decoded:
    """The content of a decoded file. The copy has its columns but those of `unreadable`, as text, in this order.

    Attributes:
        header: The names of the columns.
        rows: The number of rows.
        unreadable: Columns of lists, structs, maps, bytes or durations.
        fractional: Columns of numbers that may have decimals.
        instants: Columns of times with a zone.
        zoneless: Columns of INT96: times whose zone the file does not name.
        skipped: The number of rows that were left out, by kind.
        lines: Of a workbook, where the number of a row in the sheet and its own begin to differ by another number
            (`reading/lines.py`).
    """

    header: tuple[str, ...]
    rows: int
    unreadable: frozenset[str] = frozenset()
    fractional: frozenset[str] = frozenset()
    instants: frozenset[str] = frozenset()
    zoneless: frozenset[str] = frozenset()
    skipped: Mapping[str, int] = field(default_factory=dict)
    lines: Sequence[tuple[int, int]] = ()


def run_decoder(
    kind: str,
    path: Path,
    copy: Path,
    options: Mapping[str, Any],
    seconds_max: float = DECODING_S_MAX,
    name: str = "",
) -> dict[str, Any]:
    """Decode a file into `copy` by a child, and return its answer.

    Args:
        kind: PARQUET, WORKBOOK or X12.
        path: The file.
        copy: The path of the copy.
        options: JSON values for the decoder of this kind.
        seconds_max: The time that the child may take.
        name: The file's name in messages, if it is another one.

    Raises:
        InputError: The child gave no answer, or there is no room for the copy.
    """
    name = name or path.name
    request = json.dumps([kind, str(path.absolute()), str(copy.absolute()), options])
    modules = os.pathsep.join(each for each in sys.path if each)
    try:
        child = subprocess.run(
            [sys.executable, "-P", "-m", "pipeline.reading.decoder"],
            input=request.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # a panic may write anything there
            env={"PYTHONPATH": modules, **_POLARS},
            timeout=seconds_max,
            check=False,
        )
    except subprocess.TimeoutExpired:
        _refuse(kind, name, f"the {kind} was not decoded within {seconds_max:,.0f} s")
    if child.returncode != 0:
        _refuse(kind, name, f"the {kind} cannot be decoded ({_ending(child.returncode)})")
    try:
        answer: dict[str, Any] = json.loads(child.stdout)
    except ValueError:
        _refuse(kind, name, f"the {kind} cannot be decoded (its process gave no answer)")
    if answer.get("refused") == NO_ROOM:
        raise InputError(
            f"the {kind} cannot be copied: {os.strerror(answer['count'])}",
            "make room under state.dir, or under the folder for temporary files",
            file=name,
        )
    return answer


def _ending(code: int) -> str:
    """Return how a child ended that gave no answer."""
    if code > 0:
        return f"its process ended with {code}"
    try:
        return f"its process was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"its process was ended by signal {-code}"


def _refuse(kind: str, name: str, message: str) -> NoReturn:
    limit = f"{DECODING_BYTES_MAX >> 30} GiB of memory and {DECODING_S_MAX} s"
    raise InputError(
        message,
        f"ask the sender for it again, as CSV or {_SMALLER[kind]}: it may be damaged, and {limit} are all that decoding may take",
        file=name,
    )


# The child ----------------------------------------------------------------------------------------


def refusal(error: BaseException, why: str) -> dict[str, Any]:
    """Return the answer for an error of the library: `why`, or NO_ROOM if the disk is full."""
    matched = _OS_ERROR.search(str(error))
    number = int(matched[1]) if matched else 0
    return {"refused": NO_ROOM if number in _FULL else why, "count": number}


def limit() -> None:
    """Bound the child's memory and time, and ignore the signals that interrupt the run, so that the copy is whole."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if sys.platform != "win32":
        import resource  # noqa: PLC0415 - not on Windows

        resource.setrlimit(resource.RLIMIT_DATA, (DECODING_BYTES_MAX, DECODING_BYTES_MAX))
        seconds_max = DECODING_S_MAX * (os.cpu_count() or 1)
        resource.setrlimit(resource.RLIMIT_CPU, (seconds_max, seconds_max))
