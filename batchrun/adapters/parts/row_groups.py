"""Writes a Parquet file to a draft, in row groups of a good size."""

from __future__ import annotations

import contextlib
import functools
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from batchrun.adapters.columns import schema as part_schema
from batchrun.adapters.parts import old_part
from batchrun.adapters.storage import files

GROUP_ROWS = 4096
GROUP_BYTES = 4 * 2**20
"""The size of a row group."""


def _encoding(schema: pa.Schema) -> dict[str, Any]:
    """How the columns of a schema are written."""
    # Schemas with metadata can be hashed only in later versions of pyarrow.
    return _encoding_of(schema.serialize().to_pybytes())


@functools.lru_cache(maxsize=16)
def _encoding_of(serialized: bytes) -> dict[str, Any]:
    """How columns are written. A column with a few short values becomes numbers of a few bits plus
    a dictionary, which zstd does not make smaller; setting up zstd for a column of a row group
    takes 17 µs, which for all of them was a tenth of the time of writing a part.
    """
    schema = pa.ipc.read_schema(pa.BufferReader(serialized))
    dictionary = part_schema.dictionary_columns(schema)
    packed = set(dictionary) - part_schema.VARIED
    sink = pa.BufferOutputStream()
    pq.write_metadata(schema, sink)
    leaves = pq.ParquetFile(pa.BufferReader(sink.getvalue())).schema
    paths = [leaves.column(number).path for number in range(len(leaves))]
    squeezed = [path for path in paths if path not in packed]
    return {
        "compression": dict.fromkeys(paths, "NONE") | dict.fromkeys(squeezed, "ZSTD"),
        "compression_level": dict.fromkeys(squeezed, 1),
        "use_dictionary": dictionary,
    }


class Groups:
    """A Parquet file on a draft, which gathers tables into row groups of a good size."""

    def __init__(self, draft: files.Draft, schema: pa.Schema) -> None:
        self._writer = pq.ParquetWriter(
            pa.PythonFile(draft, mode="w"),
            schema,
            **_encoding(schema),
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
        # The file is discarded, and its disk may be full.
        with contextlib.suppress(OSError, pa.ArrowException):
            self._writer.close()

    def add(self, table: pa.Table, size_bytes: int) -> None:
        """Take the next rows, of about this size, given because Arrow's own count visits every
        buffer of every column, for each of many small pieces.
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
            # So that checks of the files need not search for names in every reply.
            self._writer.add_key_value_metadata({old_part.REFERENCES: str(self.references)})
        self._writer.close()
