"""``scores/``, and the scores, metrics and gates of the summary, recomputed from the files.

The SQL that the run recorded is evaluated once more, by the same engine and with statements of
their own: each score over the ``ok`` rows of each part, each metric over all parts. Python is not
run: of its scores, the values are held against the digest that was written beside them.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batchrun.adapters.scoring.database import Database, Table
from batchrun.adapters.storage import files
from batchrun.adapters.storage.store import SCORES, StoreReader, part_names
from batchrun.core.evaluation.definitions import Evaluation, Score, of_recorded
from batchrun.core.evaluation.rules import LevelRule
from batchrun.errors import BatchrunError, UsageError
from batchrun.views.verify import check_repeats
from batchrun.views.verify.check_judges import CheckedJudge, Labels, answers_of
from batchrun.views.verify.findings import Report

_CLOSE = 1e-9
_COMPARED: Mapping[str, Callable[[float, float], bool]] = {
    ">=": lambda value, bound: value >= bound or _same(value, bound),
    "<=": lambda value, bound: value <= bound or _same(value, bound),
    ">": lambda value, bound: value > bound and not _same(value, bound),
    "<": lambda value, bound: value < bound and not _same(value, bound),
    "==": math.isclose,
}


def check_scores(
    store: StoreReader, summary: Mapping[str, Any] | None, report: Report, *, live: bool
) -> None:
    """Check everything that an evaluation left in a run directory."""
    settings = (summary or {}).get("settings")
    names = store.names(SCORES)
    _check_names(names, report, live=live)
    if not isinstance(settings, Mapping) or summary is None or live:
        return
    try:
        evaluation = of_recorded(settings)
    except UsageError as error:
        report.found("score_settings", f"the settings of summary.json: {error}")
        return
    if names and not (evaluation.scores or evaluation.judges):
        report.notes.append(f"{SCORES}/ belongs to no score that the summary names")
    if not evaluation or summary.get("status") not in ("complete", "complete_with_errors"):
        return
    if summary.get("exit_code") not in (0, 1, 4):
        report.notes.append("scores and metrics were not computed to their end; run again")
        return
    _Check(store, summary, evaluation, report).run()


def _check_names(names: Sequence[str], report: Report, *, live: bool) -> None:
    for name in names:
        if name.endswith(files.TEMPORARY):
            if not live:
                report.found("left_over", f"{SCORES}/{name} is a leftover of a kill; run again")
        elif not (name.startswith(("part-", ".", "_")) and name.endswith((".parquet", "_"))):
            report.found("stray", f"{SCORES}/{name} is not part of a run; remove it")


class _Check:
    """One pass over the scores of a finished run."""

    def __init__(
        self,
        store: StoreReader,
        summary: Mapping[str, Any],
        evaluation: Evaluation,
        report: Report,
    ) -> None:
        self._store = store
        self._summary = summary
        self._evaluation = evaluation
        self._report = report
        self._sound = True
        self._repeat = check_repeats.repeats_recorded(summary, None)
        self._counts = {one.name: [0, 0, 0] for one in evaluation.scores}
        self._error_rows = 0
        found = summary.get("judges")
        told: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
        self._told_of_judges: Mapping[str, Any] = {
            judge.name: told[judge.name]
            for judge in evaluation.judges
            if isinstance(told.get(judge.name), Mapping)
        }
        self._judges = {name: CheckedJudge(store, name, report) for name in self._told_of_judges}
        self._labels = {
            judge.name: Labels(self._repeat)
            for judge in evaluation.judges
            if judge.agreement is not None
        }
        self._verdicts: dict[str, pa.DataType] = {}
        """The columns of verdicts, as the parts have them."""

    def run(self) -> None:
        """Everything that can be checked; without DuckDB that is less."""
        try:
            database = Database(what="recomputing scores") if self._evaluation.needs_sql else None
        except UsageError as error:
            database = None
            self._report.notes.append(f"{error}; scores were not recomputed")
        python = len(self._evaluation.python)
        if python:
            self._report.notes.append(
                f"scores in Python were not run again ({python}): their digests were compared"
            )
        try:
            for name in part_names(self._store, "results"):
                self._check_part(name, database)
            for name, judge in self._judges.items():
                judge.finish(self._told_of_judges[name])
            self._check_counts()
            self._check_labels()
            if database is not None and self._sound:
                self._check_metrics(database)
            self._check_gates()
        finally:
            if database is not None:
                database.close()

    # One part

    def _check_part(self, name: str, database: Database | None) -> None:
        where = f"{SCORES}/{name}"
        status, rows, ids = self._keys(name)
        self._error_rows += pc.sum(pc.equal(status, "error")).as_py() or 0
        scores = [one.name for one in self._evaluation.scores]
        if not scores and not self._judges:
            return
        try:
            with self._store.open(where) as file, pq.ParquetFile(file, pre_buffer=False) as part:
                found = part.read(use_threads=False)
                told = json.loads((found.schema.metadata or {})[b"batchrun.made_from"])
        except FileNotFoundError:
            self._found("scores_missing", f"{where} is missing; batchrun score writes it again")
            return
        except (OSError, pa.ArrowException, KeyError, ValueError) as error:
            self._found("scores_unreadable", f"{where} cannot be read: {error}")
            return
        # The names of scores and judges have no dots.
        verdicts = [
            n for n in found.schema.names if "." in n and n.partition(".")[0] in self._judges
        ]
        if found.schema.names != ["row", "custom_id", *verdicts, *scores]:
            self._found("scores_columns", f"{where} has not the columns of the run's scores")
            return
        if not (found.column("row").equals(rows) and found.column("custom_id").equals(ids)):
            self._found("scores_rows", f"{where} has other rows than results/{name}")
            return
        with self._store.open(f"results/{name}") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if told.get("results") != digest:
            self._found("scores_stale", f"{where} was made from other results; score it again")
        if verdicts:
            self._check_verdicts(name, found, verdicts, told)
        for one in self._evaluation.scores:
            self._check_column(one, name, found, status, told, database)

    def _keys(self, name: str) -> tuple[pa.ChunkedArray, pa.ChunkedArray, pa.ChunkedArray]:
        try:
            with (
                self._store.open(f"results/{name}") as file,
                pq.ParquetFile(file, pre_buffer=False) as part,
            ):
                table = part.read(["status", "row", "custom_id"], use_threads=False)
                return tuple(table.column(n) for n in ("status", "row", "custom_id"))
        except (OSError, pa.ArrowException, KeyError):
            # What is wrong with the results is told elsewhere.
            empty = pa.chunked_array([pa.array([], pa.string())])
            return empty, pa.chunked_array([pa.array([], pa.int64())]), empty

    def _check_column(
        self,
        one: Score,
        name: str,
        scored: pa.Table,
        status: pa.ChunkedArray,
        told: Mapping[str, Any],
        database: Database | None,
    ) -> None:
        where, column = f"{SCORES}/{name}: {one.name}", scored.column(one.name)
        recorded = (self._summary.get("scores") or {}).get(one.name) or {}
        if (told.get("scores") or {}).get(one.name) != recorded.get("sha256"):
            self._found("scores_stale", f"{where} was made by another definition")
        numbers = _numbers(column)
        if (told.get("values") or {}).get(one.name) != _digest(numbers):
            self._found("scores_values", f"{where} has other values than were written")
        failed = pc.equal(status, "error")
        ok = pc.invert(failed)
        counts = self._counts[one.name]
        counts[0] += pc.sum(pc.and_(ok, numbers.is_valid())).as_py() or 0
        counts[1] += pc.sum(pc.and_(ok, numbers.is_null())).as_py() or 0
        counts[2] += pc.sum(failed).as_py() or 0
        of_failed = numbers.filter(failed)
        skip = one.errors == "skip"
        wrong = (
            len(of_failed) - of_failed.null_count
            if skip
            else len(of_failed) - (pc.sum(pc.equal(of_failed, 0.0)).as_py() or 0)
        )
        if wrong:
            self._found("scores_values", f"{where} has {wrong} failed rows scored otherwise", wrong)
        if one.sql is None or database is None:
            return
        again = self._again(one.sql, name, database, scored)
        if again is None:
            return
        differ = pc.sum(pc.invert(_alike(again, numbers.filter(ok)))).as_py() or 0
        if differ:
            text = f"{where} has {differ} rows that the expression scores otherwise"
            self._found("scores_values", text, differ)

    def _again(
        self, sql: str, name: str, database: Database, scored: pa.Table
    ) -> pa.ChunkedArray | None:
        """An expression over the ``ok`` rows of a part, as numbers."""
        names = self._wanted(name, sql, database, "score")
        verdicts = scored.select([n for n in scored.schema.names if n in self._verdicts])

        def tables() -> Iterator[pa.Table]:
            at = 0
            for table in self._read(f"results/{name}", names):
                beside = verdicts.slice(at, table.num_rows)
                at += table.num_rows
                for field in beside.schema:
                    table = table.append_column(field, beside.column(field.name))  # noqa: PLW2901
                yield table

        def batches() -> Iterator[pa.RecordBatch]:
            for table in tables():
                yield from table.filter(pc.equal(table.column("status"), "ok")).to_batches()

        first = next(tables(), None)
        if first is None:
            return None
        try:
            with database.tables(results=Table(first.schema, batches)):
                statement = f"SELECT (\n{sql}\n) AS score FROM results"
                column = database.table(statement, name).column(0)
        except BatchrunError as error:
            self._found("scores_values", f"{SCORES}/{name} cannot be recomputed: {error}")
            return None
        numbers = _numbers(column)
        finite = pc.fill_null(pc.is_finite(numbers), False)  # noqa: FBT003 - Arrow's signature
        return pc.if_else(finite, numbers, pa.scalar(None, pa.float64()))

    def _wanted(self, name: str, sql: str, database: Database, kind: Any) -> list[str]:
        """The columns of a part of the results that SQL names, and the keys."""
        parsed = database.expression(sql, "the expression", kind)
        with (
            self._store.open(f"results/{name}") as file,
            pq.ParquetFile(file, pre_buffer=False) as part,
        ):
            return [
                column
                for column in part.schema_arrow.names
                if column.lower() in parsed.columns or column in ("row", "status")
            ]

    def _read(self, name: str, columns: Sequence[str]) -> Iterator[pa.Table]:
        with self._store.open(name) as file, pq.ParquetFile(file, pre_buffer=False) as part:
            for group in range(part.num_row_groups):
                yield part.read_row_group(group, columns=list(columns), use_threads=False)

    def _check_verdicts(
        self, name: str, scored: pa.Table, columns: Sequence[str], told: Mapping[str, Any]
    ) -> None:
        """The verdicts in a part of the scores, beside those of the judges."""
        for column in columns:
            self._verdicts[column] = scored.schema.field(column).type
            if (told.get("values") or {}).get(column) != _digest_of(scored.column(column)):
                where = f"{SCORES}/{name}: {column}"
                self._found("scores_values", f"{where} has other values than were written")
        values = {column: scored.column(column).to_pylist() for column in columns}
        by_judge: dict[str, list[str]] = {judge: [] for judge in self._judges}
        for column in columns:
            by_judge[column.partition(".")[0]].append(column)
        before = self._report.kinds.get("verdict", 0)
        for at, (row, answer) in enumerate(answers_of(self._store, name)):
            for judge, own in by_judge.items():
                fields = {column.partition(".")[2]: values[column][at] for column in own}
                self._judges[judge].check(row, answer, fields)
        self._sound = self._sound and self._report.kinds.get("verdict", 0) == before
        self._count_labels(name, values)

    def _count_labels(self, name: str, values: Mapping[str, Sequence[Any]]) -> None:
        for judge in self._evaluation.judges:
            column = f"{judge.name}.{self._compared(judge.name)}"
            if judge.agreement is None or column not in values:
                continue
            labelled = [
                (line["row"], line[judge.agreement])
                for table in self._read(f"results/{name}", [*{"row", judge.agreement}])
                for line in table.to_pylist()
            ]
            for verdict, (row, label) in zip(values[column], labelled, strict=True):
                text = None if label is None else _as_text(label)
                self._labels[judge.name].add(row, verdict, text)

    def _compared(self, name: str) -> str | None:
        """The field of a judge that is compared with human labels, as the summary says."""
        told = self._told_of_judges.get(name)
        return told.get("compared") if isinstance(told, Mapping) else None

    def _check_labels(self) -> None:
        """The agreement with human labels, and kappa."""
        told = self._summary.get("metrics") or {}
        for name, labels in self._labels.items():
            for word, (value, n) in (("agreement", labels.by_row()), ("kappa", labels.kappa())):
                metric = told.get(f"{name}.{word}") or {}
                if not _agree(metric.get("value"), value) or metric.get("n") != n:
                    text = (
                        f"summary.json says {name}.{word} {metric.get('value')} of "
                        f"{metric.get('n')} rows; the files give {value} of {n}"
                    )
                    self._found("metric", text)
                self._check_interval(f"{name}.{word}", metric)

    # The summary

    def _check_counts(self) -> None:
        told = self._summary.get("scores") or {}
        for name, (scored, null, error_rows) in self._counts.items():
            found = told.get(name) or {}
            wanted = {"scored": scored, "null": null, "error_rows": error_rows}
            if self._sound and {key: found.get(key) for key in wanted} != wanted:
                self._found(
                    "score_counts",
                    f"summary.json counts {found.get('scored')} scored, {found.get('null')} null "
                    f"and {found.get('error_rows')} failed rows for {name}; the parts hold "
                    f"{scored}, {null} and {error_rows}",
                )

    def _check_metrics(self, database: Database) -> None:
        told = self._summary.get("metrics") or {}
        for metric in self._evaluation.metrics:
            recorded = told.get(metric.name)
            if not isinstance(recorded, Mapping):
                self._found("metric", f"summary.json has no metric {metric.name}")
                continue
            try:
                self._check_metric(database, metric.name, metric.value, metric.by, recorded)
            except BatchrunError as error:
                self._found("metric", f"metrics.{metric.name} cannot be recomputed: {error}")

    def _check_metric(
        self,
        database: Database,
        name: str,
        value: str,
        by: str | None,
        recorded: Mapping[str, Any],
    ) -> None:
        parsed = database.expression(value, name, "metric")
        own = {one.name.lower() for one in self._evaluation.scores}
        own |= {n.lower() for n, kind in self._verdicts.items() if not pa.types.is_string(kind)}
        scored = bool(parsed.columns & own)
        by_rows = parsed.mean_of is not None and (self._repeat > 1 or parsed.of_repeats is not None)

        def computed(instead: float | None) -> Mapping[str | None, Any]:
            source = self._evaluated(database, value, by, instead)
            group = "NULL" if by is None else f"CAST((\n{by}\n) AS VARCHAR)"
            if by is not None and by.lower() in [n.lower() for n in source.schema.names]:
                group = f'CAST("{by}" AS VARCHAR)'
            if by_rows:
                with database.tables(results=source):
                    return check_repeats.figures(
                        lambda sql: database.rows(sql, name),
                        parsed,
                        None if by is None else group,
                        self._repeat,
                        scored=scored,
                        failed_count=instead is not None,
                    )
            figure = f"TRY_CAST((\n{value}\n) AS DOUBLE)"
            with database.tables(results=source):
                lines = database.rows(
                    f"SELECT NULL, {figure} FROM results"
                    + (
                        f" UNION ALL SELECT 'g' || coalesce({group}, '(null)'), {figure} "
                        f"FROM results GROUP BY {group}"
                        if by is not None
                        else ""
                    ),
                    name,
                )
            return dict(lines)

        groups = recorded.get("groups") or {}
        told: dict[str | None, Mapping[str, Any]] = {None: recorded}
        told |= {f"g{key}": one for key, one in groups.items()}
        self._compare(name, "value", told, computed(None))
        for key, instead in (("as_if_errors_wrong", 0.0), ("as_if_errors_right", 1.0)):
            bounded = {group: one for group, one in told.items() if one.get(key) is not None}
            if bounded and scored and parsed.of_repeats != "majority":
                self._compare(name, key, bounded, computed(instead))
        for one in told.values():
            self._check_interval(name, one)

    def _compare(
        self,
        name: str,
        key: str,
        told: Mapping[str | None, Mapping[str, Any]],
        found: Mapping[str | None, Any],
    ) -> None:
        for group, one in told.items():
            value = found.get(group)
            if not _agree(one.get(key), value):
                of = "" if group is None else f" of {group[1:]}"
                text = f"summary.json says {name}{of}: {key} {one.get(key)}; the files give {value}"
                self._found("metric", text)

    def _check_interval(self, name: str, one: Mapping[str, Any]) -> None:
        """An interval holds its value."""
        low, high, value, n = (one.get(key) for key in ("low", "high", "value", "n"))
        if low is None or high is None or value is None or not n:
            return
        if not low - _CLOSE * abs(low) <= value <= high + _CLOSE * abs(high):
            self._found("metric", f"the interval of {name}, {low} to {high}, misses {value}")

    def _evaluated(
        self, database: Database, value: str, by: str | None, instead: float | None
    ) -> Table:
        """All rows, with the scores that SQL names; failed rows score ``instead``."""
        texts = [value] if by is None else [value, by]
        parts = part_names(self._store, "results")
        with (
            self._store.open(f"results/{parts[-1]}") as file,
            pq.ParquetFile(file, pre_buffer=False) as part,
        ):
            schema = part.schema_arrow
        columns: set[str] = {"row", "status"}
        named: set[str] = set()
        for text in texts:
            if text.lower() in [n.lower() for n in schema.names]:
                named.add(text.lower())
                continue
            kind: Any = "metric" if text == value else "group"
            named |= database.expression(text, "the expression", kind).columns
        columns |= {n for n in schema.names if n.lower() in named}
        scores = [one.name for one in self._evaluation.scores if one.name.lower() in named]
        scores += [n for n in self._verdicts if n.lower() in named]
        wanted = [n for n in schema.names if n in columns]
        texts = [n for n, kind in self._verdicts.items() if pa.types.is_string(kind)]
        fields = [schema.field(n) for n in wanted]
        fields += [pa.field(n, pa.string() if n in texts else pa.float64()) for n in scores]

        def batches() -> Iterator[pa.RecordBatch]:
            for name in parts:
                beside = None
                if scores:
                    tables = list(self._read(f"{SCORES}/{name}", scores))
                    beside = pa.concat_tables(tables)
                at = 0
                for table in self._read(f"results/{name}", wanted):
                    arrays = list(table.columns)
                    failed = pc.equal(table.column("status"), "error")
                    for score in scores:
                        assert beside is not None
                        if score in texts:
                            arrays.append(beside.column(score).slice(at, table.num_rows))
                            continue
                        numbers = _numbers(beside.column(score).slice(at, table.num_rows))
                        if instead is not None:
                            numbers = pc.if_else(failed, pa.scalar(instead), numbers)
                        arrays.append(numbers)
                    at += table.num_rows
                    yield from pa.Table.from_arrays(arrays, schema=pa.schema(fields)).to_batches()

        return Table(pa.schema(fields), batches)

    # Gates

    def _check_gates(self) -> None:
        told = self._summary.get("gates") or {}
        blocked = False
        for rule in self._evaluation.gates.levels:
            gate = told.get(rule.gate)
            if not isinstance(gate, Mapping):
                self._found("gate", f"summary.json has no verdict on the gate {rule.gate}")
                continue
            wanted = self._verdict(rule, gate)
            if wanted is not None and gate.get("verdict") != wanted:
                text = f"summary.json says that the gate {rule.gate} is {gate.get('verdict')}"
                self._found("gate", f"{text}; its figures make it {wanted}")
            blocked |= gate.get("verdict") == "fail"
        if blocked and self._summary.get("exit_code") != 4:
            self._found("gate", "a gate failed, and the exit code of summary.json is not 4")

    def _verdict(self, rule: LevelRule, gate: Mapping[str, Any]) -> str | None:
        """What a gate comes to by the figures of the summary; None where it cannot be said."""
        value = gate.get("value")
        failed = "warn" if rule.severity == "warn" else "fail"
        metric = (self._summary.get("metrics") or {}).get(rule.name)
        if metric is not None and not _agree(metric.get("value"), value):
            return f"about {metric.get('value')}, not {value}"
        judge, _, count = rule.name.removeprefix("judges.").rpartition(".")
        if rule.name.startswith("judges."):
            figure = (self._told_of_judges.get(judge) or {}).get(count)
            if not _agree(figure, value):
                return f"about {figure}, not {value}"
        if value is None:
            return "inconclusive"
        holds = _COMPARED[rule.operator]
        if metric is None or not self._error_rows:
            if metric is not None and not metric.get("n"):
                return "inconclusive"
            return "pass" if holds(value, rule.threshold) else failed
        bounds = [metric.get("as_if_errors_wrong"), metric.get("as_if_errors_right")]
        if None in bounds:
            return None
        kept = {holds(bound, rule.threshold) for bound in bounds}
        return "inconclusive" if len(kept) > 1 else "pass" if kept.pop() else failed

    def _found(self, kind: str, text: str, count: int = 1) -> None:
        self._sound = self._sound and kind in ("metric", "gate", "score_counts")
        self._report.found(kind, text, count)


def _numbers(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Scores as numbers: true is 1."""
    if pa.types.is_boolean(column.type):
        return column.cast(pa.int8()).cast(pa.float64())
    return column.cast(pa.float64())


