"""The bearer token: fetched, kept, renewed before it expires, and on a 401 once for all requests.

Source: docs/canvas.md, "Access". Secrets are held here and in the environment, and never printed.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlencode

import orjson

from pipeline.canvas.assertion import TYPE, PrivateKey
from pipeline.canvas.reasons import REDIRECTS, address, reason, redirect
from pipeline.canvas.transport import Reply
from pipeline.clock import Clock
from pipeline.errors import AuthError, ConfigError

_RENEW_BEFORE_S: Final = 60.0
_LIFETIME_DEFAULT_S: Final = 3600.0  # if the answer names none
_GIVEN: Final = frozenset({200, 201})
_WAITS_S: Final = (1.0, 2.0, 4.0)  # before the first use of a token, after others were refused

_TOKEN: Final = re.compile(
    r"[ -~]{1,8000}", re.ASCII
)  # a longer one is no header that a server takes

# url, a function that makes the form of one attempt (an assertion is good for one) -> the answer
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
        """Return whether there are credentials."""
        return bool(self.token or (self._are_of_a_client and self.token_url))

    @property
    def named(self) -> str:
        """Return the names of the environment variables, for messages."""
        if self.token:
            return "CANVAS_TOKEN"
        if self.private_key is None:
            return "CANVAS_CLIENT_ID and CANVAS_CLIENT_SECRET"
        return f"CANVAS_CLIENT_ID and CANVAS_PRIVATE_KEY ({self.private_key.algorithm})"

    def require(self) -> None:
        """Raise ConfigError if there are no credentials."""
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
    """The one token of a run.

    A token is renewed before it expires, and when Canvas refuses it. A new one that is refused may
    not be known to all servers of Canvas yet: the next ones are used only after a short wait.
    """

    def __init__(
        self, credentials: Credentials, post: Post, pause: Callable[[float], None], clock: Clock
    ) -> None:
        """Get tokens by `post`; `pause` keeps all requests back for some seconds."""
        self._credentials = credentials
        self._post = post
        self._pause = pause
        self._clock = clock
        self._lock = asyncio.Lock()
        self._token = credentials.token
        self._renew_at_s = float("inf") if credentials.token else float("-inf")
        self.scope = ""  # as the last answer named it
        self._refused = 0  # tokens in a row, without a request that was accepted

    @property
    def has_been_given(self) -> bool:
        """Return whether a token was issued, so that the address and the credentials are right."""
        return bool(self._token)

    async def current(self) -> str:
        """Return a token that should be valid. Raises AuthError."""
        if self._is_fresh():
            return self._token
        async with self._lock:
            if not self._is_fresh():
                await self._renew()
        return self._token

    def accepted(self) -> None:
        """Note that a request was accepted."""
        self._refused = 0

    def refused(self, token: str) -> None:
        """Note that Canvas refused a token. Raises AuthError once it has refused enough new ones."""
        if token != self._token or not self._is_fresh():
            return  # it was renewed meanwhile, or will be: several requests were in flight with it
        self._refused += 1
        if self._credentials.token:
            raise AuthError(
                "Canvas does not accept the token in CANVAS_TOKEN",
                "set a new one, or a client id and secret",
            )
        if self._refused > 1 + len(_WAITS_S):
            raise AuthError(
                f"Canvas issues tokens and then refuses them: {self._refused} in a row",
                "check the application's scopes, and that canvas.base_url and canvas.token_url are of one instance",
            )
        self._renew_at_s = float("-inf")

    def renew(self, token: str) -> bool:
        """Replace this token, unless that was done meanwhile. Returns False if there is only one."""
        if self._credentials.token:
            return False
        if token == self._token:
            self._renew_at_s = float("-inf")
        return True

    def _is_fresh(self) -> bool:
        return self._clock.monotonic() < self._renew_at_s

    async def _renew(self) -> None:
        url = self._credentials.token_url
        reply = await self._post(url, self._form)
        if reply.status in REDIRECTS:
            raise AuthError(*redirect(url, reply, "canvas.token_url"))
        if reply.status not in _GIVEN:
            error = _error_of(reply.body)
            fixes = _REFUSED if self._credentials.private_key is None else _REFUSED_TO_A_KEY
            raise AuthError(
                f"no token: {address(url)} answers {reason(reply)}{error and f' ({error})'}",
                fixes.get(
                    error,
                    f"check {self._credentials.named}, canvas.token_url and canvas.scope",
                ),
            )
        self._token, lifetime_s, self.scope = _token_of(reply.body)
        self._renew_at_s = self._clock.monotonic() + max(
            lifetime_s - _RENEW_BEFORE_S, lifetime_s / 2
        )
        if self._refused > 1:
            self._pause(_WAITS_S[self._refused - 2])

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
        "the signature of CANVAS_PRIVATE_KEY is not accepted: check that its public half is registered under canvas.key_id for this CANVAS_CLIENT_ID, that canvas.token_url is spelled as Canvas spells it, and the clock of this machine",
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
    """Return the token, its lifetime in seconds, and its scope ("" if the answer names none)."""
    answer = _json_of(body)
    token, scope = answer.get("access_token"), answer.get("scope")
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise AuthError(
            "the answer of the token endpoint has no access_token", "check canvas.token_url"
        )
    lifetime = answer.get("expires_in")
    if not isinstance(lifetime, int | float) or lifetime <= 0:
        lifetime = _LIFETIME_DEFAULT_S
    return token, float(lifetime), scope if isinstance(scope, str) else ""
