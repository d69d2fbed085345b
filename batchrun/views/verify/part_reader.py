"""Reading parts for ``verify``: their columns judged, their rows in chunks of a bounded size."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from batchrun.adapters.columns import schema as part_schema
from batchrun.core.text.wording import counted, verb
from batchrun.views.verify.findings import Report
from batchrun.views.verify.named_files import named_in

FORMAT = b"1"
MESSAGES = "messages"
"""The column that only conversations have."""
CHUNK_ROWS = 8192
CHUNK_BYTES = 8 * 2**20
"""What is looked at together; one row group is at most 4,096 rows or about 4 MiB."""
GROUPS_BYTES = 16 * 2**20
"""Of all their columns, those that are not read included."""
LEDGER_NAMES = tuple(
    name
    for name, _ in part_schema.ATTEMPT_FIELDS
    if name not in ("queue_s", "retry_after_s", "usage_raw", "billed_from")
)
_OF_CHOICES = ("content", "refusal", "finish_reason", "tool_calls.list.element.name")
_UNREAD = frozenset(
    "custom_id tool_calls choices response_id system_fingerprint created ttft_s model_asked media "
    "response".split()
)
RESULT_NAMES = tuple(name for name in part_schema.RESULT_NAMES if name not in _UNREAD)
_TOOL_CALLS = "tool_calls.list.element.name"
_NESTED = (
    _TOOL_CALLS,
    "media.list.element.kind",
    *(f"choices.list.element.{name}" for name in _OF_CHOICES),
)
_TYPES = {
    "results": dict(part_schema.RESULT_FIELDS) | {MESSAGES: pa.string()},
    "attempts": dict(part_schema.ATTEMPT_FIELDS),
}


class UnreadableError(Exception):
    """A part cannot be read, or not on."""


class PartReader:
    """The rows of one part, as far as its columns allow. ``absent`` are columns that it lacks or
    has with values that are not of their type: they read as null, and nothing is said of them.
    """

    def __init__(
        self,
        file: io.BufferedIOBase,
        where: str,
        expected: pa.Schema,
        report: Report,
        *,
        vouched: bool = False,
    ) -> None:
        """Read the footer and judge the columns. ``vouched`` says that the file is known to be
        what was written. Raises ``UnreadableError``.
        """
        self.where = where
        self.vouched = vouched
        self._report = report
        self._kind = where.partition("/")[0]
        try:
            self._file = pq.ParquetFile(file, pre_buffer=False)
        except (OSError, pa.ArrowException) as error:
            raise UnreadableError(error) from None
        schema = self._file.schema_arrow
        self.absent: set[str] = set()
        for text in column_faults(schema, expected):
            report.found("columns", f"{where}: {text}")
        version = (schema.metadata or {}).get(b"batchrun.format")
        report.claim(
            version == FORMAT,
            "format",
            f"{where} is marked as of format {version and version.decode(errors='replace')}, "
            f"this version reads format {FORMAT.decode()}",
        )
        if "row" not in schema.names or schema.field("row").type != pa.int64():
            self._file.close()
            raise UnreadableError("its rows have no numbers")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    @property
    def metadata(self) -> Mapping[bytes, bytes]:
        """What the part says of itself, key by key."""
        return self._file.metadata.metadata or {}

    def named_files(self) -> Iterator[tuple[int, str]]:
        """Row and name of the files of ``responses/`` that the rows name. Raises
        ``UnreadableError``.
        """
        names = ("status", "response")
        for table in self._groups(["row", *names, "media.list.element.file"]):
            if table.num_rows:
                media = _single(table, "media")
                columns = [self._array(table, name, _TYPES[self._kind][name]) for name in names]
                yield from named_in(
                    pa.RecordBatch.from_arrays(
                        [
                            self._array(table, "row", pa.int64()),
                            *columns,
                            pa.nulls(table.num_rows) if media is None else media,
                        ],
                        names=["row", *names, "media"],
                    )
                )

    def read_through(self) -> None:
        """Read every value of every column, for where no digest vouches for them.

        Raises ``UnreadableError``.
        """
        for table in self._groups(None):
            try:
                table.validate(full=True)
            except pa.ArrowException as error:
                raise UnreadableError(error) from None

    def chunks(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The rows with the columns of the contract of these names, ``row`` among them.

        Raises ``UnreadableError``.
        """
        wanted = [*names, *(_NESTED if self._kind == "results" else ())]
        tables: list[pa.Table] = []
        rows = size = 0
        for table in self._groups(wanted):
            tables.append(table)
            rows, size = rows + table.num_rows, size + table.nbytes
            if rows >= CHUNK_ROWS or size >= CHUNK_BYTES:
                yield self._chunk(tables, names)
                tables, rows, size = [], 0, 0
        if rows:
            yield self._chunk(tables, names)

    def _groups(self, names: Sequence[str] | None) -> Iterator[pa.Table]:
        columns = None if names is None else list(names)
        for groups in self._together():
            try:
                table = self._file.read_row_groups(groups, columns=columns, use_threads=False)
            except (OSError, pa.ArrowException) as error:
                raise UnreadableError(error) from None
            numbers = table.column("row")
            if numbers.null_count:
                self._report.found(
                    "row_without_number",
                    f"{self.where}: {counted(numbers.null_count, 'row')} "
                    f"{verb(numbers.null_count, 'has', 'have')} no number",
                    numbers.null_count,
                )
                table = table.filter(numbers.is_valid())
            if table.num_rows:
                yield table

    def _together(self) -> Iterator[list[int]]:
        """Row groups that are read at once: each reading costs as much as a thousand rows."""
        groups: list[int] = []
        rows = size = 0
        for number in range(self._file.num_row_groups):
            group = self._file.metadata.row_group(number)
            groups.append(number)
            rows, size = rows + group.num_rows, size + group.total_byte_size
            if rows >= CHUNK_ROWS or size >= GROUPS_BYTES:
                yield groups
                groups, rows, size = [], 0, 0
        if groups:
            yield groups

    def _chunk(self, tables: Sequence[pa.Table], names: Sequence[str]) -> pa.RecordBatch:
        table = pa.concat_tables(tables).combine_chunks()
        types = _TYPES[self._kind]
        arrays = [self._array(table, name, types[name]) for name in names]
        names = list(names)
        if self._kind == "results":
            for name in ("tool_calls", "choices", "media"):
                array = _single(table, name)
                if array is None or not _lists_structs(array.type):
                    self.absent.add(name)
                    array = pa.nulls(table.num_rows, types[name])
                arrays.append(array)
                names.append(name)
        return pa.RecordBatch.from_arrays(arrays, names=names)

    def _array(self, table: pa.Table, name: str, kind: pa.DataType) -> pa.Array:
        array = _single(table, name)
        if array is not None and array.type == kind:
            return array
        if array is not None:
            try:
                return array.cast(kind)
            except pa.ArrowException:
                pass
        self.absent.add(name)
        return pa.nulls(table.num_rows, kind)


