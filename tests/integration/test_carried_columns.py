"""The input's columns beside the answers: exact types from Parquet, inferred ones from JSONL."""

import datetime as dt
import decimal
import json
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROWS = 9
UTC = dt.UTC

# One column of every kind that a Parquet file can hold, each with a null.
COLUMNS = {
    "bool": pa.array([True, False, None] * 3),
    "int8": pa.array([1, None, -128] * 3, pa.int8()),
    "uint64": pa.array([2**64 - 1, None, 0] * 3, pa.uint64()),
    "float32": pa.array([0.1, None, float("nan")] * 3, pa.float32()),
    "float64": pa.array([0.1, None, float("inf")] * 3, pa.float64()),
    "decimal": pa.array([decimal.Decimal("1.230"), None, decimal.Decimal("-9.999")] * 3,
                        pa.decimal128(10, 3)),
    "decimal256": pa.array([decimal.Decimal(10) ** 50, None, None] * 3, pa.decimal256(60, 0)),
    "string": pa.array(["00005", None, "é\0"] * 3),
    "large_string": pa.array(["a", None, ""] * 3, pa.large_string()),
    "binary": pa.array([b"\xff\0", None, b""] * 3),
    "fixed_binary": pa.array([b"abcd", None, b"wxyz"] * 3, pa.binary(4)),
    "date": pa.array([dt.date(2026, 2, 28), None, dt.date(1, 1, 1)] * 3),
    "time": pa.array([dt.time(1, 2, 3, 4), None, None] * 3, pa.time64("us")),
    "timestamp_ns": pa.array([1, None, 2**60] * 3, pa.timestamp("ns")),
    "timestamp_tz": pa.array([1, None, 2] * 3, pa.timestamp("ns", tz="Asia/Tokyo")),
    "timestamp_us_utc": pa.array([1, None, 2] * 3, pa.timestamp("us", tz="UTC")),
    "duration": pa.array([1, None, 2] * 3, pa.duration("ms")),
    "dictionary": pa.array(["a", None, "b"] * 3).dictionary_encode(),
    "list": pa.array([[1, None], None, []] * 3, pa.list_(pa.int32())),
    "large_list": pa.array([["a"], None, []] * 3, pa.large_list(pa.string())),
    "fixed_list": pa.array([[1.0, 2.0], None, [3.0, None]] * 3, pa.list_(pa.float32(), 2)),
    "struct": pa.array([{"a": 1, "b": ["x"]}, None, {"a": None, "b": None}] * 3),
    "map": pa.array([[("k", 1)], None, []] * 3, pa.map_(pa.string(), pa.int64())),
    "null": pa.nulls(9),
}  # fmt: skip


@pytest.fixture
def typed(tmp_path, chat):
    """A Parquet file of chat rows with a column of every kind."""
    path = tmp_path / "typed.parquet"
    table = pa.Table.from_pylist([chat(n) for n in range(ROWS)])
    for name, column in COLUMNS.items():
        table = table.append_column(name, column)
    pq.write_table(table, path, row_group_size=4)
    return path


def _same(column, expected, field):
    """Equal in type and values; NaN and infinities are null."""
    assert column.type == field.type, field.name
    seen, wanted = column.combine_chunks(), expected.combine_chunks()
    values = [None if v in (math.inf, -math.inf) or v != v else v for v in wanted.to_pylist()]  # noqa: PLR0124 - NaN
    assert repr(seen.to_pylist()) == repr(values), field.name


def test_parquet_columns_keep_their_exact_types(cli, simulator, typed, published):
    """Every type a Parquet file gives comes back as it was, value by value."""
    done = cli.run(typed, "-o", "run", "--shard-rows", 4, "--base-url", simulator().base_url)
    assert done.code == 0, done.err
    source, table = pq.read_table(typed), published(cli.folder / "run")
    for field in source.schema:
        if field.name in COLUMNS:
            _same(table[field.name], source[field.name], field)
    assert "messages" not in table.column_names and "extra" not in table.column_names
    cli.verified("run")


def test_a_part_that_is_completed_later_keeps_the_types(cli, simulator, typed, published):
    """A provisional part and the journal are merged without touching a value of any type."""
    command = (
        *(typed, "-o", "run", "--shard-rows", 9, "--no-progress"),
        *("--base-url", simulator().base_url),
    )
    for limit in (2, 5, 99):
        done = cli.run(*command, "--limit", limit)
        assert done.code == 0, done.err
    source, table = pq.read_table(typed), published(cli.folder / "run")
    assert table["row"].to_pylist() == list(range(ROWS))
    for field in source.schema:
        if field.name in COLUMNS:
            _same(table[field.name], source[field.name], field)
    cli.verified("run")


def test_jsonl_columns_are_typed_by_their_values(cli, simulator, jsonl, chat, published):
    """The narrowest type that holds all values; nested values are JSON text."""
    notes = [
        {"i": 1, "f": 1, "b": True, "t": "x", "m": 1, "z": None, "o": {"a": [1]}, "big": 2**70},
        {"i": -5, "f": 0.5, "b": None, "t": "", "m": "x", "z": None, "o": [2], "big": 1},
        {"i": None},
    ]
    source = jsonl([chat(n) | note for n, note in enumerate(notes)])
    assert cli.run(source, "-o", "run", "--base-url", simulator().base_url).code == 0
    table = published(cli.folder / "run")
    assert {name: str(table.schema.field(name).type) for name in notes[0]} == {
        "i": "int64",
        "f": "double",
        "b": "bool",
        "t": "string",
        "m": "string",
        "z": "string",
        "o": "string",
        "big": "string",
    }
    assert table.select(list(notes[0])).to_pylist() == [
        {"i": 1, "f": 1.0, "b": True, "t": "x", "m": "1", "z": None, "o": '{"a":[1]}',
         "big": str(2**70)},
        {"i": -5, "f": 0.5, "b": None, "t": "", "m": "x", "z": None, "o": "[2]", "big": "1"},
        {"i": None, "f": None, "b": None, "t": None, "m": None, "z": None, "o": None, "big": None},
    ]  # fmt: skip


