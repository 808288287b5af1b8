"""The composition root: the only place that builds things, and the order of start and stop."""

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry

import mirror
from mirror.domain.routing import Table
from mirror.observe import logs
from mirror.observe.health import Health, watch_event_loop
from mirror.observe.metrics import Metrics
from mirror.runtime.clock import Clock
from mirror.runtime.pools import Pools
from mirror.runtime.recent import MemoryTier
from mirror.service.blobs import Blobs
from mirror.service.cache_admin import CacheAdmin
from mirror.service.housekeeping import Housekeeping
from mirror.service.lists import Lists
from mirror.service.manifests import Manifests
from mirror.service.policies import Policies
from mirror.settings import ListenAddress, Settings, Upstream
from mirror.store.layout import LayoutError
from mirror.store.store import Store
from mirror.store.sweep import Sweep
from mirror.transfer.fills import Fills
from mirror.transfer.sources import Sources
from mirror.upstream.upstreams import Upstreams
from mirror.web.access import access_logger
from mirror.web.admin import AdminApi
from mirror.web.admin_access import Access
from mirror.web.api import api
from mirror.web.banner import banner
from mirror.web.cache_api import CacheApi
from mirror.web.listening import ListenError, listen
from mirror.web.registry import RegistryApi
from mirror.web.sending import Sender

_log = logs.get_logger("app")
_FIELD_MAX_BYTES = 32 * 1024
_ADMIN_GRACE_SECONDS = 1


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


