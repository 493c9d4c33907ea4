"""An example of `[[tests]]` for a draft: a synthetic row that the drafted mapping accepts, as comments."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from pipeline.job import UNDECIDED
from pipeline.rows.dates import FULL_DATE
from pipeline.rows.feed import TRAITS, Kind

_DAY: Final = datetime(
    2026, 11, 30, 12, tzinfo=UTC
)  # 30: no month, so no format reads it otherwise
_VALUES: Final = {
    "patient": "1001",
    "member_id": "W1001",
    "payer": "60054",
    "relationship": "self",
    "order": "1",
    "transaction_id": "T1001",
}
_EXPECTED: Final = {
    "eligibility": '{ resource = { status = "active", order = 1 } }',
    "ledger": "{ resource = { amount = { value = 12.5 } } }",
}


def example_row(
    kind: str,
    columns: Mapping[str, Any],
    settings: Mapping[str, Any],
    codes: Mapping[str, str],
    entry_type: str,
) -> dict[str, str] | None:
    """Return a row by the sender's column names; None if one of its columns is SQL or is to be decided.

    Args:
        kind: The kind of the feed.
        columns: The sender's columns by our fields.
        settings: The settings of the feed.
        codes: The sender's code of a relationship by Canvas' code.
        entry_type: An entry type that `only` keeps; "": it keeps all.
    """
    if settings.get("format") == "834":
        return None  # a row has forty columns
    traits = TRAITS[Kind(kind)]
    fields = [*traits.required, *(settings.get("key") or traits.key)]
    values = {**_VALUES, **dict(_amounts(settings)), **dict(_days(settings))}
    values["relationship"] = codes.get("self", "self")
    if entry_type:
        fields.append("entry_type")
        values["entry_type"] = entry_type
    row = {}
    for name in dict.fromkeys(fields):
        column = columns.get(name)
        if column is None or name == "start_on":
            continue  # a constant, a sequence, or not mapped; a coverage needs no start
        if type(column) is not str or column.startswith(UNDECIDED) or name not in values:
            return None
        row[column] = values[name]
    return row


def _amounts(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    text = "12,50" if settings.get("decimal_comma") else "12.50"
    if settings.get("amount_unit") == "cents":
        text = "1250"
    yield "amount", f"-{text}" if settings.get("amount_sign") == "negative" else text


def _days(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    formats = settings.get("dates", [FULL_DATE])
    if not isinstance(formats, str):  # else it is a table of formats by field, as TOML
        yield "posted_on", _DAY.strftime(formats[0])


def expected(kind: str) -> str:
    """Return what the row becomes, as TOML."""
    return _EXPECTED[kind]
