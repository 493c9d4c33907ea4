"""Deliberate faults: profiles, and a decision for each request. Pure.

The faults are those of docs/guarantees.md ("The four classes of an answer to a POST"): each fault before
the write has its twin after it. A decision depends only on the seed, on the request (method, type and
patient) and on the number of equal requests before it, so that one seed replays the same faults however
the requests of different patients interleave.
"""

from __future__ import annotations

import struct
import tomllib
from dataclasses import dataclass, fields, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, Literal

import orjson

Fate = Literal[
    "none",
    "lose_before",
    "lose_after",
    "error_before",
    "error_after",
    "throttle",
    "forbid",
    "redirect",
    "no_location",
    "cut_body",
    "duplicate_location",
    "late_commit",
]
"""The one thing that happens to a request: the names are the fields of `Faults`."""

FATES: Final[tuple[Fate, ...]] = (
    "lose_before",
    "lose_after",
    "error_before",
    "error_after",
    "throttle",
    "forbid",
    "redirect",
    "no_location",
    "cut_body",
    "duplicate_location",
    "late_commit",
)
BEFORE: Final[frozenset[Fate]] = frozenset(
    ("lose_before", "error_before", "throttle", "forbid", "redirect")
)
"""Fates that end the request before anything is written."""

LOCATION_FORMS: Final = (
    "relative",
    "http",
    "https",
    "relative_history",
    "http_history",
    "https_history",
)
"""Forms in which Location was seen (docs/canvas.md, Answers)."""
LOCATIONS: Final = (*LOCATION_FORMS, "mixed", "missing")
RETRY_AFTER_FORMS: Final = ("seconds", "date", "either", "none")
APPLIES_TO: Final = ("writes", "reads", "all")
CREATED_BODIES: Final = ("empty", "null")


@dataclass(frozen=True, slots=True)
class Faults:
    """The faults that may happen. Numbers without a unit are probabilities; their sum is at most 1."""

    lose_before: float = 0.0
    """The connection is closed without an answer, and nothing was written."""
    lose_after: float = 0.0
    """The same after the write."""
    late_commit: float = 0.0
    """The same, and the write is made `late_commit_s` later."""
    late_commit_s: float = 1.0
    error_before: float = 0.0
    """One of `statuses`, nothing written; 502 and 503 in HTML, as from a proxy."""
    error_after: float = 0.0
    """The same after the write."""
    statuses: tuple[int, ...] = (500, 502, 503)
    throttle: float = 0.0
    """429 before the write."""
    max_per_s: int | None = None
    """Requests admitted in any one second; those above are answered with 429. None: no cap."""
    retry_after_s: int = 1
    retry_after: str = "either"
    """One of `RETRY_AFTER_FORMS`: in seconds, as an HTTP date, either, or no header."""
    forbid: float = 0.0
    """403 with an HTML page, as the edge blocks an address."""
    redirect: float = 0.0
    """307 to the same address, nothing written."""
    no_location: float = 0.0
    """201 without Location, after the write."""
    cut_body: float = 0.0
    """201 with Location whose body ends before its Content-Length."""
    duplicate_location: float = 0.0
    """201 with the Location of an earlier resource of the same type, if there is one."""
    location: str = "relative"
    """The form of Location without a fault: one of `LOCATIONS`."""
    created_body: str = "empty"
    """The body of a 201: nothing, or `null` as the seed pages print."""
    latency_s: tuple[float, float] = (0.0, 0.0)
    """Shortest and longest wait of each FHIR request, partly before and partly after the write."""
    date_offset_s: int = 0
    """The lead of an answer's Date over the clock that stamps: a gateway may replace it."""
    token_uses: int | None = None
    """The number of requests that a token is good for, whatever `expires_in` says. None: no limit."""
    token_s: float | None = None
    """The life of a token in seconds, whatever `expires_in` says."""
    applies_to: str = "writes"
    """The requests that have fates: one of `APPLIES_TO`."""
    resource_types: tuple[str, ...] = ()
    """Only these resource types; empty: all."""
    faults_max: int | None = None
    """The number of fates after which all requests succeed. None: no end."""

    def __post_init__(self) -> None:
        """Raise ValueError for a value that is out of its range."""
        chances = [getattr(self, name) for name in FATES]
        if min(chances) < 0 or sum(chances) > 1 + 1e-9:
            raise ValueError(f"the probabilities must not be negative, nor above 1 in sum: {self}")
        for name, permitted in _CHOICES.items():
            if getattr(self, name) not in permitted:
                raise ValueError(f"{name} must be one of {', '.join(permitted)}")
        if len(self.latency_s) != 2 or not 0 <= self.latency_s[0] <= self.latency_s[1]:
            raise ValueError("latency_s must be (shortest, longest) in seconds")
        if not self.statuses:
            raise ValueError("statuses must not be empty")

    def strikes(self, resource_type: str, *, write: bool) -> bool:
        """Return whether a fate may happen to such a request."""
        if self.applies_to != "all" and (self.applies_to == "writes") is not write:
            return False
        return not self.resource_types or resource_type in self.resource_types


