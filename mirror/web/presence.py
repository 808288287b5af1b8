"""Waiting in the name of a client, for as long as it is there.

aiohttp lets a handler run on when its client has left, or cancels all of it, its line of the log
included. What may be given up is the waiting: for a download to begin, or for more of it to come.
Until then the client would count as one that reads.
"""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from aiohttp import web

from mirror.web.connections import Connection

T = TypeVar("T")


class ClientLeftError(ConnectionResetError):
    """Nobody waits for an answer any more."""


def has_left(request: web.BaseRequest) -> bool:
    """Tell whether the connection that a request came on is closed, or about to be."""
    transport = request.transport
    return transport is None or transport.is_closing()


async def while_there(request: web.BaseRequest, awaited: Awaitable[T]) -> T:
    """Return what is awaited for a request.

    Raises:
        ClientLeftError: its client left, and what was awaited has been cancelled.
    """
    connection = request.protocol
    if not isinstance(connection, Connection):
        return await awaited
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(None) as presence:
            connection.on_lost = lambda: presence.reschedule(loop.time())
            if request.transport is None:
                connection.on_lost()
            try:
                return await awaited
            finally:
                connection.on_lost = None
    except TimeoutError:
        if presence.expired():
            raise ClientLeftError from None
        raise
