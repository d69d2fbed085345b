"""``scores/``: one part for every part of the results, with the same rows.

A part's metadata names what it was made from: the digest of the part of the results, and of each
score's definition; and the digest of each column's values, which reveals damage if they cannot be
computed again. So the file alone shows whether it is current: a kill leaves the old part or none,
and the next session writes it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batchrun.adapters.columns import schema as part_schema
from batchrun.adapters.parts.old_part import damaged
from batchrun.adapters.scoring.database import Database, Table, quoted
from batchrun.adapters.scoring.plan import KEYS, Plan, PlannedScore, score_sql
from batchrun.adapters.scoring.verdicts import Counts, Verdicts
from batchrun.adapters.storage import files
from batchrun.adapters.storage.store import SCORES, Store, StoreReader
from batchrun.core.text.legible import json_of
from batchrun.errors import ScoringError

FORMAT = "1"
FORMAT_KEY, MADE_KEY = b"batchrun.format", b"batchrun.made_from"

PythonScores = Callable[[PlannedScore, str, int], pa.Array]
"""Runs a Python scorer over a part of the results, by its file name and number of rows."""


class Made(NamedTuple):
    """The record of what a part was made from, and its counts of the judges' verdicts."""

    results_sha256: str
    scores: Mapping[str, str]
    values: Mapping[str, str]
    judges: Mapping[str, str] = {}
    judged: Mapping[str, Mapping[str, int]] = {}


