"""Rows and shards in progress, as the engine keeps count of them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from batchrun.engine.open_row import RowRun
from batchrun.records import Known, Outcome, Request


@dataclass(slots=True)
class Shard:
    """A shard in progress: rows read so far, how many of them are done, whether the reader is
    past its last row, and whether the journal has anything of it.
    """

    number: int
    known: Known
    read: int = 0
    done: int = 0
    read_whole: bool = False
    touched: bool = False


@dataclass(slots=True)
class Open:
    """A row that was dispatched and has no durable outcome yet.

    ``request`` is an outcome where the row cannot become one. ``task`` is what works on it. Once it
    is ``answered`` all this goes: freed when the outcome is durable, it would have left the cache.
    """

    number: int
    size_bytes: int
    shard: Shard
    request: Request | Outcome | None
    task: asyncio.Task[None] | None = None
    run: RowRun | None = None
    cost_pd: int = 0
    answered: bool = False
