"""The service floor, built; and what of it follows a new configuration without a restart."""

from collections.abc import Mapping

from mirror.app.access_control import AccessControl
from mirror.app.tools import Tools
from mirror.domain.errors import MirrorError
from mirror.domain.images import image_name, parse_image, parse_pin
from mirror.observe import logs
from mirror.runtime.fingerprints import Fingerprints
from mirror.service.blobs import Blobs
from mirror.service.fetching import Fetching
from mirror.service.keeping import Keeper
from mirror.service.lists import Lists
from mirror.service.manifests import Manifests
from mirror.service.policies import Policies
from mirror.service.prefetch_job import Row
from mirror.service.prefetching import Prefetcher
from mirror.service.pull_admin import PullAdmin
from mirror.service.quota import Quota
from mirror.service.schedules import Schedule, Scheduler
from mirror.service.verification import Verification
from mirror.settings import Policy, Settings, routing_table
from mirror.store.inventory import Inventory
from mirror.store.pins import Pin
from mirror.store.store import Store
from mirror.transfer.fills import Fills
from mirror.transfer.sources import Sources
from mirror.upstream.upstreams import Upstreams
from mirror.web.registry import RegistryApi
from mirror.web.sending import Sender
from mirror.web.webhooks import Webhooks


class Services:
    """Everything between the store and the listeners."""

    def __init__(self, settings: Settings, tools: Tools, store: Store, policies: Policies) -> None:
        self.settings = settings
        """What holds now."""
        self.store = store
        self._policies = policies
        self.table = routing_table(settings.upstreams, settings.default_upstream)
        self.upstreams = Upstreams(
            settings.upstreams, tools.pools, tools.tier, tools.metrics, tools.clock
        )
        self.fills = Fills(
            store,
            Sources(self.upstreams, tools.metrics),
            tools.pools.fill,
            tools.metrics,
            settings.fill,
        )
        self.manifests = self._manifests(tools)
        self.blobs = self._blobs(settings, tools)
        self.lists = self._lists(tools)
        self.keeper, self.prefetcher = self._fetchers(tools)
        self.webhooks = Webhooks(tools.metrics, tools.pools)
        self.webhooks.follow(settings.webhooks)
        self.scheduler = Scheduler(self.prefetcher)
        self.scheduler.follow(schedules_of(settings))
        self.pulls = self._pull_admin(tools)
        self.fingerprints = Fingerprints()
        self.verification = Verification(
            self.upstreams, policies, tools.tier, self.fingerprints, tools.clock
        )
        self.access = AccessControl(settings, tools, self.verification, self.fingerprints)
        self.registry = self._registry_api(settings, tools)

    def _manifests(self, tools: Tools) -> Manifests:
        return Manifests(
            store=self.store,
            upstreams=self.upstreams,
            policies=self._policies,
            tier=tools.tier,
            metrics=tools.metrics,
            clock=tools.clock,
        )

    def _blobs(self, settings: Settings, tools: Tools) -> Blobs:
        return Blobs(
            store=self.store,
            upstreams=self.upstreams,
            fills=self.fills,
            policies=self._policies,
            tier=tools.tier,
            range_wait_seconds=settings.fill.range_wait_seconds,
        )

    def _lists(self, tools: Tools) -> Lists:
        return Lists(
            store=self.store,
            upstreams=self.upstreams,
            policies=self._policies,
            manifests=self.manifests,
            pool=tools.pools.admin,
            clock=tools.clock,
        )

    def _pull_admin(self, tools: Tools) -> PullAdmin:
        return PullAdmin(
            store=self.store,
            table=lambda: self.table,
            manifests=self.manifests,
            upstreams=self.upstreams,
            policies=self._policies,
            clock=tools.clock,
        )

    def _registry_api(self, settings: Settings, tools: Tools) -> RegistryApi:
        return RegistryApi(
            table=lambda: self.table,
            manifests=self.manifests,
            blobs=self.blobs,
            lists=self.lists,
            sender=_sender(settings, tools),
            policies=self._policies,
            guard=self.access.guard,
            catalog=settings.server.catalog,
            body_seconds=settings.server.limits.head_seconds,
        )

    def _fetchers(self, tools: Tools) -> tuple[Keeper, Prefetcher]:
        quota = Quota(self.upstreams, self._policies, tools.clock)
        fetching = Fetching(self.manifests, self.blobs, self.lists, quota)
        prefetcher = Prefetcher(
            fetching=fetching,
            quota=quota,
            row=self._row,
            platforms=Inventory(self.store).platforms,
            metrics=tools.metrics,
            clock=tools.clock,
        )
        return Keeper(self.store, fetching), prefetcher

    async def close(self) -> None:
        """Stop asking upstreams."""
        await self.access.close()
        await self.webhooks.close()
        await self.scheduler.close()
        await self.prefetcher.close()
        await self.verification.close()
        await self.lists.close()
        await self.blobs.close()
        await self.manifests.close()
        await self.fills.close()
        await self.upstreams.close()

    def _row(self, name: str) -> Row:
        """Read the name of an image to be prefetched; a wrong one is told with the result."""
        try:
            repository, reference = parse_image(name, self.table)
        except MirrorError as error:
            return Row(name[:512], error=str(error))
        return Row(image_name(repository, reference), repository, reference)

    def reload(self, settings: Settings) -> None:
        """Go over to new settings, of which what needs a restart is as it was.

        What is under way goes on; upstreams whose settings and files are as they were keep
        their connections, tokens and breakers.

        Raises:
            CertificateError: files of an upstream cannot be used; nothing has changed.
        """
        self.upstreams.reload(settings.upstreams)
        if logs.chosen(settings.log) != logs.chosen(self.settings.log):
            logs.configure(*logs.chosen(settings.log))
        self.settings = settings
        self._policies.reload(settings.upstreams)
        self.table = routing_table(settings.upstreams, settings.default_upstream)
        self.store.reload(settings.cache, policies_of(settings))
        self.store.pins.declare(declared_pins(settings))
        self.keeper.wake()
        self.scheduler.follow(schedules_of(settings))
        self.webhooks.follow(settings.webhooks)
        self.access.reload(settings)
        self.registry.catalog_is_open = settings.server.catalog
        self.blobs.range_wait_seconds = settings.fill.range_wait_seconds
        self.fills.abandon = settings.fill.abandon


def _sender(settings: Settings, tools: Tools) -> Sender:
    stall_seconds = settings.server.limits.send_stall_seconds
    return Sender(tools.pools, stall_seconds, tools.traffic.meter)


def policies_of(settings: Settings) -> Mapping[str, Policy]:
    """Return the policy of each upstream."""
    return {name: upstream.policy for name, upstream in settings.upstreams.items()}


def schedules_of(settings: Settings) -> tuple[Schedule, ...]:
    """Return the prefetches of the configuration."""
    return tuple(
        Schedule(each.images, each.every_seconds, each.platforms, each.referrers)
        for each in settings.prefetch
    )


def declared_pins(settings: Settings) -> tuple[Pin, ...]:
    """Return the pins of the configuration, whose images have been checked."""
    table = routing_table(settings.upstreams, settings.default_upstream)
    pins = []
    for each in settings.pins:
        repository, reference, held_at = parse_pin(each.image, table)
        name, digest = str(reference), None if held_at is None else str(held_at)
        pins.append(Pin(repository.upstream, repository.name, name, each.platforms, digest=digest))
    return tuple(pins)
