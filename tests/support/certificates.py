"""An authority made up for one test, and servers' certificates of any kind that it signs."""

import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = timedelta(days=1)


class Authority:
    """An authority that signs certificates of servers. `path` is its own one, as PEM.

    It signs itself, or is an intermediate one that `signed_by` signs.
    """

    def __init__(
        self,
        folder: Path,
        name: str = "made-up authority",
        *,
        signed_by: "Authority | None" = None,
    ) -> None:
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.now(UTC)
        issuer = signed_by or self
        certificate = _signed(
            self._name, issuer._name, self._key, issuer._key, (now - 9 * DAY, now + 9 * DAY), None
        )
        self.path = folder / f"{name.replace(' ', '-')}.pem"
        self.path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def server(
        self,
        *,
        names: tuple[str, ...] = ("127.0.0.1",),
        days: tuple[int, int] = (-1, 1),
        signs_itself: bool = False,
    ) -> ssl.SSLContext:
        """Return the certificate of a server with these names, valid `days` from now on."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.pem(names=names, days=days, signs_itself=signs_itself))
        return context

    def pem(
        self,
        *,
        names: tuple[str, ...] = ("127.0.0.1",),
        days: tuple[int, int] = (-1, 1),
        signs_itself: bool = False,
    ) -> Path:
        """Return the same as a file, key and certificate."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "made-up server")])
        now = datetime.now(UTC)
        certificate = _signed(
            name,
            name if signs_itself else self._name,
            key,
            key if signs_itself else self._key,
            (now + days[0] * DAY, now + days[1] * DAY),
            names,
        )
        path = self.folder / f"server-{id(certificate)}.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        path.chmod(0o600)
        return path


def _signed(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    valid: tuple[datetime, datetime],
    names: tuple[str, ...] | None,
) -> x509.Certificate:
    """Return a certificate; that of an authority if `names` is None."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(valid[0])
        .not_valid_after(valid[1])
        .add_extension(x509.BasicConstraints(ca=names is None, path_length=None), critical=True)
    )
    if names is not None:
        alternatives = x509.SubjectAlternativeName([_general(name) for name in names])
        builder = builder.add_extension(alternatives, critical=False)
    return builder.sign(signer, hashes.SHA256())


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)
