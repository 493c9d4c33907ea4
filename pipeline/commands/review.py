"""The command `review`: writes in doubt with what Canvas shows of them, after a person's decisions."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Final, NamedTuple

import orjson
import polars as pl

from pipeline.clock import SystemClock, utc_text
from pipeline.cluster.permits import permits_of
from pipeline.commands.decisions import Decided, Decider, Decisions, has_resource, only_one
from pipeline.commands.run import new_run, open_journal
from pipeline.errors import ConfigError, IngestError
from pipeline.fhir.coverage import member_ids, payer_id_of
from pipeline.fhir.datatypes import is_id
from pipeline.job import Job
from pipeline.journal import doubts, lookups, runs
from pipeline.journal.journal import Journal
from pipeline.planning.earlier import PlannedRow
from pipeline.records import Doubt, Finding, Interaction, Settlement, State
from pipeline.sending.session import Session, open_session

_DONE: Final = 0
_REFUSED: Final = 3  # a decision was not carried out
_LEFT: Final = 4
_MEMBER_ID_SHOWN: Final = 4  # enough to find one among a patient's coverages


class Now(NamedTuple):
    """The row of the newest plan whose amount is another one than that of the write in doubt."""

    row: str
    amount_cents: int | None
    run_id: str


@dataclass(frozen=True, slots=True)
class Case:
    """A write in doubt with the evidence. `finding` None: Canvas was not asked."""

    doubt: Doubt
    row: PlannedRow | None
    sent_at: str | None
    finding: Finding | None
    now: Now | None = None


@dataclass(frozen=True, slots=True)
class Review:
    """The writes in doubt after what was decided. `unasked`: why Canvas was not asked, if it was not."""

    exit_code: int
    cases: list[Case]
    decided: list[Decided]
    unasked: str = ""


async def review(
    job: Job, decisions: Decisions | None = None, *, stop: asyncio.Event | None = None
) -> Review:
    """Carry out decisions, then list what is in doubt with what Canvas shows of it.

    Raises:
        ConfigError: A key is not in doubt.
        JournalError: The journal cannot be used.
        CanvasError: Canvas cannot be asked.
    """
    decisions = decisions or Decisions()
    clock, random = SystemClock(), Random()  # noqa: S311 - jitter and run ids, no secrets
    with open_journal(job) as journal:
        begun = new_run("review", clock, random)
        runs.start_run(journal, begun)
        left, decided, cases, unasked = 1, list[Decided](), list[Case](), ""
        failure = ""
        try:
            _require_decidable(journal, decisions)
            is_deciding = bool(decisions.keys or decisions.resend_absent or decisions.confirm_found)
            if is_deciding or doubts.all_doubts(journal):
                async with open_session(
                    job,
                    begun.run_id,
                    journal,
                    clock,
                    random,
                    stop or asyncio.Event(),
                    permits_of(job, clock),
                ) as session:
                    if is_deciding:
                        job.canvas.credentials.require()
                        decided = await Decider(session, decisions).decide()
                    cases, unasked = await _cases(session)
            is_refused = any(each.what == "refused" for each in decided)
            left = _LEFT if doubts.all_doubts(journal) else _REFUSED if is_refused else _DONE
        except IngestError as error:
            left, failure = error.exit_code, str(error)
            raise
        finally:
            ended = replace(
                begun, finished_at=utc_text(clock.now()), exit_code=left, failure=failure
            )
            runs.finish_run(journal, ended)
    return Review(left, cases, decided, unasked)


def _require_decidable(journal: Journal, decisions: Decisions) -> None:
    """Raise ConfigError if a decision cannot be one, before any of them is carried out."""
    twice = next((key for key in decisions.keys if decisions.keys.count(key) > 1), None)
    if twice is not None:
        raise ConfigError(f"{twice} is decided on twice", "decide on each KEY once")
    wrong = next((each for each in decisions.confirm.values() if not is_id(each)), None)
    if wrong is not None:
        raise ConfigError(
            "--confirm KEY=ID: that is no id of a resource", "1 to 64 of A-Z a-z 0-9 - ."
        )
    in_doubt = {doubt.intent.key for doubt in doubts.all_doubts(journal)}
    found = []
    for key in decisions.keys:
        state = lookups.states_of(journal, [key]).get(key)
        is_resent = key in decisions.resend and has_resource(journal, key)
        if key not in in_doubt and state is not State.ABANDONED and not is_resent:
            line = f"line {decisions.lines[key]}: " if key in decisions.lines else ""
            is_state = f"it is {state.value}" if state else "the journal does not know it"
            found.append(f"{line}{key} is not in doubt: {is_state}")
    if found:
        raise ConfigError(
            "\n  ".join(found),
            "name a KEY that `canvas-ingest review CONFIG` lists; or with --resend one that "
            "`canvas-ingest verify CONFIG` reports as missing",
        )


async def _cases(session: Session) -> tuple[list[Case], str]:
    """Return what is in doubt now; and why Canvas was not asked, if it was not."""
    in_doubt = doubts.all_doubts(session.journal)
    rows = session.plans.rows(doubt.intent for doubt in in_doubt)
    sent = _sent_at(session, [doubt.intent.key for doubt in in_doubt])
    now = _rows_now(session, in_doubt)
    findings: Sequence[Finding | None] = [None] * len(in_doubt)
    unasked = ""
    try:
        session.job.canvas.credentials.require()
        findings = await asyncio.gather(*map(session.recovery.look, in_doubt))
    except IngestError as error:
        unasked = str(error)
    return [
        Case(doubt, rows.get(key), sent.get(key), finding, now.get(key))
        for doubt, finding in zip(in_doubt, findings, strict=True)
        for key in [doubt.intent.key]
    ], unasked


def _rows_now(session: Session, doubts: Sequence[Doubt]) -> dict[str, Now]:
    """Return the rows of payments in doubt that have another amount by now."""
    found: dict[str, Now] = {}
    for feed in {each.intent.feed for each in doubts}:
        cents = {
            each.intent.key: each.intent.amount_cents
            for each in doubts
            if each.intent.feed == feed and each.intent.amount_cents is not None
        }
        rows = session.plans.rows_now(feed, list(cents)) if cents else {}
        found |= {
            key: Now(str(row), now, run_id)
            for key, (row, now, run_id) in rows.items()
            if now != cents[key]
        }
    return found


def _sent_at(session: Session, keys: Sequence[str]) -> dict[str, str | None]:
    frame = lookups.writes_of(session.journal, pl.Series("key", list(keys), dtype=pl.String))
    return dict(frame.select("key", "sent_at").iter_rows())


def _where(row: PlannedRow | None) -> str | None:
    if row is None:
        return None
    return str(row.row) if row.row is not None else "a row that is gone from its file"


def _evidence(case: Case) -> str:
    """Return what Canvas shows of a write, in a word by which writes can be decided on together.

    "one": a resource that can be no other row's. "none": nothing like it. "several": more than one, or one that was
    there before. "update": of a resource that is known. "unknown": Canvas could not be searched, or was not asked.
    """
    finding = case.finding
    if case.doubt.intent.interaction is Interaction.UPDATE:
        return "update"
    if finding is None or finding.settlement is Settlement.UNKNOWN:
        return "unknown"
    if only_one(finding) is not None:
        return "one"
    return "several" if finding.candidates else "none"


def _coverage(case: Case) -> dict[str, str | None] | None:
    """Return how a person recognizes a coverage: its payer, the last characters of its member id, and its start."""
    body = case.row.body if case.row else b""
    if case.doubt.intent.resource_type != "Coverage" or not body:
        return None
    resource = orjson.loads(body)
    payor = resource["payor"][0]
    return {
        "payer": payor.get("display") or payer_id_of(resource) or payor.get("reference"),
        "member_id_end": next(iter(member_ids(resource)), "")[-_MEMBER_ID_SHOWN:],
        "start": resource.get("period", {}).get("start"),
    }


def as_json(reviewed: Review) -> dict[str, Any]:
    """Return a review as JSON values."""
    return {
        "shape": 1,
        "exit_code": reviewed.exit_code,
        "decided": [
            {"key": each.key, "what": each.what, "message": each.message}
            for each in reviewed.decided
        ],
        "unasked": reviewed.unasked,
        "in_doubt": [
            {
                "key": case.doubt.intent.key,
                "feed": case.doubt.intent.feed,
                "row": _where(case.row),
                "source_id": case.row.source_id if case.row else None,
                "interaction": case.doubt.intent.interaction.value,
                "resource_type": case.doubt.intent.resource_type,
                "resource_id": case.doubt.intent.resource_id,
                "patient": case.doubt.intent.lane,
                "amount_cents": case.doubt.intent.amount_cents,
                "coverage": _coverage(case),
                "evidence": _evidence(case),
                "now": None if case.now is None else case.now._asdict(),
                "run_id": case.doubt.intent.run_id,
                "sent_at": case.sent_at,
                "rule": case.doubt.rule,
                "message": case.doubt.message,
                "finding": None
                if case.finding is None
                else {
                    "settlement": case.finding.settlement.value,
                    "rule": case.finding.rule,
                    "message": case.finding.message,
                    "candidates": [
                        {
                            "id": each.resource_id,
                            "created": utc_text(each.created_at) if each.created_at else None,
                            "when": each.when,
                        }
                        for each in case.finding.candidates
                    ],
                },
            }
            for case in reviewed.cases
        ],
    }
