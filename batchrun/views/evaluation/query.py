"""``batchrun query``: SQL over the files of a run, in bounded memory.

A query sees the views ``results``, ``attempts``, ``usage`` and ``scores``, as far as a run has
them, and nothing else. Only the columns that it names are read. It works on a live run, from what
is published, and needs neither its lock nor write permission.
"""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from batchrun.adapters.columns import schema as part_schema
from batchrun.adapters.parts.old_part import damaged
from batchrun.adapters.scoring.database import Database, Table
from batchrun.adapters.scoring.score_parts import as_doubles
from batchrun.adapters.storage.files import sync_folder
from batchrun.adapters.storage.store import KINDS, SCORES, USAGE, StoreReader, part_names
from batchrun.errors import ScoringError, StorageError, UsageError
from batchrun.rundir import inspect
from batchrun.views.export import Sink, new_file, require_new
from batchrun.views.flat import flat, flat_type, without_formulas
from batchrun.views.history import text_table
from batchrun.views.layout import clipped, columns_of, padded
from batchrun.views.published import Results
from batchrun.views.text import safe

FORMATS = ("table", "csv", "json", "parquet")
SUFFIXES = {".csv": "csv", ".json": "json", ".parquet": "parquet", ".pq": "parquet"}
MEMORY_BYTES = 256 * 2**20
ROWS_SHOWN = 200
"""Rows of a table for people; more of them is for programs."""
CELL_COLUMNS = 60
"""The characters of a longer value that are shown on a terminal."""


def format_of(target: str | None, given: str | None) -> str:
    """The format of the answer, as given or by the file's name. Raises ``UsageError``."""
    kind = given or ("table" if target is None else SUFFIXES.get(Path(target).suffix.lower()))
    if kind is None:
        message = f"{target}: name a .csv, .json or .parquet file, or say which with --format"
        raise UsageError(message)
    if kind == "parquet" and target is None:
        message = "Parquet cannot be printed: name a file with -o"
        raise UsageError(message)
    if kind == "table" and target is not None:
        message = "a table is for people; a file is --format csv, json or parquet"
        raise UsageError(message)
    return kind


def query(
    folder: str,
    sql: str,
    kind: str,
    *,
    stdout: Sink,
    target: str | None = None,
    checkpoint: str | None = None,
    force: bool = False,
    width: int | None = None,
) -> int:
    """Answer one SELECT into ``target`` or ``stdout``; returns the number of rows. ``width`` is
    that of the terminal, in columns, None without one: a table that does not fit is a list.

    Raises ``UsageError`` for SQL that is broken, not allowed or fails, and for what is no run
    directory; ``DamagedError`` or ``StorageError``.
    """
    store = inspect.look_at(folder, checkpoint).store
    if target is not None:
        require_new([target], folder, force=force)
    with contextlib.ExitStack() as stack:
        views = _views(store, stack)
        if not views:
            message = f"{store.where()} has no results yet: no part is published"
            raise UsageError(message)
        database = stack.enter_context(Database(memory_bytes=MEMORY_BYTES, what="batchrun query"))
        parsed = database.query(sql, tuple(views))
        whole = {name: view(None) for name, view in views.items() if name in parsed.tables}
        with database.tables(**whole):  # so that a message can name the nearest column
            database.types(parsed.text, "the query")
        tables = {
            name: view(None if parsed.star else parsed.columns)
            for name, view in views.items()
            if name in parsed.tables
        }
        stack.enter_context(database.tables(**tables))
        try:
            schema, batches = database.reader(parsed.text, "the query")
            if target is None:
                return _write(kind, schema, batches, stdout, width)
            return _into_file(kind, schema, batches, Path(target))
        except ScoringError as error:
            if error.interrupted:
                raise KeyboardInterrupt from None
            raise UsageError(str(error)) from None
        except BrokenPipeError:
            raise
        except OSError as error:
            message = f"cannot write {target or 'the answer'}: {error.strerror or error}"
            raise StorageError(message) from error


def _into_file(
    kind: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch], target: Path
) -> int:
    with new_file(target) as draft:
        rows = _write(kind, schema, batches, draft)
        draft.sync()
        draft.rename()
    sync_folder(target.parent)
    return rows


_View = Callable[[frozenset[str] | None], Table]
"""Makes a table of a view, with the columns that are named (None: all)."""


def _views(store: StoreReader, stack: contextlib.ExitStack) -> dict[str, _View]:
    """The views that a run has."""
    views: dict[str, _View] = {}
    for kind in (*KINDS, SCORES):
        if part_names(store, kind):
            views[kind] = _of_parts(stack.enter_context(Results(store, kind)), kind)
    if store.size(USAGE) is not None:
        usage = _usage(store)
        views["usage"] = lambda _: Table(usage.schema, usage.to_batches)
    order = ("results", "attempts", "usage", "scores")
    return {name: views[name] for name in order if name in views}


