"""The registry listener: in this process or, with ``server.workers``, in processes of its own."""

import asyncio
import socket
from contextlib import AsyncExitStack

from mirror.app.listeners import Listener
from mirror.app.services import Services
from mirror.app.tools import Tools
from mirror.observe import logs
from mirror.observe.requests import Ledger, PastRequests, Recorder
from mirror.runtime import via
from mirror.settings import Server, Settings, routing_table
from mirror.web.listener import registry_options, registry_runner
from mirror.web.listening import listen, listen_shared
from mirror.workers.desk import Floor
from mirror.workers.messages import Configure
from mirror.workers.spawning import Spawn
from mirror.workers.team import Team


def registry_sockets(settings: Settings) -> list[socket.socket]:
    """Return what to listen on, one for each process that serves clients; raises ListenError."""
    server = settings.server
    if server.workers == 1:
        return [listen(server.listen, "server.listen")]
    return listen_shared(server.listen, "server.listen", server.workers)


def check_ports(settings: Settings) -> None:
    """Raise ListenError if one of the ports is in use: better before than after a long start."""
    server = settings.server
    listen(server.listen, "server.listen").close()
    listen(server.admin_listen, "server.admin_listen").close()


class Front:
    """What clients meet."""

    def __init__(  # noqa: PLR0917 -- all that clients meet
        self,
        settings: Settings,
        services: Services,
        tools: Tools,
        listener: Listener,
        sockets: list[socket.socket],
        past: PastRequests,
        spawn: Spawn,
    ) -> None:
        """Set up.

        Args:
            settings: What is configured.
            services: What answers.
            tools: What everything is built with.
            listener: How it is listened.
            sockets: What ``registry_sockets`` returned.
            past: Where requests are remembered.
            spawn: How a worker is started.
        """
        self._sockets = sockets
        self._listener = listener
        recorder = Ledger(tools.metrics, past, tools.traffic)
        self._options = registry_options(services.registry, recorder)
        self._runner = registry_runner(services.registry, settings.server)
        self._key = services.fingerprints.key
        self.team: Team | None = None
        if len(sockets) > 1:
            self.team = Team(
                sockets=sockets,
                spawn=spawn,
                floor=_floor(services, recorder, tools),
                stand_in=self._listener.open,
                configure=_known_to_workers(settings, self._key),
                grace_seconds=settings.server.shutdown_grace_seconds,
            )
            services.store.facts.changed = self.team.changed

    async def serve(self, stack: AsyncExitStack) -> None:
        """Serve clients until *stack* is left; running answers may end then."""
        if self.team is None:
            await self._listener.serve(stack, self._runner, self._sockets[0], **self._options)
            return
        await self._listener.prepare(stack, self._runner, **self._options)
        stack.push_async_callback(self._close, self.team)
        await self.team.start()

    async def _close(self, team: Team) -> None:
        await asyncio.gather(team.close(), self._runner.cleanup())

    def follow(self, settings: Settings) -> None:
        """Go over to new settings, of which what needs a restart is as it was."""
        if self.team is not None:
            self.team.configure(_known_to_workers(settings, self._key))

    async def settled(self) -> None:
        """Wait until nobody hands out what has been removed before this call."""
        if self.team is not None:
            await self.team.settled()


def _floor(services: Services, recorder: Recorder, tools: Tools) -> Floor:
    return Floor(
        manifests=services.manifests,
        blobs=services.blobs,
        lists=services.lists,
        verifier=services.verification,
        recorder=recorder,
        metrics=tools.metrics,
        meter=tools.traffic.meter,
    )


def _known_to_workers(settings: Settings, key: bytes) -> Configure:
    table = routing_table(settings.upstreams, settings.default_upstream)
    upstreams = settings.upstreams.items()
    log_format, log_level = logs.chosen(settings.log)
    return Configure(
        instance=via.INSTANCE,
        server=_share(settings.server).model_dump(mode="json"),
        log_format=log_format,
        log_level=log_level,
        names=dict(table.names),
        hosts=dict(table.hosts),
        default=table.default,
        verifying=frozenset(name for name, each in upstreams if each.policy.access == "verify"),
        waits=frozenset(name for name, each in upstreams if each.policy.on_rate_limit == "wait"),
        memory_bytes=settings.cache.memory_bytes // settings.server.workers,
        key=key,
    )


def _share(server: Server) -> Server:
    """Return what one worker may have of what is limited for all together."""
    limits = server.limits
    share = limits.model_copy(
        update={
            "connections": -(-limits.connections // server.workers),
            "per_client": -(-limits.per_client // server.workers),
        }
    )
    return server.model_copy(update={"limits": share})
