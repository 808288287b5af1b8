"""What serves the registry port, the same in the main process and in each worker."""

import logging
from typing import Final

from aiohttp import web

from mirror.observe.requests import Recorder
from mirror.settings.server import Server
from mirror.web.access import access_logger
from mirror.web.registry import RegistryApi

_FIELD_MAX_BYTES: Final = 32 * 1024


def registry_runner(api: RegistryApi, settings: Server, recorder: Recorder) -> web.ServerRunner:
    """Return what answers by *api*; its ``cleanup`` lets running answers end."""
    server = web.Server(
        api.handle,
        access_log_class=access_logger(recorder),
        access_log=logging.getLogger("mirror.access"),
        keepalive_timeout=settings.limits.idle_seconds,
        max_line_size=_FIELD_MAX_BYTES,
        max_field_size=_FIELD_MAX_BYTES,
    )
    return web.ServerRunner(server, shutdown_timeout=settings.shutdown_grace_seconds)
