"""``--where``: a condition in SQL over results and scores, by DuckDB (extra ``eval``).

It is an expression like a score's, with the same functions, and is evaluated on pieces of the
results by the same locked database (``adapters/scoring/database.py``).
"""

from __future__ import annotations

import difflib
from typing import Self

import pyarrow as pa

from batchrun.adapters.scoring.database import Database, Table
from batchrun.errors import ScoringError, UsageError

KEY = "--where"
NO_SCORES = pa.schema([])


class Where:
    """A condition, checked against the columns. Raises ``UsageError``, as ``rows`` does; leaving it
    closes its database.
    """

    def __init__(self, text: str, schema: pa.Schema, scores: pa.Schema = NO_SCORES) -> None:
        """``schema`` has the columns of the results, ``scores`` those of the scores: SQL sees true
        as 1 and false as 0, as in metrics.
        """
        self._text = text
        self._scores = scores
        self._database = Database(what=KEY, threads=1)
        try:
            self._bind(schema)
        except BaseException:
            self._database.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def _bind(self, schema: pa.Schema) -> None:
        """Parse it, and try it on no rows."""
        text = self._text
        if any(each.name.casefold() == text.strip().strip('"').casefold() for each in self._flags):
            text = f"{text} = 1"
        parsed = self._database.expression(text, KEY, "score")
        whole = pa.schema([*schema, *(pa.field(name, pa.float64()) for name in self._scores.names)])
        lower = {name.lower(): name for name in whole.names}
        for name in parsed.columns - lower.keys():
            raise self._wrong(self._unknown(name, whole.names))
        named = [name for name in whole.names if name.lower() in parsed.columns]
        self.columns = [name for name in named if name not in self._scores.names]
        """The columns of the results that it needs."""
        self.scores = [name for name in named if name in self._scores.names]
        """The scores that it needs."""
        self._query = f"SELECT row FROM results WHERE (\n{text}\n)"  # noqa: S608 - one expression, as parsed
        empty = whole.empty_table()
        with self._database.tables(results=self._piece(empty)):
            kind = dict(self._database.types(f"SELECT (\n{text}\n) AS it FROM results", KEY))["it"]  # noqa: S608 - the same
        if kind != "BOOLEAN":
            raise self._wrong(f"it gives {kind}, and a condition gives true or false")
        self.rows(empty)

    @property
    def _flags(self) -> list[pa.Field]:
        return [each for each in self._scores if pa.types.is_boolean(each.type)]

    def _piece(self, table: pa.Table) -> Table:
        wanted = table.select(list(dict.fromkeys(["row", *self.columns, *self.scores])))
        return Table(wanted.schema, wanted.to_batches)

    def rows(self, table: pa.Table) -> list[int]:
        """The rows of a piece that meet it."""
        try:
            with self._database.tables(results=self._piece(table)):
                return [row for (row,) in self._database.rows(self._query, KEY)]
        except ScoringError as error:
            raise self._wrong(error) from None

    def _unknown(self, name: str, known: list[str]) -> str:
        """What to say of a name that is none."""
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        if len(self._scores):
            return f"results and scores have no column {name!r}{hint}"
        hint = hint or "; if it is a score, `batchrun score DIR -c FILE` computes it"
        return f"the results have no column {name!r}, and the run has no scores{hint}"

    def _wrong(self, why: object) -> UsageError:
        return UsageError(f"{KEY} {self._text!r}: {why}")
