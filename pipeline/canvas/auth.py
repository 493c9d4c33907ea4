"""The bearer token: fetched, kept, renewed before it expires, and once on a 401 for all waiters.

Source: canvas-api.md, "Access". Secrets are held here and in the environment, and never printed.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlencode

import orjson

from pipeline.canvas.assertion import TYPE, PrivateKey
from pipeline.canvas.transport import Reply
from pipeline.clock import Clock
from pipeline.errors import AuthError, ConfigError

_RENEW_BEFORE_S: Final = 60.0
_LIFETIME_DEFAULT_S: Final = 3600.0  # where the answer names none
_OK: Final = 200

_TOKEN: Final = re.compile(
    r"[ -~]{1,8000}", re.ASCII
)  # a longer one is no header that a server takes

# url, what makes the form of one try (an assertion is good for one) -> the answer
Post = Callable[[str, Callable[[], bytes]], Awaitable[Reply]]


@dataclass(frozen=True, slots=True)
class Credentials:
    """A client's id with its secret or its private key, or a ready token."""

    token_url: str
    client_id: str = field(default="", repr=False)
    client_secret: str = field(default="", repr=False)
    private_key: PrivateKey | None = field(default=None, repr=False)
    token: str = field(default="", repr=False)
    scope: str = ""

    @property
    def _are_of_a_client(self) -> bool:
        return bool(self.client_id and (self.client_secret or self.private_key))

    @property
    def are_given(self) -> bool:
        """Whether there is something to get in with."""
        return bool(self.token or (self._are_of_a_client and self.token_url))

    @property
    def named(self) -> str:
        """What they are, in a word for people."""
        if self.token:
            return "CANVAS_TOKEN"
        if self.private_key is None:
            return "CANVAS_CLIENT_ID and CANVAS_CLIENT_SECRET"
        return f"CANVAS_CLIENT_ID and CANVAS_PRIVATE_KEY ({self.private_key.algorithm})"

    def require(self) -> None:
        """Raises ConfigError where there is nothing to get in with."""
        if self.token:
            return
        if not self._are_of_a_client:
            raise ConfigError(
                "no credentials for Canvas",
                "set CANVAS_CLIENT_ID and CANVAS_CLIENT_SECRET (or CANVAS_PRIVATE_KEY, or CANVAS_TOKEN alone) in the environment, "
                "or name files that hold them with _FILE at the end of the name",
            )
        if not self.token_url:
            raise ConfigError(
                "canvas.token_url is missing",
                "it is https://<instance>.canvasmedical.com/auth/token/",
            )


class Tokens:
    """The one token of a run."""

    def __init__(self, credentials: Credentials, post: Post, clock: Clock) -> None:
        self._credentials = credentials
        self._post = post
        self._clock = clock
        self._lock = asyncio.Lock()
        self._token = credentials.token
        self._renew_at_s = float("inf") if credentials.token else float("-inf")
        self.scope = ""  # as the last answer named it
        self._refused = 0  # tokens in a row that were refused without a request that was let in

    async def current(self) -> str:
        """A token that should be good. Raises AuthError."""
        if self._is_fresh():
            return self._token
        async with self._lock:
            if not self._is_fresh():
                await self._renew()
        return self._token

    def accepted(self) -> None:
        """A request was let in."""
        self._refused = 0

    def refused(self, token: str) -> None:
        """Canvas answered 401. Raises AuthError once a new token was refused too."""
        if token != self._token or not self._is_fresh():
            return  # it was renewed in between, or will be: several were in flight with it
        self._refused += 1
        if self._credentials.token:
            raise AuthError(
                "Canvas does not take the token in CANVAS_TOKEN",
                "set a fresh one, or a client id and secret",
            )
        if self._refused > 1:
            raise AuthError(
                "Canvas gives a token and then refuses it",
                "check the application's scopes, and canvas.base_url",
            )
        self._renew_at_s = float("-inf")

    def _is_fresh(self) -> bool:
        return self._clock.monotonic() < self._renew_at_s

    async def _renew(self) -> None:
        reply = await self._post(self._credentials.token_url, self._form)
        if reply.status != _OK:
            error = _error_of(reply.body)
            fixes = _REFUSED if self._credentials.private_key is None else _REFUSED_TO_A_KEY
            raise AuthError(
                f"no token: {self._credentials.token_url} answers {reply.status or reply.problem}{error and f' ({error})'}",
                fixes.get(
                    error,
                    f"check {self._credentials.named}, canvas.token_url and canvas.scope",
                ),
            )
        self._token, lifetime_s, self.scope = _token_of(reply.body)
        self._renew_at_s = self._clock.monotonic() + max(
            lifetime_s - _RENEW_BEFORE_S, lifetime_s / 2
        )

    def _form(self) -> bytes:
        given = self._credentials
        form = {"grant_type": "client_credentials"}
        if given.private_key is None:
            form |= {"client_id": given.client_id, "client_secret": given.client_secret}
        else:
            signed = given.private_key.assertion(
                given.client_id, given.token_url, self._clock.now()
            )
            form |= {"client_assertion_type": TYPE, "client_assertion": signed}
        if given.scope:
            form["scope"] = given.scope
        return urlencode(form).encode()


# The errors of RFC 6749, 5.2; no other text of an answer is repeated.
_REFUSED: Final = {
    "invalid_client": "CANVAS_CLIENT_ID or CANVAS_CLIENT_SECRET is wrong or has expired: make a new secret in Canvas, and set it",
    "invalid_scope": "the application is not allowed canvas.scope: leave it empty, or widen the application's scopes in Canvas",
    "unauthorized_client": "the application may not use client_credentials: change its grant type in Canvas",
    "unsupported_grant_type": "check canvas.token_url: it ends in /auth/token/",
    "invalid_request": "check canvas.token_url: it ends in /auth/token/",
    "invalid_grant": "CANVAS_CLIENT_ID or CANVAS_CLIENT_SECRET is wrong or has expired: make a new secret in Canvas, and set it",
}

_REFUSED_TO_A_KEY: Final = {
    **_REFUSED,
    **dict.fromkeys(
        ("invalid_client", "invalid_grant"),
        "the signature of CANVAS_PRIVATE_KEY is not taken: check that its public half is registered under canvas.key_id for this CANVAS_CLIENT_ID, that canvas.token_url is spelt as Canvas spells it, and the clock of this machine",
    ),
}


def _json_of(body: bytes) -> dict[str, Any]:
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _error_of(body: bytes) -> str:
    error = _json_of(body).get("error")
    return error if isinstance(error, str) and error in _REFUSED else ""


def _token_of(body: bytes) -> tuple[str, float, str]:
    """The token, its lifetime in seconds, and its scope ("" where the answer names none)."""
    answer = _json_of(body)
    token, scope = answer.get("access_token"), answer.get("scope")
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise AuthError(
            "the token endpoint's answer holds no access_token", "check canvas.token_url"
        )
    lifetime = answer.get("expires_in")
    if not isinstance(lifetime, int | float) or lifetime <= 0:
        lifetime = _LIFETIME_DEFAULT_S
    return token, float(lifetime), scope if isinstance(scope, str) else ""
