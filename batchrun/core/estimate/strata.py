"""Draws a stratified sample in one pass over an unknown number of rows.

Rows are sorted into cells by model and by the size of their prompt, each a quarter larger than the
one before, and every cell keeps a uniform sample of its rows. Behind the last row, neighbouring
cells of a model become strata: quantiles of its rows and of its tokens alike, so that a long tail,
which holds few rows and much of the bill, is looked at closely.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

STEP = 1.25
"""A cell's largest prompt is so many times its smallest one."""
ROWS_EACH = 20
"""Sampled rows for which there is a stratum: fewer would tell nothing of its spread."""
ROWS_LEAST = 6
"""Sampled rows of a stratum that has so many: two tell a variance, four a little more."""
GROUPS_MAX = 16
"""Models with strata of their own; all others share some."""
OTHERS = ""

Draw = Callable[[int], int]
"""A uniform draw of 0 to n - 1."""


@dataclass(slots=True)
class Cell:
    """Rows of one model with prompts of nearly one size: their number and tokens, and which of them
    are in the sample, by ticket.
    """

    rows: int = 0
    size: float = 0.0
    kept: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Stratum:
    """``rows`` rows, of which ``tickets`` are sampled. ``size`` is the sum of their sizes."""

    group: Hashable
    rows: int
    size: float
    tickets: tuple[int, ...]


class Sampler:
    """Takes rows one at a time, keeps tickets of a bounded number of them, makes strata at the end.

    ``rows`` is how many are to be sampled in the end.
    """

    def __init__(self, rows: int, draw: Draw) -> None:
        self._wanted = rows
        self._draw = draw
        self._cells: dict[tuple[Hashable, int], Cell] = {}
        self._groups: set[Hashable] = set()
        self._tickets = 0

    def offer(self, group: Hashable, size: float) -> int | None:
        """A row of this size. Returns a ticket if it may be sampled, and has to be kept for now."""
        if group not in self._groups:
            if len(self._groups) >= GROUPS_MAX:
                group = OTHERS
            self._groups.add(group)
        size = max(1.0, size)
        key = (group, int(math.log(size, STEP)))
        cell = self._cells.get(key)
        if cell is None:
            cell = self._cells[key] = Cell()
        cell.rows += 1
        cell.size += size
        # Reservoir sampling: every row of a cell is kept with the same probability.
        place = len(cell.kept)
        if place == self._wanted:
            place = self._draw(cell.rows)
            if place >= self._wanted:
                return None
        self._tickets += 1
        if place == len(cell.kept):
            cell.kept.append(self._tickets)
        else:
            cell.kept[place] = self._tickets
        return self._tickets

    def strata(self) -> list[Stratum]:
        """The strata, with as many rows as were wanted, or all there are."""
        cells = sorted(self._cells.items(), key=lambda item: (str(item[0][0]), item[0][1]))
        rows = sum(cell.rows for _, cell in cells)
        if not rows:
            return []
        whole = sum(cell.size for _, cell in cells)
        pieces = max(1, min(self._wanted, rows) // ROWS_EACH)
        merged: list[tuple[Hashable, list[Cell]]] = []
        passed = 0.0
        last: tuple[Hashable, int] = (None, -1)
        for (group, _), cell in cells:
            # Halfway between quantiles of rows and of tokens. A cell belongs where its middle is.
            share = (cell.rows / rows + cell.size / whole) / 2
            place = (group, int((passed + share / 2) * pieces))
            passed += share
            if place == last:
                merged[-1][1].append(cell)
            else:
                merged.append((group, [cell]))
            last = place
        while len(merged) > max(1, self._wanted // ROWS_LEAST):
            _join(merged)
        return self._drawn(merged)

    def _drawn(self, merged: list[tuple[Hashable, list[Cell]]]) -> list[Stratum]:
        sizes = [sum(cell.rows for cell in cells) for _, cells in merged]
        sums = [sum(cell.size for cell in cells) for _, cells in merged]
        # Where prompts are larger, costs spread wider: a root between alike and in proportion.
        weights = [n * math.sqrt(size / n) for n, size in zip(sizes, sums, strict=True)]
        given = allot(self._wanted, sizes, weights)
        found = []
        for (group, cells), rows, size, count in zip(merged, sizes, sums, given, strict=True):
            tickets = self._out_of(cells, count)
            found.append(Stratum(group, rows, size, tuple(sorted(tickets))))
        return found

    def _out_of(self, cells: list[Cell], count: int) -> list[int]:
        """A uniform sample of all rows of the cells, by their tickets."""
        left = [cell.rows for cell in cells]
        taken = [0] * len(cells)
        for _ in range(count):
            place = self._draw(sum(left))
            at = 0
            while place >= left[at]:
                place -= left[at]
                at += 1
            left[at] -= 1
            taken[at] += 1
        found = []
        for cell, number in zip(cells, taken, strict=True):
            kept = list(cell.kept)
            for place in range(number):
                other = place + self._draw(len(kept) - place)
                kept[place], kept[other] = kept[other], kept[place]
            found += kept[:number]
        return found


def _join(merged: list[tuple[Hashable, list[Cell]]]) -> None:
    """Make one of the two neighbours that have the fewest rows together: there are more strata than
    the sample can look at.
    """
    sizes = [sum(cell.rows for cell in cells) for _, cells in merged]
    place = min(range(len(merged) - 1), key=lambda at: sizes[at] + sizes[at + 1])
    (group, cells), (other, more) = merged[place : place + 2]
    merged[place : place + 2] = [(group if group == other else OTHERS, cells + more)]


def allot(wanted: int, sizes: list[int], weights: list[float]) -> list[int]:
    """How many rows of each stratum are sampled: by weight, at least ``ROWS_LEAST``, never more
    than there are; together as many as wanted, which are enough for the least of each.
    """
    wanted = min(wanted, sum(sizes))
    given = [min(size, ROWS_LEAST) for size in sizes]
    while sum(given) < wanted:
        # The one that has least of what its weight asks for.
        place = max(
            (place for place in range(len(sizes)) if given[place] < sizes[place]),
            key=lambda place: weights[place] / (given[place] + 1),
        )
        given[place] += 1
    return given