_CHOICES: Final = {
    "location": LOCATIONS,
    "retry_after": RETRY_AFTER_FORMS,
    "applies_to": APPLIES_TO,
    "created_body": CREATED_BODIES,
}

PROFILES: Final[dict[str, Faults]] = {
    "none": Faults(),
    "slow": Faults(latency_s=(0.05, 0.4)),
    "lost": Faults(lose_before=0.05, lose_after=0.05),
    "late": Faults(late_commit=0.05, lose_before=0.05, late_commit_s=2.0),
    "throttled": Faults(throttle=0.1, max_per_s=20),
    "flaky": Faults(error_before=0.05, error_after=0.05),
    "expiring": Faults(token_uses=25),
    "odd": Faults(
        no_location=0.03,
        cut_body=0.05,
        duplicate_location=0.03,
        redirect=0.03,
        location="mixed",
        created_body="null",
    ),
    "blocked": Faults(forbid=1.0, applies_to="all"),
    "rough": Faults(
        lose_before=0.03,
        lose_after=0.03,
        error_before=0.03,
        error_after=0.03,
        throttle=0.05,
        late_commit=0.01,
        no_location=0.01,
        location="mixed",
        latency_s=(0.0, 0.02),
    ),
}
"""The named profiles of `canvas-ingest sandbox --faults`."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The decision on one request."""

    fate: Fate = "none"
    status: int = 500
    """The status of `error_before` and `error_after`."""
    wait_before_s: float = 0.0
    wait_after_s: float = 0.0
    retry_after: str = "seconds"
    """`seconds`, `date` or `none`."""
    location: str = "relative"
    """One of `LOCATION_FORMS`, or `missing`."""


def decide(faults: Faults, seed: int, key: str, *, struck: bool) -> Decision:
    """Decide what happens to the request `key` (the request, and its count).

    `struck` is False if no fate may happen; the waits and the forms are decided all the same.
    """
    chance, status, wait, share, retry, form = _draws(seed, key)
    waits_s = faults.latency_s[0] + wait * (faults.latency_s[1] - faults.latency_s[0])
    return Decision(
        fate=_fate(faults, chance) if struck else "none",
        status=faults.statuses[int(status * len(faults.statuses))],
        wait_before_s=waits_s * share,
        wait_after_s=waits_s * (1 - share),
        retry_after=_either(faults.retry_after, ("seconds", "date"), retry),
        location=_mixed(faults.location, form),
    )


def load_faults(name_or_path: str) -> Faults:
    """Return a named profile, or read one from a TOML or JSON file.

    A file holds fields of `Faults` and, if wanted, `profile`: the name of one to start from.
    Raises ValueError for an unknown name or field.
    """
    if name_or_path in PROFILES:
        return PROFILES[name_or_path]
    path = Path(name_or_path)
    if path.suffix not in {".toml", ".json"} or not path.is_file():
        names = ", ".join(PROFILES)
        raise ValueError(
            f"no fault profile {name_or_path!r}: use one of {names}, or the path of a .toml or"
            " .json file"
        )
    text = path.read_text(encoding="utf-8")
    try:
        return _from_fields(tomllib.loads(text) if path.suffix == ".toml" else orjson.loads(text))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _from_fields(read: Any) -> Faults:
    known = {item.name for item in fields(Faults)} | {"profile"}
    if not isinstance(read, dict) or not read.keys() <= known:
        unknown = sorted(set(read) - known) if isinstance(read, dict) else "not a table"
        raise ValueError(f"unknown fields of faults: {unknown}; known are {sorted(known)}")
    name = read.pop("profile", "none")
    if name not in PROFILES:
        raise ValueError(f"no fault profile {name!r}: use one of {', '.join(PROFILES)}")
    values: Any = {key: tuple(val) if isinstance(val, list) else val for key, val in read.items()}
    try:
        return replace(PROFILES[name], **values)
    except TypeError as error:
        raise ValueError(f"a field of faults has the wrong type: {error}") from error


def _draws(seed: int, key: str) -> tuple[float, ...]:
    """Return six numbers in [0, 1) that depend only on the arguments."""
    digest = blake2b(f"{seed}|{key}".encode(), digest_size=48).digest()
    return tuple((number >> 11) / (1 << 53) for number in struct.unpack("<6Q", digest))


def _fate(faults: Faults, chance: float) -> Fate:
    reached = 0.0
    for name in FATES:
        reached += getattr(faults, name)
        if chance < reached:
            return name
    return "none"


def _either(form: str, forms: tuple[str, ...], draw: float) -> str:
    return forms[int(draw * len(forms))] if form == "either" else form


def _mixed(form: str, draw: float) -> str:
    return LOCATION_FORMS[int(draw * len(LOCATION_FORMS))] if form == "mixed" else form
