"""Guess the column of amounts, how amounts are written, and what makes a row no plain payment."""

import re
from typing import Final

import polars as pl

from pipeline.commands.drafts.entries import sql_name, toml_text
from pipeline.commands.drafts.feed import FeedDraft, safe
from pipeline.job import UNDECIDED
from pipeline.reporting.draft import Raw
from pipeline.rows.money import AmountStyle, cents_of
from pipeline.rows.synonyms import words_of

_AMOUNT: Final = re.compile(r"[-+(]?\$?-?[\d.,]*\d[\d.,]*\)?-?")
_SHARE_AMOUNTS: Final = 0.5  # of the values of a column with a sure name
_COMMA: Final = re.compile(
    r"[-+(]?\$?-?(?:\d+|\d{1,3}(?:\.\d{3})+),\d{2}\)?-?"
)  # 12,50 and 1.234,56
_POINT: Final = re.compile(r"[-+(]?\$?-?[\d,]*\.\d{1,2}\)?-?")  # 12.50 and 1,234.56
_WHOLE: Final = re.compile(r"-?\d+")
_CENTS_MIN: Final = 100  # whole amounts that are all at least so large may be cents
_REFUND: Final = frozenset({"refund", "refunded", "refunds", "reversed", "chargeback", "disputed"})
_NO_REFUND: Final = frozenset({"date", "id", "number", "no", "reason", "by", "time", "status"})


def guess_amount(draft: FeedDraft) -> None:
    """Find the column of amounts; ask if refunds, charges or fees are in columns of their own."""
    known = [each for each in draft.candidates["amount"] if each.column in draft.free()]
    fit = [each for each in known if _holds_amounts(draft, each.column)]
    sure = [each.column for each in fit if each.is_sure]
    named = [draft.named(each.column) for each in fit]
    if not fit:
        names = [draft.named(each.column) for each in known]
        draft.ask_column(
            "amount", f"perhaps {' or '.join(names)}" if names else "no column has a name for it"
        )
        return
    if not sure:
        words = {word for each in fit for word in words_of(each.column)}
        draft.ask_column(
            "amount", f"perhaps {' or '.join(named[:3])}; {_why(words)}", fit[0].column
        )
        return
    refunds = [column for column in draft.free() if _is_refund(draft, column)]
    if not refunds:
        others = [safe(each.column) for each in fit if each.column != sure[0]]
        draft.take("amount", sure[0], f"or {', '.join(others)}?" if others else "")
        return
    refund = min(refunds, key=len)
    draft.ask_column(
        "amount",
        f"perhaps {draft.named(sure[0])}, or that less {draft.named(refund)}, if it was given back: take one of these",
        sure[0],
    )
    draft.show_column("amount", sure[0], "as it is")
    amount, back = (_cast(draft, column) for column in (sure[0], refund))
    draft.refund = amount, f"coalesce({back}, 0)"
    difference = toml_text(" - ".join(draft.refund))
    draft.show_column("amount", Raw(f"{{ sql = {difference} }}"), "less the refund")


def _cast(draft: FeedDraft, column: str) -> str:
    """Return SQL that reads a column of amounts."""
    text = sql_name(column)
    for sign in "$,":
        if draft.texts(column).str.contains(sign, literal=True).any():
            text = f"replace({text}, '{sign}', '')"
    return f"cast({text} as decimal(18,2))"


def _why(words: set[str]) -> str:
    if words & {"debit", "debits", "credit", "credits"}:
        return "credits lower a balance, and may be payments, write-offs or payments of insurers"
    if words & {"gross", "net"}:
        return "gross is what the patient paid, net is less the fee"
    return "its name may mean something else"


def _holds_amounts(draft: FeedDraft, column: str) -> bool:
    counts = draft.counts(column)
    read = sum(count for text, count in counts.items() if _AMOUNT.fullmatch(text))
    return not counts or read >= counts.total() * _SHARE_AMOUNTS


def _is_refund(draft: FeedDraft, column: str) -> bool:
    """Return whether a column holds amounts that were given back."""
    words = set(words_of(column))
    is_named = bool(words & _REFUND) and not words & _NO_REFUND
    return is_named and bool(draft.texts(column).len()) and _holds_amounts(draft, column)


def guess_currency(draft: FeedDraft) -> None:
    """Take the column of currencies."""
    known = [each.column for each in draft.candidates["currency"] if each.column in draft.free()]
    if not known:
        return
    found = {text.upper() for text in draft.texts(known[0]).unique()}
    others = "" if found <= {"USD"} else "rows in another currency are rejected"
    draft.take("currency", known[0], others)


# How amounts are written --------------------------------------------------------------------------


def guess_amount_form(draft: FeedDraft) -> None:
    """Guess the sign, the unit and the decimal comma of the payments in the sample."""
    column = draft.columns.get("amount") or draft.perhaps.get("amount")
    if column is None:
        return
    texts = _payments(draft, column).to_list()
    has_comma = any(_COMMA.fullmatch(text) for text in texts)
    if has_comma and not any(_POINT.fullmatch(text) for text in texts):
        draft.set("decimal_comma", True, "amounts are written 12,50")
        draft.note("decimal_comma", "amounts have a comma before the cents, and none a point")
    elif has_comma:
        draft.ask(
            "decimal_comma",
            True,
            "some amounts have a comma before the cents, others a point: which is right?",
        )
    elif texts and all(_WHOLE.fullmatch(text) and abs(int(text)) >= _CENTS_MIN for text in texts):
        draft.ask(
            "amount_unit",
            f"{UNDECIDED}: dollars or cents",
            'all amounts are whole numbers of 100 and more: are they "dollars" or "cents"?',
            is_set=True,
        )
    _guess_sign(draft, texts, decimal_comma=has_comma)


def _payments(draft: FeedDraft, column: str) -> pl.Series:
    """Return the amounts of the rows that are surely payments; of all rows if none is."""
    rows = draft.found.sample
    only = [text for text in draft.lines.only if not text.startswith(UNDECIDED)]
    if only:
        rows = rows.filter(rows[draft.columns["entry_type"]].is_in(only))
    return rows[column].drop_nulls()


def _guess_sign(draft: FeedDraft, texts: list[str], *, decimal_comma: bool) -> None:
    style = AmountStyle(decimal_comma)
    cents = [cents_of(text, "positive", style) for text in texts]
    positive, negative = (
        sum(1 for each in cents if each is not None and each * sign > 0) for sign in (1, -1)
    )
    unread = sum(each is None for each in cents)
    if unread:
        draft.ask(
            "",
            "",
            f"{unread:,} of {len(cents):,} amounts are in no spelling that is read, such as 12.50, and are rejected",
        )
    if negative and not positive:
        draft.set("amount_sign", "negative", "payments are written as negative numbers")
        draft.note("amount_sign", f"all {negative:,} amounts are negative")
    elif negative:
        draft.ask(
            "amount_sign",
            "negative",
            f"{positive:,} amounts are positive, {negative:,} negative: which are payments? The others are rejected",
        )
