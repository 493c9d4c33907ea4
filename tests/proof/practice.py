"""A small practice with its payments and insurances, and the files in which it delivers them.

This is the truth of `nights.py`: what was really paid, whose row is which, and how a setting writes it.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Final

from tests.support.world import World, patient_key

PATIENTS: Final = 4
PAYERS: Final = {"60054": "org-a", "87726": "org-u"}


# The practice -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Payment:
    """One payment that a person really made."""

    number: int
    patient: int
    cents: int
    day: str
    hour: int
    has_claim: bool

    @property
    def sign(self) -> tuple[str, int, str]:
        """Return all that Canvas shows of it."""
        claim = claim_of(self.patient) if self.has_claim else ""
        return patient_key(self.patient), self.cents, claim


@dataclass(frozen=True, slots=True)
class Insurance:
    """One coverage that a person really has."""

    number: int
    patient: int
    member: str
    payer_id: str
    order: int
    end: str = ""
    holder: int | None = None  # another patient, who is its subscriber

    @property
    def subscriber(self) -> int:
        """Return the patient whose contract it is."""
        return self.patient if self.holder is None else self.holder

    @property
    def sign(self) -> tuple[str, str, str]:
        """Return the insurer's own name for it."""
        return patient_key(self.patient), self.member, PAYERS[self.payer_id]


@dataclass(frozen=True, slots=True)
class Setting:
    """The way in which the files are written and configured."""

    style: str  # "ids", "times", "count" or "increment"
    key: tuple[str, ...]
    feed: str = "ledger"
    is_respelled: bool = False
    coverage_key: tuple[str, ...] = ("patient", "payer", "member_id")
    missing: str = "ignore"
    end_on: str = "day_before"
    zone: str = ""
    repeats_max: str = "0"
    by_row: bool = False  # the files name a subscriber by the row that has the same id
    is_numbered: bool = False  # order_from = "sequence": the files have no order


KEYS: Final = {
    "ids": ("transaction_id",),
    "times": ("patient", "posted_on", "amount", "claim"),
    "count": ("patient", "posted_on", "amount", "claim"),
    "increment": ("patient", "posted_on", "amount", "claim"),
}
OTHER_KEYS: Final = {
    "ids": ("patient", "transaction_id"),
    "times": ("patient", "posted_on", "amount", "claim", "entry_type"),
    "count": ("patient", "posted_on", "amount", "claim", "entry_type"),
    "increment": ("patient", "posted_on", "amount", "claim", "entry_type"),
}


def setting_of(random: Random) -> Setting:
    style = random.choice(("ids", "ids", "ids", "times", "count", "increment"))
    return Setting(
        style,
        KEYS[style],
        coverage_key=random.choice((("patient", "payer", "member_id"), ("patient", "member_id"))),
        missing=random.choice(("ignore", "cancel", "end", "end")),
        end_on=random.choice(("day_before", "day_before", "month_end", "last_month_end")),
        zone=random.choice(("", "America/New_York", "Pacific/Auckland")),
        repeats_max=random.choice(("0", "0", "5%")),
        by_row=random.random() < 0.5,
    )


def payments_of(random: Random, first: int, count: int) -> list[Payment]:
    """Return new payments, some of them equal to one another in all that Canvas shows."""
    days = ("2026-01-05", "2026-01-05", "2026-01-06")
    return [
        Payment(
            number,
            random.randrange(PATIENTS),
            random.choice((500, 500, 1250, 57)),
            random.choice(days),
            hour=8 + number % 10,
            has_claim=random.random() < 0.2,
        )
        for number in range(first, first + count)
    ]


def insured_of(random: Random, key: Sequence[str], *, by_row: bool) -> list[Insurance]:
    """Return up to one coverage a patient and insurer; two may share a member id if the key distinguishes them."""
    insured: list[Insurance] = []
    for patient in range(PATIENTS):
        for order, payer_id in enumerate(random.sample(list(PAYERS), random.randint(0, 2)), 1):
            is_shared = "payer" in key and random.random() < 0.5
            member = f"M{patient}" if is_shared else f"M{patient}-{order}"
            holder = holder_of(random, patient) if by_row and random.random() < 0.4 else None
            insured.append(Insurance(len(insured), patient, member, payer_id, order, holder=holder))
    random.shuffle(insured)
    return insured


def holder_of(random: Random, patient: int) -> int:
    """Return another patient."""
    return random.choice([each for each in range(PATIENTS) if each != patient])


# The files ----------------------------------------------------------------------------------------


@dataclass(slots=True)
class Files:
    """The delivery of one night: the rows of each file, by their true number."""

    ledgers: dict[str, list[Payment]]
    insured: list[Insurance]
    is_torn: bool = False
    is_absent: bool = False

    def payments(self) -> Iterator[tuple[str, int, Payment]]:
        for name, rows in self.ledgers.items():
            for number, payment in enumerate(rows, 1):
                yield name, number, payment


