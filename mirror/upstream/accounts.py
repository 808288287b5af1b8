"""With which credential an upstream is asked for a repository."""

import base64
from dataclasses import dataclass, field
from typing import Final

from mirror.domain.errors import CredentialRefusedError
from mirror.domain.freshness import matches
from mirror.domain.logins import Login
from mirror.domain.names import Repository
from mirror.settings import Credential, Upstream
from mirror.upstream.logins import Logins

ANONYMOUS_NAME: Final = "anonymous"


@dataclass(frozen=True, slots=True)
class Account:
    """Who we are towards an upstream; the secrets stay out of every ``repr``.

    ``name`` is what metrics and logs show.
    """

    name: str
    login: Login = field(default=Login(), repr=False)

    @property
    def is_anonymous(self) -> bool:
        """Whether there is nothing to show."""
        return self.login == Login()

    @property
    def token(self) -> str | None:
        """The bearer token that is sent as it is, if that is what we have."""
        return self.login.token

    @property
    def identity_token(self) -> str | None:
        """The token that a token endpoint takes instead of a password, if we have one."""
        return self.login.identity_token

    def basic(self) -> str | None:
        """Return the value of an Authorization header of the scheme Basic."""
        if self.login.password is None:
            return None
        pair = f"{self.login.username or ''}:{self.login.password}".encode()
        return "Basic " + base64.b64encode(pair).decode()


ANONYMOUS: Final = Account(ANONYMOUS_NAME)


class Accounts:
    """The configured credentials of one upstream."""

    def __init__(self, upstream: Upstream, logins: Logins) -> None:
        self._upstream = upstream
        self._logins = logins

    def name_for(self, repository: Repository) -> str | None:
        """Return the name of the credential that counts here; ``None``: anonymous."""
        credential = self._entry(repository)
        return None if credential is None else credential.name

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all accounts, the anonymous one last."""
        return (*dict.fromkeys(each.name for each in self._upstream.credentials), ANONYMOUS_NAME)

    async def account(self, repository: Repository, *, not_this: Account | None = None) -> Account:
        """Return the account for a repository; secrets may rotate.

        Args:
            repository: What is asked for.
            not_this: An account as it was when it was refused: a newer secret may be had.

        Raises:
            CredentialUnavailableError: the secret cannot be had.
        """
        credential = self._entry(repository)
        if credential is None:
            return ANONYMOUS
        refused = None if not_this is None else not_this.login
        login = await self._logins.get(credential, repository.name, refused)
        return Account(credential.name, login)

    async def everyone(self) -> list[Account | CredentialRefusedError]:
        """Return all accounts, the anonymous one if there is no other."""
        found: list[Account | CredentialRefusedError] = []
        for credential in self._upstream.credentials:
            try:
                found.append(Account(credential.name, await self._logins.get(credential)))
            except CredentialRefusedError as error:
                found.append(error)
        return found or [ANONYMOUS]

    async def close(self) -> None:
        """Stop asking helpers and clouds."""
        await self._logins.close()

    def _entry(self, repository: Repository) -> Credential | None:
        fitting = [
            (len(pattern), credential)
            for credential in self._upstream.credentials
            for pattern in credential.repositories
            if matches(pattern, repository.name)
        ]
        return max(fitting, key=lambda pair: pair[0])[1] if fitting else None
