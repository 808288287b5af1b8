"""The certificate of a listener, read again when its files change."""

import asyncio
import ssl

from mirror.app.reloading import LOOK_EVERY_SECONDS
from mirror.observe.logs import get_logger
from mirror.observe.metrics import Metrics
from mirror.runtime.certificates import CertificateError, server_context
from mirror.runtime.files import Identity, identity
from mirror.runtime.pools import Pool
from mirror.settings import ServerTls

_log = get_logger("app")


class Certificates:
    """What the next handshake of a listener goes by; the ones before keep what they have."""

    def __init__(
        self,
        tls: ServerTls,
        key: str,
        pool: Pool,
        metrics: Metrics,
        look_every_seconds: float = LOOK_EVERY_SECONDS,
    ) -> None:
        """Read the files.

        Args:
            tls: The files.
            key: The configuration key of the listener's TLS, such as ``server.tls``.
            pool: The threads in which the files are read again.
            metrics: Where that is counted.
            look_every_seconds: How often the files are looked at.

        Raises:
            CertificateError: one of them is wrong.
        """
        self._tls = tls
        self._key = key
        self._pool = pool
        self._metrics = metrics
        self._look_every_seconds = look_every_seconds
        self._known = self._look()
        self.context: ssl.SSLContext = server_context(tls, key)

    async def watch(self) -> None:
        """Read the files again whenever one has changed, for ever.

        A certificate whose key has yet to follow changes nothing: the next look finds it.
        """
        while True:
            await asyncio.sleep(self._look_every_seconds)
            found = await self._pool.run(self._look)
            if found != self._known and None not in found:
                self._known = found
                await self._reload()

    async def _reload(self) -> None:
        try:
            self.context = await self._pool.run(server_context, self._tls, self._key)
        except CertificateError as error:
            self._metrics.certificate_reloads.labels("refused").inc()
            _log.error("the new certificate cannot be used; the old one stays", problem=str(error))
            return
        self._metrics.certificate_reloads.labels("applied").inc()
        _log.info("the certificate was read again", key=self._key, file=str(self._tls.certificate))

    def _look(self) -> list[Identity]:
        files = (self._tls.certificate, self._tls.key, self._tls.client_ca)
        return [identity(file) for file in files if file is not None]
