"""Guess which rows are payments: kinds of entries, states, and marks such as void or deleted."""

import re
from collections.abc import Mapping
from typing import Final

from pipeline.commands.drafts.feed import FeedDraft, printable, safe
from pipeline.job import UNDECIDED
from pipeline.reporting.draft import Raw, quoted, rows_text, spellings_text
from pipeline.rows.feed import Kind
from pipeline.rows.spellings import shown
from pipeline.rows.synonyms import words_of

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
_PATIENTS: Final = frozenset({"patient", "self", "self pay", "guarantor"})  # who paid
_INSURER: Final = re.compile(
    r"\b(?:ins|insurance|insurer|era|eob|eft|835|carrier|payer|payor|medicare|medicaid)\b|^ins[a-z]*p(?:ay|mt|ymt)",
    re.IGNORECASE,
)
_NO_PAYMENT: Final = re.compile(
    r"refund|revers|chargeback|void|withdraw|transfer|adjust|write.?off|charge|payout|fee\b|dispute|discount|bounced|nsf",
    re.IGNORECASE,
)
_STATES: Final = frozenset({"status", "state"})
_STATES_GOOD: Final = frozenset(
    {
        "paid",
        "completed",
        "complete",
        "succeeded",
        "success",
        "successful",
        "settled",
        "captured",
        "posted",
        "cleared",
        "approved",
        "closed",
    }
)
_MARKS_GOOD: Final = frozenset({"captured", "posted", "settled", "cleared"})  # true means a payment
_MARKS_BAD: Final = frozenset(
    {
        "void",
        "voided",
        "deleted",
        "reversed",
        "refunded",
        "cancelled",
        "canceled",
        "disputed",
        "isvoid",
        "isvoided",
        "isdeleted",
        "isreversed",
    }
)
_MARKS_PLAIN: Final = frozenset(
    {"is", "flag", "yn", "indicator", "ind", "was", "payment", "transaction"}
)
_TRUE: Final = frozenset({"true", "t", "yes", "y", "1"})
_FALSE: Final = frozenset({"false", "f", "no", "n", "0"})

_INSURERS_WHY: Final = (
    "it looks like a payment of an insurer, and a PaymentNotice lowers the patient's balance: "
    "leave it out unless the patient paid"
)


# Kinds of entries ---------------------------------------------------------------------------------


def guess_entry_type(draft: FeedDraft) -> None:
    """Find the column with the kind of each entry, by its name, or by kinds that are known."""
    free = draft.free()
    known = [each for each in draft.candidates["entry_type"] if each.column in free]
    sure = [each.column for each in known if each.is_sure and draft.texts(each.column).len()]
    if sure:
        draft.take("entry_type", sure[0])
        return
    others = [name for name in free if not _STATES.intersection(words_of(name))]
    found = [
        (bool(insurers) + bool(payments), insurers, column)
        for column in dict.fromkeys([*(each.column for each in known), *others])
        for insurers, payments in [_kinds(shown("entry_type", draft.counts(column)))]
    ]
    surest, insurers, column = max(found, key=lambda each: each[0], default=(0, {}, ""))
    if not surest:
        return
    why = f"perhaps {draft.named(column)}: which entries are payments? Without this line all rows are sent"
    if insurers:
        named = ", ".join(
            f"{quoted(text)} ({rows_text(count)})" for text, count in insurers.items()
        )
        why = f"perhaps {draft.named(column)}. {named}: {_INSURERS_WHY}. Without this line all rows are sent"
    draft.ask_column("entry_type", why, column)


def _kinds(visible: Mapping[str, int]) -> tuple[dict[str, int], dict[str, int]]:
    """Return the spellings that look like payments of insurers, and those of patients' payments."""
    insurers = {text: count for text, count in visible.items() if _INSURER.search(text)}
    payments = {
        text: count
        for text, count in visible.items()
        if text.casefold() in {*_PAYMENTS, *_PATIENTS}
    }
    return insurers, payments


