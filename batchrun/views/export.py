"""``batchrun export``: the published results as one file, in row order and in flat memory.

Only published parts are read, so it works on a live run too, without its lock and without writing
into its directory.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from batchrun.adapters.columns import schema as part_schema
from batchrun.adapters.storage import files
from batchrun.adapters.storage.store import PART_KINDS, SCORES
from batchrun.core.input import batch_lines
from batchrun.core.settings.addresses import local_path
from batchrun.errors import StorageError, UsageError
from batchrun.rundir import inspect
from batchrun.views import answer_fields, run_status
from batchrun.views.answer_fields import AnswerFields
from batchrun.views.durable.durable_results import DurableResults
from batchrun.views.durable.durable_rows import DurableRows
from batchrun.views.flat import flat, flat_type, without_formulas
from batchrun.views.published import Results

FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
}
SHEETS = (".xlsx", ".xls", ".ods")
GROUP_ROWS = 16_384
GROUP_BYTES = 16 * 2**20
"""What becomes a row group of the one Parquet file."""


BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""The byte-order mark by which Excel recognises UTF-8."""


KEYS = {
    "rows": "Rows written.",
    "ok": "Of those, rows with a completion.",
    "error": "Of those, rows that failed.",
    "pending": "Rows without an outcome, or not published yet. Null if the number is not known.",
    "live": "Whether the run is still working.",
}
"""What the keys of ``export --json`` mean, for the reference."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written: ``pending`` rows are not among it, None where their number is unknown;
    ``live`` says that the run goes on. ``renamed`` are columns that were asked for, of which the
    input has another under ``input_NAME``.
    """

    rows: int
    ok: int
    error: int
    pending: int | None
    live: bool
    renamed: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "rows": self.rows,
            "ok": self.ok,
            "error": self.error,
            "pending": self.pending,
            "live": self.live,
        }


class Sink(Protocol):
    """Where bytes go: a draft, or standard output."""

    def write(self, data: bytes) -> int:
        """Append bytes."""
        ...


def format_of(target: str, given: str | None) -> str:
    """The format of a file, as given or by its name. Raises ``UsageError`` if neither determines
    it.
    """
    if given is not None:
        return given
    if target == "-":
        return "jsonl"
    suffix = Path(target).suffix.lower()
    if suffix not in FORMATS:
        sheet = ". Spreadsheets open .csv; --excel writes it the way Excel expects it"
        message = (
            f"{target}: {suffix or 'no suffix'} is not an export format "
            f"({', '.join(FORMATS)}); set it with --format{sheet if suffix in SHEETS else ''}"
        )
        raise UsageError(message)
    return FORMATS[suffix]


class Choice(NamedTuple):
    """What of the results is written, and how. ``columns`` are those that are written, in this
    order, None for all; ``expand`` adds the fields of the run's schema; ``partial`` takes what a
    live run has not published yet too; ``formulas`` leaves text in CSV as it is that a spreadsheet
    would run; ``excel`` writes CSV as Excel opens it.
    """

    columns: Sequence[str] | None = None
    expand: bool = False
    partial: bool = False
    formulas: bool = False
    excel: bool = False


class Layout(NamedTuple):
    """The columns of a file, and those that have to be read for them."""

    schema: pa.Schema
    read: Sequence[str]
    fields: AnswerFields | None

    def of(self, table: pa.Table) -> pa.Table:
        """A table with the columns of the file, of one that was read."""
        return (table if self.fields is None else self.fields.added(table)).select(
            self.schema.names
        )


