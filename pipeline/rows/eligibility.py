"""A row of an eligibility file: one coverage of one patient.

The file is an X12 834 (`enrollment.py`), or a table exported from one or the like.

The order of the fields is the order in which they are read: a field may look at those above it, so
that a contradiction between two fields is found together with all other errors of the row.
"""

from pydantic import BaseModel, ConfigDict, Field

from pipeline.rows import columns


class EligibilityRow(BaseModel):
    """The content of an eligibility row, in Canvas' terms. Validated with `context=Reading(...)`.

    `patient` and `subscriber` are Patient keys and `payer` is the result of the payer crosswalk; days are
    calendar days with both boundaries inclusive, None is open.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    patient: columns.PatientKey = Field(
        description="Whose coverage it is, as `references.patient` takes it."
    )
    relationship: columns.Relationship = Field(
        description="Of the patient to the subscriber: `self`, `spouse`, `child`, `other` or `injured`."
    )
    subscriber: columns.SubscriberKey = Field(
        description='Who holds the contract, as `references.patient` takes it. Blank: the patient, if the relationship is self. Not with `references.subscriber` of `how = "row"`.'
    )
    member_id: columns.RequiredId = Field(
        description="The member id on the card; at most 100 characters."
    )
    subscriber_id: columns.OptionalId = Field(
        description="The subscriber's own id, if it differs from the member id; at most 100 characters. It is sent in contract `2025-10` only; with `references.subscriber` of `how = \"row\"` it says which row is the subscriber's."
    )
    payer: columns.PayerId = Field(description="The insurer, as `references.payer` takes it.")
    payer_name: columns.OptionalText = Field(
        description="Shown as the payer's name; at most 255 characters."
    )
    type: columns.TypeCode = Field(
        description="The kind of coverage, one of Canvas' codes such as `HMO`, `PPO`, `MCPOL`, `pay`."
    )
    plan: columns.OptionalText = Field(
        description="The plan; at most 255 characters, as the three that follow. Canvas shows plan and group."
    )
    subplan: columns.OptionalText = Field(description="The subplan.")
    group: columns.OptionalText = Field(description="The group.")
    subgroup: columns.OptionalText = Field(description="The subgroup.")
    order: columns.Order = Field(
        description='Which insurer pays first: 1 to 5, or `primary`, `secondary`, `tertiary`, `quaternary`, `quinary`, or `P`, `S`, `T`. Not with `order_from = "sequence"`.'
    )
    start_on: columns.Day = Field(
        description="First day of the coverage. Blank: open, and Canvas puts the day of ingestion."
    )
    end_on: columns.EndDay = Field(description="Last day of the coverage. Blank: open.")
    status: columns.Status = Field(
        description="`active` (also if blank) or `cancelled`. A coverage that has ended stays active, and has its `end_on`."
    )
