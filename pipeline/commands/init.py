"""The command `init`: a draft of a configuration, from a file's own header and a sample of it.

A sure guess becomes a setting; an unsure one is a comment with DECIDE in it, for a person. A required
field without a column is mapped to a column that no file has, so that nothing can be sent before a
person has decided. No value of the file goes into the draft except codes of coded fields, and none is
printed. Names of columns that may be values, because the file may have no header, are left out.
"""

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

import polars as pl

from pipeline.errors import ConfigError, InputError
from pipeline.files import FILE_MODE, may_be_file
from pipeline.reading.headers import column_text, has_data, is_header
from pipeline.reading.inspect import headers, inspect
from pipeline.reading.read import read
from pipeline.reading.source import Source
from pipeline.reporting.draft import Lines, draft_text
from pipeline.rows import synonyms
from pipeline.rows.columns import TRANSLATED
from pipeline.rows.dates import FORMATS, FULL_DATE, fitting, has_zone, reads
from pipeline.rows.feed import TRAITS, Feed, Kind
from pipeline.rows.money import cents_of
from pipeline.rows.spellings import is_taken, shown
from pipeline.system.temporary import temporary_folder

_SAMPLE_ROWS: Final = 10_000
_SHARE_SURE: Final = (
    0.5  # of a column's values that are codes of a field, beside a name that may be its
)
_SHARE_SUGGESTED: Final = 0.3  # the same without such a name
_ENCODINGS: Final = ("utf-8", "windows-1252")
_ENDINGS: Final[tuple[Literal["require", "any"], ...]] = ("require", "any")
_CANVAS_KEY: Final = re.compile(r"[0-9a-f]{32}")
_DASHED_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_PAYER_ID: Final = re.compile(r"[0-9A-Z]{5}")  # as clearing houses number payers
_NAME_BAD: Final = re.compile(r"[^A-Za-z0-9_-]+")
_MANY_DIGITS: Final = re.compile(r"\d.*\d.*\d.*\d.*\d")

# Spellings whose meaning is sure, whatever the sender: X12 1069, HL7 0063, and plain words.
_MEANINGS: Final[dict[str, dict[str, str]]] = {
    "relationship": {
        **dict.fromkeys(("18", "sel", "subscriber", "insured", "employee/self"), "self"),
        **dict.fromkeys(("01", "spo", "husband", "wife"), "spouse"),
        **dict.fromkeys(("19", "chd", "son", "daughter", "dependent child"), "child"),
        **dict.fromkeys(("g8", "oth", "other relationship"), "other"),
        **dict.fromkeys(("41", "injured plaintiff"), "injured"),
    },
    "status": dict.fromkeys(("a", "act", "active coverage"), "active"),
    "order": {
        **dict.fromkeys(("01", "1st", "pri", "prim", "first"), "1"),
        **dict.fromkeys(("02", "2nd", "sec", "second"), "2"),
        **dict.fromkeys(("03", "3rd", "ter", "tert", "third"), "3"),
    },
}
# Entries that are payments of a patient.
_PAYMENTS: Final = frozenset(
    [
        "payment",
        "pmt",
        "patient payment",
        "pat payment",
        "pat pmt",
        "pt payment",
        "pt pmt",
        "patient pmt",
        "copay",
        "co-pay",
        "copayment",
        "patient copay",
    ]
)


@dataclass(slots=True)
class Drafted:
    """A draft, and a report about it. `path` None: it goes to stdout."""

    text: str
    path: Path | None
    source: str  # the file, in words
    guessed: list[tuple[str, str]] = field(default_factory=list)  # the setting, and its source
    undecided: list[str] = field(default_factory=list)


def draft(path: Path, kind: str | None = None, output: Path | None = None) -> Drafted:
    """Draft a configuration for a file, and write it with mode 0600.

    Args:
        path: The file.
        kind: "eligibility" or "ledger"; None: the names of the columns decide.
        output: The configuration to write; None: write nothing.

    Returns:
        The draft.

    Raises:
        InputError: The file is unfit.
        ConfigError: `output` exists, or the kind cannot be known.
    """
    if output is not None and output.exists():
        raise ConfigError(
            f"{output} is there already, and is not written over",
            "name another file with --output, or move it away",
        )
    with temporary_folder() as scratch:
        feed, source = _found(path, scratch)
        _refuse_data(source)
        found = Kind(kind) if kind else synonyms.kind_of(source.kept)
        if found is None:
            raise ConfigError(
                f"{path.name}: the names of its {len(source.header)} columns do not tell what it holds",
                "say so with --kind eligibility or --kind ledger",
            )
        drafted = _Drafting(path, feed, source, found, _sample(source)).draft(output)
    if output is not None:
        _write(output, drafted.text)
    return drafted


