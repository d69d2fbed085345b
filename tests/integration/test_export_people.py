"""``batchrun export`` for people: whose columns come first, fields of answers, Excel, live runs."""

import csv
import io
import json
import signal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

SCHEMA = {
    "type": "object",
    "properties": {
        "mood": {"type": "string"},
        "score": {"type": ["integer", "null"]},
        "share": {"anyOf": [{"type": "number"}, {"type": "null"}]},
        "sure": {"$ref": "#/$defs/flag"},
        "tags": {"type": "array"},
    },
    "$defs": {"flag": {"type": "boolean"}},
}
ANSWERS = [
    {"mood": "good; =1+1", "score": 3, "share": 0.5, "sure": True, "tags": ["a", "ü"]},
    {"mood": "bad", "score": None, "share": 1, "sure": False, "tags": [], "more": 1},
    {"mood": 7, "score": 2.0, "share": None, "sure": "no"},
]


@pytest.fixture
def run(here, scripted, answer, jsonl, cli):
    """A run of five rows with a schema: three JSON objects, one fenced, one that is not JSON."""

    def reply(body, _headers, _nth):
        number = int(body["messages"][0]["content"].split()[1])
        if number == 4:
            return 200, {}, answer("no idea")
        text = json.dumps(ANSWERS[number % 3], ensure_ascii=False)
        return 200, {}, answer(f"```json\n{text}\n```" if number == 3 else text)

    rows = [
        {
            "messages": [{"role": "user", "content": f"ask {n}"}],
            "question": f"q{n}",
            "Lang": "de",
            "custom_id": f"c{n}",
        }
        for n in range(5)
    ]
    (cli.folder / "schema.json").write_text(json.dumps(SCHEMA))
    endpoint = scripted(reply)

    def go(*flags):
        done = here(
            *(jsonl(rows), "-o", "run", "--base-url", endpoint.base_url, "--no-progress"),
            *("--no-check-schema", "--shard-rows", "2", *flags),
        )
        assert done.code == 0, done.err

    return go


def _csv(cli, *flags, encoding="utf-8", delimiter=","):
    done = cli("export", "run", "-o", "out.csv", "--force", *flags)
    assert done.code == 0, done.err
    text = (cli.folder / "out.csv").read_bytes().decode(encoding)
    return list(csv.reader(io.StringIO(text), delimiter=delimiter))


def test_csv_begins_with_the_columns_of_the_input(run, cli):
    """Then comes the answer, then everything else; Parquet has the order of the results."""
    run()
    head, *rows = _csv(cli)
    assert head[:4] == ["question", "Lang", "extra", "content"] or head[:3] == [
        *("question", "Lang", "content"),
    ]
    assert [row[0] for row in rows] == [f"q{n}" for n in range(5)]
    assert sorted(head) == sorted(
        pq.read_schema(next((cli.folder / "run/results").iterdir())).names
    )
    assert cli("export", "run", "-o", "out.parquet").code == 0
    assert pq.read_schema(cli.folder / "out.parquet").names[:2] == ["row", "custom_id"]


def test_columns_come_in_the_order_asked_for(run, cli):
    """For CSV and Parquet alike, fields of answers among them."""
    run("--schema", "schema.json")
    names = ["content", "answer.mood", "question", "row"]
    assert _csv(cli, "--expand", "--columns", ",".join(names))[0] == names
    flags = ("--expand", "--columns", ",".join(names))
    assert cli("export", "run", "-o", "out.parquet", *flags).code == 0
    assert pq.read_table(cli.folder / "out.parquet").column_names == names


def test_fields_of_answers_become_columns(run, cli):
    """Typed as the schema says; null where an answer has no such field, or none of that type."""
    run("--schema", "schema.json")
    assert cli("export", "run", "-o", "out.parquet", "--expand").code == 0
    table = pq.read_table(cli.folder / "out.parquet")
    found = {
        name.removeprefix("answer."): table[name].to_pylist()
        for name in table.column_names
        if name.startswith("answer.")
    }
    assert found == {
        "mood": ["good; =1+1", "bad", "7", "good; =1+1", None],
        "score": [3, None, 2, 3, None],
        "share": [0.5, 1.0, None, 0.5, None],
        "sure": [True, False, None, True, None],
        "tags": ['["a", "ü"]', "[]", None, '["a", "ü"]', None],
    }
    assert table.schema.field("answer.score").type == pa.int64()
    head, first, *_ = _csv(cli, "--expand")
    place = head.index("content")
    assert head[place + 1 : place + 6] == [f"answer.{name}" for name in SCHEMA["properties"]]
    assert first[place + 1] == "good; =1+1"