def write(world: World, files: Files, setting: Setting) -> None:
    """Write tonight's files, and the table of patients."""
    for old in world.folder.glob("*.csv"):
        old.unlink()
    if not files.is_absent:
        for name, payments in files.ledgers.items():
            path = _table(
                world.folder / name,
                ("TXN", "MRN", "Amount", "Posted", "Claim", "Type", "Line"),
                [_ledger_row(each, setting) for each in payments],
            )
            if files.is_torn:
                path.write_bytes(path.read_bytes()[:-4])
    _table(
        world.folder / "eligibility.csv",
        ("MRN", "Member", "Rel", "Sub", "Payer", "Order", "Start", "End"),
        [
            (
                mrn(each.patient, setting), each.member, "self" if each.holder is None else "child",
                f"S{each.subscriber}", each.payer_id, str(each.order), "2026-01-01", each.end,
            )
            for each in files.insured
        ],
    )  # fmt: skip
    spellings = [
        (spelling, patient_key(patient))
        for patient in range(PATIENTS)
        for spelling in (f"{patient}", f"00{patient}")
    ]
    _table(world.folder / "patients.csv", ("mrn", "key"), spellings)


def _table(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
    return path


def _ledger_row(payment: Payment, setting: Setting) -> tuple[str, ...]:
    posted = payment.day
    if setting.style == "times":
        posted = f"{payment.day} {payment.hour:02}:{payment.number % 60:02}:00"
    return (
        f"T{payment.number}" if setting.style == "ids" else "",
        mrn(payment.patient, setting),
        f"{Decimal(payment.cents) / 100:.2f}",
        posted,
        claim_of(payment.patient) if payment.has_claim else "",
        "PAY",
        # Unmapped. The same bytes are the same increment (docs/guarantees.md, "Input"), and here it is another one.
        f"{payment.number}" if setting.style == "increment" else "",
    )


def mrn(patient: int, setting: Setting) -> str:
    return f"00{patient}" if setting.is_respelled else f"{patient}"


def claim_of(patient: int) -> str:
    return f"f0dfefbe-3fe0-4ee7-bd44-{patient:012x}"


def configure(world: World, setting: Setting) -> None:
    """Write the configuration that belongs to a setting."""
    ledger = {
        "name": setting.feed,
        "kind": "ledger",
        "path": "ledger*.csv",
        "key": list(setting.key),
        "dates": ["%Y-%m-%d", "%Y-%m-%d %H:%M:%S"],
    }
    if setting.style in {"count", "increment"}:
        ledger["repeats"] = "count"
        ledger["delivery"] = "full" if setting.style == "count" else "increment"
    columns = {
        "patient": "MRN", "amount": "Amount", "posted_on": "Posted", "claim": "Claim",
        "entry_type": "Type",
    }  # fmt: skip
    if setting.style == "ids":
        columns["transaction_id"] = "TXN"
    feeds = (
        '[references.patient]\nhow = "file"\npath = "patients.csv"\nfrom = "mrn"\nto = "key"\n'
        + ('[references.subscriber]\nhow = "row"\n' if setting.by_row else "")
        + "[[feeds]]\n"
        + _toml({"name": "eligibility", "kind": "eligibility", "path": "eligibility.csv"})
        + _toml({"key": list(setting.coverage_key), "missing": setting.missing})
        + ('missing_max = "100%"\n' if setting.missing != "ignore" else "")
        + _toml({"missing_end_on": setting.end_on} if setting.missing == "end" else {})
        + _toml({"timezone": setting.zone})
        + _toml({"order_from": "sequence"} if setting.is_numbered else {})
        + "[feeds.columns]\n"
        + _toml(
            {
                "patient": "MRN", "member_id": "Member", "relationship": "Rel", "payer": "Payer",
                "start_on": "Start", "end_on": "End",
                **({} if setting.is_numbered else {"order": "Order"}),
                **({"subscriber_id": "Sub"} if setting.by_row else {}),
            }
        )
        + "[[feeds]]\n"
        + _toml(ledger)
        + "[feeds.columns]\n"
        + _toml(columns)
    )  # fmt: skip
    limits = f'repeats_max = "{setting.repeats_max}"' if "%" in setting.repeats_max else ""
    limits = limits or f"repeats_max = {setting.repeats_max}"
    world.write_config(feeds=feeds, limits=limits, resend_absent="all", quiet_s=0.1)


def _toml(keys: Mapping[str, object]) -> str:
    return "".join(f"{name} = {value!r}\n".replace("'", '"') for name, value in keys.items())
