"""A Parquet file onto a draft, in row groups of a good size."""

from __future__ import annotations

import contextlib
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from batchrun.adapters.columns import schema as part_schema
from batchrun.adapters.parts import old_part
from batchrun.adapters.storage import files

GROUP_ROWS = 1024
GROUP_BYTES = 4 * 2**20
"""What becomes a row group."""


class Groups:
    """A Parquet file onto a draft: gathers tables into row groups of a good size."""

    def __init__(self, draft: files.Draft, schema: pa.Schema) -> None:
        self._writer = pq.ParquetWriter(
            pa.PythonFile(draft, mode="w"),
            schema,
            compression="zstd",
            compression_level=1,
            use_dictionary=part_schema.dictionary_columns(schema),
            write_statistics=["row"],
        )
        self.references = 0
        """Files that the rows name."""
        self._tables: list[pa.Table] = []
        self._rows = 0
        self._bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # Nobody wants the file any more, and its disk may be full.
        with contextlib.suppress(OSError, pa.ArrowException):
            self._writer.close()

    def add(self, table: pa.Table, size_bytes: int) -> None:
        """Take the next rows, of about this size: Arrow's own count of it looks at every buffer
        of every column, for each of many small pieces.
        """
        if table.num_rows:
            self._tables.append(table)
            self._rows += table.num_rows
            self._bytes += size_bytes
        if self._rows >= GROUP_ROWS or self._bytes >= GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._tables:
            table = pa.concat_tables(self._tables)
            self._tables, self._rows, self._bytes = [], 0, 0
            self._writer.write_table(table)

    def end(self) -> None:
        """Write what was gathered, and the file's end."""
        self._flush()
        if self.references:
            # So that whoever checks the files need not look for names in every reply.
            self._writer.add_key_value_metadata({old_part.REFERENCES: str(self.references)})
        self._writer.close()
