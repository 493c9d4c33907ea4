"""The command `journal`: what the journal holds, and the removal of what is old."""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from pipeline.commands import retention
from pipeline.commands.run import open_journal, user
from pipeline.errors import ConfigError, IngestError
from pipeline.job import Job
from pipeline.journal import history, lookups
from pipeline.journal.audit_log import Line
from pipeline.journal.evidence import Contradictions, find_contradictions
from pipeline.journal.lookups import Count
from pipeline.records import usd


@dataclass(frozen=True, slots=True)
class Inventory:
    """The contents of a journal, and whether they are what they were.

    Attributes:
        name: The journal's random name.
        held: The writes by state and resource type.
        lines: The number of lines of the audit log.
        first_break: The line at which the chain of the audit log is broken; 0 if it is whole.
        contradictions: The writes that the table has otherwise than the audit log implies.
        history: The lines of one write, if one was asked for.
    """

    name: str
    held: list[Count]
    lines: int
    first_break: int
    contradictions: Contradictions
    history: list[Line] | None

    @property
    def is_whole(self) -> bool:
        """Return whether the audit log is whole, and the table of writes agrees with it."""
        return not (self.first_break or self.contradictions.count)


def inventory(job: Job, key: str | None = None) -> Inventory:
    """Count all writes, and check the whole audit log, and the table of writes against it."""
    with open_journal(job) as journal:
        lines = None if key is None else [line for line, _ in history.read_lines(journal, key)]
        return Inventory(
            journal.name,
            lookups.census(journal),
            history.length(journal),
            history.first_break(journal),
            find_contradictions(journal),
            lines,
        )


def inventory_json(inventory: Inventory) -> dict[str, Any]:
    """Return an inventory as JSON values; ages in days."""
    now = datetime.now(UTC)
    return {
        "shape": 1,
        "journal": inventory.name,
        "held": [
            {
                "state": each.state.value,
                "resource_type": each.resource_type,
                "count": each.count,
                "usd": usd(each.cents) if each.resource_type == "PaymentNotice" else "",
                "oldest_days": _age_days(each.oldest, now),
                "newest_days": _age_days(each.youngest, now),
            }
            for each in inventory.held
        ],
        "lines": inventory.lines,
        "first_break": inventory.first_break,
        "contradictions": asdict(inventory.contradictions),
        "history": None
        if inventory.history is None
        else [line._asdict() for line in inventory.history],
    }


def purge(job: Job, days: int | None, *, is_trial: bool) -> dict[str, Any]:
    """Remove what runs left of rows `days` ago or earlier, as JSON values; None: as configured."""
    days = job.retention_days if days is None else days
    if days is None:
        raise ConfigError(
            "how old is too old is not said",
            "write --older-than DAYS, or set days in [retention] of the configuration",
        )
    with open_journal(job) as journal:
        try:
            purged = retention.purge(
                job, journal, days, datetime.now(UTC), user(), is_trial=is_trial
            )
        except OSError as error:
            raise IngestError(
                f"not all could be removed: {error.strerror}",
                "check who owns the files in state.dir and report.dir, then purge again",
            ) from None
    return {"shape": 1, "exit_code": 0, "days": days, **asdict(purged)}


def _age_days(at: str | None, now: datetime) -> float | None:
    if at is None:
        return None
    return round((now - datetime.fromisoformat(at)).total_seconds() / 86400, 3)
