"""The command `verify`: what the journal holds as written, read back patient by patient."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any, Final

import orjson
import polars as pl

from pipeline.clock import SystemClock, utc_text
from pipeline.cluster.permits import permits_of
from pipeline.commands.run import Result, new_run, open_journal
from pipeline.errors import IngestError, SearchFailed, Stopped
from pipeline.fhir.coverage import Organizations, organizations_of
from pipeline.files import FOLDER_MODE, replacing, write_private
from pipeline.job import Job, Progress
from pipeline.journal import doubts, lookups, runs
from pipeline.journal.journal import Journal
from pipeline.journal.payers import learn_payers, payers_seen
from pipeline.journal.runs import Run
from pipeline.planning.ranks import after_all
from pipeline.records import Intent, Interaction, PayerEvidence, State, usd
from pipeline.reporting.page import page
from pipeline.reporting.summary import requests_summary
from pipeline.reporting.verify import (
    Outcome,
    Verified,
    Written,
    compare_unknown_payers,
    unread,
    verify,
)
from pipeline.sending.session import Session, open_session

_PATIENTS_AT_ONCE: Final = 200  # whose plans are looked up together
_KEYS_SHOWN: Final = 5  # of the missing ones, in the summary
_DIFFERING: Final = (Outcome.DIFFERS, Outcome.MISSING, Outcome.STRAY)
_SCHEMA: Final[dict[str, Any]] = {
    "run_id": pl.String,
    "feed": pl.String,
    "key": pl.String,
    "resource_type": pl.String,
    "resource_id": pl.String,
    "patient": pl.String,
    "outcome": pl.String,
    "elements": pl.String,
    "amount_usd": pl.Decimal(18, 2),
}


async def read_back(
    job: Job,
    *,
    sample: int | None = None,
    since: str | None = None,
    progress: Progress | None = None,
    stop: asyncio.Event | None = None,
) -> Result:
    """Read back what the journal holds as written, and compare it.

    Writes `verification.parquet`, `summary.json` and `report.html`.

    Args:
        job: The configuration.
        sample: The number of patients to read, drawn at random; None for all.
        since: An ISO day: only writes settled on that day or later.
        progress: Updated while resources are read.
        stop: Ends the reading early once it is set.

    Raises:
        JournalError: The journal cannot be used.
        CanvasError: Canvas cannot be used.
    """
    job.canvas.credentials.require()
    clock, random = SystemClock(), Random()  # noqa: S311 - jitter, run ids and the sample
    progress, stop = progress or Progress(), stop or asyncio.Event()
    with open_journal(job) as journal:
        begun = new_run("verify", clock, random)
        runs.start_run(journal, begun)
        progress.run_id = begun.run_id
        progress.stage = "verifying"
        lines: list[Verified] = []
        organizations = organizations_of(payers_seen(journal))
        failure: IngestError | None = None
        gone = doubts.gone_ids(journal)
        written = _sampled(lookups.confirmed(journal, since), sample, random)
        progress.to_send = written.height
        try:
            async with open_session(
                job, begun.run_id, journal, clock, random, stop, permits_of(job, clock)
            ) as session:
                for part in _parts(session, written):
                    groups = [_verified(session, group, gone, organizations) for group in part]
                    for found in await asyncio.gather(*groups):
                        lines += found
                        progress.sent += sum(bool(line.key) for line in found)
        except Stopped:
            pass  # what was read so far is reported
        except IngestError as error:
            failure = error
        lines, learned = compare_unknown_payers(lines)
        _learn(journal, begun.run_id, learned, clock)
        ended = replace(begun, finished_at=utc_text(clock.now()))
        return _finish(job, journal, ended, lines, written, failure, is_stopped=stop.is_set())


def _sampled(written: pl.DataFrame, sample: int | None, random: Random) -> pl.DataFrame:
    """Return all writes, or those of `sample` patients."""
    if sample is None:
        return written
    patients = written["lane"].unique().sort()
    chosen = patients.sample(min(sample, patients.len()), seed=random.getrandbits(32))
    return written.filter(pl.col("lane").is_in(chosen.implode()))


def _parts(session: Session, written: pl.DataFrame) -> Iterator[list[list[Written]]]:
    """Yield some patients at a time, each with its writes of one type and what was sent."""
    groups: list[list[Written]] = []
    for group in written.partition_by("resource_type", "lane", maintain_order=True):
        groups.append([Written(*line) for line in group.iter_rows()])
        if len(groups) == _PATIENTS_AT_ONCE:
            yield _with_content(session, groups)
            groups = []
    if groups:
        yield _with_content(session, groups)


def _with_content(session: Session, groups: Sequence[list[Written]]) -> list[list[Written]]:
    intents = [_intent(each) for group in groups for each in group]
    rows = session.plans.rows(intents)
    lanes = {group[0].lane for group in groups if group[0].resource_type == "Coverage"}
    moved = _moved(lookups.ranks(session.journal, pl.Series("lane", list(lanes), dtype=pl.String)))
    return [
        [
            replace(
                each,
                sent=orjson.loads(rows[each.key].body) if each.key in rows else None,
                moved_to=moved.get(each.key),
            )
            for each in group
        ]
        for group in groups
    ]


def _moved(ranks: pl.DataFrame) -> dict[str, int]:
    """Return the orders to which later writes of ours moved coverages, by key.

    The last confirmed writes of each patient's active coverages are replayed in turn.
    """
    moved: dict[str, int] = {}
    for _, lines in ranks.drop_nulls("rank").group_by("lane"):
        held = dict(lines.select("key", "rank").iter_rows())
        in_turn = sorted(lines.iter_rows(named=True), key=_written_at)
        orders = after_all((line["key"], line["rank"]) for line in in_turn)
        moved |= {key: order for key, order in orders.items() if order != held[key]}
    return moved


def _written_at(line: Mapping[str, Any]) -> float:
    """Return when Canvas took the last confirmed write of a coverage: `sent_at`, unless a later one failed."""
    is_last = line["state"] == State.CONFIRMED.value and line["sent_at"]
    at = line["sent_at"] if is_last else line["held_at"]
    return datetime.fromisoformat(at).timestamp() if at else 0.0


def _intent(write: Written) -> Intent:
    return Intent(
        write.key,
        write.feed,
        write.resource_type,
        Interaction.CREATE,
        write.lane,
        b"",
        write.fingerprint,
        write.amount_cents,
        write.claim,
        "",
        write.run_id,
    )


def _learn(
    journal: Journal, run_id: str, learned: Mapping[str, Verified], clock: SystemClock
) -> None:
    evidence = [
        PayerEvidence(payer_id, line.payer[1], line.key, line.resource_id)
        for payer_id, line in learned.items()
        if line.payer is not None
    ]
    learn_payers(journal, run_id, evidence, clock.now())


async def _verified(
    session: Session, written: list[Written], gone: set[str], organizations: Organizations
) -> list[Verified]:
    first, client = written[0], session.client
    try:
        found = await client.persistently(
            lambda: client.of_patient(first.resource_type, first.lane), first.resource_type
        )
    except SearchFailed:
        return unread(written)
    ids = [str(each.get("id")) for each in found]
    known = await doubts.assigned_ids(session.journal, first.resource_type, first.lane, ids)
    ours = {each.resource_id for each in written}
    # One that was declared gone and is shown again is a stray.
    return verify(written, found, known - ours - gone, organizations)


# Reporting ----------------------------------------------------------------------------------------


def _finish(
    job: Job,
    journal: Journal,
    run: Run,
    lines: Sequence[Verified],
    written: pl.DataFrame,
    failure: IngestError | None,
    *,
    is_stopped: bool,
) -> Result:
    totals = _totals(lines, written)
    code = 130 if is_stopped else 0
    if failure is not None or totals["unread"]:
        code = 1 if failure is None else failure.exit_code
    elif not code and any(totals[outcome.value] for outcome in _DIFFERING):
        code = 3
    failed = str(failure) if failure else ""
    if not failed and totals["unread"]:
        failed = (
            f"{totals['unread']:,} could not be read: Canvas' searches fail\n  run verify again"
        )
    exchanges = runs.exchanges(journal, run.run_id)
    summary = {
        "shape": 1,
        "run_id": run.run_id,
        "command": "verify",
        "started_at": run.started_at,
        "finished_at": run.finished_at,
        "version": job.version,
        "exit_code": code,
        "failure": failed,
        "config_sha256": job.config_sha256,
        "verification": totals,
        "requests": requests_summary(exchanges),
    }
    folder = job.report_dir / run.run_id
    folder.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
    _write_lines(folder / "verification.parquet", run.run_id, lines)
    write_private(folder / "summary.json", orjson.dumps(summary, option=orjson.OPT_INDENT_2))
    write_private(folder / "report.html", page(summary, exchanges, folder).encode())
    runs.finish_run(journal, replace(run, exit_code=code, failure=failed))
    return Result(run.run_id, code, summary, folder, failure)


def _totals(lines: Sequence[Verified], written: pl.DataFrame) -> dict[str, Any]:
    """Count by outcome and differing element, and add up the money: ours against Canvas' own answers."""
    counts = Counter(line.outcome for line in lines)
    differing = (line.elements for line in lines if line.outcome is not Outcome.MOVED)
    elements = Counter(name for names in differing for name in names)
    shown = sum(line.cents or 0 for line in lines if line.key)
    strays = sum(line.cents or 0 for line in lines if not line.key)
    keys = {line.key for line in lines}
    read = written.filter(pl.col("key").is_in(list(keys)))
    return {
        "written": written.height,
        "patients": written["lane"].n_unique(),
        **{outcome.value: counts[outcome] for outcome in Outcome},
        "elements": dict(elements.most_common()),
        "missing_keys": [line.key for line in lines if line.outcome is Outcome.MISSING][
            :_KEYS_SHOWN
        ],
        "payers_unknown": sum(line.payer is not None for line in lines),
        "contents_unknown": sum(line.is_bare for line in lines),
        "usd_journal": usd(int(read["amount_cents"].sum())),
        "usd_canvas": usd(shown),
        "usd_strays": usd(strays),
    }


def _write_lines(path: Path, run_id: str, lines: Sequence[Verified]) -> None:
    rows = [
        (
            run_id,
            line.feed,
            line.key,
            line.resource_type,
            line.resource_id,
            line.lane,
            line.outcome.value,
            "; ".join(line.elements),
            None if line.cents is None else usd(line.cents),
        )
        for line in lines
    ]
    frame = pl.DataFrame(rows, schema={**_SCHEMA, "amount_usd": pl.String}, orient="row")
    with replacing(path) as part:
        frame.cast({"amount_usd": pl.Decimal(18, 2)}).write_parquet(part)
