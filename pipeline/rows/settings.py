"""Check a feed's settings for those that can have no effect, or only a wrong one. Pure.

Each function raises ValueError that names the key and says what is allowed. No message holds more
than the configuration itself does.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Final

from pydantic import BaseModel, ValidationError

from pipeline.fhir import codes
from pipeline.rows.columns import TRANSLATED, Reading
from pipeline.rows.dates import Dates, has_other_zone, has_zone
from pipeline.rows.spellings import is_taken

# Days that only a format with year, month and day reads back, whatever else it has.
_DAYS: Final = (
    datetime(2031, 11, 28, 13, 7, 9, tzinfo=UTC),
    datetime(1987, 2, 3, 4, 5, 6, tzinfo=UTC),
)
_ALLOWED: Final = {
    "relationship": f"one of {', '.join(codes.RELATIONSHIPS)}",
    "type": f"one of {', '.join(codes.TYPES)}",
    "status": f"one of {', '.join(codes.STATUSES)}",
    "order": "1 to 5, or primary, secondary, tertiary, quaternary, quinary",
}
# Valid values of these depend on tables and on Canvas, so only a plan can check them.
_REFERENCES: Final = frozenset({"patient", "subscriber", "payer", "claim"})


def check_dates(dates: Mapping[str, Sequence[str]], timezone: str) -> None:
    """Raise ValueError for formats that cannot be used, by the name of their key.

    A list is empty, names a format twice, or one that can never read a day; or instants, which have no day
    without the practice's time zone.
    """
    for where, formats in dates.items():
        check_names(where, formats)
        _check_formats(where, formats)
        other = next((form for form in formats if has_other_zone(form)), None)
        if other is not None:
            raise ValueError(
                f'{where}: "{other}" names a zone in a way that is not read: write %z for an offset such as -05:00, '
                "or the text UTC itself"
            )
        zoned = next((form for form in formats if has_zone(form)), None)
        if zoned is not None and not timezone:
            raise ValueError(
                f'{where}: "{zoned}" reads instants, and their days depend on the time zone: set '
                'timezone to that of the practice, such as "America/New_York"'
            )


def check_texts(name: str, values: Sequence[str]) -> None:
    """Raise ValueError for a list of cells with one that no cell can be, or that is there twice."""
    if any(not value or value != value.strip() for value in values):
        raise ValueError(
            f"{name}: an entry is blank, or begins or ends with a blank, and no cell is read so: "
            "write it without; blank cells need no entry"
        )
    check_names(name, values)


def check_null_values(
    null_values: Collection[str],
    only: Mapping[str, Sequence[str]],
    tables: Mapping[str, Mapping[str, str]],
    constants: Mapping[str, str],
) -> None:
    """Raise ValueError for a text that means blank and is also a value to load, or a code: it would have no effect."""
    named = {f"only.{name}": values for name, values in only.items() if name not in constants}
    named |= {f"codes.{name}": [*table] for name, table in tables.items() if name not in constants}
    for where, values in named.items():
        twice = next((value for value in values if value in null_values), None)
        if twice is not None:
            raise ValueError(
                f'{where}: "{twice}" is in null_values too, so no cell is read as it: remove it from one of the two'
            )


def _check_formats(where: str, formats: Sequence[str]) -> None:
    """Raise ValueError for a list that is empty, or a format that can never read a day."""
    if not formats:
        raise ValueError(f'{where}: must name at least one format, such as "%m/%d/%Y"')
    for form in formats:
        if not all(_reads_back(form, at) for at in _DAYS):
            raise ValueError(
                f'{where}: "{form}" can never read a day: a format needs year, month and day, by the signs '
                "of strptime, such as %Y-%m-%d, %m/%d/%Y or %Y%m%d"
            )


def _reads_back(form: str, at: datetime) -> bool:
    try:
        return Dates((form,)).read(at.strftime(form).strip()) == at.date()
    except ValueError:  # strftime refuses some signs, and strptime's pattern others
        return False


def check_codes(tables: Mapping[str, Mapping[str, str]], given: Collection[str]) -> None:
    """Raise ValueError for codes of a field that takes none or is not `given`, or that Canvas does not know."""
    for name, table in tables.items():
        where = f"codes.{name}"
        if name not in TRANSLATED:
            raise ValueError(
                f"{where}: this field takes no codes; {', '.join(TRANSLATED[:-1])} and {TRANSLATED[-1]} do"
            )
        if name not in given:
            raise ValueError(
                f"{where}: {name} is in neither columns nor constants: map it, or remove the codes"
            )
        if any(not spelling or spelling != spelling.strip() for spelling in table):
            raise ValueError(
                f"{where}: a spelling is blank, or begins or ends with a blank, and no cell is read so: "
                "write it without"
            )
        if not all(is_taken(name, code) for code in table.values()):
            raise ValueError(f"{where}: each code on the right must be {_ALLOWED[name]}")


def check_subscribers(kind: str, feed: str, given: Collection[str]) -> None:
    """Raise ValueError if the subscribers of a feed (its fields are `given`) cannot be found in other rows."""
    if kind != "eligibility":
        return
    where = 'references.subscriber: how = "row"'
    if "subscriber_id" not in given:
        raise ValueError(
            f"{where} needs subscriber_id in feed {feed}: map the column in which all members of one contract have "
            "the same text"
        )
    if "subscriber" in given:
        raise ValueError(
            f"{where} finds the subscriber, and feed {feed} maps subscriber too: remove it there, or set "
            'how = "patient"'
        )


def check_order_from(order_from: str, given: Collection[str]) -> None:
    """Raise ValueError for an `order` that is mapped although the file's sequence says it."""
    if order_from == "sequence" and "order" in given:
        raise ValueError(
            'order_from = "sequence" numbers the coverages itself, and order is mapped too: remove order from columns '
            'or constants, or set order_from = "column"'
        )


