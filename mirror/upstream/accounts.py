"""With which credential an upstream is asked for a repository."""

import base64
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from mirror.domain.errors import CredentialRefusedError
from mirror.domain.freshness import matches
from mirror.domain.names import Repository
from mirror.runtime.pools import Pool
from mirror.settings import Credential, Upstream

ANONYMOUS_NAME: Final = "anonymous"


@dataclass(frozen=True, slots=True)
class Account:
    """Who we are towards an upstream; the secrets stay out of every ``repr``.

    ``name`` is what metrics and logs show.
    """

    name: str
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)

    @property
    def is_anonymous(self) -> bool:
        """Whether there is nothing to show."""
        return self.password is None and self.token is None

    def basic(self) -> str | None:
        """Return the value of an Authorization header of the scheme Basic."""
        if self.password is None:
            return None
        pair = f"{self.username or ''}:{self.password}".encode()
        return "Basic " + base64.b64encode(pair).decode()


ANONYMOUS: Final = Account(ANONYMOUS_NAME)


class Accounts:
    """The configured credentials of one upstream."""

    def __init__(self, upstream: Upstream, pool: Pool) -> None:
        self._upstream = upstream
        self._pool = pool

    def name_for(self, repository: Repository) -> str | None:
        """Return the name of the credential that counts here; ``None``: anonymous."""
        credential = self._entry(repository)
        return None if credential is None else credential.name

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all accounts, the anonymous one last."""
        return (*dict.fromkeys(each.name for each in self._upstream.credentials), ANONYMOUS_NAME)

    async def account(self, repository: Repository) -> Account:
        """Return the account for a repository; files are read each time, so they may rotate.

        Raises:
            CredentialRefusedError: the file of a secret is empty or cannot be read.
        """
        credential = self._entry(repository)
        return ANONYMOUS if credential is None else await self._account(credential)

    async def everyone(self) -> list[Account | CredentialRefusedError]:
        """Return all accounts, the anonymous one if there is no other."""
        found: list[Account | CredentialRefusedError] = []
        for credential in self._upstream.credentials:
            try:
                found.append(await self._account(credential))
            except CredentialRefusedError as error:
                found.append(error)
        return found or [ANONYMOUS]

    async def _account(self, credential: Credential) -> Account:
        return Account(
            credential.name,
            credential.username,
            await self._secret(credential.name, credential.password, credential.password_file),
            await self._secret(credential.name, credential.token, credential.token_file),
        )

    def _entry(self, repository: Repository) -> Credential | None:
        fitting = [
            (len(pattern), credential)
            for credential in self._upstream.credentials
            for pattern in credential.repositories
            if matches(pattern, repository.name)
        ]
        return max(fitting, key=lambda pair: pair[0])[1] if fitting else None

    async def _secret(self, name: str, value: SecretStr | None, path: Path | None) -> str | None:
        if path is None:
            return None if value is None else value.get_secret_value()
        try:
            text = await self._pool.run(path.read_text, encoding="utf-8")
        except (OSError, ValueError):
            text = ""
        secret = text.strip()
        if not secret:  # clients see this: the configuration, not the message, has the path
            raise CredentialRefusedError(f"the file with the secret of account {name} is empty")
        return secret
