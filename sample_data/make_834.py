"""Makes the X12 834 files of the sample data anew, the same bytes each time: `python sample_data/make_834.py`.

Everything is synthetic; the SSNs are of an area that is not given out (000). Each coverage is written together with
what should become of it in Canvas, so `enrollments_expected.json` is what the files were made to be. The CSV file holds
the same coverages as the full 834.
"""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from random import Random

HERE = Path(__file__).parent
SEED = 20261128
FAMILIES = 40
VERSION = "005010X220A1"
PAYER, PAYER_ID = "BCBSMI", "00710"
LINES = {"HLT": ("PPO", 1), "DEN": ("DENTAL", 2)}  # Canvas' type, and the order
RELATIVES = {"01": "spouse", "19": "child"}
HEADER = [
    "MRN",
    "Subscriber MRN",
    "Member ID",
    "Rel Code",
    "Payer ID",
    "Line",
    "Plan",
    "Group",
    "Start",
    "End",
]


@dataclass
class Coverage:
    """One coverage of a member, as the sender knows it."""

    mrn: str
    subscriber: str
    member_id: str
    relationship: str
    line: str
    plan: str
    group: str
    start: date
    end: date | None = None
    code: str = "030"


def main() -> None:
    """Write everything beside this script."""
    random = Random(SEED)
    with (HERE / "crosswalk_patients.csv").open(newline="") as file:
        known = list(csv.DictReader(file))
    keys = {each["mrn"]: each["canvas_key"] for each in known[: FAMILIES * 3]}
    ssns = {mrn: f"000{random.randrange(10**6):06}" for mrn in keys}
    mrns = iter(keys)
    families = [_family(random, mrns, number) for number in range(FAMILIES)]
    coverages = [each for family in families for each in family]
    changes = _changes(families, next(mrns))
    _write("enrollments_full.834", _interchange(coverages, ssns, "4", 901))
    _write("enrollments_changes.834", _interchange(changes, ssns, "2", 902))
    with (HERE / "enrollments_full.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER)
        writer.writerows(_row(each) for each in coverages)
    after = {(each.mrn, each.line): each for each in [*coverages, *changes]}
    expected = {
        "full": [_expected(each, keys) for each in coverages],
        "after_changes": [_expected(each, keys) for each in after.values()],
    }
    _write("enrollments_expected.json", json.dumps(expected, indent=1) + "\n")


def _write(name: str, text: str) -> None:
    (HERE / name).write_text(text, newline="")


def _family(random: Random, mrns: Iterator[str], number: int) -> list[Coverage]:
    """Return the coverages of a subscriber and of up to two dependents."""
    subscriber, group = next(mrns), f"G{random.randrange(5):03}"
    start = date(2026, 1, 1) + timedelta(days=30 * random.randrange(6))
    lines = random.choice([["HLT"], ["HLT", "DEN"]])
    members = [("18", subscriber)]
    members += [
        (random.choice(["01", "19"]), next(mrns)) for _ in range(random.choice([0, 0, 1, 2]))
    ]
    return [
        Coverage(mrn, subscriber, f"W{number:06}", relationship, line, f"{line} {random.randrange(3)}", group, start,
                 date(2026, 12, 31) if random.random() < 0.2 else None)
        for relationship, mrn in members
        for line in lines
    ]  # fmt: skip


def _changes(families: list[list[Coverage]], new: str) -> list[Coverage]:
    """Return a termination, a change of plan, a reinstatement and an addition."""
    ended, changed = (family[0] for family in families[:2])
    back = next(family[0] for family in families[2:] if family[0].end)
    return [
        Coverage(**{**vars(ended), "end": date(2026, 11, 30), "code": "024"}),
        Coverage(**{**vars(changed), "plan": "HLT 9", "code": "001"}),
        Coverage(**{**vars(back), "end": None, "code": "025"}),
        Coverage(new, new, "W900000", "18", "HLT", "HLT 1", "G000", date(2026, 12, 1), code="021"),
    ]


def _interchange(coverages: list[Coverage], ssns: dict[str, str], purpose: str, number: int) -> str:
    inside = [
        f"ST*834*0001*{VERSION}",
        f"BGN*00*B{number}*20261128*0230****{purpose}",
        "REF*38*POLICY01",
        "DTP*007*D8*20261128",
        "N1*P5*SAMPLE EMPLOYER*FI*000000001",
        f"N1*IN*SAMPLE PLAN*94*{PAYER}",
    ]
    members: dict[str, list[Coverage]] = {}
    for each in coverages:
        members.setdefault(each.mrn, []).append(each)
    for number_of, (mrn, mine) in enumerate(members.items()):
        inside += _member(mine, ssns[mrn], number_of)
    segments = [
        f"ISA*00*          *00*          *ZZ*SAMPLEPLAN     *ZZ*PRACTICE       *261128*0230*^*00501*{number:09}*0*P*:",
        f"GS*BE*SAMPLEPLAN*PRACTICE*20261128*0230*{number}*X*{VERSION}",
        *inside,
        f"SE*{len(inside) + 1}*0001",
        f"GE*1*{number}",
        f"IEA*1*{number:09}",
    ]
    return "".join(f"{segment}~\n" for segment in segments)


def _member(mine: list[Coverage], ssn: str, number: int) -> list[str]:
    first = mine[0]
    indicator = "Y" if first.relationship == "18" else "N"
    segments = [
        f"INS*{indicator}*{first.relationship}*{first.code}*XN*A",
        f"REF*0F*{first.member_id}",
        f"REF*1L*{first.group}",
        f"REF*23*{first.mrn}",
        f"REF*SY*{ssn}",
        f"REF*ZZ*{first.subscriber}",
        f"NM1*IL*1*LAST{number}*FIRST{number}****34*{ssn}",
        f"DMG*D8*19{50 + number % 50}0101*{'FM'[number % 2]}",
    ]
    for each in mine:
        segments += [
            f"HD*{each.code}**{each.line}*{each.plan}*FAM",
            f"DTP*348*D8*{each.start:%Y%m%d}",
        ]
        segments += [f"DTP*349*D8*{each.end:%Y%m%d}"] if each.end else []
    return segments


def _row(each: Coverage) -> list[str]:
    return [
        each.mrn, each.subscriber, each.member_id, each.relationship, PAYER, each.line, each.plan, each.group,
        f"{each.start:%m/%d/%Y}", f"{each.end:%m/%d/%Y}" if each.end else "",
    ]  # fmt: skip


def _expected(each: Coverage, keys: dict[str, str]) -> dict[str, object]:
    kind, order = LINES[each.line]
    return {
        "patient": keys[each.mrn], "subscriber": keys[each.subscriber], "member_id": each.member_id,
        "relationship": RELATIVES.get(each.relationship, "self"), "payer": PAYER_ID, "type": kind, "plan": each.plan,
        "group": each.group, "order": order, "start": f"{each.start}", "end": f"{each.end}" if each.end else None,
    }  # fmt: skip


if __name__ == "__main__":
    main()
