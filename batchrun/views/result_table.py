"""The published results of a run as one table in memory, for programs."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from batchrun.adapters.storage.store import SCORES, part_names
from batchrun.errors import UsageError
from batchrun.rundir import inspect
from batchrun.views.published import Results

ArrowTable: TypeAlias = pa.Table
_KEYS = ("row", "custom_id")
"""Columns of `scores/` that are no scores."""


def read(folder: str, columns: Sequence[str] | None = None, *, scores: bool = False) -> pa.Table:
    """All rows in their order, of all columns or of some in the order asked for. ``scores`` adds
    those in ``scores/``: null for rows that were not scored.

    Raises ``UsageError`` where nothing is published, or for a column that is not there.
    """
    store = inspect.look_at(folder, None).store
    with Results(store) as results:
        names = results.schema.names if columns is None else list(columns)
        _require(names, results.schema.names, store.where())
        wanted = list(dict.fromkeys([*names, "row"] if scores else names))
        table = pa.concat_tables(results.tables(wanted))
    if not scores or not part_names(store, SCORES):
        return table.select(names)
    with Results(store, SCORES) as parts:
        scored = pa.concat_tables(parts.tables())
    places = pc.index_in(table.column("row"), scored.column("row"))
    taken = scored.drop_columns(list(_KEYS)).take(places)
    rest = table.select(names)
    for name, column in zip(taken.column_names, taken.columns, strict=True):
        rest = rest.append_column(name, column)
    return rest


def _require(names: Sequence[str], known: Sequence[str], where: str) -> None:
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            message = f"the results in {where} have no column {name!r}{hint}"
            raise UsageError(message)