def _write(output: Path, text: str) -> None:
    try:
        handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
    except OSError as error:
        raise ConfigError(
            f"{output} cannot be written: {error.strerror}", "name another file with --output"
        ) from None
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)


# The file -----------------------------------------------------------------------------------------


def _found(path: Path, scratch: Path) -> tuple[Feed, Source]:
    """Inspect the file as a run does, with each encoding and ending. Raises the first InputError."""
    first: InputError | None = None
    for encoding in _encodings(path):
        for ending in _ENDINGS:
            feed = replace(
                Feed("init", Kind.ELIGIBILITY, str(path), {}, encoding=encoding),
                final_newline=ending,
            )
            try:
                if may_be_file(path) and path.suffix.lower() not in {".parquet", ".xlsx"}:
                    feed = replace(feed, delimiter=_delimiter(path, encoding))
                return feed, inspect(path, feed, scratch)
            except InputError as error:
                first = first or error
    raise first or InputError("there is no such file", "check its path", file=path.name)


def _encodings(path: Path) -> Sequence[str]:
    try:
        with path.open("rb") as file:
            is_utf_16 = file.read(2) in {b"\xff\xfe", b"\xfe\xff"}
    except OSError:
        return _ENCODINGS
    return ("utf-16",) if is_utf_16 else _ENCODINGS


def _delimiter(path: Path, encoding: str) -> str:
    """Return the delimiter under which most names are known; then the one with most columns."""
    found = headers(path, encoding)
    return max(found, key=lambda one: (synonyms.known(found[one]), len(found[one])))


def _refuse_data(source: Source) -> None:
    """Raise InputError if the file has no header: its first row would be taken for one, and go into the draft."""
    if has_data(source.header):
        raise InputError(
            "the first line holds numbers or dates, and seems to be a row",
            "have it written with a header that names the columns",
            file=source.name,
            row=0,
        )


def _sample(source: Source) -> pl.DataFrame:
    """Return the first rows, trimmed; null where blank."""
    parts: list[pl.DataFrame] = []
    for batch in read(source):
        parts.append(batch.frame)
        if sum(part.height for part in parts) >= _SAMPLE_ROWS:
            break
    frame = pl.concat(parts).head(_SAMPLE_ROWS).with_columns(pl.all().str.strip_chars())
    return frame.with_columns(pl.when(pl.all() != "").then(pl.all()))


# The draft ----------------------------------------------------------------------------------------


