"""Find the open decisions of a configuration that `init` drafted: the lines that are marked DECIDE."""

import re
from collections.abc import Sequence
from typing import Any, Final

from pipeline.job import UNDECIDED, Undecided

_TOKEN: Final = re.compile(
    r'"""(?:\\.|[^\\])*?"""+|\'\'\'.*?\'\'\'+|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'|#[^\n]*', re.DOTALL
)
_COMMENT: Final = re.compile(r"#\s*+((?!not used:|[\w\".]+ = ).*)")
_SETTING: Final = re.compile(r"#\s*+([\w\".]+) = .*")  # that is commented out
_MARK: Final = re.compile(rf"\b{UNDECIDED}\b:?\s*")
_VALUE: Final = re.compile(rf"{UNDECIDED}\b")


def without_texts(text: str) -> str:
    """Return a TOML file with blanks in place of its texts and comments; lines stay where they are."""
    return _TOKEN.sub(lambda token: re.sub(r"[^\n]", " ", token[0]), text)


def undecided_in(content: bytes) -> tuple[Undecided, ...]:
    """Return the lines of a TOML file that are marked, in order: values that begin with the mark, and comments."""
    text = content.decode(errors="replace")
    lines = text.split("\n")
    found: dict[int, Undecided] = {}
    for token in _TOKEN.finditer(text):
        mark = _MARK.search(token[0])
        is_value = not token[0].startswith("#")
        if mark is None or (is_value and not _is_marked(token[0].strip("\"'"))):
            continue
        number = text.count("\n", 0, token.start())
        if is_value:
            found[number] = Undecided(number + 1, _of_value(lines, number), is_value)
        elif number not in found:
            found[number] = Undecided(number + 1, _of_comment(lines, number), is_value)
    return tuple(found.values())


def _of_value(lines: Sequence[str], number: int) -> str:
    """Return the key of a line, and the comment beside it or above it."""
    key, _, rest = lines[number].partition("=")
    beside = rest.partition("# ")[2]
    above: list[str] = []
    while number and not beside and (match := _COMMENT.fullmatch(lines[number - 1])):
        if UNDECIDED in match[0]:
            break
        above.insert(0, match[1])
        number -= 1
    why = _MARK.sub("", beside or " ".join(above)).strip()
    return f"{key.strip()}: {why}" if why else key.strip()


def _of_comment(lines: Sequence[str], number: int) -> str:
    """Return the text after the mark, with the lines below that go on with it, and the setting it is beside."""
    before, _, why = lines[number].partition(UNDECIDED)
    setting, is_beside, _ = before.strip("# ").partition("=")
    parts = [why.lstrip(": ").strip()]
    key = setting.strip() if is_beside else ""
    while not is_beside and number + 1 < len(lines):
        number += 1
        match = _COMMENT.fullmatch(lines[number])
        if match is None or UNDECIDED in match[0]:
            shown = _SETTING.fullmatch(lines[number])
            key = shown[1] if shown and UNDECIDED not in shown[0] else ""
            break
        parts.append(match[1])
    text = " ".join(parts)
    return f"{key}: {text}" if key else text


def _is_marked(value: object) -> bool:
    return isinstance(value, str) and bool(_VALUE.match(value))


def without_undecided(tables: dict[str, Any]) -> dict[str, Any]:
    """Return the tables without settings of feeds whose value is still to be decided, but for columns.

    A column that is to be decided stays: the field is required, and a check leaves it out by itself. A
    time zone that is to be decided is UTC, because formats of instants need one.
    """
    feeds = [_decided(feed) for feed in tables.get("feeds", []) if isinstance(feed, dict)]
    return {**tables, "feeds": feeds} if "feeds" in tables else tables


def _decided(feed: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in feed.items() if not _is_marked(value)}
    if _is_marked(feed.get("timezone")):
        kept["timezone"] = "UTC"
    if isinstance(kept.get("only"), dict):
        kept["only"] = {
            name: values
            for name, values in kept["only"].items()
            if not (isinstance(values, list) and any(map(_is_marked, values)))
        }
    return kept
