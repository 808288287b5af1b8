"""What serves the registry port, the same in the main process and in each worker."""

import logging
from functools import partial
from typing import Any

from aiohttp import web

from mirror.observe import tracing
from mirror.observe.requests import Recorder
from mirror.settings import Server
from mirror.web.access import access_logger
from mirror.web.registry import RegistryApi
from mirror.web.tracing import traced


def registry_runner(api: RegistryApi, settings: Server) -> web.ServerRunner:
    """Return what answers by *api*, behind a gate; its ``cleanup`` lets running answers end."""
    grace_seconds = settings.shutdown_grace_seconds
    return web.ServerRunner(web.Server(traced(api.handle)), shutdown_timeout=grace_seconds)


def registry_options(api: RegistryApi, recorder: Recorder) -> dict[str, Any]:
    """Return what a gate makes the connections of this listener with."""
    # A request that is answered at once never gets to where its trace begins.
    at_once = None if tracing.is_on() else partial(api.repeats.answer, recorder)
    return {
        "at_once": at_once,
        "access_log_class": access_logger(recorder),
        "access_log": logging.getLogger("mirror.access"),
    }