class _Drafting:
    """One draft: each guess becomes a line, with its source."""

    def __init__(
        self, path: Path, feed: Feed, source: Source, kind: Kind, sample: pl.DataFrame
    ) -> None:
        self._path = path
        self._feed = feed
        self._source = source
        self._kind = kind
        self._sample = sample
        self._matches = synonyms.matches(source.kept, kind)
        self._columns: dict[str, str] = {}  # our field -> theirs
        self._lines = Lines()
        self._guessed: list[tuple[str, str]] = []
        self._undecided: list[str] = []

    def draft(self, output: Path | None) -> Drafted:
        """Return the whole draft. The order matters: one guess needs another."""
        self._guess_columns()
        self._guess_codes()
        self._guess_dates()
        if self._kind is Kind.LEDGER:
            self._guess_only()
            self._guess_sign()
        self._guess_key()
        self._guess_references()
        self._note_reading()
        where = Path.cwd() if output is None else output.parent.resolve()
        text = draft_text(
            name=self._name(),
            kind=self._kind.value,
            file=self._path.name,
            rows=self._source.rows,
            path=os.path.relpath(self._path.resolve(), where),
            lines=self._lines,
        )
        described = (
            f"{self._path.name}: {self._source.rows:,} rows, {len(self._source.header)} columns"
        )
        if not self._source.is_parquet:
            described += f', delimiter "{_spelt(self._source.delimiter)}", {self._feed.encoding}'
        return Drafted(text, output, described, self._guessed, self._undecided)

    def _name(self) -> str:
        stem = _NAME_BAD.sub("_", self._path.name.partition(".")[0]).strip("_-")
        return stem[:64] or self._kind.value

    def _named(self, column: str) -> str:
        """Return a column's name as a comment may hold it, or its number if the name may be a value."""
        return "".join(
            letter if letter.isprintable() else " "
            for letter in column_text(self._source.kept, column)
        )

    def _decide(self, what: str) -> None:
        self._undecided.append(what)

    # Columns --------------------------------------------------------------------------------------

    def _guess_columns(self) -> None:
        required = TRAITS[self._kind].required
        for name in TRAITS[self._kind].fields:
            match = self._matches.get(name)
            if match is not None and self._is_sure(name, match):
                self._columns[name] = match.column
                self._lines.columns.append((name, match.column, _also(match)))
                self._guessed.append((name, f'column "{match.column}"'))
            elif name in required:
                self._ask_for(name, match)
            elif match is not None:
                self._lines.maybe_columns.append((name, match.column, self._why_not(name)))
                self._decide(f'{name}: perhaps column "{match.column}"; {self._why_not(name)}')
        further = synonyms.further(self._source.kept)
        if further:
            self._lines.notes.append(
                f"DECIDE: a further coverage is in the same row, in {', '.join(map(self._named, further))}. "
                "A row is one coverage here: have the file split, or add a second feed for them with its own constant order; "
                "rows without one are rejected there."
            )
            self._decide("columns of a second coverage in the same row")
        unused = [
            name
            for name in self._source.kept
            if name not in self._columns.values() and not _MANY_DIGITS.search(name)
        ]
        if unused and is_header(self._source.kept):
            self._lines.unused = [_safe(name) for name in unused]

    def _is_sure(self, name: str, match: synonyms.Match) -> bool:
        """Return whether the name or the values (codes of the field) settle the column of a field."""
        if match.is_sure:
            return self._may_be(name, match.column)
        is_free = match.column not in self._columns.values()
        return is_free and self._share(name, match.column) > _SHARE_SURE

    def _share(self, name: str, column: str) -> float:
        """Return the share of a column's values that are codes of a coded field; 0 if all are the same."""
        texts = self._sample[column].drop_nulls()
        if name not in _MEANINGS or texts.n_unique() < 2:  # noqa: PLR2004 - different ones
            return 0.0
        return sum(_means(name, text) for text in texts) / texts.len()

    def _may_be(self, name: str, column: str) -> bool:
        """Return whether the values of a column fit its name."""
        texts = self._sample[column].drop_nulls()
        if name == "transaction_id":
            return bool(texts.len()) and texts.is_unique().all()
        if name == "type":
            return all(is_taken(name, text) for text in texts.unique())
        if name == "currency":
            return set(texts.unique()) <= {"USD"}
        return True

    def _why_not(self, name: str) -> str:
        if name == "transaction_id":
            return "it is not there in each row, or not different in each"
        if name == "type":
            return "its values are no codes of Canvas: map them under codes.type, or leave it out"
        if name == "claim":
            return "with a claim a payment is a copay, and goes to that claim"
        return "its name may mean something else"

    def _ask_for(self, name: str, match: synonyms.Match | None) -> None:
        """Note a required field that has no certain column."""
        by_values = None if match else self._by_values(name)
        if name == "order" and match is None and by_values is None:
            self._lines.constants.append(
                (
                    name,
                    "1",
                    "DECIDE: no column distinguishes primary from secondary; 1 for all rows?",
                )
            )
            self._decide("order: no column has it; the draft says 1 for all rows")
            self._guessed.append((name, "1 for all rows, because no column has it"))
            return
        perhaps = "no column has a name for it"
        if match or by_values:
            perhaps = f"perhaps {self._named(match.column if match else by_values or '')}"
            perhaps += "" if match else ", by its values"
        self._lines.columns.append((name, f"DECIDE: {name}", f"DECIDE: {perhaps}"))
        self._decide(f"{name}, which is required: {perhaps}")

    def _by_values(self, name: str) -> str | None:
        """Return a column of unknown name whose values are codes of this field."""
        taken = {match.column for match in self._matches.values()}
        shares = {
            column: self._share(name, column) for column in self._source.kept if column not in taken
        }
        best = max(shares, key=lambda column: shares[column], default=None)
        return best if best is not None and shares[best] > _SHARE_SUGGESTED else None

    # Codes ----------------------------------------------------------------------------------------

    def _guess_codes(self) -> None:
        for name in TRANSLATED:
            if name not in self._columns:
                continue
            counts = self._counts(name)
            odd = {text: count for text, count in counts.items() if not is_taken(name, text)}
            if not odd:
                self._guessed.append((name, "its values are codes of Canvas as they are"))
                continue
            visible = shown(name, odd)
            meanings = _MEANINGS.get(name, {})
            sure = {text: meanings[text.casefold()] for text in odd if text.casefold() in meanings}
            self._lines.codes[name] = [(text, code, odd[text]) for text, code in sure.items()]
            self._lines.maybe_codes[name] = [
                (text, count) for text, count in visible.items() if text not in sure
            ]
            hidden = len(odd) - len(set(visible) | set(sure))
            if hidden:
                self._lines.hidden_codes[name] = hidden
            if sure:
                known = f"{_spellings(len(sure))} whose meaning is known"
                self._guessed.append((f"codes.{name}", known))
            unknown = len(self._lines.maybe_codes[name])
            if unknown:
                self._decide(f"codes.{name}: {_spellings(unknown)} to map, in the draft")
            if hidden:
                self._decide(f"codes.{name}: {_spellings(hidden)} that may be no code")

    def _counts(self, name: str) -> Counter[str]:
        return Counter(self._sample[self._columns[name]].drop_nulls().to_list())

    # Dates ----------------------------------------------------------------------------------------

    def _guess_dates(self) -> None:
        """Choose one format for each column; if several fit, the one that another column settles."""
        fits = {
            name: fitting(list(texts))
            for name in self._columns
            if name.endswith("_on") and (texts := set(self._counts(name)))
        }
        if not fits:
            return
        settled = {forms[0] for forms in fits.values() if len(forms) == 1}
        taken: list[str] = sorted(settled, key=FORMATS.index)
        for name, forms in fits.items():
            column = self._columns[name]
            if not forms:
                self._note_no_format(name)
            elif len(forms) == 1 or settled.intersection(forms):
                form = forms[0] if len(forms) == 1 else next(f for f in taken if f in forms)
                self._guessed.append(
                    (f"dates of {name}", f'"{form}" reads all of column "{column}"')
                )
            else:
                named = " and ".join(f'"{form}"' for form in forms)
                self._lines.maybe_dates.append(
                    f"DECIDE: {named} read all of {_safe(column)}: which is meant?"
                )
                self._decide(f"dates: {named} read all of {name}; which is meant?")
        self._lines.dates = taken
        if not taken and not self._lines.maybe_dates:
            self._lines.dates = [FULL_DATE]
        if any(has_zone(form) for form in taken):
            what = 'the dates are instants: set timezone to the practice\'s, such as "America/New_York"'
            self._lines.maybe_dates.append(f"DECIDE: {what}")
            self._decide(f"timezone: {what}")

    def _note_no_format(self, name: str) -> None:
        texts = self._counts(name)
        best = max(FORMATS, key=lambda form: sum(reads(form, text) for text in texts))
        read_ = sum(count for text, count in texts.items() if reads(best, text))
        problem = f"no format reads all of {_safe(self._columns[name])}"
        if read_:
            problem += f'; "{best}" reads {read_:,} of {texts.total():,}'
        self._lines.maybe_dates.append(f"DECIDE: {problem}")
        self._decide(f"dates: {problem}")

    # Money ----------------------------------------------------------------------------------------

    def _guess_only(self) -> None:
        """Let through only what a patient surely paid; a person adds the rest."""
        if "entry_type" not in self._columns:
            return
        counts = self._counts("entry_type")
        visible = shown("entry_type", counts)
        payments = [text for text in visible if text.casefold() in _PAYMENTS]
        others = [(text, count) for text, count in visible.items() if text not in payments]
        hidden = len(counts) - len(visible)
        if payments and not others and not hidden:
            self._guessed.append(("entry_type", "all rows are payments"))
            return
        self._lines.only = payments or ["DECIDE"]
        self._lines.maybe_only = others
        listed = f"{_spellings(len(others))} in the draft" if others else ""
        unlisted = f"{_spellings(hidden)} that the draft does not show" if hidden else ""
        named = " and ".join(filter(None, [listed, unlisted]))
        self._decide(f"only.entry_type: which are payments of patients: {named}?")
        if payments:
            rows = sum(counts[text] for text in payments)
            self._guessed.append(
                ("only", f"{_spellings(len(payments))} of payments, in {rows:,} rows of the sample")
            )

    def _guess_sign(self) -> None:
        if "amount" not in self._columns:
            return
        rows = self._sample
        if self._lines.only and self._lines.only != ["DECIDE"]:
            rows = rows.filter(rows[self._columns["entry_type"]].is_in(self._lines.only))
        texts = rows[self._columns["amount"]].drop_nulls()
        cents = [cents_of(text, "positive") for text in texts]
        positive, negative = (
            sum(1 for each in cents if each is not None and each * sign > 0) for sign in (1, -1)
        )
        unread = sum(each is None for each in cents)
        if unread:
            self._lines.notes.append(
                f"DECIDE: {unread:,} of {len(cents):,} amounts are no plain numbers such as 12.50, and would be rejected: have them written so."
            )
            self._decide(f"{unread:,} of {len(cents):,} amounts are no plain numbers")
        if negative and not positive:
            self._lines.sign = "negative"
            self._guessed.append(("amount_sign", f"all {negative:,} amounts are negative"))
        elif negative:
            self._lines.maybe_sign = f"DECIDE: {positive:,} amounts are positive, {negative:,} negative: which are payments?"
            self._decide(f"amount_sign: {positive:,} amounts are positive, {negative:,} negative")

    # Identity -------------------------------------------------------------------------------------

    def _guess_key(self) -> None:
        if self._kind is Kind.ELIGIBILITY:
            return
        if "transaction_id" in self._columns:
            self._guessed.append(("key", "transaction_id, which is different in each row"))
            return
        present = {*self._columns, *(name for name, _, _ in self._lines.columns)}
        counted = ("patient", "posted_on", "amount", "claim")
        self._lines.key = [name for name in counted if name in present]
        self._decide(
            f"key: no column is different in each row; the draft has {', '.join(self._lines.key)}, and a second "
            "equal row is a duplicate unless repeats and delivery say otherwise"
        )

    def _guess_references(self) -> None:
        patients = self._texts("patient")
        if patients and all(_CANVAS_KEY.fullmatch(text) for text in patients):
            self._lines.references["patient"] = "key"
            self._guessed.append(
                ("references.patient", "the values look like Canvas' Patient keys")
            )
        else:
            self._lines.references["patient"] = "file"
            self._decide(
                "references.patient: how the sender's ids become Patient keys (a table, or a search)"
            )
        if self._kind is Kind.LEDGER:
            return
        payers = self._texts("payer")
        if payers and all(_PAYER_ID.fullmatch(text) for text in payers):
            self._lines.references["payer"] = "payer_id"
            self._guessed.append(("references.payer", "the values look like payer ids"))
        else:
            self._lines.references["payer"] = "file"
            self._decide("references.payer: how the sender's payers become payer ids (a table)")

    def _texts(self, name: str) -> set[str]:
        return set(self._counts(name)) if name in self._columns else set()

    def _note_reading(self) -> None:
        source, feed = self._source, self._feed
        if not source.is_parquet:
            self._lines.delimiter = source.delimiter
        if feed.encoding != "utf-8":
            self._lines.encoding = feed.encoding
            self._guessed.append(("encoding", f"{feed.encoding}, because the bytes are not UTF-8"))
        if feed.final_newline == "any" and not source.is_parquet:
            self._lines.final_newline = "any"
            self._decide("final_newline: the last line does not end; was the file cut short?")


def _means(name: str, text: str) -> bool:
    return is_taken(name, text) or text.casefold() in _MEANINGS.get(name, {})


def _also(match: synonyms.Match) -> str:
    others = [_safe(name) for name in match.others if not _MANY_DIGITS.search(name)]
    return f"or {', '.join(others)}?" if others else ""


def _safe(name: str) -> str:
    """Return a column's name as a comment may hold it."""
    return '"' + "".join(letter if letter.isprintable() else " " for letter in name) + '"'


def _spellings(count: int) -> str:
    return "1 spelling" if count == 1 else f"{count:,} spellings"


def _spelt(delimiter: str) -> str:
    return {"\t": "\\t"}.get(delimiter, delimiter)
