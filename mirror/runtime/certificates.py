"""The certificates of listeners and upstreams, from files to what a handshake needs."""

import ssl
from pathlib import Path
from typing import Final, NoReturn

from mirror.settings import ServerTls

_FILE_MAX_BYTES: Final = 1 << 20
_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2: what keeps a recorded download secret when the key is stolen later."""


class CertificateError(Exception):
    """The files of a certificate cannot be used; the message says which and why."""


class _EncryptedError(Exception):
    """A key has a password."""


def server_context(tls: ServerTls, key: str) -> ssl.SSLContext:
    """Read the files of a listener.

    Args:
        tls: Which files.
        key: The configuration key to name when one is wrong, such as ``server.tls``.

    Raises:
        CertificateError: one is wrong, or they do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])
    _check(tls.certificate, f"{key}.certificate", b"-----BEGIN CERTIFICATE-----", "a certificate")
    _check(tls.key, f"{key}.key", b"PRIVATE KEY-----", "a private key")
    try:
        context.load_cert_chain(tls.certificate, tls.key, password=_refuse_password)
    except _EncryptedError:
        problem = f"{key}.key: {tls.key} is encrypted: give a key without a password"
        raise CertificateError(problem) from None
    except (ssl.SSLError, OSError) as error:
        raise CertificateError(_chain_problem(tls, key, error)) from None
    if tls.client_ca is not None:
        _ask_for_certificates(context, tls.client_ca, f"{key}.client_ca")
    return context


def _ask_for_certificates(context: ssl.SSLContext, path: Path, key: str) -> None:
    _check(path, key, b"-----BEGIN CERTIFICATE-----", "a certificate")
    try:
        context.load_verify_locations(path)
    except (ssl.SSLError, OSError) as error:
        raise CertificateError(f"{key}: {path}: {said(error)}") from None
    context.verify_mode = ssl.CERT_REQUIRED
    # A resumed session would be that of a certificate which was checked once, long ago.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0


def _check(path: Path, key: str, mark: bytes, what: str) -> None:
    """Raise CertificateError unless *path* is a PEM file with *what* in it."""
    try:
        with path.open("rb") as file:
            content = file.read(_FILE_MAX_BYTES)
    except OSError as error:
        raise CertificateError(f"{key}: {path}: {said(error)}") from None
    if mark not in content:
        raise CertificateError(f"{key}: {path} does not hold {what} in PEM form")


def _refuse_password() -> NoReturn:
    # Without this, OpenSSL asks for one at the terminal.
    raise _EncryptedError


def _chain_problem(tls: ServerTls, key: str, error: Exception) -> str:
    if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
        return f"{key}: the key in {tls.key} is not that of the certificate in {tls.certificate}"
    return f"{key}: {tls.certificate} and {tls.key}: {said(error)}"


def said(error: Exception) -> str:
    """Return why a file cannot be used, in words."""
    if isinstance(error, ssl.SSLError):
        return f"cannot be read: {(error.reason or 'unknown').replace('_', ' ').lower()}"
    words = error.strerror if isinstance(error, OSError) else None
    return f"cannot be read: {words or 'unknown reason'}"
