"""The results as other programs read them: one table, one schema, inputs beside answers."""

import json

import duckdb
import pandas as pd
import polars as pl
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

READERS = {
    "pandas": pd.read_parquet,
    "polars": lambda folder: pl.read_parquet(folder / "*.parquet"),
    "polars, the folder": pl.read_parquet,
    "duckdb": lambda folder: (
        duckdb.read_parquet(f"{folder}/*.parquet").order("row").arrow().read_all()
    ),
    "pyarrow": pq.read_table,
    "pyarrow dataset": lambda folder: ds.dataset(folder).to_table().sort_by("row"),
}  # fmt: skip


def _column(table, name):
    column = table[name]
    for method in ("to_pylist", "to_list", "tolist"):
        if hasattr(column, method):
            return getattr(column, method)()
    raise AssertionError(type(column))


@pytest.fixture
def expected(samples):
    """The expected answers of the evaluation sample, in its order."""
    return pq.read_table(samples / "nightly_eval.parquet")["expected"].to_pylist()


@pytest.mark.parametrize("stopped", [False, True], ids=["whole", "interrupted"])
def test_the_results_are_one_table(
    cli, simulator, samples, interrupted, published, expected, stopped
):
    """Every reader sees the answers beside the expected ones, after an interruption too."""
    source = samples / "nightly_eval.parquet"
    if stopped:
        folder, _, _ = interrupted(source=source, done=12, shard_rows=7)
    else:
        folder = cli.folder / "run"
        done = cli.run(source, "-o", folder, "--shard-rows", 7, "--base-url", simulator().base_url)
        assert done.code == 0, done.err
    assert len(list((folder / "results").iterdir())) > 1
    truth = published(folder)
    rows = truth["row"].to_pylist()
    assert rows == sorted(set(rows))
    assert (len(rows) < 40) is stopped
    assert truth["expected"].to_pylist() == [expected[row] for row in rows]
    for name, read in READERS.items():
        table = read(folder / "results")
        assert _column(table, "row") == rows, name
        assert _column(table, "expected") == truth["expected"].to_pylist(), name
        assert _column(table, "content") == truth["content"].to_pylist(), name
        assert set(_column(table, "difficulty")) <= {1, 2, 3}, name


def test_every_part_has_the_same_schema(cli, scripted, answer, jsonl, chat):
    """Whatever the rows of a part held, nothing but errors or nothing but nulls: one schema."""

    def reply(body, *_):
        number = int(body["messages"][0]["content"].split()[1])
        if number < 3:
            return 400, {}, {"error": {"message": "no"}}
        return 200, {}, answer() if number < 6 else answer(None, usage=None, model="x")

    rows = [chat(n, note=None if n < 6 else "late") for n in range(9)]
    done = cli.run(
        jsonl(rows), "-o", "run", "--shard-rows", 3, "--base-url", scripted(reply).base_url
    )
    assert done.code == 1, done.err
    for kind in ("results", "attempts"):
        parts = sorted((cli.folder / "run" / kind).iterdir())
        schemas = [pq.read_schema(part) for part in parts]
        assert len(schemas) == 3
        assert all(schema.equals(schemas[0], check_metadata=True) for schema in schemas)


def test_tool_calls_and_choices_are_nested_columns(cli, scripted, jsonl, published):
    """Tool calls are a list of structs; several choices are kept whole, by index."""
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    choices = [
        {"index": 1, "message": {"content": "b"}, "finish_reason": "stop"},
        {
            "index": 0,
            "message": {"content": "a", "tool_calls": [call]},
            "logprobs": {"content": []},
        },
    ]
    endpoint = scripted(lambda *_: (200, {}, {"choices": choices}))
    assert cli.run(jsonl(1), "-o", "run", "--base-url", endpoint.base_url).code == 0
    row = published(cli.folder / "run").to_pylist()[0]
    assert row["content"] == "a"
    assert row["tool_calls"] == [
        {"id": "1", "type": "function", "name": "f", "arguments": '{"a": 1}'}
    ]
    assert [choice["index"] for choice in row["choices"]] == [0, 1]
    assert json.loads(row["choices"][0]["logprobs"]) == {"content": []}
    table = duckdb.read_parquet(f"{cli.folder}/run/results/*.parquet")
    seen = table.project("tool_calls[1].name, len(choices)").fetchall()
    assert seen == [("f", 2)]


def test_the_usage_table_sums_by_model(cli, scripted, answer, jsonl):
    """usage.parquet has one row per endpoint, model and tier."""

    def reply(body, *_):
        number = int(body["messages"][0]["content"].split()[1])
        return 200, {}, answer(model=f"m-{number % 2}", service_tier="flex")

    endpoint = scripted(reply)
    assert cli.run(jsonl(5), "-o", "run", "--base-url", endpoint.base_url).code == 0
    rows = pq.read_table(cli.folder / "run" / "usage.parquet").to_pylist()
    seen = [(r["model"], r["service_tier"], r["rows_ok"], r["total_tokens"]) for r in rows]
    assert seen == [("m-0", "flex", 3, 6), ("m-1", "flex", 2, 4)]
    cli.verified("run")
