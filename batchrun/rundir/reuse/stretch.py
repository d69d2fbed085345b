"""Answers of another run taken as columns, which works for most blocks of rows if the order is
kept.

Building outcomes one by one, writing them and turning them into columns again is most of the cost
of a reused answer. So a block of consecutive answers is taken as a whole, if nothing in it has to
be checked or changed row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from batchrun.adapters.columns import large_answers, read_answers
from batchrun.adapters.columns import schema as part_schema
from batchrun.core.run.reuse_rules import Rules
from batchrun.records import Outcome, Request, ReusedRows

BYTES_MAX = 4 * 2**20
"""Larger blocks are checked row by row: there the number of rows matters less than their bytes."""
_KINDS = dict(part_schema.RESULT_FIELDS)
_KNOWN = ("status", "endpoint", "started_at", "latency_s", "request_hash")
"""Columns that must have no null; otherwise rows are checked one by one."""
_NOT_THERE = ("choices", "media")
"""Columns that must be null throughout; otherwise rows are checked one by one."""
_OWN = frozenset(
    "row custom_id cost_usd attempts error_class error_code error_message reused_from".split()
)
"""The new rows' own columns."""


class Stretch:
    """The answers of some rows of another run's results, which are in ``results``."""

    def __init__(self, results: pa.Table, run: str, content: Callable[[str], bytes]) -> None:
        """``run`` and ``content`` are those of ``read_answers.answers``."""
        self._results = results
        self._run = run
        self._content = content

    def hashes(self) -> Sequence[str | None]:
        """The hashes of the requests that were answered."""
        return self._values("request_hash")

    def rows(self) -> Sequence[int]:
        """Their numbers in the other run."""
        return self._values("row")

    def __iter__(self) -> Iterator[Outcome | None]:
        """The answers one by one, in the form of ``read_answers.answers``."""
        rows = read_answers.rows(partial(read_answers.some, self._results))
        return read_answers.answers(rows, self._run, self._content)

    def are_answers(self, left_out: frozenset[str]) -> bool:
        """Whether all of them are answers from endpoints that are not left out."""
        said, names = self._values("status"), self._values("endpoint")
        return said.count("ok") == len(said) and not left_out.intersection(names)

    def reused(self, requests: Sequence[Request], rules: Rules) -> ReusedRows | None:
        """These answers for consecutive rows; None if they must be checked one by one."""
        first, rows = requests[0].row, len(requests)
        if (
            requests[-1].row - first + 1 != rows
            or not rules.takes_all
            or rules.fallback_model is not None
            or self._results.nbytes > BYTES_MAX
            or any(request.expected is not None for request in requests)
            or not self._is_plain(rules)
        ):
            return None
        asked = self._values("model_asked")
        if asked.count(None) < rows and asked != [request.model for request in requests]:
            return None
        numbers, origins = self._values("row"), self._values("reused_from")
        ids = [request.custom_id for request in requests]
        made = {
            "row": list(range(first, first + rows)),
            "custom_id": ids,
            "cost_usd": [0.0] * rows,
            "attempts": [0] * rows,
            "reused_from": [
                origin or f"{self._run}:{row}" for origin, row in zip(origins, numbers, strict=True)
            ],
        }
        fields, columns = [], []
        for name, kind in part_schema.RESULT_FIELDS:
            if name in made:
                column = pa.array(made[name], kind)
            elif name in _OWN or (name == "response" and not rules.keeps_raw):
                continue
            else:
                place = self._results.schema.get_field_index(name)
                if place < 0:
                    continue
                column = self._results.column(place)
            if column.null_count < rows:
                fields.append(pa.field(name, kind))
                columns.append(column)
        table = pa.Table.from_arrays(columns, schema=pa.schema(fields))
        return ReusedRows(first, rows, part_schema.to_ipc(table))

    def _is_plain(self, rules: Rules) -> bool:
        results, rows = self._results, self._results.num_rows
        schema = results.schema
        for name, kind in _KINDS.items():
            place = schema.get_field_index(name)
            if place < 0:
                if name in _KNOWN:
                    return False
                continue
            if schema.field(place).type != kind or (
                name == "reused_from" and not part_schema.marks_reused(schema)
            ):
                return False
            column = results.column(place)
            if name in _KNOWN and column.null_count:
                return False
            if name in _NOT_THERE and column.null_count < rows:
                return False
        if self._values("status").count("ok") < rows:
            return False
        if rules.was_split and any(self._values("reasoning")):
            return False
        return not rules.keeps_raw or large_answers.are_in_place(results)

    def _values(self, name: str) -> Sequence[Any]:
        return read_answers.column(self._results, name)
