"""Checks of the mirror itself: who has its ports, whether it is ready, and one real pull."""

import hashlib
import json
import platform
import time
from dataclasses import dataclass
from typing import Any, Final

from mirror.cli.doctor.asking import NoAnswerError, Place, Told, ask
from mirror.cli.doctor.finding import Verdict, doubtful, fine, left_out, wrong
from mirror.cli.tables import counted, human_size
from mirror.domain.errors import MirrorError
from mirror.domain.images import image_name, parse_image
from mirror.domain.media import ACCEPT_MANIFESTS
from mirror.domain.names import Digest, Reference, Repository
from mirror.domain.routing import Table
from mirror.settings import ListenAddress, ServerTls
from mirror.web.listening import ListenError, listen

PULL_SECONDS: Final = 10.0
ASK_SECONDS: Final = 2.5
TINY_BYTES: Final = 64 * 1024 * 1024
IMAGES: Final = ("registry.k8s.io/pause:3.10", "docker.io/library/hello-world:latest")
"""What is pulled if nobody names an image: the first costs no pull of Docker Hub."""
_SERVER: Final = "mirror"
_START: Final = "start it: `mirror serve`, or `systemctl start mirror`"
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}


def port(
    address: ListenAddress, tls: ServerTls | None, key: str, *, in_use: bool | None
) -> Verdict:
    """Tell whether an address is free, ours, or somebody else's.

    Args:
        address: Where the mirror listens, or will.
        tls: Its certificate there, if it has one.
        key: ``server.listen`` or ``server.admin_listen``.
        in_use: Whether a mirror runs on the configured directory; ``None``: not known.
    """
    try:
        listen(address, key).close()
    except ListenError as error:
        return _held(address, tls, str(error), in_use=in_use)
    if in_use:
        return doubtful(
            f"{address} is free, although a mirror runs on this cache directory",
            "it runs with another configuration: name that with --config, or restart it",
        )
    return fine(f"{address} is free: the mirror does not run")


def _held(
    address: ListenAddress, tls: ServerTls | None, trouble: str, *, in_use: bool | None
) -> Verdict:
    who = f"`ss -ltnp 'sport = :{address.port}'` tells who has it"
    if not _is_mirror(Place.here(address, tls)):
        return wrong(f"{address}: {trouble}", who)
    if in_use is False:
        return doubtful(
            f"{address} is held by a Mirror that does not use this cache directory",
            f"it runs with another configuration: name that with --config; {who}",
        )
    return fine(f"{address} is held by the running mirror")


def _is_mirror(place: Place) -> bool:
    """Return whether a Mirror listens there, with its registry or with its admin side."""
    try:
        if ask(place, "/v2/", ASK_SECONDS / 2).header("Server") == _SERVER:
            return True
        return b"mirror_build_info" in ask(place, "/metrics", ASK_SECONDS / 2).body
    except NoAnswerError:
        return False


def ready(admin: Place, *, is_expected: bool) -> Verdict:
    """Tell whether the mirror takes requests."""
    try:
        told = ask(admin, "/readyz", ASK_SECONDS)
    except NoAnswerError as error:
        said = f"it does not run ({error})"
        return wrong(said, _START) if is_expected else left_out(said, _START)
    if told.status == 200:
        return fine("it runs and takes requests")
    return wrong(f"it runs, but is not ready: {_reasons(told)}", "its log says more")


def registry(place: Place) -> Verdict:
    """Tell whether a Mirror answers at a URL."""
    try:
        told = ask(place, "/v2/", ASK_SECONDS)
    except NoAnswerError as error:
        return wrong(str(error), "is the mirror running, and may this machine reach it?")
    if told.header("Server") != _SERVER:
        return wrong(
            f"{place.url}/v2/ answers {told.status}, but not as a Mirror", "look at the address"
        )
    return fine(f"a Mirror answers at {place.url}")


def _reasons(told: Told) -> str:
    try:
        reasons = json.loads(told.body)["reasons"]
        return ", ".join(map(str, reasons)) or f"status {told.status}"
    except (ValueError, KeyError, TypeError):
        return f"status {told.status} {told.reason}"


def pull(place: Place, wanted: str | None, table: Table) -> Verdict:
    """Pull a tiny image as a client does, and check every byte."""
    ends_at = time.monotonic() + PULL_SECONDS - 0.5
    try:
        chosen = _chosen_image(wanted, table)
    except MirrorError as error:
        return wrong(f"{wanted!r}: {error}", "name an image of an upstream of this mirror")
    if chosen is None:
        return left_out("none of the usual images is mirrored here", "name one with --image")
    return _Pull(place, *chosen, ends_at).run()


