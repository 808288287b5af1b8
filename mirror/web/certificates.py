"""Who a client certificate says that its holder is."""

from aiohttp import web

from mirror.domain.access import Identity
from mirror.domain.certificates import ClientCertificate


def certified(request: web.BaseRequest) -> Identity | None:
    """Return whom the verified certificate of a connection names; ``None``: nobody.

    TLS hands one over only if an authority of ``client_ca`` has signed it.
    """
    certificate = ClientCertificate.read(request.get_extra_info("peercert"))
    return None if certificate is None else holder(certificate)


def holder(certificate: ClientCertificate) -> Identity | None:
    """Return whom a certificate names.

    The common name is the user and the organizations are its groups, as in Kubernetes; without
    a common name a single URI is the user, as in SPIFFE. The other names are claims.
    """
    uris, user = certificate.uris, certificate.common_name
    has_common_name = ",CN=" in f",{certificate.subject}"  # in values, = is escaped
    if not user and not has_common_name and len(uris) == 1:
        user = uris[0]
    if not user:
        return None
    claims = {
        *(("uri", name) for name in uris),
        *(("dns", name) for name in certificate.dns_names),
        *(("email", name) for name in certificate.emails),
    }
    return Identity(user, frozenset(certificate.organizations), frozenset(claims))
