"""The draft of a configuration as TOML, and the output of `init` about it."""

import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from shlex import quote
from typing import Final

from pipeline.job import UNDECIDED
from pipeline.reporting.draft_tests import example_row, expected

_COLUMN: Final = 44  # where the comments begin
_WIDTH: Final = 120  # of a line with its comment; a longer comment is above its line
_WIDTH_ABOVE: Final = 100
_MARK: Final = f"{UNDECIDED}: "


class Raw(str):
    """A value that is TOML already."""

    __slots__ = ()


Value = str | bool | int | Sequence[str]


@dataclass(frozen=True, slots=True)
class Setting:
    """A line of a draft. `is_set` False: it is only shown, as a comment; without a key it is a comment alone."""

    key: str
    value: Value
    comment: str = ""
    is_set: bool = True


@dataclass(slots=True)
class FeedLines:
    """The content of one feed: settings, and beside them what a person must decide."""

    name: str
    kind: str
    path: str
    is_glob: bool
    read_from: str  # the files, in words
    settings: list[Setting] = field(default_factory=list)
    columns: list[Setting] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    constants: list[Setting] = field(default_factory=list)
    codes: dict[str, list[tuple[str, str, int]]] = field(default_factory=dict)  # theirs, ours, rows
    maybe_codes: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    hidden_codes: dict[str, int] = field(default_factory=dict)
    only: list[str] = field(default_factory=list)
    maybe_only: list[tuple[str, int, str]] = field(default_factory=list)  # theirs, rows, why not
    notes: list[str] = field(default_factory=list)


def draft_text(feeds: Sequence[FeedLines], references: dict[str, str]) -> str:
    """Return the whole file. `references`: how the ids of each kind become Canvas' ids."""
    parts = [
        "#:schema ./canvas-ingest.schema.json",
        "# Editors check and complete this file by the output of `canvas-ingest schema`, saved under that name.",
        *(f"# Drafted by `canvas-ingest init` from {_comment(feed.read_from)}." for feed in feeds),
        "# Decide each line that says so in capitals, and remove the word. `canvas-ingest check` with this file",
        "# lists what is left; configs/nightly.toml explains every key. Secrets belong in the environment, never here.",
        "",
        "[canvas]",
        _line(
            "base_url",
            "https://fumage-example.canvasmedical.com",
            "DECIDE: https://fumage-<instance>.canvasmedical.com",
        ),
        _line(
            "token_url",
            "https://example.canvasmedical.com/auth/token/",
            "DECIDE: https://<instance>.canvasmedical.com/auth/token/",
        ),
        "",
        "[limits]",
        _line("rejects_max", "10%", "above it nothing is written"),
        *_money_limits(feeds),
        "",
        "[state]",
        _line("dir", "state", "the journal: keep it, and back it up"),
        "[report]",
        _line("dir", "reports", "a folder a run, and `latest`"),
        "",
        *_references(references),
        *(line for feed in feeds for line in [*_feed(feed), ""]),
        *_tests(feeds),
    ]
    return "\n".join(parts).rstrip() + "\n"


def _money_limits(feeds: Sequence[FeedLines]) -> list[str]:
    if all(feed.kind != "ledger" for feed in feeds):
        return []
    return [
        *_lines(
            Setting(
                "amount_usd_max",
                "10000.00",
                "DECIDE: uncomment: one payment above it is rejected",
                is_set=False,
            )
        ),
        *_lines(
            Setting(
                "total_usd_max",
                "250000.00",
                "DECIDE: uncomment: above it nothing is written",
                is_set=False,
            )
        ),
    ]


def _references(references: dict[str, str]) -> list[str]:
    parts: list[str] = []
    for kind, how in references.items():
        parts += [f"[references.{kind}]", *_REFERENCES[kind, how], ""]
    return parts


def _feed(feed: FeedLines) -> list[str]:
    path = (
        "each run reads all files that match: move the old ones away"
        if feed.is_glob
        else "a file, or a glob for tomorrow's"
    )
    return [
        "[[feeds]]",
        _line("name", feed.name, "the journal knows a feed by its name: keep it"),
        _line("kind", feed.kind),
        *_lines(Setting("path", feed.path, path)),
        *_all_lines(feed.settings),
        "[feeds.columns]",
        *_all_lines(feed.columns),
        *_unused(feed.unused),
        *(["[feeds.constants]"] if feed.constants else []),
        *_all_lines(feed.constants),
        *_codes(feed),
        *_only(feed),
        *(line for note in feed.notes for line in _above(note)),
    ]


# Lines --------------------------------------------------------------------------------------------


def _all_lines(settings: Sequence[Setting]) -> list[str]:
    return [line for setting in settings for line in _lines(setting)]


def _lines(setting: Setting) -> list[str]:
    """Return a setting with its comment: at its end if that is short, else above it."""
    if not setting.key:
        return _above(setting.comment)
    text = f"{setting.key} = {_value(setting.value)}"
    text = text if setting.is_set else f"# {text}"
    if not setting.comment:
        return [text]
    beside = f"{text:<{_COLUMN}} # {_comment(setting.comment)}"
    if len(beside) <= _WIDTH:
        return [beside]
    is_marked = setting.is_set and _MARK.strip() in text
    comment = setting.comment.removeprefix(_MARK) if is_marked else setting.comment
    return [*_above(comment), text]


def _above(comment: str) -> list[str]:
    lines = textwrap.wrap(
        _comment(comment), _WIDTH_ABOVE - 2, break_long_words=False, break_on_hyphens=False
    )
    return [f"# {line}" for line in lines]


