"""A row of a ledger file (an X12 835 posting, or an export of patient payments): one payment."""

from pydantic import BaseModel, ConfigDict

from pipeline.feeds import columns


class LedgerRow(BaseModel):
    """What a ledger row says. Validated with `context=Reading(...)`.

    `amount` is positive USD, 0.01 to 999,999.99; `claim` makes it a copay; `posted_on` is a
    calendar day. `entry_type` serves `only` and is not sent.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    transaction_id: columns.OptionalText
    patient: columns.PatientKey
    amount: columns.Amount
    posted_on: columns.Day
    claim: columns.ClaimId
    entry_type: columns.OptionalText
    currency: columns.Currency
