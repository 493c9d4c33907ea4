"""The child process that decodes an untrusted file: it confines itself before it loads the decoder.

It reads the file and writes the copy, and can open only its own program besides: no other file, no socket.
"""

import json
import os
import sys
import sysconfig
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from pipeline.files import FILE_MODE
from pipeline.reading.decoding import PARQUET, WORKBOOK, X12, limit
from pipeline.system.confinement import close_memory, confine

_LIBRARIES: Final = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache")
_MODULES: Final = {
    PARQUET: "pipeline.reading.parquet",
    WORKBOOK: "pipeline.reading.workbook",
    X12: "pipeline.reading.x12",
}
_DECODERS: Final = ("polars", "_polars_runtime_32", "python_calamine", "pyx12")


def main() -> None:
    """Read the request, confine this process, decode, answer."""
    kind, path, copy, options = json.loads(sys.stdin.buffer.read())
    close_memory()
    os.close(os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, FILE_MODE))
    confine([Path(path), *_program()], [Path(copy)])
    decoder = import_module(_MODULES[kind])  # polars starts threads, which must be confined, too
    limit()
    sys.stdout.write(json.dumps(decoder.answer(path, copy, options)))


def _program() -> list[Path]:
    """Return the folders of Python, the decoding libraries and this package."""
    folders = [
        Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")
    ]
    for name in _DECODERS:
        found = find_spec(name)
        folders += map(Path, (found.submodule_search_locations or ()) if found else ())
    return [*folders, Path(__file__).parents[1], *map(Path, _LIBRARIES)]


if __name__ == "__main__":
    main()
