"""The draft of a configuration as TOML, and the output of `init` about it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

_COLUMN: Final = 44  # where the comments begin


@dataclass(slots=True)
class Lines:
    """The content of a draft: settings, and beside them what a person must decide."""

    columns: list[tuple[str, str, str]] = field(default_factory=list)  # ours, theirs, a comment
    maybe_columns: list[tuple[str, str, str]] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    constants: list[tuple[str, str, str]] = field(default_factory=list)
    codes: dict[str, list[tuple[str, str, int]]] = field(default_factory=dict)  # theirs, ours, rows
    maybe_codes: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    hidden_codes: dict[str, int] = field(default_factory=dict)
    dates: list[str] = field(default_factory=list)
    maybe_dates: list[str] = field(default_factory=list)
    only: list[str] = field(default_factory=list)
    maybe_only: list[tuple[str, int]] = field(default_factory=list)
    sign: str = ""
    maybe_sign: str = ""
    key: list[str] = field(default_factory=list)
    references: dict[str, str] = field(default_factory=dict)
    delimiter: str = ""
    encoding: str = ""
    final_newline: str = ""
    notes: list[str] = field(default_factory=list)


def draft_text(*, name: str, kind: str, file: str, rows: int, path: str, lines: Lines) -> str:
    """Return the whole file."""
    parts = [
        f"# Drafted by `canvas-ingest init` from {_comment(file)} ({rows:,} rows).",
        "# A person must decide each line with DECIDE. `canvas-ingest check` with this file says what is left;",
        "# configs/nightly.toml explains every key. Secrets belong in the environment, never here.",
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
        *_money_limits(kind),
        "",
        "[state]",
        _line("dir", "state", "the journal: keep it, and back it up"),
        "[report]",
        _line("dir", "reports", "a folder a run, and `latest`"),
        "",
        *_references(lines.references),
        "[[feeds]]",
        _line("name", name, "the journal knows a feed by its name: keep it"),
        _line("kind", kind),
        _line("path", path, "a file, or a glob for tomorrow's"),
        *_reading(lines),
        *_identity(lines),
        "[feeds.columns]",
        *(_line(ours, theirs, comment) for ours, theirs, comment in lines.columns),
        *(
            _commented(f"{ours} = {_quoted(theirs)}", f"DECIDE: {comment}")
            for ours, theirs, comment in lines.maybe_columns
        ),
        *_unused(lines.unused),
        *_constants(lines),
        *_codes(lines),
        *_only(lines),
        *(f"# {note}" for note in lines.notes),
    ]
    return "\n".join(parts).rstrip() + "\n"


def _money_limits(kind: str) -> list[str]:
    if kind != "ledger":
        return []
    return [
        _commented('amount_usd_max = "10000.00"', "DECIDE: one payment above it is rejected"),
        _commented('total_usd_max = "250000.00"', "DECIDE: above it nothing is written"),
    ]


def _references(references: dict[str, str]) -> list[str]:
    parts: list[str] = []
    for kind, how in references.items():
        parts += [f"[references.{kind}]", *_REFERENCES[kind, how], ""]
    return parts


def _line(key: str, value: str, comment: str = "") -> str:
    line = f"{key} = {_quoted(value)}"
    return f"{line:<{_COLUMN}} # {_comment(comment)}" if comment else line


def _commented(setting: str, comment: str) -> str:
    return f"{'# ' + setting:<{_COLUMN}} # {_comment(comment)}"


def _quoted(text: str) -> str:
    """Return a TOML basic string."""
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(each if each.isprintable() else f"\\U{ord(each):08x}" for each in quoted)


def _list(texts: Sequence[str]) -> str:
    return f"[{', '.join(map(_quoted, texts))}]"


def _comment(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)


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


def _reading(lines: Lines) -> list[str]:
    parts = []
    if lines.delimiter:
        parts.append(_line("delimiter", lines.delimiter))
    if lines.encoding:
        parts.append(_line("encoding", lines.encoding))
    if lines.final_newline:
        parts.append(
            _line(
                "final_newline",
                lines.final_newline,
                "DECIDE: its last line does not end; was it cut short?",
            )
        )
    parts += [f"# {_comment(note)}" for note in lines.maybe_dates]
    if lines.dates:
        parts.append(f"dates = {_list(lines.dates)}")
    return parts


def _identity(lines: Lines) -> list[str]:
    parts = []
    if lines.sign:
        parts.append(_line("amount_sign", lines.sign, "payments are written as negative numbers"))
    if lines.maybe_sign:
        parts.append(_commented('amount_sign = "negative"', lines.maybe_sign))
    if lines.key:
        parts += [
            f"{f'key = {_list(lines.key)}':<{_COLUMN}} # DECIDE: no column is different in each row; is there an id?",
            _commented(
                'repeats = "count"',
                "DECIDE: is a second equal row a second payment? Without this it is a duplicate, and not sent",
            ),
            _commented(
                'delivery = "full"',
                'DECIDE: and does each file hold all rows ("full"), or new ones only ("increment")?',
            ),
        ]
    return parts


def _unused(names: Sequence[str]) -> list[str]:
    return [f"# not used: {', '.join(names)}"] if names else []


def _constants(lines: Lines) -> list[str]:
    if not lines.constants:
        return []
    return ["[feeds.constants]", *(_line(*each) for each in lines.constants)]


def _codes(lines: Lines) -> list[str]:
    parts: list[str] = []
    for name in lines.codes:
        parts.append(f"[feeds.codes.{name}]")
        parts += [
            f"{f'{_quoted(theirs)} = {_quoted(ours)}':<{_COLUMN}} # {_rows(count)}"
            for theirs, ours, count in lines.codes[name]
        ]
        parts += [
            _commented(f'{_quoted(theirs)} = ""', f"DECIDE: {_rows(count)}; {_CODES[name]}")
            for theirs, count in lines.maybe_codes[name]
        ]
        if name in lines.hidden_codes:
            parts.append(
                f"# DECIDE: {lines.hidden_codes[name]:,} more values, which do not look like codes and so are not shown: is this the right column?"
            )
    return parts


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count:,} rows"


_CODES: Final = {
    "relationship": "self, spouse, child, other or injured",
    "type": "a type code of Canvas",
    "status": "active or cancelled (an ended coverage is active too: its end date tells)",
    "order": "1 to 5",
}


def _only(lines: Lines) -> list[str]:
    if not lines.only:
        return []
    parts = ["[feeds.only]"]
    for theirs, count in lines.maybe_only:
        parts.append(
            f"# DECIDE: {_quoted(theirs)} ({_rows(count)}): is it a payment of a patient? Then add it"
        )
    parts.append(
        f"{f'entry_type = {_list(lines.only)}':<{_COLUMN}} # other rows are left out, and counted"
    )
    return parts


# What is printed ----------------------------------------------------------------------------------


def drafted_text(
    source: str, output: str | None, guessed: Sequence[tuple[str, str]], undecided: Sequence[str]
) -> str:
    """Return the output of `init`: what it wrote, its guesses with their source, and what is left to decide.

    `output` None: the draft itself went to stdout.
    """
    width = max((len(what) for what, _ in guessed), default=0)
    lines = [f"Read {source}.", f"Wrote {output or 'the draft to stdout'}.", "", "Guessed:"]
    lines += [f"  {what:<{width}}  {why}" for what, why in guessed]
    lines += ["", "To decide (DECIDE in the draft), beside canvas.base_url and canvas.token_url:"]
    lines += [f"  {what}" for what in undecided] or ["  nothing"]
    return "\n".join(
        [*lines, "", "Next, once that is decided:", f"  canvas-ingest check {output or 'CONFIG'}"]
    )
