"""The spellings of coded fields: which of them Canvas takes, and which may be shown. Pure.

A code is not personal data, so codes of a coded field may be shown; but only if there are few of them and
each looks like a code, because a column that was mapped by mistake may hold anything.
"""

import re
from collections.abc import Mapping
from typing import Final

from pipeline.fhir import codes

_TAKEN: Final = {
    "relationship": {code.casefold() for code in codes.RELATIONSHIPS},
    "type": {code.casefold() for code in codes.TYPES},
    "status": {code.casefold() for code in codes.STATUSES},
    "order": set(codes.ORDERS),
    "currency": {"usd"},
}
CODED: Final = (*_TAKEN, "entry_type")
_SPELLINGS_MAX: Final = 20
_CODE: Final = re.compile(r"[^\W\d_](?:[\w /&.()+'*-]*)|\d{1,3}|[A-Z]?\d{1,2}[A-Z]?")
_LENGTH_MAX: Final = 30
_SHORT: Final = 7  # longer ones are shown only if they repeat, as names seldom do
_DIGITS_MAX: Final = 3


def is_taken(field: str, text: str) -> bool:
    """Return whether a spelling needs no table: Canvas' own codes in any case, and our words for orders."""
    return text.casefold() in _TAKEN.get(field, ())


def shown(field: str, counts: Mapping[str, int]) -> dict[str, int]:
    """Return the spellings of a field that may be shown, with their counts, the most frequent first."""
    if field not in CODED or len(counts) > _SPELLINGS_MAX:
        return {}
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return {
        text: count
        for text, count in ordered
        if _is_code(text) and (len(text) <= _SHORT or count > 1)
    }


def _is_code(text: str) -> bool:
    digits = sum(letter.isdigit() for letter in text)
    return len(text) <= _LENGTH_MAX and digits <= _DIGITS_MAX and bool(_CODE.fullmatch(text))
