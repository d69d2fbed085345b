"""Rows that are pairs of answers of two runs (``judge --against``): what identifies them.

A template sees the two answers as ``a`` and ``b``. Beside ``source_row`` and ``source_hash``, which
are those of the run that is judged, two columns tell which answer of the other run it was.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from batchrun.core.request.chained_rows import FIELDS

SIDES = ("a", "b")
"""The names by which templates see the answers."""
AGAINST_ROW, AGAINST_HASH = "against_row", "against_hash"


def pair_fields_used(paths: Collection[Sequence[str]], whole: Collection[str]) -> frozenset[str]:
    """Which fields of ``a`` and ``b`` templates use, by the dotted names they look up. Where they
    use one as a whole, these are all but ``messages``, which is used by its name alone.
    """
    found = {path[1] for path in paths if len(path) > 1 and path[0] in SIDES}
    if whole and not set(SIDES).isdisjoint(whole):
        found.update(FIELDS)
    return frozenset(found)
