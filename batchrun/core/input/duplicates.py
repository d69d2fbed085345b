"""Noticing that ``custom_id``s repeat, in bounded memory.

Duplicates are allowed, since rows are told apart by their number; but who joins results back by
``custom_id`` wants to know.
"""

from __future__ import annotations

WATCHED_MAX = 50_000
"""Ids that are remembered, as hashes: about 4 MB."""


class Duplicates:
    """Remembers ids and the first that came twice."""

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self.first: str | None = None

    def watch(self, custom_id: str) -> None:
        """Take note of a row's id."""
        if self.first is not None:
            return
        mark = hash(custom_id)
        if mark in self._seen:
            self.first = custom_id
            self._seen.clear()
        elif len(self._seen) < WATCHED_MAX:
            self._seen.add(mark)