class Rows(Protocol):
    """Results that can be read."""

    @property
    def schema(self) -> pa.Schema:
        """All columns."""
        ...

    def whole_tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Some columns, piece by piece in row order, nothing in files of its own."""
        ...


def export(
    folder: str,
    target: str,
    kind: str,
    *,
    errors: str | None = None,
    force: bool = False,
    choice: Choice = Choice(),  # noqa: B008 - immutable
    checkpoint: str | None = None,
    stdout: Sink | None = None,
) -> Exported:
    """Write the results of a run directory into one file, or into ``stdout``.

    With ``errors`` (JSON Lines only) the lines of failed rows go into a file of their own. A file
    appears whole or not at all; one that exists is only replaced with ``force``, and keeps its
    mode. Raises ``UsageError``, ``DamagedError`` or ``StorageError``.
    """
    found = run_status.read(folder, checkpoint)
    store = inspect.look_at(folder, checkpoint).store
    targets = [name for name in (None if stdout else target, errors) if name is not None]
    require_new(targets, folder, force=force)
    _refuse_flags(kind, choice)
    with contextlib.ExitStack() as stack:
        durable = DurableRows(folder, checkpoint) if choice.partial or choice.expand else None
        settings = {} if durable is None else durable.settings
        results: Rows = (
            DurableResults(durable)
            if durable is not None and choice.partial
            else stack.enter_context(Results(store))
        )
        layout = None if kind == "jsonl" else _layout(results.schema, kind, choice, settings)
        drafts = [stack.enter_context(new_file(Path(name))) for name in targets]
        try:
            sinks: list[Sink] = [*([stdout] if stdout else []), *drafts]
            if layout is None:
                ok, error = _write_jsonl(results, *sinks)
            elif kind == "csv":
                ok, error = _write_csv(results, layout, *sinks, choice=choice)
            else:
                ok, error = _write_parquet(results, layout, *sinks)
            for draft in drafts:
                draft.sync()
            for draft in drafts:
                draft.rename()
                files.sync_folder(draft.path.parent)
        except BrokenPipeError:
            raise
        except OSError as fault:
            message = f"cannot write {' and '.join(targets) or 'the output'}: {fault.strerror}"
            raise StorageError(message) from fault
    live = found["state"] == "running"
    whole = _whole(found)
    pending = None if whole is None else max(0, whole - ok - error)
    names = results.schema.names
    renamed = [name for name in choice.columns or () if f"input_{name}" in names]
    return Exported(ok + error, ok, error, pending, live, tuple(renamed))


def _refuse_flags(kind: str, choice: Choice) -> None:
    """Raises ``UsageError`` for options that the format does not support."""
    if kind == "jsonl" and choice.columns is not None:
        message = "--columns chooses columns of a .parquet or .csv file; a Batch line has none"
        raise UsageError(message)
    if kind == "jsonl" and choice.expand:
        message = "--expand adds columns to a .parquet or .csv file; a Batch line has none"
        raise UsageError(message)
    if kind != "csv" and choice.excel:
        message = "--excel is for a .csv file"
        raise UsageError(message)


def _layout(schema: pa.Schema, kind: str, choice: Choice, settings: Mapping[str, Any]) -> Layout:
    """The columns that are written. Raises ``UsageError`` for one that is not there."""
    fields = None
    if choice.expand:
        fields = answer_fields.of_run(settings)
        clash = next((f.name for f in fields.fields if f.name in schema.names), None)
        if clash is not None:
            message = f"--expand: the results have a column {clash!r} already"
            raise UsageError(message)
    columns = list(schema)
    if kind == "csv":
        # Users look for their own columns first, then for the answer.
        carried = [f for f in schema if not _is_fixed(schema, f.name)]
        names = {field.name for field in carried}
        rest = [field for field in schema if field.name not in names]
        answer = [field for field in rest if field.name == "content"]
        columns = [*carried, *answer, *(field for field in rest if field.name != "content")]
    if fields is not None:
        place = next((n for n, field in enumerate(columns) if field.name == "content"), -1) + 1
        columns[place:place] = fields.fields
    found = _chosen(pa.schema(columns), choice.columns)
    if fields is not None and not any(field in found for field in fields.fields):
        fields = None
    wanted = [name for name in found.names if name in schema.names]
    read = dict.fromkeys([*wanted, "status", *(["content"] if fields else [])])
    return Layout(found, list(read), fields)


def _is_fixed(schema: pa.Schema, name: str) -> bool:
    """Whether a column is one of the contract: carried ones come behind all of those."""
    own = part_schema.own_columns(schema)
    last = schema.names.index("response") + len(own - {*part_schema.RESULT_NAMES})
    return name in own and bool(schema.names.index(name) <= last)


def _chosen(schema: pa.Schema, columns: Sequence[str] | None) -> pa.Schema:
    """The columns that are written, in the order asked for. Raises ``UsageError`` for one that is
    not there, or is named twice.
    """
    if columns is None:
        return schema
    missing = next((name for name in columns if name not in schema.names), None)
    if missing is not None:
        near = difflib.get_close_matches(missing, schema.names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"they are {', '.join(schema.names)}"
        message = f"--columns: the results have no column {missing!r}; {hint}"
        raise UsageError(message)
    return pa.schema([schema.field(name) for name in dict.fromkeys(columns)])


def _whole(found: dict[str, Any]) -> int | None:
    """The number of rows of the input, where it is known."""
    rows: int | None
    if "summary" in found:
        rows = found["summary"]["rows"]["input"]
    else:
        rows = (found["live"] or {}).get("rows_input")
    return rows


def require_new(targets: Sequence[str], folder: str, *, force: bool) -> None:
    """Raises ``UsageError`` for files that exist (without ``force``), or lie among a run's own."""
    for name in targets:
        path = Path(name)
        if path.is_dir():
            message = f"{name} is a folder; name a file with -o"
            raise UsageError(message)
        if path.exists() and not force:
            message = f"{name} exists; --force replaces it"
            raise UsageError(message)
        local = local_path(folder)
        ours = (
            []
            if local is None
            else [Path(local, part) for part in (*PART_KINDS, SCORES, "checkpoint")]
        )
        if path.resolve().parent in [place.resolve() for place in ours]:
            message = f"{name} lies among the run's own files; name another place with -o"
            raise UsageError(message)
    if len({Path(name).resolve() for name in targets}) < len(targets):
        message = f"{targets[0]} is named twice; results and errors need a file each"
        raise UsageError(message)


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[files.Draft]:
    """A user's file being written; it is removed unless it is renamed."""
    try:
        draft = files.Draft(path, foreign=True)
    except OSError as error:
        message = f"cannot write {path}: {error.strerror}"
        raise UsageError(message) from None
    try:
        yield draft
    except BaseException:
        draft.discard()
        raise


