"""The command line: one function a command. It parses the arguments and calls the command.

Heavy modules are imported inside the functions, so that `--help` answers at once.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from pipeline.app import cli_join, cli_mapping
from pipeline.app.execute import (
    exit_with,
    given_options,
    job_of,
    print_json,
    run_and_exit,
    run_work,
    short_path,
    typed_path,
)
from pipeline.app.options import (
    ACCEPT,
    CONFIG,
    ENGINE,
    EXPECT,
    FEEDS,
    FILE,
    NO_COLOR,
    OUTPUT,
    PLAN_FORMAT,
    REWRITE,
    Until,
    with_options,
)
from pipeline.app.screen import columns_of, print_text, table_columns
from pipeline.version import VERSION

if TYPE_CHECKING:
    import asyncio
    from datetime import datetime

    from pipeline.job import Progress

_CONTEXT: Final = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

# The way from nothing to the first load.
_FIRST_STEPS: Final = """\
canvas-ingest demo           load sample data into a local Canvas
canvas-ingest init FILE...   draft a configuration from the headers of files
canvas-ingest check CONFIG   find what would go wrong, and what to do about it
canvas-ingest plan CONFIG    show what would be written; write nothing to Canvas
canvas-ingest run CONFIG     plan, send and report; run it again to resume

