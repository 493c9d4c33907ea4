"""The sections `[references.*]`: how ids of the sender become ids of Canvas."""

from pathlib import Path
from typing import Final, Literal, Self

from pydantic import Field, model_validator

from pipeline.app.config.addresses import OneLocation, located
from pipeline.app.config.feeds import CommentPrefix
from pipeline.errors import ConfigError
from pipeline.job import Reference, References, Section
from pipeline.rows.crosswalk import Target

_TABLE: Final = (
    "With `file`: the table, CSV (.csv .tsv .txt, .gz or .zst too) as UTF-8, Parquet or .xlsx."
)


def _refuse_unused_table(how: str, *keys: str) -> None:
    """Refuse a table that is not read: the sender's ids would be taken for Canvas' own."""
    if how != "file" and any(keys):
        raise ValueError('path, from and to are for how = "file": set that, or remove them')


class _Table(Section):
    """The settings for a table that is text."""

    skip_lines: int = Field(
        0, ge=0, le=1000, description="With `file`: as in `[[feeds]]`, for the table."
    )
    comment_prefix: CommentPrefix = Field("", description="With `file`: as in `[[feeds]]`.")
    blank_lines: Literal["reject", "skip"] = Field(
        "reject", description="With `file`: as in `[[feeds]]`."
    )


class PatientReference(_Table):
    how: Literal["key", "file", "search"] = Field(
        "key",
        description="`key`: the value is Canvas' Patient key. `file`: a table says it. `search`: Canvas is searched for a Patient with this identifier.",
    )
    path: OneLocation = Field("", description=_TABLE)
    from_: str = Field("", alias="from", description="The table's column with the sender's value.")
    to: str = Field("", description="The table's column with Canvas' Patient key.")
    system: str = Field(
        "",
        description="With `search`: the system of the identifier, as Canvas shows it on a Patient.",
    )

    @model_validator(mode="after")
    def _is_used(self) -> Self:
        if self.how != "search" and self.system:
            raise ValueError('system is for how = "search": set that, or remove it')
        _refuse_unused_table(self.how, self.path, self.from_, self.to)
        return self

    @property
    def target(self) -> Target:
        return "key"


class ClaimReference(_Table):
    how: Literal["key", "file"] = Field(
        "key", description="`key`: the value is Canvas' Claim id. `file`: a table says it."
    )
    path: OneLocation = Field("", description=_TABLE)
    from_: str = Field("", alias="from", description="The table's column with the sender's value.")
    to: str = Field("", description="The table's column with Canvas' Claim id.")

    @model_validator(mode="after")
    def _is_used(self) -> Self:
        _refuse_unused_table(self.how, self.path, self.from_, self.to)
        return self

    @property
    def target(self) -> Target:
        return "key"


class SubscriberReference(Section):
    how: Literal["patient", "row"] = Field(
        "patient",
        description='`patient`: the column `subscriber` names a patient, who is found as by `references.patient`. `row`: the subscriber is the patient of the row with relationship self and the same `subscriber_id`, in the feed\'s files of today, or in earlier ones if Canvas has its coverage (docs/mapping.md, "Dependents"). Then each eligibility feed needs `subscriber_id`, and has no `subscriber`.',
    )


class PayerReference(_Table):
    how: Literal["payer_id", "organization", "file"] = Field(
        "payer_id",
        description="`payer_id`: the value is the payer id, sent as `payor[0].identifier`. `organization`: it is an Organization's id. `file`: a table says it.",
    )
    path: OneLocation = Field("", description=_TABLE)
    from_: str = Field("", alias="from", description="The table's column with the sender's value.")
    to: str = Field("", description="The table's column with what `target` names.")
    file_target: Literal["payer_id", "organization"] = Field(
        "payer_id", alias="target", description="With `file`: what the column `to` holds."
    )

    organization: str = Field(
        "",
        description="With `file` and payer ids: the column with the Organization that Canvas shows for the payer id, if the table has one. Canvas never returns a payer id, so coverages are compared by it.",
    )

    @model_validator(mode="after")
    def _is_used(self) -> Self:
        if self.how != "file" and "file_target" in self.model_fields_set:
            raise ValueError('target is for how = "file": set that, or remove it')
        _refuse_unused_table(self.how, self.path, self.from_, self.to)
        return self

    @property
    def target(self) -> Target:
        return self.file_target if self.how == "file" else self.how

    @model_validator(mode="after")
    def _names_both(self) -> Self:
        if self.organization and (self.how != "file" or self.target != "payer_id"):
            raise ValueError(
                'organization: only with how = "file" and target = "payer_id"; leave it out'
            )
        return self


class ReferencesSection(Section):
    patient: PatientReference = Field(
        PatientReference.model_validate({}),
        description="How the sender's patients, and subscribers, become Canvas' Patient keys. No hit, or several: the row is rejected.",
    )
    subscriber: SubscriberReference = Field(
        SubscriberReference.model_validate({}),
        description="How the subscriber of a dependent's coverage is found.",
    )
    payer: PayerReference = Field(
        PayerReference.model_validate({}),
        description="How the sender's payers become what Canvas takes.",
    )
    claim: ClaimReference = Field(
        ClaimReference.model_validate({}),
        description="How the claims of a ledger become Canvas' Claim ids.",
    )


def references_of(section: ReferencesSection, folder: Path) -> References:
    """Return how each kind of reference is resolved.

    Args:
        section: The section of the file.
        folder: The folder at which relative paths start.

    Raises:
        ConfigError: A table or a search lacks one of its keys.
    """
    return References(
        patient=_reference("patient", section.patient, folder),
        payer=_reference("payer", section.payer, folder),
        claim=_reference("claim", section.claim, folder),
        subscriber_by_row=section.subscriber.how == "row",
    )


def _reference(
    kind: str, section: PatientReference | PayerReference | ClaimReference, folder: Path
) -> Reference:
    if isinstance(section, PatientReference) and section.how == "search":
        return Reference(section.target, system=_system(section.system))
    if section.how != "file":
        return Reference(section.target)
    if not (section.path and section.from_ and section.to):
        raise ConfigError(
            f'references.{kind}: how = "file" needs path, from and to',
            "name the file and its two columns",
        )
    path = located(section.path, folder)
    organization = section.organization if isinstance(section, PayerReference) else ""
    return Reference(
        section.target,
        path,
        section.from_,
        section.to,
        organization,
        skip_lines=section.skip_lines,
        comment_prefix=section.comment_prefix,
        blank_lines=section.blank_lines,
    )


def _system(text: str) -> str:
    system = text.strip()
    if not system or "|" in system or not system.isprintable():
        raise ConfigError(
            'references.patient: how = "search" needs system',
            "name the system of the identifiers as Canvas shows it on a Patient, without a |",
        )
    return system