def test_a_schema_among_the_parameters_counts_too(run, cli):
    """response_format of --param is the run's schema as well."""
    given = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    run("--param", f"response_format={json.dumps(given)}")
    assert "answer.mood" in _csv(cli, "--expand")[0]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("-o", "out.csv", "--expand"), "the run has none"),
        (("-o", "out.jsonl", "--expand"), "a Batch line has none"),
        (("-o", "out.parquet", "--excel"), "--excel is for a .csv file"),
        (("-o", "out.csv", "--columns", "questoin"), "did you mean question?"),
    ],
)
def test_what_cannot_be_exported_is_said(run, cli, flags, words):
    """Exit 2, and no file."""
    run()
    done = cli("export", "run", *flags)
    assert done.code == 2 and words in done.err
    assert not (cli.folder / flags[1]).exists()


def test_excel_opens_it(run, cli):
    """A byte order mark, semicolons, quotes around what holds one, no formula."""
    run("--schema", "schema.json")
    data = _csv(cli, "--excel", "--expand", encoding="utf-8-sig", delimiter=";")
    assert (cli.folder / "out.csv").read_bytes()[:3] == b"\xef\xbb\xbf"
    assert data[0][0] == "question" and len(data) == 6
    assert data[1][data[0].index("answer.mood")] == "good; =1+1"
    assert data[1][data[0].index("answer.tags")] == '["a", "ü"]'


def test_a_live_run_is_exported_as_far_as_it_is_durable(cli, simulator, jsonl, chat, until):
    """--partial has the rows of logs and parts in order, each once, with their input; without it
    only what is published is there.
    """
    from batchrun.simulator.latency import FixedLatency

    endpoint = simulator(latency=FixedLatency(0.05))
    live = cli.start(
        *("run", jsonl([chat(n, note=f"n{n}") for n in range(300)]), "-o", "run", "--model", "m"),
        *("--base-url", endpoint.base_url, "--shard-rows", "8", "--concurrency", "3"),
        "--no-progress",
    )
    until(lambda: endpoint.stats()["by_status"].get("200", 0) >= 30)
    live.suspend()
    try:
        done = cli("export", "run", "-o", "part.parquet", "--partial", "--json")
        plain = cli("export", "run", "-o", "plain.parquet", "--json")
        lines = cli("export", "run", "-o", "part.jsonl", "--partial")
    finally:
        live.signal(signal.SIGCONT)
        live.signal(signal.SIGINT)
        live.wait()
    assert (done.code, plain.code, lines.code) == (0, 0, 0), done.err
    table = pq.read_table(cli.folder / "part.parquet")
    rows = table["row"].to_pylist()
    assert rows == sorted(set(rows)) and len(rows) == done.json["rows"] > plain.json["rows"]
    assert table["note"].to_pylist() == [f"n{row}" for row in rows]
    assert table.schema.equals(pq.read_schema(cli.folder / "plain.parquet"))
    ids = [json.loads(line)["id"] for line in (cli.folder / "part.jsonl").read_text().splitlines()]
    assert ids == [f"batch_req_{row}" for row in rows]


def test_partial_on_an_ended_run_is_everything(run, cli):
    """Without a log the two exports are the same."""
    run()
    assert _csv(cli, "--partial") == _csv(cli)


def test_partial_says_where_nothing_is_durable(cli):
    """Exit 2, without a file."""
    (cli.folder / "run" / "checkpoint").mkdir(parents=True)
    (cli.folder / "run" / "checkpoint" / "status.json").write_text("{}")
    done = cli("export", "run", "-o", "out.csv", "--partial")
    assert done.code == 2 and not (cli.folder / "out.csv").exists()