canvas-ingest --help lists all commands."""


@click.group(context_settings=_CONTEXT, invoke_without_command=True)
@click.version_option(VERSION, message="%(prog)s %(version)s")
@NO_COLOR
@click.pass_context
def cli(context: click.Context) -> None:
    """Load eligibility and ledger files into Canvas, and account for every row and every cent.

    Start with: canvas-ingest demo
    """
    if context.invoked_subcommand is None:
        click.echo(_FIRST_STEPS)
        sys.exit(2)
    from pipeline.files import OTHERS
    from pipeline.system.confinement import close_memory

    os.umask(OTHERS)  # what a run leaves behind is for its owner only
    close_memory()


@cli.command(short_help="Read, validate and map all; write nothing to Canvas.")
@with_options(CONFIG, *FEEDS, EXPECT, ACCEPT, REWRITE, *ENGINE, PLAN_FORMAT, *OUTPUT)
def plan(**options: Any) -> None:
    """Read, validate and map everything; write a plan and a report, nothing to Canvas."""
    if options["as_json"] and options["form"] != "text":
        raise click.UsageError("--json and --format: keep one")
    _plan_or_run("plan", options)


@cli.command(short_help="Settle doubts, plan, upload and report; resumes.")
@with_options(
    CONFIG,
    *FEEDS,
    EXPECT,
    ACCEPT,
    REWRITE,
    click.option("--dry-run", is_flag=True, help="The same as `plan`."),
    click.option(
        "--plan",
        "plan_id",
        metavar="ID",
        help="Apply exactly this plan; fails if it is out of date.",
    ),
    click.option(
        "--until",
        type=Until(),
        help="Stop by then, local time; what is left is pending, and the next run sends it.",
    ),
    click.option(
        "--journal-lost",
        is_flag=True,
        help="Go on though the journal is lost: what Canvas seems to hold is set aside for `review`.",
    ),
    *ENGINE,
    *OUTPUT,
)
def run(*, dry_run: bool, journal_lost: bool, **options: Any) -> None:
    """Settle doubts, plan, upload and report. Running it again resumes: nothing is sent twice."""
    sending = {
        "--journal-lost": journal_lost,
        "--plan": options["plan_id"],
        "--until": options["until"],
    }
    for name, value in sending.items():
        if dry_run and value:
            raise click.UsageError(f"{name} is for a run that sends: leave --dry-run out")
    _plan_or_run("plan" if dry_run else "run", options, journal_lost=journal_lost)


@cli.command(short_help="List the writes in doubt, or settle them.")
@with_options(
    CONFIG,
    click.option(
        "--confirm",
        multiple=True,
        metavar="KEY=ID",
        help="It arrived, and is that resource (which is read first); repeatable.",
    ),
    click.option(
        "--resend",
        multiple=True,
        metavar="KEY",
        help="It did not arrive, or is gone from Canvas: search once more, then send it again; repeatable.",
    ),
    click.option(
        "--confirm-found", is_flag=True, help="Confirm all of which Canvas shows just one."
    ),
    click.option(
        "--resend-absent", is_flag=True, help="Send all again of which Canvas shows none."
    ),
    click.option(
        "--abandon", multiple=True, metavar="KEY", help="Never send it again; repeatable."
    ),
    click.option(
        "--foreign",
        multiple=True,
        metavar="ID",
        help="With --resend: that resource is another user's; repeatable.",
    ),
    click.option(
        "--decisions",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="A file of --format csv whose column `decision` was filled in: confirm, resend or abandon.",
    ),
    click.option("--by", metavar="NAME", help="Who decides; else the user of this machine."),
    click.option(
        "--format", "form", type=click.Choice(["text", "csv"]), default="text", show_default=True
    ),
    *OUTPUT,
)
def review(**options: Any) -> None:
    """List the writes in doubt with what Canvas shows of them, or settle them."""
    from pipeline.app.config.arguments import decisions_of
    from pipeline.errors import ConfigError

    confirm = dict(pair.partition("=")[::2] for pair in options["confirm"])
    if not all(confirm.values()):
        raise click.UsageError("--confirm takes KEY=ID")
    if options["foreign"] and not options["resend"]:
        raise click.UsageError("--foreign goes with --resend KEY")
    resend, abandon = list(options["resend"]), list(options["abandon"])
    lines: dict[str, int] = {}
    if options["decisions"]:
        try:
            decided = decisions_of(options["decisions"])
        except ConfigError as error:
            exit_with(error, options)
        if twice := decided.keys() & {*confirm, *resend, *abandon}:
            raise click.UsageError(f"{min(twice)} is decided on by an option and in the file")
        confirm |= {
            key: each.resource_id for key, each in decided.items() if each.word == "confirm"
        }
        resend += [key for key, each in decided.items() if each.word == "resend"]
        abandon += [key for key, each in decided.items() if each.word == "abandon"]
        lines = {key: each.line for key, each in decided.items()}

    def work(_: Progress, stop: asyncio.Event) -> Any:
        from pipeline.commands.decisions import Decisions
        from pipeline.commands.review import review
        from pipeline.commands.run import user

        decisions = Decisions(
            confirm,
            tuple(resend),
            tuple(abandon),
            options["resend_absent"],
            options["confirm_found"],
            options["foreign"],
            options["by"] or user(),
            lines,
        )
        return review(job_of(options), decisions, stop=stop)

    reviewed = run_work(work, {**options, "no_progress": True})
    from pipeline.app.config.load import load
    from pipeline.commands.review import as_json
    from pipeline.reporting.cases import review_csv, review_text

    shown = as_json(reviewed)
    base_url = load(options["config"]).canvas.base_url
    if options["as_json"]:
        print_json(shown)
    elif options["form"] == "csv":
        click.echo(review_csv(shown, base_url), nl=False)
    else:
        print_text(review_text(shown, typed_path(options["config"]), base_url, table_columns()))
    sys.exit(reviewed.exit_code)


@cli.group(short_help="Show what the journal holds, move it to a new address, purge it.")
def journal() -> None:
    """Show what the journal holds and whether it is whole, bind it to a new address, remove what is old."""


@journal.command()
@with_options(
    CONFIG,
    click.argument("key", required=False),
    click.option("--json", "as_json", is_flag=True, help="As one JSON object on stdout."),
    NO_COLOR,
)
def show(key: str | None, **options: Any) -> None:
    """Show what is held by state and age, and whether the journal is whole; or one KEY's history.

    Exits with 1 if the audit log was changed, or the table of writes does not agree with it.
    """
    from pipeline.commands.journal import inventory, inventory_json
    from pipeline.errors import IngestError
    from pipeline.reporting.inventory import inventory_text

    try:
        found = inventory(job_of(options), key)
    except IngestError as error:
        exit_with(error, options)
    shown = inventory_json(found)
    if options["as_json"]:
        print_json(shown)
    else:
        print_text(inventory_text(shown))
    sys.exit(0 if found.is_whole else 1)


@journal.command("move", short_help="Bind the journal to a new canvas.base_url of the same Canvas.")
@with_options(CONFIG, *OUTPUT)
def move_(**options: Any) -> None:
    """Bind the journal to the canvas.base_url of CONFIG, a new address of the same Canvas.

    The newest confirmed resources are read back through it first: unless all are there, nothing changes.
    """

    def work(_: Progress, stop: asyncio.Event) -> Any:
        from pipeline.commands.move import move

        return move(job_of(options), stop=stop)

    moved = run_work(work, {**options, "no_progress": True})
    if options["as_json"]:
        print_json(moved.as_json())
    else:
        print_text(
            f"The journal now belongs to {moved.base_url} (before: {moved.bound_before}).\n"
            f"Read back through it: {moved.compared} of {moved.compared} resources. The move is in the audit log."
        )


@journal.command("purge", short_help="Remove what old runs left of rows.")
@with_options(
    CONFIG,
    click.option(
        "--older-than",
        "days",
        type=click.IntRange(0, 36_500),
        metavar="DAYS",
        help="What runs before that many days ago left.  [default: days of [retention]]",
    ),
    click.option("--dry-run", is_flag=True, help="Only say what would be removed."),
    click.option("--yes", is_flag=True, help="Do not ask."),
    click.option("--json", "as_json", is_flag=True, help="As one JSON object on stdout."),
    NO_COLOR,
)
def purge_(*, dry_run: bool, yes: bool, **options: Any) -> None:
    """Remove the row data of old runs: plans, and reports except summary.json.

    The journal and the plans that are still needed stay, because they keep a payment from being sent twice.
    """
    from pipeline.commands.journal import purge
    from pipeline.errors import IngestError
    from pipeline.reporting.inventory import purged_text

    def work(*, is_trial: bool) -> Any:
        return purge(job_of(options), options["days"], is_trial=is_trial)

    try:
        if not (dry_run or yes):
            print_text(purged_text(work(is_trial=True), is_trial=True), err=options["as_json"])
            if not sys.stdin.isatty():
                raise click.UsageError(
                    "stdin is not a terminal, so the question cannot be asked: add --yes, or --dry-run to look"
                )
            click.confirm("Remove it?", abort=True, err=True)
        purged = work(is_trial=dry_run)
    except IngestError as error:
        exit_with(error, options)
    if options["as_json"]:
        print_json({**purged, "is_trial": dry_run})
    else:
        print_text(purged_text(purged, is_trial=dry_run))


@cli.command(short_help="Read back what was written, and compare it.")
@with_options(
    CONFIG,
    click.option("--sample", type=click.IntRange(1), metavar="N", help="N patients, at random."),
    click.option(
        "--since",
        type=click.DateTime(["%Y-%m-%d"]),
        help="What was written on that day (UTC) or later.",
    ),
    *OUTPUT,
)
def verify(sample: int | None, since: datetime | None, **options: Any) -> None:
    """Read back what the journal says was written, and compare it element by element.

    Exits with 3 if something differs, is missing, or is there without being ours.
    """

    def work(progress: Progress, stop: asyncio.Event) -> Any:
        from pipeline.commands.verify import read_back

        day = since.date().isoformat() if since else None
        return read_back(job_of(options), sample=sample, since=day, progress=progress, stop=stop)

    run_and_exit(work, {**options, "command": "verify"})


@cli.command(short_help="Write the report of a run again.")
@with_options(
    CONFIG,
    click.option("--run", "run_id", metavar="ID", help="Another run than the last."),
    *OUTPUT,
)
def report(run_id: str | None, **options: Any) -> None:
    """Write the report of the last run (or of another) again from the journal."""

    def work(_: Progress, __: asyncio.Event) -> Any:
        from pipeline.commands.run import report_again

        return report_again(job_of(options), run_id)

    run_and_exit(work, options)


@cli.command(short_help="Find what would go wrong in a run, and what to do about it.")
@with_options(
    CONFIG,
    *FEEDS,
    click.option(
        "--show-values",
        is_flag=True,
        help="Name the spellings in coded columns, not only how many there are.",
    ),
    *OUTPUT,
)
def check(**options: Any) -> None:
    """Check everything that a run needs; show what would go wrong and what to do about it.

    Writes nothing here, and nothing to Canvas. Exits with 1 if something is wrong.
    """

    def work(progress: Progress, stop: asyncio.Event) -> Any:
        from pipeline.app.config.arguments import inputs_of
        from pipeline.app.config.load import load_to_check
        from pipeline.commands.check import check

        job, no_secrets = load_to_check(
            options["config"],
            inputs=inputs_of(options["inputs"]),
            only_feeds=options["only_feeds"],
        )
        return check(
            job,
            no_secrets=no_secrets,
            progress=progress,
            stop=stop,
            show_values=options["show_values"],
        )

    checks = run_work(work, options)
    from pipeline.commands.check import as_json
    from pipeline.reporting.checks import checks_text

    shown = as_json(checks)
    if options["as_json"]:
        print_json(shown)
    else:
        config, given = typed_path(options["config"]), given_options(options)
        print_text(checks_text(shown, config, given, columns_of(sys.stdout)))
    sys.exit(shown["exit_code"])


@cli.command(short_help="Draft a configuration from the headers of files.")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=FILE)
@click.option(
    "--kind",
    type=click.Choice(["eligibility", "ledger"]),
    help="Kind of file; detected from its columns if omitted.",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path, allow_dash=True),
    help="Where the draft goes; - is stdout.  [default: the first FILE's name with .toml, here]",
)
@NO_COLOR
def init(files: tuple[Path, ...], kind: str | None, output: Path | None) -> None:
    """Draft one configuration from the headers of files and samples of their rows.

    What is not sure is a line with DECIDE in it. A file that is there is never written over.
    """
    from pipeline.commands.init import draft
    from pipeline.errors import IngestError
    from pipeline.reporting.draft import drafted_text
    from pipeline.system.temporary import abandoned

    abandoned(remove=True)
    if output is None:
        output = Path(f"{files[0].name.partition('.')[0] or 'draft'}.toml")
    is_stdout = str(output) == "-"
    try:
        drafted = draft(files, kind, None if is_stdout else output)
    except IngestError as error:
        exit_with(error, {})
    shown = None if is_stdout else short_path(output)
    summary = drafted_text(drafted.sources, shown, drafted.guessed, drafted.undecided)
    if is_stdout:
        click.echo(drafted.text, nl=False)
    print_text(summary, err=is_stdout)


@cli.command(short_help="Serve a local Canvas on loopback.")
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=8765,
    show_default=True,
    help="Port; 0 picks a free one.",
)
@click.option(
    "--seed",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Its content at the start (JSON).",
)
@click.option(
    "--faults",
    default="none",
    show_default=True,
    metavar="PROFILE",
    help="A fault profile, or its file.",
)
@click.option("--fault-seed", default=0, show_default=True, help="The same seed, the same faults.")
@click.option(
    "--contract", type=click.Choice(["2025-10", "2023"]), default="2025-10", show_default=True
)
@click.option(
    "--state",
    type=FILE,
    help="A file that keeps what it holds.",
)
@click.option(
    "--taken-order",
    type=click.Choice(["move", "refuse"]),
    default="move",
    show_default=True,
    help="An order that another coverage has: that one moves down, or 422.",
)
@click.option(
    "--timezone",
    default="UTC",
    show_default=True,
    metavar="ZONE",
    help="The practice's, for a coverage without a start, and for what has ended.",
)
def sandbox(port: int, **what: Any) -> None:
    """Serve a local Canvas on loopback, to try things on. Ctrl-C ends it."""

    def work(_: Progress, stop: asyncio.Event) -> Any:
        from pipeline.app.demo import make_sandbox, serve_until

        return serve_until(stop, make_sandbox(**what), port, click.echo)

    run_work(work, {"quiet": True})


@cli.command(short_help="Run the sample data through a local Canvas.")
@with_options(
    click.option(
        "--faults",
        default="none",
        show_default=True,
        metavar="PROFILE",
        help="A fault profile of the local Canvas.",
    ),
    *OUTPUT,
)
def demo(faults: str, **options: Any) -> None:
    """Start a local Canvas, run the sample data through it, and say where the report is."""
    from pipeline.app.demo import run_demo

    run_and_exit(
        lambda progress, stop: run_demo(progress, stop, faults, Path("demo").resolve()),
        {**options, "config": None},
    )


cli.add_command(cli_join.join_)
cli.add_command(cli_mapping.test)
cli.add_command(cli_mapping.schema)


@cli.command(short_help="Print the completion script of a shell.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell: eval "$(canvas-ingest completion bash)"."""
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    if made is not None:
        click.echo(made(cli, {}, "canvas-ingest", "_CANVAS_INGEST_COMPLETE").source())


def _plan_or_run(command: str, options: dict[str, Any], *, journal_lost: bool = False) -> None:
    def work(progress: Progress, stop: asyncio.Event) -> Any:
        from pipeline.commands import run

        if command == "plan":
            return run.plan(job_of(options), progress=progress, stop=stop)
        return run.run(
            job_of(options),
            journal_lost=journal_lost,
            plan_id=options["plan_id"],
            until=options["until"],
            progress=progress,
            stop=stop,
        )

    run_and_exit(work, {**options, "command": command})


def main() -> None:
    """Run the console script."""
    cli(prog_name="canvas-ingest")
