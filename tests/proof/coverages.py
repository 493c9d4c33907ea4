"""The meaning of a coverage: the truth of the simulated world, in rules of its own.

The checker compares with nothing that the product compares with: a payer id is resolved through the
world's own directory, and each element is read here from the JSON itself.
"""

from collections.abc import Mapping
from typing import Any, Final

Json = dict[str, Any]

ORGANIZATIONS: Final = {"60054": "org-a", "60055": "org-a", "87726": "org-u", "00430": "org-m"}
"""Payer id: the Organization that Canvas has for it. Two ids may be one Organization."""
NAMES: Final = {"org-a": "Aetna", "org-u": "United", "org-m": "Medicare"}
"""Organization: its name in Canvas, which a read may show as the payor's display."""


def payer_id(body: Mapping[str, Any]) -> str:
    """Return the payer id that a body was sent with, "" if it names an Organization."""
    identifier = body["payor"][0].get("identifier")
    return str(identifier["value"]) if identifier else ""


def organization(body: Mapping[str, Any]) -> str:
    """Return the id of the Organization that a body means, sent or stored."""
    sent = payer_id(body)
    return ORGANIZATIONS[sent] if sent else str(body["payor"][0]["reference"]).partition("/")[2]


def stored(body: Mapping[str, Any]) -> Json:
    """Return a coverage as Canvas keeps it: a payer id becomes an Organization, its display is lost."""
    return {**body, "payor": [{"reference": f"Organization/{organization(body)}"}]}


def shown(content: Mapping[str, Any], *, has_names: bool) -> Json:
    """Return a stored coverage as a read shows it, with the name of the payer or without."""
    payor = {"reference": content["payor"][0]["reference"], "type": "Organization"}
    if has_names:
        payor["display"] = NAMES[organization(content)]
    return {**content, "payor": [payor]}


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> set[str]:
    """Return the elements in which two coverages mean different things."""
    ours, theirs = meaning(one), meaning(other)
    return {name for name in ours if ours[name] != theirs[name]}


def identity(content: Mapping[str, Any]) -> tuple[object, ...]:
    """Return what makes it one patient's coverage by one insurer, whatever its order and end are."""
    means = meaning(content)
    return tuple(means[name] for name in ("patient", "member_id", "payor", "status", "class"))


def meaning(content: Mapping[str, Any]) -> dict[str, object]:
    """Return each element of a coverage, sent or stored."""
    period = content.get("period") or {}
    classes = [
        (each["type"]["coding"][0]["code"], each["value"]) for each in content.get("class", ())
    ]
    return {
        "patient": content["beneficiary"]["reference"],
        "subscriber": content["subscriber"]["reference"],
        "member_id": content["identifier"][0]["value"],
        "payor": organization(content),
        "status": content["status"],
        "start": period.get("start"),
        "end": period.get("end"),
        "order": content["order"],
        "class": tuple(sorted(classes)),
    }
