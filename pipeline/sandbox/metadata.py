"""The CapabilityStatement of `GET /metadata`, by contract. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pipeline.sandbox.search import FILTERED, INDEXED, known_params

if TYPE_CHECKING:
    from pipeline.sandbox.coverage import Contract
    from pipeline.sandbox.rules import Json

INTERACTIONS: Final = {
    "Claim": ("read", "search-type"),
    "Coverage": ("create", "read", "search-type", "update"),
    "Organization": ("read", "search-type"),
    "Patient": ("read", "search-type"),
    "PaymentNotice": ("create", "read", "search-type"),
}
"""seed pages and docs/canvas.md: no delete at all, no update of a PaymentNotice."""


def capability_statement(contract: Contract) -> Json:
    """Build the statement."""
    return {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": "2025-10-21",
        "kind": "instance",
        "fhirVersion": "4.0.1",
        "format": ["json"],
        "rest": [
            {
                "mode": "server",
                "resource": [_resource(name, contract) for name in INTERACTIONS],
            }
        ],
    }


def _resource(resource_type: str, contract: Contract) -> Json:
    names = {*INDEXED[resource_type], *(name for of, name in FILTERED if of == resource_type)}
    params = known_params(
        resource_type,
        [(name, "") for name in sorted(names)],
        identifier=contract.member_in_identifier,
    )
    return {
        "type": resource_type,
        "interaction": [{"code": code} for code in INTERACTIONS[resource_type]],
        "searchParam": [{"name": name, "type": _kind(name)} for name, _ in params],
    }


def _kind(name: str) -> str:
    if name in {"patient", "request"}:
        return "reference"
    return "string" if name in {"name", "address"} else "token"
