"""TLS: the authorities that are trusted, our certificate, and why a connection is not trusted."""

import ssl
from functools import cache
from pathlib import Path
from typing import Final

from pipeline.canvas.causes import HTTP2_ONLY
from pipeline.errors import ConfigError


def trust(ca_file: Path | None, certificate: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    """Return a context that requires a certificate for the peer's name, of a trusted authority, by TLS 1.2 or later.

    This cannot be switched off.

    Args:
        ca_file: The only authorities that are trusted; None: those of the machine.
        certificate: What we show to a gateway that asks: a certificate and its key, both PEM files.

    Raises:
        ConfigError: If a file does not hold what it should.
    """
    if ca_file is None and certificate is None:
        return _trust_as_the_machine()
    context = _strict()
    if ca_file is None:
        context.load_default_certs()
    else:
        _load_authorities(context, ca_file)
    if certificate is not None:
        _load_own(context, *certificate)
    return context


def _load_authorities(context: ssl.SSLContext, ca_file: Path) -> None:
    try:
        context.load_verify_locations(ca_file)
    except OSError as error:  # an ssl.SSLError is one, too
        is_read = isinstance(error, ssl.SSLError)
        raise ConfigError(
            f"canvas.ca_file: {'no certificate in it' if is_read else error.strerror}",
            "name a PEM file that holds the certificates of your authority",
        ) from None


def _load_own(context: ssl.SSLContext, cert_file: Path, key_file: Path) -> None:
    for name, path, mark in (
        ("canvas.cert_file", cert_file, b"-----BEGIN CERTIFICATE-----"),
        ("canvas.key_file", key_file, b"PRIVATE KEY-----"),
    ):
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ConfigError(f"{name}: {error.strerror}", f"check the path {path}") from None
        if mark not in content:
            what = "certificate" if name.endswith("cert_file") else "private key"
            raise ConfigError(f"{name}: no {what} in PEM in it", "name a file in PEM format")
    try:
        context.load_cert_chain(cert_file, key_file, password=_refuse_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(
                "canvas.key_file: the key is not that of the certificate in canvas.cert_file",
                "name the two files that were issued together",
            ) from None
        raise ConfigError(
            "canvas.cert_file, canvas.key_file: the certificate or the key is damaged",
            "have both issued again, as PEM",
        ) from None


def _refuse_password() -> str:
    """Keep OpenSSL from asking at the terminal."""
    raise ConfigError(
        "canvas.key_file: the key is encrypted",
        "store it unencrypted, in a file of mode 0600: openssl pkey -in KEY -out PLAIN",
    )


@cache
def _trust_as_the_machine() -> ssl.SSLContext:
    """Return the machine's context, loaded once: it holds some hundred authorities, and takes 20 ms."""
    context = _strict()
    context.load_default_certs()
    return context


def _strict() -> ssl.SSLContext:
    """Return a context without `ssl.create_default_context`, which writes session keys to SSLKEYLOGFILE."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def distrust(error: BaseException, *, handed_off: bool = False) -> str:
    """Return why a TLS connection is not trusted, or does not trust us; "" if it only broke off.

    `handed_off`: after the request was sent; then only an alert about our certificate counts, which
    TLS 1.3 sends at that moment.
    """
    if isinstance(error, ssl.SSLError) and error.reason in _ALERTS:
        return _ALERTS[error.reason]
    match error:
        case _ if handed_off:
            return ""
        case ssl.SSLCertVerificationError():
            return _CERTIFICATES.get(error.verify_code, "its certificate is not valid")
        case ssl.SSLEOFError() | ssl.SSLZeroReturnError() | ssl.SSLSyscallError():
            return ""
        case ssl.SSLError():
            return _HANDSHAKES.get(error.reason or "", "it agrees on no TLS that is safe")
        case _:
            return ""


# By the codes of OpenSSL's x509_vfy.h, and the names of its reasons.
_CERTIFICATES: Final = {
    2: "the authority that signed it was itself signed by one that is not trusted here: its root certificate is missing",
    9: "its certificate is not valid yet",
    10: "its certificate has expired",
    18: "its certificate is self-signed",
    19: "its certificate is signed by an authority that is not trusted here",
    20: "its certificate is signed by an authority that is not trusted here",
    21: "its certificate is signed by an authority that is not trusted here",
    62: "its certificate is for another name",
    64: "its certificate is for another address",
}
_HANDSHAKES: Final = {
    **dict.fromkeys(
        ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"),
        "what answers there speaks no TLS",
    ),
    "TLSV1_ALERT_NO_APPLICATION_PROTOCOL": HTTP2_ONLY,
    "NO_APPLICATION_PROTOCOL": HTTP2_ONLY,
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "it refuses the handshake: it asks for a client certificate (canvas.cert_file, canvas.key_file), or agrees on no TLS that is safe",
}
_NOT_OURS: Final = "it does not accept our client certificate (canvas.cert_file)"
_ALERTS: Final = {
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it asks for a client certificate (canvas.cert_file, canvas.key_file)",
    "TLSV1_ALERT_UNKNOWN_CA": _NOT_OURS,
    "SSLV3_ALERT_BAD_CERTIFICATE": _NOT_OURS,
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": _NOT_OURS,
    "SSLV3_ALERT_CERTIFICATE_REVOKED": _NOT_OURS,
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": _NOT_OURS,
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": _NOT_OURS,
    "TLSV1_ALERT_ACCESS_DENIED": _NOT_OURS,
}
