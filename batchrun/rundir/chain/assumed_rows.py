"""The rows of a run over answers (``--from``, judges) before there are answers, for estimates.

They are made by the reader of such a run, from the results that the other run would write. Each
answer's text is ``ANSWER``, a single character: where a template shows it, the caller adds the
tokens of an answer.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from batchrun.adapters.columns import schema as part_schema
from batchrun.adapters.sources.files.local_file import read_file
from batchrun.adapters.sources.files.storage import Stamp
from batchrun.adapters.sources.parquet import Digest
from batchrun.adapters.sources.reader import Carry
from batchrun.adapters.sources.run import RunReader, RunSource
from batchrun.adapters.sources.splitting import Splitter, roles_of, splitter_of
from batchrun.adapters.storage.disk_store import DiskStore
from batchrun.core.request.chained_rows import KIND, fields_used
from batchrun.core.request.prompt import Plan
from batchrun.core.settings.reading import NOW
from batchrun.records import Request, Row

ANSWER = "\ue000"
"""A private-use character, which hardly any text contains."""
_NO_FILE = Stamp("", 0, 0, None)
_NOTHING = Carry(pa.schema([]), (), everything=False)
_TYPES = dict(part_schema.RESULT_FIELDS)


def unread_source(carried: pa.Schema, messages: Any = None) -> RunSource:
    """A run without a directory yet: only the columns that it will carry are known."""
    return RunSource("", "", DiskStore(Path()), (), carried, "ok", messages=messages)


def shaper_over(plan: Plan, carried: pa.Schema) -> Splitter:
    """How the rows over the answers of such a run are made. Raises ``UsageError`` for a template
    with a field that they will not have.
    """
    splitter = splitter_of(KIND, plan, NOW)
    reader = RunReader(unread_source(carried), frozenset(), [_NO_FILE], None, 1, splitter)
    return plan.shaper(reader.sample(), read_file, roles_of(splitter))


class AssumedRows(RunReader):
    """Makes the rows over answers that do not exist yet."""

    def __init__(self, plan: Plan, carried: pa.Schema) -> None:
        """``carried`` are the columns that the answers will carry. Raises ``UsageError`` as
        ``shaper_over``.
        """
        self._asked: dict[int, Any] = {}
        used = fields_used(plan.templates.paths, plan.templates.whole)
        source = unread_source(carried, self._messages_of)
        shaper = shaper_over(plan, carried)
        super().__init__(source, used, [_NO_FILE], _NOTHING, sys.maxsize, shaper)

    def of(
        self,
        requests: Sequence[Request],
        messages: Sequence[Any],
        carried: pa.Table | None,
    ) -> list[Row]:
        """The rows over the answers to some requests. ``messages`` are those of the requests, and
        ``carried`` what their rows carry.
        """
        numbers = [request.row for request in requests]
        self._asked = dict(zip(numbers, messages, strict=True))
        told = {
            "row": numbers,
            "custom_id": [request.custom_id for request in requests],
            "status": ["ok"] * len(numbers),
            "finish_reason": ["stop"] * len(numbers),
            "model": [request.model for request in requests],
            "content": [ANSWER] * len(numbers),
            "request_hash": [request.hash for request in requests],
        }
        columns = {name: pa.array(values, _TYPES[name]) for name, values in told.items()}
        if carried is not None:
            whole = carried.combine_chunks()
            columns |= {name: whole.column(name).combine_chunks() for name in whole.column_names}
        results = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
        batch = self._as_input(results)
        blocks = self._blocks(0, 0, batch, 0, numbers, Digest())
        return [row for block in blocks for row in block.rows]

    def _messages_of(self, rows: Sequence[int], hashes: Sequence[str | None]) -> list[Any]:  # noqa: ARG002 - nothing is looked up
        return [self._asked[row] for row in rows]
