"""Coverage-guided fuzzing of the readers of text: `python -m tests.proof.fuzz CORPUS [libFuzzer's options]`.

atheris finds new bytes by the branches that they reach; the judge is that of `tests/proof/input.py`.
It is no dependency of the project: install it into an environment of its own (`pip install atheris`).
The first bytes choose the file's name, encoding and delimiter; the rest is the file. An empty CORPUS is
begun with good files and the hostile pieces. A crash is written beside, and is tried again by naming it.
"""

import sys
from pathlib import Path
from random import Random
from tempfile import mkdtemp
from typing import Any, Final

import atheris  # type: ignore[import-untyped]

with atheris.instrument_imports(
    include=["pipeline.reading.inspect", "pipeline.reading.read", "pipeline.rows"]
):
    from pipeline.reading import (
        inspect,  # noqa: F401 - instrumented
        read,  # noqa: F401 - instrumented
    )
    from pipeline.rows.feed import Feed, Kind
    from tests.proof import input as hostile

_NAMES: Final = ("a.csv", "a.tsv", "a.csv.gz", "a.csv.zst")
_ENCODINGS: Final = ("utf-8", "windows-1252", "utf-16", "shift_jis")
_DELIMITERS: Final = (None, ",", "\t", "|")
_COLUMNS: Final = {"patient": "MRN", "amount": "Amount", "transaction_id": "TXN"}


class Violation(Exception):
    """A finding of the judge."""


def try_one(data: bytes) -> None:
    """Try one file, and its amounts one by one."""
    if not data:
        return
    choice, data = data[0], data[1:]
    final: Any = "any" if choice & 64 else "require"
    feed = Feed(
        "ledger",
        Kind.LEDGER,
        "",
        _COLUMNS,
        encoding=_ENCODINGS[choice >> 2 & 3],
        delimiter=_DELIMITERS[choice >> 4 & 3],
        final_newline=final,
    )
    tally = hostile.Tally()
    hostile.judge_file(_NAMES[choice & 3], data, feed, _FOLDER, tally)
    text = data[:24].decode("utf-8", "ignore")
    faults = [*tally.violations, *hostile.amount_faults(text, "positive")]
    if faults:
        raise Violation(faults[0])


_FOLDER: Final = Path(mkdtemp())


def begin(corpus: Path) -> None:
    """Write seeds, if there are none."""
    corpus.mkdir(exist_ok=True)
    if any(corpus.iterdir()):
        return
    for seed in range(100):
        made = hostile.written(Random(seed))
        known = made.feed.encoding in _ENCODINGS and made.name in _NAMES
        choice = _ENCODINGS.index(made.feed.encoding) << 2 | _NAMES.index(made.name) if known else 0
        (corpus / f"{seed}").write_bytes(bytes([choice | 64]) + made.data)


if __name__ == "__main__":
    hostile.begin()
    begin(Path(sys.argv[1]))
    atheris.Setup(sys.argv, try_one)
    atheris.Fuzz()
