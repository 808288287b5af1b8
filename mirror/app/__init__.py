"""The composition root: the only place that builds things, and the order of start and stop."""

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mirror
from mirror.app.administration import Watched, administration, place_of
from mirror.app.following import followed, waiting
from mirror.app.front import Front, check_ports, registry_sockets
from mirror.app.listeners import Listener, allow_open_files, cancel, started
from mirror.app.reloading import Reloading
from mirror.app.services import Services, declared_pins, policies_of
from mirror.app.tools import Tools, tools_of
from mirror.observe import logs, tracing
from mirror.observe.health import Health, watch_event_loop
from mirror.observe.metrics import Metrics
from mirror.observe.requests import PastRequests
from mirror.runtime import garbage
from mirror.runtime.certificates import CertificateError
from mirror.runtime.clock import Clock
from mirror.service.cache_admin import CacheAdmin
from mirror.service.housekeeping import Housekeeping
from mirror.service.keeping import Keeper
from mirror.service.policies import Policies
from mirror.service.prefetching import Prefetcher
from mirror.settings import ListenAddress, Settings, routing_table
from mirror.store.layout import LayoutError
from mirror.store.store import Store
from mirror.store.sweep import Sweep
from mirror.transfer.fills import Fills
from mirror.web.banner import banner
from mirror.web.listening import ListenError, listen
from mirror.workers.spawning import Spawn, process
from mirror.workers.team import Team

_log = logs.get_logger("app")


@dataclass(frozen=True, slots=True)
class Running:
    """A mirror that is up, with the addresses it is really bound to."""

    listen: ListenAddress
    admin_listen: ListenAddress
    health: Health
    metrics: Metrics
    store: Store
    fills: Fills
    cache: CacheAdmin
    reloading: Reloading
    keeper: Keeper
    prefetcher: Prefetcher
    team: Team | None
    """The workers, if there are some."""


