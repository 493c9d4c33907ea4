"""Feeds with several insurers."""

from collections.abc import Sequence
from typing import Any

from tests.support.world import OTHER_PAYER, PAYER, World, patient_key

ONE, TWO = PAYER["payer_id"], OTHER_PAYER["payer_id"]


FEED = """
[[feeds]]
name = "eligibility"
kind = "eligibility"
path = "eligibility.csv"
key = ["patient", "member_id"]
{more}
[feeds.columns]
patient = "MRN"
member_id = "Member"
relationship = "Rel"
payer = "Payer"
order = "Order"
start_on = "Start"
end_on = "End"
"""


def write(world: World, payers: Sequence[str], *, first: int = 0, end: str = "") -> None:
    """Write a file with a coverage of each patient, from the number `first` on, with these payer ids."""
    world.write_eligibility(
        [
            (patient_key(number), f"M{number}", "self", payer, "1", "2026-01-01", end)
            for number, payer in enumerate(payers, first)
        ]
    )


def coverages(world: World, number: int) -> list[dict[str, Any]]:
    return [
        each
        for each in world.sandbox.resources("Coverage")
        if each["beneficiary"]["reference"] == f"Patient/{patient_key(number)}"
    ]
