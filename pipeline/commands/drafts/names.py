"""The name and the path of a feed, from the names of its files: without dates and sequence numbers."""

import glob
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

_NAME_BAD: Final = re.compile(r"[^A-Za-z0-9_-]+")
_LENGTH_MAX: Final = 64
_DATE: Final = re.compile(
    r"(?<![0-9])(?:"
    r"[0-9]{4}[-_.]?[0-9]{2}(?:[-_.]?[0-9]{2})?(?:[-_.T]?[0-9]{6}|[-_.T][0-9]{4})?Z?"
    r"|[0-9]{2}[-_.]?[0-9]{2}[-_.]?(?:[0-9]{4}|[0-9]{2})(?:[-_.T][0-9]{4}(?:[0-9]{2})?)?"
    r")(?![0-9])"
)
_FORMS: Final = (
    "%Y%m%d",
    "%Y%m",
    "%m%d%Y",
    "%d%m%Y",
    "%m%d%y",
    "%y%m%d",
    "%Y%m%d%H%M%S",
    "%Y%m%d%H%M",
    "%m%d%Y%H%M",
    "%m%d%Y%H%M%S",
)
_SEQUENCE: Final = re.compile(r"[-_. (]+[0-9]+\)?(?=$|[-_. ])")
_YEARS: Final = range(1990, 2100)


def feed_name(path: Path, kind: str) -> str:
    """Return a name for the feed of a file: "roster" of roster_20261101.csv."""
    stem, _ = _parts(path)
    bare = _SEQUENCE.sub("", _without_dates(stem, ""))
    return _name(bare) or _name(stem) or kind


def _name(text: str) -> str:
    return _NAME_BAD.sub("_", text).strip("_-")[:_LENGTH_MAX].strip("_-")


def feed_path(paths: Sequence[Path]) -> tuple[str, bool]:
    """Return the name of a file, or a glob for several files or for a name with a date; and whether it is a glob."""
    stem, endings = _parts(paths[0])
    pattern = _without_dates(stem, "*")
    if len(paths) > 1 and pattern == stem:
        pattern = _SEQUENCE.sub("*", stem)
    if pattern == stem:
        return paths[0].name, False
    return "*".join(map(glob.escape, pattern.split("*"))) + glob.escape(endings), True


def group_of(path: Path) -> tuple[str, str]:
    """Return what files of one feed have in common: the folder and the name, without dates and sequence numbers."""
    stem, endings = _parts(path)
    return str(path.resolve().parent), _SEQUENCE.sub("", _without_dates(stem, "*")) + endings


def _parts(path: Path) -> tuple[str, str]:
    """Return the name without its endings, and the endings: .csv.gz is one."""
    found = re.search(r"(?:\.[A-Za-z][A-Za-z0-9]{0,7})+$", path.name)
    endings = found[0] if found else ""
    return path.name.removesuffix(endings), endings


def _without_dates(stem: str, instead: str) -> str:
    """Replace the dates in a name; a number that is no day of our time stays."""
    found = _DATE.sub(lambda match: instead if _is_date(match[0]) else match[0], stem)
    return found if found.strip("_-. *") else stem


def _is_date(text: str) -> bool:
    digits = re.sub("[^0-9]", "", text)
    for form in _FORMS:
        try:
            at = datetime.strptime(digits, form)  # noqa: DTZ007 - a day of a file's name
        except ValueError:
            continue
        if at.year in _YEARS and at.strftime(form) == digits:
            return True
    return False