def _write_jsonl(results: Rows, lines: Sink, errors: Sink | None = None) -> tuple[int, int]:
    ok = error = 0
    for table in results.whole_tables(batch_lines.COLUMNS):
        place = table.schema.get_field_index("created")
        seconds = pc.divide(table.column(place).cast(pa.int64()), 1000)
        good: list[bytes] = []
        bad: list[bytes] = good if errors is None else []
        for row in table.set_column(place, "created", seconds).to_pylist():
            if row["status"] == "ok":
                ok += 1
                good.append(batch_lines.line(row))
            else:
                error += 1
                bad.append(batch_lines.line(row))
        _put(lines, good)
        if errors is not None:
            _put(errors, bad)
    return ok, error


def _put(sink: Sink, texts: Sequence[bytes]) -> None:
    if texts:
        sink.write(b"\n".join(texts) + b"\n")


def _write_parquet(results: Rows, layout: Layout, sink: Sink) -> tuple[int, int]:
    ok = rows = 0
    held: list[pa.Table] = []
    with pq.ParquetWriter(
        pa.PythonFile(sink, mode="w"),
        layout.schema,
        compression="zstd",
        use_dictionary=part_schema.dictionary_columns(layout.schema),
    ) as writer:
        for table in results.whole_tables(layout.read):
            held.append(layout.of(table))
            ok += _ok(table)
            rows += table.num_rows
            if (
                sum(t.num_rows for t in held) >= GROUP_ROWS
                or sum(t.nbytes for t in held) >= GROUP_BYTES
            ):
                writer.write_table(pa.concat_tables(held))
                held = []
        if held:
            writer.write_table(pa.concat_tables(held))
    return ok, rows - ok


def _write_csv(results: Rows, layout: Layout, sink: Sink, *, choice: Choice) -> tuple[int, int]:
    ok = rows = 0

    def guarded(table: pa.Table) -> pa.Table:
        return table if choice.formulas else without_formulas(table)

    schema = pa.schema([(field.name, flat_type(field.type)) for field in layout.schema])
    schema = guarded(schema.empty_table()).schema
    if choice.excel:
        sink.write(BYTE_ORDER_MARK)
    options = pacsv.WriteOptions(delimiter=";" if choice.excel else ",")
    with pacsv.CSVWriter(pa.PythonFile(sink, mode="w"), schema, write_options=options) as writer:
        for table in results.whole_tables(layout.read):
            writer.write_table(guarded(flat(layout.of(table))).cast(schema))
            ok += _ok(table)
            rows += table.num_rows
    return ok, rows - ok


def _ok(table: pa.Table) -> int:
    return int(pc.sum(pc.equal(table.column("status"), "ok")).as_py() or 0)
