"""Who a verified client certificate says that its bearer is.

Source: RFC 5280 section 4.1.2.6 for the subject, RFC 4514 for how it is written.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

_SHORT: Final = {
    "commonName": "CN",
    "countryName": "C",
    "domainComponent": "DC",
    "localityName": "L",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "stateOrProvinceName": "ST",
    "streetAddress": "STREET",
    "userId": "UID",
}
_SPECIAL: Final = re.compile(r'(^[ #]|[,+"\\<>;=]| $)')


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """The names in a certificate that one of ``client_ca``'s authorities has signed."""

    subject: str
    """The whole subject, such as ``CN=node-1,O=system:nodes``."""
    common_name: str = ""
    """Empty where there is none, and where there are several: then it is nobody's."""
    organizations: tuple[str, ...] = ()
    dns_names: tuple[str, ...] = ()
    uris: tuple[str, ...] = ()
    """SPIFFE identities stand here."""
    emails: tuple[str, ...] = ()

    @classmethod
    def read(cls, fields: Mapping[str, Any] | None) -> "ClientCertificate | None":
        """Return what a certificate as ``ssl`` gives it says; ``None`` if none was shown."""
        if not fields:
            return None
        subject = [(name, value) for each in fields.get("subject", ()) for name, value in each]
        common = _of("commonName", subject)
        other = fields.get("subjectAltName", ())
        return cls(
            ",".join(
                f"{_SHORT.get(name, name)}={_escaped(value)}" for name, value in subject[::-1]
            ),
            common[0] if len(common) == 1 else "",
            _of("organizationName", subject),
            _of("DNS", other),
            _of("URI", other),
            _of("email", other),
        )


def _of(kind: str, names: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    return tuple(value for name, value in names if name == kind)


def _escaped(value: str) -> str:
    return _SPECIAL.sub(r"\\\1", value)
