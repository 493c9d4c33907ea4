"""A real nginx as gateway in front of the local Canvas: whole runs through it."""

import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.commands import run as engine
from pipeline.errors import ConfigError
from pipeline.sandbox import Faults
from tests.support import nginx
from tests.support.certificates import Authority
from tests.support.world import LEDGER_ONLY, MakeWorld, World, patient_key

ROWS = 12
INNER = "fumage-example.internal"  # the name by which the gateway reaches Canvas
FROM_INNER = f"proxy_set_header Host {INNER};"

pytestmark = pytest.mark.skipif(bool(nginx.missing()), reason=nginx.missing() or "-")


def write_payments(world: World, rows: int = ROWS) -> None:
    world.write_ledger([(f"T{n}", patient_key(n), f"{n + 1}.00", "") for n in range(rows)])


def write_coverages(world: World, end: str = "") -> None:
    world.write_eligibility(
        [(patient_key(n), f"M{n}", "self", "60054", "1", "2026-01-01", end) for n in range(ROWS)]
    )


async def run(world: World, canvas: str = "", **settings: Any) -> engine.Result:
    """Run with one request at a time."""
    world.write_config(canvas=canvas, feeds=LEDGER_ONLY, **{"concurrency": 1, **settings})
    return await world.run()


def statuses(result: engine.Result) -> set[str]:
    """The statuses of the answers that the run saw."""
    return set(result.summary["requests"]["by_status"])


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


# Date ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("passes", ["", "proxy_pass_header Date;"])
async def test_updates_pass_whether_the_gateway_replaces_date_or_not(
    make_world: MakeWorld, passes: str
) -> None:
    """By default nginx sends a Date of its own; its clock is an hour behind that of Canvas here."""
    ahead_s = 3600.0
    world = await make_world(clock=lambda: time.time() + ahead_s)
    write_payments(world)
    with nginx.served(world.url, location=passes) as world.url:
        for end in ("", "2026-12-31"):
            write_coverages(world, end)
            world.write_config(quiet_s=0.2)
            result = await world.run()
            ahead_s += 10.0
    assert (result.exit_code, counts(result, "updated")) == (0, ROWS)
    assert len(world.effects) == 3 * ROWS
    assert world.sandbox.account()["requests"]["by"]["PUT /Coverage"]["200"] == ROWS


async def test_an_edit_behind_a_gateway_that_replaces_date_is_a_conflict(
    make_world: MakeWorld,
) -> None:
    ahead_s = 3600.0
    world = await make_world(clock=lambda: time.time() + ahead_s)
    write_payments(world)
    write_coverages(world)
    with nginx.served(world.url) as world.url:
        world.write_config()
        await world.run()
        ahead_s += 10.0
        edited = world.sandbox.resources("Coverage")[0]["id"]
        period = {"start": "2026-01-01", "end": "2026-03-31"}
        world.sandbox.edit_by_hand("Coverage", edited, {"period": period})
        write_coverages(world, "2026-12-31")
        result = await world.run()
    assert (counts(result, "updated"), counts(result, "refused")) == (ROWS - 1, 1)
    shown = world.sandbox.resource("Coverage", edited)
    assert shown is not None
    assert shown["period"] == period


# Timeouts -----------------------------------------------------------------------------------------


async def test_a_timeout_of_the_gateway_leaves_a_row_in_doubt_and_a_search_settles_it(
    make_world: MakeWorld,
) -> None:
    """504 says nothing about the write: Canvas carries it out, and the gateway has given up."""
    world = await make_world(faults=Faults(latency_s=(0.6, 0.6)))
    write_payments(world, 1)
    impatient = f"location @write {{ proxy_pass {world.url}; proxy_read_timeout 300ms; }}"
    writes = "error_page 418 = @write; if ($request_method = POST) { return 418; }"
    with nginx.served(world.url, server=impatient, location=writes) as world.url:
        result = await run(world, quiet_s=1.0)
    assert (result.exit_code, counts(result, "created"), len(world.effects)) == (0, 1, 1)
    assert result.summary["recovered"]["found"] == 1
    assert "504" in statuses(result)


# Connections --------------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 8])
async def test_a_limit_of_requests_a_connection_leaves_no_row_in_doubt(
    make_world: MakeWorld, concurrency: int
) -> None:
    world = await make_world(patients=200)
    write_payments(world, 200)
    with nginx.served(world.url, server="keepalive_requests 7;") as world.url:
        result = await run(world, concurrency=concurrency)
    assert (result.exit_code, counts(result, "created"), len(world.effects)) == (0, 200, 200)
    assert result.summary["recovered"]["found"] == 0
    assert world.sandbox.account()["requests"]["by"]["POST /PaymentNotice"] == {"201": 200}


async def test_a_gateway_that_buffers_nothing_changes_nothing(make_world: MakeWorld) -> None:
    world = await make_world()
    write_payments(world)
    unbuffered = "proxy_buffering off; proxy_request_buffering off;"
    with nginx.served(world.url, location=unbuffered) as world.url:
        result = await run(world)
    assert (result.exit_code, counts(result, "created"), len(world.effects)) == (0, ROWS, ROWS)


# TLS ----------------------------------------------------------------------------------------------


async def test_a_gateway_with_a_certificate_of_your_own_authority(
    make_world: MakeWorld, tmp_path: Path
) -> None:
    world = await make_world()
    write_payments(world)
    authority = Authority(tmp_path)
    with nginx.served(world.url, certificate=authority.pem()) as world.url:
        refused = await run(world)
        assert refused.exit_code == 1
        assert "canvas.ca_file" in refused.summary["failure"]
        assert world.effects == []
        result = await run(world, canvas=f'ca_file = "{authority.path}"')
    assert (result.exit_code, counts(result, "created"), len(world.effects)) == (0, ROWS, ROWS)
