"""Leave out the lines of a text that are no rows: titles, footers, comments, blank lines. Pure.

`skip_lines` and `skip_footer` count lines as an editor does, whatever quotes are in them. Comments and blank
lines are recognised only outside of quoted cells. Nothing is dropped uncounted: `inspect` compares the
counts here with the rows that `Shape` sees.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pipeline.rows.feed import Feed
from pipeline.rows.sql import compile_value

ABOVE, BELOW, COMMENTS, BLANK = "above", "below", "comments", "blank"
WITHOUT_COVERAGE: Final = "members"  # of an 834: they name no coverage, and say nothing about any
FOOTER_IS_ROW: Final = "it may be a row. Lower skip_footer; if it is a total, leave it out by its beginning: comment_prefix"
_PLACES: Final = {ABOVE: "above the header", BELOW: "after the last row"}


@dataclass(frozen=True, slots=True)
class Trim:
    """The settings of a feed that leave lines out."""

    skip_lines: int = 0
    skip_footer: int = 0
    comment_prefix: bytes = b""
    skips_blank: bool = False

    @property
    def is_needed(self) -> bool:
        """Return whether a line can be left out."""
        return self != Trim()


def trim_of(feed: Feed) -> Trim:
    """Return the settings of a feed."""
    return Trim(
        feed.skip_lines,
        feed.skip_footer,
        feed.comment_prefix.encode(),
        feed.blank_lines == "skip",
    )


def row_columns(feed: Feed) -> list[list[str]]:
    """Return the columns that each required field is read from; a constant has none."""
    required = feed.traits.required
    plain = [[feed.columns[name]] for name in required if name in feed.columns]
    return plain + [
        list(compile_value(feed.sql[name]).columns) for name in required if name in feed.sql
    ]


def may_be_row(cells: Mapping[str, str | None], columns: Sequence[Sequence[str]]) -> bool:
    """Return whether a line has a value for every required field (`row_columns`), and so may be a row."""
    filled = [any((cells.get(name) or "").strip() for name in names) for names in columns]
    return bool(filled) and all(filled)


class Trimmer:
    """The filter of a text. Pass all its chunks through `trim`; then `skipped` and `footer` are known.

    At most `skip_footer` lines and one more are in memory.

    Attributes:
        skipped: The number of lines left out, by kind.
        footer: The lines left out by `skip_footer`.
        is_tail_skipped: Whether the last line has no line end and was left out.
    """

    def __init__(self, trim: Trim, delimiter: bytes) -> None:
        self._trim = trim
        self._blank = delimiter + b'" \t\r'
        self._inside = False  # of a quoted cell
        self._carry: list[bytes] = []  # the pieces of the last line, which may go on
        self._held: list[bytes] = []  # lines that may be the footer
        self.skipped: Counter[str] = Counter()
        self.footer: tuple[bytes, ...] = ()
        self.is_tail_skipped = False

    def trim(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Yield a text without the lines to be left out."""
        for chunk in chunks:
            yield self.feed(chunk)
        yield self._finish()

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes; return lines that are kept."""
        first, *rest = chunk.split(b"\n")
        self._carry.append(first)
        if not rest:
            return b""
        lines = [b"".join(self._carry), *rest]
        self._carry = [lines.pop()]
        return self._kept(lines)

    def _finish(self) -> bytes:
        tail = b"".join(self._carry)
        text = self._kept([tail] if tail else [])
        self.footer, self._held = tuple(self._held), []
        self.skipped[BELOW] += len(self.footer)
        if not tail:
            return text
        self.is_tail_skipped = bool(self.footer) or not text
        return text if self.is_tail_skipped else text[:-1]

    @property
    def counts(self) -> dict[str, int]:
        """Return the numbers of lines that were left out, by kind."""
        return {kind: count for kind, count in self.skipped.items() if count}

    def _kept(self, lines: list[bytes]) -> bytes:
        """Return the lines that are kept of these and of those that are held back."""
        above = min(self._trim.skip_lines - self.skipped[ABOVE], len(lines))
        self.skipped[ABOVE] += above
        lines = [*self._held, *lines[above:]]
        cut = max(len(lines) - self._trim.skip_footer, 0)
        self._held = lines[cut:]
        kept = [line for line in lines[:cut] if self.keeps(line)]
        return b"\n".join([*kept, b""])

    @property
    def is_inside(self) -> bool:
        """Return whether the next line begins inside of a quoted cell."""
        return self._inside

    def keeps(self, line: bytes) -> bool:
        """Take the next line that may be a row; return whether it is kept."""
        quotes = line.count(b'"')
        if not self._inside:
            prefix = self._trim.comment_prefix
            if prefix and line.startswith(prefix):
                self.skipped[COMMENTS] += 1
                return False
            if self._trim.skips_blank and quotes % 2 == 0 and not line.strip(self._blank):
                self.skipped[BLANK] += 1
                return False
        self._inside ^= bool(quotes % 2)
        return True


def skipped_text(skipped: Mapping[str, int]) -> str:
    """Return what was left out, for reports: `lines skipped: 3 (2 above the header, 1 after the last row)`."""
    words = dict(_PLACES)
    words[COMMENTS] = "comment" if skipped.get(COMMENTS) == 1 else "comments"
    words[BLANK] = "blank"
    if members := skipped.get(WITHOUT_COVERAGE):
        return f"members without a coverage skipped: {members:,}"
    shown = [f"{skipped[kind]:,} {word}" for kind, word in words.items() if skipped.get(kind)]
    return f"lines skipped: {sum(skipped.values()):,} ({', '.join(shown)})"
