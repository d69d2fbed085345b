"""NaN and infinities in the input: null where they are carried, a bad row where they are sent."""

import json
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import batchrun

NOTES = [math.nan, math.inf, -math.inf, 1.5, None]
NESTED = [{"scores": [note, 1.0]} for note in NOTES]
PROMPT = "<{{ note }}>"


def _rows(**more):
    return [{"note": note, "q": n} | more for n, note in enumerate(NOTES)]


def _answers(published, folder):
    table = published(folder)
    assert set(table["status"].to_pylist()) == {"ok"}
    return table


@pytest.fixture
def asked(scripted, answer):
    """An endpoint, and the prompts that it was sent."""
    endpoint = scripted(lambda _body, _headers, _nth: (200, {}, answer("fine")))
    return endpoint, lambda: [
        body["messages"][0]["content"] for _, _, body in endpoint.requests if body
    ]


def _jsonl(folder, rows):
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def _parquet(folder, rows):
    path = folder / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


FORMS = {
    "JSON Lines": _jsonl,
    "Parquet": _parquet,
    "dicts": lambda _, rows: rows,
    "a generator": lambda _, rows: iter(rows),
    "an Arrow table": lambda _, rows: pa.Table.from_pylist(rows),
}


@pytest.mark.parametrize("form", FORMS)
def test_carried_they_are_null_whatever_the_form(asked, published, tmp_path, monkeypatch, form):
    """One rule: null in the column, null inside of values, nothing in a prompt; the type stays."""
    monkeypatch.chdir(tmp_path)
    endpoint, prompts = asked
    rows = [row | {"deep": deep} for row, deep in zip(_rows(), NESTED, strict=True)]
    options = {"model": "m", "prompt": PROMPT, "base_url": endpoint.base_url, "concurrency": 1}
    done = batchrun.run(FORMS[form](tmp_path, rows), output="run", **options)
    assert done.status == "complete"
    table = _answers(published, tmp_path / "run")
    assert table["note"].to_pylist() == [None, None, None, 1.5, None]
    assert table["note"].type == pa.float64()
    deep = [json.loads(v) if isinstance(v, str) else v for v in table["deep"].to_pylist()]
    assert [each["scores"] for each in deep] == [[n, 1.0] for n in (None, None, None, 1.5, None)]
    assert sorted(prompts()) == ["<1.5>", "<>", "<>", "<>", "<>"]


@pytest.mark.parametrize("form", FORMS)
def test_sent_they_make_bad_rows_whatever_the_form(asked, published, tmp_path, monkeypatch, form):
    """A parameter cannot be NaN: its row is not sent, and says which one."""
    monkeypatch.chdir(tmp_path)
    endpoint, prompts = asked
    chat = {"messages": [{"role": "user", "content": "q"}]}
    rows = [chat | {"note": note, "temperature": note} for note in NOTES]
    options = {"model": "m", "base_url": endpoint.base_url, "concurrency": 1}
    batchrun.run(FORMS[form](tmp_path, rows), output="run", **options)
    table = published(tmp_path / "run")
    assert table["error_class"].to_pylist() == [*["invalid_row"] * 3, None, None]
    assert table["note"].to_pylist() == [None, None, None, 1.5, None]
    for text in table["error_message"].to_pylist()[:3]:
        assert "temperature" in text and "JSON cannot hold" in text
    assert len(prompts()) == 2


LINES = [
    '{"messages": [{"role": "user", "content": "NaN Infinity 1e999"}], "note": NaN}',
    '{"messages": [{"role": "user", "content": "q"}], "note": 1e999, "id": 1}',
    '{"messages": [{"role": "user", "content": "q"}], "other": {"a": [-Infinity, {"b": NaN}]}}',
    '{"messages": [{"role": "user", "content": "q"}], "custom_id": NaN, "note": 2.5}',
    '{"body": {"messages": [{"role": "user", "content": "q"}]}, "note": Infinity}',
    '{"body": {"messages": [{"role": "user", "content": "q"}], "seed": NaN}}',
    '{"messages": [{"role": "user", "content": NaN}]}',
    '{"messages": [{"role": "user", "content": "q"}], "extra_body": {"top_k": 1e999}}',
    '{"messages": [{"role": "user", "content": "q"}], "note": NaN, "bad": nan}',
    '{"messages": [{"role": "user", "content": "q"}], "note": NaN, "half": "\\ud800"}',
]