def check_only(only: Mapping[str, Sequence[str]], constants: Mapping[str, str]) -> None:
    """Raise ValueError for a list that no row can pass, or a value that no cell can have."""
    for name, values in only.items():
        where = f"only.{name}"
        if not values:
            raise ValueError(
                f"{where}: must name at least one value, or no row is loaded; remove it to load all rows"
            )
        if any(not value or value != value.strip() for value in values):
            raise ValueError(
                f"{where}: a value is blank, or begins or ends with a blank, and no cell is read so: "
                "write it without"
            )
        if name in constants and constants[name] not in values:
            raise ValueError(
                f"{where}: no row can pass, because the constant is none of these values: remove one of the two"
            )


def check_key(kind: str, identity: Sequence[str]) -> None:
    """Raise ValueError for a key (`identity`) that payments of different days can share.

    The second of them would be `unchanged`, and never sent.
    """
    if kind == "ledger" and not {"transaction_id", "posted_on"}.intersection(identity):
        raise ValueError(
            "key: a payment of another day with the same values would be the same payment, and never sent: "
            "add transaction_id (the sender's id of each payment) or posted_on"
        )


def check_repeats(
    kind: str,
    repeats: str,
    delivery: str | None,
    missing: str,
    identity: Sequence[str],
    given: Collection[str],
) -> None:
    """Raise ValueError if equal rows cannot be counted, or not as it is configured.

    The place of an equal row among the rows of its patient, day, amount and claim identifies its payment, so
    these must all be in the key (`identity`). It also depends on the other rows of the file.
    """
    if missing != "ignore" and delivery == "increment":
        raise ValueError(
            f'missing = "{missing}" needs files that hold all rows: delivery = "full", or leave one of the two out'
        )
    if repeats != "count":
        return
    if kind == "eligibility":
        raise ValueError(
            "repeats: eligibility has no equal rows to count, because a coverage is there once: leave it out"
        )
    needed = ("patient", "posted_on", "amount", *(("claim",) if "claim" in given else ()))
    lacking = next((name for name in needed if name not in identity), None)
    if lacking is not None:
        raise ValueError(
            f'repeats = "count" needs a key with {", ".join(needed)}, and {lacking} is not in it: '
            'add it, or set repeats = "reject" with an id of each payment as the key'
        )
    if delivery is None:
        raise ValueError(
            'repeats = "count" needs delivery: "full" if each delivery holds all rows of the ones before, '
            '"increment" if it holds new rows only'
        )


