"""Prompts by template through the real command: what a server gets, what stays, what is refused."""

import base64
import datetime as dt
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

QUICK = ("--no-progress",)
GIF = b"GIF89a\x01\x00\x01\x00\x00\x00\x00;"
NS = 1_706_702_405_123_456_789


@pytest.fixture
def heard(scripted, answer):
    """An endpoint that answers everything, and its address as flags."""
    endpoint = scripted(lambda *_: (200, {}, answer()))
    return endpoint, (*QUICK, "--base-url", endpoint.base_url, "--concurrency", 1)


def _bodies(endpoint):
    return [body for _, _, body in endpoint.requests]


def _contents(endpoint):
    return [body["messages"][-1]["content"] for body in _bodies(endpoint)]


def _dicts(table, *names):
    return table.select(names).to_pylist()


def test_a_prompt_over_json_rows(cli, heard, jsonl, published):
    """Each row's text goes into its messages as it is; the whole row is carried, messages too."""
    endpoint, flags = heard
    rows = [
        {"custom_id": "a", "text": "{{ 7 * 7 }} “中文”", "note": None, "temperature": 0.5},
        {"text": "{% raw %}", "tags": ["x"]},
        {"messages": [{"role": "user", "content": "own"}], "text": "t"},
    ]
    templates = ("--system", "S {{ custom_id }}", "--prompt", "<{{ text }}{{ note }}>")
    params = ("--param", 'max_tokens="{{ 5 if custom_id else 7 }}"', "--param", "temperature=1")
    sending = ("--send", "temperature")
    done = cli.run(jsonl(rows), "-o", "run", *flags, *templates, *params, *sending)
    assert done.code == 0, done.err
    assert [body["messages"] for body in _bodies(endpoint)] == [
        [{"role": "system", "content": "S a"}, {"role": "user", "content": "<{{ 7 * 7 }} “中文”>"}],
        [{"role": "system", "content": "S "}, {"role": "user", "content": "<{% raw %}>"}],
        [{"role": "system", "content": "S "}, {"role": "user", "content": "<t>"}],
    ]
    assert [(b["max_tokens"], b["temperature"]) for b in _bodies(endpoint)] == [
        (5, 0.5),
        (7, 1),
        (7, 1),
    ]
    table = published(cli.folder / "run")
    assert table["text"].to_pylist() == [row["text"] for row in rows]
    assert table["tags"].to_pylist() == [None, '["x"]', None]
    assert table["temperature"].to_pylist() == [0.5, None, None]
    assert table["messages"].to_pylist()[2] == '[{"role":"user","content":"own"}]'
    cli.verified("run")


@pytest.mark.parametrize("carry", ["all", "none", "n"])
def test_a_prompt_over_parquet_types(cli, heard, published, tmp_path, carry):
    """Columns read as text would have them, carried or not, and keep their type."""
    endpoint, flags = heard
    schema = pa.schema(
        [
            ("n", pa.int16()),
            ("price", pa.decimal128(8, 2)),
            ("day", pa.date32()),
            ("at", pa.timestamp("ns", "UTC")),
            ("f", pa.float32()),
            ("meta", pa.struct([("tags", pa.list_(pa.string())), ("raw", pa.binary())])),
            ("model", pa.string()),
            ("raw", pa.binary()),
        ]
    )
    row = {
        "n": 7,
        "price": Decimal("39.90"),
        "day": dt.date(2024, 1, 31),
        "at": pa.scalar(NS, pa.timestamp("ns", "UTC")),
        "f": 4.1,
        "meta": {"tags": ["a", None], "raw": b"\x00"},
        "model": "K-1",
        "raw": b"\xff",
    }
    table = pa.Table.from_arrays(
        [pa.array([row[f.name], None], f.type) for f in schema], schema=schema
    )
    pq.write_table(table, tmp_path / "in.parquet")
    prompt = "{{ n }}|{{ price }}|{{ day }}|{{ at }}|{{ f }}|{{ meta.tags }}|{{ model }}."
    done = cli.run(
        tmp_path / "in.parquet", "-o", "run", *flags, "--prompt", prompt, "--carry", carry
    )
    assert done.code == 0, done.err
    assert _contents(endpoint) == [
        '7|39.90|2024-01-31|2024-01-31T12:00:05.123456789Z|4.1|["a",null]|K-1.',
        "||||||.",
    ]
    assert [body["model"] for body in _bodies(endpoint)] == ["m", "m"]
    found = published(cli.folder / "run")
    if carry == "all":
        assert found.schema.field("price").type == pa.decimal128(8, 2)
        assert found["input_model"].to_pylist() == ["K-1", None]
    assert ("n" in found.column_names) is (carry != "none")
    assert ("price" in found.column_names) is (carry == "all")
    assert cli.run(
        tmp_path / "in.parquet", "-o", "run", *flags, "--prompt", prompt, "--carry", carry
    ).err.startswith("nothing left to send")