def guess_only(draft: FeedDraft) -> None:
    """Let through only what a patient surely paid; a person adds the rest."""
    if "entry_type" not in draft.columns:
        return
    counts = draft.counts(draft.columns["entry_type"])
    visible = shown("entry_type", counts)
    payments = [text for text in visible if text.casefold() in _PAYMENTS]
    others = [
        (text, count, _why_asked(text)) for text, count in visible.items() if text not in payments
    ]
    hidden = len(counts) - len(visible)
    if payments and not others and not hidden:
        draft.note("entry_type", "all rows are payments")
        return
    draft.lines.only = payments or [UNDECIDED]
    draft.lines.maybe_only = others
    listed = f"{spellings_text(len(others))} in the draft" if others else ""
    unlisted = f"{spellings_text(hidden)} that the draft does not show" if hidden else ""
    named = " and ".join(filter(None, [listed, unlisted]))
    if hidden:
        draft.lines.notes.append(
            f"{UNDECIDED}: entry_type has {spellings_text(hidden)} that are rare or no codes, and not shown: are they payments?"
        )
    draft.decide(f"only.entry_type: which are payments of patients: {named}?")
    if payments:
        rows = sum(counts[text] for text in payments)
        draft.note(
            "only", f"{spellings_text(len(payments))} of payments, in {rows:,} rows of the sample"
        )


def _why_asked(text: str) -> str:
    if _INSURER.search(text):
        return _INSURERS_WHY
    if _NO_PAYMENT.search(text):
        return "it seems to be no payment of a patient: leave it out, unless it is one"
    return "is it a payment of a patient? Then add it below"


# States and marks ---------------------------------------------------------------------------------


def ask_for_condition(draft: FeedDraft) -> None:
    """Ask which rows count if the file marks rows as failed, void or deleted."""
    conditions: list[str] = []
    seen: list[str] = []
    for column in draft.free():
        is_state = draft.kind is Kind.LEDGER and _is_state(column)
        mark = _mark_of(column)
        counts = draft.counts(column)
        visible = shown("entry_type", counts)
        if not counts or not (is_state or (mark and _is_mark(visible, counts))):
            continue
        seen.append(_seen(column, visible, len(counts)))
        good = _good(visible, is_state=is_state, mark=mark)
        if good or (mark and mark in _MARKS_BAD):
            conditions.append(_condition(column, good, mark))
    if draft.refund:
        conditions.append(" > ".join(draft.refund))  # else it is nothing, and is rejected
    what = "payments" if draft.kind is Kind.LEDGER else "coverages"
    if seen:
        draft.ask(
            "where",
            f"{UNDECIDED}: which rows are {what}",
            f"{'; '.join(seen)}: which rows are {what}? If all are, delete this line",
            is_set=True,
        )
    if conditions:
        example = Raw(toml_text(" and ".join(conditions)))
        which = "rows that do not meet it are" if seen else "what was refunded in full is"
        draft.show("where", example, f"{which} left out, and counted")


def _is_state(column: str) -> bool:
    return bool(_STATES.intersection(words_of(column)[-1:]))


def _mark_of(column: str) -> str:
    """Return the mark that a column is named for: "void" of "IsVoid"; "" if it is another column."""
    words = words_of(column)
    marks = [word for word in words if word in _MARKS_BAD | _MARKS_GOOD]
    rest = set(words) - _MARKS_PLAIN - set(marks)
    return marks[0] if marks and not rest else ""


def _is_mark(visible: Mapping[str, int], counts: Mapping[str, int]) -> bool:
    return len(visible) == len(counts) and {text.casefold() for text in counts} <= _TRUE | _FALSE


def _seen(column: str, visible: Mapping[str, int], total: int) -> str:
    named = [f"{quoted(printable(text))} ({rows_text(count)})" for text, count in visible.items()]
    if total > len(visible):
        named.append(f"{spellings_text(total - len(visible))} more, not shown here")
    return f"{safe(column)} holds {', '.join(named)}"


def _good(visible: Mapping[str, int], *, is_state: bool, mark: str) -> list[str]:
    if is_state:
        return [text for text in visible if text.casefold() in _STATES_GOOD]
    wanted = _TRUE if mark in _MARKS_GOOD else _FALSE
    return [text for text in visible if text.casefold() in wanted]


def _condition(column: str, good: list[str], mark: str) -> str:
    texts = ["''"] if mark in _MARKS_BAD else []
    texts += ["'" + text.replace("'", "''") + "'" for text in good]
    name = sql_name(column)
    return (
        f"coalesce({name}, '') in ({', '.join(texts)})"
        if mark in _MARKS_BAD
        else f"{name} in ({', '.join(texts)})"
    )


def sql_name(column: str) -> str:
    """Return a column's name as SQL quotes it."""
    return '"' + column.replace('"', '""') + '"'


def toml_text(sql: str) -> str:
    """Return SQL as a TOML string, a literal one if it can be."""
    if not sql.isprintable() or "'''" in sql or sql.endswith("'"):
        return quoted(sql)
    return f"'''{sql}'''" if "'" in sql else f"'{sql}'"
