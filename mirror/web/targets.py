"""What a request is for, where its target is a whole URL (RFC 9112 section 3.2.2).

Clients send that to proxies, and a server has to take it, too.
"""

import re
from typing import Final

from aiohttp import hdrs, web
from yarl import URL

_ABSOLUTE: Final = re.compile(
    r"https?://(?P<authority>[^/?#@]+)(?P<rest>.*)", re.IGNORECASE | re.DOTALL
)


def in_origin_form(request: web.BaseRequest) -> web.BaseRequest:
    """Return a request as if its target were a path, and its host in the header."""
    match = _ABSOLUTE.fullmatch(request.raw_path)
    if match is None:
        return request
    headers = request.headers.copy()
    headers[hdrs.HOST] = match["authority"]  # whatever the client says there
    rest = match["rest"] if match["rest"].startswith("/") else "/" + match["rest"]
    return request.clone(rel_url=URL(rest, encoded=True), headers=headers)
