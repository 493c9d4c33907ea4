"""Read the configuration and the environment, and make one `Job` of them."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.app import logs
from pipeline.app.config.arguments import input_of
from pipeline.app.config.canvas import canvas_of, objects_of
from pipeline.app.config.feeds import feed_of
from pipeline.app.config.file import File, parse_file, read_file
from pipeline.app.config.mapping_tests import mapping_tests_of
from pipeline.app.config.names import did_you_mean
from pipeline.app.config.notice import recipients_of
from pipeline.app.config.references import references_of
from pipeline.app.config.rewrite import check_rewrite
from pipeline.app.config.secrets import require_readable
from pipeline.app.config.undecided import undecided_in
from pipeline.commands.mapping_tests import Suite
from pipeline.errors import ConfigError
from pipeline.job import EngineSettings, Job
from pipeline.journal.store import Database
from pipeline.reading.manifest import Expected
from pipeline.rows.feed import TRAITS
from pipeline.system.environment import variables
from pipeline.version import VERSION


def load(
    path: str | Path,
    *,
    environment: Mapping[str, str] | None = None,
    inputs: Mapping[str, object] | None = None,
    only_feeds: tuple[str, ...] = (),
    expected: Mapping[str, Expected] | None = None,
    overrides: Mapping[str, Any] | None = None,
    accept_repeats: int | None = None,
    rewrite: str | None = None,
) -> Job:
    """Read the configuration.

    Args:
        path: The configuration file.
        environment: Used in place of the environment of the process.
        inputs: For a feed by its name, another file or a polars frame.
        only_feeds: The feeds to load; empty for all.
        expected: The sender's control totals by feed.
        overrides: Keys of sections to replace (`{"canvas": {"base_url": ...}}`), for the demo.
        accept_repeats: Up to how many rows may equal a write of an earlier run.
        rewrite: A SQL condition over our fields: unchanged coverages that meet it are written again.

    Raises:
        ConfigError: It names the key, what is allowed, and what to do.
    """
    path = Path(path)
    content = read_file(path)
    _require_decided(path, content)
    return _job(
        path,
        content,
        environment=environment,
        inputs=inputs,
        only_feeds=only_feeds,
        expected=expected,
        overrides=overrides,
        accept_repeats=accept_repeats,
        rewrite=rewrite,
    )


def _require_decided(path: Path, content: bytes) -> None:
    """Raise ConfigError if a value is still to be decided: what would be sent is not known yet."""
    lines = [f"line {each.line}: {each.what}" for each in undecided_in(content) if each.is_value]
    if lines:
        what = "1 setting is" if len(lines) == 1 else f"{len(lines)} settings are"
        raise ConfigError(
            "\n  ".join([f"{path.name}: {what} still to be decided", *lines]),
            f"give each of them a value in place of DECIDE; canvas-ingest check {path.name} lists all that is left",
        )


def _job(
    path: Path,
    content: bytes,
    *,
    environment: Mapping[str, str] | None = None,
    inputs: Mapping[str, object] | None = None,
    only_feeds: tuple[str, ...] = (),
    expected: Mapping[str, Expected] | None = None,
    overrides: Mapping[str, Any] | None = None,
    accept_repeats: int | None = None,
    rewrite: str | None = None,
    to_check: bool = False,
) -> Job:
    """Make the job of a configuration; arguments as for `load`, and `to_check` as for `parse_file`."""
    inputs, expected = inputs or {}, expected or {}
    file = parse_file(path, content, overrides or {}, to_check=to_check)
    folder = path.resolve().parent
    known = variables() if environment is None else environment
    recipients_of(file.notify, known)  # so that an error in them is reported now
    _check_feeds(file, path, (*only_feeds, *inputs, *expected))
    _check_totals(file, expected)
    sections = [section for section in file.feeds if not only_feeds or section.name in only_feeds]
    if rewrite is not None:
        check_rewrite(rewrite, sections)
    return Job(
        feeds=tuple(feed_of(section, folder) for section in sections),
        contract=file.canvas.contract,
        canvas=canvas_of(file, folder, known),
        upload=file.upload,
        limits=file.limits,
        state_dir=folder / file.state.dir,
        database=Database(file.state.url, file.state.lease_s) if file.state.url else None,
        report_dir=folder / file.report.dir,
        config_sha256=hashlib.sha256(content).hexdigest(),
        version=VERSION,
        references=references_of(file.references, folder),
        inputs={name: input_of(name, value) for name, value in inputs.items()},
        expected=expected,
        accept_repeats=accept_repeats,
        rewrite=rewrite or "",
        objects=objects_of(known),
        name=path.stem,
        metrics=folder / file.report.metrics if file.report.metrics else None,
        retention_days=file.retention.days,
        again=partial(_load_again, path.resolve(), only_feeds=only_feeds, overrides=overrides),
        engine=_with_paths(file.engine, folder),
        undecided=undecided_in(content),
    )


def load_to_check(
    path: str | Path,
    *,
    environment: Mapping[str, str] | None = None,
    inputs: Mapping[str, object] | None = None,
    only_feeds: tuple[str, ...] = (),
) -> tuple[Job, ConfigError | None]:
    """Read the configuration for a check.

    Returns:
        The job, and None; if only the secrets cannot be read, the job without them, and the error. Settings
        that are still to be decided are left out, and listed as `undecided`.

    Raises:
        ConfigError: As `load`, for all but the secrets.
    """
    path = Path(path)
    make = partial(_job, path, read_file(path), inputs=inputs, only_feeds=only_feeds, to_check=True)
    try:
        return make(environment=environment), None
    except ConfigError as error:
        return make(environment={}), error


def load_tests(path: str | Path, *, only_feeds: tuple[str, ...] = ()) -> Suite:
    """Read the `[[tests]]` of a configuration, without the environment, and without files that it names.

    Raises:
        ConfigError: As `load`; or there is no test.
    """
    path = Path(path)
    content = read_file(path)
    _require_decided(path, content)
    file = parse_file(path, content, {})
    _check_feeds(file, path, only_feeds)
    feeds = [
        feed_of(section, path.resolve().parent)
        for section in file.feeds
        if not only_feeds or section.name in only_feeds
    ]
    tests = mapping_tests_of(file.tests, feeds, content)
    if not tests:
        of = f" of feed {' or '.join(only_feeds)}" if only_feeds else ""
        raise ConfigError(
            f"there are no [[tests]]{of} in {path.name}, so nothing was tested",
            'add one: feed, row, and what it is to become (docs/mapping.md, "Tests")',
        )
    return Suite(
        tuple(feeds),
        tests,
        file.canvas.contract,
        references_of(file.references, path.resolve().parent),
        file.limits.amount_cents_max,
    )


def _load_again(path: Path, **options: Any) -> Job:
    """Load the same job in another process: a worker, which has not configured its log yet."""
    logs.configure_unless_configured()
    return load(path, **options)


def _check_feeds(file: File, path: Path, used: Sequence[str]) -> None:
    """Raise ConfigError for the name of a feed that is not in the file."""
    names = [section.name for section in file.feeds]
    for name in used:
        if name not in names:
            raise ConfigError(
                f"there is no feed {name} in {path.name}.{did_you_mean(name, names)}",
                f"feeds: {', '.join(names)}",
            )


def _check_totals(file: File, expected: Mapping[str, Expected]) -> None:
    """Raise ConfigError for an expected amount of a feed that has no amounts."""
    for section in file.feeds:
        totals = expected.get(section.name, Expected())
        if totals.total_cents is not None and not TRAITS[section.kind].has_money:
            raise ConfigError(
                f"--expect {section.name}:total_usd: an {section.kind.value} feed has no amounts",
                f"write {section.name}:rows=5000",
            )


def _with_paths(section: EngineSettings, folder: Path) -> EngineSettings:
    """Return the section with the whole paths of its files, which are checked if they are used."""
    names = ("ca_file", "cert_file", "key_file")
    paths = {name: folder / text for name in names if (text := getattr(section, name))}
    for name, path in paths.items():
        if section.kind == "dask":
            require_readable(f"engine.{name}", path)
    return section.model_copy(update={name: str(path) for name, path in paths.items()})
