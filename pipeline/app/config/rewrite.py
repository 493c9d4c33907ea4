"""The condition of `run --rewrite`, checked before anything is read."""

from collections.abc import Sequence
from typing import Final

from pipeline.app.config.feeds import FeedSection
from pipeline.app.config.names import did_you_mean
from pipeline.errors import ConfigError
from pipeline.rows.feed import TRAITS, Kind
from pipeline.rows.sql import compile_condition

_HELP: Final = (
    "write a SQL condition over our fields, such as --rewrite \"payer = '60054'\"; order and group are words of SQL, "
    "and need double quotes; for all coverages: member_id is not null"
)


def check_rewrite(condition: str, sections: Sequence[FeedSection]) -> None:
    """Raise ConfigError if the condition cannot be used, or no feed of the run can be written again."""
    coverages = [section for section in sections if section.kind is Kind.ELIGIBILITY]
    if not coverages:
        raise ConfigError(
            "--rewrite writes coverages again, and this run has no eligibility feed",
            "leave it out, or name an eligibility feed with --feed; a payment is never written again",
        )
    for section in coverages:
        if not section.update:
            raise ConfigError(
                f"--rewrite: feed {section.name} has update = false, and what it loaded is never written again",
                f"set update = true in {section.name}, or take other feeds only, with --feed",
            )
    try:
        columns = compile_condition(condition).columns
    except ValueError as error:
        raise ConfigError(f"--rewrite: {error}", _HELP) from None
    fields = TRAITS[Kind.ELIGIBILITY].fields
    for column in columns:
        if column not in fields:
            raise ConfigError(
                f"--rewrite: {_unknown(column, coverages, fields)}", f"fields: {', '.join(fields)}"
            )


def _unknown(column: str, sections: Sequence[FeedSection], fields: Sequence[str]) -> str:
    """Return what is wrong with a name. One that is like no name may be a value, and is not repeated."""
    for section in sections:
        for field, mapped in section.columns.items():
            if mapped == column:
                return f'there is no field "{column}". It is the column that {section.name} maps to {field}: write {field}.'
    meant = did_you_mean(column, fields)
    if meant:
        return f'there is no field "{column}".{meant}'
    return "a name in it is no field. Texts are written in single quotes; double quotes make a name of them."
