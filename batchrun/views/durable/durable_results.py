"""Everything that is durable of a run as one table in row order: ``export --partial``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from batchrun.adapters.columns import large_answers
from batchrun.errors import UsageError
from batchrun.views.durable.durable_rows import DurableRows


class DurableResults:
    """Results from parts and logs, shard by shard."""

    def __init__(self, durable: DurableRows) -> None:
        """Raises ``UsageError`` where nothing is durable yet."""
        self._durable = durable
        if not durable.shards:
            message = f"{durable.store.where()} has no results yet: no row is done"
            raise UsageError(message)
        self.schema = durable.schema()
        """All columns."""

    def whole_tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Some columns, piece by piece in row order, nothing in files of its own."""
        names = self.schema.names if columns is None else columns
        wanted = [name for name in self.schema.names if name in names]
        for shard in self._durable.shards:
            for table in self._durable.ordered(shard, wanted):
                yield from large_answers.whole(self._durable.store, table.select(wanted))
