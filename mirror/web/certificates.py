"""Who a client certificate says that its holder is."""

from collections.abc import Iterable
from typing import Any, Final

from aiohttp import web

from mirror.domain.access import Identity

_USER: Final = "commonName"
_GROUP: Final = "organizationName"


def certified(request: web.BaseRequest) -> Identity | None:
    """Return whom the verified certificate of a connection names; ``None``: there is none.

    The common name is the user and the organizations are its groups, as in Kubernetes. TLS
    hands over a certificate only if an authority of ``client_ca`` has signed it.
    """
    certificate = request.get_extra_info("peercert")
    return of_subject(certificate.get("subject", ())) if certificate else None


def of_subject(subject: Iterable[Iterable[tuple[Any, Any]]]) -> Identity | None:
    """Return whom a subject names, as the ssl module writes it."""
    names = [(key, str(value)) for part in subject for key, value in part]
    user = next((value for key, value in names if key == _USER), "")
    groups = frozenset(value for key, value in names if key == _GROUP)
    return Identity(user, groups) if user else None
