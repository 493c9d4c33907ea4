"""The commands that a summary gives to type next."""

import shlex
from pathlib import Path

from pipeline.app.execute import given_options, typed_path
from pipeline.reporting.terminal import next_steps


def _summary(code: int, rejected: dict[str, int], *, failure: str = "") -> dict[str, object]:
    feeds = [
        {
            "name": name,
            "dispositions": {"rejected": count, "refused": 0},
            "missing": {"not_cancelled": 0},
        }
        for name, count in rejected.items()
    ]
    return {
        "command": "run",
        "run_id": "r",
        "exit_code": code,
        "feeds": feeds,
        "failure": failure,
    }


def test_the_rejects_of_all_feeds_are_named_in_one_command() -> None:
    steps = next_steps(_summary(3, {"a": 2, "b": 0, "c": 1}), "my reports/r", "c.toml")
    assert steps[0] == ("Next: fix my reports/r/rejects-a.csv and my reports/r/rejects-c.csv, then")
    assert shlex.split(steps[1]) == [
        *("canvas-ingest", "run", "c.toml", "--feed", "a", "--feed", "c"),
        *("--input", "a=my reports/r/rejects-a.csv", "--input", "c=my reports/r/rejects-c.csv"),
    ]


def test_a_command_to_type_again_has_all_its_options() -> None:
    options = {
        "only_feeds": ("a",),
        "inputs": ("a=new file.csv",),
        "expected": ("a:rows=3",),
        "accept_repeats": 4,
    }
    steps = next_steps(
        _summary(1, {"a": 0}, failure="the disk is full"), "r", "c.toml", given_options(options)
    )
    assert shlex.split(steps[-1]) == [
        *("canvas-ingest", "run", "c.toml", "--feed", "a", "--input", "a=new file.csv"),
        *("--expect", "a:rows=3", "--accept-repeats", "4"),
    ]


def test_a_path_is_quoted_for_the_shell(tmp_path: Path) -> None:
    path = tmp_path / "my configs" / "night's.toml"
    assert shlex.split(typed_path(path)) == [str(path)]