def test_rows_that_cannot_be_rendered_are_bad_rows(cli, heard, jsonl, published, tmp_path):
    """Each says where it stands and why; the others are sent."""
    endpoint, flags = heard
    source = jsonl([{"n": 1}, {"n": "one"}, {"n": None}])
    done = cli.run(source, "-o", "run", *flags, "--prompt", "{{ n + 1 }}")
    assert done.code == 1
    assert _contents(endpoint) == ["2"]
    rows = _dicts(published(cli.folder / "run"), "status", "error_class", "error_message", "n")
    assert [row["status"] for row in rows] == ["ok", "error", "error"]
    assert rows[1]["error_class"] == "invalid_row" and rows[1]["n"] == "one"
    for word in ("rows.jsonl line 2", "request.prompt, line 1", "string and number"):
        assert word in rows[1]["error_message"]

    pq.write_table(pa.table({"raw": [b"1", None]}), tmp_path / "raw.parquet")
    done = cli.run(tmp_path / "raw.parquet", "-o", "raw", *flags, "--prompt", "x{{ raw }}")
    rows = _dicts(published(cli.folder / "raw"), "error_message", "raw")
    assert "column 'raw' holds bytes" in rows[0]["error_message"] and rows[0]["raw"] == b"1"
    assert rows[1]["error_message"] is None


@pytest.mark.parametrize(
    ("kind", "flags", "words"),
    [
        ("jsonl", ("--prompt", "{{ reveiw }}"), ["request.prompt", "did you mean review?", "meta"]),
        ("parquet", ("--prompt", "{{ reveiw }}"), ["request.prompt", "did you mean review?"]),
        ("jsonl", ("--prompt", "{{ meta.titel }}"), ["meta.titel", "did you mean title?"]),
        ("parquet", ("--prompt", "{{ meta.titel }}"), ["meta.titel", "did you mean title?"]),
        ("jsonl", ("--prompt", "a", "--system", "{{ x }}"), ["request.system", "'x'"]),
        ("jsonl", ("--param", 'seed="{{ nn }}"'), ["request.params.seed", "'nn'"]),
        ("parquet", ("--model", "{{ nn }}"), ["request.model", "'nn'"]),
        ("jsonl", ("--prompt", "a\n{% if %}"), ["request.prompt, line 2", "unexpected"]),
        ("parquet", ("--prompt", "{{ review | uper }}"), ["request.prompt", "uper"]),
        ("jsonl", ("--prompt", "a", "--image", "foto"), ["request.image", "'foto'"]),
        ("jsonl", ("--system", "a"), ["--prompt"]),
    ],
)
def test_a_wrong_template_is_said_at_the_start(cli, heard, jsonl, tmp_path, kind, flags, words):
    """Exit 2 before anything is sent or made, for both kinds of input."""
    endpoint, quick = heard
    rows = [{"review": "a", "meta": {"title": "b"}}]
    source = tmp_path / "in.parquet"
    pq.write_table(pa.Table.from_pylist(rows), source)
    source = jsonl(rows) if kind == "jsonl" else source
    done = cli.run(source, "-o", "run", *quick, *flags)
    assert done.code == 2, done.err
    for word in words:
        assert word in done.err
    assert endpoint.requests == []
    assert not (cli.folder / "run").exists()


def test_rows_without_messages_name_the_flag(cli, heard, jsonl, published):
    """Who forgot the prompt is told of it."""
    _, flags = heard
    assert cli.run(jsonl([{"text": "a"}]), "-o", "run", *flags).code == 1
    (message,) = published(cli.folder / "run")["error_message"].to_pylist()
    assert "--prompt" in message


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_column_called_body_is_data_once_a_prompt_shows_it(
    cli, heard, jsonl, published, tmp_path, kind
):
    """A table of mails has a `body`; it is text then, not an OpenAI Batch line's."""
    endpoint, flags = heard
    rows = [{"subject": "s", "body": "Dear Sir,"}, {"subject": "t", "body": "{not json"}]
    source = tmp_path / "in.parquet"
    pq.write_table(pa.Table.from_pylist(rows), source)
    source = jsonl(rows) if kind == "jsonl" else source
    done = cli.run(source, "-o", "run", *flags, "--prompt", "{{ subject }}: {{ body }}")
    assert done.code == 0, done.err
    assert _contents(endpoint) == ["s: Dear Sir,", "t: {not json"]
    assert published(cli.folder / "run")["body"].to_pylist() == ["Dear Sir,", "{not json"]


