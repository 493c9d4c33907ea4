"""What the benchmarks tell is what they measured. No time is looked at here."""

import asyncio
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from bench import posting
from bench.plot import Panel, log_log
from bench.rate import fullest_second, share_of
from bench.rounds import CLOCK, ROOT, Contestant, Line, interleaved, times_as_fast
from bench.server import own_server
from bench.validate import grown, write

pytestmark = pytest.mark.slow  # runs benchmarks

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize(
    ("rounds", "goal", "options", "met"),
    [
        ([4.0, 5.0, 6.0], 5.0, {}, "yes"),
        ([4.0, 4.9, 9.0], 5.0, {}, "NO"),
        ([1.0, 2.0, 9.0], 2.0, {"at_most": True}, "yes"),
        ([1.0, 2.1, 2.2], 2.0, {"at_most": True}, "NO"),
        ([49.0, 50.0, 50.0], 50.0, {"at_most": True, "always": True}, "yes"),
        ([49.0, 50.0, 51.0], 50.0, {"at_most": True, "always": True}, "NO"),
        ([0.9, 0.99, 0.99], 0.985, {"always": True}, "NO"),
        ([1.0], None, {}, ""),
    ],
)
def test_a_goal_is_met_by_the_median_or_where_it_has_to_be_by_each_round(
    rounds: list[float], goal: float | None, options: dict[str, Any], met: str
) -> None:
    assert Line("ours", "theirs", rounds, goal=goal, **options).met == met


@pytest.mark.parametrize(
    ("at_s", "fullest"),
    [
        ([0.0], 1),
        ([0.0, 0.5, 1.0], 2),  # a second ends where the next begins
        ([0.0, 0.001, 0.999, 5.0], 3),  # the first second counts
        ([0.0, 0.9, 1.1, 1.5, 1.899, 1.9], 4),  # wherever it begins
    ],
)
def test_the_fullest_second(at_s: list[float], fullest: int) -> None:
    began = datetime(2026, 11, 21, 1, 30, 0, 456_000, tzinfo=UTC)
    assert fullest_second([began + timedelta(seconds=each) for each in at_s]) == fullest


def test_the_share_of_the_rate() -> None:
    began = datetime(2026, 11, 21, tzinfo=UTC)
    every_ms = [began + timedelta(milliseconds=25 * number) for number in range(41)]
    assert share_of(every_ms, 50) == pytest.approx(0.8)


def test_contestants_are_asked_in_turn_and_their_first_round_is_left_out(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = (
        "import itertools, pathlib, sys\nfrom bench.rounds import compete\n"
        "rounds, (name, step) = itertools.count(), sys.argv[1:]\n"
        "def work():\n"
        f"    with open({str(log)!r}, 'a') as file: file.write(name)\n"
        "    return {'part': float(step) * next(rounds)}\n"
        "compete(work)"
    )
    contestants = {
        name: Contestant([sys.executable, "-c", code, name, step], 1000)
        for name, step in (("a", "1"), ("b", "4"))
    }
    taken = interleaved(contestants, 2)
    assert log.read_text() == "ababab"
    assert (taken["a"]["part"], taken["b"]["part"]) == ([1000.0, 2000.0], [4000.0, 8000.0])
    assert len(taken["a"][CLOCK]) == 2
    assert times_as_fast("ours", "a", "b", taken, by="part").rounds == [4.0, 4.0]


def test_a_contestant_that_dies_ends_it_all() -> None:
    contestant = Contestant([sys.executable, "-c", "input(); raise SystemExit(7)"], 1)
    with pytest.raises(SystemExit, match="dying ended in the middle, with exit code 7"):
        interleaved({"dying": contestant}, 1)


@pytest.mark.parametrize("way", ["bare", "naive"])
def test_the_small_server_takes_what_is_posted_and_tells_when_it_began(way: str) -> None:
    with own_server() as (url, server):
        bodies = [b'{"resourceType":"PaymentNotice","note":"%d"}' % n for n in range(50)]
        assert asyncio.run(posting.WAYS[way](url, bodies, 4)) == 50
        server.terminate()
        told, _ = server.communicate(timeout=10)
    assert 0 < float(told) < time.monotonic()


@pytest.mark.parametrize("kind", ["eligibility", "ledger"])
def test_a_file_that_grew_is_the_file_written_at_once(kind: str, tmp_path: Path) -> None:
    for size in grown(kind, tmp_path / "grown.csv", [3, 10]):
        write(kind, tmp_path / "once.csv", size)
        assert (tmp_path / "grown.csv").read_bytes() == (tmp_path / "once.csv").read_bytes()


def test_the_picture_has_each_point_at_its_place() -> None:
    lines = {"one": [(1e4, 0.5), (1e5, 5.0), (1e6, 50.0)], "two": [(1e4, 3.0), (1e6, 3.0)]}
    root = ET.fromstring(log_log("Growth", [Panel("seconds", lines)]))  # noqa: S314 - our own
    one = [
        (float(each.attrib["cx"]), float(each.attrib["cy"])) for each in root.iter(f"{SVG}circle")
    ]
    assert len(one) == 3
    (across, up), again = (
        (second[0] - first[0], second[1] - first[1]) for first, second in pairwise(one)
    )
    assert (across, up) == pytest.approx(again, abs=0.2), (
        "ten times the rows, ten times the time: a line"
    )
    assert across > 0 > up
    two = [float(each.attrib["y"]) for each in root.iter(f"{SVG}rect") if "class" in each.attrib]
    assert len(set(two)) == 1
    assert {"10 k", "100 k", "1 M"} <= {each.text for each in root.iter(f"{SVG}text")}


def test_a_benchmark_that_there_is_not_is_refused_with_those_there_are() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "bench", "nope"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 2
    assert "no benchmark nope; there is validate, sending, rate" in ran.stderr
