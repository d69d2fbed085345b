"""One of the two runs of a comparison: its files, its summary, and which of its scores count."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batchrun.adapters.columns import schema as part_schema
from batchrun.adapters.parts.old_part import damaged
from batchrun.adapters.scoring.database import Table
from batchrun.adapters.scoring.score_parts import in_sql, row_groups
from batchrun.adapters.storage.store import SCORES, SUMMARY, StoreReader, part_names, read_json
from batchrun.core.evaluation import gates
from batchrun.core.evaluation.judges import is_name
from batchrun.core.settings.addresses import format_address
from batchrun.errors import UsageError
from batchrun.rundir import inspect

FINISHED = ("complete", "complete_with_errors")
JUDGES = "judges"


@dataclass(frozen=True, slots=True)
class Side:
    """A run directory in a comparison. ``summary`` is empty if there is none yet."""

    directory: str
    store: StoreReader
    summary: Mapping[str, Any]
    schema: pa.Schema
    live: bool = False

    @property
    def shown(self) -> str:
        """The directory as it may be shown to people."""
        return format_address(self.directory)

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings that the summary recorded."""
        found = self.summary.get("settings")
        return found if isinstance(found, Mapping) else {}

    @property
    def is_finished(self) -> bool:
        """Whether every row has its outcome."""
        return not self.live and self.summary.get("status") in FINISHED

    @property
    def error_rows(self) -> int:
        """Failed rows; 1 if they were not counted yet, since there may be some."""
        rows = self.summary.get("rows")
        return int(rows["error"]) if isinstance(rows, Mapping) else 1

    @property
    def score_digests(self) -> dict[str, str]:
        """The digest of the definition of each score that was computed over all rows."""
        settled = self.summary.get("exit_code") in (0, 1, gates.GATE_FAILED)
        scores = self.summary.get("scores")
        if not settled or not isinstance(scores, Mapping):
            return {}
        return {
            name: str(one["sha256"])
            for name, one in scores.items()
            if isinstance(one, Mapping) and "sha256" in one
        }

    @property
    def judges(self) -> dict[str, Any]:
        """What identifies the verdicts of each judge, by name: a digest of its model, prompt,
        schema and parameters.
        """
        found = self.summary.get(JUDGES)
        judges = found if isinstance(found, Mapping) else {}
        return {
            name: one.get("sha256") or self.judge_settings(name)
            for name, one in judges.items()
            if is_name(name) and isinstance(one, Mapping)
        }

    def judge_settings(self, name: str) -> Mapping[str, Any]:
        """What a judge was asked, according to its own summary; empty if that is gone."""
        whole = read_json(self.store, f"{JUDGES}/{name}/{SUMMARY}")
        settings = whole.get("settings") if isinstance(whole, Mapping) else None
        found = settings if isinstance(settings, Mapping) else {}
        return {key: value for key, value in found.items() if key.startswith("request.")}

    @property
    def verdicts(self) -> dict[str, pa.Field]:
        """The columns of the verdicts in its scores, by name, as SQL sees them: numbers or text."""
        judges, names = self.judges, part_names(self.store, SCORES)
        if not judges or not names:
            return {}
        schema = _schema(self.store, names[-1], SCORES)
        found = {}
        for field in schema:
            judge, dot, _ = field.name.partition(".")
            if dot and judge in judges:
                is_text = pa.types.is_string(field.type)
                found[field.name] = field if is_text else field.with_type(pa.float64())
        return found

    def rows(self, columns: Sequence[str], scores: Sequence[str] = ()) -> Table:
        """Columns of the results and recorded scores, the latter as numbers, a row group at a
        time. Raises ``DamagedError``.
        """
        wanted = pa.schema([self.schema.field(name) for name in columns])
        schema = wanted
        verdicts = self.verdicts
        for name in scores:
            schema = schema.append(verdicts.get(name, pa.field(name, pa.float64())))

        def batches() -> Iterator[pa.RecordBatch]:
            for name in part_names(self.store, "results"):
                yield from self._part(name, wanted, scores, schema)

        return Table(schema, batches)

    def some_rows(self, rows: Iterable[int], columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Some rows by their numbers. Raises ``DamagedError``."""
        missing = set(rows)
        for name in part_names(self.store, "results"):
            if not missing:
                return
            try:
                with (
                    self.store.open(f"results/{name}") as file,
                    pq.ParquetFile(file, pre_buffer=False) as part,
                ):
                    for group in range(part.num_row_groups):
                        if _may_hold(part, group, missing):
                            table = part.read_row_group(group, list(columns), use_threads=False)
                            wanted = pc.is_in(table.column("row"), pa.array(missing, pa.int64()))
                            found = table.filter(wanted).to_pylist()
                            missing -= {line["row"] for line in found}
                            yield from found
            except (OSError, pa.ArrowException) as error:
                raise damaged(self.store.where(f"results/{name}"), error) from error

    def _part(
        self, name: str, wanted: pa.Schema, scores: Sequence[str], schema: pa.Schema
    ) -> Iterator[pa.RecordBatch]:
        beside = self._scores(name, scores) if scores else None
        at = 0
        for table in row_groups(self.store, f"results/{name}", wanted.names):
            columns = list(part_schema.completed(table, wanted).columns)
            if beside is not None:
                piece = beside.slice(at, table.num_rows)
                if not piece.column("row").equals(table.column("row")):
                    why = "its rows are not those of the results; `batchrun score` writes it again"
                    raise damaged(self.store.where(f"{SCORES}/{name}"), why)
                columns += [in_sql(piece.column(score)) for score in scores]
            at += table.num_rows
            yield from pa.Table.from_arrays(columns, schema=schema).to_batches()

    def _scores(self, name: str, scores: Sequence[str]) -> pa.Table:
        try:
            with (
                self.store.open(f"{SCORES}/{name}") as file,
                pq.ParquetFile(file, pre_buffer=False) as part,
            ):
                return part.read(columns=["row", *scores], use_threads=False)
        except (OSError, pa.ArrowException, KeyError) as error:
            raise damaged(self.store.where(f"{SCORES}/{name}"), error) from error


def _may_hold(part: pq.ParquetFile, group: int, rows: Collection[int]) -> bool:
    """Whether a row group may contain one of these rows, judged by its statistics."""
    place = part.schema_arrow.names.index("row")
    found = part.metadata.row_group(group).column(place).statistics
    if found is None or not found.has_min_max:
        return True
    return any(found.min <= row <= found.max for row in rows)


def open_side(directory: str, checkpoint: str | None = None) -> Side:
    """Open a run directory for a comparison. Raises ``UsageError`` if it has no results."""
    look = inspect.look_at(directory, checkpoint)
    return side_of(directory, look.store, live=look.live)


def side_of(
    directory: str,
    store: StoreReader,
    summary: Mapping[str, Any] | None = None,
    *,
    live: bool = False,
) -> Side:
    """Like ``open_side``, for an open store. ``summary`` is the summary about to be written, if it
    is not in the store yet. Raises ``UsageError`` if there are no results, ``DamagedError`` if they
    cannot be read.
    """
    names = part_names(store, "results")
    if not names:
        message = (
            f"{format_address(directory)} has no results: it is not a run directory, or no row "
            "has an outcome yet"
        )
        raise UsageError(message)
    schemas = [_schema(store, name) for name in names[:: max(1, len(names) - 1)]]
    widest = max(schemas, key=len)
    found = read_json(store, SUMMARY) if summary is None else summary
    return Side(directory, store, found if isinstance(found, Mapping) else {}, widest, live)


def _schema(store: StoreReader, name: str, kind: str = "results") -> pa.Schema:
    try:
        with store.peek(f"{kind}/{name}") as file, pq.ParquetFile(file, pre_buffer=False) as part:
            return part.schema_arrow
    except (OSError, pa.ArrowException) as error:
        raise damaged(store.where(f"{kind}/{name}"), error) from error
