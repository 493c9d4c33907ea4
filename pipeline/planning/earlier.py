"""The plans of earlier runs, from which writes in doubt are sent again.

A plan is a folder of files that any process with access to `state.dir` can change, and its content may be
sent. The journal has the SHA-256 of each sealed plan: a plan that was changed is not used.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import polars as pl
import structlog

from pipeline.errors import PlanChanged, PlanError
from pipeline.journal.journal import Journal
from pipeline.journal.runs import plan_sha256
from pipeline.planning.plan import SEAL, Plan
from pipeline.records import Intent, RowId

log = structlog.get_logger("canvas_ingest")

_UNREADABLE = (PlanError, OSError, pl.exceptions.PolarsError)


@dataclass(frozen=True, slots=True)
class PlannedRow:
    """A plan's data of a row that was sent. `row` None: it was missing from the file."""

    row: RowId | None
    source_id: str
    body: bytes


@dataclass(slots=True)
class EarlierPlans:
    """The plans in a folder, each compared with the journal once.

    Attributes:
        folder: `state.dir/plans`.
        sha256_of: Returns a plan's SHA-256 in the journal, by run id; "" if it has none, because an older version made
            the plan, which is then used unchecked.
    """

    folder: Path
    sha256_of: Callable[[str], str]
    _opened: dict[str, Plan | PlanError] = field(default_factory=dict)

    @classmethod
    def of(cls, state_dir: Path, journal: Journal) -> "EarlierPlans":
        """Return the plans of a state folder."""
        return cls(state_dir / "plans", partial(plan_sha256, journal))

    def open(self, run_id: str) -> Plan:
        """Open the plan of a run.

        Raises:
            PlanError: There is none; PlanChanged: it was changed after it was sealed.
        """
        opened = self._opened.get(run_id) or self._opened.setdefault(run_id, self._open(run_id))
        if isinstance(opened, PlanError):
            raise opened
        return opened

    def _open(self, run_id: str) -> Plan | PlanError:
        try:
            plan = Plan.open(self.folder / run_id)
            sealed = self.sha256_of(run_id)
            if not sealed or plan.sha256() == sealed:
                return plan
        except PlanError as error:
            return error
        except OSError as error:
            return PlanError(
                f"plan {run_id} cannot be read: {error.strerror}",
                "check the disk and the permissions of state.dir",
            )
        log.warning("plan_changed", run_id=run_id)
        return PlanChanged(
            f"plan {run_id} was changed after it was made, and is not used",
            "restore the folder of the plan, or plan again from the source files",
        )

    def rows(self, intents: Iterable[Intent]) -> dict[str, PlannedRow]:
        """Return the rows of writes by key, as far as the plans of their runs are there.

        A row counts only if it has the very content that was sent.
        """

        def home(intent: Intent) -> tuple[str, str]:
            return intent.run_id, intent.feed

        found: dict[str, PlannedRow] = {}
        for (run_id, feed), group in itertools.groupby(sorted(intents, key=home), key=home):
            try:
                plan = self.open(run_id)
                sent = {intent.key: intent.fingerprint for intent in group}
                rows = plan.find(feed, list(sent))
            except _UNREADABLE:
                continue  # gone, or changed: the caller says so
            for key, file, row, source_id, fingerprint, body in rows.drop("shown").iter_rows():
                if fingerprint == sent[key] and body is not None:
                    where = None if file is None else plan.row_id(feed, file, row)
                    found[key] = PlannedRow(where, source_id or "", body)
        return found

    def content(self, run_id: str, feed: str, key: str, fingerprint: str) -> bytes | None:
        """Return what the plan of a run was to send for a row; None if it is gone, or has other content.

        With fingerprint "": what Canvas showed when the row was adopted.
        """
        try:
            rows = self.open(run_id).find(feed, [key])
        except _UNREADABLE:
            return None
        for held, body, shown in rows.select("fingerprint", "body", "shown").iter_rows():
            if not fingerprint and shown is not None:
                return bytes(shown)
            if fingerprint and held == fingerprint and body is not None:
                return bytes(body)
        return None

    def rows_now(self, feed: str, keys: Sequence[str]) -> dict[str, tuple[RowId, int | None, str]]:
        """Return where the newest plan of a feed has these rows: row, cents and run id.

        Of several rows with one key the first counts, whatever its disposition.
        """
        newest = (
            sorted(self.folder.iterdir(), key=_made, reverse=True) if self.folder.is_dir() else ()
        )
        for path in newest:
            try:
                plan = self.open(path.name)
                if feed not in plan.meta["feeds"]:
                    continue
                found: dict[str, tuple[RowId, int | None, str]] = {}
                for rows in plan.rows(feed):
                    mine = rows.filter(pl.col("key").is_in(list(keys)))
                    for key, file, row, cents in mine.select(
                        "key", "file", "row", "amount_cents"
                    ).iter_rows():
                        found.setdefault(key, (plan.row_id(feed, file, row), cents, path.name))
            except _UNREADABLE:
                continue  # gone, or changed
            return found
        return {}


def _made(folder: Path) -> tuple[str, int]:
    """Return when a plan was made: its run id gives the second, and its seal the order within it."""
    seal = folder / SEAL
    return folder.name.partition("-")[0], seal.stat().st_mtime_ns if seal.exists() else 0
