"""What is remembered of credentials belongs to the source that has checked them."""

import asyncio
from pathlib import Path

import bcrypt
import pytest

from mirror.domain.access import Identity
from mirror.domain.credentials import Basic, Bearer
from mirror.domain.errors import OverloadedError
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


async def test_a_password_that_many_show_at_once_is_checked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All nodes share a user, and all of them have just been restarted."""
    tier, pools, checked = MemoryTier(1_000_000), Pools(), list[bytes]()
    checkpw = bcrypt.checkpw

    def counted(secret: bytes, hashed: bytes) -> bool:
        checked.append(secret)
        return checkpw(secret, hashed)

    monkeypatch.setattr(bcrypt, "checkpw", counted)
    path = htpasswd(tmp_path / "a", b"secret")
    users = WatchedFile(path, parse_htpasswd, Parsed(), pools.users, Clock())
    source = Passwords(users, pools.passwords, tier, Fingerprints())
    try:
        nodes = (source.identify(Basic("alice", "secret")) for _ in range(200))
        assert await asyncio.gather(*nodes) == [Identity("alice")] * 200
        assert checked == [b"secret"]
        guesses = (source.identify(Basic("alice", str(number))) for number in range(200))
        refused = await asyncio.gather(*guesses, return_exceptions=True)
        assert sum(isinstance(each, OverloadedError) for each in refused) == 200 - 64
    finally:
        pools.close()
