"""DuckDB, locked so that it only sees the given tables.

No file, no network, no extension, no setting can be reached: external access is off, nothing is
loaded, the configuration is locked, and every statement is parsed and checked against the lists of
``parser`` first. Memory and threads are bounded; larger data spills into a private folder that is
removed with the connection.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, Self

import pyarrow as pa

from batchrun.adapters.scoring import functions, parser
from batchrun.adapters.scoring.parser import Functions, Parsed
from batchrun.errors import ScoringError, UsageError

INSTALL = 'pip install "batchrun-llm[eval]"'
MEMORY_BYTES = 128 * 2**20
"""How much memory DuckDB may use before it spills."""
THREADS = 2
SPILL_BYTES = 8 * 2**30
REASON_CHARS = 400
BATCH_ROWS = 10_000
"""Rows of one batch of a result."""

_WHERE = re.compile(r"\n\s*\nLINE \d+:.*", re.DOTALL)
_KIND = re.compile(r"^(?:[A-Z][A-Za-z-]* )+Error: ")


@dataclass(frozen=True, slots=True)
class Table:
    """A table for DuckDB, read again by every scan: a schema, and a function that returns its
    batches.
    """

    schema: pa.Schema
    batches: Callable[[], Iterable[pa.RecordBatch]]
    faults: list[Exception] = field(default_factory=list, compare=False)
    """The exception from its batches, of which DuckDB only keeps the text."""

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        """A new stream of the rows; nothing is read before the first batch is requested."""
        reader = pa.RecordBatchReader.from_batches(self.schema, self._lazily())
        return reader.__arrow_c_stream__(requested_schema)

    def _lazily(self) -> Iterator[pa.RecordBatch]:
        try:
            yield from self.batches()
        except Exception as error:
            self.faults.append(error)
            raise


def require(what: str) -> None:
    """Raises ``UsageError`` with the install command if DuckDB is missing, or NumPy, which it needs
    to call Python functions.
    """
    for module, name in (("duckdb", "DuckDB"), ("numpy", "NumPy")):
        try:
            importlib.import_module(module)
        except ImportError:
            message = f"{name} is not installed, which is required for {what}: {INSTALL}"
            raise UsageError(message) from None


class Database:
    """A locked DuckDB in memory. Leaving it closes it."""

    def __init__(
        self,
        *,
        memory_bytes: int = MEMORY_BYTES,
        threads: int = THREADS,
        what: str = "[scores]",
        in_order: bool = True,
    ) -> None:
        """``what`` names the feature that needs it, for a message. Without ``in_order`` rows may be
        returned in any order, which takes less memory. Raises ``UsageError`` if DuckDB is missing.
        """
        require(what)
        import duckdb

        self._errors = duckdb.Error
        self._out_of_memory = duckdb.OutOfMemoryException
        self._interrupted = duckdb.InterruptException
        self._tables: Mapping[str, Table] = {}
        self._stack = contextlib.ExitStack()
        spill = self._stack.enter_context(
            tempfile.TemporaryDirectory(prefix="batchrun-sql-", ignore_cleanup_errors=True)
        )
        self._connection = duckdb.connect(
            ":memory:",
            config={
                "memory_limit": f"{memory_bytes // 2**20}MiB",
                "threads": threads,
                "temp_directory": spill,
                "max_temp_directory_size": f"{SPILL_BYTES // 2**20}MiB",
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
                "allow_community_extensions": False,
                "allow_unsigned_extensions": False,
                "python_enable_replacements": False,
                "preserve_insertion_order": in_order,
            },
        )
        self._stack.callback(self._connection.close)
        functions.install(self._connection)
        self._functions = _functions(self._connection)
        self.reserved = frozenset(
            str(word)
            for (word,) in self._connection.execute(
                "SELECT keyword_name FROM duckdb_keywords() WHERE keyword_category <> 'unreserved'"
            ).fetchall()
        )
        """Words of SQL that are not names unless quoted."""
        # In a REPL it would draw one on stdout after two seconds, in the middle of the output. In a
        # notebook without ipywidgets it can draw none, and refuses the setting for that reason.
        with contextlib.suppress(duckdb.InvalidInputException):
            self._connection.execute("SET enable_progress_bar = false")
        self._connection.execute("SET enable_external_access = false")
        self._connection.execute("SET lock_configuration = true")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it. Closing twice is harmless."""
        self._stack.close()

    def interrupt(self) -> None:
        """Interrupt the statement that runs in another thread, which raises."""
        self._connection.interrupt()

    # Parsing

    def expression(self, text: str, key: str, kind: parser.Kind) -> Parsed:
        """Parse one expression; see ``parser.expression``."""
        return parser.expression(self, text, key, kind, self._functions)

    def query(self, text: str, views: Sequence[str]) -> Parsed:
        """Parse one SELECT; see ``parser.query``."""
        return parser.query(self, text, views, self._functions)

    def serialize(self, sql: str) -> str:
        """See ``parser.Grammar``."""
        return self._asked("SELECT json_serialize_sql(?)", sql)

    def deserialize(self, tree: str) -> str:
        """See ``parser.Grammar``."""
        return self._asked("SELECT json_deserialize_sql(?)", tree)

    def _asked(self, sql: str, argument: str) -> str:
        try:
            found = self._connection.execute(sql, [argument]).fetchall()
        except self._errors as error:
            message = f"the SQL cannot be parsed: {reason(error)}"
            raise UsageError(message) from None
        return str(found[0][0])

    # Running it

    @contextlib.contextmanager
    def tables(self, **tables: Table) -> Iterator[None]:
        """Make these tables available until the block is left, replacing those of the same name."""
        before, self._tables = self._tables, tables
        for name, table in tables.items():
            self._connection.register(name, table)
        try:
            yield
        finally:
            self._tables = before
            for name in tables:
                with contextlib.suppress(self._errors):
                    self._connection.unregister(name)

    def types(self, sql: str, key: str) -> list[tuple[str, str]]:
        """The columns of a statement and their types, by binding it. Raises ``UsageError``."""
        try:
            relation = self._connection.sql(sql)
            return list(zip(relation.columns, map(str, relation.types), strict=True))
        except self._errors as error:
            message = f"{key}: {reason(error)}"
            raise UsageError(message) from None

    def table(self, sql: str, key: str) -> pa.Table:
        """All rows of a statement. Raises ``ScoringError``."""
        try:
            return self._connection.sql(sql).to_arrow_table()
        except self._errors as error:
            self._failed(error, key)

    def rows(self, sql: str, key: str) -> list[tuple[Any, ...]]:
        """All rows of a small result. Raises ``ScoringError``."""
        try:
            found: list[tuple[Any, ...]] = self._connection.execute(sql).fetchall()
        except self._errors as error:
            self._failed(error, key)
        return found

    def reader(self, sql: str, key: str) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        """The rows of a statement, a batch at a time. Raises ``ScoringError``, also later."""
        try:
            reader = self._connection.sql(sql).to_arrow_reader(BATCH_ROWS)
        except self._errors as error:
            self._failed(error, key)
        return reader.schema, self._batches(reader, key)

    def _batches(self, reader: Any, key: str) -> Iterator[pa.RecordBatch]:
        try:
            yield from reader
        except (self._errors, pa.ArrowException, OSError) as error:
            self._failed(error, key)

    def _failed(self, error: Exception, key: str) -> NoReturn:
        for table in self._tables.values():
            if table.faults:
                raise table.faults[0] from None
        if isinstance(error, self._interrupted):
            message = f"{key}: interrupted"
            raise ScoringError(message, interrupted=True) from None
        if isinstance(error, self._out_of_memory):
            message = f"{key} needs more memory than it may use: {reason(error)}"
            raise ScoringError(message, out_of_memory=True) from None
        message = f"{key}: {reason(error)}"
        raise ScoringError(message) from None


def reason(error: Exception) -> str:
    """DuckDB's message in one line, without its excerpt of the statement."""
    text = _KIND.sub("", _WHERE.sub("", str(error)).strip())
    line = " ".join(text.partition("Candidate functions:")[0].split())
    return line if len(line) <= REASON_CHARS else f"{line[:REASON_CHARS]}..."


def quoted(name: str) -> str:
    """A name, quoted for SQL."""
    return '"' + name.replace('"', '""') + '"'


def _functions(connection: Any) -> Functions:
    """The available functions."""
    found = connection.execute(
        "SELECT function_name, function_type, stability FROM duckdb_functions() "
        "WHERE function_type IN ('scalar', 'macro', 'aggregate')"
    ).fetchall()
    steady, aggregates, unsteady = set(), set(), set()
    for name, kind, stability in found:
        if name.startswith("__"):
            continue
        if kind == "aggregate":
            aggregates.add(name)
        elif stability in (None, "CONSISTENT"):
            steady.add(name)
        else:
            unsteady.add(name)
    return Functions(frozenset(steady - unsteady), frozenset(aggregates), frozenset(unsteady))
