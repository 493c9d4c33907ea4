"""Check assertions that a client signed: issuer, audience and expiry, and that each is used once.

Source: RFC 7523, 3; SMART Backend Services, "Authenticating to the token endpoint".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pipeline.sandbox.rules import Json

TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
LIVES_S_MAX: Final = 300
ALGORITHMS: Final = ("RS384", "ES384")
REQUIRED: Final = ("iss", "sub", "aud", "exp", "jti")
USED_MAX: Final = 10_000
"""Ids of assertions that are remembered; beyond them all are refused until some have expired."""


class Assertions:
    """The public keys of the application, and the assertions that it has used."""

    def __init__(self, client_id: str, keys: list[Json]) -> None:
        """Take the keys, as JWKs with a `kid`."""
        self._client_id = client_id
        self._keys = {str(key.get("kid")): key for key in keys}
        self._used: dict[str, float] = {}

    def take(self, text: str, token_url: str, now: float) -> bool:
        """Use an assertion and return whether it is good. `now` is by the sandbox's clock."""
        import jwt  # noqa: PLC0415 - only where there are keys

        try:
            header = jwt.get_unverified_header(text)
            key = self._keys.get(str(header.get("kid")))
            if key is None or header.get("alg") not in ALGORITHMS:
                return False
            claims = jwt.decode(
                text,
                jwt.PyJWK(key, header["alg"]),
                algorithms=[header["alg"]],
                audience=token_url,
                issuer=self._client_id,
                subject=self._client_id,
                options={
                    "require": list(REQUIRED),
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                },
            )
        except jwt.PyJWTError:
            return False
        return self._is_fresh(claims, now)

    def _is_fresh(self, claims: dict[str, Any], now: float) -> bool:
        until, name = claims["exp"], claims["jti"]
        if not isinstance(until, int | float) or not isinstance(name, str):
            return False
        self._used = {used: expires for used, expires in self._used.items() if expires > now}
        if not now < until <= now + LIVES_S_MAX or name in self._used:
            return False
        if len(self._used) >= USED_MAX:
            return False
        self._used[name] = until
        return True
