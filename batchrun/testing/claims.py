"""A fake of ``ports.ClaimStore``: records in memory, and the store's own clock."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable


class FakeClaims:
    """``ports.ClaimStore`` in memory. ``now_s`` is the store's clock."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._turn = threading.Lock()
        self._folders: defaultdict[str, dict[str, tuple[bytes, float]]] = defaultdict(dict)

    def create(self, name: str, content: bytes) -> bool:
        """See ``ports.ClaimStore``."""
        folder, _, own = name.partition("/")
        with self._turn:
            found = self._folders[folder].setdefault(own, (content, self._now_s()))
            return found[0] == content

    def put(self, name: str, content: bytes) -> float:
        """See ``ports.ClaimStore``."""
        folder, _, own = name.partition("/")
        written_s = self._now_s()
        self._folders[folder][own] = content, written_s
        return written_s

    def read(self, name: str) -> bytes | None:
        """See ``ports.ClaimStore``."""
        folder, _, own = name.partition("/")
        found = self._folders[folder].get(own)
        return None if found is None else found[0]

    def written_s(self, name: str) -> float | None:
        """See ``ports.ClaimStore``."""
        folder, _, own = name.partition("/")
        found = self._folders[folder].get(own)
        return None if found is None else found[1]

    def remove(self, name: str) -> None:
        """See ``ports.ClaimStore``."""
        folder, _, own = name.partition("/")
        self._folders[folder].pop(own, None)

    def names(self, folder: str) -> list[str]:
        """See ``ports.ClaimStore``."""
        return sorted(self._folders[folder])
