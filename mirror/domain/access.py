"""Who may pull what, and who may administer: callers, rules, and the decision.

A rule lets somebody do something; what no rule lets is denied. So the order of the rules does
not matter, and one more rule never takes anything away.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum, auto
from typing import Final, Literal

from mirror.domain.freshness import matches
from mirror.domain.names import Repository

ANONYMOUS: Final = "anonymous"
"""Everybody, also who shows no credential."""
ANYBODY: Final = "*"
"""Everybody who has proved who he is."""

WHO: Final = f"`user:NAME`, `group:NAME`, `claim:NAME=VALUE`, `{ANYBODY}` or `{ANONYMOUS}`"
_KINDS: Final = ("user", "group", "claim")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a caller has proved to be.

    ``claims`` are those claims of its token that some rule names.
    """

    user: str
    groups: frozenset[str] = frozenset()
    claims: frozenset[tuple[str, str]] = frozenset()


class Role(IntEnum):
    """What somebody may do at the admin API; a higher one includes the lower ones."""

    NONE = 0
    READ = 1
    WRITE = 2

    @classmethod
    def named(cls, name: Literal["read", "write"] | None) -> "Role":
        """Return the role that the configuration calls so."""
        return cls.NONE if name is None else cls[name.upper()]


@dataclass(frozen=True, slots=True)
class Rule:
    """Somebody, the patterns over ``upstream/repository`` he may pull, and his role."""

    who: str
    pull: tuple[str, ...] = ()
    admin: Role = Role.NONE

    def is_about(self, identity: Identity | None) -> bool:
        """Return whether the rule speaks of a caller; ``None`` has shown no credential."""
        if self.who == ANONYMOUS:
            return True
        if identity is None:
            return False
        kind, _, name = self.who.partition(":")
        match kind:
            case "user":
                return matches(name, identity.user)
            case "group":
                return any(matches(name, group) for group in identity.groups)
            case "claim":
                claim, _, wanted = name.partition("=")
                return any(claim == of and matches(wanted, value) for of, value in identity.claims)
            case _:
                return self.who == ANYBODY

    def lets_pull(self, identity: Identity | None, repository: Repository) -> bool:
        """Return whether the rule lets a caller pull a repository."""
        return self.is_about(identity) and any(
            matches(pattern, str(repository)) for pattern in self.pull
        )


DEFAULT_RULES: Final = (Rule(ANYBODY, ("**",)),)
"""Without any rule, whoever proves who he is may pull everything."""


class Verdict(Enum):
    """What becomes of a request."""

    ALLOW = auto()
    ASK = auto()
    """Who shows no credential might be let in with one."""
    DENY = auto()


def judge(rules: Sequence[Rule], identity: Identity | None, repository: Repository) -> Verdict:
    """Return whether a caller may pull a repository."""
    if any(rule.lets_pull(identity, repository) for rule in rules):
        return Verdict.ALLOW
    return Verdict.ASK if identity is None else Verdict.DENY


@dataclass(frozen=True, slots=True)
class Viewer:
    """Whoever looks at the catalogue; without rules it shows everything."""

    rules: tuple[Rule, ...] | None
    identity: Identity | None
    hidden: frozenset[str] = frozenset()
    """Upstreams whose repositories are not shown to anybody."""

    def may_see(self, repository: Repository) -> bool:
        """Return whether a repository is shown."""
        if repository.upstream in self.hidden:
            return False
        return self.rules is None or judge(self.rules, self.identity, repository) is Verdict.ALLOW


def admin_role(rules: Iterable[Rule], identity: Identity) -> Role:
    """Return the highest role that the rules give to a caller."""
    return max((rule.admin for rule in rules if rule.is_about(identity)), default=Role.NONE)


def wanted_claims(rules: Iterable[Rule]) -> frozenset[str]:
    """Return the names of the claims that rules ask for."""
    names = (rule.who.partition(":") for rule in rules)
    return frozenset(name.partition("=")[0] for kind, _, name in names if kind == "claim")


def is_who(text: str) -> bool:
    """Return whether *text* names somebody in a rule."""
    kind, colon, name = text.partition(":")
    if not colon:
        return text in {ANYBODY, ANONYMOUS}
    if kind == "claim" and not all(name.partition("=")):
        return False
    return kind in _KINDS and bool(name) and name.isprintable() and " " not in name


def pull_scopes(scopes: Iterable[str]) -> list[str]:
    """Return the repositories for which scopes of the token protocol ask to pull.

    A name may hold a colon itself: ``repository:registry.local:5000/team/app:pull``.
    """
    names: dict[str, None] = {}
    for scope in (part for text in scopes for part in text.split()):
        kind, _, rest = scope.partition(":")
        name, _, actions = rest.rpartition(":")
        if kind == "repository" and name and {"pull", "*"} & set(actions.split(",")):
            names[name] = None
    return list(names)
