"""What the processes of a fleet told their users, as one list."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

KEPT_MAX = 1000
"""So many notices of a fleet are kept, the first."""


def merged(told: Mapping[str, Iterable[str]]) -> list[str]:
    """The notices of all workers, by name, each text once. One that a single worker of several told
    may be about its machine, or its rows: so it begins with the worker's name.
    """
    tellers: dict[str, list[str]] = {}
    for worker, texts in told.items():
        for text in dict.fromkeys(texts):
            tellers.setdefault(text, []).append(worker)
    several = len(told) > 1
    return [
        f"{workers[0]}: {text}" if several and len(workers) == 1 else text
        for text, workers in tellers.items()
    ][:KEPT_MAX]


def all_told(before: Sequence[str], now: Iterable[str]) -> list[str]:
    """The notices of earlier sessions and those of this one, each once."""
    return list(dict.fromkeys([*before, *now]))
