"""What a request is for, where its target is a whole URL (RFC 9112 section 3.2.2).

Clients send that to proxies, and a server has to take it, too.
"""

import re
from typing import Final

from aiohttp import hdrs, web
from multidict import CIMultiDict
from yarl import URL

_ABSOLUTE: Final = re.compile(
    r"https?://(?P<authority>[^/?#@]+)(?P<rest>.*)", re.IGNORECASE | re.DOTALL
)


def in_origin_form(request: web.BaseRequest) -> web.BaseRequest:
    """Return a request as if its target were a path, and its host in the header."""
    match = _ABSOLUTE.fullmatch(request.raw_path)
    if match is None:
        return request
    headers = CIMultiDict((name, text) for name, text in request.headers.items() if _is_text(text))
    headers[hdrs.HOST] = match["authority"]  # whatever the client says there
    rest = match["rest"] if match["rest"].startswith("/") else "/" + match["rest"]
    return request.clone(rel_url=URL(rest, encoded=True), headers=headers)


def _is_text(value: str) -> bool:
    """Tell whether a header came as UTF-8: aiohttp makes no request with another one."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
