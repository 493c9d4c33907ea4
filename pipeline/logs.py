"""Logs: structlog on stderr, and the guard that keeps source values out.

Logging is by allow-list: a field that is not named here, or is not of the type named here, does not
leave the program. Nothing of a row but its id, its field and its rule is on the list.
"""

import logging
import sys
from typing import Any, Final

import structlog
from structlog.typing import EventDict, WrappedLogger

# field -> the types that it may have. Texts are our own words, run ids and names of classes.
_ALLOWED: Final[dict[str, type | tuple[type, ...]]] = {
    "event": str,
    "level": str,
    "timestamp": str,
    "run_id": str,
    "feed": str,
    "stage": str,
    "rule": str,
    "error": str,
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


def _guard(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    return {
        name: value for name, value in event.items() if isinstance(value, _ALLOWED.get(name, ()))
    }


def configure(log_format: str, level: int) -> None:
    """Set logging up. `log_format` is "text" or "json"."""
    shown: Any = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(
            colors=False, exception_formatter=structlog.dev.plain_traceback
        )
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _guard,
            shown,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # its messages hold reprs of requests
