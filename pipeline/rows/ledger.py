"""A row of a ledger file: one payment.

The file is a table exported from the postings of X12 835 remittances or from patient payments. X12 itself is not read.
"""

from pydantic import BaseModel, ConfigDict, Field

from pipeline.rows import columns


class LedgerRow(BaseModel):
    """The content of a ledger row. Validated with `context=Reading(...)`.

    `amount` is positive USD, 0.01 to 999,999.99; `claim` makes it a copay; `posted_on` is a
    calendar day. `entry_type` is for `only` and is not sent.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    transaction_id: columns.OptionalLongId = Field(
        description="The sender's id of the payment; at most 255 characters. Not sent: Canvas has no place for it."
    )
    patient: columns.PatientKey = Field(
        description="Whose account it goes to, as `references.patient` takes it."
    )
    amount: columns.Amount = Field(
        description="Dollars, 0.01 to 999,999.99, with at most two decimals: `12.50`, `1,234.50`, `$12.50`, and more spellings."
    )
    posted_on: columns.Day = Field(
        description="The day of the payment. Sent as `created`, which Canvas ignores: it keeps the time at which it took it."
    )
    claim: columns.ClaimId = Field(
        description="The claim whose copay it is, as `references.claim` takes it; exactly one. Blank: a payment to the account."
    )
    entry_type: columns.OptionalWord = Field(
        description="What kind of line it is in the sender's ledger; serves `only`. Not sent."
    )
    currency: columns.Currency = Field(description="`USD`, in any case, or blank.")
