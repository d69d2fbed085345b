"""Ending asyncio tasks."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio


async def cancelled(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel tasks and see them end; what they raise was or will be looked at elsewhere."""
    for task in tasks:
        task.cancel()
    for task in tasks:
        with contextlib.suppress(BaseException):
            await task
