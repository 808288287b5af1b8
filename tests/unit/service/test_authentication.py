"""What is remembered of credentials belongs to the source that has checked them."""

from pathlib import Path

import bcrypt

from mirror.domain.access import Identity
from mirror.domain.credentials import Basic, Bearer
from mirror.domain.htpasswd import Parsed, parse_htpasswd
from mirror.runtime.clock import Clock
from mirror.runtime.fingerprints import Fingerprints
from mirror.runtime.pools import Pools
from mirror.runtime.recent import MemoryTier
from mirror.service.account_tokens import KubernetesTokens
from mirror.service.authentication import Passwords
from mirror.service.watched_file import WatchedFile
from mirror.upstream.identity import Reviewed


def htpasswd(path: Path, password: bytes) -> Path:
    path.write_text(f"alice:{bcrypt.hashpw(password, bcrypt.gensalt(4)).decode()}\n")
    return path


async def test_a_new_file_of_users_inherits_nothing_from_one_before(tmp_path: Path) -> None:
    """A source that is built at a reload may stand in memory where an older one stood."""
    tier, fingerprints, pools = MemoryTier(1_000_000), Fingerprints(), Pools()

    def file(path: Path) -> WatchedFile[Parsed]:
        return WatchedFile(path, parse_htpasswd, Parsed(), pools.users, Clock())

    def source(users: WatchedFile[Parsed]) -> Passwords:
        return Passwords(users, pools.passwords, tier, fingerprints)

    before = file(htpasswd(tmp_path / "a", b"old"))
    after = file(htpasswd(tmp_path / "b", b"new"))
    try:
        for _ in range(10):
            assert await source(before).identify(Basic("alice", "old")) == Identity("alice")
            assert await source(after).identify(Basic("alice", "old")) is None
    finally:
        pools.close()


async def test_another_cluster_inherits_nothing_from_one_before() -> None:
    tier, fingerprints = MemoryTier(1_000_000), Fingerprints()

    async def yes(_token: str) -> Reviewed | None:
        return Reviewed("system:serviceaccount:a:b", frozenset())

    async def no(_token: str) -> Reviewed | None:
        return None

    token = Bearer("a.b.c")
    for _ in range(10):
        assert await KubernetesTokens(yes, tier, fingerprints).identify(token) is not None
        assert await KubernetesTokens(no, tier, fingerprints).identify(token) is None
