"""The dashboard: a few static files, which anybody may load; what they show, the API guards.

All addresses in them are relative, so that they work below any path of a reverse proxy.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aiohttp import hdrs, web

_FILES: Final = Path(__file__).parent / "dashboard"
_PAGE: Final = "index.html"
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_HEADERS: Final = {
    # Nothing from elsewhere, nothing inline, no forms, in no frame, and no markup from strings.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # A new version of the mirror has new files under the same names.
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    media_type: str
    etag: str


class Pages:
    """Serves the files, which are read once."""

    def __init__(self, directory: Path = _FILES) -> None:
        self._files = dict(_read(directory))

    def add_to(self, app: web.Application) -> None:
        """Add the page at ``/`` and its files below ``/assets/``."""
        app.router.add_get("/", self._page)
        app.router.add_get("/assets/{name}", self._asset)

    async def _page(self, request: web.Request) -> web.Response:
        return _answer(request, self._files[_PAGE])

    async def _asset(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name == _PAGE or name not in self._files:
            raise web.HTTPNotFound
        return _answer(request, self._files[name])


def _answer(request: web.Request, file: _File) -> web.Response:
    headers = {**_HEADERS, hdrs.ETAG: file.etag}
    if request.headers.get(hdrs.IF_NONE_MATCH) == file.etag:
        return web.Response(status=304, headers=headers)
    return web.Response(body=file.content, headers={**headers, hdrs.CONTENT_TYPE: file.media_type})


def _read(directory: Path) -> Iterator[tuple[str, _File]]:
    for path in directory.iterdir():
        media_type = _TYPES.get(path.suffix)
        if media_type is not None:
            content = path.read_bytes()
            etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            yield path.name, _File(content, media_type, etag)
