"""Commands beside a mirror of the same process: quicker than a process of their own."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from mirror.cli import run


async def in_thread(*arguments: str) -> int:
    """Run a command that blocks, while the mirror of the test goes on."""
    with ThreadPoolExecutor(1) as pool:
        return await asyncio.get_running_loop().run_in_executor(pool, run, arguments)
