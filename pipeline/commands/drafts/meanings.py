"""Spellings whose meaning is sure, whatever the sender: X12 1069, HL7 0063, and plain words."""

from collections.abc import Mapping
from typing import Final

from pipeline.commands.drafts.feed import FeedDraft
from pipeline.reporting.draft import spellings_text
from pipeline.rows.columns import TRANSLATED
from pipeline.rows.spellings import is_taken, shown

MEANINGS: Final[dict[str, dict[str, str]]] = {
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


def share_of_codes(draft: FeedDraft, name: str, column: str) -> float:
    """Return the share of a column's values that are codes of a coded field; 0 if all are the same."""
    if name not in MEANINGS:
        return 0.0
    counts = draft.counts(column)
    if len(counts) < 2:  # noqa: PLR2004 - different ones
        return 0.0
    return sum(count for text, count in counts.items() if _means(name, text)) / counts.total()


def _means(name: str, text: str) -> bool:
    return is_taken(name, text) or text.casefold() in MEANINGS.get(name, {})


def guess_codes(draft: FeedDraft, known: Mapping[str, Mapping[str, str]]) -> None:
    """Map the spellings of coded fields whose meaning is `known`, and ask for the others."""
    for name in TRANSLATED:
        if name not in draft.columns:
            continue
        counts = draft.counts(draft.columns[name])
        odd = {text: count for text, count in counts.items() if not is_taken(name, text)}
        if not odd:
            draft.note(name, "its values are codes of Canvas as they are")
            continue
        visible = shown(name, odd)
        meanings = known.get(name, {})
        sure = {text: meanings[text.casefold()] for text in odd if text.casefold() in meanings}
        draft.lines.codes[name] = [(text, code, odd[text]) for text, code in sure.items()]
        draft.lines.maybe_codes[name] = [
            (text, count) for text, count in visible.items() if text not in sure
        ]
        hidden = len(odd) - len(set(visible) | set(sure))
        if hidden:
            draft.lines.hidden_codes[name] = hidden
        if sure:
            draft.note(f"codes.{name}", f"{spellings_text(len(sure))} whose meaning is known")
        unknown = len(draft.lines.maybe_codes[name])
        if unknown:
            draft.decide(f"codes.{name}: {spellings_text(unknown)} to map, in the draft")
        if hidden:
            draft.decide(f"codes.{name}: {spellings_text(hidden)} that may be no code")
