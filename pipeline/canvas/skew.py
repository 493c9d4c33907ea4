"""The lead of the clock that stamps resources over the clock of `Date`.

A gateway may replace the `Date` of Canvas' answers with its own (nginx does). Canvas compares
If-Unmodified-Since, and stamps `PaymentNotice.created`, by its own clock. A payment that was created in a
run shows how far the two were apart in that run: its stamp was made between the request and the answer
that has the `Date` (docs/operations.md, "Gateways in front of Canvas").
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import NamedTuple, Self

from pipeline.canvas.client import Client
from pipeline.errors import CanvasError, Stopped
from pipeline.fhir.payment_notice import paid
from pipeline.records import Stamped

_TICK = timedelta(seconds=1)  # a Date is cut to the second, and so is a condition
_NONE = timedelta(0)
_ENOUGH = 2  # one alone may be a stray


class Skew(NamedTuple):
    """The lead of the stamps over `Date`, at least and at most. Negative: they are behind."""

    least: timedelta
    most: timedelta

    @classmethod
    def of(cls, payment: Stamped, created: datetime) -> Self:
        """Return what one payment shows that Canvas stamped with `created`."""
        ahead = created - payment.dated
        return cls(ahead - _TICK, ahead + (payment.settled_at - payment.sent_at))

    @classmethod
    def agreed(cls, shown: Iterable["Skew"]) -> "Skew | None":
        """Return what several payments show together; None if there are none, or they contradict each other."""
        each = list(shown)
        if not each:
            return None
        both = cls(max(skew.least for skew in each), min(skew.most for skew in each))
        return both if both.least <= both.most else None

    @property
    def is_none(self) -> bool:
        """Return whether the two may well be one clock."""
        return self.least <= _NONE <= self.most

    def stamped_by(self, dated: datetime, *, latest: bool = False) -> datetime:
        """Return the whole second of the stamps for one of `Date`.

        By default never later than it was, so that no edit after it passes; the write itself may then be
        stamped a second later. With `latest` it is never earlier.
        """
        if self.is_none:
            return dated
        ahead = self.most if latest else self.least
        return dated + timedelta(seconds=-(-ahead // _TICK))

    def stamps(self, dated: datetime | None, *, earliest: bool) -> datetime | None:
        """Return an instant of the clock of `Date` by the clock of the stamps, at the earliest or latest."""
        if dated is None or self.is_none:
            return dated
        return dated + (self.least if earliest else self.most)


async def measure(client: Client, payments: Sequence[Stamped]) -> Skew | None:
    """Read some payments of one run; return the skew that they show, None if they show none.

    A read that fails shows nothing. A few are enough if they show no skew; all of them measure one.
    """
    shown: list[Skew] = []
    for payment in payments:
        with suppress(CanvasError, Stopped):
            resource, _ = await client.look("PaymentNotice", payment.resource_id)
            notice = None if resource is None else paid(resource)
            if notice is not None and notice.created_at is not None:
                shown.append(Skew.of(payment, notice.created_at))
        if len(shown) == _ENOUGH and all(each.is_none for each in shown):
            break
    return Skew.agreed(shown)
