"""Options and arguments that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

FILE: Final = click.Path(dir_okay=False, path_type=Path)
CONFIG = click.argument("config", type=FILE)


def _without_colour(context: click.Context, _: click.Parameter, value: object) -> None:
    if value:
        context.color = False


NO_COLOR = click.option(
    "--no-color",
    is_flag=True,
    expose_value=False,
    callback=_without_colour,
    help="No colours, as with NO_COLOR in the environment.",
)
OUTPUT = (
    click.option(
        "--json", "as_json", is_flag=True, help="The summary as one JSON object on stdout."
    ),
    click.option(
        "--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True
    ),
    click.option("-q", "--quiet", is_flag=True, help="Only errors and the summary."),
    click.option("-v", "--verbose", is_flag=True, help="More in the log."),
    click.option("--no-progress", is_flag=True, help="No progress display."),
    NO_COLOR,
)
FEEDS = (
    click.option(
        "--feed", "only_feeds", multiple=True, metavar="NAME", help="Only this feed; repeatable."
    ),
    click.option(
        "--input",
        "inputs",
        multiple=True,
        metavar="NAME=PATH",
        help="Another file for that feed; - reads standard input.",
    ),
)
PLAN_FORMAT = click.option(
    "--format",
    "form",
    type=click.Choice(["text", "markdown"]),
    default="text",
    show_default=True,
    help="The summary as text, or as Markdown for a pull request or a chat.",
)
EXPECT = click.option(
    "--expect",
    "expected",
    multiple=True,
    metavar="NAME:rows=N",
    help="The sender's control total, NAME:rows=5000 or NAME:total_usd=12345.67; repeatable.",
)
ACCEPT = click.option(
    "--accept-repeats",
    type=click.IntRange(0),
    metavar="N",
    help="Go on if up to N rows equal a write of an earlier run (limits.repeats_max).",
)
REWRITE = click.option(
    "--rewrite",
    metavar="WHERE",
    help="Write unchanged coverages again that meet this SQL condition over our fields, once.",
)
ENGINE = (
    click.option(
        "--engine",
        type=click.Choice(["embedded", "join", "dask"]),
        help="Who works: this process; with `canvas-ingest join`, others send, too; or a Dask cluster.",
    ),
    click.option(
        "--scheduler",
        metavar="ADDRESS",
        help="With Dask: a cluster that runs, tls://host:port.",
    ),
    click.option(
        "--workers",
        type=click.IntRange(1, 1_000),
        metavar="N",
        help="With Dask: start N processes on this machine, which end with the command.",
    ),
)


class Until(click.ParamType[Any]):
    """A time of day, converted to the next instant at which it comes."""

    name = "HH:MM"

    def convert(self, value: Any, param: Any, ctx: Any) -> datetime:
        """Return the instant; fail with a usage error if it is no time of day, or has just passed."""
        from datetime import UTC, datetime

        from pipeline.app.config.arguments import until_of

        try:
            return until_of(value, datetime.now(UTC))
        except ValueError as error:
            self.fail(str(error), param, ctx)


def with_options(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return several options as one decorator, in the order in which `--help` shows them."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate
