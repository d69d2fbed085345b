"""A table for a terminal; where it is too narrow for one, the same line by line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from batchrun.views.layout import columns_of, padded, wrap
from batchrun.views.text import safe

GAP = "  "


def table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], *, width: int | None, left: int = 1
) -> Iterator[str]:
    """The rows under their heads; the first ``left`` columns are texts, the others figures. A
    ``width`` that is too small for them, None for none, has every row as a list of its cells.
    """
    cells = [[safe(cell).replace("\n", " ").replace("\t", " ") for cell in row] for row in rows]
    sizes = [max(map(columns_of, column)) for column in zip(heads, *cells, strict=True)]
    if width is None or sum(sizes) + len(GAP) * (len(sizes) - 1) <= width:
        for row in [list(heads), *cells]:
            filled = (
                padded(cell, size, right=place >= left)
                for place, (cell, size) in enumerate(zip(row, sizes, strict=True))
            )
            yield GAP.join(filled).rstrip()
        return
    yield from listed(heads, cells, width=width)


def listed(
    heads: Sequence[str], rows: Sequence[Sequence[str]], *, width: int | None
) -> Iterator[str]:
    """Every row as a list of its cells that are not empty, each with its head, and an empty line
    between two rows.
    """
    for number, row in enumerate(rows):
        if number:
            yield ""
        yield from wrap(f"{heads[0]} {row[0]}", width, 0, 2)
        for head, cell in zip(heads[1:], row[1:], strict=True):
            if cell:
                yield from wrap(f"{head} {cell}", width, 2, 2)
