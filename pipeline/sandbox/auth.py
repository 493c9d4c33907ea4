"""Tokens: the clients that may ask for one, its life, and its scope.

Source: docs/canvas.md, Access. Nothing of a token or a secret is ever written anywhere.
"""

from __future__ import annotations

import random
import re
import string
from dataclasses import dataclass
from hmac import compare_digest
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl

from pipeline.sandbox.assertions import TYPE, Assertions

if TYPE_CHECKING:
    from pipeline.sandbox.faults import Faults
    from pipeline.sandbox.rules import Json

EXPIRES_IN_S: Final = 36000
TOKENS_MAX: Final = 10_000
"""Tokens kept; the oldest is forgotten first."""
SCOPE_DEFAULT: Final = (
    "system/Patient.read system/Organization.read system/Claim.read system/Coverage.read"
    " system/Coverage.write system/PaymentNotice.read system/PaymentNotice.write"
)
SCOPE: Final = re.compile(r"(?:system|user|patient)/(\w+|\*)\.(read|write|\*|c?r?u?d?s?)")


@dataclass(slots=True)
class Token:
    """An issued token."""

    scope: str
    expires_at: float
    """By the sandbox's clock."""
    uses_left: int | None
    """None: no limit."""


@dataclass(frozen=True, slots=True)
class TokenAnswer:
    """The status and JSON body of the token endpoint."""

    status: int
    body: Json


class Auth:
    """The application that may use this sandbox, and its tokens."""

    def __init__(self, seed: Json, random_seed: str) -> None:
        """Take the credentials from the seed; `sandbox` and `sandbox` by default."""
        self._client_id = str(seed.get("client_id", "sandbox"))
        self._client_secret = str(seed.get("client_secret", "sandbox"))
        self._assertions = Assertions(self._client_id, seed.get("public_keys", []))
        self._static = str(seed.get("token", ""))
        self._scope = str(seed.get("scope", SCOPE_DEFAULT))
        self._tokens: dict[str, Token] = {}
        self._random = random.Random(f"tokens:{random_seed}")

    def issue(self, form: bytes, token_url: str, faults: Faults, now: float) -> TokenAnswer:
        """Answer a form-encoded request for a token (grant `client_credentials`).

        `token_url` is the address of the request: the audience of an assertion.
        """
        try:
            asked = dict(parse_qsl(form.decode(), keep_blank_values=True, max_num_fields=50))
        except ValueError:
            return _refused(400, "invalid_request")
        both = {"client_secret", "client_assertion"}  # RFC 6749, 2.3: one way to authenticate
        if "grant_type" not in asked or both <= asked.keys():
            return _refused(400, "invalid_request")
        if asked["grant_type"] != "client_credentials":
            return _refused(400, "unsupported_grant_type")
        if not self._knows(asked, token_url, now):
            return _refused(401, "invalid_client")
        scope = asked.get("scope") or self._scope
        if not set(scope.split()) <= {*self._scope.split(), *_as_patient(self._scope)}:
            return _refused(400, "invalid_scope")
        return self._issue(scope, faults, now)

    def _issue(self, scope: str, faults: Faults, now: float) -> TokenAnswer:
        name = "".join(self._random.choices(string.ascii_letters + string.digits, k=30))
        lives_s = EXPIRES_IN_S if faults.token_s is None else faults.token_s
        if len(self._tokens) >= TOKENS_MAX:
            del self._tokens[next(iter(self._tokens))]
        self._tokens[name] = Token(scope, now + lives_s, faults.token_uses)
        body = {
            "access_token": name,
            "expires_in": EXPIRES_IN_S,
            "token_type": "Bearer",
            "scope": scope,
        }
        return TokenAnswer(200, body)

    def _knows(self, asked: dict[str, str], token_url: str, now: float) -> bool:
        if "client_assertion" in asked:
            is_jwt = asked.get("client_assertion_type") == TYPE
            return is_jwt and self._assertions.take(asked["client_assertion"], token_url, now)
        client_id, client_secret = asked.get("client_id", ""), asked.get("client_secret", "")
        same_id = compare_digest(client_id.encode(), self._client_id.encode())
        return compare_digest(client_secret.encode(), self._client_secret.encode()) and same_id

    def scope_of(self, authorization: str, now: float) -> str | None:
        """Use a token once: return its scope, or None if it is unknown or has expired.

        `authorization` is the header's value. The seed's own `token` never expires.
        """
        scheme, _, name = authorization.partition(" ")
        if scheme.lower() != "bearer" or not name:
            return None
        token = self._tokens.get(name)
        if token is None:
            known = self._static and compare_digest(name.encode(), self._static.encode())
            return self._scope if known else None
        if now >= token.expires_at or token.uses_left == 0:
            del self._tokens[name]
            return None
        if token.uses_left is not None:
            token.uses_left -= 1
        return token.scope


def allows(scope: str, resource_type: str, *, write: bool) -> bool:
    """Return whether a scope holds `<context>/<resource_type>.read` or `.write` (or SMART 2's)."""
    if scope == SCOPE_DEFAULT:
        return True
    letters = "cu" if write else "rs"
    for name in scope.split():
        match = SCOPE.fullmatch(name)
        if match is None or match[1] not in {resource_type, "*"}:
            continue
        kind = match[2]
        if kind in {"*", "write" if write else "read"}:
            return True
        if kind not in {"read", "write"} and set(letters) <= set(kind):
            return True
    return False


def _as_patient(scope: str) -> set[str]:
    """Return the same scopes under `patient/` and `user/`: the table of Canvas lists writes there."""
    rest = [name.partition("/")[2] for name in scope.split()]
    return {f"{context}/{name}" for name in rest for context in ("patient", "user")}


def _refused(status: int, error: str) -> TokenAnswer:
    return TokenAnswer(status, {"error": error})
