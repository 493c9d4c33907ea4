"""The access to Canvas and the object stores: addresses, certificates and credentials."""

from collections.abc import Mapping
from pathlib import Path

from pipeline.app.config.addresses import is_loopback
from pipeline.app.config.file import File
from pipeline.app.config.secrets import require_readable, secret
from pipeline.canvas.assertion import private_key_of
from pipeline.canvas.auth import Credentials
from pipeline.canvas.client import Options
from pipeline.canvas.proxy import Proxy, unused
from pipeline.canvas.trust import trust
from pipeline.errors import ConfigError
from pipeline.reading import fetch


def canvas_of(file: File, folder: Path, environment: Mapping[str, str]) -> Options:
    """Return how Canvas is reached.

    Raises:
        ConfigError: A certificate or a secret cannot be used.
    """
    section = file.canvas
    ca_file = folder / section.ca_file if section.ca_file else None
    certificate = None
    if section.cert_file:
        certificate = (folder / section.cert_file, folder / section.key_file)
        require_readable("canvas.cert_file", certificate[0])
        require_readable("canvas.key_file", certificate[1])
    trust(ca_file, certificate)  # so that an error in them is reported now
    client_secret = secret("CANVAS_CLIENT_SECRET", environment)
    private_key = secret("CANVAS_PRIVATE_KEY", environment, is_one_line=False)
    if client_secret and private_key:
        raise ConfigError(
            "CANVAS_CLIENT_SECRET and CANVAS_PRIVATE_KEY are both set",
            "unset the one that Canvas does not ask for",
        )
    credentials = Credentials(
        token_url=section.token_url,
        client_id=secret("CANVAS_CLIENT_ID", environment),
        client_secret=client_secret,
        private_key=private_key_of(private_key, section.key_id) if private_key else None,
        token=secret("CANVAS_TOKEN", environment),
        scope=section.scope,
    )
    return Options(
        base_url=section.base_url.rstrip("/"),
        credentials=credentials,
        rate_per_s=file.upload.rate_per_s,
        concurrency=file.upload.concurrency,
        timeout_s=section.timeout_s,
        ca_file=ca_file,
        certificate=certificate,
        proxy=_proxy(section.proxy, environment) if section.proxy else None,
        unused_proxy="" if section.proxy else unused(environment),
        location_hosts=tuple(section.location_hosts),
    )


def _proxy(url: str, environment: Mapping[str, str]) -> Proxy:
    username = secret("CANVAS_PROXY_USERNAME", environment)
    password = secret("CANVAS_PROXY_PASSWORD", environment)
    if bool(username) != bool(password) or ":" in username:
        raise ConfigError(
            "CANVAS_PROXY_USERNAME and CANVAS_PROXY_PASSWORD: set one without the other, or a colon in the name",
            "set both (or name files that hold them with _FILE), or neither if the proxy asks for none",
        )
    return Proxy(url, username, password)


def objects_of(environment: Mapping[str, str]) -> fetch.Options:
    """Return how object stores are reached.

    They read their own variables; http is allowed only if the endpoint is this machine.
    """
    named = (environment.get(name, "") for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"))
    return fetch.Options(allow_http=is_loopback(next(filter(None, named), "")))
