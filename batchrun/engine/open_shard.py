"""Rows and shards in progress, as the engine keeps count of them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from batchrun.core.reply import answer
from batchrun.core.verdict import trail
from batchrun.engine.open_row import RowRun
from batchrun.records import Attempt, Known, Outcome, Request

NOTHING_KNOWN = Known(frozenset(), {})


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


def taken(outcome: Outcome, kept: Mapping[int, frozenset[str]]) -> Outcome | Attempt | None:
    """What is recorded of a row: its outcome; or, where it keeps the answer that it has since this
    one is no better, the line of the ledger alone, None where nothing was sent. ``kept`` is that of
    ``Known``.
    """
    allowed, said, attempt = kept.get(outcome.row), outcome.completion, outcome.attempt
    if allowed is None:
        return outcome
    if said is None or attempt is None:
        return attempt
    if answer.flaws_of(said) <= allowed:
        return outcome
    why = "truncated_output" if answer.is_truncated(said) else "empty_output"
    return attempt._replace(error_class=why, decided_by=f"{why}{trail.BETWEEN}{trail.KEPT_ANSWER}")
