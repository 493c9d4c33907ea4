"""Guess which column each of our fields is in, by its name and its values."""

import re
from collections.abc import Mapping
from typing import Final

from pipeline.commands.drafts.days import guess_day
from pipeline.commands.drafts.entries import guess_entry_type
from pipeline.commands.drafts.feed import FeedDraft, has_many_digits, safe
from pipeline.commands.drafts.identity import guess_id
from pipeline.commands.drafts.meanings import share_of_codes
from pipeline.commands.drafts.money import guess_amount, guess_currency
from pipeline.job import UNDECIDED
from pipeline.rows import synonyms
from pipeline.rows.feed import TRAITS
from pipeline.rows.spellings import is_taken
from pipeline.rows.synonyms import Candidate

_SHARE_SURE: Final = 0.5  # of a column's values that are codes of a field, beside a name for it
_SHARE_SUGGESTED: Final = 0.3  # the same without such a name
_DIGIT: Final = re.compile(r"\d")

_WHY_NOT: Final[Mapping[str, str]] = {
    "type": "its values are no codes of Canvas: map them under codes.type, or leave it out",
    "claim": "with a claim a payment is a copay, and goes to that claim",
    "status": "its codes may mean something else: an ended coverage is active too, with its end_on",
}

_CONSTANT: Final[Mapping[str, str]] = {  # where one value for all rows may do
    "relationship": '; if each patient is the subscriber, set relationship = "self" in [feeds.constants]',
    "payer": "; if all rows are of one payer, set it in [feeds.constants]",
}

_IF: Final[Mapping[str, str]] = {  # what a column must hold whose name is known, but not surely
    "patient": ", if your table of patients has these ids",
    "member_id": ", if it is the id on the card",
    "payer": ", if it says who the insurer is",
    "order": ", if it says which insurer pays first",
}


def guess_columns(draft: FeedDraft) -> None:
    """Find the column of each field, or ask for it."""
    for name in TRAITS[draft.kind].fields:
        if name.endswith("_on"):
            guess_day(draft, name)
        elif name == "transaction_id":
            guess_id(draft)
        elif name == "amount":
            guess_amount(draft)
        elif name == "entry_type":
            guess_entry_type(draft)
        elif name == "currency":
            guess_currency(draft)
        else:
            _guess_column(draft, name)
    _note_further(draft)
    draft.note_unused()


def _guess_column(draft: FeedDraft, name: str) -> None:
    known = [each for each in draft.candidates[name] if each.column in draft.free()]
    if name == "subscriber_id":
        known = [each for each in known if each.column != draft.perhaps.get("member_id")]
    sure = [each.column for each in known if _is_sure(draft, name, each)]
    if sure:
        others = [each.column for each in known if each.column != sure[0]]
        draft.take(name, sure[0], _also(others))
        return
    if name in TRAITS[draft.kind].required:
        _ask_for(draft, name, _without_sure_ones(draft, name, known))
        return
    filled = [each.column for each in known if _may_be_suggested(draft, name, each.column)]
    if filled:
        why = _WHY_NOT.get(name, "its name may mean something else; without it the field is blank")
        draft.suggest_column(name, filled[0], why)


def _without_sure_ones(draft: FeedDraft, name: str, known: list[Candidate]) -> list[str]:
    """Return the columns that may be a field's, without those that are surely another field's if there are others."""
    elsewhere = {
        each.column
        for field, names in draft.candidates.items()
        for each in names
        if field != name and each.is_sure
    }
    columns = [each.column for each in known]
    return [column for column in columns if column not in elsewhere] or columns


def _may_be_suggested(draft: FeedDraft, name: str, column: str) -> bool:
    """Return whether an optional field may be in a column that is filled, and not offered for another field."""
    is_order = name == "type" and share_of_codes(draft, "order", column) > _SHARE_SURE
    is_offered = column in draft.perhaps.values()
    return bool(draft.texts(column).len()) and not is_order and not is_offered


def _is_sure(draft: FeedDraft, name: str, candidate: Candidate) -> bool:
    """Return whether the name and the values, or the values alone (codes of the field), settle a column."""
    if candidate.is_sure:
        return _may_be(draft, name, candidate.column)
    return share_of_codes(draft, name, candidate.column) > _SHARE_SURE


def _may_be(draft: FeedDraft, name: str, column: str) -> bool:
    """Return whether the values of a column fit its name."""
    texts = draft.texts(column).unique()
    if name == "type":
        return all(is_taken(name, text) for text in texts)
    if name == "member_id":
        return not texts.len() or any(map(_DIGIT.search, texts))
    return True


# Words of a column that numbers the members of a family, and not the coverages of a patient.
_OF_PERSONS: Final = frozenset(
    {"family", "person", "dependent", "dep", "member", "mbr", "suffix", "relationship", "rel"}
)


def _ask_for(draft: FeedDraft, name: str, known: list[str]) -> None:
    """Ask for a required field that has no certain column."""
    by_values = None if known else _by_values(draft, name)
    if name == "order" and not known:
        _number_coverages(draft, by_values)
        return
    if known:
        named = " or ".join(map(draft.named, known[:3]))
        draft.ask_column(name, f"perhaps {named}{_IF.get(name, '')}", known[0])
    elif by_values is not None:
        draft.ask_column(name, f"perhaps {draft.named(by_values)}, by its values", by_values)
    elif name == "patient" and (member := draft.candidates.get("member_id")):
        named = draft.named(member[0].column)
        draft.ask_column(
            name,
            f"no column has a name for it; perhaps {named}, if your table of patients has these ids",
        )
    else:
        draft.ask_column(name, f"no column has a name for it{_CONSTANT.get(name, '')}")


def _number_coverages(draft: FeedDraft, by_values: str | None) -> None:
    """Let the coverages of each patient be numbered, because no column has a name for their order."""
    why = (
        "no column says which insurer pays first: a patient's coverages are numbered, medical before dental before vision, "
        "and then as they are in the file. Is that right?"
    )
    draft.ask("order_from", "sequence", why, is_set=True)
    draft.note("order_from", "sequence, because no column has an order")
    if by_values is not None and not _OF_PERSONS.intersection(synonyms.words_of(by_values)):
        draft.show_column(
            "order", by_values, "instead of order_from, if it says which insurer pays first"
        )


def _by_values(draft: FeedDraft, name: str) -> str | None:
    """Return a column of unknown name whose values are codes of this field."""
    known = {each.column for names in draft.candidates.values() for each in names}
    shares = {
        column: share_of_codes(draft, name, column)
        for column in draft.free()
        if column not in known and "id" not in synonyms.words_of(column)
    }
    best = max(shares, key=lambda column: shares[column], default=None)
    return best if best is not None and shares[best] > _SHARE_SUGGESTED else None


def _also(others: list[str]) -> str:
    names = [safe(name) for name in others if not has_many_digits(name)]
    return f"or {', '.join(names)}?" if names else ""


def _note_further(draft: FeedDraft) -> None:
    further = synonyms.further(draft.found.header)
    if not further:
        return
    draft.lines.notes.append(
        f"{UNDECIDED}: a further coverage is in the same row, in {', '.join(map(draft.named, further))}. "
        "A row is one coverage here: have the file split, or add a second feed for them with its own constant order; "
        "rows without one are rejected there."
    )
    draft.decide("columns of a second coverage in the same row")
