"""Guess the columns of days by their values and names, and the format of the days."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from pipeline.commands.drafts.feed import FeedDraft, safe
from pipeline.job import UNDECIDED
from pipeline.reporting.draft import Raw, Setting, quoted
from pipeline.rows import synonyms
from pipeline.rows.dates import FORMATS, FULL_DATE, OPEN_FIELDS, Dates, fitting, has_zone, reads

_LOOKED_AT: Final = 200  # spellings of a column, to see whether it holds days
_SHARE_FITTING: Final = 0.5  # of the spellings of a column with a sure name
_LAST_DAYS: Final = ("9999-12-31", "9999-12-30", "2999-12-31", "3000-01-01", "2262-04-11")
_FIRST_DAYS: Final = ("0001-01-01", "0000-00-00", "1753-01-01", "1899-12-30", "1900-01-01")
_SPELT: Final = (
    "{2}/{3}/{1}",
    "{5}/{6}/{1}",
    "{1}{2}{3}",
    "{3}/{2}/{1}",
    "{2}-{3}-{1}",
    "{1}/{2}/{3}",
    "{3}.{2}.{1}",
)
_MIDNIGHTS: Final = (
    "",
    " 00:00:00",
    "T00:00:00",
    " 12:00:00 AM",
    "T00:00:00Z",
    " 00:00:00.000",
    " 00:00",
)


def _spellings(days: Iterable[str]) -> frozenset[str]:
    """Return the usual spellings of days, with and without midnight."""
    found = set()
    for day in days:
        year, month, number = day.split("-")
        parts = ("", year, month, number, "", str(int(month)), str(int(number)))
        forms = [day, *(form.format(*parts) for form in _SPELT)]
        found |= {form + midnight for form in forms for midnight in _MIDNIGHTS}
    return frozenset(found)


OPEN_DAYS: Final = _spellings((*_LAST_DAYS, *_FIRST_DAYS))  # which senders write for "no date"
_FIRST: Final = _spellings(_FIRST_DAYS)


def days_in(draft: FeedDraft, column: str) -> set[str]:
    """Return the spellings of a column without those that mean "no date"."""
    return set(draft.texts(column).unique()) - OPEN_DAYS


def holds_days(draft: FeedDraft, column: str) -> bool:
    """Return whether all values of a column read as days in one format."""
    texts = sorted(days_in(draft, column))[:_LOOKED_AT]
    return bool(fitting(texts)) if texts else bool(draft.texts(column).len())


def fits_days(draft: FeedDraft, column: str) -> bool:
    """Return whether a column with a sure name may hold days: it is blank, or one format reads half of it."""
    texts = sorted(days_in(draft, column))[:_LOOKED_AT]
    return not texts or _best(texts)[1] >= len(texts) * _SHARE_FITTING


def _best(texts: Collection[str]) -> tuple[str, int]:
    """Return the format that reads most of the texts, and how many."""
    counts = {form: sum(reads(form, text) for text in texts) for form in FORMATS}
    best = max(FORMATS, key=lambda form: counts[form])
    return best, counts[best]


# Columns ------------------------------------------------------------------------------------------


def guess_day(draft: FeedDraft, name: str) -> None:
    """Find the column of a field of days, or ask for it."""
    known = [each for each in draft.candidates[name] if each.column in draft.free()]
    fitting_ = [each for each in known if fits_days(draft, each.column)]
    sure = [each.column for each in fitting_ if each.is_sure]
    if sure:
        draft.take(name, sure[0], f"or {', '.join(map(safe, sure[1:]))}?" if sure[1:] else "")
        return
    pointed = _pointed(draft, name)
    sure = [column for column, is_sure in pointed.items() if is_sure]
    if len(sure) == 1:
        draft.take(name, sure[0])
        return
    doubtful = [each.column for each in fitting_ if not each.is_sure]
    _ask_for_day(draft, name, list(dict.fromkeys([*sure, *doubtful, *pointed])))


def _pointed(draft: FeedDraft, name: str) -> dict[str, bool]:
    """Return the columns of days whose names point to a field, and whether they surely do."""
    header = draft.found.header
    found = {}
    for column in draft.free():
        field, is_sure = synonyms.day_field(column, draft.kind) or ("", False)
        if field == name and holds_days(draft, column):
            found[column] = is_sure or synonyms.is_date_beside_end(column, header)
    return found


_WHAT: Final = {
    "start_on": ("the first day of the coverage", "without it Canvas puts the day of the upload"),
    "end_on": ("the last day of the coverage", "without it coverages that have ended stay open"),
    "posted_on": ("the day of the payment", "without it the key cannot hold the day"),
}


def _ask_for_day(draft: FeedDraft, name: str, columns: list[str]) -> None:
    what, otherwise = _WHAT[name]
    if not columns and name != "posted_on":
        why = f"no column seems to hold {what}: {otherwise}"
        draft.lines.columns.append(Setting(name, "", f"{UNDECIDED}: {why}", is_set=False))
        draft.decide(f"{name}: {why}")
    if not columns:
        return
    named = " or ".join(map(draft.named, columns))
    if name == "posted_on" and "transaction_id" in draft.columns:
        draft.suggest_column(name, columns[0], f"is {named} {what}? {_note_on_utc(columns[0])}")
    else:
        draft.ask_column(name, f"perhaps {named}, if it holds {what}; {otherwise}", columns[0])


def _note_on_utc(column: str) -> str:
    is_utc = "utc" in synonyms.words_of(column)
    return "In UTC an evening payment is on the next day" if is_utc else "It is not required"


# Formats ------------------------------------------------------------------------------------------


def guess_formats(draft: FeedDraft) -> None:
    """Choose one format for each column; if several fit, the one that another column settles."""
    mapped = {**draft.perhaps, **draft.columns}
    columns = {name: column for name, column in mapped.items() if name.endswith("_on")}
    fits = {
        name: _formats(draft, column)
        for name, column in columns.items()
        if set(draft.texts(column).unique()) - _FIRST
    }
    is_set = {setting.key for setting in draft.lines.columns if setting.is_set}
    for name in [name for name in fits if name not in is_set]:
        if any(map(has_zone, fits[name])):  # which needs a time zone, too
            draft.show("dates", fits.pop(name)[:1], f"for {name}, which needs timezone then")
    settled = {forms[0] for forms in fits.values() if len(forms) == 1}
    taken: list[str] = sorted(settled, key=FORMATS.index)
    asked: dict[tuple[str, ...], list[str]] = {}  # the formats that fit, and their columns
    for name, forms in fits.items():
        if len(forms) == 1 or settled.intersection(forms):
            form = forms[0] if len(forms) == 1 else next(f for f in taken if f in forms)
            draft.note(f"dates of {name}", f'"{form}" reads all of column "{columns[name]}"')
        else:
            asked.setdefault(tuple(forms), []).append(columns[name])
    if len(taken) == 1:
        draft.set("dates", taken)
    elif taken:
        draft.set("dates", _by_field(fits, taken), "the formats of each field")
    for both, names in asked.items():
        _ask_for_format(draft, both, names)
    _guess_open_dates(draft, columns, taken)
    _ask_for_timezone(draft, columns, fits)


def _by_field(fits: Mapping[str, Sequence[str]], taken: Sequence[str]) -> Raw:
    """Return the formats as a table, so that no day is read by the format of another column."""
    forms = {
        name: next((form for form in taken if form in found), FULL_DATE)
        for name, found in fits.items()
    }
    return Raw(f"{{ {', '.join(f'{name} = [{quoted(form)}]' for name, form in forms.items())} }}")


def _formats(draft: FeedDraft, column: str) -> list[str]:
    """Return the formats that read a column, with the help of far days such as 12/31/9999 where they fit."""
    texts = set(draft.texts(column).unique())
    return fitting(texts - _FIRST) or fitting(texts - OPEN_DAYS)


def _ask_for_format(draft: FeedDraft, forms: Sequence[str], columns: Sequence[str]) -> None:
    named = " and ".join(map(safe, columns))
    if forms:
        both = " and ".join(f'"{form}"' for form in forms)
        why = f"{both} read all of {named}: which is meant? Until then rows are rejected"
        draft.ask("dates", [forms[0]], why)
        return
    for column in columns:
        counts = draft.counts(column)
        best, _ = _best(list(counts)[:_LOOKED_AT])
        read = sum(count for text, count in counts.items() if reads(best, text))
        why = f"no format reads all of {safe(column)}"
        why += f'; "{best}" reads {read:,} of {counts.total():,}' if read else ""
        draft.ask("dates", [best if read else FULL_DATE], f"{why}; the other rows are rejected")


def _guess_open_dates(draft: FeedDraft, columns: Mapping[str, str], forms: Sequence[str]) -> None:
    """Write the known spellings of "no date" that are not built in."""
    dates = Dates(forms or (FULL_DATE,))
    found = {
        text
        for name in OPEN_FIELDS
        if name in columns
        for text in set(draft.texts(columns[name]).unique()) & OPEN_DAYS
        if dates.read(text, name) is not None
    }
    if found:
        draft.set("open_dates", sorted(found), 'these mean "no date"')
        draft.note("open_dates", f"{len(found)} known spellings of no date")


def _ask_for_timezone(
    draft: FeedDraft, columns: Mapping[str, str], fits: Mapping[str, Sequence[str]]
) -> None:
    names = [safe(columns[name]) for name, forms in fits.items() if any(map(has_zone, forms))]
    if names:
        draft.ask(
            "timezone",
            f"{UNDECIDED}: the practice's time zone",
            f"{' and '.join(names)} hold instants: in which time zone are their days? The practice's, such as "
            '"America/New_York". In another one a day can be one too late',
            is_set=True,
        )
