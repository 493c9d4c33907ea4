"""Reports about rows that earlier runs may have sent under another key. Pure: texts and counts."""

from collections.abc import Collection, Sequence
from typing import Any, Final, NamedTuple

from pipeline.planning.repeats import REPEATS, SECOND_PERIOD, Found
from pipeline.records import counted
from pipeline.rows.feed import Feed

ACCEPTED: Final = "repeats|accepted"
KEY_CHANGED: Final = "key|changed"

_WHAT: Final = {"PaymentNotice": "payment", "Coverage": "coverage"}
_EQUAL_IN: Final = {
    "PaymentNotice": "same patient, amount, claim and day",
    "Coverage": "same patient, payer, member id and start",
}
_EQUAL_BUT_DAY: Final = "same patient, amount and claim, and no other day as far as it is known"
_NO_IDS: Final = (
    "amount",
    "posted_on",
    "start_on",
    "end_on",
    "order",
    "status",
    "type",
    "relationship",
)


class Warned(NamedTuple):
    """A warning about some rows of a feed."""

    rule: str
    rows: int
    message: str


def repeats_meta(
    feed: Feed, found: Found, former_key: Sequence[str] | None, feeds: Collection[str]
) -> dict[str, Any]:
    """Return what the plan notes about a feed's probable repeats, for the limit and its message."""
    return {
        "creates": found.creates,
        "rows": found.rows,
        "what": f"{_WHAT[feed.traits.resource_type]}s",
        "equal_in": _equal_in(feed, found),
        **_cause(feed, found, former_key, feeds),
    }


def _cause(
    feed: Feed, found: Found, former_key: Sequence[str] | None, feeds: Collection[str]
) -> dict[str, str]:
    """Return what looks changed, as far as it can be seen, and what to do about it."""
    causes = []
    if former_key is not None:
        causes.append(f"{_key_text(feed, former_key)}.")
    for name, rows in found.former.most_common():
        if name != feed.name:
            other = (
                ""
                if name in feeds
                else ", which this run does not have: was it renamed, or left out (--feed)?"
            )
            causes.append(f"{rows:,} of them equal writes of feed {name}{other or '.'}")
    fix = "undo that change, and run again"
    if not causes:
        fix = "compare the rows that the warning names with the report of the earlier run, and run again with the right files"
        ids = ", ".join(name for name in feed.key if name not in _NO_IDS)
        causes.append(
            "Neither `key` nor the name of the feed has changed, as far as the journal knows: perhaps the file spells ids in "
            f"another way ({ids}), or the same file came under another name."
        )
    if found.undated:
        causes.append(f"{found.undated:,} of them have no day to tell them apart (posted_on).")
    return {"cause": " ".join(causes), "fix": fix}


def key_changed(feed: Feed, former_key: Sequence[str], left: int) -> Warned:
    """Return the warning about a key that has other fields now; `left` confirmed writes have a key of no row."""
    has = "has" if left == 1 else "have"
    text = (
        f"{_key_text(feed, former_key)}. {counted(left, 'write')} that Canvas confirmed {has} a key that no row of today's files has: the same "
        "rows count as new now, and may be sent again. If you did not mean to change `key`, restore it."
    )
    return Warned(KEY_CHANGED, left, text)


def _key_text(feed: Feed, former_key: Sequence[str]) -> str:
    return f"`key` of feed {feed.name} was {', '.join(former_key)} and is {', '.join(feed.key)} now"


def _equal_in(feed: Feed, found: Found) -> str:
    return _EQUAL_BUT_DAY if found.undated else _EQUAL_IN[feed.traits.resource_type]


def warnings_of(feed: Feed, found: Found, accepted: int | None) -> list[Warned]:
    """Return the warnings about a feed's rows; `accepted`: the number that a person accepted, if needed."""
    warned = []
    if found.rows:
        rows = _rows(found.rows, found.rows_named)
        kind = feed.traits.resource_type
        verb = "equals" if found.rows == 1 else "each equal"
        text = (
            f"{feed.name}: {counted(found.rows, _WHAT[kind])} {verb} one that an earlier run sent ({_equal_in(feed, found)}), under "
            f"a key that no row of today's files has: {rows}."
        )
        more = (
            f" Check that {'it is' if found.rows == 1 else 'they are'} not the same {_WHAT[kind]}{'' if found.rows == 1 else 's'} again."
            if accepted is None
            else f" Accepted by --accept-repeats {accepted}."
        )
        rule = REPEATS if accepted is None else ACCEPTED
        warned.append(Warned(rule, found.rows, text + more))
    if found.second_periods:
        rows = _rows(found.second_periods, found.second_named)
        has = "has" if found.second_periods == 1 else "each have"
        text = (
            f"{feed.name}: {counted(found.second_periods, 'coverage')} {has} the patient, payer and member ID of an active "
            f"coverage that an earlier run created, but another start; no row of today's files has the older one: {rows}. "
            f'If the start was corrected, cancel the older one (missing = "cancel", or by hand in Canvas){_other_key(feed)}. If it '
            "is a new period, you need not do anything."
        )
        warned.append(Warned(SECOND_PERIOD, found.second_periods, text))
    return warned


def _other_key(feed: Feed) -> str:
    if "start_on" not in feed.key:
        return ""
    return ", or leave start_on out of key (from the first load on: another key makes every row a new one)"


def _rows(count: int, named: Sequence[str]) -> str:
    more = count - len(named)
    return ", ".join(named) + (f" and {more:,} more" if more > 0 else "")
