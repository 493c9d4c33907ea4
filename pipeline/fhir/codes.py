"""The codes and coding systems that Canvas takes, both Coverage contracts side by side.

Source: docs/canvas.md, "Two contracts for Coverage" and "Coverage"; the seed page of 2023.
"""

from dataclasses import dataclass
from enum import StrEnum

# Accepted on write; `parent` and `common` appear only on read.
RELATIONSHIPS = ("self", "spouse", "child", "other", "injured")
STATUSES = ("active", "cancelled")
CLASSES = ("plan", "subplan", "group", "subgroup")
# fmt: off
TYPES = (
    "ANNU", "AUTOPOL", "CHAR", "COL", "CRIME", "DENTAL", "DENTPRG", "DIS", "DISEASE", "DRUGPOL",
    "EAP", "EWB", "ENDRENAL", "EHCPOL", "FLEXP", "GOVEMP", "HIP", "HMO", "HSAPOL", "HIRISK",
    "HIVAIDS", "IND", "LIFE", "LTC", "MCPOL", "MANDPOL", "MENTPOL", "MENTPRG", "MILITARY", "pay",
    "POS", "PPO", "PNC", "DISEASEPRG", "PUBLICPOL", "REI", "RETIRE", "SAFNET", "SOCIAL",
    "SUBSIDIZ", "SUBSIDMC", "SUBSUPP", "SUBPOL", "SUBPRG", "SURPL", "TLIFE", "UMBRL", "UNINSMOT",
    "ULIFE", "VET", "VISPOL", "CANPRG", "WCBPOL",
)
# fmt: on
SELF_PAY = "pay"

# Lines of coverage, in the order in which a patient's coverages are numbered (`order_from = "sequence"`): medical
# first, because its insurer is billed first for what a practice does. The codes are those of HL7's v3-ActCode.
MEDICAL, DENTAL, VISION, OTHER_LINE = range(4)
LINES = {
    "DENTAL": DENTAL,
    "DENTPRG": DENTAL,  # a public dental program
    "VISPOL": VISION,
    # They pay no bill of a practice: income, life, property, vehicles, liability, and what insures insurers.
    **dict.fromkeys(("ANNU", "DIS", "LIFE", "TLIFE", "ULIFE"), OTHER_LINE),
    **dict.fromkeys(("COL", "CRIME", "PNC", "REI", "SURPL", "UMBRL"), OTHER_LINE),
    # Care that has a plan of its own beside the medical one.
    **dict.fromkeys(("DRUGPOL", "LTC"), OTHER_LINE),
    # What the patient pays after all insurers, from an account or not.
    **dict.fromkeys(("FLEXP", "HSAPOL", SELF_PAY), OTHER_LINE),
}


def line_of(type_code: str | None) -> int:
    """Return the line of a coverage by its type. Medical: a type that is not in LINES, or none."""
    return MEDICAL if type_code is None else LINES.get(type_code, MEDICAL)


# Order 1 to 5 (seed page, "The order must between 1 and 5, inclusive"), and the words for it.
ORDERS = {
    **{str(order): order for order in range(1, 6)},
    "p": 1,
    "primary": 1,
    "s": 2,
    "secondary": 2,
    "t": 3,
    "tertiary": 3,
    "quaternary": 4,
    "quinary": 5,
}

PAYER_ID_SYSTEM = "https://www.claim.md/services/era/"
COPAY_CLAIMS_URL = "http://schemas.canvasmedical.com/fhir/copayment-claims"
MEMBER_ID_SYSTEM = "http://terminology.hl7.org/CodeSystem/v2-0203"
MEMBER_ID_CODE = "MB"

# Storage limits, in characters (docs/canvas.md).
ID_LENGTH_MAX = 100
CLASS_LENGTH_MAX = 255


class Contract(StrEnum):
    """The shape of Coverage. The API has no version number, so it is a setting."""

    OF_2025_10 = "2025-10"
    OF_2023 = "2023"


@dataclass(frozen=True, slots=True)
class CoverageShape:
    """The differences between the two contracts."""

    type_system: str
    self_pay_system: str  # of the type code `pay`
    relationship_system: str
    class_system: str
    member_id_as_identifier: bool  # False: the member id is `subscriberId`


SHAPES = {
    Contract.OF_2025_10: CoverageShape(
        type_system="http://terminology.hl7.org/CodeSystem/v3-ActCode",
        self_pay_system="http://terminology.hl7.org/CodeSystem/coverage-selfpay",
        relationship_system="http://terminology.hl7.org/CodeSystem/subscriber-relationship",
        class_system="http://terminology.hl7.org/CodeSystem/coverage-class",
        member_id_as_identifier=True,
    ),
    Contract.OF_2023: CoverageShape(
        type_system="http://hl7.org/fhir/ValueSet/coverage-type",
        self_pay_system="http://hl7.org/fhir/ValueSet/coverage-type",
        relationship_system="http://hl7.org/fhir/ValueSet/subscriber-relationship",
        class_system="http://hl7.org/fhir/ValueSet/coverage-class",
        member_id_as_identifier=False,
    ),
}
