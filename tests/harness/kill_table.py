"""The table of kills: for each test what was killed how often, and what became of the rows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

FIGURES: list[tuple[str, int, int, int, int, int]] = []
"""Per test: its name, kills, rows, requests sent again, rows lost and rows that are there more than
once.
"""


def note(name: str, kills: int, numbers: Sequence[int], rows: int, again: int) -> None:
    """Note what became of a run of so many ``rows``, killed so often: ``numbers`` are those of the
    rows in its results, ``again`` the requests that were sent more than once.
    """
    lost = rows - len(set(numbers))
    FIGURES.append((name, kills, rows, again, lost, len(numbers) - rows + lost))


def show(reporter: Any) -> None:
    """Print it, where this is one process that was asked for kills (``make crash``)."""
    if not FIGURES or "BATCHRUN_CRASH_KILLS" not in os.environ:
        return
    titles = ("", "kills", "rows", "sent again", "lost", "doubled")
    sums = [sum(each) for each in zip(*(figures[1:] for figures in FIGURES), strict=True)]
    reporter.section("kills")
    for name, figures in [
        (titles[0], titles[1:]),
        *((each[0], each[1:]) for each in FIGURES),
        ("total", sums),
    ]:
        cells = "".join(f"{figure:>12}" for figure in figures)
        reporter.write_line(f"{name[:60]:<60}{cells}")
    FIGURES.clear()
