"""The table that an X12 834 (005010X220A1) is read as, and the rules about its maintenance codes. Pure.

A table with all of these columns is an 834, or the rows of one that were rejected and are fed in again as CSV:
the rules hold for both.
"""

from collections.abc import Collection
from typing import Final

import polars as pl

# Column: its element, and how it is read. docs/files.md has the same table; a test compares them.
COLUMNS: Final = {
    "member_indicator": "INS01: Y for a subscriber, N for a dependent",
    "relationship_code": "INS02: 18 self, 01 spouse, 19 child ...",
    "maintenance_type": "INS03: of the member",
    "maintenance_reason": "INS04",
    "benefit_status": "INS05",
    "employment_status": "INS08",
    "subscriber_number": "REF*0F: the same for a subscriber and the dependents",
    "group_number": "REF*1L of the member",
    "master_policy": "REF*38 of the file",
    "reference_17": "REF*17 of the member",
    "reference_23": "REF*23",
    "reference_3h": "REF*3H",
    "reference_dx": "REF*DX",
    "reference_zz": "REF*ZZ",
    "member_identifier": "NM109 of NM1*IL, if NM108 is ZZ",
    "member_last_name": "NM103 of NM1*IL",
    "member_first_name": "NM104",
    "member_middle_name": "NM105",
    "birth_date": "DMG02",
    "sex": "DMG03",
    "eligibility_start": "DTP*356; without it DTP*348 of the member",
    "eligibility_end": "DTP*357; without it DTP*349 of the member",
    "coverage_maintenance": "HD01: of the coverage; it wins over INS03",
    "insurance_line": "HD03: HLT, DEN, VIS ...",
    "plan": "HD04",
    "coverage_level": "HD05",
    "start": "DTP*348 of the coverage",
    "end": "DTP*349 of the coverage, or the end of a range in DTP*348; without one, eligibility_end",
    "maintenance_effective": "DTP*303 of the coverage, or else of the member",
    "paid_through": "DTP*343",
    "coverage_group": "REF*1L of the coverage",
    "contract_class": "REF*CE",
    "coverage_reference_17": "REF*17 of the coverage",
    "coverage_reference_zz": "REF*ZZ of the coverage",
    "cob": "COB01: P, S, T or U",
    "cob_number": "COB02: of the other insurer",
    "cob_payer_name": "NM103 of NM1*IN below COB",
    "cob_payer_id": "NM109 of NM1*IN below COB",
    "payer_name": "N102 of N1*IN",
    "payer_id": "N104 of N1*IN",
    "sponsor_name": "N102 of N1*P5",
    "sponsor_id": "N104 of N1*P5",
}
TERMINATION: Final = "024"
REINSTATEMENT: Final = "025"
_CODES: Final = ("001", "021", TERMINATION, REINSTATEMENT, "030")
# Each rule is the name of a column of `texts.texts_of`, as the faults of SQL are.
RULES: Final = {
    "row|maintenance": "its maintenance code (coverage_maintenance, or else maintenance_type) is not 001, 021, 024, 025 "
    "or 030, and what others mean is not known here: ask the sender",
    "row|no_coverage": "the member is ended or reinstated, or ends on a day, and the file names no coverage of the member (HD): "
    "have the sender name the coverages, or change them in Canvas",
    "row|no_end": "the coverage or its member is terminated (024), and neither has an end (DTP*349, DTP*357): ask the "
    "sender for the day, and put it into end",
}
_READ: Final = (
    "coverage_maintenance",
    "maintenance_type",
    "insurance_line",
    "plan",
    "start",
    "end",
)


def is_enrollment(columns: Collection[str]) -> bool:
    """Return whether a table with these columns is an 834, or was one."""
    return set(COLUMNS).issubset(columns)


def faults(frame: pl.DataFrame) -> dict[str, pl.Series]:
    """Return for each rule a column with a text in each row that breaks it, and null in the others."""
    blank = pl.col(pl.String) == ""
    cells = frame.select(_READ).with_columns(pl.all().str.strip_chars())
    cells = cells.with_columns(pl.when(~blank).then(pl.all()))
    code = pl.coalesce("coverage_maintenance", "maintenance_type")
    has_coverage = pl.any_horizontal(
        pl.col("coverage_maintenance", "insurance_line", "plan", "start").is_not_null()
    )
    is_code = code.is_in(list(_CODES)).fill_null(value=False)
    # A terminated member has no open coverage, whatever HD01 says: senders write 001 or 030 there.
    is_ended = pl.any_horizontal(pl.col("coverage_maintenance", "maintenance_type") == TERMINATION)
    is_broken = {
        "row|maintenance": ~is_code,
        "row|no_coverage": is_code & ~has_coverage,
        "row|no_end": has_coverage & is_ended & pl.col("end").is_null(),
    }
    found = cells.select(
        pl.when(condition.fill_null(value=False)).then(pl.lit(RULES[rule])).alias(rule)
        for rule, condition in is_broken.items()
    )
    return found.to_dict()
