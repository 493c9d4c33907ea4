"""Carry out a command: run its work, print its result, send the notice, and exit with its code.

The summary goes to stdout, logs and progress to stderr. Heavy modules are imported inside the
functions, so that `--help` answers at once.
"""

from __future__ import annotations

import contextlib
import gc
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from pipeline.app.screen import print_text, table_columns
from pipeline.version import VERSION

if TYPE_CHECKING:
    import asyncio

    from pipeline.app.progress import Work
    from pipeline.commands.run import Result
    from pipeline.errors import IngestError
    from pipeline.job import Job, Progress

_NOTIFIED: Final = ("run", "verify")  # the commands that run at night


def run_and_exit(work: Work[Result], options: dict[str, Any]) -> NoReturn:
    """Run the work of a command, print its summary, send the notice, and exit with its code."""
    result = run_work(work, options)
    _log_end(result.summary, options)
    if options["as_json"]:
        print_json(result.summary)
    elif options.get("form") == "markdown":
        _print_markdown(result, options)
    else:
        from pipeline.reporting.terminal import summary_text

        config = options["config"]
        shown = None if config is None else typed_path(config)
        folder, given = short_path(result.folder), given_options(options)
        print_text(summary_text(result.summary, folder, shown, given, table_columns()))
    _send_notice(result.summary, str(result.folder), options)
    sys.exit(result.exit_code)


def print_json(value: Any) -> None:
    """Print a value as one line of JSON."""
    import orjson

    click.echo(orjson.dumps(value).decode())


def _print_markdown(result: Result, options: dict[str, Any]) -> None:
    from pipeline.reporting.markdown import plan_markdown

    config, given = typed_path(options["config"]), given_options(options)
    print_text(plan_markdown(result.summary, short_path(result.folder), config, given))


def _log_end(summary: dict[str, Any], options: dict[str, Any]) -> None:
    """Write the last line of a log for machines; people have the summary."""
    if not _is_logged(options):
        return
    from collections import Counter
    from datetime import datetime

    import structlog

    counts: Counter[str] = Counter()
    for feed in summary.get("feeds", []):
        counts.update(feed["dispositions"], rows_read=feed["rows_read"])
    began, ended = (datetime.fromisoformat(summary[at]) for at in ("started_at", "finished_at"))
    structlog.get_logger().info(
        "run_finished",
        run_id=summary["run_id"],
        command=summary["command"],
        exit_code=summary["exit_code"],
        message=summary["failure"],
        seconds=(ended - began).total_seconds(),
        **counts,
    )


def _send_notice(summary: dict[str, Any], folder: str, options: dict[str, Any]) -> None:
    """Send the notice of how a `run` or a `verify` ended, if the configuration names a recipient."""
    if options.get("command") not in _NOTIFIED:
        return
    import asyncio

    from pipeline.app.config.notice import load_recipients
    from pipeline.app.notify import notify
    from pipeline.app.progress import Display, watch
    from pipeline.reporting.notice import notice_of

    recipients = load_recipients(options["config"])
    if recipients is None:
        return
    notice = notice_of(options["config"].stem, summary, folder)
    with contextlib.suppress(KeyboardInterrupt, asyncio.CancelledError):  # an impatient signal
        watch(lambda *_: notify(notice, recipients), Display.NONE, is_logged=_is_logged(options))


def _is_logged(options: dict[str, Any]) -> bool:
    """Return whether stderr is a log for machines: one JSON object a line, and nothing else."""
    return bool(options.get("log_format") == "json")


