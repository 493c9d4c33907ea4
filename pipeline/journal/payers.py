"""The payers that were seen: which Organization each payer id is (docs/canvas.md, "Coverage")."""

from collections.abc import Iterable
from datetime import datetime

from pipeline.clock import utc_text
from pipeline.journal.audit_log import Event, new_line
from pipeline.journal.journal import Journal
from pipeline.records import PayerEvidence


def learn_payers(
    journal: Journal, run_id: str, evidence: Iterable[PayerEvidence], at: datetime
) -> None:
    """Enter which Organization each payer id is, and what showed it. Known pairs stay as they are.

    A pair of a table of `references.payer` replaces what the table named before.
    """

    def learn() -> None:
        for each in evidence:
            seen = {**each._asdict(), "run_id": run_id, "at": utc_text(at)}
            if not each.key:
                journal.execute("forget_payer", seen)
            if journal.execute("learn_payer", seen).rowcount:
                pair = f"{each.payer_id} {each.organization}"
                line = new_line(
                    utc_text(at),
                    run_id,
                    Event.LEARNED,
                    key=each.key,
                    resource_id=each.resource_id,
                    detail=pair,
                )
                journal.append([line])

    journal.write_now(learn)


def payers_seen(journal: Journal) -> list[tuple[str, str]]:
    """Return all pairs of a payer id and the reference of an Organization that was shown for it."""
    return [(payer_id, organization) for payer_id, organization in journal.rows("payers_seen", {})]
