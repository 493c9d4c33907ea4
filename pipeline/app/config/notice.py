"""The recipients of the notice of how a command ended."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from pipeline.app.config.addresses import secure_url
from pipeline.app.config.file import read_file, tables_of
from pipeline.app.config.secrets import secret
from pipeline.app.config.sections import NotifySection
from pipeline.app.notify import Recipients
from pipeline.errors import ConfigError
from pipeline.system.environment import variables

_WEBHOOK: Final = "CANVAS_INGEST_WEBHOOK_URL"


def load_recipients(path: str | Path) -> Recipients | None:
    """Return the recipients that a configuration file and the environment name; None if there are none.

    An error in the file is among the things to be notified of, so the file may have any: then the
    environment's webhook alone is used.
    """
    path, section = Path(path), NotifySection.model_validate({})
    with suppress(ConfigError, ValueError):
        tables = tables_of(path, read_file(path))
        section = NotifySection.model_validate(tables.get("notify", {}))
    try:
        found = recipients_of(section, variables())
    except ConfigError:
        return None
    return found if found.settings.command or found.webhook else None


def recipients_of(section: NotifySection, environment: Mapping[str, str]) -> Recipients:
    """Return the recipients of a notice.

    Raises:
        ConfigError: The address of the webhook cannot be read, or a secret may not be sent to it.
    """
    url = secret(_WEBHOOK, environment)
    used = secure_url(url) if url else ""
    if used is None:
        raise ConfigError(
            f"{_WEBHOOK}: must be https://host/path (http only for 127.0.0.1, [::1] or localhost)",
            "set it to the whole address that your chat or alerting system shows, or unset it",
        )
    return Recipients(section, used)
