"""Writes a shard's part of requests: the bodies that a run keeps (``--requests``).

A body comes with the outcome of its row, in the same record of the journal, so it is durable when
the row is done. A body in the old part stays as long as the row's request is the same. Most runs
keep none, so the draft is created at the first outcome with a body.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import pyarrow as pa

from batchrun.adapters.columns import schema as part_schema
from batchrun.adapters.parts.old_part import OldPart
from batchrun.adapters.parts.row_groups import Groups
from batchrun.adapters.storage import files
from batchrun.adapters.storage.store import Store
from batchrun.records import Outcome


class RequestsPart:
    """The draft of a part of requests, filled in row order together with the results."""

    def __init__(
        self, store: Store, name: str, schema: pa.Schema, opened: contextlib.ExitStack
    ) -> None:
        """The part published under ``name`` is merged in. ``opened`` closes files that are opened
        here.
        """
        self._store = store
        self._name = name
        self._schema = schema
        self._opened = opened
        self._old = opened.enter_context(OldPart(store, name, schema))
        self._groups: Groups | None = None
        self.draft: files.Draft | None = None
        """The draft to publish; None if the shard has no such part."""
        self.rows = 0
        """Rows taken."""

    @property
    def found(self) -> bool:
        """Whether such a part is already published."""
        return self._old.found

    def add(self, outcomes: Sequence[Outcome], resulted: pa.Table, high: int) -> int:
        """Take the bodies of a piece: those of ``outcomes``, and of old rows below ``high``.
        ``resulted`` are the results of both. Returns the bytes of the new bodies.
        """
        if not self._old.found and all(outcome.body is None for outcome in outcomes):
            return 0
        groups = self._begun()
        new = [(o.row, o.request_hash, o.body) for o in outcomes if o.body]
        table = part_schema.table(new, self._schema)
        old = self._old.below(high)
        if old is not None and old.num_rows:
            told = {outcome.row for outcome in outcomes if outcome.body is not None}
            stands = dict(part_schema.tuples(resulted.select(["row", "request_hash"])))
            keys = part_schema.tuples(old.select(["row", "request_hash"]))
            kept = [row not in told and stands.get(row) == hashed for row, hashed in keys]
            old = old.filter(pa.array(kept, pa.bool_()))
            table = pa.concat_tables([old, table]).sort_by("row")
        groups.add(table, table.nbytes)
        self.rows += table.num_rows
        return sum(len(outcome.body or b"") for outcome in outcomes)

    def end(self) -> None:
        """Write the end of the file, if there is one."""
        if self._groups is not None:
            self._groups.end()

    def _begun(self) -> Groups:
        if self._groups is None:
            self.draft = self._opened.enter_context(self._store.draft(self._name))
            self._groups = self._opened.enter_context(Groups(self.draft, self._schema))
        return self._groups
