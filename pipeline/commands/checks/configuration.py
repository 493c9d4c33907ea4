"""Checks of the configuration, which could be read, and of the secrets."""

from collections.abc import Iterator
from dataclasses import replace

from pipeline.commands.checks.context import Check, Context, failed, ok, warning, wrong
from pipeline.errors import ConfigError
from pipeline.job import UNDECIDED
from pipeline.rows.feed import Feed


def check_feeds(context: Context) -> Iterator[Check]:
    """Check that nothing in the feeds is still to be decided, and that ends are of the practice's day."""
    names = ", ".join(f"{feed.name} ({feed.kind.value})" for feed in context.job.feeds)
    yield ok("Configuration", "feeds", names)
    for each in context.job.undecided:
        yield wrong(
            "Configuration",
            f"line {each.line}",
            f"still to be decided: {each.what}" if each.what else "still to be decided",
            "replace the value; remove the line if there is nothing to set"
            if each.is_value
            else f"remove the word {UNDECIDED} once it is decided",
        )
    for feed in context.job.feeds:
        if feed.missing == "end" and not feed.timezone:
            yield warning(
                "Configuration",
                f"{feed.name}: missing",
                "coverages that are gone from the file end by the day in UTC, which may be another one where the practice is",
                f'set timezone of {feed.name}, such as "America/New_York"',
            )


def check_secrets(context: Context, no_secrets: ConfigError | None) -> Iterator[Check]:
    """Check that the credentials are complete. `no_secrets` says why they could not be read."""
    credentials = context.job.canvas.credentials
    if no_secrets is None:
        try:
            credentials.require()
        except ConfigError as error:
            no_secrets = error
    if no_secrets is not None:
        yield failed("Secrets", "secrets", no_secrets)
    else:
        yield ok("Secrets", "secrets", f"{credentials.named}: there")


def undecided_fields(feed: Feed) -> list[str]:
    """Return our fields whose column a person has still to name."""
    return [ours for ours, column in feed.columns.items() if column.startswith(UNDECIDED)]


def decided(feed: Feed) -> Feed:
    """Return the feed with what is decided of its columns."""
    undecided = undecided_fields(feed)
    columns = {ours: name for ours, name in feed.columns.items() if ours not in undecided}
    return replace(feed, columns=columns) if undecided else feed
