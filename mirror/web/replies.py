"""Answers of the admin API that may be long."""

from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp import web

from mirror.runtime.pools import Pool
from mirror.web.openapi import JSON


async def replied(pool: Pool, result: msgspec.Struct) -> web.Response:
    """Return a result as JSON; a large cache is a large list: not on the event loop."""
    encode: Callable[[Any], bytes] = msgspec.json.encode
    return web.Response(body=await pool.run(encode, result), headers={"Content-Type": JSON})
