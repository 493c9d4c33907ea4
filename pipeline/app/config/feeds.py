"""The sections `[[feeds]]`: the files of a feed, and what their columns mean."""

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Final, Literal, Self
from zoneinfo import available_timezones

from pydantic import AfterValidator, Field, field_validator, model_validator

from pipeline.app.config.addresses import Location, located
from pipeline.app.config.names import did_you_mean
from pipeline.job import Section, Share
from pipeline.rows import settings
from pipeline.rows.columns import Reading
from pipeline.rows.crosswalk import Crosswalks
from pipeline.rows.dates import FULL_DATE, Dates
from pipeline.rows.feed import TRAITS, EndOn, Feed, Kind, Missing
from pipeline.rows.money import AmountStyle
from pipeline.rows.shares import Ceiling
from pipeline.rows.sql import compile_condition, compile_value

_SQL_HELP: Final = "must be the name of a column, or { sql = '...' } and nothing else in it"
_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"


class SqlColumn(Section):
    sql: str


def _is_prefix(text: str) -> str:
    if text and (not text.isprintable() or '"' in text):
        raise ValueError('must be the beginning of a line, such as "#", without a quote')
    return text


CommentPrefix = Annotated[str, Field(max_length=16), AfterValidator(_is_prefix)]


class FeedSection(Section):
    name: str = Field(
        pattern=_NAME,
        description="By this name the journal knows the feed: a renamed feed is a new one, and its rows are new rows: `limits.repeats_max` stops such a run. Letters, digits, `_` and `-`, at most 64.",
    )
    kind: Kind = Field(
        description="What its rows become: `eligibility` Coverage, `ledger` PaymentNotice."
    )
    path: Location = Field(
        description="A file, or a glob: then all files that it matches are one feed. .csv .tsv .txt .parquet .xlsx, X12 834 of any name, and .gz or .zst for text; here, or in an object store (`s3://`, `gs://`, `az://`)."
    )
    manifest: Location = Field(
        "",
        description="A file, or a glob, with the sender's control totals: `rows=5000`, `total_usd=12345.67`, as lines or as a JSON object. The files must match it to the row and the cent.",
    )
    expect_by: str = Field(
        "",
        pattern=r"^(([01][0-9]|2[0-3]):[0-5][0-9])?$",
        description='`"03:00"`, in `timezone` or in UTC without one: a file that is not there by then is reported as late (docs/nightly.md, "Stale, short and late files").',
    )
    format: Literal["", "834"] = Field(
        "",
        description="`834`: the files are X12 834 interchanges (005010X220A1; the extra `x12`), and nothing else. Left out: what they are is seen by their names and content, 834 included.",
    )
    delimiter: str | None = Field(
        None,
        description="One ASCII character. Left out: the one of `,` tab `|` `;` under which the mapped columns appear.",
    )
    encoding: str = Field(
        "utf-8",
        description="Of a text file, by Python's name; `windows-1252` for many older exports.",
    )
    final_newline: Literal["require", "any"] = Field(
        "require", description="`any` takes a file whose last line has no end, and so may be torn."
    )
    sheet: str = Field(
        "",
        description="The sheet of a workbook (.xlsx). Left out: its only visible sheet. A hidden sheet is read only if it is named here.",
    )
    skip_lines: int = Field(
        0,
        ge=0,
        le=1000,
        description="The number of lines above the header, such as titles; rows of a workbook.",
    )
    skip_footer: int = Field(
        0,
        ge=0,
        le=1000,
        description="The number of lines after the last row, such as totals; rows of a workbook.",
    )
    comment_prefix: CommentPrefix = Field(
        "",
        description="Lines that begin with this text are skipped, and counted.",
    )
    blank_lines: Literal["reject", "skip"] = Field(
        "reject",
        description="`skip` leaves out lines without content, and counts them. `reject` refuses the file: a blank line may be a sign of damage.",
    )
    null_values: tuple[str, ...] = Field(
        (),
        description='Texts that mean blank, in every column: `["NULL", "N/A"]`. A cell must equal one of them, case included.',
    )
    dates: tuple[str, ...] | dict[str, tuple[str, ...]] = Field(
        (FULL_DATE,),
        description='Formats of days, by the signs of strptime; or a table of them by field: `{ start_on = ["%m/%d/%Y"] }`. A day that two of them read differently is rejected, never guessed.',
    )
    key: tuple[str, ...] = Field(
        (),
        description="The fields that identify a row across runs, in any order. Empty: `patient`, `payer`, `member_id`, `start_on` (where mapped), or `transaction_id`. A ledger's needs `transaction_id` or `posted_on`. Another set of fields makes every row a new one: `limits.repeats_max` stops such a run.",
    )
    repeats: Literal["reject", "count"] = Field(
        "reject",
        description="For a ledger without ids: `count` takes the second equal row for a second payment; `reject` for a duplicate of the first. `count` needs `delivery`, and a `key` with patient, posted_on, amount and (where mapped) claim.",
    )
    delivery: Literal["full", "increment"] | None = Field(
        None,
        description='What the files hold: `full`, all rows of the deliveries before, too; `increment`, new rows only, and then the bytes of a file are part of what its counted rows are. Required with `repeats = "count"`.',
    )
    update: bool = Field(
        default=True,
        description="What becomes of a known coverage whose content changed: written again whole, or (false) rejected as `row|changed`. A payment is never changed.",
    )
    adopt: bool = Field(
        default=True,
        description="Whether Canvas is searched for an unknown coverage before it is created: one search a patient. false is quicker for a first load into an empty Canvas.",
    )
    missing: Missing = Field(
        "ignore",
        description="Coverages of the last complete run that are in no row of today's files: left alone (`ignore`), listed (`report`), ended (`end`), or cancelled. `end` is right for a roster, whose members leave: the coverage gets its last day and stays active. `cancel` says that it was never true: it is hidden in the chart, has no last day, and Canvas may refuse it once a claim is linked to it. A ledger allows `ignore` only.",
    )
    missing_max: Share = Field(
        Ceiling.parse("5%"),
        description="If more of them are gone, nothing is ended or cancelled: a share of the last run's rows, or a count.",
    )
    missing_end_on: EndOn = Field(
        "day_before",
        description='With `missing = "end"`, the last day: the day before the run (`day_before`), the last day of the month of the run (`month_end`), or of the month before (`last_month_end`), in `timezone`, or in UTC without one.',
    )
    amount_sign: Literal["positive", "negative"] = Field(
        "positive",
        description="How a payment is written. With `negative` credits are negative numbers, and a positive one is rejected.",
    )
    decimal_comma: bool = Field(
        default=False,
        description="Amounts are written `1.234,56` instead of `1,234.56`.",
    )
    amount_unit: Literal["dollars", "cents"] = Field(
        "dollars",
        description="`cents`: amounts are whole numbers of cents; one with a decimal point is rejected.",
    )
    timezone: str = Field(
        "",
        description='The time zone of the practice, such as `America/New_York`: instants with a zone become days there. Required if a day field holds instants, and recommended with `missing = "end"`: the day of a run is the day there.',
    )
    open_dates: tuple[str, ...] = Field(
        (),
        description='Further days that mean "no date", as the sender writes them or as YYYY-MM-DD. Built in: an `end_on` in or after 2200, a `start_on` before 1880, and 0000-00-00.',
    )
    where: str = Field(
        "",
        description='A SQL condition (docs/mapping.md, "SQL") over the columns of the file, whose cells are text. Rows that do not meet it are `filtered`, and counted.',
    )
    order_by: tuple[str, ...] = Field(
        (),
        description="Our fields by which a patient's payments are sorted before they go out. Empty: the file's order. Not for eligibility.",
    )
    order_from: Literal["column", "sequence"] = Field(
        "column",
        description="Where the order of a coverage comes from: `column`, its own field; `sequence`, a patient's active coverages are numbered 1, 2, ... in the file's order, medical ones first (docs/mapping.md, \"Order\"). Then `order` is not mapped.",
    )
    columns: dict[str, str | SqlColumn] = Field(
        description='Our field = the sender\'s column, or `{ sql = "..." }` with a SQL expression over its columns (docs/mapping.md, "SQL"). See [fields](#fields).'
    )
    constants: dict[str, str] = Field(
        {}, description="Our field = one value for all rows, in place of a column."
    )
    codes: dict[str, dict[str, str]] = Field(
        {},
        description="Our field, then the sender's spelling = Canvas' code: `[feeds.codes.relationship]`. For relationship, type, status and order.",
    )
    only: dict[str, tuple[str, ...]] = Field(
        {},
        description="Our field = the sender's values that are loaded. Rows with others are `filtered`, and counted.",
    )

    @field_validator("columns", mode="before")
    @classmethod
    def _is_column_or_sql(cls, value: object) -> object:
        for name, column in value.items() if isinstance(value, dict) else ():
            match column:
                case str() | SqlColumn():
                    continue
                case {"sql": str(sql)} if len(column) == 1:
                    _check_sql(name, sql)
                case _:
                    raise ValueError(f"{name} {_SQL_HELP}")
        return value

    @field_validator("where")
    @classmethod
    def _is_condition(cls, value: str) -> str:
        if value:
            compile_condition(value)
        return value

    @field_validator("timezone")
    @classmethod
    def _is_zone(cls, value: str) -> str:
        names = available_timezones() if value else {value}
        if value not in names:
            raise ValueError(
                'must be a name of the IANA time zone database, such as "America/New_York".'
                f"{did_you_mean(value, names)}"
            )
        return value

    @field_validator("delimiter")
    @classmethod
    def _is_one_character(cls, value: str | None) -> str | None:
        if value is not None and (len(value) != 1 or not value.isascii() or value in '"\r\n'):
            raise ValueError('must be one ASCII character, such as "," or "|" or "\\t"')
        return value

    @field_validator("encoding")
    @classmethod
    def _is_known(cls, value: str) -> str:
        try:
            "".encode(value)  # a codec of bytes, such as base64, is refused too
        except (LookupError, UnicodeError):
            raise ValueError('must be an encoding, such as "utf-8" or "windows-1252"') from None
        return value

    @property
    def _changed(self) -> frozenset[str]:
        """Return the names of the settings that differ from their defaults."""
        fields = type(self).model_fields
        return frozenset(
            name for name in self.model_fields_set if getattr(self, name) != fields[name].default
        )

    @property
    def formats(self) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
        """Return the formats of days: of all fields, and of those that have their own."""
        if isinstance(self.dates, dict):
            return (FULL_DATE,), self.dates
        return self.dates, {}

    @property
    def given(self) -> dict[str, str | SqlColumn]:
        """Return our fields that have a column, an expression or a constant."""
        return {**self.columns, **self.constants}

    @property
    def _reading(self) -> Reading:
        """Return how cells are read, as far as the section alone says it."""
        everywhere, by_field = self.formats
        return Reading(
            Dates(everywhere, self.timezone, self.open_dates, by_field),
            Crosswalks(),
            self.codes,
            self.amount_sign,
            amount_style=AmountStyle(self.decimal_comma, self.amount_unit),
        )

    def _check_values(self, given: Collection[str]) -> None:
        everywhere, by_field = self.formats
        for name in by_field:
            if not name.endswith("_on") or name not in given:
                raise ValueError(f"dates.{name}: is no day in columns or constants: remove it")
        named = {f"dates.{name}": formats for name, formats in by_field.items()}
        settings.check_dates({"dates": everywhere, **named}, self.timezone)
        settings.check_texts("null_values", self.null_values)
        settings.check_texts("open_dates", self.open_dates)

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        traits, given = TRAITS[self.kind], self.given
        for table in ("columns", "constants", "codes", "only"):
            for name in getattr(self, table):
                _known_field(name, traits.fields, f"{table}.{name}")
        for name in (*self.key, *self.order_by, *self.only):
            _known_field(name, traits.fields, name)
            if name not in given:
                raise ValueError(
                    f"{name} is used in key, order_by or only, and in neither columns nor constants"
                )
        both = sorted(set(self.columns) & set(self.constants))
        if both:
            raise ValueError(f"{both[0]} is in columns and in constants: keep one")
        for name, values in (
            ("key", self.key),
            ("order_by", self.order_by),
            *((f"only.{name}", values) for name, values in self.only.items()),
        ):
            settings.check_names(name, values)
        self._check_values(given)
        settings.check_effects(self.kind.value, self.missing, self._changed)
        settings.check_path(self.path, self._changed)
        settings.check_format(self.format, self.kind.value, self.path, self._changed)
        if self.order_by and self.kind is Kind.ELIGIBILITY:
            raise ValueError("order_by: a patient's coverages go out by their order; leave it out")
        settings.check_missing(self.kind.value, self.missing, self.final_newline, given)
        settings.check_key(self.kind.value, self.key or traits.key)
        settings.check_repeats(
            self.kind.value,
            self.repeats,
            self.delivery,
            self.missing,
            self.key or traits.key,
            given,
        )
        settings.check_order_from(self.order_from, given)
        settings.check_codes(self.codes, given)
        settings.check_only(self.only, self.constants)
        settings.check_null_values(self.null_values, self.only, self.codes, self.constants)
        settings.check_constants(self.constants, traits.model, self._reading)
        numbered = {"order"} if self.order_from == "sequence" else set[str]()
        missing = [
            name
            for name in (*traits.required, *(self.key or traits.key))
            if name not in given and name not in numbered
        ]
        if missing and (not self.key and self.kind is Kind.ELIGIBILITY) and missing == ["start_on"]:
            return self
        if missing:
            raise ValueError(
                f"columns: {missing[0]} is required for {self.kind.value}, name the sender's column for it"
            )
        return self