def run_work(work: Work[Any], options: dict[str, Any]) -> Any:
    """Return the result of the work of a command. An error is printed, and exits with its code."""
    gc.disable()  # a tenth of the start: what is imported stays, so there is nothing to find
    import asyncio

    import structlog

    from pipeline.app import logs
    from pipeline.app.progress import display_for, watch
    from pipeline.errors import IngestError
    from pipeline.system.temporary import abandoned

    level = 10 if options.get("verbose") else 40 if options.get("quiet") else 20
    logs.configure(options.get("log_format", "text"), level)
    if left := abandoned(remove=True):
        structlog.get_logger().warning("copies_removed", count=len(left))
    is_logged = _is_logged(options)
    is_quiet = options.get("quiet", False) or options.get("no_progress", False)
    display = display_for(quiet=is_quiet, is_logged=is_logged)

    def begun(progress: Progress, stop: asyncio.Event) -> Any:
        try:
            return work(progress, stop)  # by now all is imported
        finally:
            gc.freeze()
            gc.enable()

    try:
        return watch(begun, display, is_logged=is_logged)
    except IngestError as error:
        exit_with(error, options)
    except (KeyboardInterrupt, asyncio.CancelledError):
        if is_logged:
            structlog.get_logger().error("stopped_at_once")
        else:
            click.echo("Stopped at once: what was in flight is in doubt. Run again.", err=True)
        sys.exit(130)
    except Exception as error:  # noqa: BLE001 - its own text, and a traceback's, may hold values
        from pipeline.errors import fault

        exit_with(fault(error), options)


def exit_with(error: IngestError, options: dict[str, Any]) -> NoReturn:
    """Exit with an error that left no report: it is on stderr, with --json as one object on stdout too."""
    if _is_logged(options):
        import structlog

        structlog.get_logger().error(
            "command_failed",
            error=type(error).__name__,
            message=str(error),
            exit_code=error.exit_code,
        )
    else:
        print_text(f"Error: {error}", err=True)
    shown = {"shape": 1, "exit_code": error.exit_code, "failure": str(error)}
    if options.get("as_json"):
        print_json(shown)
    known = {"command": options.get("command"), "version": VERSION}
    _send_notice({**shown, **known}, "", options)
    sys.exit(error.exit_code)


def given_options(options: dict[str, Any]) -> str:
    """Return the options to type again: feeds, files, what is expected, and what a person accepted or asked for."""
    typed = [f" --feed {name}" for name in options.get("only_feeds", ())]
    typed += [f" --input {shlex.quote(pair)}" for pair in options.get("inputs", ())]
    typed += [f" --expect {shlex.quote(expected)}" for expected in options.get("expected", ())]
    if options.get("accept_repeats") is not None:
        typed.append(f" --accept-repeats {options['accept_repeats']}")
    if options.get("rewrite") is not None:
        typed.append(f" --rewrite {_quoted(options['rewrite'])}")
    return "".join(typed)


def typed_path(path: Path) -> str:
    """Return a path as it is typed in a shell, from the working directory."""
    return shlex.quote(short_path(path))


def _quoted(text: str) -> str:
    """Return a text for a shell; SQL has single quotes, so double ones are easier to read."""
    if not set(text).isdisjoint("$`\\!\n"):
        return shlex.quote(text)
    return '"' + text.replace('"', '\\"') + '"'


def short_path(path: Path) -> str:
    """Return the shortest path from the working directory."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def job_of(options: dict[str, Any]) -> Job:
    """Load the configuration that the options name, with what they replace in it."""
    from pipeline.app.config.arguments import engine_of, expectations_of, inputs_of
    from pipeline.app.config.load import load
    from pipeline.errors import ConfigError
    from pipeline.system.environment import SPILL

    engine = {name: options.get(name) for name in ("engine", "scheduler", "workers")}
    job = load(
        options["config"],
        inputs=inputs_of(options.get("inputs", ())),
        only_feeds=options.get("only_feeds", ()),
        expected=expectations_of(options.get("expected", ())),
        overrides={"engine": engine_of(**engine)},
        accept_repeats=options.get("accept_repeats"),
        rewrite=options.get("rewrite"),
    )
    os.environ.setdefault(SPILL, str(job.state_dir / ".spill"))
    for name in ("scheduler", "workers"):
        if engine[name] is not None and job.engine.kind != "dask":
            raise ConfigError(f"--{name} goes with --engine dask", "add that, or leave it out")
    return job