class ScoreParts:
    """Reads and writes the parts of ``scores/``."""

    def __init__(
        self,
        store: Store,
        plan: Plan,
        database: Database | None,
        python: PythonScores,
        verdicts: Mapping[str, str] | None = None,
    ) -> None:
        """``database`` may be None if no score is in SQL. ``verdicts`` are the states of the judges
        by name, which identify their verdicts.
        """
        self._store = store
        self._plan = plan
        self._database = database
        self._python = python
        self._states = dict(verdicts or {})
        self._verdicts = Verdicts(store, plan.judges)
        self._kinds: dict[str, bool] = {
            one.score.name: one.is_boolean for one in plan.scores if one.is_boolean is not None
        }

    def is_current(self, name: str, results_sha256: str) -> bool:
        """Whether the part exists and was made from the present results."""
        found = made(self._store, name)
        wanted = self._plan.digests
        return (
            found is not None
            and found.results_sha256 == results_sha256
            and list(found.scores.items()) == list(wanted.items())
            and list(found.judges.items()) == list(self._states.items())
        )

    def write(self, name: str, results_sha256: str) -> None:
        """Compute the scores of one part of the results, and publish them.

        Raises ``ScoringError`` naming the score and, for SQL, the row; ``OSError`` or
        ``StorageError`` for a disk or a store that fails.
        """
        table, judged = self._scored(name)
        for one in self._plan.scores:
            if one.score.python is not None:
                column = self._of_python(one, name, table.num_rows, table.column("status"))
                table = table.append_column(one.score.name, column)
        own = [one.score.name for one in self._plan.scores]
        names = ["row", "custom_id", *(field.name for field in self._plan.verdicts), *own]
        table = table.select(names)
        known = {
            "results": results_sha256,
            "scores": self._plan.digests,
            "values": {score: values_digest(table.column(score)) for score in names[2:]},
        }
        if self._plan.judges:
            known |= {
                "judges": self._states,
                "judged": {judge: counts.as_dict() for judge, counts in judged.items()},
            }
        metadata = {FORMAT_KEY: FORMAT.encode(), MADE_KEY: json_of(known).encode()}
        table = table.replace_schema_metadata(metadata)
        with self._store.draft(f"{SCORES}/{name}") as draft:
            with pq.ParquetWriter(
                pa.PythonFile(draft, mode="w"),
                table.schema,
                compression="zstd",
                compression_level=1,
                write_statistics=["row"],
                use_dictionary=False,
            ) as writer:
                writer.write_table(table, row_group_size=16_384)
            self._store.publish([draft])
        files.reached("scores.published", draft.path)

    def _scored(self, name: str) -> tuple[pa.Table, Mapping[str, Counts]]:
        """Row, id, status, the verdicts of judges and the scores in SQL of one part; and the counts
        of verdicts by judge.
        """
        plan, sql = self._plan, self._plan.sql
        keys = pa.schema([plan.schema.field(key) for key in KEYS])
        table = keys.empty_table()
        pieces = list(row_groups(self._store, f"results/{name}", KEYS))
        if pieces:
            table = pa.concat_tables(pieces).select(KEYS).cast(keys)
        judged: Mapping[str, Counts] = {}
        verdicts: pa.Table | None = None
        if plan.judges:
            verdicts, judged = self._verdicts.of_part(name)
            for field in verdicts.schema:
                table = table.append_column(field, verdicts.column(field.name))
        if not sql:
            return table, judged
        ok = pc.not_equal(table.column("status"), "error").combine_chunks()
        source = results_table(self._store, name, plan.schema, plan.sql_columns())
        source = ok_rows(source if verdicts is None else beside(source, verdicts))
        database = self._sql()
        picked = [
            f"{score_sql(one.score, is_boolean=bool(one.is_boolean))} AS {quoted(one.score.name)}"
            for one in sql
        ]
        with database.tables(results=source):
            try:
                found = database.table(f"SELECT {', '.join(picked)} FROM results", "scores")
            except ScoringError as error:
                if not error.interrupted:
                    self._blame(source, sql)
                raise
        for one, column in zip(sql, found.columns, strict=True):
            table = table.append_column(one.score.name, _spread(one, column, ok))
        return table, judged

    def _sql(self) -> Database:
        assert self._database is not None  # a score is in SQL
        return self._database

    def _blame(self, source: Table, sql: Sequence[PlannedScore]) -> None:
        """Raises ``ScoringError`` naming the score that fails and the first such row."""
        for one in sql:
            key = one.score.key
            select = f"SELECT {score_sql(one.score, is_boolean=bool(one.is_boolean))} AS x"
            low, high = self._span(source)
            try:
                self._sql().table(f"{select} FROM results", key)
            except ScoringError as error:
                if error.interrupted:
                    raise
                last = error
                while high - low > 1:
                    middle = (low + high) // 2
                    try:
                        self._part_of(source, low, middle, select, key)
                        low = middle
                    except ScoringError as found:
                        high, last = middle, found
                why = str(last).removeprefix(f"{key}: ")
                message = (
                    f"{key} failed on row {low}: {why}. The results are intact; change the "
                    "expression (TRY(...) and try_cast(...) give null instead of an error), and "
                    "run the same command again or `batchrun score`"
                )
                raise ScoringError(message) from None

    def _span(self, source: Table) -> tuple[int, int]:
        rows = [pc.min_max(batch.column("row")).as_py() for batch in source.batches()]
        return min(r["min"] for r in rows), max(r["max"] for r in rows) + 1

    def _part_of(self, source: Table, low: int, high: int, select: str, key: str) -> None:
        def batches() -> Iterator[pa.RecordBatch]:
            for batch in source.batches():
                row = batch.column("row")
                inside = pc.and_(pc.greater_equal(row, low), pc.less(row, high))
                yield batch.filter(inside)

        with self._sql().tables(results=Table(source.schema, batches)):
            self._sql().table(f"{select} FROM results", key)

    def _of_python(
        self, one: PlannedScore, name: str, rows: int, status: pa.ChunkedArray
    ) -> pa.Array:
        """The column of a Python scorer, with error rows scored as the score defines."""
        values = self._python(one, name, rows)
        score = one.score
        known = self._kinds.get(score.name)
        if known is None:
            known = self._kind_elsewhere(score.name, name)
        if known is None:
            known = pa.types.is_boolean(values.type)
        self._kinds[score.name] = known
        if known and not pa.types.is_boolean(values.type) and values.null_count < len(values):
            message = (
                f"{score.key} returned numbers for {name}, and true or false for other parts; a "
                "score is one or the other"
            )
            raise ScoringError(message)
        kind = pa.bool_() if known else pa.float64()
        column = pa.nulls(rows, kind) if values.null_count == len(values) else values.cast(kind)
        failed = pc.equal(status.combine_chunks(), "error")
        instead = None if score.errors == "skip" else False if known else 0.0
        return pc.if_else(failed, pa.scalar(instead, kind), column)

    def _kind_elsewhere(self, score: str, name: str) -> bool | None:
        """Whether the score is boolean in a part that is current."""
        for other in self._store.names(SCORES):
            found = made(self._store, other) if other != name else None
            if found is None or found.scores.get(score) != self._plan.digests[score]:
                continue
            with (
                self._store.open(f"{SCORES}/{other}") as file,
                pq.ParquetFile(file, pre_buffer=False) as part,
            ):
                return bool(pa.types.is_boolean(part.schema_arrow.field(score).type))
        return None


