"""A certificate authority for one test, so that https on loopback can be verified."""

import ipaddress
import ssl
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def loopback_tls(
    *hosts: str, expired: bool = False
) -> tuple[ssl.SSLContext, ssl.SSLContext, bytes]:
    """Return contexts for a server and for its clients, and the certificate as PEM.

    Args:
        hosts: names and addresses in the certificate; 127.0.0.1 and localhost if none.
        expired: whether the certificate was good until yesterday only.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _certificate(key, hosts or ("127.0.0.1", "localhost"), expired=expired)
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:  # the ssl module reads files only
        chain = Path(folder, "chain.pem")
        chain.write_bytes(secret + pem)
        server.load_cert_chain(chain)
    return server, ssl.create_default_context(cadata=pem.decode()), pem


def write_pair(folder: Path, *hosts: str) -> tuple[Path, Path]:
    """Write a certificate for loopback and its key; returns their paths."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _certificate(key, hosts or ("127.0.0.1", "localhost"), expired=False)
    paths = folder / "certificate.pem", folder / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    return paths


def _certificate(
    key: ec.EllipticCurvePrivateKey, hosts: tuple[str, ...], *, expired: bool
) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fake registry")])
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=9))
        .not_valid_after(now + timedelta(days=-1 if expired else 9))
        .add_extension(x509.SubjectAlternativeName([_name(h) for h in hosts]), critical=False)
        .sign(key, hashes.SHA256())
    )


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
