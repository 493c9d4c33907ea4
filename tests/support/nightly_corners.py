"""Nightly configurations that several tests need."""

from tests.support.nightly import FEED, Clock, Row, write
from tests.support.world import MakeWorld, World

CANCEL = 'missing = "cancel"'


def write_to(world: World, name: str, rows: list[Row]) -> None:
    write(world, rows)
    (world.folder / "eligibility.csv").rename(world.folder / name)


async def two_feeds(make_world: MakeWorld, one: list[Row], two: list[Row], more: str = "") -> World:
    """Return a Canvas that took the rows of two feeds, which share patients, last night."""
    world = await make_world(patients=40, clock=(clock := Clock()))
    feeds = (FEED.format(more=more).replace("eligibility", name, 1) for name in ("one", "two"))
    paths = zip(feeds, ("one.csv", "two.csv"), strict=True)
    world.write_config(feeds="".join(feed.replace("eligibility.csv", to) for feed, to in paths))
    write_to(world, "one.csv", one)
    write_to(world, "two.csv", two)
    assert (await world.run()).exit_code == 0
    clock.next_day()
    return world
