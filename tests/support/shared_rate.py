"""The statement of cluster/shared_rate.py again, in Python: for a virtual clock, and to compare answers with."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from math import floor
from random import Random
from typing import Any

from pipeline.clock import Clock
from pipeline.records import Reserved


def deal(wanted: dict[str, float], slots: int, number: int) -> dict[str, int]:
    """Divide the slots of a frame: by demand, nobody less than the others unless it wants less."""
    total = sum(wanted.values())
    if total <= slots:
        parts = {holder: each * slots / total for holder, each in wanted.items()}
    else:
        parts, left = {}, float(slots)
        for rank, (holder, each) in enumerate(sorted(wanted.items(), key=lambda item: item[1])):
            parts[holder] = min(each, left / (len(wanted) - rank))
            left -= parts[holder]
    turn, upto, counts = number * 618034 % 1_000_000 / 1e6, 0.0, {}
    for holder in sorted(parts):
        after = min(float(slots), upto + parts[holder])
        counts[holder] = floor(after + turn) - floor(upto + turn)
        upto = after
    return counts


@dataclass
class Taker:
    """A row of the table."""

    taken_s: float
    width_s: float
    asked_in: int
    wanted: int


@dataclass
class Frames:
    """The database. It reserves for one worker at a time, at a moment of its clock."""

    pacing: dict[str, float]
    number: int = 0
    first_s: float = 0.0
    interval_s: float = 0.0
    tat_s: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)
    made_under_cut_s: float = -1.0
    is_restarted: bool = False
    takers: dict[str, Taker] = field(default_factory=dict)
    share: float = 1.0
    share_s: float = 0.0
    cut_s: float = 0.0
    blocked_until_s: float = 0.0
    rows: "list[Row]" = field(default_factory=list)

    def crash(self) -> None:
        """Forget all that was committed without waiting for the disk: unlogged tables are emptied."""
        self.number, self.tat_s, self.counts, self.takers = 0, 0.0, {}, {}
        self.is_restarted = True

    def slow_down(self, now_s: float, pause_s: float) -> None:
        """Halve the rate, as `Share` does, and hint all."""
        self.blocked_until_s = max(self.blocked_until_s, now_s + pause_s)
        if now_s - self.cut_s >= self.pacing["cut_pause_s"]:
            self.share = max(self._share(now_s) / 2, self.pacing["share_min"])
            self.share_s = self.cut_s = now_s
        for row in self.rows:
            row.hinted()

    def reserve(
        self, now_s: float, holder: str, wanted: int, width_s: float
    ) -> tuple[float, float, list[int], int, float]:
        """Return first slot, interval, counts, place of the holder, and when to ask again."""
        pacing, asking = self.pacing, self._asking(now_s)
        asking[holder] = Taker(now_s, width_s, self.number, wanted)
        spacing_s = (1 + pacing["late_s"] + max(each.width_s for each in asking.values())) / (
            pacing["used"] * pacing["rate_per_s"] * self._share(now_s)
        )
        due_s = max(self.blocked_until_s, self.tat_s)
        if self.is_restarted:
            due_s = max(due_s, now_s + pacing["ahead_s"] + pacing["frame_s"] + spacing_s)
        if self.is_restarted or self.made_under_cut_s != self.cut_s:
            self.counts = {}
        is_first = holder not in self.takers or self.takers[holder].asked_in != self.number
        self.is_restarted, self.tat_s = False, due_s
        if wanted and due_s <= now_s + pacing["ahead_s"]:
            self._make(now_s, due_s, spacing_s, width_s, asking)
            is_first = True
        self.takers[holder] = Taker(now_s, width_s, self.number, wanted)
        has_some = is_first and wanted and self.counts.get(holder)
        return (
            self.first_s,
            self.interval_s,
            [self.counts[each] for each in sorted(self.counts)],
            sorted(self.counts).index(holder) if has_some else -1,
            self.tat_s - pacing["ahead_s"],
        )

    def _make(
        self, now_s: float, due_s: float, spacing_s: float, width_s: float, asking: dict[str, Taker]
    ) -> None:
        pacing = self.pacing
        slots = max(1, floor(pacing["frame_s"] / spacing_s))
        self.counts = deal(
            {holder: taker.wanted for holder, taker in asking.items() if taker.wanted},
            slots,
            self.number,
        )
        self.number += 1
        self.first_s = max(due_s, now_s + min(pacing["reach_s"] + width_s, pacing["ahead_s"]))
        self.interval_s, self.made_under_cut_s = spacing_s, self.cut_s
        self.tat_s = self.first_s + slots * spacing_s

    def _asking(self, now_s: float) -> dict[str, Taker]:
        since_s = now_s - 2 * (
            self.pacing["ahead_s"] + max(self.pacing["frame_s"], self.interval_s)
        )
        return {
            holder: taker
            for holder, taker in self.takers.items()
            if taker.asked_in == self.number and taker.taken_s > since_s
        }

    def _share(self, now_s: float) -> float:
        return min(1.0, self.share + self.pacing["growth"] * (now_s - self.share_s))


class Row:
    """What a worker has of it: `took_s` is how long a message takes, each way."""

    def __init__(
        self, frames: Frames, clock: Clock, random: Random, took_s: Callable[[], float]
    ) -> None:
        self.hinted: Callable[[], None] = lambda: None
        self.messages = 0
        self._frames, self._clock, self._took_s = frames, clock, took_s
        self._holder = f"{random.getrandbits(64):016x}"
        frames.rows.append(self)

    async def look(self) -> Reserved:
        return await self._answer(lambda _: (0.0, 0.0, (), -1, 0.0))

    async def reserve(self, wanted: int, width_s: float) -> Reserved:
        return await self._answer(
            lambda now_s: self._frames.reserve(now_s, self._holder, wanted, width_s)
        )

    async def slow_down(self, pause_s: float) -> None:
        self.messages += 1
        await asyncio.sleep(self._took_s())
        self._frames.slow_down(asyncio.get_running_loop().time(), pause_s)
        await asyncio.sleep(self._took_s())

    async def close(self) -> None:
        self._frames.rows.remove(self)

    async def _answer(self, asked: Callable[[float], tuple[Any, ...]]) -> Reserved:
        self.messages += 1
        asked_s = self._clock.monotonic()
        await asyncio.sleep(self._took_s())
        now_s = asyncio.get_running_loop().time()
        first_s, interval_s, counts, mine, again_s = asked(now_s)
        blocked_s, cut_s = self._frames.blocked_until_s, self._frames.cut_s
        await asyncio.sleep(self._took_s())
        return Reserved(
            asked_s=asked_s,
            answered_s=self._clock.monotonic(),
            now_s=now_s,
            started_s=1.0,
            first_s=first_s,
            interval_s=interval_s,
            counts=counts,
            mine=mine,
            again_s=again_s,
            blocked_until_s=blocked_s,
            cut_s=cut_s,
        )
