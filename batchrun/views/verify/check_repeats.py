"""Runs with ``--repeat``: the columns that tell repeats apart, and what metrics make of them.

Everything is computed here once more, and otherwise than by the writers: the share of samples from
binomial coefficients, the vote from counts of values.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batchrun.adapters.scoring.parser import Parsed
from batchrun.adapters.storage.store import StoreReader
from batchrun.core.text.wording import counted
from batchrun.rundir.state_reader import Recorded
from batchrun.views.verify.findings import Report

_COLUMNS = {"row": pa.int64(), "repeat_of": pa.int64(), "repeat": pa.int32()}
_BATCH_ROWS = 8192

_Rows = Callable[[str], list[tuple[Any, ...]]]
Groups = dict[str | None, float | None]
"""A figure of all rows (None), and of each group (its name behind a ``g``)."""


def repeats_recorded(summary: Mapping[str, Any] | None, known: Recorded | None) -> int:
    """How often the run sends each row of its input; 1 where it records nothing of that."""
    told = (summary or {}).get("settings")
    for settings in (known.settings if known else {}, told):
        if isinstance(settings, Mapping):
            found = settings.get("request.repeat")
            if isinstance(found, int) and found > 1:
                return found
    return 1


def check_repeats(
    store: StoreReader,
    names: Collection[str],
    repeat: int,
    rows_whole: int | None,
    report: Report,
) -> None:
    """Every row says which row of the input it answers, and the how many-th answer it is; of a
    whole run (``rows_whole`` rows) every row of the input has all of its repeats.
    """
    if rows_whole is not None and rows_whole % repeat:
        row = rows_whole // repeat
        text = f"row {row} of the input has {rows_whole % repeat} of its {repeat} repeats"
        report.found("repeat", text)
    for name in sorted(names):
        where = f"results/{name}"
        try:
            with store.open(where) as file, pq.ParquetFile(file, pre_buffer=False) as part:
                schema = part.schema_arrow
                if any(
                    column not in schema.names or schema.field(column).type != kind
                    for column, kind in _COLUMNS.items()
                ):
                    report.found("repeat", f"{where} lacks the columns of a run with repeats")
                    continue
                for batch in part.iter_batches(_BATCH_ROWS, columns=list(_COLUMNS)):
                    _check_batch(batch, repeat, report)
        except (OSError, pa.ArrowException):
            continue  # a part that cannot be read is reported elsewhere


def _check_batch(batch: pa.RecordBatch, repeat: int, report: Report) -> None:
    rows, of, number = (batch.column(name) for name in _COLUMNS)
    number = number.cast(pa.int64())
    made = pc.add(pc.multiply(of, repeat), number)
    inside = pc.and_(pc.greater_equal(number, 0), pc.less(number, repeat))
    right = pc.fill_null(pc.and_(pc.equal(made, rows), inside), fill_value=False)
    report.where(
        "repeat",
        pc.invert(right),
        lambda place: (
            f"row {rows[place]} says that it is repeat {number[place]} of row {of[place]}; of "
            f"{counted(repeat, 'repeat')} it is {rows[place].as_py() % repeat} of "
            f"{rows[place].as_py() // repeat}"
        ),
    )


def figures(
    rows: _Rows,
    parsed: Parsed,
    group: str | None,
    repeat: int,
    *,
    scored: bool,
    failed_count: bool,
) -> Groups:
    """A metric that is a mean over rows of the input, recomputed. ``rows`` runs SQL over the table
    ``results``, ``group`` is the SQL of the group. ``scored`` says that the metric reads scores,
    which hold what failed answers count as; ``failed_count``, that these count whatever a filter
    makes of them.
    """
    failed = "status = 'error'"
    value = f"CAST(({parsed.mean_of}) AS DOUBLE)"
    if parsed.of_repeats == "majority":
        value = ""
    elif parsed.of_repeats is not None and not scored:
        value = f"CASE WHEN {failed} THEN 0 ELSE {value} END"
    only = ""
    if parsed.mean_filter is not None:
        unknown = failed if failed_count else "FALSE"
        only = f" WHERE coalesce(({parsed.mean_filter}), {unknown})"
    group = "NULL" if group is None else f"'g' || coalesce({group}, '(null)')"
    found: Groups = {}
    for name in ["NULL"] if group == "NULL" else ["NULL", group]:
        keys = f"{name} AS g, row // {repeat} AS u"
        values: dict[str | None, list[tuple[float, int]]] = defaultdict(list)
        for key, figure, count in _VALUES[parsed.of_repeats](rows, parsed, value, keys, only):
            values[key].append((figure, count))
        for key, each in values.items():
            total = sum(count for _, count in each)
            found[key] = math.fsum(value * count for value, count in each) / total
    return found


_Valued = list[tuple[str | None, float, int]]
"""By group: a value, and of how many rows it is."""


def _means(rows: _Rows, _: Parsed, value: str, keys: str, only: str) -> _Valued:
    inner = f"SELECT {keys}, avg({value}) AS x FROM results{only}"
    return rows(
        f"SELECT g, avg(x), count(x) FROM ({inner} GROUP BY ALL) GROUP BY g HAVING count(x) > 0"
    )


def _samples(rows: _Rows, parsed: Parsed, value: str, keys: str, only: str) -> _Valued:
    """1 - C(n - c, k) / C(n, k), or C(c, k) / C(n, k), for n answers of which c pass."""
    inner = (
        f"SELECT {keys}, count({value}) AS n, count(*) FILTER ({value} = 1) AS c FROM results{only}"
    )
    lines = rows(f"SELECT g, n, c, count(*) FROM ({inner} GROUP BY ALL) GROUP BY ALL")
    k = int(parsed.other)
    found: _Valued = []
    for key, n, c, count in lines:
        if n >= k:
            drawn = math.comb(n, k)
            every = math.comb(c, k) / drawn
            share = every if parsed.of_repeats == "pass_all" else 1 - math.comb(n - c, k) / drawn
            found.append((key, share, count))
    return found


def _votes(rows: _Rows, parsed: Parsed, _: str, keys: str, only: str) -> _Valued:
    """The share of the values with the most votes that are the expected one: 0 or 1, but in a
    tie.
    """
    votes = (
        f"SELECT {keys}, CASE WHEN status <> 'error' THEN __vote({parsed.mean_of}, "
        f"{parsed.other}) END AS v, __vote({parsed.other}, {parsed.mean_of}) AS e FROM results"
        f"{only}"
    )
    each = f"SELECT g, u, v, count(v) AS n FROM ({votes}) GROUP BY ALL"
    expected = f"SELECT g, u, max(e) AS e FROM ({votes}) GROUP BY ALL HAVING max(e) IS NOT NULL"
    tied = (
        f"SELECT a.g, a.u, b.e, a.v FROM ({each}) AS a JOIN ({expected}) AS b ON "
        "a.g IS NOT DISTINCT FROM b.g AND a.u = b.u "
        "QUALIFY a.n = max(a.n) OVER (PARTITION BY a.g, a.u)"
    )
    share = "count(*) FILTER (v = e) / count(*)"
    lines = rows(
        f"SELECT g, x, count(*) FROM (SELECT g, u, {share} AS x FROM ({tied}) GROUP BY g, u) "
        "GROUP BY ALL"
    )
    return [(key, float(x), count) for key, x, count in lines]


_VALUES: Mapping[str | None, Callable[..., _Valued]] = {
    None: _means,
    "pass_at": _samples,
    "pass_all": _samples,
    "majority": _votes,
}
