"""Find the files of all feeds and the tables of references, and inspect them before a row is read."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import polars as pl

from pipeline.errors import InputError, PlanError
from pipeline.fhir.coverage import organizations_of
from pipeline.fhir.datatypes import is_id
from pipeline.files import FILE_MODE, displayed
from pipeline.job import Reference, References
from pipeline.journal import runs
from pipeline.journal.payers import learn_payers, payers_seen
from pipeline.planning.deliveries import expected_text
from pipeline.planning.expect import expect
from pipeline.planning.interchanges import check_interchanges
from pipeline.planning.keys import keep_order
from pipeline.planning.state import Build
from pipeline.reading.bounds import FILES_MAX
from pipeline.reading.inspect import inspect
from pipeline.reading.manifest import Expected
from pipeline.reading.piped import ORIGIN, STANDARD_INPUT, copy_standard_input
from pipeline.reading.read import read
from pipeline.reading.source import Source
from pipeline.records import (
    PayerEvidence,
)
from pipeline.rows.crosswalk import Crosswalk, Crosswalks, table_of
from pipeline.rows.feed import Feed, Kind


def open_files(build: Build) -> None:
    """Read manifests, the tables of references and the files, and check that they can be loaded.

    Sets `expected`, `crosswalks`, `organizations` and `sources`.

    Raises:
        InputError: A file is missing or unfit.
    """
    build.progress.stage = "reading"
    _keep_keys(build)
    job = build.job
    build.expected = {
        feed.name: _expected(build, feed) for feed in job.feeds if feed.name not in job.inputs
    }
    build.crosswalks = _crosswalks(build, job.references)
    build.organizations = organizations_of(payers_seen(build.journal))
    build.sources = {feed.name: _inspected(build, feed) for feed in job.feeds}
    for feed in job.feeds:
        _refuse_equal_files(feed, build.sources[feed.name])
        before = runs.interchanges_of(build.journal, feed.name)
        build.notices += check_interchanges(feed, build.sources[feed.name], before)


def _keep_keys(build: Build) -> None:
    """Order the fields of each key as the journal has hashed them. Sets `job`, `feeds`, `coverages` and `former_keys`."""
    feeds, build.former_keys = keep_order(build.job.feeds, build.journal)
    build.job = replace(build.job, feeds=feeds)
    build.feeds = {feed.name: feed for feed in feeds}
    build.coverages = [feed for feed in feeds if feed.traits.resource_type == "Coverage"]


def _expected(build: Build, feed: Feed) -> Expected:
    found = build.found(feed.manifest, f"the manifest of feed {feed.name}")
    return expect(feed, [path for path, _ in found])


def _inspected(build: Build, feed: Feed) -> list[Source]:
    given, late = build.job.inputs.get(feed.name), ""
    if isinstance(given, pl.DataFrame):
        path = build.writer.folder / f"input-{feed.name}.parquet"
        given.write_parquet(path)
        path.chmod(FILE_MODE)
        found = [(path, displayed(path))]
    elif given == STANDARD_INPUT:
        found = [(copy_standard_input(build.new_folder()), ORIGIN)]
    elif isinstance(given, Path):
        found = [(given, displayed(given))]
    else:
        late = "" if given else expected_text(feed, build.now)
        found = build.found(given or feed.path, f"feed {feed.name}{late}")
    if not found:
        raise InputError(
            f"no file is there for feed {feed.name}{late}",
            "check that the sender delivered, and the feed's path",
            file=feed.path,
        )
    if len(found) > FILES_MAX:
        raise InputError(
            f"{len(found):,} files for feed {feed.name}, at most {FILES_MAX:,} are read",
            "make the path match fewer, and load the others by another run",
            file=feed.path,
        )
    return [
        replace(inspect(path, feed, build.new_folder()), origin=origin) for path, origin in found
    ]


def _refuse_equal_files(feed: Feed, sources: Sequence[Source]) -> None:
    """Raise InputError for two files of one content if their equal rows would count as payments."""
    first: dict[str, Source] = {}
    for source in sources if feed.counts_over_files else ():
        other = first.setdefault(source.sha256, source)
        if other is not source:
            raise InputError(
                f"the file has the same content as {other.name}, and each of its rows would be a second payment",
                f"remove one of the two, or make the path of feed {feed.name} match one",
                file=source.name,
            )


def _crosswalks(build: Build, references: References) -> Crosswalks:
    """Read the tables of references, which may have changed since the configuration was loaded."""
    return Crosswalks(
        patient=_crosswalk(build, "patient", references.patient),
        payer=_crosswalk(build, "payer", references.payer),
        claim=_crosswalk(build, "claim", references.claim),
        by_row=references.subscriber_by_row,
    )


def _crosswalk(build: Build, kind: str, reference: Reference) -> Crosswalk:
    if reference.path is None:
        return Crosswalk(reference.target)
    columns = {"from": reference.source_column, "to": reference.target_column}
    if reference.organization_column:
        columns["organization"] = reference.organization_column
    name, path = f"references.{kind}", reference.path
    table = Feed(
        name,
        Kind.LEDGER,
        str(path),
        columns,
        final_newline="any",
        skip_lines=reference.skip_lines,
        comment_prefix=reference.comment_prefix,
        blank_lines=reference.blank_lines,
    )
    if isinstance(path, str):
        ((path, _),) = build.found(path, name)
    source = inspect(path, table, build.new_folder())
    lines = [
        line
        for batch in read(source)
        for line in zip(*(batch.frame[column] for column in columns.values()), strict=True)
    ]
    if reference.organization_column:
        _learn(build, ((line[1], line[2]) for line in lines))
    return Crosswalk(reference.target, table_of(line[:2] for line in lines))


def _learn(build: Build, pairs: Iterable[tuple[str | None, str | None]]) -> None:
    """Enter the Organization of each payer id, if a table names both."""
    named = {
        payer_id: organization.removeprefix("Organization/")
        for payer_id, organization in table_of(pairs).items()
        if organization is not None
    }
    evidence = [
        PayerEvidence(payer_id, f"Organization/{organization}")
        for payer_id, organization in named.items()
        if is_id(organization)
    ]
    learn_payers(build.journal, build.run_id, evidence, build.now)


def files_before(build: Build, feed: Feed) -> int | None:
    """Return the number of files that a feed had in its last complete run, as far as it is known.

    The same files again are compared with the run before: running again after it changes nothing.
    """
    run_ids = runs.last_complete(build.journal, feed.name)
    if not run_ids:
        return None
    with suppress(PlanError, KeyError):
        last = build.earlier.open(run_ids[0]).meta["feeds"][feed.name]
        contents = sorted(file["sha256"] for file in last["files"])
        if contents == sorted(source.sha256 for source in build.sources[feed.name]):
            before: int | None = last["files_before"]
            return before
    return runs.files_of(build.journal, run_ids[0], feed.name)
