"""A certificate authority and what it signs, as files."""

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mirror.settings import ServerTls


class Authority:
    """Signs certificates for one test."""

    def __init__(self, directory: Path, name: str = "test authority") -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        built = self._begun(self._name, self._key).add_extension(constraints, critical=True)
        self.file = directory / f"{name.replace(' ', '-')}.pem"
        self.file.write_bytes(_pem(built.sign(self._key, hashes.SHA256())))

    def server(self, name: str = "server", *, client_ca: Path | None = None) -> ServerTls:
        """Write a new certificate for loopback, and say where."""
        key = ec.generate_private_key(ec.SECP256R1())
        hosts: list[x509.GeneralName] = [x509.DNSName("localhost")]
        hosts.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        built = self._begun(subject, key).add_extension(
            x509.SubjectAlternativeName(hosts), critical=False
        )
        certificate, secret = self._written(name, built, key)
        return ServerTls(certificate=certificate, key=secret, client_ca=client_ca)

    def client(self, *names: tuple[x509.ObjectIdentifier, str], uri: str) -> tuple[Path, Path]:
        """Write a certificate for a client; returns its file and that of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(kind, value) for kind, value in names])
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
        built = (
            self._begun(subject, key)
            .add_extension(usage, critical=False)
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False
            )
        )
        return self._written("client", built, key)

    def _begun(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
        )

    def _written(
        self, name: str, built: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey
    ) -> tuple[Path, Path]:
        certificate, secret = (self._directory / f"{name}.{end}" for end in ("crt", "key"))
        certificate.write_bytes(_pem(built.sign(self._key, hashes.SHA256())))
        encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        secret.write_bytes(key.private_bytes(encoding, form, serialization.NoEncryption()))
        return certificate, secret


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
