"""The sections `[[tests]]`: synthetic rows of a sender, and what a run is to make of them."""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Final, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from pipeline.app.config.names import did_you_mean
from pipeline.app.config.undecided import without_texts
from pipeline.commands.mapping_tests import Expectation, MappingTest
from pipeline.errors import ConfigError
from pipeline.job import Section
from pipeline.rows.feed import Feed
from pipeline.rows.texts import columns_read

_RULE: Final = re.compile(r"[a-z_]+\|[a-z_]+")
_HEADING: Final = re.compile(r"^[ \t]*\[\[[ \t]*tests[ \t]*\]\]", re.MULTILINE)


def _is_row(value: Any) -> Any:
    """Refuse numbers and days: a test is to have what the file has, spelling included."""
    if isinstance(value, dict):
        for column, cell in value.items():
            if not isinstance(cell, str):
                raise ValueError(  # noqa: TRY004 - pydantic collects it
                    f'{column}: must be the text of a cell in quotes, such as "12.50"'
                )
    return value


class ExpectationSection(Section):
    resource: dict[str, Any] | None = Field(
        None,
        description='A part of the resource that the row becomes: each element that is named here must be in it with this value. What is left out is not compared. The ids of references are the sender\'s own values (docs/mapping.md, "Tests").',
    )
    rule: str = Field(
        "",
        description="A rule that rejects the row, such as `amount|range`; it may break others too. Rules that need other rows, the journal or Canvas are not judged here.",
    )
    filtered: bool = Field(
        default=False, description="`true`: the row is left out by `where` or `only`."
    )

    @field_validator("rule")
    @classmethod
    def _is_rule(cls, value: str) -> str:
        if value and not _RULE.fullmatch(value):
            raise ValueError("must be a rule as the reports name it, such as amount|range")
        return value

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if [self.resource is not None, bool(self.rule), self.filtered].count(True) != 1:
            raise ValueError(
                'write one of resource = { ... }, rule = "amount|range", filtered = true'
            )
        return self


class MappingTestSection(Section):
    feed: str = Field(description="The name of the feed whose mapping reads the row.")
    name: str = Field(
        "", max_length=100, description="What is tested, in a few words; shown if the test fails."
    )
    row: Annotated[dict[str, str], BeforeValidator(_is_row)] = Field(
        description="A synthetic row: cells by the sender's column names, as texts. A column that is not named is blank."
    )
    expect: ExpectationSection = Field(
        description="What a run makes of the row: one of these keys."
    )


def mapping_tests_of(
    sections: Sequence[MappingTestSection], feeds: Sequence[Feed], content: bytes
) -> tuple[MappingTest, ...]:
    """Return the tests of the given feeds.

    Args:
        sections: All sections of the file.
        feeds: The feeds to test.
        content: The file, for the lines of the sections.

    Raises:
        ConfigError: A row has a column that looks like a misspelt one of its feed.
    """
    by_name = {feed.name: feed for feed in feeds}
    lines = _lines(content, len(sections))
    found = []
    for number, (section, line) in enumerate(zip(sections, lines, strict=True), 1):
        feed = by_name.get(section.feed)
        if feed is not None:
            _check_columns(section.row, feed, f"tests[{number}].row")
            expect = section.expect
            expected = Expectation(expect.resource, expect.rule, is_filtered=expect.filtered)
            found.append(MappingTest(number, line, section.name, feed.name, section.row, expected))
    return tuple(found)


def _lines(content: bytes, count: int) -> list[int]:
    """Return the line of each section; 0 if the file writes them otherwise than as `[[tests]]`."""
    text = without_texts(content.decode(errors="replace"))
    lines = [text.count("\n", 0, match.start()) + 1 for match in _HEADING.finditer(text)]
    return lines if len(lines) == count else [0] * count


def _check_columns(row: dict[str, str], feed: Feed, where: str) -> None:
    """Refuse a column that the feed does not read if one that it reads is missing and has a similar name.

    A whole row of a file may be pasted, so other columns are allowed.
    """
    read = {column for _, column in columns_read(feed)}
    missing = sorted(read - row.keys())
    for column in row.keys() - read:
        if near := did_you_mean(column, missing):
            raise ConfigError(
                f"{where}: feed {feed.name} reads no column {column}.{near}",
                "write the column as the header of the file has it, or leave it out",
            )
