"""Where the login of a configured credential comes from, each kind in its way."""

import os
from collections.abc import Awaitable, Callable, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from pydantic import SecretStr

from mirror.domain.errors import CredentialUnavailableError
from mirror.domain.logins import (
    HUB,
    HUB_SERVER,
    HelperCall,
    Login,
    UnreadableError,
    find_login,
    server_name,
)
from mirror.runtime.clock import Clock
from mirror.runtime.pools import Pools
from mirror.settings import Credential, Upstream
from mirror.upstream.clouds import PROVIDERS
from mirror.upstream.clouds.calls import Calls, Surroundings
from mirror.upstream.helpers import ask_helper
from mirror.upstream.kept import Issued, Kept

_HELPER_SECONDS: Final = 300.0
"""How long the answer of a helper is used: helpers do not say, and keep what lasts longer."""

_FILE_MAX_CHARS: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class LoginTools:
    """What logins are had with, shared by all upstreams."""

    pools: Pools
    calls: Calls
    clock: Clock
    environ: Mapping[str, str]

    @classmethod
    def of(cls, pools: Pools, clock: Clock) -> "LoginTools":
        """Return the tools of this process."""
        return cls(pools, Calls(pools.dns), clock, os.environ)

    @property
    def surroundings(self) -> Surroundings:
        """What an identity of a cloud is found by."""
        return Surroundings(self.calls, self.pools.secrets, self.clock, self.environ)


class Logins:
    """The logins of one upstream."""

    def __init__(self, upstream: Upstream, tools: LoginTools) -> None:
        self._upstream = upstream
        self._tools = tools
        self._kept: dict[Hashable, Kept] = {}

    async def get(
        self, credential: Credential, repository: str = "", not_this: Login | None = None
    ) -> Login:
        """Return the login that a credential means.

        Files are read each time, so they may rotate; what helpers and clouds give is kept.

        Args:
            credential: Of the configuration.
            repository: For which one, where that makes a difference.
            not_this: A login that has just been refused.

        Raises:
            CredentialUnavailableError: there is none.
        """
        try:
            return await self._get(credential, repository, not_this)
        except CredentialUnavailableError as error:
            raise CredentialUnavailableError(f"account {credential.name}: {error.reason}") from None

    async def close(self) -> None:
        """Stop asking."""
        for kept in self._kept.values():
            await kept.close()

    async def _get(self, credential: Credential, repository: str, not_this: Login | None) -> Login:
        if credential.docker_config is not None:
            found = await self._of_docker(credential.docker_config, repository)
            return found if isinstance(found, Login) else await self._of_helper(found, not_this)
        if credential.helper is not None:
            call = HelperCall(credential.helper, server_name(self._upstream.name))
            return await self._of_helper(call, not_this)
        if credential.cloud is not None:
            return await self._of_cloud(credential.cloud, not_this)
        return Login(
            credential.username,
            await self._secret(credential.password, credential.password_file),
            await self._secret(credential.token, credential.token_file),
        )

    async def _of_docker(self, path: Path, repository: str) -> Login | HelperCall:
        text = await self._text(path)
        try:
            found = find_login(text, self._hosts, repository)
        except UnreadableError as error:
            raise CredentialUnavailableError(f"docker_config: {error}") from None
        if found is None:
            raise CredentialUnavailableError("docker_config has no account for this registry")
        return found

    async def _of_helper(self, call: HelperCall, not_this: Login | None) -> Login:
        async def ask() -> Issued:
            pool = self._tools.pools.helpers
            login = await pool.run(ask_helper, call, self._tools.environ)
            return Issued(login, _HELPER_SECONDS)

        return await self._kept_login(call, ask, call.program).get(not_this)

    async def _of_cloud(self, cloud: str, not_this: Login | None) -> Login:
        async def ask() -> Issued:
            return await PROVIDERS[cloud](self._tools.surroundings, self._upstream)

        return await self._kept_login(cloud, ask, f"the identity of {cloud}").get(not_this)

    def _kept_login(self, key: Hashable, ask: Callable[[], Awaitable[Issued]], what: str) -> Kept:
        if key not in self._kept:
            self._kept[key] = Kept(ask, self._tools.clock, what)
        return self._kept[key]

    @property
    def _hosts(self) -> tuple[str, ...]:
        """All names that a ``config.json`` may have for the registry, its own first."""
        upstream = self._upstream
        endpoints = tuple(urlsplit(url).netloc for url in upstream.endpoints)
        hub = (urlsplit(HUB_SERVER).netloc,) if upstream.name == HUB else ()
        return (upstream.name, *upstream.aliases, *hub, *endpoints)

    async def _secret(self, value: SecretStr | None, path: Path | None) -> str | None:
        if path is None:
            return None if value is None else value.get_secret_value()
        return await self._text(path)

    async def _text(self, path: Path) -> str:
        try:
            text = await self._tools.pools.secrets.run(_read, path)
        except (OSError, ValueError):
            text = ""
        if not text:  # clients see this: the configuration, not the message, has the path
            raise CredentialUnavailableError("its file is empty or cannot be read")
        return text


def _read(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        return file.read(_FILE_MAX_CHARS).strip()
