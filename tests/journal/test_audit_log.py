"""The trail and its anchor: whatever is changed, left out or put back from a backup shows."""

import asyncio
import shutil
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from pipeline.errors import JournalError, JournalLost
from pipeline.journal import history, opening, runs
from pipeline.journal.audit_log import ORIGIN, Event, Line, first_break, link, new_line
from pipeline.journal.journal import Journal
from pipeline.journal.loss_detection import ANCHOR, HighWaterMark, read_anchor
from pipeline.journal.runs import Run
from pipeline.journal.sqlite import SqlitePlace

URL = "https://fumage-example.canvasmedical.com"
NOW = datetime(2026, 11, 21, tzinfo=UTC).isoformat()
Lines = list[tuple[Line, str | None]]


def begin(folder: Path, *run_ids: str) -> Lines:
    """Runs of a journal, one after the other. Returns its trail."""
    with opening.open_journal(folder, URL) as journal:
        for run_id in run_ids:
            runs.start_run(journal, Run(run_id, "run", NOW))
        return list(history.read_lines(journal))


def forged(lines: Lines, at: int) -> Lines:
    """One line says something else, and its own hash is made to fit."""
    before = lines[at - 1][1] or ORIGIN if at else ORIGIN
    line = lines[at][0]._replace(detail="plan")
    return [*lines[:at], (line, link(before, line)), *lines[at + 1 :]]


def without(lines: Lines, at: int) -> Lines:
    """A line is left out, and those behind it are numbered anew."""
    behind = [(line._replace(number=line.number - 1), hashed) for line, hashed in lines[at + 1 :]]
    return [*lines[:at], *behind]


def swapped(lines: Lines, at: int) -> Lines:
    """Two lines in each other's place."""
    return [*lines[:at], lines[at + 1], lines[at], *lines[at + 2 :]]


@pytest.mark.parametrize(
    ("change", "broken"),
    [(forged, 3), (without, 2), (swapped, 2)],
    ids=lambda each: str(each)[10:17],
)
def test_a_change_breaks_the_chain_behind_it(
    tmp_path: Path, change: Callable[[Lines, int], Lines], broken: int
) -> None:
    lines = begin(tmp_path, "r1", "r2", "r3", "r4")
    assert len(lines) == 4
    assert first_break(lines) == 0
    assert first_break(change(lines, 1)) == broken


def test_the_anchor_alone_shows_a_journal_that_is_older_or_another(tmp_path: Path) -> None:
    """Without any plan or report of the runs that it does not know."""
    folder, path = tmp_path / "state", tmp_path / "state" / "journal.sqlite"
    folder.mkdir()
    begin(folder, "r1")
    shutil.copy(path, tmp_path / "backup")
    begin(folder, "r2")
    other = tmp_path / "other"
    other.mkdir()
    begin(other, "r1", "r2", "r3")
    for source, loss in [(tmp_path / "backup", "restored"), (other / path.name, "replaced")]:
        shutil.copy(source, path)
        with pytest.raises(JournalLost) as caught:
            opening.open_journal(folder, URL)
        assert caught.value.loss == loss


def test_a_high_water_mark_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    place = SqlitePlace(tmp_path)
    pool = ThreadPoolExecutor(1)
    store = pool.submit(
        partial(opening.connect, place, tmp_path, URL, None, after_loss=False)
    ).result()
    in_the_way = tmp_path / f".{ANCHOR}"  # where it is written before it replaces the older one
    with Journal(store, pool, tmp_path, mark_every_s=0.0) as journal:
        runs.start_run(journal, Run("r1", "run", NOW))
        mark = read_anchor(tmp_path)
        in_the_way.mkdir()
        runs.start_run(journal, Run("r2", "run", NOW))
        assert read_anchor(tmp_path) == mark
        in_the_way.rmdir()
        runs.start_run(journal, Run("r3", "run", NOW))
        assert read_anchor(tmp_path) == HighWaterMark(journal.name, *journal.head) != mark
        assert len(list(history.read_lines(journal))) == 3


@pytest.mark.parametrize("is_waited_for", [True, False])
async def test_the_anchor_names_no_line_of_a_write_that_failed(
    tmp_path: Path, *, is_waited_for: bool
) -> None:
    """The disk is full; and the run is stopped at once, while that write is still under way."""
    under_way, go_on = threading.Event(), threading.Event()

    with opening.open_journal(tmp_path, URL) as journal:
        runs.start_run(journal, Run("r1", "run", NOW))

        def fail() -> None:
            journal.append([new_line(NOW, "r1", Event.CLAIM, key="k1")])
            under_way.set()
            go_on.wait()
            raise sqlite3.OperationalError("database or disk is full")

        write = asyncio.create_task(journal.write(fail))
        await asyncio.to_thread(under_way.wait)
        if is_waited_for:
            go_on.set()
            with pytest.raises(JournalError):
                await write
            assert history.length(journal) == 1
        else:
            write.cancel()
            threading.Timer(0.2, go_on.set).start()
    opening.open_journal(tmp_path, URL).close()
