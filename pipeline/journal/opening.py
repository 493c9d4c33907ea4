"""Open the journal of a folder as the last run left it.

A journal that is missing, replaced, damaged or older than the last run is lost (`loss_detection.py`). A run
continues after a loss only if a person says so.
"""

import importlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import ModuleType

from pipeline.clock import utc_text
from pipeline.errors import ConfigError, JournalError, JournalForeign, JournalLost
from pipeline.files import FOLDER_MODE
from pipeline.journal import loss_detection
from pipeline.journal.audit_log import Event, new_line
from pipeline.journal.evidence import Group, contradictions
from pipeline.journal.journal import Journal
from pipeline.journal.sqlite import SqlitePlace
from pipeline.journal.store import Database, Parts, Place, Store


def open_journal(
    folder: Path,
    base_url: str,
    report_dir: Path | None = None,
    *,
    database: Database | None = None,
    after_loss_by: str = "",
) -> Journal:
    """Open the journal in `folder`, or in a database. Create it if there was none before.

    Args:
        folder: The folder `state.dir`.
        base_url: The Canvas that the journal belongs to.
        report_dir: Searched for traces of runs that the journal does not know.
        database: The database, in place of a file in `folder`.
        after_loss_by: The person who decided to continue without what is lost.

    Raises:
        JournalBusy: Another run holds it.
        JournalForeign: It belongs to another `base_url`.
        JournalLost: It is not what the last run left.
        JournalError: It cannot be trusted or read.
    """
    return _open_at(place_of(folder, database), folder, base_url, report_dir, after_loss_by)


def _open_at(
    place: Place,
    folder: Path,
    base_url: str,
    report_dir: Path | None,
    after_loss_by: str = "",
) -> Journal:
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
    try:
        after_loss = bool(after_loss_by)
        connecting = partial(connect, place, folder, base_url, report_dir, after_loss=after_loss)
        store = pool.submit(connecting).result()
        try:
            journal = Journal(store, pool, folder)
            journal.name_holder("", utc_text(datetime.now(UTC)))
            if after_loss:
                _accept_loss(journal, after_loss_by)
            journal.write_mark()
        except BaseException:
            pool.submit(store.close).result()
            raise
    except OSError as error:
        pool.shutdown()
        raise JournalError(
            f"{folder} cannot be written: {error.strerror}",
            "check the disk of state.dir (space, permissions), then run again",
        ) from None
    except BaseException:
        pool.shutdown()
        raise
    return journal


def open_to_move(
    folder: Path,
    base_url: str,
    report_dir: Path | None = None,
    *,
    database: Database | None = None,
) -> Journal:
    """Open a journal that is bound to another address than `base_url`, to `move` it there.

    Raises:
        ConfigError: There is no journal, or it is bound to `base_url`.
        JournalError: As `open_journal`.
    """
    place = place_of(folder, database)
    if place.is_empty():
        raise ConfigError("there is no journal here to be moved", "check state.dir and state.url")
    try:
        _open_at(place, folder, base_url, report_dir).close()
    except JournalForeign as error:
        return _open_at(place, folder, error.base_url, report_dir)
    raise ConfigError(
        f"the journal belongs to {base_url} already", "there is nothing to move: run as usual"
    )


def join(
    folder: Path,
    base_url: str,
    database: Database | None,
    part: int,
    run_epoch: int,
    counts: Callable[[], Mapping[str, int]],
) -> Journal:
    """Hold one partition of a run that another process began, until `close`.

    Args:
        folder: The folder `state.dir`.
        base_url: The Canvas that the journal belongs to.
        database: Where the journal is; a file cannot be joined.
        part: The number of the partition.
        run_epoch: The epoch of the run's own lease.
        counts: Returns the progress so far, for the process that began the run.

    Raises:
        JournalBusy: Another process holds the partition, or the run has ended.
    """
    database, module = _shared(database)
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
    try:
        place = module.PostgresPlace(database, module.Asked(part, run_epoch, counts))
        return Journal(pool.submit(place.open, base_url).result(), pool, folder)
    except BaseException:
        pool.shutdown()
        raise


def parts_of(
    database: Database | None, run_id: str, run_epoch: int
) -> AbstractContextManager[Callable[[], Parts]]:
    """Yield a function that returns the partitions of a run. Raises JournalError."""
    database, module = _shared(database)
    viewed: AbstractContextManager[Callable[[], Parts]]
    viewed = module.parts_of(database, run_id, run_epoch)
    return viewed


def is_held(database: Database | None) -> bool:
    """Return whether a run holds the journal, in a database that several processes reach. Raises JournalError."""
    database, module = _shared(database)
    return bool(module.is_held(database))


def _shared(database: Database | None) -> tuple[Database, ModuleType]:
    """Return a database that several processes can reach, and its module."""
    if database is None:
        raise ConfigError(
            "the partitions of a run need a journal that several processes can reach",
            "set [state] url to a PostgreSQL database",
        )
    return database, postgres()


