"""How a part's columns are written."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchrun.adapters.columns import schema as part_schema
from batchrun.adapters.parts.part_writer import PIECE_ROWS
from batchrun.adapters.parts.row_groups import GROUP_ROWS, Groups

CARRIED = pa.schema([("note", pa.string()), ("tags", pa.list_(pa.struct([("a.b", pa.int64())])))])
ROWS = GROUP_ROWS + 1


@pytest.fixture
def written(tmp_path):
    """The metadata of a part of results, by column; and its number of row groups."""
    schema = part_schema.results_schema(CARRIED)
    with (tmp_path / "part").open("wb") as draft, Groups(draft, schema) as groups:
        for start in range(0, ROWS, PIECE_ROWS):
            rows = min(PIECE_ROWS, ROWS - start)
            groups.add(pa.table([pa.nulls(rows, kind) for kind in schema.types], schema=schema), 1)
        groups.end()
    found = pq.ParquetFile(tmp_path / "part").metadata
    group = found.row_group(0)
    columns = [group.column(number) for number in range(group.num_columns)]
    return {column.path_in_schema: column for column in columns}, found.num_row_groups


def test_only_columns_of_a_few_short_values_are_not_compressed(written):
    """Whatever may be long, or has many values, is: texts, nested and carried columns, counts."""
    plain = {path for path, column in written[0].items() if column.compression == "UNCOMPRESSED"}
    assert {"status", "model", "endpoint", "http_status", "finish_reason"} <= plain
    assert plain <= set(part_schema.dictionary_columns(part_schema.results_schema(CARRIED)))
    squeezed = {path for path, column in written[0].items() if column.compression == "ZSTD"}
    assert squeezed == set(written[0]) - plain
    assert {"content", "response", "error_message", "completion_tokens", "note"} <= squeezed
    assert {"tool_calls.list.element.arguments", "tags.list.element.a.b"} <= squeezed


def test_small_rows_share_large_groups(written):
    """A group ends at its bound of rows, where its bytes are few."""
    assert written[1] == 2
