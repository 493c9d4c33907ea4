"""Logs: structlog on stderr, and the allow-list that keeps source values out.

Logging is by allow-list: an event that is not named here loses its name, and a field that is not
named here, or is not of the type named here, does not leave the program. Nothing of a row but its
id, its field and its rule is on the list. Of a library's log line only the library's name and the level
are logged, because the text may hold addresses, headers and reprs.
"""

import logging
import sys
from collections.abc import Callable
from typing import Any, Final

import structlog
from structlog.typing import EventDict, WrappedLogger

from pipeline.reporting.masking import shown as spelt

# event -> what it says. docs/operations.md shows it.
EVENTS: Final[dict[str, str]] = {
    "run_started": "a `plan`, `run` or `verify` begins (JSON only, as `run_finished`)",
    "writes_left_in_flight": "`count` writes of an earlier run were cut off: they are in doubt, and settled first",
    "proxy_unused": "the environment names a proxy (`HTTPS_PROXY`), and `canvas.proxy` is empty: it is not used",
    "progress": "the state of the run, every 30 s if there is no terminal",
    "stopping": "the first SIGINT or SIGTERM: what is in flight is finished",
    "stopped_at_once": "the second one: what was in flight is in doubt",
    "run_failed": "it failed, by which kind of error; it is still reported",
    "run_finished": "how it ended and why, with the counts of all feeds by disposition",
    "command_failed": "why it ended without a report",
    "workers_awaited": "the Dask cluster has no worker yet; after 300 s without one the run fails",
    "workers_lost": "`count` workers of the Dask cluster are gone; other workers run their calls",
    "lease_lost": "a worker stood still, or was without the database, for longer than `[state] lease_s`: it sends nothing more of that part until it has taken it anew",
    "copies_removed": "the number of folders with copies that were removed, which an `init` or a `check` left when it was killed",
    "plan_changed": "the plan of an earlier run was changed after it was made, and is not used",
    "metrics_unwritten": "the metrics file could not be written; the run is not concerned",
    "latest_unlinked": "the link `latest` in `report.dir` could not be set; the report is whole",
    "purged": "the row data of `count` runs was removed, because it is older than `[retention] days`",
    "purge_failed": "it could not be; the next run tries again",
    "notice_sent": "the notice went out, by `command` or by `webhook`",
    "notice_failed": "it did not; the exit code stays what it is",
    "library_logged": "a library logged something of that level; its text is not shown",
    "unnamed": "an event that is not in this table: a fault of canvas-ingest",
}

# field -> the types that it may have. Texts are our own words, run ids and names of classes.
_ALLOWED: Final[dict[str, type | tuple[type, ...]]] = {
    "event": str,
    "level": str,
    "timestamp": str,
    "run_id": str,
    "command": str,
    "feed": str,
    "stage": str,
    "rule": str,
    "error": str,
    "message": str,
    "logger": str,
    "how": str,
    "why": str,
    "partition": int,
    "count": int,
    "rows_read": int,
    "to_send": int,
    "sent": int,
    "seconds": (int, float),
    "rate_per_s": (int, float),
    "exit_code": int,
    "created": int,
    "updated": int,
    "unchanged": int,
    "filtered": int,
    "duplicate": int,
    "rejected": int,
    "refused": int,
    "in_doubt": int,
    "pending": int,
}
FIELDS: Final = tuple(_ALLOWED)


def _guard(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    if event["event"] not in EVENTS:
        event["event"] = "unnamed"
    return {
        name: value for name, value in event.items() if isinstance(value, _ALLOWED.get(name, ()))
    }


def _lead(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Put the fields that every JSON line has first, in the order in which people look for them."""
    first = ("timestamp", "level", "event", "run_id")
    return {**{name: event.get(name, "") for name in first}, **event}


class _Libraries(logging.Handler):
    """Takes what libraries log, and says only that they did."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log that a library logged a record."""
        known = {10: 10, 20: 20, 30: 30, 40: 40, 50: 50}
        level = known.get(record.levelno, logging.WARNING)
        structlog.get_logger().log(level, "library_logged", logger=record.name)


def configure(log_format: str, level: int) -> None:
    """Set logging up. `log_format` is "text" or "json"."""
    shown = [_lead, structlog.processors.JSONRenderer()] if log_format == "json" else _text()
    # stderr as it is when something is logged: above the line of progress, while there is one
    _set_up(shown, level, lambda *_: structlog.PrintLogger(sys.stderr))
    logging.basicConfig(handlers=[_Libraries()], level=max(level, logging.WARNING))
    logging.captureWarnings(capture=True)  # a warning's text shows the line of code
    # It logs each connection that a peer breaks off, which the journal has as an exchange already.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)


def configure_unless_configured() -> None:
    """Log warnings and errors to stderr if the program that uses the Python API set nothing up."""
    if not structlog.is_configured():
        # stderr as it is when something is logged: a notebook's own
        _set_up(_text(), logging.WARNING, lambda *_: structlog.PrintLogger(sys.stderr))


def _text() -> list[Any]:
    renderer = structlog.dev.ConsoleRenderer(
        colors=False, exception_formatter=structlog.dev.plain_traceback
    )
    return [_spelt, renderer]


def _spelt(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Escape characters that would change a terminal's state; the JSON renderer escapes them itself."""
    return {
        name: spelt(value) if isinstance(value, str) else value for name, value in event.items()
    }


def _set_up(shown: list[Any], level: int, logger_factory: Callable[..., Any]) -> None:
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _guard,
            *shown,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=logger_factory,
        cache_logger_on_first_use=False,
    )
