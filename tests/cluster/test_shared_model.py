"""One rate for all workers, in virtual time: the limiter of each worker against a model of the database.

No machine is too slow for it, so shares of the rate can be asserted. The model is compared with the
database itself in test_shared_limiter.py.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.rate import fullest_second, share_of
from bench.shared import instants
from pipeline.cluster.frame import Slots
from pipeline.cluster.shared_limiter import SharedLimiter, pacing
from tests.proof.virtual import LoopClock, VirtualLoop
from tests.support.shared_rate import Frames, Row, deal

SECONDS = 12.0


class OffClock(LoopClock):
    """A worker's own: it starts anywhere, and runs a little too fast or too slow."""

    def __init__(self, loop: asyncio.AbstractEventLoop, random: Random) -> None:
        super().__init__(loop, 0.0)
        self._off_s, self._pace = random.uniform(-1e4, 1e4), 1 + random.uniform(-5e-5, 5e-5)

    def monotonic(self) -> float:
        return self._off_s + self._pace * super().monotonic()


@dataclass
class Worker:
    """What it took, and what it said to the database."""

    limiter: SharedLimiter
    row: Row
    takers: list["asyncio.Task[None]"] = field(default_factory=list)
    log: list[float] = field(default_factory=list)
    per_s: float = 0.0  # messages

    def kill(self) -> None:
        """It is gone, with the slots in its hand."""
        self.limiter._talking.cancel()
        for taker in self.takers:
            taker.cancel()


class Workers:
    """Workers in virtual time."""

    def __init__(
        self, rate: float, seed: int = 1, took_s: Callable[[Random], float] | None = None
    ) -> None:
        self.random = Random(seed)
        self.frames = Frames(pacing(rate))
        self.rate = rate
        self.all: list[Worker] = []
        self._took_s = took_s or (lambda random: random.uniform(0.0002, 0.002))

    def start(self, count: int, takers: int = 32, takes_s: float = 0.0) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(count):
            clock = OffClock(loop, self.random)
            row = Row(self.frames, clock, self.random, lambda: self._took_s(self.random))
            worker = Worker(SharedLimiter(row, clock), row)
            worker.takers = [
                asyncio.ensure_future(self._take(worker, takes_s)) for _ in range(takers)
            ]
            worker.limiter._talking = asyncio.ensure_future(worker.limiter._talk())
            self.all.append(worker)

    async def _take(self, worker: Worker, takes_s: float) -> None:
        while True:
            await worker.limiter.permit()
            worker.log.append(asyncio.get_running_loop().time())
            await asyncio.sleep(takes_s)

    def run(self, scene: "Callable[[Workers], object]") -> list[float]:
        """Play a scene; the log of all."""
        loop = VirtualLoop(0.0, Random(1), lambda _: None)

        async def play() -> None:
            await scene(self)  # type: ignore[misc]
            for worker in self.all:
                worker.kill()

        loop.run(play())
        log = sorted(at for worker in self.all for at in worker.log)
        assert fullest_second(instants(log)) <= self.rate
        return log

    def share(self, log: list[float]) -> float:
        return share_of(instants(log), int(self.rate))


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("rate", [5, 50, 200, 1000])
def test_workers_share_the_whole_rate_evenly_with_few_messages(rate: int, count: int) -> None:
    async def scene(workers: Workers) -> None:
        workers.start(count)
        await asyncio.sleep(SECONDS)

    workers = Workers(rate)
    log = workers.run(scene)
    assert workers.share(log) >= 0.95
    counts = [sum(at > 2.0 for at in worker.log) for worker in workers.all]
    assert min(counts) >= 0.95 * max(counts) - 2
    assert max(worker.row.messages for worker in workers.all) <= 4 * SECONDS


@pytest.mark.parametrize("rate", [5, 50, 200, 1000])
def test_one_of_four_that_dies_costs_no_more_than_its_slots_of_two_frames(rate: int) -> None:
    async def scene(workers: Workers) -> None:
        workers.start(4)
        await asyncio.sleep(SECONDS / 2)
        workers.all[-1].kill()
        await asyncio.sleep(0.5)
        workers.start(1)
        await asyncio.sleep(SECONDS / 2)

    workers = Workers(rate)
    assert workers.share(workers.run(scene)) >= 0.95


def test_one_that_is_left_alone_has_the_whole_rate() -> None:
    async def scene(workers: Workers) -> None:
        workers.start(4)
        await asyncio.sleep(3.0)
        for worker in workers.all[1:]:
            worker.kill()
        await asyncio.sleep(10.0)

    workers = Workers(200)
    workers.run(scene)
    left = [at for at in workers.all[0].log if at > 4.5]
    assert workers.share(left) >= 0.95


def test_one_that_comes_later_has_its_share_within_a_second() -> None:
    async def scene(workers: Workers) -> None:
        workers.start(1)
        await asyncio.sleep(5.0)
        workers.start(1)
        await asyncio.sleep(5.0)

    workers = Workers(200)
    workers.run(scene)
    after = [len([at for at in worker.log if at > 6.0]) for worker in workers.all]
    assert min(after) >= 0.9 * max(after)


def test_idle_and_slow_workers_leave_the_rate_to_the_others() -> None:
    async def scene(workers: Workers) -> None:
        workers.start(1, takers=8, takes_s=0.0)
        workers.start(2, takers=1, takes_s=0.1)  # each can use ten a second at most
        workers.start(1, takers=1, takes_s=600.0)  # one request, then none
        await asyncio.sleep(SECONDS)

    workers = Workers(200)
    log = workers.run(scene)
    hungry, *slow, idle = (len(worker.log) for worker in workers.all)
    assert workers.share(log) >= 0.9
    assert hungry >= 0.9 * (0.988 * 200 - 2 * 10) * SECONDS
    assert min(slow) >= 5 * SECONDS  # one waits for a slot each time
    assert idle == 1
    assert workers.all[-1].row.messages < 20


