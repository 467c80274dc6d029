"""Large bodies are parsed in threads of their own, two for all requests of the process.

The parser holds Python's lock for as long as it runs, and what else runs in threads must not wait
behind it. What waits here is dropped when its request is over; what runs ends soon, because a body
is bounded (`json_bounds`) before it is parsed.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
LARGE = 2**18  # bytes: about a millisecond
_POOL = ThreadPoolExecutor(2, thread_name_prefix="parse")


async def parsed(size: int, work: Callable[..., T], *args: Any) -> T:
    """Return what `work` makes of some bytes: at once where they are few."""
    if size <= LARGE:
        return work(*args)
    return await asyncio.get_running_loop().run_in_executor(_POOL, work, *args)
