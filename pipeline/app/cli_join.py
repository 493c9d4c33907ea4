"""The command `join`. As in `cli.py`, modules are imported inside the functions."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from pipeline.app.execute import job_of, print_json, run_work
from pipeline.app.options import CONFIG, OUTPUT, with_options
from pipeline.app.screen import print_text

if TYPE_CHECKING:
    import asyncio

    from pipeline.job import Progress


@click.command("join", short_help="Send parts of the run that is under way, beside it.")
@with_options(
    CONFIG,
    click.option(
        "--wait",
        "wait_s",
        type=click.IntRange(0, 86_400),
        default=0,
        show_default=True,
        metavar="SECONDS",
        help="Wait so long for a run if none is under way.",
    ),
    *OUTPUT,
)
def join_(wait_s: int, **options: Any) -> None:
    """Send parts of the run that is under way until none is left; start any number of them.

    The run has engine = "join" (or --engine join), its journal is in PostgreSQL, and state.dir is the same folder.
    """

    def work(_: Progress, stop: asyncio.Event) -> Any:
        from pipeline.commands.join import join

        return join(
            lambda feeds: job_of({**options, "only_feeds": tuple(feeds)}), wait_s=wait_s, stop=stop
        )

    joined = run_work(work, {**options, "no_progress": True})
    if options["as_json"]:
        print_json(joined.as_json())
    else:
        print_text(joined.as_text())
    sys.exit(joined.exit_code)
