"""Instants as the journal keeps them: ISO 8601 in UTC with microseconds, so that texts sort by time."""

from datetime import UTC, datetime
from functools import lru_cache


def instant_text(at: datetime | None) -> str | None:
    """Return the text of an instant, or None."""
    return None if at is None else _exact_text(at)


def instant_of(text: str | None) -> datetime | None:
    """Return the instant of a text, or None."""
    return None if text is None else datetime.fromisoformat(text)


def _exact_text(at: datetime) -> str:
    return (at if at.tzinfo is UTC else at.astimezone(UTC)).isoformat(timespec="microseconds")


second_text = lru_cache(maxsize=16)(_exact_text)  # the `Date` of answers is the same for a second
