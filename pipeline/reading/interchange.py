"""X12 interchanges as files of a feed: recognised by content, decoded by a child (`x12.py`), refused in words."""

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from pipeline.errors import InputError
from pipeline.reading.decoding import X12, Decoded, run_decoder
from pipeline.reading.source import Interchange
from pipeline.rows.enrollment import COLUMNS
from pipeline.rows.feed import Feed, Kind

# The first fields of an interchange have fixed widths (ASC X12.5); any sign may part them.
_HEAD: Final = re.compile(r"\ufeff?[ \t\r\n]*ISA(?:(.)\d\d\1.{10}\1\d\d\1.{10}(?:\1|$)|[*|^~])")
_GROUP: Final = re.compile(r"\ufeff?[ \t\r\n]*ISA(.).{101}.\s*GS\1([A-Z]{2})\1", re.DOTALL)
_ENROLLMENT: Final = "BE"
_SETS: Final = {  # GS01: the transaction set, and what it is
    "HP": "835, payments of insurers",
    "HC": "837, claims",
    "HS": "270, questions about eligibility",
    "HB": "271, answers about eligibility",
    "HR": "276, questions about claims",
    "HN": "277, states of claims",
    "HI": "278, authorizations",
    "RA": "820, payments of premiums",
    "FA": "999 or 997, acknowledgments",
}
_PAYMENTS: Final = "HP"

DAMAGED: Final = "damaged"
NO_HEAD: Final = "no head"
VERSION: Final = "version"
OTHER_SET: Final = "other set"
ORDER: Final = "order"
EMPTY: Final = "empty"
CHARACTERS: Final = "characters"
COUNT: Final = "count"
COUNT_SEGMENTS: Final = "count of segments"
CONTROL: Final = "control"
TWICE: Final = "twice"
REPEATED: Final = "repeated"
PURPOSE: Final = "purpose"
MIXED: Final = "mixed"
CUT: Final = "cut"
MORE: Final = "more"
_AGAIN: Final = "ask the sender for it again"
_CORRECT: Final = "ask the sender to correct it"


def is_interchange(head: bytes) -> bool:
    """Return whether a text in UTF-8 begins as an X12 interchange does."""
    return _HEAD.match(head[:64].decode(errors="replace")) is not None


def refuse_other(head: bytes, path: Path, feed: Feed) -> None:
    """Raise InputError for an interchange that this feed does not read, whatever is in it.

    PaymentNotice is a patient's money, so no payment of an insurer is read (docs/canvas.md, "PaymentNotice").
    """
    text = head[:256].decode(errors="replace")
    found = _GROUP.match(text)
    code = found[2] if found else ""
    if not is_interchange(head):
        raise InputError(
            f'format of feed {feed.name} is "834", and the file does not begin as an X12 interchange does (ISA)',
            "check the path and what the sender wrote",
            file=path.name,
        )
    if code == _PAYMENTS:
        raise InputError(
            f"the file is an X12 {_SETS[code]}: a PaymentNotice is a patient's payment, and each would lower a patient's balance",
            'have Canvas post them to claims, as an ERA; docs/mapping.md, "Payments of insurers"',
            file=path.name,
        )
    if code and code != _ENROLLMENT:
        raise InputError(
            f"the file is an X12 interchange ({_SETS.get(code, f'GS01 is {code}')}), and only 834, enrollments, is read",
            "check the path; have anything else exported as CSV or Parquet",
            file=path.name,
        )
    if feed.name.startswith("references."):
        raise InputError(
            "the file is an X12 interchange, and no table",
            "make a table with a header, as CSV or Parquet",
            file=path.name,
        )
    if feed.kind is not Kind.ELIGIBILITY:
        what = "834: enrollments, which become coverages" if code else "interchange"
        raise InputError(
            f"the file is an X12 {what}, and holds no payments of patients",
            f'check the path of feed {feed.name}; an 834 is read by a feed with kind = "eligibility"',
            file=path.name,
        )
    if find_spec("pyx12") is None:
        raise InputError(
            "the file is an X12 834, and what it takes to read one is not installed",
            "pip install 'canvas-ingest[x12]'",
            file=path.name,
        )


def decode_interchange(
    path: Path, text: Path, encoding: str, copy: Path
) -> tuple[Decoded, Interchange]:
    """Decode an 834 into `copy`, whose columns are named by their position.

    Args:
        path: The file, for messages.
        text: The file, or its text if it is compressed.
        encoding: Of the text.
        copy: The path of the copy.

    Raises:
        InputError: The interchange is not fit, whatever is in it and however the child ends.
    """
    answer = run_decoder(X12, text, copy, {"encoding": encoding}, name=path.name)
    if answer.get("refused"):
        message, fix = _refusal(answer)
        if answer.get("segment"):
            message = f"segment {answer['segment']:,} (line {answer['line']:,}): {message}"
        raise InputError(message, fix, file=path.name)
    identity = Interchange(**answer["interchange"])
    return Decoded(tuple(COLUMNS), answer["rows"], skipped=answer["skipped"]), identity


def _refusal(answer: Mapping[str, Any]) -> tuple[str, str]:
    """Return message and fix for a refusal of the child."""
    name = answer.get("name", "the segment")
    said, counted = answer.get("said"), answer.get("counted", 0)
    says = f"{name} counts {said:,}" if said is not None else f"the count of {name} is no number"
    refusals = {
        DAMAGED: ("the interchange is damaged", _AGAIN),
        NO_HEAD: (
            "the first segment (ISA) has not the 105 characters and the sign after them that say how the others are parted",
            "ask the sender for it again, as a file of bytes that no program has changed",
        ),
        VERSION: (
            f"{name} names another version than 005010X220A1, which is the only one that is read",
            "have the sender write 005010X220A1, or CSV",
        ),
        OTHER_SET: (
            f"{name} begins something else than an 834 (GS01 BE, ST01 834)",
            "have the sender send enrollments in an interchange of their own",
        ),
        ORDER: (
            f"{name} has no place here in an 834; a segment before it may be lost, or out of order",
            _AGAIN,
        ),
        EMPTY: ("a segment without content", _AGAIN),
        CHARACTERS: (
            "line ends or other control characters within a segment",
            "ask the sender for it again: a program may have wrapped its lines",
        ),
        COUNT: (f"{says}, and another number is there", f"{_AGAIN}: a part may be lost"),
        COUNT_SEGMENTS: (
            f"{says} segments, and {counted:,} are there",
            f"{_AGAIN}: a part may be lost",
        ),
        CONTROL: (
            f"the control number of {name} is not that of its beginning (ISA13, GS06, ST02)",
            f"{_AGAIN}: a part may be lost, or of another file",
        ),
        TWICE: (f"the control number of {name} was there before in this file", _CORRECT),
        REPEATED: (
            f"{name} says another value than one before it, for what a member or a coverage has once",
            f"{_CORRECT}: which one is meant is not known",
        ),
        PURPOSE: (
            "BGN08 is none of 2 (changes), 4 and RX (all members)",
            "ask the sender whether the file is full: only a full file can end who is missing in it",
        ),
        MIXED: (
            "one part of the file is full and another holds changes (BGN08)",
            "have the sender put them into two files",
        ),
        CUT: (
            "the file ends before its last segment (IEA), has an empty segment, or one of more than 8 KiB",
            _AGAIN,
        ),
        MORE: (
            "there is more after the end of the interchange (IEA); one interchange a file is read",
            "have the sender write one file for each interchange, or split it after IEA",
        ),
    }
    return refusals[answer["refused"]]
