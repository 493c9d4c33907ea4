"""Searches: the parameters of each type, and the pages of a bundle. Pure.

Sources: the seed pages' Query Parameters and docs/canvas.md (Answers, References). Parameters that
a type does not know are ignored, so a misspelt filter returns everything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

from pipeline.sandbox.coverage import member_of
from pipeline.sandbox.rules import REFERENCE, Json, Refusal, key_of, refuse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

COUNT_DEFAULT: Final = 10
COUNT_MAX: Final = 100
REFERENCE_PARAMETERS: Final = frozenset((("Coverage", "patient"), ("PaymentNotice", "request")))
"""Parameters whose value the seed pages print as `Patient/<key>`."""

Params = list[tuple[str, str]]
"""Query parameters, decoded, in the order in which they came."""


@dataclass(frozen=True, slots=True)
class Page:
    """The part of the hits to return."""

    count: int
    offset: int


def index_keys(resource: Json) -> Iterator[tuple[str, str]]:
    """Yield (parameter, value) for each search that must find this resource by index."""
    resource_type = resource["resourceType"]
    if resource_type == "Coverage":
        yield "patient", key_of(resource.get("beneficiary"))
        yield "subscriberid", str(resource.get("subscriberId", ""))
        yield from _coverage_identifiers(resource)
    elif resource_type == "PaymentNotice":
        yield "request", key_of(resource.get("request"))
    elif resource_type == "Claim":
        yield "patient", key_of(resource.get("patient"))
    elif resource_type == "Patient":
        yield from _patient_identifiers(resource)


def _coverage_identifiers(coverage: Json) -> Iterator[tuple[str, str]]:
    """Yield the member id of the contract of 2025-10, with or without an empty system."""
    member_id = member_of(coverage) if "identifier" in coverage else None
    if member_id:
        yield "identifier", member_id
        yield "identifier", f"|{member_id}"


def _patient_identifiers(patient: Json) -> Iterator[tuple[str, str]]:
    """Yield `<value>`, `<system>|<value>` and `<system>|` (docs/canvas.md, References)."""
    for identifier in patient.get("identifier", ()):
        system, value = str(identifier.get("system", "")), str(identifier.get("value", ""))
        yield "identifier", value
        yield "identifier", f"{system}|{value}"
        if system:
            yield "identifier", f"{system}|"


INDEXED: Final = {
    "Coverage": frozenset(("_id", "patient", "subscriberid", "identifier")),
    "PaymentNotice": frozenset(("_id", "request")),
    "Claim": frozenset(("_id", "patient")),
    "Patient": frozenset(("_id", "identifier")),
    "Organization": frozenset(("_id",)),
}
"""Parameters answered from an index, by type."""


def _has_status(resource: Json, value: str) -> bool:
    return bool(resource.get("status") == value)


def _has_name(resource: Json, value: str) -> bool:
    return str(resource.get("name", "")).casefold().startswith(value.casefold())


def _has_type(resource: Json, value: str) -> bool:
    system, _, code = value.rpartition("|")
    return any(
        coding["code"] == code and system in {"", coding["system"]}
        for concept in resource.get("type", ())
        for coding in concept["coding"]
    )


def _has_address(_: Json, __: str) -> bool:
    """Return False: no seeded Organization has an address."""
    return False


FILTERED: Final[dict[tuple[str, str], Callable[[Json, str], bool]]] = {
    ("Coverage", "status"): _has_status,
    ("Organization", "name"): _has_name,
    ("Organization", "type"): _has_type,
    ("Organization", "address"): _has_address,
}
"""Parameters answered by looking at each hit."""


def known_params(resource_type: str, params: Params, *, identifier: bool) -> Params:
    """Keep the parameters that the type knows; `identifier` of Coverage came with 2025-10."""
    return [
        (name, value)
        for name, value in params
        if (name in INDEXED[resource_type] or (resource_type, name) in FILTERED)
        and (identifier or (resource_type, name) != ("Coverage", "identifier"))
    ]


def index_value(resource_type: str, name: str, value: str) -> str | Refusal:
    """Return the value as the index has it; 400 for a malformed `Patient/<key>`."""
    if name not in {"patient", "request"}:
        return value
    match = REFERENCE.fullmatch(value)
    if match is not None and match[1] == "Patient":
        return match[2]
    if (resource_type, name) in REFERENCE_PARAMETERS or "/" in value:
        return refuse(400, "value", f"query -> {name} - must have the form Patient/<key>")
    return value


def page_of(params: Params) -> Page | Refusal:
    """Read `_count` (10 by default, 100 at most) and `_offset`."""
    wanted = dict(params)
    count = _number(wanted.get("_count"), COUNT_DEFAULT)
    offset = _number(wanted.get("_offset"), 0)
    if count is None or count < 1:
        return refuse(400, "value", "query -> _count - value is not a valid positive integer")
    if offset is None:
        return refuse(400, "value", "query -> _offset - value is not a valid integer")
    return Page(min(count, COUNT_MAX), offset)


def _number(text: str | None, default: int) -> int | None:
    if text is None:
        return default
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else None


def bundle(
    resource_type: str, params: Params, page: Page, total: int, resources: list[Json]
) -> Json:
    """Build the searchset: relative links self, first, next, last; no `entry` when it is empty."""
    kept = [(name, value) for name, value in params if name not in {"_count", "_offset"}]

    def link(relation: str, offset: int) -> Json:
        query = urlencode([*kept, ("_count", str(page.count)), ("_offset", str(offset))])
        return {"relation": relation, "url": f"/{resource_type}?{query}"}

    links = [link("self", page.offset), link("first", 0)]
    if page.offset + page.count < total:
        links.append(link("next", page.offset + page.count))
    links.append(link("last", max(0, (total - 1) // page.count * page.count)))
    built: Json = {"resourceType": "Bundle", "type": "searchset", "total": total, "link": links}
    if resources:
        built["entry"] = [{"resource": resource} for resource in resources]
    return built
