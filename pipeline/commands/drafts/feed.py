"""The draft of one feed: its file, its sample, and what the guesses found so far."""

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import polars as pl

from pipeline.job import UNDECIDED
from pipeline.reading.headers import column_text, is_header
from pipeline.reading.source import Source
from pipeline.reporting.draft import FeedLines, Setting, Value
from pipeline.rows.feed import Feed, Kind
from pipeline.rows.synonyms import Candidate

_MANY_DIGITS: Final = re.compile(r"\d.*\d.*\d.*\d.*\d")


@dataclass(frozen=True, slots=True)
class Found:
    """A file that could be read, how it was read, and its first rows, trimmed and null where blank."""

    path: Path
    feed: Feed
    source: Source
    kind: Kind
    sample: pl.DataFrame

    @property
    def header(self) -> list[str]:
        """Return the sender's own columns."""
        return self.source.kept


@dataclass(slots=True)
class FeedDraft:
    """The draft of one feed. The guesses fill it, in an order in which each finds what it needs."""

    found: Found
    lines: FeedLines
    candidates: dict[str, list[Candidate]]  # by our field, the surest column first
    columns: dict[str, str] = field(default_factory=dict)  # our field -> theirs, where it is sure
    perhaps: dict[str, str] = field(default_factory=dict)  # the same, where a person is asked
    refund: tuple[str, str] | None = None  # SQL for the amount, and for what was given back of it
    references: dict[str, str] = field(default_factory=dict)
    guessed: list[tuple[str, str]] = field(default_factory=list)
    undecided: list[str] = field(default_factory=list)

    @property
    def kind(self) -> Kind:
        """Return the kind of the feed."""
        return self.found.kind

    def take(self, name: str, column: str, comment: str = "") -> None:
        """Map a field to a column."""
        self.columns[name] = column
        self.lines.columns.append(Setting(name, column, comment))
        self.note(name, f'column "{column}"')

    def ask_column(self, name: str, why: str, column: str = "") -> None:
        """Ask for the column of a field in a way that keeps the draft from running."""
        if column:
            self.perhaps[name] = column
        self.lines.columns.append(Setting(name, f"{UNDECIDED}: {name}", f"{UNDECIDED}: {why}"))
        self.decide(f"{name}: {why}")

    def suggest_column(self, name: str, column: str, why: str) -> None:
        """Show a column of a field that is left out unless a person wants it."""
        self.perhaps[name] = column
        self.lines.columns.append(Setting(name, column, f"{UNDECIDED}: {why}", is_set=False))
        self.decide(f"{name}: perhaps column {safe(column)}; {why}")

    def show_column(self, name: str, value: Value, comment: str) -> None:
        """Show a choice for the column of a field that a person is asked for."""
        self.lines.columns.append(Setting(name, value, comment, is_set=False))

    def set(self, key: str, value: Value, comment: str = "") -> None:
        """Write a setting."""
        self.lines.settings.append(Setting(key, value, comment))

    def ask(self, key: str, value: Value, why: str, *, is_set: bool = False) -> None:
        """Ask for a setting; `value` is shown as a comment, or, if it is set, used until then."""
        self.lines.settings.append(Setting(key, value, f"{UNDECIDED}: {why}", is_set=is_set))
        self.decide(f"{key}: {why}" if key else why)

    def show(self, key: str, value: Value, comment: str = "") -> None:
        """Show a setting as a comment, as one of the choices of the line before."""
        self.lines.settings.append(Setting(key, value, comment, is_set=False))

    def note(self, what: str, why: str) -> None:
        """Report a guess with its source."""
        self.guessed.append((what, why))

    def decide(self, what: str) -> None:
        """Report what a person must decide."""
        self.undecided.append(what)

    def texts(self, column: str) -> pl.Series:
        """Return the values of a column in the sample, without blanks."""
        return self.found.sample[column].alias("text").drop_nulls()  # a name may be a pattern

    def counts(self, column: str) -> Counter[str]:
        """Return the spellings of a column in the sample, with their rows."""
        return Counter(self.texts(column).to_list())

    def named(self, column: str) -> str:
        """Return a column's name as a comment may hold it, or its number if the name may be a value."""
        return printable(column_text(self.found.header, column))

    def free(self) -> list[str]:
        """Return the columns that no field has."""
        return [name for name in self.found.header if name not in self.columns.values()]

    def note_unused(self) -> None:
        """List the columns that are not used, unless their names may be values."""
        header = self.found.header
        if is_header(header):
            self.lines.unused = [safe(name) for name in self.free() if not has_many_digits(name)]


def has_many_digits(name: str) -> bool:
    """Return whether a name may be an id or a number: then it is not shown."""
    return bool(_MANY_DIGITS.search(name))


def safe(name: str) -> str:
    """Return a column's name as a comment may hold it."""
    return f'"{printable(name)}"'


def printable(text: str) -> str:
    """Return a text without characters that a comment cannot hold."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