@pytest.mark.slow
def test_what_fits_no_column_is_in_extra(cli, simulator, jsonl, chat, published):
    """Values and keys that come after the sample are kept as JSON, whatever --limit says."""
    rows = [chat(0, num=n) for n in range(10_000)]
    rows += [chat(0, num="late"), chat(0, num=3, new={"a": 1}), chat(0, num=None)]
    source = jsonl(rows)
    command = (source, "-o", "run", "--no-progress", "--base-url", simulator().base_url)
    assert cli.run(*command, "--limit", 1).code == 0
    assert str(published(cli.folder / "run").schema.field("num").type) == "int64"
    done = cli.run(*command)
    assert done.code == 0, done.err
    tail = published(cli.folder / "run").select(["num", "extra"]).slice(9_999).to_pylist()
    assert [row["num"] for row in tail] == [9_999, None, 3, None]
    assert [json.loads(row["extra"] or "null") for row in tail] == [
        None,
        {"num": "late"},
        {"new": {"a": 1}},
        None,
    ]
    cli.verified("run")


def test_a_name_that_is_taken_gets_a_prefix(cli, simulator, jsonl, chat, published):
    """Result columns keep their names, also in another case; input columns make way."""
    extra = {"status": "open", "Row": 7, "input_status": 1, "extra": "x", "content": "c"}
    source = jsonl([chat(0, **extra)])
    assert cli.run(source, "-o", "run", "--base-url", simulator().base_url).code == 0
    row = published(cli.folder / "run").to_pylist()[0]
    assert (row["status"], row["row"]) == ("ok", 0)
    assert row["input_status"] == "open"
    assert row["input_Row"] == 7
    assert row["input_input_status"] == 1
    assert row["input_extra"] == "x"
    assert row["input_content"] == "c"
    assert row["extra"] is None


@pytest.mark.parametrize(
    ("carry", "columns"),
    [("none", set()), ("a", {"a"}), ("b, a", {"a", "b"}), ("all", {"a", "b", "c"})],
)
def test_carry_chooses_the_columns(cli, simulator, jsonl, published, carry, columns):
    """none, some or all of the columns go along."""
    source = jsonl(2, a=1, b=2, c=3)
    done = cli.run(source, "-o", "run", "--carry", carry, "--base-url", simulator().base_url)
    assert done.code == 0, done.err
    table = published(cli.folder / "run")
    assert {"a", "b", "c"} & set(table.column_names) == columns
    assert table["extra"].to_pylist() == [None, None]
    cli.verified("run")


def test_carry_none_of_parquet(cli, simulator, typed, published):
    """Parts without a single input column are still one row per row."""
    done = cli.run(typed, "-o", "run", "--carry", "none", "--base-url", simulator().base_url)
    assert done.code == 0, done.err
    assert published(cli.folder / "run").num_rows == ROWS
    assert not set(COLUMNS) & set(published(cli.folder / "run").column_names)
    cli.verified("run")


def test_an_unknown_column_is_named(cli, simulator, jsonl):
    """--carry with a column that is not there says which there are."""
    endpoint = simulator()
    done = cli.run(
        jsonl(2, a=1, b=2), "-o", "run", "--carry", "a,z", "--base-url", endpoint.base_url
    )
    assert done.code == 2
    assert "'z'" in done.err and "a, b" in done.err
    assert endpoint.stats()["requests_total"] == 0


def test_files_of_different_columns_are_one_table(cli, simulator, tmp_path, chat, published):
    """Columns are unified: widened where Arrow can, null where a file has none."""
    paths = []
    for name, columns in {
        "one": {"num": pa.array([1], pa.int32()), "a": pa.array(["x"])},
        "two": {"num": pa.array([2**40], pa.int64()), "b": pa.array([True])},
    }.items():
        table = pa.Table.from_pylist([chat(0)])
        for column, values in columns.items():
            table = table.append_column(column, values)
        paths.append(tmp_path / f"{name}.parquet")
        pq.write_table(table, paths[-1])
    done = cli.run(*paths, "-o", "run", "--base-url", simulator().base_url)
    assert done.code == 0, done.err
    table = published(cli.folder / "run")
    assert table.select(["num", "a", "b"]).to_pylist() == [
        {"num": 1, "a": "x", "b": None},
        {"num": 2**40, "a": None, "b": True},
    ]


def test_columns_that_do_not_unify_are_refused(cli, simulator, tmp_path, chat):
    """Exit 2 names the file and the column."""
    paths = []
    for name, values in (("one", pa.array([1])), ("two", pa.array([[1]]))):
        table = pa.Table.from_pylist([chat(0)]).append_column("num", values)
        paths.append(tmp_path / f"{name}.parquet")
        pq.write_table(table, paths[-1])
    done = cli.run(*paths, "-o", "run", "--base-url", simulator().base_url)
    assert done.code == 2
    assert "two.parquet" in done.err and "num" in done.err
