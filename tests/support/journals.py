"""Changes that a test makes to a journal by hand, for faults that its digests would keep from the code under test."""

import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path


def forget_plans(state: Path) -> None:
    """Leave the journal in a state folder as an older version does: without the digests of plans."""
    with closing(sqlite3.connect(state / "journal.sqlite")) as journal, journal:
        journal.execute("DROP TRIGGER trail_is_append_only_update")
        journal.execute("UPDATE trail SET detail = '' WHERE event = 'planned'")


def enter_index(state: Path, feed: str) -> None:
    """Have the journal take the index of a feed's unchanged rows for the one that it wrote."""
    digest = hashlib.sha256((state / f"held-{feed}.parquet").read_bytes()).hexdigest()
    with closing(sqlite3.connect(state / "journal.sqlite")) as journal, journal:
        found = journal.execute(
            "UPDATE meta SET value = ? WHERE name = ?", (digest, f"index {feed}")
        )
        assert found.rowcount == 1
