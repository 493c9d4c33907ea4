"""Makes the sample data anew, the same bytes each time: `python sample_data/make.py`.

Everything is synthetic: no person, payer contract or payment in it is real. Each row is written
together with what should become of it, so `expected.json` and the README's table are what the rows
were made to be, and not what the program says of them.
"""

import csv
import gzip
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import polars as pl

HERE = Path(__file__).parent
SEED = 20261121
PATIENTS = 400
MRN_SYSTEM = "https://practice.example/mrn"

# The sender's code, the payer id that Canvas knows, the name.
PAYERS = [
    ("AET", "60054", "Aetna"),
    ("BCBSMI", "00710", "Blue Cross Blue Shield of Michigan"),
    ("CIG", "62308", "Cigna"),
    ("UHC", "87726", "UnitedHealthcare"),
    ("MCR-B", "08202", "Medicare Part B"),
    ("MCD", "D00111", "Medicaid"),
    ("HUM", "61101", "Humana"),
    ("TRI", "99726", "TRICARE East"),
]
PLANS = ["Choice Plus", "PPO 500", 'Select "Gold", Tier 1', "HMO Blue, Statewide", ""]
TYPES = ["PPO", "HMO", "POS", "MCPOL", "EHCPOL", ""]
FIRST = ["Ada", "Ben", "Cleo", "Dev", "Esther", "Femi", "Grace", "Hugo", "Iris", "Jonas"]
LAST = ["Abara", "Brandt", "Castillo", "Dubois", "Eriksen", "Fong", "Grant", "Haddad"]

ELIGIBILITY = [
    "Member MRN", "Member ID", "Rel Code", "Subscriber MRN", "Payer ID", "Payer Name", "COB",
    "Coverage Type", "Plan Name", "Group No", "Eff Date", "Term Date", "Status",
]  # fmt: skip
LEDGER = ["TXN_ID", "MRN", "POST_DT", "TXN_TYPE", "AMOUNT", "CURRENCY"]
COPAYS = ["Receipt No", "Account", "Claim No", "Posted", "Type", "Amount"]


@dataclass
class Row:
    """A source row, and what should become of it."""

    cells: dict[str, Any]
    disposition: str = "created"
    rules: tuple[str, ...] = ()
    cents: int | None = None  # as the reader should read it
    why: str = ""  # what is wrong with it, for the README
    file: str = ""
    number: int = 0


@dataclass
class Patient:
    """A synthetic patient."""

    mrn: str
    key: str
    name: str
    claims: list[tuple[str, str]] = field(default_factory=list)  # the sender's number, Canvas' id
    owed_cents: int = 0


def main() -> None:
    """Write everything beside this script."""
    random = Random(SEED)
    patients = [_patient(random, number) for number in range(PATIENTS)]
    first, second = _eligibility(random, patients)
    ledger = _ledger(random, patients)
    copays = _copays(random, patients)
    rows = {
        "eligibility": [
            *_placed(first, "eligibility_20261120.csv"),
            *_placed(second, "eligibility_20261121.csv"),
        ],
        "ledger": _placed(ledger, "ledger.parquet"),
        "copays": _placed(copays, "copays.txt.gz"),
    }
    _write_csv(HERE / "eligibility_20261120.csv", ELIGIBILITY, first, line_end="\n")
    _write_csv(HERE / "eligibility_20261121.csv", ELIGIBILITY, second, line_end="\r\n")
    _write_parquet(HERE / "ledger.parquet", ledger)
    _write_gzip(HERE / "copays.txt.gz", COPAYS, copays)
    _write_crosswalks(patients)
    _write_seed(patients)
    expected = {
        name: _expected(feed, has_money=name != "eligibility") for name, feed in rows.items()
    }
    _write_text("expected.json", json.dumps(expected, indent=1) + "\n")
    _write_text("README.md", _readme(rows))


def _patient(random: Random, number: int) -> Patient:
    claims = [(f"C{number:04}-{n}", _uuid(random)) for n in range(3)]
    name = f"{random.choice(FIRST)} {random.choice(LAST)}"
    return Patient(f"{random.randrange(10**7):08}", f"{random.getrandbits(128):032x}", name, claims)