def run(settings: Settings, source: Path | None) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code of the process."""
    logs.configure(settings.log.format, settings.log.level)
    try:
        asyncio.run(_serve(settings, source))
    except (LayoutError, ListenError) as error:
        sys.stderr.write(f"mirror: {error}\n")
        return 1
    return 0


async def _serve(settings: Settings, source: Path | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # Without this, the signal that means "reload" to most daemons would end the process.
    loop.add_signal_handler(signal.SIGHUP, _log.warning, "reload is not available yet: restart")
    async with running(settings) as up:
        _log.info(
            "serving",
            version=mirror.__version__,
            listen=str(up.listen),
            admin_listen=str(up.admin_listen),
            directory=str(settings.cache.directory),
            configuration=str(source or "built-in"),
        )
        if settings.log.format == "console":
            sys.stderr.write(banner(up.listen, up.admin_listen, list(settings.upstreams)))
        await stop.wait()
        up.health.draining = True
        _log.info("stopping", grace_seconds=settings.server.shutdown_grace_seconds)
    _log.info("stopped")


@asynccontextmanager
async def running(settings: Settings, clock: Clock | None = None) -> AsyncIterator[Running]:
    """Start a mirror, and stop it in the reverse order.

    Raises:
        LayoutError: the cache directory cannot be used.
        ListenError: an address cannot be listened on.
    """
    clock = clock or Clock()
    metrics = Metrics(CollectorRegistry())
    async with AsyncExitStack() as stack:
        registry_socket = stack.enter_context(listen(settings.server.listen, "server.listen"))
        admin_socket = stack.enter_context(
            listen(settings.server.admin_listen, "server.admin_listen")
        )
        pools = Pools()
        stack.callback(pools.close)
        tier = MemoryTier(settings.cache.memory_bytes)
        stack.push_async_callback(tier.clear)
        store = _store(settings, pools, tier, metrics, clock)
        stack.push_async_callback(store.close)
        upstreams = Upstreams(settings.upstreams, pools, tier, metrics, clock)
        stack.push_async_callback(upstreams.close)
        fills = Fills(
            store,
            Sources(upstreams, metrics),
            pools.fill,
            metrics,
            max_concurrent=settings.fill.max_concurrent,
            abandon=settings.fill.abandon,
        )
        stack.push_async_callback(fills.close)
        health = Health(store.is_writable)
        sweep = Sweep(store, Policies(settings.upstreams).useful_seconds)
        house = Housekeeping(store, sweep, metrics)
        for work in (*house.works(), store.keep_house(), watch_event_loop(metrics)):
            stack.push_async_callback(_cancel, _started(work))
        cache = _cache_admin(settings, store, sweep)
        admin = _admin_runner(settings, cache, health, metrics, pools)
        await _start(stack, admin, admin_socket)
        services = _Services(
            settings=settings,
            store=store,
            upstreams=upstreams,
            fills=fills,
            pools=pools,
            tier=tier,
            metrics=metrics,
            clock=clock,
        )
        for service in (services.manifests, services.blobs, services.lists):
            stack.push_async_callback(service.close)
        registry = services.api(settings, pools)
        await _start(stack, _registry_runner(registry, settings, metrics), registry_socket)
        health.started = True
        yield Running(
            _bound(settings.server.listen, registry_socket),
            _bound(settings.server.admin_listen, admin_socket),
            health,
            metrics,
            store,
            fills,
            cache,
        )


@asynccontextmanager
async def stopped_cache(settings: Settings) -> AsyncIterator[CacheAdmin]:
    """Open the cache of a mirror that does not run; asks no upstream.

    Raises:
        InUseError: it runs.
        LayoutError: the cache directory cannot be used.
    """
    async with AsyncExitStack() as stack:
        pools = Pools()
        stack.callback(pools.close)
        tier = MemoryTier(settings.cache.memory_bytes)
        stack.push_async_callback(tier.clear)
        store = _store(settings, pools, tier, Metrics(CollectorRegistry()), Clock())
        stack.push_async_callback(store.close)
        sweep = Sweep(store, Policies(settings.upstreams).useful_seconds)
        yield _cache_admin(settings, store, sweep)


def _store(
    settings: Settings, pools: Pools, tier: MemoryTier, metrics: Metrics, clock: Clock
) -> Store:
    policies = {name: upstream.policy for name, upstream in settings.upstreams.items()}
    return Store(settings.cache, pools, tier, metrics, clock, policies)


def _cache_admin(settings: Settings, store: Store, sweep: Sweep) -> CacheAdmin:
    table = routing_table(settings.upstreams, settings.default_upstream)
    return CacheAdmin(store, table, sweep)


class _Services:
    """The service floor, built."""

    def __init__(
        self,
        *,
        settings: Settings,
        store: Store,
        upstreams: Upstreams,
        fills: Fills,
        pools: Pools,
        tier: MemoryTier,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        policies = Policies(settings.upstreams)
        self.manifests = Manifests(
            store=store,
            upstreams=upstreams,
            policies=policies,
            tier=tier,
            metrics=metrics,
            clock=clock,
        )
        self.blobs = Blobs(
            store=store,
            upstreams=upstreams,
            fills=fills,
            policies=policies,
            range_wait_seconds=settings.fill.range_wait_seconds,
        )
        self.lists = Lists(
            store=store,
            upstreams=upstreams,
            policies=policies,
            manifests=self.manifests,
            pool=pools.admin,
            clock=clock,
        )

    def api(self, settings: Settings, pools: Pools) -> RegistryApi:
        return RegistryApi(
            table=routing_table(settings.upstreams, settings.default_upstream),
            manifests=self.manifests,
            blobs=self.blobs,
            lists=self.lists,
            sender=Sender(pools.read, settings.server.limits.send_stall_seconds),
            catalog=settings.server.catalog,
        )


def routing_table(upstreams: dict[str, Upstream], default: str) -> Table:
    """Return the closed world: every name and host that means an upstream."""
    names = {name: name for name in upstreams}
    hosts: dict[str, str] = {}
    for name, upstream in upstreams.items():
        names |= dict.fromkeys(upstream.aliases, name)
        hosts |= dict.fromkeys(upstream.hosts, name)
    return Table(names, hosts, default)


def _admin_runner(
    settings: Settings, cache: CacheAdmin, health: Health, metrics: Metrics, pools: Pools
) -> web.AppRunner:
    server = settings.server
    access = Access(server.admin_listen, server.admin.token_file, pools.admin)
    cache_api = api(access, CacheApi(cache, pools.admin).routes())
    app = AdminApi(health, metrics, pools.admin, cache_api).app()
    return web.AppRunner(app, access_log=None, shutdown_timeout=_ADMIN_GRACE_SECONDS)


def _registry_runner(api: RegistryApi, settings: Settings, metrics: Metrics) -> web.ServerRunner:
    server = web.Server(
        api.handle,
        access_log_class=access_logger(metrics),
        access_log=logging.getLogger("mirror.access"),
        keepalive_timeout=settings.server.limits.idle_seconds,
        max_line_size=_FIELD_MAX_BYTES,
        max_field_size=_FIELD_MAX_BYTES,
    )
    return web.ServerRunner(server, shutdown_timeout=settings.server.shutdown_grace_seconds)


async def _start(
    stack: AsyncExitStack, runner: web.ServerRunner | web.AppRunner, listening: socket.socket
) -> None:
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.SockSite(runner, listening).start()


def _started(work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
    """Begin work that goes on for ever; that it ended all the same is worth a line."""
    task = asyncio.create_task(work)
    task.add_done_callback(_report)
    return task


def _report(task: "asyncio.Task[None]") -> None:
    if not task.cancelled():
        _log.error("background work ended", work=str(task.get_coro()), exc_info=task.exception())


async def _cancel(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _bound(address: ListenAddress, listening: socket.socket) -> ListenAddress:
    return ListenAddress(address.host, listening.getsockname()[1])
