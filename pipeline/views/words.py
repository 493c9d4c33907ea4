"""What the exit codes and the dispositions mean, in one place for terminal and page."""

from collections.abc import Mapping
from typing import Any, Final

_MEANING: Final = {
    0: "everything reconciled",
    1: "the run failed; nothing is lost",
    2: "the configuration or the command is wrong",
    3: "finished, with rows rejected or refused",
    4: "finished, with writes in doubt",
    5: "another run holds the journal",
    130: "interrupted; the journal is true",
}
_MEANING_OF_PLAN: Final = {
    0: "planned",
    3: "planned, with rows rejected",
    4: "planned; writes of an earlier run are in doubt",
}
_MEANING_OF_VERIFY: Final = {
    0: "Canvas holds what was written",
    1: "not all could be read back",
    3: "Canvas holds something else than was written",
}
_BY_COMMAND: Final = {"plan": _MEANING_OF_PLAN, "verify": _MEANING_OF_VERIFY}
OUTCOMES: Final = (
    ("match", "match"),
    ("differs", "differ (edited since, or changed by Canvas)"),
    ("missing", "missing (Canvas does not show them)"),
    ("stray", "strays (like one of ours, and not made by us)"),
    ("unread", "unread (Canvas' searches failed)"),
)
# Told in this order.
WORDS: Final = (
    ("created", "created"),
    ("updated", "updated"),
    ("unchanged", "unchanged (Canvas already holds them)"),
    ("filtered", "filtered (left out by “only”)"),
    ("duplicate", "duplicate (of an earlier row)"),
    ("rejected", "rejected (by us, before sending)"),
    ("refused", "refused (by Canvas)"),
    ("in_doubt", "in doubt (sent, fate unknown)"),
    ("pending", "pending (not sent)"),
)


def verdict(summary: Mapping[str, Any]) -> str:
    """How it ended, in a few words."""
    meanings = {**_MEANING, **_BY_COMMAND.get(summary["command"], {})}
    return meanings[summary["exit_code"]]


def doubt_notes(summary: Mapping[str, Any]) -> list[str]:
    """What became of lost answers, in sentences."""
    recovered = summary["recovered"]
    settled = [
        f"{recovered[name]:,} {what}"
        for name, what in (
            ("found", "found in Canvas"),
            ("sent_again", "not there and sent again"),
            ("set_aside", "set aside, for the journal was lost"),
        )
        if recovered[name]
    ]
    notes = [f"Lost answers settled by searching: {', '.join(settled)}."] if settled else []
    elsewhere = summary["in_doubt_elsewhere"]
    if elsewhere:
        notes.append(f"{elsewhere:,} writes of rows outside these files are in doubt.")
    return notes
