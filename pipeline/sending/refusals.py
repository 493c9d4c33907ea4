"""Detect refusals that are not about single rows, from several in a row. Pure.

A single 403 is about one row. Refusals of three patients in a row, without an answer of another kind
between them, make a series:

| answer | the series means | then |
|---|---|---|
| 403 with an OperationOutcome, before a write of the type succeeded | a scope is missing | stop |
| the same, after one succeeded | the token may have lost its rights | one new token, then stop |
| 403 that is not from the FHIR API | a device in between blocks every request | stop |
| 404 or 405 that is not from the FHIR API | a gateway lost its route | stop |

Rows of a series are not refused: they stay pending, including those before the third one. A blocked row
stays in doubt, because an answer that is not from Canvas does not prove what Canvas did.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from pipeline.canvas.client import Permit
from pipeline.canvas.judge import Judgement, Refusal, blocked
from pipeline.errors import Forbidden, IngestError, WrongHost
from pipeline.records import Intent, Verdict

_IN_A_ROW_MAX: Final = 3
_FROM_CANVAS: Final = frozenset({Verdict.ACCEPTED, Verdict.STALE, Verdict.REFUSED})


@dataclass(slots=True)
class _Series:
    refusal: Refusal
    began_at: datetime  # when the first of these writes was sent
    of: set[str] = field(default_factory=set)  # the patients or keys of these writes
    refused: list[Intent] = field(default_factory=list)  # by answers before the last one
    replaced: str = field(default="", repr=False)  # the token that was replaced because of them


class Refusals:
    """The series of one sender, by resource type."""

    def __init__(self, host: str, renew: Callable[[str], bool]) -> None:
        """Watch the answers of `host`. `renew` replaces a token, or returns False if there is only one."""
        self._host = host
        self._renew = renew
        self._series: dict[str, _Series] = {}
        self.not_refused: list[Intent] = []  # judged refused too early: to be pending again

    def weigh(
        self, intent: Intent, permit: Permit, judgement: Judgement, *, proven: bool
    ) -> Judgement:
        """Return the meaning of an answer, given the answers before it.

        Args:
            intent: The write.
            permit: The permit that it was sent with.
            judgement: The meaning of the answer by itself.
            proven: A write of this type has succeeded.
        """
        refusal = judgement.refusal
        if refusal is None:
            if judgement.verdict in _FROM_CANVAS:
                self._end(intent.resource_type, permit)
            return judgement
        series = self._series.get(intent.resource_type)
        if series is None or series.refusal is not refusal:
            series = self._series[intent.resource_type] = _Series(refusal, permit.granted_at)
        if permit.token == series.replaced:
            return _not_applied(judgement)  # it was sent before there was a new token
        series.of.add(intent.lane if proven else intent.key)
        if len(series.of) >= _IN_A_ROW_MAX:
            return self._act(series, intent.resource_type, permit, judgement, proven=proven)
        if judgement.verdict is Verdict.REFUSED:
            series.refused.append(intent)
        return judgement

    def _end(self, resource_type: str, permit: Permit) -> None:
        """End a series, unless this answer is to a write from before it."""
        series = self._series.get(resource_type)
        if series is not None and permit.granted_at > series.began_at:
            del self._series[resource_type]

    def _act(
        self,
        series: _Series,
        resource_type: str,
        permit: Permit,
        judgement: Judgement,
        *,
        proven: bool,
    ) -> Judgement:
        self.not_refused += series.refused
        series.refused = []
        can_renew = series.refusal is Refusal.FORBIDDEN and proven and not series.replaced
        if can_renew and self._renew(permit.token):
            series.replaced = permit.token
            series.of.clear()
            return _not_applied(judgement)
        what = f"{_IN_A_ROW_MAX} patients in a row" if proven else f"the first {_IN_A_ROW_MAX} rows"
        return _not_applied(judgement)._replace(stop=self._stop(resource_type, series, what))

    def _stop(self, resource_type: str, series: _Series, what: str) -> IngestError:
        match series.refusal:
            case Refusal.FORBIDDEN:
                also = " with a new token too" if series.replaced else ""
                return Forbidden(
                    f"{self._host} refuses every {resource_type} with 403{also} ({what})",
                    f"give the application the scope {resource_type}.write, then run again",
                )
            case Refusal.BLOCKED:
                return blocked(self._host, resource_type, what)
            case Refusal.NO_ENDPOINT:
                return WrongHost(
                    f"{self._host} answers every write of {resource_type} with 404 or 405 that is not from the FHIR API ({what})",
                    "check canvas.base_url and the gateway in front of Canvas, then run again",
                )


def _not_applied(judgement: Judgement) -> Judgement:
    """Return the judgement for a row that is sent again; a blocked one stays in doubt."""
    if judgement.verdict is not Verdict.REFUSED:
        return judgement
    return judgement._replace(verdict=Verdict.NOT_APPLIED)