def _lists_structs(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) and pa.types.is_struct(kind.value_type))


def _single(table: pa.Table, name: str) -> pa.Array | None:
    if table.schema.names.count(name) != 1:
        return None
    array = table.column(name)
    if array.num_chunks == 1:
        return array.chunk(0)
    return pa.concat_arrays(array.chunks) if array.num_chunks else pa.nulls(0, array.type)


def column_faults(schema: pa.Schema, expected: pa.Schema) -> Iterator[str]:
    """How columns differ from those that a part should have, a sentence each."""
    if part_schema.lacks_only_later(schema, expected):
        return
    names, wanted = list(schema.names), list(expected.names)
    for name in dict.fromkeys(name for name in names if names.count(name) > 1):
        yield f"it has the column {name!r} more than once"
    for field in expected:
        if field.name not in names and field.name not in part_schema.ADDED_LATER:
            yield f"it lacks the column {field.name!r}"
        elif names.count(field.name) == 1 and schema.field(field.name).type != field.type:
            yield (
                f"the column {field.name!r} is {schema.field(field.name).type}, and not "
                f"{field.type}"
            )
    for name in dict.fromkeys(names):
        if name not in wanted:
            yield f"it has the column {name!r}, which does not belong there"
    common = [name for name in dict.fromkeys(names) if name in wanted]
    ordered = [name for name in wanted if name in names]
    if common != ordered:
        name = next(a for a, b in zip(common, ordered, strict=False) if a != b)
        yield f"its columns are in another order, from {name!r} on"
