"""Run directories as a finished run leaves them, written from rows that a test chooses.

Parts have the real schema, row groups included, and the summary the keys that others read. There is
no checkpoint: nothing goes on here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchrun.adapters.columns import schema as part_schema
from batchrun.adapters.storage.store import part_name

GROUP_ROWS = 1024


def write_run(
    folder: Path,
    rows: Iterable[Mapping[str, Any]],
    carried: Sequence[tuple[str, pa.DataType]] = (),
    *,
    settings: Mapping[str, Any] | None = None,
    shard_rows: int = 10_000,
    status: str | None = None,
    **summary: Any,
) -> Path:
    """Write a run directory of these rows; returns it. A row has columns of the results by name,
    ``row`` counted from 0 and ``status`` ``ok`` unless given.
    """
    schema = part_schema.results_schema(pa.schema([pa.field(n, t) for n, t in carried]))
    extra = [(name, kind) for name, kind in (("repeat_of", pa.int64()), ("repeat", pa.int32()))]
    (folder / "results").mkdir(parents=True)
    counts = {"ok": 0, "error": 0}
    numbered = _numbered(rows, counts)
    shard = 0
    while block := list(islice(numbered, shard_rows)):
        if "repeat" in block[0]:
            for name, kind in extra:
                if name not in schema.names:
                    schema = schema.append(pa.field(name, kind))
        table = pa.Table.from_pylist(block, schema=schema)
        path = folder / "results" / part_name(shard)
        pq.write_table(table, path, row_group_size=GROUP_ROWS, compression="zstd")
        shard += 1
    finished = "complete_with_errors" if counts["error"] else "complete"
    found = {
        "status": status or finished,
        "exit_code": 1 if counts["error"] else 0,
        "rows": {"input": sum(counts.values()), **counts, "pending": 0},
        "totals": {"attempts": sum(counts.values()), "cost_usd": None},
        "settings": dict(settings or {}),
        **summary,
    }
    (folder / "summary.json").write_text(json.dumps(found))
    return folder


def _numbered(
    rows: Iterable[Mapping[str, Any]], counts: dict[str, int]
) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(rows):
        found = {"row": number, "status": "ok", "attempts": 1, "request_hash": "h", **row}
        if found["status"] == "error":
            found["content"] = None
        counts[found["status"]] += 1
        yield found
