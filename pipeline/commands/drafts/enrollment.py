"""The draft for an X12 834, whose columns are known: what is left are the sender's ids and codes."""

from typing import Final

from pipeline.commands.drafts.feed import FeedDraft
from pipeline.job import UNDECIDED
from pipeline.reporting.draft import Raw
from pipeline.rows.enrollment import is_enrollment
from pipeline.rows.synonyms import Candidate

_SURE: Final = {
    "member_id": "subscriber_number",
    "relationship": "relationship_code",
    "payer": "payer_id",
    "payer_name": "payer_name",
    "plan": "plan",
    "group": "group_number",
    "start_on": "start",
    "end_on": "end",
}
_PATIENT: Final = (
    "reference_23",
    "reference_zz",
    "reference_17",
    "reference_3h",
    "member_identifier",
    "subscriber_number",
)
_SELF, _SPOUSE, _CHILD = "18", "01", "19"
_RELATIVES: Final = (  # further codes of X12 1069 that an 834 may have
    [
        "03",
        "04",
        "05",
        "06",
        "07",
        "08",
        "09",
        "10",
        "11",
        "12",
        "13",
        "14",
        "15",
        "16",
        "17",
        "23",
        "24",
        "25",
        "26",
        "31",
        "33",
        "34",
        "36",
        "38",
        "48",
        "49",
        "53",
        "60",
        "d2",
        "g8",
        "g9",
    ]
)
_RELATIONSHIPS: Final = {
    _SELF: "self",
    _SPOUSE: "spouse",
    _CHILD: "child",
    **dict.fromkeys(_RELATIVES, "other"),
}
# Lines of insurance (X12 1205) that are surely one of Canvas' types; HLT, a medical plan of any kind, is not.
_TYPES: Final = {
    "den": "DENTAL",
    "vis": "VISPOL",
    "hmo": "HMO",
    "ppo": "PPO",
    "pos": "POS",
    "ltc": "LTC",
    "pdg": "DRUGPOL",
}
MEANINGS: Final = {"relationship": _RELATIONSHIPS, "type": _TYPES}
_KEY: Final = ("patient", "payer", "member_id", "type", "start_on")
_LINES: Final = (
    "HLT",
    "DEN",
    "VIS",
)  # in the order in which they are numbered, if a member has several


def is_834(draft: FeedDraft) -> bool:
    """Return whether the file is an X12 834, or the rejected rows of one."""
    return is_enrollment(draft.found.header)


def know_columns(draft: FeedDraft) -> None:
    """Set the columns that may hold each field."""
    found = {name: [Candidate(column, is_sure=True)] for name, column in _SURE.items()}
    filled = [name for name in _PATIENT if draft.texts(name).len()]
    found["patient"] = [Candidate(name, is_sure=False) for name in filled]
    draft.candidates = {name: found.get(name, []) for name in draft.candidates}


def note_enrollment(draft: FeedDraft) -> None:
    """Write what follows from the format, once the columns are found."""
    draft.set("format", "834")
    lines = draft.counts("insurance_line")
    if lines:
        draft.take("type", "insurance_line")
        draft.set("key", _KEY, "a member has a coverage for each line of insurance")
    draft.lines.columns[:] = [each for each in draft.lines.columns if each.key != "order"]
    if len(lines) > 1:
        _show_order(draft, [line for line in _LINES if line in lines])
    if draft.texts("cob").len():
        draft.decide("order: the file names other insurers (cob): whose place does it say?")
        draft.lines.notes.append(
            f"{UNDECIDED}: cob is P, S or T of the other insurer or of this one: ask the sender, and map order by it."
        )
    if set(draft.counts("relationship_code")) - {_SELF}:
        draft.take(
            "subscriber_id", "subscriber_number", "the same for a subscriber and the dependents"
        )


def _show_order(draft: FeedDraft, lines: list[str]) -> None:
    """Show an order by the line of insurance, beside numbers."""
    cases = " ".join(f"when '{line}' then '{number}'" for number, line in enumerate(lines, 1))
    sql = f'case "insurance_line" {cases} end' if lines else "null"
    comment = "instead of order_from: an order for each line of insurance"
    draft.show_column("order", Raw('{ sql = """' + sql + '""" }'), comment)
