"""The sections of the file that say where Canvas, the journal, the reports and the notice are.

The other sections are in `feeds`, `references` and `pipeline.job`.
"""

import re
from typing import Final, Self

from pydantic import Field, field_validator, model_validator

from pipeline.app.config.addresses import DatabaseAddress, secure_url
from pipeline.canvas.hosts import is_host_name
from pipeline.fhir import codes
from pipeline.job import Section
from pipeline.system.environment import PASSED_ON, is_secret

_EXIT_CODES: Final = frozenset({0, 1, 2, 3, 4, 5, 130})
_PROXY: Final = re.compile(
    r"http://(?:[a-z0-9.-]{1,253}|\[[0-9a-f:.]{2,45}\]):(?P<port>[0-9]{1,5})",
    re.ASCII | re.IGNORECASE,
)


class CanvasSection(Section):
    base_url: str = Field(
        description="Address of the FHIR API: `https://fumage-<instance>.canvasmedical.com` (http only for this machine). A journal belongs to one."
    )
    token_url: str = Field(
        "",
        description="Where tokens are asked for: `https://<instance>.canvasmedical.com/auth/token/`, with the slash at the end. Needed unless `CANVAS_TOKEN` is set.",
    )
    contract: codes.Contract = Field(
        codes.Contract.OF_2025_10,
        description="The shape of Coverage: the API has no version number. `2023` for an instance from before October 2025.",
    )
    scope: str = Field(
        "",
        description="Sent with the request for a token; empty: left out, and the token allows whatever the application is allowed.",
    )
    key_id: str = Field(
        "",
        pattern=r"^[!-~]{0,256}$",
        description="With `CANVAS_PRIVATE_KEY`: the id (`kid`) under which its public half is registered. Empty: the `kid` of the key itself, where it is a JWK.",
    )
    ca_file: str = Field(
        "",
        description="PEM file with the certificates of your own authority, where a gateway of yours answers for Canvas; then no other authority is trusted. Empty: those of the machine. Verification cannot be switched off.",
    )
    cert_file: str = Field(
        "",
        description="PEM file with the client certificate that a gateway of yours asks for; with `key_file`.",
    )
    key_file: str = Field(
        "",
        description="PEM file with the key of that certificate, unencrypted, of mode 0600.",
    )
    proxy: str = Field(
        "",
        description="`http://host:port` of a forward proxy that all requests to Canvas, and for tokens, go through (CONNECT for https: TLS stays end to end). `CANVAS_PROXY_USERNAME` and `CANVAS_PROXY_PASSWORD` are shown to it. Proxies of the environment (`HTTPS_PROXY`) are not used.",
    )
    location_hosts: list[str] = Field(
        [],
        max_length=20,
        description='Hosts beside that of `base_url` that a `Location`, or the `next` link of a search, may name, where a gateway in front of Canvas leaves them as they are: `["fumage-<instance>.canvasmedical.com"]`. Names only, without scheme and port. Nothing is ever sent to them.',
    )
    timeout_s: float = Field(
        30.0,
        gt=0,
        le=600,
        description="Seconds to wait for one answer. A write without an answer by then is in doubt.",
    )

    @field_validator("proxy")
    @classmethod
    def _is_a_proxy(cls, url: str) -> str:
        match = _PROXY.fullmatch(url)
        if url and (match is None or not 0 < int(match["port"]) < 65_536):  # noqa: PLR2004 - ports
            raise ValueError(
                "must be http://host:port, without a user or a path; credentials come from CANVAS_PROXY_USERNAME and CANVAS_PROXY_PASSWORD"
            )
        return url

    @model_validator(mode="after")
    def _has_both_files(self) -> Self:
        if bool(self.cert_file) != bool(self.key_file):
            raise ValueError("cert_file and key_file go together: name both, or neither")
        return self

    @field_validator("location_hosts")
    @classmethod
    def _are_host_names(cls, hosts: list[str]) -> list[str]:
        if not all(map(is_host_name, hosts)):
            raise ValueError(
                'must be host names in lower case, such as "fumage-example.canvasmedical.com", without scheme, port and path'
            )
        return hosts

    @field_validator("base_url", "token_url")
    @classmethod
    def _is_whole(cls, url: str) -> str:
        """Check an address that the token is sent to: https, or http to this machine; no user, no query."""
        if not url:
            return url
        used = secure_url(url)
        if used is None or "?" in used:
            raise ValueError(
                "must be https://host[:port][/path] (http only for 127.0.0.1, [::1] or localhost); a host beyond ASCII is written as xn--..."
            )
        return used