def _of_parts(parts: Results, kind: str) -> _View:
    there = set(parts.schema.names)
    today = {"results": part_schema.RESULT_FIELDS, "attempts": part_schema.ATTEMPT_FIELDS}
    # Parts of an earlier version read as if they had today's columns.
    later = [pa.field(name, type_) for name, type_ in today.get(kind, ()) if name not in there]

    def view(named: frozenset[str] | None) -> Table:
        whole = [*parts.schema, *later]
        fields = [f for f in whole if named is None or f.name.lower() in named]
        schema = pa.schema(fields or [parts.schema.field("row")])
        if kind == SCORES:
            schema = pa.schema([_as_number(field) for field in schema])
        # At least one column has the number of rows.
        names = [name for name in schema.names if name in there] or ["row"]

        def batches() -> Iterator[pa.RecordBatch]:
            for table in parts.tables(names):
                columns = [
                    _seen(table, field, kind) if field.name in there else _nulls(table, field)
                    for field in schema
                ]
                yield from pa.Table.from_arrays(columns, schema=schema).to_batches()

        return Table(schema, batches)

    return view


def _seen(table: pa.Table, field: pa.Field, kind: str) -> pa.ChunkedArray:
    """A column as SQL sees it."""
    column = table.column(field.name)
    return as_doubles(column) if kind == SCORES and field.type == pa.float64() else column


def _nulls(table: pa.Table, field: pa.Field) -> pa.Array:
    return pa.nulls(table.num_rows, field.type)


def _as_number(field: pa.Field) -> pa.Field:
    """A score as SQL sees it: DuckDB has no average of booleans."""
    return pa.field(field.name, pa.float64()) if pa.types.is_boolean(field.type) else field


def _usage(store: StoreReader) -> pa.Table:
    try:
        with store.open(USAGE) as file, pq.ParquetFile(file, pre_buffer=False) as part:
            return part.read(use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise damaged(store.where(USAGE), error) from error


def _write(
    kind: str,
    schema: pa.Schema,
    batches: Iterable[pa.RecordBatch],
    sink: Sink,
    width: int | None = None,
) -> int:
    if kind == "table":
        return _table(schema, batches, sink, width)
    writers = {"csv": _csv, "json": _json, "parquet": _parquet}
    return writers[kind](schema, batches, sink)


def _parquet(schema: pa.Schema, batches: Iterable[pa.RecordBatch], sink: Sink) -> int:
    rows = 0
    with pq.ParquetWriter(pa.PythonFile(sink, mode="w"), schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch)
            rows += batch.num_rows
    return rows


def _csv(schema: pa.Schema, batches: Iterable[pa.RecordBatch], sink: Sink) -> int:
    rows = 0
    columns = pa.schema([(field.name, flat_type(field.type)) for field in schema])
    columns = without_formulas(columns.empty_table()).schema
    with pacsv.CSVWriter(pa.PythonFile(sink, mode="w"), columns) as writer:
        for batch in batches:
            table = flat(pa.Table.from_batches([batch], schema))
            writer.write_table(without_formulas(table).cast(columns))
            rows += batch.num_rows
    return rows


def _json(schema: pa.Schema, batches: Iterable[pa.RecordBatch], sink: Sink) -> int:
    rows = 0
    sink.write(b"[")
    for batch in batches:
        for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            line = json.dumps(
                dict(zip(schema.names, map(plain, values), strict=True)), ensure_ascii=False
            )
            sink.write((",\n" if rows else "\n").encode() + line.encode(errors="replace"))
            rows += 1
    sink.write(b"\n]\n")
    return rows


def plain(value: Any) -> Any:
    """A value as JSON can have it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, (dt.date, dt.time)):
        return value.isoformat()
    if isinstance(value, (dt.timedelta, UUID)):
        return str(value)
    return value


def _table(
    schema: pa.Schema, batches: Iterable[pa.RecordBatch], sink: Sink, width: int | None
) -> int:
    rows = 0
    shown: list[list[str]] = []
    for batch in batches:
        if len(shown) < ROWS_SHOWN:
            top = batch.slice(0, ROWS_SHOWN - len(shown))
            columns = [[_cell(value) for value in column.to_pylist()] for column in top.columns]
            shown += map(list, zip(*columns, strict=True))
        rows += batch.num_rows
    names = [_cell(name) for name in schema.names]
    numbers = [pa.types.is_floating(k) or pa.types.is_integer(k) for k in schema.types]
    widths = [max(map(columns_of, column)) for column in zip(names, *shown, strict=True)]
    if width is not None and sum(widths) + 2 * (len(widths) - 1) > width:
        lines = list(text_table.listed(names, shown, width=width))
    else:
        lines = [_line(names, widths, [False] * len(names)), "  ".join("-" * w for w in widths)]
        lines += [_line(line, widths, numbers) for line in shown]
    if rows > len(shown):
        lines.append(f"... and {rows - len(shown):,} more rows (--format csv has them all)")
    sink.write(("\n".join(lines) + "\n").encode(errors="replace"))
    return rows


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    filled = (
        padded(cell, width, right=number)
        for cell, width, number in zip(cells, widths, right, strict=True)
    )
    return "  ".join(filled).rstrip()


def _cell(value: Any) -> str:
    """A value in one short line, without what could steer a terminal."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    known = plain(value)
    text = known if isinstance(known, str) else json.dumps(known, ensure_ascii=False)
    text = safe(" ".join(text.split()))
    return clipped(text, CELL_COLUMNS)