def _digest_of(column: pa.ChunkedArray) -> str:
    """The digest of a column of verdicts; of texts, whether each is there, its length and bytes."""
    if not pa.types.is_string(column.type):
        return _digest(_numbers(column))
    digest = hashlib.sha256()
    for text in column.to_pylist():
        data = (text or "").encode()
        digest.update(f"{int(text is not None)}:{len(data)}:".encode() + data)
    return digest.hexdigest()


def _as_text(label: Any) -> str:
    """A label as SQL writes it."""
    return str(label).lower() if isinstance(label, bool) else str(label)


def _digest(numbers: pa.ChunkedArray) -> str:
    """The digest of a column: which values are there, then each as a double."""
    whole = numbers.combine_chunks()
    there = bytes(whole.is_valid().cast(pa.uint8()).to_pylist())
    values = pa.array([value or 0.0 for value in whole.to_pylist()], pa.float64())
    # Zero has a sign, which `or` would lose.
    if pc.sum(pc.equal(whole, 0.0)).as_py():
        values = pc.fill_null(whole, 0.0)
    data = memoryview(values.buffers()[1] or b"")[: len(values) * 8]
    return hashlib.sha256(there + bytes(data)).hexdigest()


def _alike(one: pa.ChunkedArray, other: pa.ChunkedArray) -> pa.ChunkedArray:
    """Where two columns have the same values, null included."""
    equal = pc.fill_null(pc.equal(one, other), False)  # noqa: FBT003 - Arrow's signature
    return pc.or_(equal, pc.and_(one.is_null(), other.is_null()))


def _agree(one: Any, other: Any) -> bool:
    """Whether two figures are the same, but for rounding."""
    if one is None or other is None or not math.isfinite(other):
        return one is None and (other is None or not math.isfinite(other))
    return math.isclose(one, other, rel_tol=_CLOSE, abs_tol=1e-12)


def _same(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-12)
