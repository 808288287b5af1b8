"""Which checks there are, for a mirror of this machine and for one somewhere else."""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import ParamSpec

from mirror.cli.doctor import clients, machine, network, serving
from mirror.cli.doctor.asking import Place
from mirror.cli.doctor.examining import TOTAL_SECONDS, examine
from mirror.cli.doctor.finding import Check, Finding, Verdict, wrong
from mirror.config import ConfigError, Loaded, load_what_is_right
from mirror.runtime.certificates import CertificateError
from mirror.runtime.pools import Pool, Pools
from mirror.settings import ListenAddress, ServerTls, Settings, routing_table
from mirror.store.fitness import look_at
from mirror.upstream.checkup import Checkup

P = ParamSpec("P")

_THREADS = 48
_MACHINE, _NETWORK, _MIRROR, _CLIENTS = "this machine", "network", "the mirror", "clients"
_CONFIGURATION = "configuration"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the command line asks for.

    With *url* the mirror is somewhere else: only what can be seen of it from here counts.
    """

    config: Path | None = None
    url: str | None = None
    admin_url: str | None = None
    insecure: bool = False
    """Accept any certificate of these two."""
    image: str | None = None
    pull: bool = True
    root: Path = Path("/")
    """Where the files of clients are looked for."""
    total_seconds: float = TOTAL_SECONDS


async def diagnose(wishes: Wishes, environ: Mapping[str, str]) -> list[Finding]:
    """Look at everything."""
    async with AsyncExitStack() as stack:
        pool = Pool("doctor", _THREADS, may_hang=True)
        stack.callback(partial(pool.close, wait=False))
        started = time.monotonic()
        try:
            async with asyncio.timeout(wishes.total_seconds / 4):
                loaded, error = await pool.run(load_what_is_right, wishes.config, environ)
        except TimeoutError:
            return [_hanging_configuration(wishes)]
        pools = Pools()
        stack.callback(partial(pools.dns.close, wait=False))
        plan = _Plan(wishes, loaded, error, pool, pools)
        stack.push_async_callback(plan.close)
        left_seconds = wishes.total_seconds - (time.monotonic() - started)
        return await examine(list(plan.checks()), left_seconds)


def _hanging_configuration(wishes: Wishes) -> Finding:
    seconds = wishes.total_seconds / 4
    found = wrong(
        f"it could not be read within {seconds:.0f} s", "is it on a file system that hangs?"
    )
    return Finding(_CONFIGURATION, "configuration", found.state, found.found, found.remedy, seconds)


@dataclass(slots=True)
class _Plan:
    """The checks of one run, and what they share."""

    wishes: Wishes
    loaded: Loaded
    error: ConfigError | None
    pool: Pool
    pools: Pools
    checkups: list[Checkup] = field(default_factory=list)

    @property
    def settings(self) -> Settings:
        return self.loaded.settings

    def checks(self) -> Iterator[Check]:
        """Yield all checks, those that others need first."""
        yield self._check(
            _CONFIGURATION, "configuration", machine.configuration, self.loaded, self.error
        )
        if self.wishes.url is not None:
            yield from self._mirror_elsewhere(self.wishes.url.rstrip("/"))
            return
        yield from self._machine()
        yield from self._network()
        yield from self._mirror_here()
        yield from self._clients()

    async def close(self) -> None:
        for checkup in self.checkups:
            await checkup.close()

    def _check(
        self, group: str, name: str, look: Callable[P, Verdict], *args: P.args, **kwargs: P.kwargs
    ) -> Check:
        """Return a check that looks in a thread."""
        return Check(group=group, name=name, examine=lambda: self.pool.run(look, *args, **kwargs))

    def _machine(self) -> Iterator[Check]:
        server, cache = self.settings.server, self.settings.cache
        yield self._check(_MACHINE, "directory", machine.directory, cache)
        yield self._check(_MACHINE, "space", machine.space, cache)
        index = self._check(_MACHINE, "index", machine.index, cache.directory)
        yield replace(index, limit_seconds=machine.INDEX_SECONDS)
        for name, key, address, tls in (
            ("port", "server.listen", server.listen, server.tls),
            ("admin port", "server.admin_listen", server.admin_listen, server.admin.tls),
        ):
            yield self._check(_MACHINE, name, _port, address, tls, key, cache.directory)
            if tls is not None:
                where = key.replace("admin_listen", "admin.tls").replace("listen", "tls")
                look = partial(machine.certificate, tls, where, datetime.now(UTC))
                yield self._check(_MACHINE, name.replace("port", "certificate"), look)

    def _network(self) -> Iterator[Check]:
        ahead: dict[str, float] = {}
        upstreams, answers = self.settings.upstreams, []
        yield self._check(_NETWORK, "proxy", network.proxies, upstreams)
        for upstream in upstreams.values():
            try:
                checkup = Checkup(upstream, self.pools, self.pool)
            except CertificateError as error:
                yield self._check(
                    f"upstream {upstream.name}", "tls files", network.unusable_files, str(error)
                )
                continue
            self.checkups.append(checkup)
            for check in network.UpstreamChecks(upstream, checkup, ahead).checks():
                if check.name.startswith("answer"):
                    answers.append(check.key)
                yield check
        clock = self._check(_MACHINE, "clock", machine.clock, ahead)
        yield replace(clock, after=tuple(answers))

    def _mirror_here(self) -> Iterator[Check]:
        server = self.settings.server
        admin = Place.here(server.admin_listen, server.admin.tls)
        yield self._check(_MIRROR, "ready", serving.ready, admin, is_expected=False)
        yield from self._pull(Place.here(server.listen, server.tls), f"{_MIRROR}/ready")

    def _mirror_elsewhere(self, url: str) -> Iterator[Check]:
        place = Place(url, insecure=self.wishes.insecure)
        yield self._check(_MIRROR, "registry", serving.registry, place)
        if self.wishes.admin_url is not None:
            admin = Place(self.wishes.admin_url.rstrip("/"), insecure=self.wishes.insecure)
            yield self._check(_MIRROR, "ready", serving.ready, admin, is_expected=True)
        yield from self._pull(place, f"{_MIRROR}/registry")

    def _pull(self, place: Place, needs: str) -> Iterator[Check]:
        if self.wishes.pull:
            settings = self.settings
            table = routing_table(settings.upstreams, settings.default_upstream)
            check = self._check(_MIRROR, "pull", serving.pull, place, self.wishes.image, table)
            yield replace(check, limit_seconds=serving.PULL_SECONDS, needs=(needs,))

    def _clients(self) -> Iterator[Check]:
        root, listen = self.wishes.root, self.settings.server.listen
        found = list(clients.found_files(root))
        for name, path in found:
            yield self._check(_CLIENTS, name, clients.client, path, root, listen)
        if not found:
            yield self._check(_CLIENTS, "configuration", clients.none_found)


def _port(address: ListenAddress, tls: ServerTls | None, key: str, directory: Path) -> Verdict:
    try:
        in_use = look_at(directory).in_use
    except OSError:
        in_use = None
    return serving.port(address, tls, key, in_use=in_use)