def test_images_and_files(cli, heard, published, tmp_path):
    """URLs, local files and bytes become parts; a missing file is its row's failure."""
    endpoint, flags = heard
    (cli.folder / "pics").mkdir()
    (cli.folder / "pics" / "a.gif").write_bytes(GIF)
    (cli.folder / "doc.txt").write_bytes(b"hi")
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table(
        {
            "photo": ["https://a.example/b.png", "pics/a.gif", None, "pics/gone.gif", "doc.txt"],
            "hf": pa.array([{"bytes": GIF, "path": "c.gif"}, *[None] * 4], image),
            "doc": [None, "doc.txt", None, None, None],
        }
    )
    pq.write_table(table, tmp_path / "in.parquet")
    attach = ("--image", "photo", "--image", "hf", "--file", "doc")
    done = cli.run(tmp_path / "in.parquet", "-o", "run", *flags, "--prompt", "look", *attach)
    assert done.code == 1
    gif = {
        "type": "image_url",
        "image_url": {"url": f"data:image/gif;base64,{base64.b64encode(GIF).decode()}"},
    }
    text = {"type": "text", "text": "look"}
    url = {"type": "image_url", "image_url": {"url": "https://a.example/b.png"}}
    file = {
        "type": "file",
        "file": {"filename": "doc.txt", "file_data": "data:text/plain;base64,aGk="},
    }
    assert _contents(endpoint) == [[text, url, gif], [text, gif, file], "look"]
    messages = published(cli.folder / "run")["error_message"].to_pylist()
    assert "row 3: cannot read 'pics/gone.gif': No such file" in messages[3]
    assert "doc.txt is no image" in messages[4]
    cli.verified("run")


def test_messages_of_a_config_file(cli, heard, jsonl):
    """Examples before the question, images behind it; --prompt beside them is refused."""
    endpoint, flags = heard
    source = jsonl([{"q": "why?", "url": "https://a.example/b.png"}])
    (cli.folder / "c.toml").write_text(
        """
        [request]
        image = ["url"]
        [[request.messages]]
        role = "user"
        content = "example"
        [[request.messages]]
        role = "assistant"
        content = "because"
        [[request.messages]]
        role = "user"
        content = [{ type = "text", text = "{{ q }}" }]
        """,
        "utf-8",
    )
    command = (source, "-c", "c.toml", "-o", "run", *flags)
    assert cli.run(*command).code == 0
    (body,) = _bodies(endpoint)
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"]
    assert body["messages"][0]["content"] == "example"
    assert body["messages"][2]["content"] == [
        {"type": "text", "text": "why?"},
        {"type": "image_url", "image_url": {"url": "https://a.example/b.png"}},
    ]
    done = cli.run(*command, "--prompt", "x")
    assert done.code == 2 and "use one of them" in done.err


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_changed_template_is_a_changed_run(cli, heard, jsonl, tmp_path, published, kind):
    """Exit 2 names it; with --keep-done the rows that are done stay, the rest has the new text."""
    endpoint, flags = heard
    rows = [{"n": number} for number in range(6)]
    source = tmp_path / "in.parquet"
    pq.write_table(pa.Table.from_pylist(rows), source)
    source = jsonl(rows) if kind == "jsonl" else source
    command = (source, "-o", "run", *flags, "--shard-rows", 2, "--prompt")
    assert cli.run(*command, "old {{ n }}", "--limit", 3).code == 0
    done = cli.run(*command, "new {{ n }}")
    assert done.code == 2
    for word in ("request.prompt", "old {{ n }}", "new {{ n }}", "3 rows are done", "--keep-done"):
        assert word in done.err
    assert cli.run(*command, "new {{ n }}", "--keep-done").code == 0
    assert _contents(endpoint) == [f"old {n}" for n in range(3)] + [f"new {n}" for n in range(3, 6)]
    assert published(cli.folder / "run")["n"].to_pylist() == list(range(6))
    cli.verified("run")


def test_appended_rows_are_sent_by_the_same_template(cli, heard, tmp_path):
    """A grown input is read again and found the same: digests hold through templates."""
    endpoint, flags = heard
    path = tmp_path / "in.parquet"
    table = pa.table({"n": list(range(5)), "day": [dt.date(2024, 1, 1)] * 5})
    pq.write_table(table.slice(0, 3), path)
    command = (path, "-o", "run", *flags, "--shard-rows", 2, "--prompt", "{{ n }} {{ day }}")
    assert cli.run(*command, "--carry", "none").code == 0
    pq.write_table(table, path)
    assert cli.run(*command, "--carry", "none").code == 0
    assert _contents(endpoint) == [f"{n} 2024-01-01" for n in range(5)]
    edited = table.set_column(0, "n", pa.array([0, 9, 2, 3, 4]))
    pq.write_table(edited, path)
    done = cli.run(*command, "--carry", "none")
    assert done.code == 2 and "difference is within rows 0 to" in done.err
