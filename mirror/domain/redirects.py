"""Where a redirect of upstream leads, and whether credentials may go along.

Source: RFC 9110 section 15.4; case S3.
"""

from string import punctuation
from typing import Final
from urllib.parse import quote, urljoin, urlsplit

from mirror.domain.challenge import Origin
from mirror.domain.errors import UpstreamTroubleError

REDIRECT_STATUSES: Final = frozenset({301, 302, 303, 307, 308})
MAX_HOPS: Final = 10
_LEFT_ALONE: Final = punctuation
"""All that may stand in a URL is left as it is: a signature is over what was written. Only
what cannot be sent (spaces, letters that are not ASCII) is encoded."""


def next_hop(url: str, location: str | None) -> str:
    """Return the URL that a redirect from *url* leads to, its encoding untouched.

    Raises:
        UpstreamTroubleError: there is no target, it is not http(s), carries user
            information, or would leave TLS.
    """
    if not location:
        raise UpstreamTroubleError("a redirect without Location")
    try:
        target = urljoin(url, quote(location, safe=_LEFT_ALONE, errors="surrogateescape"))
    except ValueError:  # brackets that hold no address
        target = ""
    old, new = Origin.of(url), Origin.of(target)
    if new is None:
        raise UpstreamTroubleError("a redirect to something that is not a plain http(s) URL")
    if old is not None and old.scheme == "https" and new.scheme != "https":
        raise UpstreamTroubleError(f"a redirect from https to {new.scheme}")
    return target


def same_origin(url: str, other_url: str) -> bool:
    """Return whether credentials for one URL may be sent to the other."""
    origin = Origin.of(url)
    return origin is not None and origin == Origin.of(other_url)


def redact(url: str) -> str:
    """Return *url* without query and user information: fit for a log or an error."""
    origin = Origin.of(url)
    if origin is None:
        return "(unprintable URL)"
    return f"{origin}{urlsplit(url).path or '/'}"