def look(
    folder: Path,
    base_url: str,
    report_dir: Path | None,
    scratch: Path,
    *,
    database: Database | None = None,
) -> Journal:
    """Open a copy of the journal in the new folder `scratch`; a new one if there is none.

    Nothing is written in `folder`, and changes to the copy are lost. The plans are symbolic links.
    Raises the errors of `open_journal`.
    """
    scratch.mkdir(mode=FOLDER_MODE)
    (scratch / "plans").mkdir(mode=FOLDER_MODE)
    place = place_of(folder, database)
    mark = folder / loss_detection.ANCHOR
    try:
        if place.is_empty():
            if _was_there(folder, base_url, report_dir):
                raise loss_detection.lost("missing", place.where)
            return open_journal(scratch, base_url, report_dir)
        copied = place.to_look_at(scratch)
        if mark.exists():
            shutil.copyfile(mark, scratch / loss_detection.ANCHOR)
        if (folder / "plans").is_dir():
            for plan in (folder / "plans").resolve().iterdir():
                (scratch / "plans" / plan.name).symlink_to(plan, target_is_directory=True)
    except OSError as error:
        raise JournalError(
            f"{folder} cannot be read: {error.strerror}",
            "check the permissions of state.dir, and the space for temporary files",
        ) from None
    return _open_at(copied, scratch, base_url, report_dir)


def _accept_loss(journal: Journal, who: str) -> None:
    journal.is_loss_accepted = True
    line = new_line(utc_text(datetime.now(UTC)), "", Event.LOSS, detail=journal.loss, who=who)
    journal.write_now(lambda: journal.append([line]))


def move(journal: Journal, run_id: str, base_url: str, at: datetime, who: str) -> None:
    """Bind a journal to another address of the same Canvas."""
    detail = f"{journal.base_url} -> {base_url}"

    def move() -> None:
        journal.execute("set_meta", {"name": "base_url", "value": base_url})
        journal.append([new_line(utc_text(at), run_id, Event.MOVED, detail=detail, who=who)])

    journal.write_now(move)
    journal.base_url = base_url


def postgres() -> ModuleType:
    """Import the store for PostgreSQL, an extra. Raises ConfigError if it is not installed."""
    try:
        return importlib.import_module("pipeline.journal.postgres")
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("pipeline"):
            raise
        raise ConfigError(
            "state.url names a PostgreSQL database, and what it takes to reach one is not installed",
            "pip install 'canvas-ingest[postgresql]', or leave state.url out to keep the journal in a file",
        ) from None


def place_of(folder: Path, database: Database | None) -> Place:
    """Return where the journal of a folder is: in it, or in a database."""
    if database is None:
        return SqlitePlace(folder)
    place: Place = postgres().PostgresPlace(database)
    return place


def connect(
    place: Place, folder: Path, base_url: str, report_dir: Path | None, *, after_loss: bool
) -> Store:
    """Open the store that the last run left. Create one only if there was none, or if a person accepts the loss.

    Raises JournalLost if it is lost and `after_loss` is False, ConfigError if it is whole and `after_loss` is True.
    """
    loss = ""
    try:
        if place.is_empty():
            loss = "missing" if _was_there(folder, base_url, report_dir) else ""
        if not loss:
            high_water_mark = loss_detection.read_anchor(folder)
            store = place.open(base_url)
            with _closed_on_error(store):
                loss = loss_detection.loss_of(folder, high_water_mark, store, report_dir)
                if not loss and after_loss and _contradicts_itself(store):
                    loss = "altered"
                if not loss and after_loss:
                    raise ConfigError(
                        "the journal is whole: there is no loss to go on after",
                        "run without --journal-lost",
                    )
                if not loss:
                    return store
                if loss in {"restored", "altered"} and after_loss:
                    return enter_loss(store, folder, base_url, report_dir, loss)
            store.close()
    except JournalLost as error:
        loss = error.loss
    if not after_loss:
        raise loss_detection.lost(loss, place.where)
    place.set_aside(loss)
    store = place.open(base_url, loss)
    with _closed_on_error(store):
        return enter_loss(store, folder, base_url, report_dir, loss)


@contextmanager
def _closed_on_error(store: Store) -> Iterator[None]:
    """Close the store on an error, and raise an error of its database as a JournalError."""
    try:
        yield
    except BaseException as error:
        store.close()
        if isinstance(error, store.errors):
            raise store.as_error(error) from None
        raise


def _contradicts_itself(store: Store) -> bool:
    """Return whether the table of writes is not what the audit log implies."""
    lines = store.execute(store.sql["evidence"], {"keys": "[]", "is_whole": 1}).fetchall()
    return contradictions(Group(*line) for line in lines).count > 0


def _was_there(folder: Path, base_url: str, report_dir: Path | None) -> bool:
    """Return whether there was a journal before. Files that runs left beside it show it."""
    high_water_mark = loss_detection.read_anchor(folder)
    return high_water_mark is not None or bool(
        loss_detection.traces(folder, report_dir, base_url, ())
    )


def enter_loss(
    store: Store, folder: Path, base_url: str, report_dir: Path | None, loss: str
) -> Store:
    """Enter the loss: Canvas may hold rows that this journal does not know."""
    sql = store.sql
    known = {line[0] for line in store.execute(sql["run_ids"]).fetchall()}
    name = store.execute("SELECT value FROM meta WHERE name = 'journal'").fetchone()[0]
    runs = {
        *loss_detection.traces(folder, report_dir, name, known),
        *loss_detection.traces(folder, report_dir, base_url, known),
    }
    store.begin()
    store.execute(sql["set_meta"], {"name": "loss", "value": loss})
    for run_id in sorted(runs):
        store.execute(sql["enter_lost_run"], {"run_id": run_id})
    last = store.execute(sql["last_entered"]).fetchone()
    if last is not None:
        store.execute(sql["set_meta"], {"name": loss_detection.ACKNOWLEDGED, "value": last[0]})
    store.commit()
    return store
