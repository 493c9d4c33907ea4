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
            "rules": {},
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


def _given_up(rejected: int, given_up: int) -> list[str]:
    summary = _summary(3, {"a": rejected})
    summary["feeds"] = [{**feed, "rules": {"row|abandoned": given_up}} for feed in summary["feeds"]]  # type: ignore[attr-defined]
    return next_steps(summary, "r", "c.toml")


def test_rows_that_a_person_gave_up_are_not_to_be_corrected() -> None:
    assert _given_up(2, 2) == [
        "Next: 2 rows were given up by a person. To send one after all, by its key in reconciliation.csv:",
        "  canvas-ingest review c.toml --resend KEY",
    ]
    assert [line[:10] for line in _given_up(3, 1)] == [
        "Next: fix ",
        "  canvas-i",
        "Next: 1 ro",
        "  canvas-i",
    ]


def test_a_held_plan_has_one_next_step() -> None:
    summary = {**_summary(3, {"a": 0}), "command": "plan"}
    summary["feeds"] = [{**feed, "missing": {"not_ended": 7}} for feed in summary["feeds"]]  # type: ignore[attr-defined]
    assert next_steps(summary, "r", "c.toml") == [
        "Next: see r/missing-*.csv for why each coverage was not ended, and what to do; or, to carry out all else:",
        "  canvas-ingest run c.toml --plan r",
    ]
