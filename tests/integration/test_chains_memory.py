"""What a chain holds in memory does not grow with its source."""

import json
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchrun.adapters.columns import schema as part_schema
from batchrun.adapters.columns.columns import RESULTS
from batchrun.core.request import prompt as prompts
from batchrun.core.settings.reading import NOW
from batchrun.core.settings.resolve import resolve
from batchrun.records import Position, Span
from batchrun.rundir.chain import inputs

CONTENT = "x" * 4000
PART_ROWS = 2000
BYTES_MAX = 24 * 2**20
"""A row group of answers, a block of rows, and what Parquet needs to read them."""


def _source(folder, parts):
    """A finished run with so many parts of answers of 4,000 characters, and no checkpoint."""
    (folder / "results").mkdir(parents=True)
    schema = part_schema.results_schema(pa.schema([pa.field("topic", pa.string())]))
    for part in range(parts):
        rows = range(part * PART_ROWS, (part + 1) * PART_ROWS)
        columns = {column.name: pa.nulls(PART_ROWS, column.type) for column in RESULTS}
        columns |= {
            "row": pa.array(rows, pa.int64()),
            "status": pa.array(["ok"] * PART_ROWS),
            "content": pa.array([f"{row} {CONTENT}" for row in rows]),
            "topic": pa.array([f"topic {row}" for row in rows]),
        }
        table = pa.table([columns[name] for name in schema.names], schema=schema)
        path = folder / "results" / f"part-{part:08d}.parquet"
        pq.write_table(table, path, row_group_size=1000)
    told = {"status": "complete", "rows": {"pending": 0}, "settings": {}}
    (folder / "summary.json").write_text(json.dumps(told))


@pytest.mark.slow
@pytest.mark.parametrize("parts", [2, 12])
def test_a_source_is_read_in_flat_memory(tmp_path, parts):
    """48,000,000 bytes of answers or 8,000,000: a block and a row group are held at once."""
    _source(tmp_path / "one", parts)
    prompt = {"request.prompt": "{{ row.content }} {{ topic }}", "output.dir": "two"}
    settings = resolve({"input.from": str(tmp_path / "one"), **prompt})
    given = inputs.find(settings, prompts.plan(settings), NOW)
    reader = given.reader(given.carry("all", 1000), 1000)
    before = pa.total_allocated_bytes()
    peak = rows = 0
    tracemalloc.start()
    try:
        for block in reader.blocks([Span(0, None, Position())], limit=None):
            rows += len(block.rows)
            peak = max(peak, pa.total_allocated_bytes() - before)
        held = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert rows == parts * PART_ROWS
    assert peak + held < BYTES_MAX, (peak, held)