def _line(key: str, value: Value, comment: str = "") -> str:
    line = f"{key} = {_value(value)}"
    return f"{line:<{_COLUMN}} # {_comment(comment)}" if comment else line


def _value(value: Value) -> str:
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    return quoted(value) if isinstance(value, str) else f"[{', '.join(map(quoted, value))}]"


def quoted(text: str) -> str:
    """Return a TOML basic string."""
    basic = json.dumps(text, ensure_ascii=False)
    return "".join(each if each.isprintable() else f"\\U{ord(each):08x}" for each in basic)


def _comment(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)


# Parts of a feed ----------------------------------------------------------------------------------


_REFERENCES: Final = {
    ("patient", "key"): [
        'how = "key"                                  # the values are Canvas\' Patient keys'
    ],
    ("patient", "file"): [
        "# DECIDE: how the sender's ids become Canvas' Patient keys: by a table with two columns, as here; or",
        '#   how = "search"',
        '#   system = "https://..."                   # Canvas is searched for the identifiers of that system',
        'how = "file"',
        'path = "crosswalks/patients.csv"',
        'from = "sender_id"',
        'to = "canvas_key"',
    ],
    ("subscriber", "row"): [
        'how = "row"                                  # the row with relationship self and the same subscriber_id'
    ],
    ("payer", "payer_id"): [
        'how = "payer_id"                             # the values are payer ids'
    ],
    ("payer", "file"): [
        "# DECIDE: how the sender's payers become Canvas' payer ids: by a table with two columns, as here; or",
        '#   how = "payer_id"                         # if the values are payer ids already',
        'how = "file"',
        'path = "crosswalks/payers.csv"',
        'from = "sender_payer"',
        'to = "payer_id"',
        'target = "payer_id"                          # or "organization", for ids of Organizations',
    ],
}


def _unused(names: Sequence[str]) -> list[str]:
    return _above(f"not used: {', '.join(names)}") if names else []


def _codes(feed: FeedLines) -> list[str]:
    parts: list[str] = []
    for name in feed.codes:
        parts.append(f"[feeds.codes.{name}]")
        if feed.maybe_codes[name]:
            parts.append("# rows with another spelling are rejected")
        for theirs, ours, count in feed.codes[name]:
            parts += _lines(Setting(quoted(theirs), ours, rows_text(count)))
        for theirs, count in feed.maybe_codes[name]:
            comment = f"{_MARK}{rows_text(count)}: {_CODES[name]}"
            parts += _lines(Setting(quoted(theirs), "", comment, is_set=False))
        if name in feed.hidden_codes:
            parts += _above(
                f"{_MARK}{spellings_text(feed.hidden_codes[name])} more, not shown because they are rare or no codes: is this the right column?"
            )
    return parts


def rows_text(count: int) -> str:
    """Return a number of rows in words."""
    return "1 row" if count == 1 else f"{count:,} rows"


def spellings_text(count: int) -> str:
    """Return a number of spellings in words."""
    return "1 spelling" if count == 1 else f"{count:,} spellings"


_CODES: Final = {
    "relationship": "self, spouse, child, other or injured",
    "type": "a type code of Canvas",
    "status": "active or cancelled (an ended one is active too)",
    "order": "1 to 5",
}


def _only(feed: FeedLines) -> list[str]:
    if not feed.only:
        return []
    parts = ["[feeds.only]"]
    for theirs, count, why in feed.maybe_only:
        parts += _above(f"{_MARK}{quoted(theirs)} ({rows_text(count)}): {why}")
    parts += _lines(Setting("entry_type", feed.only, "other rows are left out, and counted"))
    return parts


def _tests(feeds: Sequence[FeedLines]) -> list[str]:
    """Return an example of a test for each feed for which one is known to pass, as comments."""
    parts: list[str] = []
    for feed in feeds:
        columns = {each.key: each.value for each in feed.columns if each.is_set}
        settings = {each.key: each.value for each in feed.settings if each.is_set}
        codes = {ours: theirs for theirs, ours, _ in reversed(feed.codes.get("relationship", []))}
        entry_type = feed.only[0] if feed.only else ""
        row = example_row(feed.kind, columns, settings, codes, entry_type)
        if row and not entry_type.startswith(UNDECIDED):
            cells = ", ".join(f"{quoted(name)} = {quoted(value)}" for name, value in row.items())
            parts += [
                "# [[tests]]",
                f"# feed = {quoted(feed.name)}",
                f"# row = {{ {cells} }}",
                f"# expect = {expected(feed.kind)}",
                "",
            ]
    if parts:
        parts.insert(
            0,
            "# Rows and what they become, for `canvas-ingest test` with this file: synthetic values only.",
        )
    return parts


# What is printed ----------------------------------------------------------------------------------


def drafted_text(
    sources: Sequence[str],
    output: str | None,
    guessed: Sequence[tuple[str, str]],
    undecided: Sequence[str],
) -> str:
    """Return the output of `init`: what it wrote, its guesses with their source, and what is left to decide.

    `output` None: the draft itself went to stdout.
    """
    width = max((len(what) for what, _ in guessed), default=0)
    lines = [*(f"Read {source}." for source in sources)]
    lines += [f"Wrote {output or 'the draft to stdout'}.", "", "Guessed:"]
    lines += [f"  {what:<{width}}  {why}" for what, why in guessed]
    lines += ["", "To decide (DECIDE in the draft), beside canvas.base_url and canvas.token_url:"]
    lines += [f"  {what}" for what in undecided] or ["  nothing"]
    typed = quote(output) if output else "CONFIG"
    return "\n".join([*lines, "", "Next, once that is decided:", f"  canvas-ingest check {typed}"])
