"""Refuse files that are parts of a table of Delta Lake or Iceberg: they also hold rows that were deleted.

Which of the Parquet files belong to the table's present state is in its log. Read by themselves, they yield
deleted and replaced rows as well.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pipeline.errors import InputError

DELTA, ICEBERG = "Delta Lake", "Iceberg"
DELTA_LOG: Final = "_delta_log"
ICEBERG_FOLDER, ICEBERG_FILE = "metadata", ".metadata.json"
_FOLDERS_MAX: Final = 32  # above a file; partitions of a table are folders, too
_FIX: Final = (
    "have a snapshot written as one Parquet or CSV file; "
    "or read it by a reader of {kind} tables, and pass the frame as an input of pipeline.run"
)


def refuse_folder(path: Path) -> None:
    """Raise InputError if a path is a folder."""
    if not _is_folder(path):
        return
    refuse_table_format(path / "any")
    raise InputError(
        "this is a folder",
        f"name the files in it, such as {path.name}/*.csv",
        file=path.name or str(path),
    )


def refuse_table_format(path: Path) -> None:
    """Raise InputError if a file is in the folder of a Delta or Iceberg table, or in one below it."""
    for folder in list(path.absolute().parents)[:_FOLDERS_MAX]:
        kind = next(_kinds(folder), "")
        if kind:
            refuse_part(kind, path.parent.name if path.name == "any" else path.name)


def refuse_part(kind: str, file: str) -> None:
    """Raise InputError for a file of a table of this kind."""
    raise InputError(
        f"the file belongs to a table of {kind}, which keeps deleted and replaced rows in its files",
        _FIX.format(kind=kind),
        file=file,
    )


def _kinds(folder: Path) -> Iterator[str]:
    if _is_folder(folder / DELTA_LOG):
        yield DELTA
    try:
        if any((folder / ICEBERG_FOLDER).glob(f"*{ICEBERG_FILE}")):
            yield ICEBERG
    except OSError:
        return


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False