def _chosen_image(wanted: str | None, table: Table) -> tuple[Repository, Reference] | None:
    if wanted is not None:
        return parse_image(wanted, table)
    for image in IMAGES:
        try:
            return parse_image(image, table)
        except MirrorError:
            continue
    return None


@dataclass(slots=True)
class _Pull:
    """One image, on its way through a mirror."""

    place: Place
    repository: Repository
    reference: Reference
    ends_at: float

    def run(self) -> Verdict:
        started = time.monotonic()
        try:
            manifest, came_by = self._manifest(str(self.reference))
            child = _child(manifest)
            if child is not None:
                manifest, _ = self._manifest(child)
            objects = _objects(manifest)
            size_bytes = sum(self._blob(each) for each in objects)
        except (NoAnswerError, _BrokenPullError) as error:
            return wrong(str(error), _PULL_REMEDY)
        except _StrangerError:
            return left_out(
                "the mirror lets nobody pull without a name (server.auth)",
                "pull with a client that has one",
            )
        seconds = time.monotonic() - started
        return fine(
            f"{image_name(self.repository, self.reference)}: manifest, config and "
            f"{counted(len(objects) - 1, 'layer')}, {human_size(size_bytes)} in {seconds:.1f} s, "
            f"every digest right ({came_by})"
        )

    def _ask(self, path: str, headers: dict[str, str], hasher: "hashlib._Hash") -> Told:
        path = f"/v2/{self.repository}/{path}"
        left_seconds = max(0.1, self.ends_at - time.monotonic())
        told = ask(self.place, path, left_seconds, headers, see=hasher.update)
        if told.status == 401:
            raise _StrangerError
        if told.status != 200:
            raise _BrokenPullError(f"{path} answers {told.status}: {_error_of(told)}")
        return told

    def _manifest(self, reference: str) -> tuple[dict[str, Any], str]:
        hasher = hashlib.sha256()
        told = self._ask(f"manifests/{reference}", {"Accept": ACCEPT_MANIFESTS}, hasher)
        wanted = reference if ":" in reference else told.header("Docker-Content-Digest")
        _same(wanted, hasher, f"the manifest {reference}")
        try:
            document = json.loads(told.body)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise _BrokenPullError(f"the manifest {reference} is not JSON")
        return document, told.header("Cache-Status").removeprefix("mirror; ")

    def _blob(self, descriptor: dict[str, Any]) -> int:
        digest = Digest.parse(str(descriptor.get("digest")))
        hasher = digest.new_hash()
        told = self._ask(f"blobs/{digest}", {}, hasher)
        _same(str(digest), hasher, f"the blob {digest}")
        return told.size_bytes


class _StrangerError(Exception):
    """The mirror wants to know who asks, and the doctor is nobody."""


class _BrokenPullError(Exception):
    """What came is not what should have come."""


def _same(wanted: str, hasher: "hashlib._Hash", what: str) -> None:
    if wanted.partition(":")[2] != hasher.hexdigest():
        raise _BrokenPullError(f"{what} came with other bytes than its digest names")


def _child(document: dict[str, Any]) -> str | None:
    """Return the digest of an index's image for this machine, else of its first one."""
    children = document.get("manifests")
    if not isinstance(children, list) or not children:
        return None
    machine = platform.machine()
    mine = {"os": "linux", "architecture": _ARCHITECTURES.get(machine, machine)}
    fitting = [each for each in children if mine.items() <= (each.get("platform") or {}).items()]
    return str((fitting or children)[0].get("digest"))


def _objects(document: dict[str, Any]) -> list[dict[str, Any]]:
    objects = [document.get("config"), *(document.get("layers") or [])]
    found = [each for each in objects if isinstance(each, dict) and not each.get("urls")]
    size_bytes = sum(int(each.get("size") or 0) for each in found)
    if not found:
        raise _BrokenPullError("the manifest names no config and no layers")
    if size_bytes > TINY_BYTES:
        raise _BrokenPullError(
            f"the image has {human_size(size_bytes)}; name a smaller one with --image"
        )
    return found


def _error_of(told: Told) -> str:
    try:
        first = json.loads(told.body)["errors"][0]
        return f"{first['code']}, {first['message']}"
    except (ValueError, KeyError, IndexError, TypeError):
        return told.reason


_PULL_REMEDY: Final = (
    "the upstream's own lines above, `mirror explain` and the mirror's log say why; --image names "
    "another image, --no-pull leaves this out"
)
