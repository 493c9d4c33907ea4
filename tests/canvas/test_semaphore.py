"""The fair semaphore: never more holders than permits, in order, and no permit lost if a task is cancelled."""

import asyncio

import pytest

from pipeline.canvas.semaphore import FairSemaphore


async def test_waiting_tasks_get_permits_in_order() -> None:
    semaphore, order = FairSemaphore(1), list[int]()

    async def use(number: int) -> None:
        await semaphore.acquire()
        order.append(number)
        await asyncio.sleep(0)
        semaphore.release()

    await asyncio.gather(*(use(number) for number in range(5)))
    assert order == [0, 1, 2, 3, 4]


async def test_at_most_count_tasks_hold_a_permit() -> None:
    semaphore, inside, seen = FairSemaphore(2), set[int](), list[int]()

    async def use(number: int) -> None:
        await semaphore.acquire()
        inside.add(number)
        seen.append(len(inside))
        await asyncio.sleep(0)
        inside.remove(number)
        semaphore.release()

    await asyncio.gather(*(use(number) for number in range(5)))
    assert (len(seen), max(seen)) == (5, 2)


async def test_a_released_permit_goes_to_a_waiting_task() -> None:
    semaphore = FairSemaphore(1)
    await semaphore.acquire()
    waiting = asyncio.ensure_future(semaphore.acquire())
    await asyncio.sleep(0)
    semaphore.release()
    assert not semaphore.try_acquire()
    await waiting


@pytest.mark.parametrize("is_given", [False, True])
async def test_no_permit_is_lost_if_a_waiting_task_is_cancelled(*, is_given: bool) -> None:
    semaphore = FairSemaphore(1)
    await semaphore.acquire()
    waiting = asyncio.ensure_future(semaphore.acquire())
    await asyncio.sleep(0)
    if is_given:
        semaphore.release()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    if not is_given:
        semaphore.release()
    assert semaphore.try_acquire()
    assert not semaphore.try_acquire()
