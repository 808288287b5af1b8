"""Checks of the machine: configuration, directory, space, index, ports, clock."""

import os
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography.x509 import load_pem_x509_certificate

from mirror.cli.doctor.finding import Verdict, doubtful, fine, left_out, wrong
from mirror.cli.tables import counted, human_size
from mirror.config import ConfigError, Loaded
from mirror.runtime.certificates import CertificateError, server_context
from mirror.settings import Cache, ServerTls
from mirror.store.fitness import Fitness, IndexState, check_index, look_at
from mirror.store.layout import VERSION

_NETWORK: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "lustre", "afs", "virtiofs"}
)
_FLEETING: Final = frozenset({"tmpfs", "ramfs"})
_FEW_INODES: Final = 10_000
_EXPIRES_SOON: Final = timedelta(days=14)
_SKEW_SECONDS: Final = 30.0
_SKEW_MAX_SECONDS: Final = 300.0
INDEX_SECONDS: Final = 4.0
_REBUILT: Final = "the mirror builds it anew at its next start, from the files; no pull is lost"


def configuration(loaded: Loaded, error: ConfigError | None) -> Verdict:
    """Tell what the configuration is, or all that is wrong with it."""
    if error is None:
        return fine(str(loaded.source or "built-in defaults, no file was found"))
    return wrong(
        "\n".join(str(error).splitlines()),
        "correct it, and try it with `mirror config check`; what follows was looked at with the "
        "default in place of each mistake",
    )


def directory(cache: Cache) -> Verdict:
    """Tell whether the cache directory can be used, and what it stands on."""
    try:
        seen = look_at(cache.directory)
    except OSError as error:
        remedy = "set cache.directory to a directory that the mirror may write"
        return wrong(f"{cache.directory}: {error.strerror}", remedy)
    if seen.in_use is None:
        user = f"user {os.geteuid()}"
        return left_out(
            f"{seen.directory} belongs to user {seen.owner}; {user} may not look into it",
            "run the doctor as the user of the mirror (sudo -u …), or as root",
        )
    return _trouble_of(seen) or _ground_of(seen) or _found(seen)


def _trouble_of(seen: Fitness) -> Verdict | None:
    place = str(seen.directory)
    if seen.in_use:  # it is at work: its user can do what this one may not
        return None
    if seen.trouble:
        what = place if seen.exists else f"{place} does not exist, and {seen.standing}"
        return wrong(
            f"{what} {seen.trouble}",
            f"as root: install -d -m 700 -o USER {place}, with the user of the mirror; or set "
            "cache.directory to another",
        )
    if seen.version not in {"", VERSION}:
        return wrong(
            f"{place} has the layout {seen.version!r}, this program knows {VERSION!r}",
            "use another directory, or the version of Mirror that wrote it",
        )
    if seen.exists and seen.version and os.geteuid() not in {0, seen.owner}:
        return doubtful(
            f"{place} belongs to user {seen.owner}, this is user {os.geteuid()}",
            "run the mirror as one user always: some of its files are for their owner only",
        )
    return None


def _ground_of(seen: Fitness) -> Verdict | None:
    place, kind = str(seen.directory), seen.file_system.kind
    if kind in _NETWORK or kind.startswith("fuse"):
        return doubtful(
            f"{place} is on {kind} (mounted at {seen.file_system.mount_point})",
            "use a local disk: locks and SQLite are not reliable on network file systems, and "
            "each pull would cross the network twice",
        )
    if kind in _FLEETING:
        return doubtful(
            f"{place} is on {kind}: it takes memory, and is empty after a restart",
            "mount a disk there, unless that is what you want",
        )
    if kind == "overlay":
        return doubtful(
            f"{place} is in the writable layer of a container: it goes with the container",
            f"mount a volume at {place}",
        )
    return None


def _found(seen: Fitness) -> Verdict:
    kind = seen.file_system.kind or "a file system of unknown kind"
    state = (
        "in use by a running mirror"
        if seen.in_use
        else "can be written"
        if seen.exists
        else "will be made at the first start"
    )
    return fine(f"{seen.directory} on {kind}, {state}")