def _uuid(random: Random) -> str:
    digits = f"{random.getrandbits(128):032x}"
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


# Eligibility --------------------------------------------------------------------------------------


def _eligibility(random: Random, patients: list[Patient]) -> tuple[list[Row], list[Row]]:
    """Five coverages a patient: three primary ones after each other, two secondary ones."""
    made = [_coverages(random, patients, number) for number in range(PATIENTS)]
    first = [row for rows in made[: PATIENTS // 2] for row in rows]
    second = [row for rows in made[PATIENTS // 2 :] for row in rows]
    for place, wrong in enumerate(_wrong_coverages(patients)):
        first.insert(20 + place * 15, wrong)
    _spoil_in_place(second)
    return first, second


def _coverages(random: Random, patients: list[Patient], number: int) -> list[Row]:
    rows = []
    for order, periods in ((1, 3), (2, 2)):
        starts = sorted(
            date(2023, 1, 1) + timedelta(days=random.randrange(1200)) for _ in range(periods)
        )
        starts = [start + timedelta(days=40 * n) for n, start in enumerate(starts)]
        for n, start in enumerate(starts):
            # A period ends on the day before the next one begins, or on that very day: both are common.
            end = starts[n + 1] - timedelta(days=random.randrange(2)) if n + 1 < periods else None
            rows.append(Row(_coverage(random, patients, number, order, start, end)))
    return rows


def _coverage(
    random: Random, patients: list[Patient], number: int, order: int, start: date, end: date | None
) -> dict[str, Any]:
    patient = patients[number]
    payer, _, payer_name = random.choice(PAYERS)
    relationship = random.choices(["18", "01", "19", "G8"], [80, 8, 10, 2])[0]
    subscriber = (
        patients[(number + 7) % PATIENTS].mrn
        if relationship != "18"
        else random.choice(["", patient.mrn])
    )
    form = random.choice(["%m/%d/%Y", "%m/%d/%Y", "%Y%m%d"])
    cob = random.choice({1: ["P", "1", "Primary"], 2: ["S", "2", "SECONDARY"]}[order])
    cells = [
        patient.mrn, f"W{random.randrange(10**9):09}", relationship, subscriber, payer, payer_name, cob,
        random.choice(TYPES), random.choice(PLANS), f"{random.randrange(10**6):06}" if random.random() < 0.8 else "",
        start.strftime(form), end.strftime(form) if end else "", "A",
    ]  # fmt: skip
    return dict(zip(ELIGIBILITY, cells, strict=True))


def _wrong_coverages(patients: list[Patient]) -> list[Row]:
    """Rows that are wrong on purpose, each for a reason of its own; patients 0 and 1 have none but these."""
    good = dict.fromkeys(ELIGIBILITY, "") | {
        "Rel Code": "18", "Payer ID": "UHC", "Payer Name": "UnitedHealthcare", "COB": "3",
        "Coverage Type": "PPO", "Eff Date": "01/01/2026", "Status": "A",
    }  # fmt: skip
    count = 0

    def row(why: str, *rules: str, disposition: str = "rejected", **changes: str) -> Row:
        nonlocal count
        count += 1
        named = {name.replace("_", " "): value for name, value in changes.items()}
        who = patients[count % PATIENTS].mrn
        cells = good | {"Member MRN": who, "Member ID": f"X{count:05}"} | named
        return Row(cells, disposition, rules, why=why)

    twin = row("", disposition="created")
    clash = row("", disposition="created", Eff_Date="03/01/2026")
    return [
        row("no patient", "patient|required", Member_MRN=""),
        row("a patient who is not in the crosswalk", "patient|unknown", Member_MRN="99999999"),
        row("a patient whom the crosswalk gives two keys", "patient|ambiguous", Member_MRN="55555555"),
        row("no member id", "member_id|required", Member_ID=""),
        row("a member id of 101 characters", "member_id|length", Member_ID="7" * 101),
        row("a tab within the member id", "member_id|characters", Member_ID="W12\t34"),
        row("a relationship that is no code", "relationship|code", Rel_Code="77"),
        row("no relationship", "relationship|required", Rel_Code=""),
        row("a spouse without a subscriber", "subscriber|required", Rel_Code="01"),
        row("self, and the subscriber is another patient", "subscriber|self", Subscriber_MRN=patients[30].mrn),
        row("a subscriber who is not in the crosswalk", "subscriber|unknown", Rel_Code="19", Subscriber_MRN="99999998"),
        row("no payer", "payer|required", Payer_ID=""),
        row("a payer who is not in the crosswalk", "payer|unknown", Payer_ID="ACME"),
        row("no order", "order|required", COB=""),
        row("order 6", "order|range", COB="6"),
        row("order 0", "order|range", COB="0"),
        row("a word that is no order", "order|range", COB="first"),
        row("a type that is no code", "type|code", Coverage_Type="GOLD"),
        row("a status that is no code", "status|code", Status="X"),
        row("February 30", "start_on|date", Eff_Date="02/30/2026"),
        row("a day in another format", "start_on|date", Eff_Date="1 Jan 2026"),
        row("year 202", "end_on|date", Term_Date="12/31/0202"),
        row("ends before it begins", "end_on|before_start", Term_Date="12/31/2025"),
        row("a plan name of 256 characters", "plan|length", Plan_Name="Gold" * 64),
        row("a group number of 300 characters", "group|length", Group_No="9" * 300),
        row("four errors at once", "relationship|code", "type|code", "order|range", "end_on|before_start",
            Rel_Code="?", Coverage_Type="?", COB="9", Term_Date="01/01/2020"),
        twin,
        Row(dict(twin.cells), "duplicate", ("row|duplicate",), why="the same row again"),
        Row(twin.cells | {"Plan Name": "Another plan"}, "rejected", ("row|contradicts",), why="the same key with another plan"),
        clash,
        Row(clash.cells | {"Member ID": "X90001", "Eff Date": "06/01/2026"}, "rejected", ("order|collides",),
            why="a second tertiary coverage in the same period"),
        row("a patient whom Canvas does not have", "canvas", disposition="refused", Member_MRN="77777777"),
        row("a payer whom Canvas does not have", "canvas", disposition="refused", Payer_ID="OLD"),
    ]  # fmt: skip


def _spoil_in_place(rows: list[Row]) -> None:
    """Slips that happen to good rows: only what no other row depends on."""
    slips: list[tuple[str, str, str, str]] = [
        ("COB", "N/A", "order|range", "an order that a person typed"),
        ("Eff Date", "00/00/0000", "start_on|date", "an empty date of an old system"),
        ("Payer ID", "SELF-PAY", "payer|unknown", "a payer code without a mapping"),
        ("Rel Code", "self ", "", ""),  # trimmed, and a code of Canvas: taken as it is
        ("Member ID", "", "member_id|required", "no member id"),
    ]
    selfs = [row for row in rows if row.cells["Rel Code"] == "18"]
    for place in range(25):
        column, text, rule, why = slips[place % len(slips)]
        row = selfs[17 + place * 31]
        row.cells[column] = text
        if rule:
            row.disposition, row.rules, row.why = "rejected", (rule,), why


# Ledger -------------------------------------------------------------------------------------------


def _ledger(random: Random, patients: list[Patient]) -> list[Row]:
    rows = []
    for number in range(3940):
        kind = random.choices(
            ["PAYMENT", "CHARGE", "ADJUSTMENT", "WRITEOFF", "REFUND"], [70, 18, 6, 3, 3]
        )[0]
        patient = random.choice(patients)
        cents = random.randrange(500, 40_000)
        cells = _transaction(f"T{number:06}", patient.mrn, _day(random), kind, cents)
        if kind == "PAYMENT":
            patient.owed_cents += cents
            rows.append(Row(cells, cents=cents))
        else:
            rows.append(Row(cells, "filtered", cents=cents))
    for place, wrong in enumerate(_wrong_payments(rows, patients)):
        rows.insert(50 + place * 90, wrong)
    return [*rows, *_overpayments(random, patients)]


def _day(random: Random) -> date:
    return date(2026, 11, 1) + timedelta(days=random.randrange(20))


def _transaction(
    txn: str | None, mrn: str | None, day: date, kind: str, cents: int
) -> dict[str, Any]:
    return dict(zip(LEDGER, [txn, mrn, day, kind, Decimal(cents).scaleb(-2), "USD"], strict=True))


def _wrong_payments(rows: list[Row], patients: list[Patient]) -> list[Row]:
    day = date(2026, 11, 12)
    count = 0

    def row(
        why: str, *rules: str, disposition: str = "rejected", cents: int = 1500, **changes: Any
    ) -> Row:
        nonlocal count
        count += 1
        cells = _transaction(f"W{count:04}", patients[count].mrn, day, "PAYMENT", cents) | changes
        return Row(cells, disposition, rules, cents, why)

    payments = [row for row in rows if row.disposition == "created"]
    twins = [
        Row(
            dict(payment.cells),
            "duplicate",
            ("row|duplicate",),
            payment.cents,
            "the same payment again",
        )
        for payment in payments[:6]
    ]
    others = [
        Row(payment.cells | {"AMOUNT": payment.cells["AMOUNT"] + 1}, "rejected", ("row|contradicts",), (payment.cents or 0) + 100,
            "the same transaction with another amount")
        for payment in payments[6:10]
    ]  # fmt: skip
    return [
        row("no transaction id", "transaction_id|required", TXN_ID=None),
        row("no patient", "patient|required", MRN=None),
        row("a patient who is not in the crosswalk", "patient|unknown", MRN="99999999"),
        row("a patient whom the crosswalk gives two keys", "patient|ambiguous", MRN="55555555"),
        row("nothing", "amount|range", cents=0),
        row("a negative amount in a feed of positive ones", "amount|sign", cents=-2500),
        row("above limits.amount_usd_max", "amount|limit", cents=1_250_000),
        row("above what Canvas stores", "amount|range", cents=100_000_000),
        row("euros", "currency|code", CURRENCY="EUR"),
        row("a patient whom Canvas does not have", "canvas", disposition="refused", MRN="77777777"),
        *twins,
        *others,
    ]


def _overpayments(random: Random, patients: list[Patient]) -> list[Row]:
    """The last payment of twelve patients is above what they still owe: Canvas refuses it."""
    rows = []
    for number, patient in enumerate(random.sample(patients[50:], 12)):
        cents = 500_000 + number
        cells = _transaction(f"O{number:04}", patient.mrn, date(2026, 11, 20), "PAYMENT", cents)
        rows.append(Row(cells, "refused", ("canvas",), cents, "more than the patient still owes"))
    return rows


def _copays(random: Random, patients: list[Patient]) -> list[Row]:
    rows = []
    for number in range(980):
        patient = random.choice(patients)
        claim, _ = random.choice(patient.claims)
        cents = random.choice([1000, 1500, 2000, 2500, 3000, 4000, 5000])
        kind = random.choices(["COPAY", "VOID"], [95, 5])[0]
        cells = _receipt(
            f"R{number:05}",
            patient.mrn,
            claim,
            _day(random),
            kind,
            f"-{cents // 100}.{cents % 100:02}",
        )
        rows.append(Row(cells, "created" if kind == "COPAY" else "filtered", cents=cents))
    for place, wrong in enumerate(_wrong_copays(rows, patients)):
        rows.insert(30 + place * 40, wrong)
    return rows


def _receipt(
    number: str, mrn: str, claim: str, day: date, kind: str, amount: str
) -> dict[str, Any]:
    return dict(
        zip(COPAYS, [number, mrn, claim, day.strftime("%m/%d/%Y"), kind, amount], strict=True)
    )


def _wrong_copays(rows: list[Row], patients: list[Patient]) -> list[Row]:
    count = 0

    def row(
        why: str,
        *rules: str,
        cents: int | None = None,
        disposition: str = "rejected",
        **changes: str,
    ) -> Row:
        nonlocal count
        count += 1
        patient = patients[count]
        named = {name.replace("_", " "): value for name, value in changes.items()}
        cells = _receipt(
            f"Z{count:04}", patient.mrn, patient.claims[0][0], date(2026, 11, 12), "COPAY", "-20.00"
        )
        return Row(cells | named, disposition, rules, cents, why)

    first = next(row for row in rows if row.disposition == "created")
    return [
        row("the code of a currency", "amount|form", Amount="-20.00 USD"),
        row("a thousands separator in the wrong place", "amount|form", Amount="-10,20.00"),
        row("brackets and a minus sign", "amount|form", Amount="(-20.00)"),
        row("an exponent", "amount|form", Amount="-2e1"),
        row("a decimal comma", "amount|form", Amount="-20,00"),
        row("three decimals", "amount|decimals", Amount="-20.005"),
        row("no amount", "amount|required", Amount=""),
        row("a charge written as a copay", "amount|sign", Amount="20.00", cents=-2000),
        row("nothing", "amount|range", Amount="0.00", cents=0),
        row("a claim that is not in the crosswalk", "claim|unknown", Claim_No="C9999-1", cents=2000),
        row("two claims in one cell", "claim|unknown", Claim_No="C0010-0;C0010-1", cents=2000),
        row("a day that there is not", "posted_on|date", Posted="11/31/2026", cents=2000),
        row("no receipt number", "transaction_id|required", Receipt_No="", cents=2000),
        row("three errors at once", "transaction_id|required", "patient|unknown", "amount|form", Receipt_No="", Account="1", Amount="free"),
        row("another patient's claim", "canvas", disposition="refused", Claim_No=patients[99].claims[1][0], cents=2000),
        Row(dict(first.cells), "duplicate", ("row|duplicate",), first.cents, "the same receipt again"),
    ]  # fmt: skip


# Files --------------------------------------------------------------------------------------------


def _placed(rows: list[Row], file: str) -> list[Row]:
    for number, row in enumerate(rows, start=1):
        row.file, row.number = file, number
    return rows


def _csv_text(header: list[str], rows: Iterable[Row], delimiter: str, line_end: str) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, header, delimiter=delimiter, lineterminator=line_end)
    writer.writeheader()
    writer.writerows(row.cells for row in rows)
    return text.getvalue()


def _write_csv(path: Path, header: list[str], rows: list[Row], *, line_end: str) -> None:
    path.write_bytes(_csv_text(header, rows, ",", line_end).encode())


def _write_gzip(path: Path, header: list[str], rows: list[Row]) -> None:
    path.write_bytes(gzip.compress(_csv_text(header, rows, "|", "\n").encode(), mtime=0))


def _write_parquet(path: Path, rows: list[Row]) -> None:
    schema: dict[str, Any] = dict.fromkeys(LEDGER, pl.String) | {
        "POST_DT": pl.Date,
        "AMOUNT": pl.Decimal(12, 2),
    }
    pl.DataFrame([row.cells for row in rows], schema=schema).write_parquet(path)


def _write_text(name: str, text: str) -> None:
    (HERE / name).write_text(text)


def _write_crosswalks(patients: list[Patient]) -> None:
    keys = [(patient.mrn, patient.key) for patient in patients]
    keys += [("55555555", "5" * 32), ("55555555", "6" * 32), ("77777777", "7" * 32)]
    pl.DataFrame(keys, schema=["mrn", "canvas_key"], orient="row").write_csv(
        HERE / "crosswalk_patients.csv"
    )
    payers = [(code, payer_id) for code, payer_id, _ in PAYERS] + [("OLD", "00000")]
    pl.DataFrame(payers, schema=["sender_code", "payer_id"], orient="row").write_csv(
        HERE / "crosswalk_payers.csv"
    )
    claims = [claim for patient in patients for claim in patient.claims]
    pl.DataFrame(claims, schema=["claim_number", "canvas_claim"], orient="row").write_parquet(
        HERE / "crosswalk_claims.parquet"
    )


def _write_seed(patients: list[Patient]) -> None:
    random = Random(SEED + 1)
    seed = {
        "note": "Synthetic. What the local Canvas holds before the sample data is loaded.",
        "patients": [
            {
                "id": patient.key,
                "identifiers": [{"system": MRN_SYSTEM, "value": patient.mrn}],
                "name": patient.name,
                "balance": str(Decimal(patient.owed_cents + random.randrange(5000)).scaleb(-2)),
            }
            for patient in patients
        ],
        "organizations": [
            {"id": _uuid(random), "name": name, "payer_id": payer_id, "plan_type": "Commercial"}
            for _, payer_id, name in PAYERS
        ],
        "claims": [
            {"id": claim, "patient": patient.key}
            for patient in patients
            for _, claim in patient.claims
        ],
    }
    _write_text("canvas_seed.json", json.dumps(seed, indent=1) + "\n")


# What should become of it -------------------------------------------------------------------------


def _usd(cents: int) -> str:
    return f"{Decimal(cents).scaleb(-2):.2f}"


def _expected(rows: list[Row], *, has_money: bool) -> dict[str, Any]:
    counts = Counter(row.disposition for row in rows)
    expected: dict[str, Any] = {
        "rows_read": len(rows),
        "dispositions": dict(sorted(counts.items())),
    }
    if has_money:
        sums: Counter[str] = Counter()
        for row in rows:
            sums[row.disposition] += row.cents or 0
        expected["amount_usd"] = {"read": _usd(sums.total())} | {
            word: _usd(sums[word]) for word in sorted(counts)
        }
        expected["amounts_unreadable"] = sum(row.cents is None for row in rows)
    expected["wrong"] = [
        {"file": row.file, "row": row.number, "disposition": row.disposition, "rules": row.rules}
        for row in rows
        if row.rules
    ]
    return expected


def _readme(rows: dict[str, list[Row]]) -> str:
    wrong = [(feed, row) for feed, feed_rows in rows.items() for row in feed_rows if row.rules]
    cell: Callable[[str], str] = lambda text: text.replace("|", "\\|")  # noqa: E731
    lines = [
        f"| {row.file} | {row.number} | {row.disposition} | {cell('; '.join(row.rules))} | {row.why} |"
        for _, row in wrong
    ]
    return README.format(
        rows=sum(map(len, rows.values())), wrong=len(wrong), table="\n".join(lines)
    )


README = """# Sample data

Synthetic, all of it: no person, contract or payment in these files is real. `python sample_data/make.py` makes them
anew, the same bytes each time; this page and `expected.json` come from it too. `make_834.py` makes those named
`enrollments_*`.

| file | what it is |
|---|---|
| `eligibility_20261120.csv`, `eligibility_20261121.csv` | coverages, as a payer's flat export of an X12 834 has them: relationship codes (18, 01, 19, G8), `P`/`S` or words for the order, two date formats; the second file has CRLF line ends |
| `ledger.parquet` | a ledger: payments among charges, adjustments, write-offs and refunds; typed columns (Decimal, Date) |
| `copays.txt.gz` | copays by claim, pipe-delimited, credits written as negative numbers |
| `crosswalk_patients.csv` | MRN to Canvas' Patient key |
| `crosswalk_payers.csv` | the sender's payer code to Canvas' payer id |
| `crosswalk_claims.parquet` | the sender's claim number to Canvas' Claim id |
| `canvas_seed.json` | what the local Canvas holds at first: those patients with their balances, payers, claims |
| `expected.json` | what should become of the rows |
| `enrollments_full.834`, `enrollments_changes.834` | X12 834: all members, and changes of the next day (a termination, another plan, a reinstatement, an addition) |
| `enrollments_full.csv` | the coverages of the full 834 as a flat file |
| `enrollments_expected.json` | the coverages that each of them should come to |

`configs/demo.toml` loads them. Of {rows:,} rows {wrong} are wrong on purpose, or come a second time. A rule `canvas` stands
for whatever Canvas says when it refuses.

| file | row | ends as | rule | what is wrong |
|---|---|---|---|---|
{table}
"""

if __name__ == "__main__":
    main()
