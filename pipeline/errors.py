"""The errors that stop a run, as one tree; each says what happened and what to do next.

    IngestError                 1  the run failed
    ├── ConfigError             2  the configuration, the command line, or what they name
    ├── InputError              1  a file is unfit to be loaded
    │   └── ColumnsMissing      1  columns that are mapped are not in its header
    ├── LimitError              1  a limit of the configuration is exceeded
    ├── JournalError            1  the journal cannot be trusted or written
    │   ├── JournalBusy         5  another run holds it
    │   ├── JournalForeign      2  it belongs to another Canvas
    │   ├── JournalTaken        1  another process took over
    │   └── JournalLost         1  its data of earlier runs is missing
    ├── PlanError               1  a plan is missing or was never finished
    └── CanvasError             1  Canvas cannot be worked with
        ├── AuthError           1  no token, or one that is not taken
        ├── WrongHost           1  the server that answers is not the configured FHIR API
        ├── Forbidden           1  the application may not do this
        ├── Unreachable         1  no answer for too long
        ├── SearchFailed        1  a search or a read gave no answer that says anything
        └── Stopped             1  the run is stopping: nothing new is sent

Bad rows and Canvas' refusals are values (`records.Rejection`, `records.Attempt`), never exceptions.
No message holds a value of a row: only file, row number, column, field and rule.
"""

import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pipeline.files import displayed


class IngestError(Exception):
    """An error that ends a run before it is done.

    `message` says what happened and where; `fix` what to do next.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, fix: str = "") -> None:
        self.message = displayed(message)
        self.fix = displayed(fix)
        super().__init__(self.message)

    def __str__(self) -> str:
        """Return message and fix as one text for a terminal."""
        return f"{self.message}\n  {self.fix}" if self.fix else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        """Restore the same error in another process, whatever its arguments."""
        return _again, (type(self), self.args, self.__dict__)


def _again(kind: type[IngestError], args: tuple[Any, ...], facts: Mapping[str, Any]) -> IngestError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(facts)
    return error


class ConfigError(IngestError):
    """The configuration or the command line is wrong."""

    exit_code = 2


class InputError(IngestError):
    """A file is unfit: nothing of it was written.

    `row`: 0 is the header, 1 the first row of data. `line`: as an editor counts lines; of a workbook, the row of the
    sheet.
    """

    def __init__(
        self,
        message: str,
        fix: str,
        *,
        file: str,
        row: int | None = None,
        line: int | None = None,
        column: str = "",
    ) -> None:
        where = file if line is None else f"{file}:{line}"
        if row is not None:
            what = f"row {row}" if row else "header"
            where = f"{where}, {what}" if line is None else f"{where} ({what})"
        super().__init__(
            f'{where}: column "{column}": {message}' if column else f"{where}: {message}", fix
        )
        self.file = displayed(file)
        self.row = row
        self.column = column


class ColumnsMissing(InputError):
    """Columns that are mapped are not in a file's header.

    `missing`: our field, the column that is mapped to it, and the name, for a message, of a similar
    column of the header ("" if there is none).
    """

    def __init__(
        self, message: str, fix: str, *, file: str, missing: Sequence[tuple[str, str, str]]
    ) -> None:
        super().__init__(message, fix, file=file, column=missing[0][1])
        self.missing = tuple(missing)


class LimitError(IngestError):
    """A limit of the configuration is exceeded: nothing was written. `others`: further limits exceeded."""

    def __init__(self, message: str, fix: str, others: Sequence["LimitError"] = ()) -> None:
        super().__init__(message, fix)
        self.others = tuple(others)

    def __str__(self) -> str:
        """Return all limits that are exceeded, each with its fix."""
        return "\n".join([super().__str__(), *map(str, self.others)])


class JournalError(IngestError):
    """The journal cannot be trusted or written."""


class JournalBusy(JournalError):
    """Another run holds the journal."""

    exit_code = 5


class JournalTaken(JournalError):
    """Another process took over what this one held, or may have."""


def lease_lost() -> JournalTaken:
    """Return the error of a process that stood still for longer than others wait for it."""
    return JournalTaken(
        "another process took over, or may have: nothing more is sent or written by this one",
        "what it had sent last is in doubt, and is settled by the process that took over, or by the next run",
    )


class JournalForeign(JournalError):
    """The journal belongs to another Canvas, or to another address of the same one: `base_url`."""

    exit_code = 2

    def __init__(self, message: str, fix: str, base_url: str) -> None:
        super().__init__(message, fix)
        self.base_url = base_url


class JournalLost(JournalError):
    """Data of earlier runs is missing in the journal: `loss` says in which way."""

    def __init__(self, loss: str, message: str, fix: str) -> None:
        super().__init__(message, fix)
        self.loss = loss


class PlanError(IngestError):
    """A plan is missing, or was never finished."""


class PlanChanged(PlanError):
    """A plan was changed after it was sealed."""


class CanvasError(IngestError):
    """Canvas cannot be worked with."""


class AuthError(CanvasError):
    """There is no token, or Canvas does not take it."""


class WrongHost(CanvasError):
    """The server that answers is not the configured FHIR API."""


class Forbidden(CanvasError):
    """The application lacks a permission that every row needs."""


class Unreachable(CanvasError):
    """No answer for too long."""


class SearchFailed(CanvasError):
    """A search or a read gave no answer that says anything. It is never read as "not there"."""


class Stopped(CanvasError):
    """The run is stopping: nothing new is sent."""


def fault(error: BaseException) -> IngestError:
    """Return the error for an unforeseen exception: its kind and place, not its text, which may hold values."""
    frames = traceback.extract_tb(error.__traceback__)
    where = (
        f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "an unknown place"
    )
    return IngestError(
        f"a fault of canvas-ingest itself: {type(error).__name__} at {where}",
        "run again; if it stays, report it with this line",
    )
