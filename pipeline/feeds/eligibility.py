"""A row of an eligibility file (X12 834, or a flat export of it): one coverage of one patient.

The order of the fields is the order in which they are read: a field may look at those above it, so
that a contradiction between two fields is found together with all other errors of the row.
"""

from pydantic import BaseModel, ConfigDict

from pipeline.feeds import columns


class EligibilityRow(BaseModel):
    """What an eligibility row says, in Canvas' terms. Validated with `context=Reading(...)`.

    `patient` and `subscriber` are Patient keys and `payer` is what the payer crosswalk gives,
    already looked up; days are calendar days with both boundaries inclusive, None is open.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    patient: columns.PatientKey
    relationship: columns.Relationship
    subscriber: columns.SubscriberKey
    member_id: columns.RequiredId
    subscriber_id: columns.OptionalId
    payer: columns.PayerId
    payer_name: columns.OptionalText
    type: columns.TypeCode
    plan: columns.OptionalText
    subplan: columns.OptionalText
    group: columns.OptionalText
    subgroup: columns.OptionalText
    order: columns.Order
    start_on: columns.Day
    end_on: columns.EndDay
    status: columns.Status