@pytest.mark.parametrize("takes_s", [0.005, 0.02, 0.25])
def test_senders_that_wait_for_each_answer_send_few_messages(takes_s: float) -> None:
    """Their number of permits is not known before; each of them would be a message of its own."""

    async def scene(workers: Workers) -> None:
        workers.start(2, takers=4, takes_s=takes_s)
        await asyncio.sleep(SECONDS)

    workers = Workers(2000)
    log = workers.run(scene)
    assert len(log) >= 0.8 * 8 * SECONDS / takes_s / 1.2
    assert max(worker.row.messages for worker in workers.all) <= 4 * SECONDS


def test_a_429_reaches_all_at_once_and_is_reported_four_times_a_second_at_most() -> None:
    halted: list[float] = []

    async def scene(workers: Workers) -> None:
        workers.start(4)
        await asyncio.sleep(5.0)
        before = workers.all[0].row.messages
        for _ in range(100):  # an answer to each request that was on its way
            workers.all[0].limiter.slow_down(1.0)
            await asyncio.sleep(0.005)
        assert workers.all[0].row.messages - before <= 10
        halted.append(asyncio.get_running_loop().time() - 0.5)
        await asyncio.sleep(5.0)

    workers = Workers(200)
    log = workers.run(scene)
    (at_s,) = halted
    assert not [at for at in log if at_s + 0.02 < at < at_s + 1.4]
    after = [at for at in log if at_s + 1.5 < at < at_s + 4.5]
    assert 0.45 * 200 <= len(after) / 3 <= 0.62 * 200


def test_while_the_database_is_slow_the_slots_of_all_are_further_apart() -> None:
    async def scene(workers: Workers) -> None:
        workers.start(3)
        await asyncio.sleep(SECONDS)

    workers = Workers(200, took_s=lambda random: random.choice([0.0005, 0.02, 0.08]))
    assert workers.share(workers.run(scene)) >= 0.7


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    rate=st.sampled_from([0.9, 5, 50, 200]),
    strikes=st.lists(
        st.tuples(
            st.floats(0.0, 1.5), st.sampled_from(["crash", "kill", "start", "slow", "pause"])
        ),
        max_size=12,
    ),
    late=st.sampled_from([0.001, 0.02, 0.4]),
)
def test_never_above_the_rate_whatever_dies(
    seed: int, rate: float, strikes: list[tuple[float, str]], late: float
) -> None:
    async def scene(workers: Workers) -> None:
        workers.start(2, takers=8)
        for wait_s, strike in strikes:
            await asyncio.sleep(wait_s)
            worker = workers.random.choice(workers.all)
            if strike == "crash":
                workers.frames.crash()
            elif strike == "kill":
                worker.kill()
            elif strike == "start":
                workers.start(1, takers=8)
            else:
                (worker.limiter.slow_down if strike == "slow" else worker.limiter.pause)(0.3)
        await asyncio.sleep(2.5)

    def took_s(random: Random) -> float:
        return random.uniform(0.0001, late if random.random() < 0.2 else 0.002)

    workers = Workers(max(rate, 1), seed, took_s)
    workers.frames.pacing = pacing(rate)
    log = workers.run(scene)
    assert all(after - before > 1 / rate for before, after in pairwise(log)) or rate >= 1


@given(counts=st.lists(st.integers(0, 40), min_size=1, max_size=6))
def test_each_slot_of_a_frame_has_one_owner_and_each_owner_has_them_evenly(
    counts: list[int],
) -> None:
    places = [
        [Slots(0.0, 1.0, counts, mine).place(number) for number in range(count)]
        for mine, count in enumerate(counts)
    ]
    assert sorted(place for mine in places for place in mine) == list(range(sum(counts)))
    for mine in filter(None, places):
        gaps = [after - before for before, after in pairwise(mine)]
        assert not gaps or max(gaps) <= sum(counts) / len(mine) + len(counts)


@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    moments=st.lists(st.floats(-5.0, 200.0), max_size=6),
)
def test_slots_that_are_skipped_are_those_before_the_moment(
    counts: list[int], moments: list[float]
) -> None:
    slots = Slots(10.0, 0.5, counts, 0)
    left = [10.0 + 0.5 * Slots(10.0, 0.5, counts, 0).place(number) for number in range(counts[0])]
    for moment_s in moments:
        slots.skip_to(moment_s)
        left = [at for at in left if at >= moment_s]
        assert len(slots) == len(left)
        if left:
            assert slots.peek() == left.pop(0)
            slots.pop()


@given(
    wanted=st.dictionaries(st.text("ab", min_size=1, max_size=4), st.integers(1, 300), min_size=1),
    slots=st.integers(1, 500),
    number=st.integers(0, 10_000),
)
def test_a_frame_is_dealt_out_by_demand_and_no_slot_more(
    wanted: dict[str, float], slots: int, number: int
) -> None:
    counts = deal(wanted, slots, number)
    assert slots - 1 <= sum(counts.values()) <= slots
    least = min(sum(wanted.values()), slots) / len(wanted)
    for holder, count in counts.items():
        assert count >= min(wanted[holder], least) - 1 - 1e-6