def test_kinds_of_lines(cli, simulator, tmp_path, published):
    """Batch lines and chat bodies alike, nested fields too; other faults stay faults."""
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(LINES))
    done = cli.run(path, "-o", "run", "--base-url", simulator().base_url, "--shard-rows", 3)
    assert done.code == 1, done.err
    table = published(cli.folder / "run")
    assert table["status"].to_pylist() == ["ok"] * 5 + ["error"] * 5
    assert table["note"].to_pylist()[:5] == [None, None, None, 2.5, None]
    assert json.loads(table["other"].to_pylist()[2]) == {"a": [None, {"b": None}]}
    words = ["`seed` holds NaN", "`messages` holds NaN", "`top_k` holds NaN", "not valid JSON", ""]
    for text, word in zip(table["error_message"].to_pylist()[5:], words, strict=True):
        assert word in text
    cli.verified("run")
    assert cli("verify", "run", "--against", path).code == 0
    looked = cli("validate", path, "--model", "m", "--json").json
    assert [problem["row"] for problem in looked["problems"]] == [5, 6, 7, 8, 9]


def test_what_fits_no_column_has_null_too(tmp_path, monkeypatch):
    """``extra`` is JSON that every reader takes."""
    from batchrun.core.request import carried

    monkeypatch.setattr(carried, "SAMPLE_ROWS", 1)
    from batchrun.adapters.columns import schema as part_schema
    from batchrun.adapters.sources import opening
    from batchrun.records import Position, Span

    path = tmp_path / "rows.jsonl"
    path.write_text(f'{LINES[0]}\n{LINES[0][:-1]}, "late": [NaN, 1e999, 1]}}\n')
    given = opening.find([str(path)], "auto")
    reader = given.reader(given.carry("all", 10), 10)
    (block,) = reader.blocks([Span(0, None, Position())], limit=None)
    extra = part_schema.from_ipc(block.carried).column("extra").to_pylist()
    assert extra[0] is None and json.loads(extra[1]) == {"late": [None, None, 1]}


@pytest.mark.parametrize("cell", ["NaN", "nan", "-Infinity", "inf"])
def test_a_number_of_csv_that_is_none(cli, tmp_path, cell):
    """In CSV everything is text: carried as it stands, and refused where a number is sent."""
    path = tmp_path / "rows.csv"
    chat = '"[{""role"": ""user"", ""content"": ""q""}]"'
    path.write_text(f"messages,temperature,note\n{chat},{cell},{cell}\n{chat},,{cell}\n")
    found = cli("validate", path, "--model", "m", "--json").json
    assert found["bad"] == 1 and "temperature" in found["problems"][0]["reason"]


def test_every_type_with_floats():
    """Whatever holds the float in Arrow, it is null there, the rest stays, and so does the type."""
    from batchrun.adapters.sources.arrow_nan import finite

    nan = math.nan
    columns = [
        pa.array([nan, 1.5, None], pa.float32()),
        pa.array([nan, 1.5, None]).cast(pa.float16()),
        pa.array([nan, 1.5, None]).dictionary_encode(),
        pa.array([[nan, 1.0], None, []]),
        pa.array([[nan, 1.0], None, []], pa.large_list(pa.float64())),
        pa.array([[nan, 1.0], None, [2.0, nan]], pa.list_(pa.float64(), 2)),
        pa.array([{"a": nan, "b": 1}, None, {"a": None, "b": 2}]),
        pa.array([[{"a": [nan]}], None, [{"a": None}]]),
        pa.array([[("k", nan)], None, []], pa.map_(pa.string(), pa.float64())),
    ]
    for column in columns:
        for piece in (column, column.slice(1), column.slice(0, 1), column.slice(0, 0)):
            found = finite(piece)
            found.validate(full=True)
            assert found.type == column.type
            assert repr(found.to_pylist()) == repr(piece.to_pylist()).replace("nan", "None")
    whole = pa.array([1.0, None])
    assert finite(whole) is whole
    required = pa.array([{"a": nan}], pa.struct([pa.field("a", pa.float64(), nullable=False)]))
    assert finite(required) is required


def test_an_older_directory_keeps_its_rules(tmp_path):
    """By the first rules such a line is a bad row, and in Arrow data NaN is a value."""
    from batchrun.adapters.sources import opening
    from batchrun.core.settings.reading import Reading
    from batchrun.records import Position, Span

    for form, bad in ((_jsonl, True), (_parquet, False)):
        name = form(tmp_path, _rows(messages=[{"role": "user", "content": "q"}]))
        given = opening.find([name], "auto", None, Reading(rules=1))
        reader = given.reader(given.carry("all", 10), 10)
        (block,) = reader.blocks([Span(0, None, Position())], limit=None)
        assert [row.problem is not None for row in block.rows] == [bad] * 3 + [False] * 2
