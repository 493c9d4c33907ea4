"""A client that signs for itself in place of a secret: private_key_jwt (RFC 7523, 2.2 and 3).

As in SMART Backend Services: RS384 or ES384, a key id in the header, the client's id as issuer
and subject, the token endpoint as audience, an id that is used once, and a life of minutes. The
library's own errors hold the key and are never shown.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import uuid4

import orjson

from pipeline.errors import ConfigError

TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_LIVES_S: Final = 240  # at most five minutes by the server's clock, which may be one behind ours
_RSA_BITS_MIN: Final = 2048


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """A key to sign with, its algorithm, and the id under which Canvas knows its public half."""

    key: Any = field(repr=False)
    algorithm: str
    key_id: str

    def assertion(self, client_id: str, token_url: str, now: datetime) -> str:
        """Return a signed assertion for one request of a token."""
        import jwt  # noqa: PLC0415 - takes 0.1 s, and only those who sign need it

        at_s = int(now.timestamp())
        claims = {
            "iss": client_id,
            "sub": client_id,
            "aud": token_url,
            "jti": str(uuid4()),
            "iat": at_s,
            "exp": at_s + _LIVES_S,
        }
        return jwt.encode(claims, self.key, self.algorithm, {"kid": self.key_id})


def private_key_of(text: str, key_id: str) -> PrivateKey:
    """Read CANVAS_PRIVATE_KEY: PEM, or a JWK. `key_id` "": that of the JWK. Raises ConfigError."""
    is_jwk = text.startswith("{")
    jwk = _jwk_of(text) if is_jwk else {}
    key = _of_jwk(jwk) if is_jwk else _of_pem(text)
    named = jwk.get("kid", "")
    if key_id and named and named != key_id:
        raise ConfigError(
            "canvas.key_id is not the kid of CANVAS_PRIVATE_KEY",
            "leave canvas.key_id out, or name the key that is meant",
        )
    if not (key_id or (named and isinstance(named, str))):
        raise ConfigError(
            "canvas.key_id is missing",
            "name the id (kid) under which the key's public half is registered",
        )
    return PrivateKey(key, _algorithm_of(key), key_id or named)


def _jwk_of(text: str) -> dict[str, Any]:
    try:
        jwk: dict[str, Any] = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise _unfit("it begins as a JWK, and is no JSON") from None
    if jwk.get("kty") in {"RSA", "EC"} and "d" not in jwk:
        raise _unfit("it is the public half")
    return jwk


def _of_jwk(jwk: dict[str, Any]) -> Any:
    from jwt import PyJWTError  # noqa: PLC0415
    from jwt.algorithms import ECAlgorithm, RSAAlgorithm  # noqa: PLC0415

    readers = {"RSA": RSAAlgorithm.from_jwk, "EC": ECAlgorithm.from_jwk}
    read = readers.get(str(jwk.get("kty")))
    if read is None:
        raise _unfit("it is a JWK of another type, or a set of them")
    try:
        return read(jwk)
    except (PyJWTError, ValueError, TypeError, AttributeError, KeyError):
        raise _unfit("it is a damaged JWK") from None


def _of_pem(text: str) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    if "-----BEGIN PUBLIC KEY" in text or "-----BEGIN CERTIFICATE" in text:
        raise _unfit("it is the public half")
    try:
        return load_pem_private_key(text.encode(), password=None)
    except TypeError:
        raise _unfit("it is encrypted, and a nightly run cannot ask for its password") from None
    except (ValueError, UnsupportedAlgorithm):
        raise _unfit("it is neither PEM nor a JWK") from None


def _algorithm_of(key: Any) -> str:
    from cryptography.hazmat.primitives.asymmetric import ec, rsa  # noqa: PLC0415

    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= _RSA_BITS_MIN:
        return "RS384"
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP384R1):
        return "ES384"
    raise _unfit("it is of another kind, or too short")


def _unfit(why: str) -> ConfigError:
    return ConfigError(
        f"CANVAS_PRIVATE_KEY: {why}",
        "set an RSA key of 2048 bits or more, or an EC key of P-384, as unencrypted PEM or as a JWK, in a file of mode 0600 that CANVAS_PRIVATE_KEY_FILE names",
    )
