"""What the answers of several endpoints of one upstream say together.

An endpoint is the registry itself or a mirror of it. A mirror that lacks an image says
nothing about the registry; an outage of the registry must not look like a missing image.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from mirror.domain.challenge import Origin
from mirror.domain.errors import MirrorError, TroubleError


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One place that serves an upstream's repositories.

    ``url`` ends without a slash, may carry a path prefix, and has ``/v2`` appended.
    ``is_registry`` tells that the host is the upstream's own name or alias; to all others
    ``?ns=`` says which upstream is meant, as containerd does (invariant 15).
    """

    url: str
    is_registry: bool

    @classmethod
    def of(cls, url: str, names: Collection[str]) -> "Endpoint":
        """Return the endpoint at *url* of an upstream that goes by *names*."""
        origin = Origin.of(url)
        is_registry = origin is not None and not origin.names.isdisjoint(names)
        return cls(url.rstrip("/").removesuffix("/v2"), is_registry)


@dataclass(frozen=True, slots=True)
class Refusal:
    """An endpoint's failure to deliver."""

    endpoint: Endpoint
    error: MirrorError


def in_order(endpoints: Sequence[Endpoint], avoid: Collection[str]) -> list[Endpoint]:
    """Return the endpoints in the order to ask them: those whose URL is in *avoid* last."""
    return sorted(endpoints, key=lambda endpoint: endpoint.url in avoid)


def combined(refusals: Sequence[Refusal]) -> MirrorError:
    """Return the one error that stands for all endpoints having failed.

    The registry's own word is final when it is an answer (not found, denied). Otherwise
    trouble outweighs an answer, since who was in trouble might have had it.
    """
    answers = [item for item in refusals if not isinstance(item.error, TroubleError)]
    troubles = [item for item in refusals if isinstance(item.error, TroubleError)]
    final = [item for item in answers if item.endpoint.is_registry]
    return (final or troubles or answers)[0].error