# Settings that have no effect with another kind, and why.
_ONLY_FOR: Final = {
    "amount_sign": ("ledger", "a coverage has no amount"),
    "decimal_comma": ("ledger", "a coverage has no amount"),
    "amount_unit": ("ledger", "a coverage has no amount"),
    "open_dates": ("eligibility", "a payment's day is never open"),
    "update": ("eligibility", "a payment is never changed in Canvas"),
    "adopt": ("eligibility", "Canvas is not searched for payments"),
    "order_from": ("eligibility", "a payment has no order"),
}


def check_effects(kind: str, missing: str, changed: Collection[str]) -> None:
    """Raise ValueError for a setting that is `changed` from its default and would do nothing."""
    for name, (only_kind, why) in _ONLY_FOR.items():
        if name in changed and kind != only_kind:
            raise ValueError(
                f"{name}: has no effect on a feed of kind {kind}, because {why}: remove it"
            )
    if "missing_max" in changed and missing == "ignore":
        raise ValueError(
            'missing_max: has no effect with missing = "ignore", because nothing is ended or cancelled: remove it, '
            'or set missing = "end"'
        )
    if "missing_end_on" in changed and missing != "end":
        raise ValueError(
            f'missing_end_on: has no effect with missing = "{missing}", because nothing is ended: remove it, '
            'or set missing = "end"'
        )


def check_missing(kind: str, missing: str, final_newline: str, given: Collection[str]) -> None:
    """Raise ValueError if what is to be done about missing rows cannot be done, or not safely."""
    if missing != "ignore" and kind == "ledger":
        raise ValueError("missing: a payment cannot be taken back, so only ignore is allowed")
    if missing in {"end", "cancel"} and final_newline == "any":
        raise ValueError(
            f'missing = "{missing}" needs final_newline = "require": a file that was cut short would not be noticed'
        )
    if missing == "end" and "start_on" not in given:
        raise ValueError(
            'missing = "end" needs start_on, in columns or constants: Canvas enters the day of the write into a '
            "coverage without a start, which may be later than its end"
        )


_OF_LINES: Final = ("skip_lines", "skip_footer", "comment_prefix", "blank_lines")
_TEXTS: Final = (".csv", ".tsv", ".txt", ".gz", ".zst")


def check_path(path: str, changed: Collection[str]) -> None:
    """Raise ValueError for a setting that files of this ending do not have."""
    ending = PurePosixPath(path).suffix.lower()
    unused: tuple[str, ...] = (*_OF_LINES, "sheet") if ending == ".parquet" else ()
    unused = ("sheet",) if ending in _TEXTS else unused
    name = next((each for each in unused if each in changed), None)
    if name is not None:
        raise ValueError(f"{name}: has no effect on files that end in {ending}: remove it")


_WITHOUT_TEXT: Final = (*_OF_LINES, "sheet", "delimiter", "final_newline")


def check_format(form: str, kind: str, path: str, changed: Collection[str]) -> None:
    """Raise ValueError for an X12 834 that becomes payments, or for a setting that it does not have."""
    if not form:
        return
    if kind != "eligibility":
        raise ValueError('format: an 834 holds coverages: kind must be "eligibility"')
    ending = PurePosixPath(path).suffix.lower()
    if ending in {".parquet", ".xlsx"}:
        raise ValueError(f"format: files that end in {ending} are no X12 834: remove it")
    name = next((each for each in _WITHOUT_TEXT if each in changed), None)
    if name is not None:
        raise ValueError(f'{name}: has no effect with format = "{form}": remove it')


def check_names(name: str, values: Sequence[str]) -> None:
    """Raise ValueError for a list that names something twice."""
    twice = next((value for value in values if values.count(value) > 1), None)
    if twice is not None:
        raise ValueError(f'{name}: names "{twice}" twice: remove one of the two')


def check_constants(constants: Mapping[str, str], model: type[BaseModel], reading: Reading) -> None:
    """Raise ValueError for a constant with which every row would be rejected, or which is blank."""
    for name, value in constants.items():
        if value != value.strip() or not value:
            raise ValueError(
                f"constants.{name}: must not be blank, nor begin or end with a blank: "
                "write the value alone, or leave it out"
            )
    try:
        model.model_validate({**dict.fromkeys(model.model_fields), **constants}, context=reading)
    except ValidationError as error:
        details = error.errors(include_input=False, include_context=False, include_url=False)
        for name, message in ((str(each["loc"][0]), each["msg"]) for each in details):
            if name in constants and name not in _REFERENCES:
                raise ValueError(f"constants.{name}: {message}") from None
