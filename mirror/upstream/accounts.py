"""With which credential an upstream is asked for a repository."""

import base64
from dataclasses import dataclass, field
from typing import Final

from mirror.domain.errors import CredentialRefusedError
from mirror.domain.freshness import matches
from mirror.domain.logins import Login
from mirror.domain.names import Repository
from mirror.runtime.acting import Caller, acting_for
from mirror.settings import Credential, Upstream
from mirror.upstream.logins import Logins

ANONYMOUS_NAME: Final = "anonymous"
CALLER_NAME: Final = "caller"
"""All callers with a credential of their own (``policy.access: verify``)."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Whom an upstream limits: by this, pauses and budgets are kept apart.

    Callers have one ``name`` between them, which is what metrics and logs show, so that there are
    no more of those than accounts in the configuration. ``mark`` tells callers apart.
    """

    name: str
    mark: bytes = field(default=b"", repr=False)


NOBODY: Final = Holder(ANONYMOUS_NAME)


@dataclass(frozen=True, slots=True)
class Account:
    """Who we are towards an upstream; the secrets stay out of every ``repr``.

    ``name`` is what metrics and logs show.
    """

    name: str
    login: Login = field(default=Login(), repr=False)
    is_callers: bool = False
    """A caller's own: that it is refused says nothing of what we are configured with."""
    generation: int = 0
    """Tokens of another one are not used for it."""
    mark: bytes = field(default=b"", repr=False)
    """Tells one caller from another."""

    @property
    def holder(self) -> Holder:
        """Whose pauses and whose budget count."""
        return Holder(self.name, self.mark)

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


def _account_of(caller: Caller) -> Account:
    if caller.password is None:
        return Account(ANONYMOUS_NAME, generation=caller.generation)
    login = Login(username=caller.username, password=caller.password)
    return Account(
        CALLER_NAME, login, is_callers=True, generation=caller.generation, mark=caller.mark
    )


class Accounts:
    """The configured credentials of one upstream."""

    def __init__(self, upstream: Upstream, logins: Logins) -> None:
        self._upstream = upstream
        self._logins = logins

    def holder(self, repository: Repository) -> Holder:
        """Return whose credential counts here."""
        caller = acting_for(self._upstream.name)
        if caller is not None:
            return NOBODY if caller.password is None else Holder(CALLER_NAME, caller.mark)
        credential = self._entry(repository)
        return NOBODY if credential is None else Holder(credential.name)

    def has_credential(self, repository: Repository) -> bool:
        """Return whether there is one; without it upstream shows what it shows to everybody."""
        caller = acting_for(self._upstream.name)
        if caller is not None:
            return caller.password is not None
        return self._entry(repository) is not None

    @property
    def holders(self) -> tuple[Holder, ...]:
        """Those of the configuration, the anonymous one last."""
        names = dict.fromkeys(each.name for each in self._upstream.credentials)
        return (*map(Holder, names), NOBODY)

    async def account(self, repository: Repository, *, not_this: Account | None = None) -> Account:
        """Return the account for a repository; secrets may rotate.

        Args:
            repository: What is asked for.
            not_this: An account as it was when it was refused: a newer secret may be had.

        Raises:
            CredentialUnavailableError: the secret cannot be had.
        """
        caller = acting_for(self._upstream.name)
        if caller is not None:
            return _account_of(caller)
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
