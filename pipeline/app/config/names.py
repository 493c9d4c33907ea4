"""Suggestions for a misspelled name."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return a sentence that suggests the most similar name, with a blank before it; "" if none is similar."""
    near = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
    return f' Did you mean "{near[0]}"?' if near else ""