def beside(source: Table, columns: pa.Table) -> Table:
    """A table with further columns, which have a line for each of its rows."""
    schema = source.schema
    for field in columns.schema:
        schema = schema.append(field)

    def batches() -> Iterator[pa.RecordBatch]:
        at = 0
        for batch in source.batches():
            more = columns.slice(at, batch.num_rows).combine_chunks()
            at += batch.num_rows
            arrays = [*batch.columns, *(column.combine_chunks() for column in more.columns)]
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)

    return Table(schema, batches)


def ok_rows(source: Table) -> Table:
    """The rows that did not fail."""

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in source.batches():
            yield batch.filter(pc.not_equal(batch.column("status"), "error"))

    return Table(source.schema, batches)


def _spread(one: PlannedScore, column: pa.ChunkedArray, ok: pa.Array) -> pa.Array:
    """The scores of ``ok`` rows, at their places among all rows."""
    values = column.combine_chunks()
    kind = pa.bool_() if one.is_boolean else pa.float64()
    if not one.is_boolean:
        finite = pc.fill_null(pc.is_finite(values), False)  # noqa: FBT003 - Arrow's signature
        values = pc.if_else(finite, values, pa.scalar(None, kind))
    instead = None if one.score.errors == "skip" else False if one.is_boolean else 0.0
    failed = pa.array([instead], kind).take(pa.array([0] * len(ok), pa.int32()))
    return pc.replace_with_mask(failed, ok, values.cast(kind))


def kept_column(store: StoreReader, one: PlannedScore, name: str) -> pa.Array:
    """The column of a score in the part. Raises ``DamagedError``."""
    table = pa.concat_tables(row_groups(store, f"{SCORES}/{name}", [one.score.name]))
    column: pa.Array = table.column(one.score.name).combine_chunks()
    return column


def made(store: StoreReader, name: str) -> Made | None:
    """What a part of the scores was made from; None if there is no part with such a record."""
    try:
        with (
            store.peek(f"{SCORES}/{name}") as file,
            pq.ParquetFile(file, pre_buffer=False) as part,
        ):
            told: Any = json.loads((part.schema_arrow.metadata or {})[MADE_KEY])
            judges, judged = told.get("judges", {}), told.get("judged", {})
            return Made(told["results"], told["scores"], told["values"], judges, judged)
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        return None


def values_digest(column: pa.ChunkedArray) -> str:
    """The digest of a column of scores: which values are present, and every value as a double, or
    the bytes and length of a text.
    """
    digest = hashlib.sha256()
    there = pc.cast(column.is_valid(), pa.uint8())
    if pa.types.is_string(column.type):
        for text in column.to_pylist():
            data = b"" if text is None else text.encode()
            digest.update(b"%d:%d:%b" % (text is not None, len(data), data))
        return digest.hexdigest()
    values = pc.fill_null(as_doubles(column), 0.0)
    for one in (there, values):
        array = one.combine_chunks()
        width = array.type.bit_width // 8
        whole = memoryview(array.buffers()[1] or b"")
        digest.update(whole[array.offset * width : (array.offset + len(array)) * width])
    return digest.hexdigest()


def as_doubles(column: Any) -> Any:
    """A column of scores as numbers: true is 1, false is 0."""
    if pa.types.is_boolean(column.type):
        column = pc.cast(column, pa.uint8())
    return pc.cast(column, pa.float64())


def in_sql(column: Any) -> Any:
    """A column of scores as SQL sees it: numbers, and the texts of judges as they are."""
    return column if pa.types.is_string(column.type) else as_doubles(column)


def results_table(
    store: StoreReader, name: str, schema: pa.Schema, columns: Sequence[str]
) -> Table:
    """Some columns of one part of the results, read one row group at a time."""
    wanted = pa.schema([schema.field(column) for column in columns])

    def batches() -> Iterator[pa.RecordBatch]:
        for table in row_groups(store, f"results/{name}", columns):
            yield from part_schema.completed(table, wanted).to_batches()

    return Table(wanted, batches)


def row_groups(store: StoreReader, name: str, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Some columns of a part, a row group at a time. Raises ``DamagedError``."""
    try:
        with store.open(name) as file, pq.ParquetFile(file, pre_buffer=False) as part:
            there = [column for column in columns if column in part.schema_arrow.names]
            for group in range(part.num_row_groups):
                yield part.read_row_group(group, columns=there, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise damaged(store.where(name), error) from error