def run(settings: Settings, source: Path | None) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code of the process."""
    logs.configure(*logs.chosen(settings.log))
    allow_open_files(settings.server.limits.connections)
    tracing.configure()
    try:
        asyncio.run(_serve(settings, source))
    except (CertificateError, LayoutError, ListenError) as error:
        sys.stderr.write(f"mirror: {error}\n")
        return 1
    finally:
        tracing.close()
    return 0


async def _serve(settings: Settings, source: Path | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running(settings, source=source) as up:
        loop.add_signal_handler(signal.SIGHUP, up.reloading.request)
        _log.info(
            "serving",
            version=mirror.__version__,
            listen=str(up.listen),
            admin_listen=str(up.admin_listen),
            directory=str(settings.cache.directory),
            configuration=str(source or "built-in"),
        )
        if logs.chosen(settings.log)[0] == "console":
            server, upstreams = settings.server, list(settings.upstreams)
            tls, admin_tls = server.tls is not None, server.admin.tls is not None
            text = banner(up.listen, up.admin_listen, upstreams, tls=tls, admin_tls=admin_tls)
            sys.stderr.write(text)
        watching = started(up.reloading.watch())
        garbage.settle()
        await stop.wait()
        await cancel(watching)
        up.health.draining = True
        _log.info("stopping", grace_seconds=settings.server.shutdown_grace_seconds)
    _log.info("stopped")


@asynccontextmanager
async def running(
    settings: Settings,
    clock: Clock | None = None,
    source: Path | None = None,
    spawn: Spawn = process,
) -> AsyncIterator[Running]:
    """Start a mirror, and stop it in the reverse order.

    Args:
        settings: What it is to do.
        clock: The time.
        source: The file of its settings, if there is one.
        spawn: How its workers are started, if it has some.

    Raises:
        LayoutError: the cache directory cannot be used.
        ListenError: an address cannot be listened on.
        CertificateError: the certificate of a listener cannot be used.
    """
    async with AsyncExitStack() as stack:
        check_ports(settings)
        tools = await stack.enter_async_context(tools_of(settings, clock))
        registry_listener, admin_listener = _listeners(settings, tools)
        store = _store(settings, tools)
        stack.push_async_callback(store.close)
        # Not before: while a lost index is made anew, clients would wait in the kernel's queue.
        sockets = [stack.enter_context(each) for each in registry_sockets(settings)]
        admin_socket = stack.enter_context(
            listen(settings.server.admin_listen, "server.admin_listen")
        )
        policies = Policies(settings.upstreams)
        services = Services(settings, tools, store, policies)
        stack.push_async_callback(services.close)
        sweep = Sweep(store, policies.useful_seconds)
        for work in _works(services, sweep, tools.metrics):
            stack.push_async_callback(cancel, started(work))
        health, past = Health(store.is_writable), PastRequests()
        front = Front(settings, services, tools, registry_listener, sockets, past, spawn)
        cache = CacheAdmin(store, lambda: services.table, sweep, front.settled)
        cache.hits, cache.on_pinned = past.hits, services.keeper.wake
        address = _bound(settings.server.listen, sockets[0])
        watched = Watched(policies, cache, health, past, place_of(settings, address))
        admin, feed = administration(settings, services, tools, watched)
        await admin_listener.serve(stack, admin, admin_socket, access_log=None)
        stack.callback(feed.close)  # its listeners would hold up the end
        await front.serve(stack)
        health.started = True
        yield Running(
            address,
            _bound(settings.server.admin_listen, admin_socket),
            health,
            tools.metrics,
            store,
            services.fills,
            cache,
            _reloading(source, services, front, tools),
            services.keeper,
            services.prefetcher,
            front.team,
        )


@asynccontextmanager
async def stopped_cache(settings: Settings) -> AsyncIterator[CacheAdmin]:
    """Open the cache of a mirror that does not run; asks no upstream.

    Raises:
        InUseError: it runs.
        LayoutError: the cache directory cannot be used.
    """
    async with tools_of(settings) as tools:
        store = _store(settings, tools)
        try:
            sweep = Sweep(store, Policies(settings.upstreams).useful_seconds)
            table = routing_table(settings.upstreams, settings.default_upstream)
            yield CacheAdmin(store, lambda: table, sweep)
        finally:
            await store.close()


def _store(settings: Settings, tools: Tools) -> Store:
    policies = policies_of(settings)
    store = Store(settings.cache, tools.pools, tools.tier, tools.metrics, tools.clock, policies)
    store.pins.declare(declared_pins(settings))
    return store


def _listeners(settings: Settings, tools: Tools) -> tuple[Listener, Listener]:
    """Return the one of the registry and that of the administration."""
    server, pool = settings.server, tools.pools.admin
    registry = Listener("registry", server.limits, tools.metrics)
    registry.secure(server.tls, "server.tls", pool)
    admin = Listener("admin", server.limits, tools.metrics)
    admin.secure(server.admin.tls, "server.admin.tls", pool)
    return registry, admin


def _works(
    services: Services, sweep: Sweep, metrics: Metrics
) -> Iterator[Coroutine[Any, Any, None]]:
    """Return what goes on in the background, for ever."""
    yield from Housekeeping(services.store, sweep, metrics).works()
    yield services.keeper.run()
    yield services.store.keep_house()
    yield watch_event_loop(metrics.event_loop_lag.observe)


def _reloading(source: Path | None, services: Services, front: Front, tools: Tools) -> Reloading:
    def apply(wanted: Settings) -> list[str]:
        running = services.settings
        settings = followed(running, wanted)
        services.reload(settings)
        front.follow(settings)
        return list(waiting(running, wanted))

    named = services.upstreams.files
    return Reloading(source, apply, tools.pools.admin, tools.metrics, named=named)


def _bound(address: ListenAddress, listening: socket.socket) -> ListenAddress:
    return ListenAddress(address.host, listening.getsockname()[1])
