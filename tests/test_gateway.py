"""A real nginx as gateway in front of the local Canvas: whole runs through it."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from pipeline import engine
from pipeline.errors import ConfigError
from pipeline.sandbox import Faults
from tests import nginx
from tests.world import LEDGER_ONLY, World, patient_key

MakeWorld = Callable[..., Awaitable[World]]
ROWS = 12
INNER = "fumage-example.internal"  # the name by which the gateway reaches Canvas
FROM_INNER = f"proxy_set_header Host {INNER};"

pytestmark = pytest.mark.skipif(bool(nginx.missing()), reason=nginx.missing() or "-")


def write_payments(world: World, rows: int = ROWS) -> None:
    world.write_ledger([(f"T{n}", patient_key(n), f"{n + 1}.00", "") for n in range(rows)])


async def run(world: World, canvas: str = "", **settings: Any) -> engine.Result:
    """Run with one request at a time."""
    world.write_config(canvas=canvas, feeds=LEDGER_ONLY, **{"concurrency": 1, **settings})
    return await world.run()


def counts(result: engine.Result, disposition: str) -> int:
    return sum(feed["dispositions"][disposition] for feed in result.summary["feeds"])


# Location -----------------------------------------------------------------------------------------


async def test_a_location_on_a_host_that_is_not_listed_stops_the_run_after_three_rows(
    make_world: MakeWorld,
) -> None:
    world = await make_world()
    world.sandbox.set_faults(Faults(location="https"))
    write_payments(world)
    with nginx.served(world.url, location=f"proxy_redirect off; {FROM_INNER}") as world.url:
        result = await run(world)
        assert (result.exit_code, counts(result, "in_doubt"), len(world.effects)) == (1, 3, 3)
        assert f"the host {INNER}" in result.summary["failure"]
        assert "canvas.location_hosts" in result.summary["failure"]
        result = await run(world, canvas=f'location_hosts = ["{INNER}"]')
        assert (result.exit_code, counts(result, "in_doubt"), len(world.effects)) == (0, 0, ROWS)


async def test_a_gateway_that_rewrites_location_needs_no_setting(make_world: MakeWorld) -> None:
    world = await make_world()
    world.sandbox.set_faults(Faults(location="https"))
    write_payments(world)
    rewritten = f"{FROM_INNER} proxy_redirect https://{INNER}/ /;"
    with nginx.served(world.url, location=rewritten) as world.url:
        result = await run(world)
    assert (result.exit_code, counts(result, "created"), len(world.effects)) == (0, ROWS, ROWS)


@pytest.mark.parametrize(
    "host",
    ["https://a.example", "A.example", "a.example:443", "a.example/", "", "*.example", "[::1]"],
)
async def test_location_hosts_are_plain_host_names(make_world: MakeWorld, host: str) -> None:
    world = await make_world()
    world.write_config(canvas=f'location_hosts = ["{host}"]', feeds=LEDGER_ONLY)
    with pytest.raises(ConfigError, match=r"canvas\.location_hosts.*host names in lower case"):
        world.job()
