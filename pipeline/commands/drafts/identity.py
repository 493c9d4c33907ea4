"""Guess what identifies a payment, and how ids of the sender become Canvas' ids."""

import re
from collections.abc import Sequence
from typing import Final

from pipeline.commands.drafts.days import holds_days
from pipeline.commands.drafts.feed import FeedDraft, has_many_digits, safe
from pipeline.rows.feed import Kind
from pipeline.rows.synonyms import words_of

_CANVAS_KEY: Final = re.compile(r"[0-9a-f]{32}")
_PAYER_ID: Final = re.compile(r"[0-9A-Z]{5}")  # as clearing houses number payers
_ID: Final = re.compile(r"(?=.*\d)[^\s@.,$%/:()]+")  # no amount, day, time, address or words
_NO_ID: Final = frozenset(  # words of columns of numbers that identify no payment
    {
        "phone",
        "mobile",
        "fax",
        "zip",
        "postal",
        "ssn",
        "dob",
        "birth",
        "age",
        "fee",
        "balance",
        "total",
        "amount",
        "tax",
        "net",
        "gross",
        "qty",
        "quantity",
        "units",
        "provider",
        "check",
        "last4",
        "card",
    }
)
_CONTENT: Final = ("patient", "posted_on", "amount", "claim")


def guess_id(draft: FeedDraft) -> None:
    """Find the column with the id of each payment: a sure name, and different in each row."""
    sure = [each.column for each in draft.candidates["transaction_id"] if each.is_sure]
    fit = [name for name in sure if _is_unique(draft, name) and not _counts_lines(draft, name)]
    if fit:
        names = [safe(name) for name in fit[1:] if not has_many_digits(name)]
        draft.take("transaction_id", fit[0], f"or {', '.join(names)}?" if names else "")


def guess_key(draft: FeedDraft) -> None:
    """Choose the key of a ledger: the id of each payment, or a question about it."""
    if draft.kind is Kind.ELIGIBILITY:
        return
    if "transaction_id" in draft.columns:
        draft.note("key", "transaction_id, which is different in each row")
        return
    mapped = {setting.key for setting in draft.lines.columns if setting.is_set}
    key = [name for name in _CONTENT if name in mapped]
    has_day = "posted_on" in draft.columns
    column, why = _perhaps(draft)
    if column:
        otherwise = "; if no column is an id, delete this line and take the key above"
        draft.ask_column("transaction_id", why + (otherwise if has_day else ""), column)
        if has_day:
            draft.show(
                "key", key, "without an id: then a second equal payment of a day is a duplicate"
            )
        return
    repeated = [each.column for each in draft.candidates["transaction_id"] if each.is_sure]
    if has_day:
        if repeated:
            why = "it is not there in each row, or not different in each"
            draft.suggest_column("transaction_id", repeated[0], why)
        _ask_for_content_key(draft, key)
        return
    draft.ask_column(
        "transaction_id",
        "no column is different in each row, and without an id or a day an equal payment of another day "
        "is the same payment, and is never sent",
    )


def _ask_for_content_key(draft: FeedDraft, key: Sequence[str]) -> None:
    draft.ask("key", key, "no column is different in each row; is there an id?", is_set=True)
    draft.ask(
        "repeats",
        "count",
        "is a second equal row a second payment? Without this it is a duplicate, and not sent",
    )
    draft.ask(
        "delivery",
        "full",
        'does each file hold all rows ("full"), or new ones only ("increment")? Needed with repeats',
    )


def _perhaps(draft: FeedDraft) -> tuple[str, str]:
    """Return a column that may be the id, and why it is not sure; ("", "") if there is none."""
    known = [each.column for each in draft.candidates["transaction_id"]]
    for column in known:
        if column in draft.free() and _is_unique(draft, column):
            if _counts_lines(draft, column):
                why = f"perhaps {draft.named(column)}, but it counts the lines: if it starts again in each file, it is no id"
            else:
                why = f"perhaps {draft.named(column)}, which is different in each row: is it the id of the payment?"
            return column, why
    others = {each.column for names in draft.candidates.values() for each in names}
    for column in draft.free():
        if column not in others and _looks_like_id(draft, column):
            why = f"perhaps {draft.named(column)}, which is different in each row: is it the id of the payment?"
            return column, why
    return "", ""


def _is_unique(draft: FeedDraft, column: str) -> bool:
    """Return whether a column is different in each row, exact repeats of whole rows aside."""
    texts = draft.found.sample.unique()[column]
    return texts.null_count() == 0 and texts.n_unique() == texts.len()


def _counts_lines(draft: FeedDraft, column: str) -> bool:
    """Return whether a column only numbers the lines, from 0 or 1."""
    texts = draft.texts(column).to_list()
    return any(texts == [str(start + line) for line in range(len(texts))] for start in (0, 1))


def _looks_like_id(draft: FeedDraft, column: str) -> bool:
    return (
        not _NO_ID.intersection(words_of(column))
        and _is_unique(draft, column)
        and all(_ID.fullmatch(text) for text in draft.texts(column))
        and not holds_days(draft, column)
    )


# References ---------------------------------------------------------------------------------------


def guess_references(draft: FeedDraft) -> None:
    """Guess by their form whether ids are Canvas' own."""
    patients = _texts(draft, "patient")
    if patients and all(_CANVAS_KEY.fullmatch(text) for text in patients):
        draft.references["patient"] = "key"
        draft.note("references.patient", "the values look like Canvas' Patient keys")
    else:
        draft.references["patient"] = "file"
    if draft.kind is Kind.LEDGER:
        return
    if {"subscriber_id", "relationship"} <= draft.columns.keys() and (
        "subscriber" not in draft.columns
    ):
        draft.references["subscriber"] = "row"
        draft.note(
            "references.subscriber", "row, because subscriber_id and relationship are mapped"
        )
    payers = _texts(draft, "payer")
    if payers and all(_PAYER_ID.fullmatch(text) for text in payers):
        draft.references["payer"] = "payer_id"
        draft.note("references.payer", "the values look like payer ids")
    else:
        draft.references["payer"] = "file"


def _texts(draft: FeedDraft, name: str) -> set[str]:
    return set(draft.counts(draft.columns[name])) if name in draft.columns else set()
