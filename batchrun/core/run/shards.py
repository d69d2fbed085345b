"""Shard arithmetic: which rows form a shard, and what a resumed run has to read.

Shard k is rows [k·S, (k+1)·S).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from batchrun.records import Position, ShardState, Span

REBUILT = "rebuilt"
"""The key of the state file for new parts of all shards that are whole and not all published yet,
and the folder of the checkpoint that they are in."""
FORMER_FROM = 99_000_000
"""Shards from this number on hold no rows of the input: their parts are attempts of rows that are
not in it any more, which stay in the ledger because they were paid for."""


def is_former(shard: int) -> bool:
    """Whether a shard holds nothing but attempts of former rows."""
    return shard >= FORMER_FROM


def plan_reading(
    states: Sequence[ShardState],
    shard_rows: int,
    *,
    grown: bool,
    again: Collection[int] = frozenset(),
) -> list[Span]:
    """What is left to read: every shard that is not complete, or has rows that are sent ``again``,
    as few spans as possible.

    A complete shard with fewer rows than a full one was the input's end; it is read again only if
    the input has ``grown`` since. An empty plan means that there is nothing left to do.
    """
    known = {state.shard: state for state in states}
    last = max(known, default=-1)
    spans: list[Span] = []
    start = Position()
    first: int | None = None
    shard = 0
    while True:
        state = known.get(shard)
        if state is None:
            if first is None:
                first = shard
            if shard > last:
                # Never reached: everything from here on is open.
                spans.append(Span(first, None, start))
                return spans
            shard += 1
            continue
        short = state.rows_read < shard_rows
        done = state.complete and not (short and grown)
        if done and shard not in again:
            if first is not None:
                spans.append(Span(first, shard - 1, start))
                first = None
            if short:
                return spans
            start = state.end
        elif first is None:
            first = shard
        shard += 1
