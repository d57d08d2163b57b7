"""Work that a cancellation must not cut in two: a server half made is one that nobody stops."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def whole(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` to its end even when cancelled meanwhile; the cancellation is raised afterwards.

    For work that ends by itself within seconds. What it returns or raises is lost when cancelled.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # looked at, so that asyncio does not report it as forgotten
        raise cancelled
    return task.result()