def space(cache: Cache) -> Verdict:
    """Tell whether there is room for what may be kept."""
    try:
        ground = look_at(cache.directory).file_system
    except OSError as error:
        return left_out(f"{cache.directory}: {error.strerror}")
    keep_bytes = cache.min_free.resolve(ground.total_bytes)
    bound_bytes = cache.max_size.resolve(ground.total_bytes)
    free, total = human_size(ground.free_bytes), human_size(ground.total_bytes)
    if ground.free_bytes <= keep_bytes:
        return wrong(
            f"{free} of {total} are free, and cache.min_free keeps {human_size(keep_bytes)} so",
            "free some space: until then what is cached goes, and nothing new is kept",
        )
    if ground.free_inodes is not None and ground.free_inodes < _FEW_INODES:
        return wrong(
            f"only {counted(ground.free_inodes, 'inode')} left on the file system",
            "free some: each object of the cache takes one, however small it is",
        )
    if bound_bytes > ground.total_bytes - keep_bytes:
        return doubtful(
            f"cache.max_size is {human_size(bound_bytes)}, the file system has {total}",
            "set it below the size of the disk, or as a share such as 80%: what goes when it is "
            "full is then decided by the last use, and not by what is left",
        )
    return fine(f"{free} of {total} free; the cache may take {human_size(bound_bytes)}")


def index(directory: Path) -> Verdict:
    """Tell whether the index can be read to its end."""
    found = check_index(directory, INDEX_SECONDS - 1)
    match found.state:
        case IndexState.MISSING:
            return left_out("there is none yet")
        case IndexState.SOUND:
            return fine(f"sound, {counted(found.rows, 'row')} written so far")
        case IndexState.LARGE:
            return fine("it opens; it is too large to be read to its end now")
        case IndexState.UNFINISHED:
            return doubtful("it was not built to its end", _REBUILT)
        case IndexState.DAMAGED:
            return doubtful(f"damaged: {found.detail}", f"restart the mirror: {_REBUILT}")
        case IndexState.UNREADABLE:
            return left_out(
                f"it cannot be read: {found.detail}",
                "run the doctor as the user of the mirror, or as root",
            )


def certificate(tls: ServerTls, key: str, now: datetime) -> Verdict:
    """Tell whether the certificate of a listener can be used, and how long it is good."""
    try:
        server_context(tls, key)
        shown = load_pem_x509_certificate(tls.certificate.read_bytes())
    except (CertificateError, OSError, ValueError) as error:
        return wrong(str(error), f"look at the files that {key} names")
    until = f"good until {shown.not_valid_after_utc:%Y-%m-%d}"
    remedy = "renew it: the mirror reads the new one within seconds, without a restart"
    if now >= shown.not_valid_after_utc:
        return wrong(f"{key}: it was {until}", remedy)
    if now < shown.not_valid_before_utc:
        return wrong(f"{key}: it is good from {shown.not_valid_before_utc:%Y-%m-%d} on", remedy)
    if shown.not_valid_after_utc - now < _EXPIRES_SOON:
        return doubtful(f"{key}: {until}", remedy)
    return fine(f"{key}: {until}")


def clock(ahead: dict[str, float]) -> Verdict:
    """Tell how far the clock is from those of the upstreams, in seconds; the median counts."""
    if not ahead:
        return left_out("no upstream told the time")
    name, seconds = sorted(ahead.items(), key=lambda pair: pair[1])[len(ahead) // 2]
    said = f"{abs(seconds):.0f} s {'behind' if seconds > 0 else 'ahead of'} {name}"
    remedy = "set the clock: `timedatectl set-ntp true`, or chrony"
    if abs(seconds) > _SKEW_MAX_SECONDS:
        return wrong(said, f"{remedy}; tokens and certificates are refused by a wrong one")
    if abs(seconds) > _SKEW_SECONDS:
        return doubtful(said, remedy)
    return fine(f"as those of {counted(len(ahead), 'upstream')}, to the second or two")
