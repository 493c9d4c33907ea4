"""The commands about the configuration file itself: `test` and `schema`.

As in `cli.py`, modules are imported inside the functions.
"""

import sys
from pathlib import Path
from typing import Any, Final

import click

from pipeline.app.execute import exit_with, given_options, print_json, typed_path
from pipeline.app.options import CONFIG, FEEDS, with_options
from pipeline.app.screen import print_text

_MODE: Final = 0o644  # of results, which have no value of a patient and are read by a CI
_SCHEMAS: Final = {
    "configuration": ("pipeline.app.config", "schema.json"),
    "summary": ("pipeline.reporting", "summary.schema.json"),
}


@click.command(short_help="Map the rows in [[tests]]; compare with what they expect.")
@with_options(
    CONFIG,
    FEEDS[0],
    click.option(
        "--junit",
        type=click.Path(dir_okay=False, path_type=Path),
        help="A file for the results as JUnit XML, for a CI.",
    ),
    click.option("--json", "as_json", is_flag=True, help="The results as one JSON object."),
)
def test(junit: Path | None, **options: Any) -> None:
    """Map the rows in [[tests]] of CONFIG, and compare the results with what they expect.

    Needs no credentials and no network, and reads no other file. The values of these rows, which are
    synthetic, are shown. Exits with 1 if a test fails.
    """
    from pipeline.app.config.load import load_tests
    from pipeline.commands.mapping_tests import as_json, run_tests
    from pipeline.errors import ConfigError
    from pipeline.reporting import mapping_tests

    try:
        suite = load_tests(options["config"], only_feeds=options["only_feeds"])
        result = as_json(run_tests(suite), options["config"])
        if junit is not None:
            _write(junit, mapping_tests.junit(result))
    except ConfigError as error:
        exit_with(error, options)
    if options["as_json"]:
        print_json(result)
    else:
        config, given = typed_path(options["config"]), given_options(options)
        print_text(mapping_tests.outcomes_text(result, config, given))
    sys.exit(result["exit_code"])


def _write(path: Path, content: bytes) -> None:
    from pipeline.errors import ConfigError
    from pipeline.files import replacing

    try:
        with replacing(path, _MODE) as part:
            part.write_bytes(content)
    except OSError as error:
        raise ConfigError(
            f"--junit {path}: {error.strerror}", "name a file in a folder that is there"
        ) from None


@click.command(short_help="Print the JSON Schema of the configuration, or of summary.json.")
@click.option(
    "--for",
    "what",
    type=click.Choice(list(_SCHEMAS)),
    default="configuration",
    show_default=True,
    help="Of the configuration file, or of summary.json.",
)
def schema(what: str) -> None:
    """Print the JSON Schema of the configuration, by which an editor checks and completes a TOML file.

    With --for summary, that of summary.json, which programs read after a run.
    """
    from importlib.resources import files

    package, name = _SCHEMAS[what]
    click.echo(files(package).joinpath(name).read_text("utf-8"), nl=False)
