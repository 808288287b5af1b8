"""The way of a command to the admin listener of the mirror of a configuration, by TLS or not."""

import http.client
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from mirror.settings import ListenAddress, ServerTls, Settings

_END: Final = "-----END CERTIFICATE-----"


def admin_url(settings: "Settings") -> str:
    """Return where the admin listener is, as a URL without a path."""
    scheme = "http" if settings.server.admin.tls is None else "https"
    return f"{scheme}://{settings.server.admin_listen.local()}"


def admin_connection(
    address: "ListenAddress", tls: "ServerTls | None", timeout_seconds: float
) -> http.client.HTTPConnection:
    """Return a connection that is not open yet; opening and asking raise OSError."""
    if tls is None:
        return http.client.HTTPConnection(address.host, address.port, timeout=timeout_seconds)
    return _PinnedConnection(address, tls, timeout_seconds)


class _PinnedConnection(http.client.HTTPSConnection):
    """Believes the very certificate that the configuration names, whatever name is in it.

    It is for the mirror's public name, and is asked for at a loopback address.
    """

    def __init__(self, address: "ListenAddress", tls: "ServerTls", timeout_seconds: float) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # connect() compares it instead
        super().__init__(address.host, address.port, timeout=timeout_seconds, context=context)
        self._tls = tls
        self._own_context = context

    def connect(self) -> None:
        """Connect; raises OSError unless the mirror of this configuration is there."""
        expected = _first_certificate(self._tls.certificate)
        if self._tls.client_ca is not None:
            # Clients need a certificate, and this is the one there is. It serves where the
            # authority is the one of client_ca, too.
            self._own_context.load_cert_chain(self._tls.certificate, self._tls.key)
        super().connect()
        shown = self.sock.getpeercert(binary_form=True)
        if shown != expected:
            self.close()
            raise OSError(
                None,
                f"it shows another certificate than {self._tls.certificate}; if that was renewed "
                "just now, try again in a few seconds",
            )


def _first_certificate(path: Path) -> bytes:
    """Return the certificate itself, without those of the authorities behind it."""
    text = path.read_text("ascii", "replace")
    start, end = text.find("-----BEGIN CERTIFICATE-----"), text.find(_END)
    if start < 0 or end < start:
        raise OSError(None, f"there is no certificate in {path}")
    return ssl.PEM_cert_to_DER_cert(text[start : end + len(_END)])
