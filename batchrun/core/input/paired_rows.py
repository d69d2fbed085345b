"""Rows that are pairs of answers of two runs (``judge --against``): what identifies them.

A template sees the two answers as ``a`` and ``b``. Beside ``source_row`` and ``source_hash``, which
are those of the run that is judged, three columns tell which answer of the other run it was, and
whether the two changed places: then ``a`` is the answer of the other run.
"""

from __future__ import annotations

SIDES = ("a", "b")
"""The names by which templates see the answers."""
AGAINST_ROW, AGAINST_HASH = "against_row", "against_hash"
SWAPPED = "swapped"
PAIR_IDENTITY = (AGAINST_ROW, AGAINST_HASH, SWAPPED)
"""The columns of a pair besides those of every chained row."""
