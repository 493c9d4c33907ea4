"""Read the audit log."""

from collections.abc import Iterator
from typing import Final

from pipeline.journal import audit_log
from pipeline.journal.audit_log import Line
from pipeline.journal.journal import Journal

_LINES_A_QUERY: Final = 50_000


def read_lines(journal: Journal, key: str | None = None) -> Iterator[tuple[Line, str | None]]:
    """Yield the lines of one write, or of all, in order, each with its hash (None if only a later one's is kept)."""
    after = 0
    while True:
        lines = journal.rows("trail", {"after": after, "key": key, "count": _LINES_A_QUERY})
        yield from ((Line(*line[1:-1]), line[-1]) for line in lines)
        if len(lines) < _LINES_A_QUERY:
            return
        after = lines[-1][0]


def length(journal: Journal) -> int:
    """Return the number of lines, including those of partitions."""
    own = journal.read(lambda: journal.head[0])
    if "lines_of_parts" not in journal.store.sql:
        return own
    return own + int(journal.rows("lines_of_parts", {})[0][0])


def length_after(journal: Journal, run_id: str) -> int:
    """Return the number of lines when a run was reported, just before its end was entered."""
    return int(journal.rows("length_after", {"run_id": run_id})[0][0])


def first_break(journal: Journal) -> int:
    """Return the number of the first line that breaks the chain of hashes; 0 if it is whole."""
    return audit_log.first_break(read_lines(journal))


def touched_since(journal: Journal, number: int, hashed: str) -> set[str] | None:
    """Return the keys in the lines after line `number`; None if the log has no such line with the hash `hashed`."""

    def read() -> set[str] | None:
        line = journal.execute("line_hash", {"number": number}).fetchone()
        if number and (line is None or line[0] != hashed):
            return None
        return {found[0] for found in journal.select("touched", {"number": number})}

    return journal.read(read)