class FolderSection(Section):
    dir: str = Field(
        description="Path of a folder of your own, made with mode 0700 where it is not there."
    )


class StateSection(Section):
    dir: str = Field(
        "state",
        description="Path of a folder of your own, made with mode 0700 where it is not there.",
    )
    url: DatabaseAddress = Field(
        "",
        description="Address of a database in PostgreSQL that holds the journal in place of a file in `dir`, so that several machines can share it: `postgresql://user@host:5432/database?sslmode=verify-full`, one database for each Canvas. The password comes from PGPASSWORD or a password file. Needs `canvas-ingest[postgresql]`.",
    )
    lease_s: float = Field(
        15.0,
        ge=3,
        le=300,
        description="With `url`: how long a process that is gone, or frozen, is waited for before another takes over. Two seconds of it are the margin for clocks and pauses.",
    )


class ReportSection(FolderSection):
    metrics: str = Field(
        "",
        description="File for Prometheus text about the last run, for a node exporter's textfile collector (its name must end in .prom); empty: none.",
    )

    @field_validator("metrics")
    @classmethod
    def _is_collected(cls, path: str) -> str:
        if path and not path.endswith(".prom"):
            raise ValueError("must end in .prom: a node exporter reads no other file")
        return path


class RetentionSection(Section):
    days: int | None = Field(
        None,
        ge=1,
        le=36_500,
        description="Each `run` ends with what `journal purge` does: it removes what runs before that many days ago left of rows (plans, and reports but for `summary.json`). Left out: all is kept. What could send a payment twice stays.",
    )


class NotifySection(Section):
    on: tuple[int, ...] = Field(
        (1, 2, 3, 4, 5, 130),
        description="Exit codes of `run` and `verify` after which the notice is sent; 0 may be among them.",
    )
    command: tuple[str, ...] = Field(
        (),
        description="Program and arguments, without a shell, that gets the notice as one JSON object on stdin. The webhook's address is a secret: CANVAS_INGEST_WEBHOOK_URL.",
    )
    timeout_s: float = Field(
        10.0,
        gt=0,
        le=60,
        description="Seconds that the command, and the webhook, may take.",
    )
    env: tuple[str, ...] = Field(
        (),
        description="Names of variables that the command gets from our environment, beside "
        + ", ".join(f"`{name}`" for name in PASSED_ON)
        + " and `LC_*`. None that begins with `CANVAS_`: those hold secrets.",
    )

    @field_validator("env")
    @classmethod
    def _are_no_secrets(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if any(is_secret(name) for name in names):
            raise ValueError(
                "must name no variable that begins with CANVAS_, and not PGPASSWORD: they hold secrets of ours"
            )
        return names

    @field_validator("on")
    @classmethod
    def _are_exit_codes(cls, codes: tuple[int, ...]) -> tuple[int, ...]:
        if not set(codes) <= _EXIT_CODES:
            raise ValueError(f"must be exit codes: {', '.join(map(str, sorted(_EXIT_CODES)))}")
        if not codes:
            raise ValueError("must name at least one exit code; remove [notify] to send no notice")
        return codes

    @field_validator("command")
    @classmethod
    def _has_program(cls, command: tuple[str, ...]) -> tuple[str, ...]:
        if command and not command[0].strip():
            raise ValueError("must begin with a program; leave it out to run none")
        return command