def _known_field(name: str, fields: tuple[str, ...], where: str) -> None:
    if name not in fields:
        raise ValueError(
            f"{where}: no such field.{did_you_mean(name, fields)} Fields: {', '.join(fields)}"
        )


def _check_sql(name: str, sql: str) -> None:
    try:
        compile_value(sql)
    except ValueError as error:
        raise ValueError(f"{name}.sql: {error}") from None


def feed_of(section: FeedSection, folder: Path) -> Feed:
    """Return the feed of a section; its relative paths start at `folder`."""
    traits = TRAITS[section.kind]
    key = section.key or tuple(name for name in traits.key if name in section.given)
    return Feed(
        name=section.name,
        kind=section.kind,
        path=str(located(section.path, folder)),
        manifest=str(located(section.manifest, folder)) if section.manifest else "",
        columns={name: each for name, each in section.columns.items() if isinstance(each, str)},
        sql={name: each.sql for name, each in section.columns.items() if not isinstance(each, str)},
        constants=section.constants,
        codes=section.codes,
        only=section.only,
        key=key,
        dates=section.formats[0],
        dates_of=section.formats[1],
        amount_sign=section.amount_sign,
        repeats=section.repeats,
        delivery=section.delivery or "full",
        order_by=section.order_by,
        order_from=section.order_from,
        delimiter=section.delimiter,
        encoding=section.encoding,
        final_newline=section.final_newline,
        format=section.format,
        sheet=section.sheet,
        skip_lines=section.skip_lines,
        skip_footer=section.skip_footer,
        comment_prefix=section.comment_prefix,
        blank_lines=section.blank_lines,
        null_values=section.null_values,
        decimal_comma=section.decimal_comma,
        amount_unit=section.amount_unit,
        timezone=section.timezone,
        open_dates=section.open_dates,
        where=section.where,
        update=section.update,
        adopt=section.adopt,
        missing=section.missing,
        missing_max=section.missing_max,
        missing_end_on=section.missing_end_on,
        expect_by=section.expect_by,
    )
