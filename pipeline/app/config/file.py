"""The whole file: its sections, and how it is read and checked."""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

from pydantic import Field, ValidationError, model_validator

from pipeline.app.config.feeds import FeedSection
from pipeline.app.config.mapping_tests import MappingTestSection
from pipeline.app.config.names import did_you_mean
from pipeline.app.config.references import ReferencesSection
from pipeline.app.config.sections import (
    CanvasSection,
    NotifySection,
    ReportSection,
    RetentionSection,
    StateSection,
)
from pipeline.app.config.undecided import without_undecided
from pipeline.errors import ConfigError
from pipeline.job import EngineSettings, LimitSettings, Section, UploadSettings
from pipeline.rows import settings
from pipeline.system.ownership import require_safe_config

# Keys of earlier versions, and what to do about them.
_REMOVED: Final = {
    "canvas.transport": "this key was removed: aiohttp carries all requests. Delete the line",
}
_OF_LISTS: Final = {"feeds": FeedSection, "tests": MappingTestSection}


class File(Section):
    """The whole configuration file."""

    canvas: CanvasSection = Field(
        description="Which Canvas. Secrets never stand here: `CANVAS_CLIENT_ID` and `CANVAS_CLIENT_SECRET` (or `CANVAS_PRIVATE_KEY`), or `CANVAS_TOKEN`, come from the environment, or from a file of mode 0600 that the same name with `_FILE` at its end names."
    )
    upload: UploadSettings = Field(UploadSettings(), description="How fast, and how hard to try.")
    limits: LimitSettings = Field(
        LimitSettings(),
        description="What a run may not exceed. Above one of them (but `amount_usd_max`) nothing is written, and the exit code is 1. Only `repeats_max` has a default.",
    )
    state: StateSection = Field(
        StateSection.model_validate({}),
        description="Where the journal and the plans are. Keep it, and back it up: without it a payment could be posted twice. A local disk, for a network file system is refused; but where `url` names a database, `dir` holds no journal, and is to be a folder that all machines share.",
    )
    report: ReportSection = Field(
        ReportSection(dir="reports", metrics=""),
        description="Where each run leaves its folder; `latest` points at the last one.",
    )
    engine: EngineSettings = Field(
        EngineSettings(),
        description="Who does the work of planning: one process, which is the default, or many.",
    )
    retention: RetentionSection = Field(
        RetentionSection.model_validate({}),
        description="How long what holds personal data is kept.",
    )
    notify: NotifySection = Field(
        NotifySection.model_validate({}),
        description="Who is notified how a `run` or a `verify` ended.",
    )
    references: ReferencesSection = Field(
        ReferencesSection.model_validate({}),
        description="How the sender's patients, payers and claims become Canvas' ids.",
    )
    feeds: tuple[FeedSection, ...] = Field(
        min_length=1,
        description="What is loaded, in this order: a patient's coverages before that patient's payments, if they stand so.",
    )
    tests: tuple[MappingTestSection, ...] = Field(
        (),
        description='Rows and what becomes of them, for `canvas-ingest test CONFIG` (docs/mapping.md, "Tests"). Synthetic rows only: this file is not protected, and `test` shows their values. Other commands do not read them.',
    )

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [feed.name for feed in self.feeds]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"feeds: two feeds are named {twice}")
        return self

    @model_validator(mode="after")
    def _tests_feeds(self) -> Self:
        names = [feed.name for feed in self.feeds]
        for number, test in enumerate(self.tests, 1):
            if test.feed not in names:
                near = did_you_mean(test.feed, names)
                raise ValueError(f"tests[{number}].feed: there is no feed {test.feed}.{near}")
        return self

    @model_validator(mode="after")
    def _names_subscribers(self) -> Self:
        if self.references.subscriber.how == "row":
            for feed in self.feeds:
                settings.check_subscribers(feed.kind.value, feed.name, feed.given)
        return self


def read_file(path: Path) -> bytes:
    """Return the content of a configuration file.

    Raises:
        ConfigError: It cannot be read, or another user may change it.
    """
    try:
        with path.open("rb") as file:
            require_safe_config(path, os.fstat(file.fileno()))
            return file.read()
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}", "name the configuration file, a .toml"
        ) from None


def tables_of(path: Path, content: bytes) -> dict[str, Any]:
    """Return the tables of a TOML file, unchecked. Raises ConfigError if it is no TOML."""
    try:
        return tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path.name} is no valid TOML: {error}", "correct that line") from None


def parse_file(
    path: Path, content: bytes, overrides: Mapping[str, Any], *, to_check: bool = False
) -> File:
    """Return the checked content of a configuration file.

    Args:
        path: The file, for messages.
        content: Its bytes.
        overrides: Keys to replace, by section.
        to_check: Leave out settings that are still to be decided, so that the others can be checked.

    Raises:
        ConfigError: It names every key that is wrong.
    """
    tables = tables_of(path, content)
    if to_check:
        tables = without_undecided(tables)
    for name, keys in overrides.items():
        tables[name] = {**tables.get(name, {}), **keys}
    try:
        return File.model_validate(tables)
    except ValidationError as error:
        raise ConfigError(
            f"{path.name}: {_explained(error)}", "see the commented configs/nightly.toml"
        ) from None


def _explained(error: ValidationError) -> str:
    """Return everything that is wrong, one line each."""
    lines = []
    details = error.errors(include_input=False, include_context=False, include_url=False)
    for detail in details:
        where = _where(detail["loc"])
        if where == "feeds" and detail["type"] in {"too_short", "missing"}:
            # A feed that is wrong is not counted, and has an error of its own.
            if not any(each["loc"][0] == "feeds" for each in details if len(each["loc"]) > 1):
                lines.append("feeds: at least one [[feeds]] is needed")
        elif detail["type"] == "extra_forbidden":
            gone = _REMOVED.get(where)
            near = did_you_mean(str(detail["loc"][-1]), _siblings(detail["loc"]))
            lines.append(f"{where}: {gone}" if gone else f"{where}: no such key.{near}")
        else:
            lines.append(
                f"{where}: {detail['msg'].removeprefix('Value error, ')}"
                if where
                else detail["msg"]
            )
    return "\n  ".join(dict.fromkeys(lines))


def _where(location: tuple[int | str, ...]) -> str:
    text = ""
    for part in location:
        text += f"[{part + 1}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _siblings(location: tuple[int | str, ...]) -> list[str]:
    """Return the keys that are allowed beside an unknown one."""
    model: Any = File
    for part in location[:-1]:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        model = _OF_LISTS.get(str(part), annotation)
    return [field.alias or name for name, field in model.model_fields.items()]
