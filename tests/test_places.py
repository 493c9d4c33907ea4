"""Places: never more taken than there are, by turns, and none lost with whoever gives up."""

import asyncio

import pytest

from pipeline.canvas.places import Places


async def test_who_waits_is_let_in_by_turns() -> None:
    places, order = Places(1), list[int]()

    async def use(number: int) -> None:
        await places.take()
        order.append(number)
        await asyncio.sleep(0)
        places.give_back()

    await asyncio.gather(*(use(number) for number in range(5)))
    assert order == [0, 1, 2, 3, 4]


async def test_as_many_as_there_are_places_are_in_at_a_time() -> None:
    places, inside, seen = Places(2), set[int](), list[int]()

    async def use(number: int) -> None:
        await places.take()
        inside.add(number)
        seen.append(len(inside))
        await asyncio.sleep(0)
        inside.remove(number)
        places.give_back()

    await asyncio.gather(*(use(number) for number in range(5)))
    assert (len(seen), max(seen)) == (5, 2)


async def test_what_is_given_back_goes_past_nobody_who_waits() -> None:
    places = Places(1)
    await places.take()
    waiting = asyncio.ensure_future(places.take())
    await asyncio.sleep(0)
    places.give_back()
    assert not places.take_free()
    await waiting


@pytest.mark.parametrize("is_given", [False, True])
async def test_a_place_is_not_lost_with_one_who_gives_up(*, is_given: bool) -> None:
    places = Places(1)
    await places.take()
    waiting = asyncio.ensure_future(places.take())
    await asyncio.sleep(0)
    if is_given:
        places.give_back()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    if not is_given:
        places.give_back()
    assert places.take_free()
    assert not places.take_free()
