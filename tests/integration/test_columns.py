"""What of a row's columns is sent: with a prompt nothing but what is named, and it is said."""

import json

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

import batchrun
from batchrun.errors import UsageError
from tests.harness.slow import rest_slow

QUICK = ("--no-progress", "--concurrency", 1)
ASK = ("--model", "m", "--prompt", "{{ question }}")
TICKETS = [
    {"question": "a", "priority": 3, "user": "a@example.com", "model": "X1", "n": 2, "body": "b"},
    {"question": "b", "priority": None, "user": None, "model": None, "n": 4, "body": "c"},
]
OWN = [{"role": "user", "content": "own"}]


@pytest.fixture
def heard(scripted, answer):
    """An endpoint that answers everything, and its address as flags."""
    endpoint = scripted(lambda *_: (200, {}, answer()))
    return endpoint, (*QUICK, "--base-url", endpoint.base_url)


def _bodies(endpoint):
    return [body for _, _, body in endpoint.requests]


def _params(endpoint):
    """What was sent beside messages, as text that tells 1 from 1.0."""
    return [
        json.dumps({k: v for k, v in body.items() if k != "messages"}, sort_keys=True)
        for body in _bodies(endpoint)
    ]


def _cell(value):
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def _write(folder, name, rows):
    path = folder / name
    kind = path.suffix
    if kind == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    elif kind == ".tsv":  # without quoting
        lines = [rows[0], *(map(_cell, row.values()) for row in rows)]
        path.write_text("".join("\t".join(line) + "\n" for line in lines), "utf-8")
    else:
        frame = pd.DataFrame([{k: _cell(v) for k, v in row.items()} for row in rows])
        frame.to_csv(path, index=False)
    return path


FILES = ("in.csv", "in.tsv", "in.jsonl", "in.parquet")


@pytest.mark.parametrize("name", rest_slow(FILES, 2))
def test_a_help_desk_table(cli, heard, published, name):
    """An address of a person, a queue and a count are data: not sent, carried, and not told of."""
    endpoint, flags = heard
    path = _write(cli.folder, name, TICKETS)
    seen = cli("validate", path, *ASK, "--json")
    assert seen.code == 0 and seen.json["sent"] == []
    assert seen.json["carried"] == list(TICKETS[0])
    done = cli.run(path, "-o", "run", *flags, *ASK)
    assert done.code == 0, done.err
    assert _params(endpoint) == ['{"model": "m"}'] * 2
    assert "request parameters" not in done.err
    table = published(cli.folder / "run")
    assert list(map(str, table["n"].to_pylist())) == ["2", "4"]
    assert table["user"].to_pylist()[0] == "a@example.com"
    assert table["input_model"].to_pylist()[0] == "X1"
    assert table["body"].to_pylist() == ["b", "c"]
    cli.verified("run")
    assert cli("verify", "run", "--against", path).code == 0


@pytest.mark.parametrize("name", FILES)
def test_columns_called_like_parameters_are_shown(cli, heard, name):
    """Templates show them by their names, next to a column that is nested."""
    endpoint, flags = heard
    rows = [
        row | {"metadata": {"title": "T"}, "messages": [{"role": "user"}], "tools": "hammer"}
        for row in TICKETS
    ]
    prompt = "{{ body }} {{ n }} {{ user }} {{ model }} {{ tools }}"
    nested = "" if name.endswith("sv") else " {{ metadata.title }} {{ messages[0].role }}"
    path = _write(cli.folder, name, rows)
    done = cli.run(path, "-o", "run", *flags, "--model", "m", "--prompt", prompt + nested)
    assert done.code == 0, done.err
    asked = [body["messages"][0]["content"] for body in _bodies(endpoint)]
    more = "" if name.endswith("sv") else " T user"
    assert asked == [f"b 2 a@example.com X1 hammer{more}", f"c 4   hammer{more}"]


def test_messages_that_a_prompt_replaces_are_told(cli, heard, jsonl):
    """Who gives a prompt to rows with messages hears that these are not sent; shown, they are."""
    endpoint, flags = heard
    line = {"custom_id": "a", "url": "/v1/chat/completions", "body": {"messages": OWN}}
    for number, row in enumerate(({"messages": OWN}, line)):
        prompt = ("--model", "m", "--prompt", "Hello")
        done = cli.run(jsonl([row]), "-o", f"run{number}", *flags, *prompt)
        assert done.code == 0 and f"column {'body' if number else 'messages'!r}" in done.err
    shown = ("--model", "m", "--prompt", "{{ messages[0].content }}")
    done = cli.run(jsonl([{"messages": OWN}]), "-o", "shown", *flags, *shown)
    assert done.code == 0 and "warning" not in done.err
    asked = [body["messages"][0]["content"] for body in _bodies(endpoint)]
    assert asked == ["Hello", "Hello", "own"]


SENT = [
    {"question": "a", "temperature": 0.5, "max_tokens": 5, "logprobs": True, "top_p": None,
     "metadata": {"a": "1"}, "strange": {"k": [1]}, "user": "00017"},
    {"question": "b", "temperature": 1.0, "max_tokens": 6, "logprobs": False, "top_p": 0.25,
     "metadata": {"a": "2"}, "strange": {"k": [2]}, "user": "u"},
]  # fmt: skip


@pytest.mark.parametrize(
    ("send", "names"),
    [
        ("none", []),
        ("all", "temperature max_tokens logprobs top_p metadata user".split()),
        ("temperature,strange,top_p", "temperature top_p strange".split()),
        ("user", ["user"]),
    ],
)
def test_the_same_data_makes_the_same_requests_in_every_format(cli, heard, published, send, names):
    """What is named is sent with its type and carried too; null is not sent; --carry leaves out."""
    endpoint, flags = heard
    hashes = set()
    for name in FILES:
        path = _write(cli.folder, name, SENT)
        run = f"run-{name.replace('.', '-')}"
        done = cli.run(path, "-o", run, *flags, *ASK, "--send", send, "--carry", "question,user")
        assert done.code == 0, done.err
        told = done.err.partition("request parameters: ")[2].partition(";")[0]
        assert sorted(told.split(", ")) == sorted(names or [""])
        table = published(cli.folder / run)
        assert table["user"].to_pylist() == ["00017", "u"]
        assert not {"temperature", "strange"} & set(table.column_names)
        hashes.add(tuple(table["request_hash"].to_pylist()))
    assert len(hashes) == 1
    wanted = [
        {"model": "m"} | {name: row[name] for name in names if row[name] is not None}
        for row in SENT
    ]
    assert _params(endpoint) == [json.dumps(row, sort_keys=True) for row in wanted] * len(FILES)


def test_rows_of_a_program(heard, tmp_path, published):
    """Dicts, a generator, tables, a data set and data frames: data, unless `send` names it."""
    endpoint, _ = heard
    table = pa.Table.from_pylist(TICKETS)
    pq.write_table(table, tmp_path / "in.parquet")
    sources = [
        TICKETS, (row for row in TICKETS), table, ds.dataset(tmp_path / "in.parquet"),
        pd.DataFrame(TICKETS), pl.DataFrame(TICKETS),
    ]  # fmt: skip
    options = {"prompt": "{{ question }}", "base_url": endpoint.base_url, "concurrency": 1}
    for number, rows in enumerate(sources):
        folder = tmp_path / f"a{number}"
        ran = batchrun.run(rows, output=folder, model="m", temperature=0, id="model", **options)
        assert ran.status == "complete"
        table = published(folder)
        assert table["custom_id"].to_pylist() == ["X1", None]
        assert {"user", "n", "body", "input_model"} <= set(table.column_names)
    assert _params(endpoint) == ['{"model": "m", "temperature": 0}'] * 2 * len(sources)
    endpoint.requests.clear()
    again = [TICKETS, table, pd.DataFrame(TICKETS)]
    for number, rows in enumerate(again):
        folder = tmp_path / f"b{number}"
        batchrun.run(rows, output=folder, model="m", send=["n", "user"], **options)
    sent = ['{"model": "m", "n": 2, "user": "a@example.com"}', '{"model": "m", "n": 4}']
    assert _params(endpoint) == sent * len(again)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--send", "temprature"), ["--send", "'temprature'", "did you mean temperature?"]),
        (("--id", "usr"), ["--id", "'usr'", "did you mean user?"]),
        (("--send", "messages"), ["--send", "messages"]),
        (("--send", "stream"), ["--stream"]),
        (("--param", "seed={{ sede }}"), ["request.params.seed", "'sede'"]),
        (("--model", "{{ modell }}"), ["request.model", "'modell'"]),
        (("--temperature", "warm"), ["--temperature", "'warm'", "a number"]),
        (("--max-tokens", "0"), ["--max-tokens", "at least 1"]),
        (("--seed", "1.5"), ["--seed", "a whole number"]),
        (("--top-p", "nan"), ["--top-p"]),
        (("--temperature", "1", "--param", "temperature=0"), ["--temperature", "give one of them"]),
        (("--max-tokens", "1", "--param", "max_completion_tokens=2"), ["--max-tokens", "one"]),
        (("--param", "user=plain"), ["--param user", "not JSON"]),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_sent(cli, heard, name, flags, words):
    """Exit 2, the flag, and what to write instead."""
    endpoint, base = heard
    path = _write(cli.folder, name, SENT)
    done = cli.run(path, "-o", "run", *base, *ASK, *flags)
    assert done.code == 2, done.err
    for word in words:
        assert word in done.err
    assert endpoint.requests == [] and not (cli.folder / "run").exists()


@pytest.mark.parametrize("name", FILES)
def test_model_and_parameters_by_template(cli, heard, published, name):
    """A template that is one column keeps its type, in CSV that of the parameter; a row without a
    model is a bad row.
    """
    endpoint, flags = heard
    rows = [row | {"model": model} for row, model in zip(SENT, ("m1", None), strict=True)]
    path = _write(cli.folder, name, rows)
    templates = ("--model", "{{ model }}", "--param", "max_tokens={{ max_tokens }}")
    more = ("--param", "user=u-{{ user }}", "--param", "logprobs={{ logprobs }}")
    done = cli.run(path, "-o", "run", *flags, "--prompt", "{{ question }}", *templates, *more)
    assert done.code == 1, done.err
    assert _params(endpoint) == [
        '{"logprobs": true, "max_tokens": 5, "model": "m1", "user": "u-00017"}'
    ]
    found = published(cli.folder / "run").to_pylist()
    assert [row["error_class"] for row in found] == [None, "invalid_row"]
    assert "no model" in found[1]["error_message"]
    recorded = json.loads((cli.folder / "run" / "summary.json").read_text("utf-8"))["settings"]
    assert recorded["request.model"] == "{{ model }}"
    assert "'{{ model }}'" not in done.err


def test_a_budget_and_endpoints_see_the_model_of_each_row(cli, heard):
    """Prices, worst cases and the models of endpoints are those of the row, not of the template."""
    endpoint, _ = heard
    path = _write(cli.folder, "in.csv", [{"q": "a", "m": "dear"}, {"q": "b", "m": "cheap"}])
    (cli.folder / "c.toml").write_text(
        f"""
        [request]
        model = "{{{{ m }}}}"
        prompt = "{{{{ q }}}}"
        params = {{ max_tokens = 10 }}
        [[endpoint]]
        base_url = "{endpoint.base_url}"
        models = ["dear", "cheap"]
        [prices."dear"]
        input = 1000
        output = 1000
        [prices."cheap"]
        input = 1
        output = 1
        """,
        "utf-8",
    )
    done = cli("run", path, "-c", "c.toml", "-o", "run", *QUICK, "--max-cost", 5)
    assert done.code == 0, done.err
    assert sorted(body["model"] for body in _bodies(endpoint)) == ["cheap", "dear"]
    done = cli("run", path, "-c", "c.toml", "-o", "b", *QUICK, "--max-cost", 0.5)
    assert done.code == 3, done.err


def test_no_model_anywhere(cli, heard, jsonl, chat):
    """Exit 2 where neither settings, nor sent columns, nor rows name one; data is no model."""
    endpoint, flags = heard
    for name in FILES:
        path = _write(cli.folder, name, TICKETS)
        done = cli("run", path, "-o", "run", *flags, "--prompt", "{{ question }}")
        assert done.code == 2 and "no model" in done.err and "--send model" in done.err
    lines = [{"custom_id": "a", "body": chat(0)}]
    for rows in ([chat(0), chat(1)], lines):
        done = cli("run", jsonl(rows), "-o", "run", *flags)
        assert done.code == 2 and "no model" in done.err, done.err
    assert endpoint.requests == []
    rows = [*TICKETS[:1], TICKETS[1] | {"model": "X2"}]
    done = cli(
        "run", jsonl(rows), "-o", "run", *flags, "--prompt", "{{ question }}", "--send", "model"
    )
    assert done.code == 0, done.err
    assert [body["model"] for body in _bodies(endpoint)] == ["X1", "X2"]
    assert cli("run", jsonl([chat(0), chat(1, model="m")]), "-o", "b", *flags).code == 1


# Rows with messages of their own


CHATS = [
    {"messages": OWN, "model": "wrote-it", "temperature": 0.5, "user": "u@example.com",
     "metadata": {"a": "b"}, "store": True, "topic": "t"},
]  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_rows_with_messages_in_every_format(cli, heard, published, name):
    """The model that wrote a text overrides --model: that is said, with the way out of it. In
    tables an address, metadata and store are data.
    """
    endpoint, flags = heard
    path = _write(cli.folder, name, CHATS)
    done = cli.run(path, "-o", "run", *flags, "--model", "m")
    assert done.code == 0, done.err
    table = name != "in.jsonl"
    told = "model, temperature" + ("" if table else ", user, metadata, store")
    carried = "user, metadata, store, topic" if table else "topic"
    assert f"request parameters: {told}; carried: {carried}." in done.err.replace("\n", " ")
    assert "`model`" in done.err and "'m'" in done.err and "--send none" in done.err
    own = {"model": "wrote-it", "temperature": 0.5}
    own |= {} if table else {k: CHATS[0][k] for k in ("user", "metadata", "store")}
    assert _params(endpoint) == [json.dumps(own, sort_keys=True)]
    assert set(published(cli.folder / "run").column_names) >= set(carried.split(", "))
    seen = cli("validate", path, "--model", "m", "--json").json
    assert (seen["sent"], seen["carried"]) == (told.split(", "), carried.split(", "))


@pytest.mark.parametrize("name", rest_slow(FILES, 4))
@pytest.mark.parametrize(
    ("send", "sent", "kept"),
    [
        ("none", {"model": "m"}, ["input_model", "temperature", "user", "topic"]),
        ("temperature,user", {"model": "m", "temperature": 0.5, "user": "u@example.com"},
         ["input_model", "temperature", "user", "topic"]),
        ("topic", {"model": "m", "topic": "t"}, ["temperature", "topic"]),
    ],
)  # fmt: skip
def test_what_rows_with_messages_send_is_narrowed(cli, heard, published, name, send, sent, kept):
    """Messages always go out; of the rest what is named, and everything is carried."""
    endpoint, flags = heard
    path = _write(cli.folder, name, CHATS)
    done = cli.run(path, "-o", "run", *flags, "--model", "m", "--send", send)
    assert done.code == 0, done.err
    assert _bodies(endpoint) == [sent | {"messages": OWN}]
    assert set(kept) <= set(published(cli.folder / "run").column_names)
    assert "messages" not in published(cli.folder / "run").column_names
    assert cli("verify", "run", "--against", path).code == 0


@pytest.mark.parametrize("name", ["in.jsonl", "in.parquet"])
def test_the_body_of_a_batch_line_is_sent_as_it_is(cli, heard, name):
    """--send is about columns; nothing of a Batch line's body is a column."""
    endpoint, flags = heard
    line = {"key": "a", "body": {"messages": OWN, "user": "u", "seed": 1}, "temperature": 0.5}
    path = _write(cli.folder, name, [line])
    for send in ("none", "temperature"):
        done = cli.run(path, "-o", send, *flags, "--model", "m", "--send", send, "--id", "key")
        assert done.code == 0, done.err
    assert _params(endpoint) == ['{"model": "m", "seed": 1, "user": "u"}'] * 2


# The id


@pytest.mark.parametrize("name", rest_slow(FILES))
@pytest.mark.parametrize("kind", ["data", "chat"])
def test_another_column_is_the_id(cli, heard, published, name, kind):
    """Numbers as text; the column is carried, and a column custom_id is then data."""
    _, flags = heard
    own = {"question": "q"} if kind == "data" else {"messages": OWN}
    rows = [own | {"ticket": n, "custom_id": f"c{n}", "user": "u"} for n in (7, 8, 7)]
    path = _write(cli.folder, name, rows)
    asked = ASK if kind == "data" else ("--model", "m")
    command = (path, "-o", "run", *flags, *asked)
    done = cli.run(*command, "--id", "ticket")
    assert done.code == 0, done.err
    assert "'7' occurs more than once" in done.err
    table = published(cli.folder / "run")
    assert table["custom_id"].to_pylist() == ["7", "8", "7"]
    assert list(map(str, table["ticket"].to_pylist())) == ["7", "8", "7"]
    assert table["input_custom_id"].to_pylist() == ["c7", "c8", "c7"]
    assert cli("verify", "run", "--against", path).code == 0
    other = cli.run(*command)
    assert other.code == 2 and "input.id" in other.err and "--keep-done" not in other.err
    assert cli("run", path, "-o", "b", *flags, *asked, "--id", "custom_id").code == 0
    assert cli("run", path, "-o", "b", *flags, *asked).code == 0  # it is the default


# Between runs


def test_what_is_sent_is_compared(cli, heard, jsonl):
    """Another --send is another request: refused with the choices, and sent again on demand."""
    endpoint, flags = heard
    command = (jsonl(TICKETS), "-o", "run", *flags, *ASK)
    assert cli.run(*command).code == 0
    done = cli.run(*command, "--send", "n")
    assert done.code == 2 and "input.send" in done.err and "2 rows are done" in done.err
    assert cli.run(*command, "--send", "n", "--resend-changed").code == 0
    assert _params(endpoint)[2:] == ['{"model": "m", "n": 2}', '{"model": "m", "n": 4}']
    assert cli.run(*command, "--send", "n").code == 0 and len(endpoint.requests) == 4


@pytest.mark.parametrize("name", FILES)
def test_a_directory_of_the_earlier_rules_goes_on(here, cli, heard, name, monkeypatch):
    """Columns called like parameters are sent as they were when it was begun; nothing is sent
    twice, and the new settings are refused.
    """
    from batchrun.core.settings.reading import Reading
    from batchrun.core.settings.resolve import Settings

    endpoint, flags = heard
    rows = [{"question": str(n), "n": 2, "temperature": 0.5} for n in range(6)]
    path = _write(cli.folder, name, rows)
    command = (path, "-o", "run", *flags, *ASK)
    with monkeypatch.context() as earlier:
        rules = property(lambda settings: Reading(rules=2, quoting=settings.quoting))
        earlier.setattr(Settings, "reading", rules)
        assert here(*command, "--limit", 3).code == 0
    done = here(*command)
    assert done.code == 0, done.err
    assert _params(endpoint) == ['{"model": "m", "n": 2, "temperature": 0.5}'] * 6
    assert "was begun by a version that sends columns" in done.err
    assert cli("verify", "run", "--against", path).code == 0
    for more in (("--send", "n"), ("--send", "n", "--keep-done"), ("--id", "n", "--keep-done")):
        assert here(*command, *more).code == 2
    assert len(endpoint.requests) == 6
    assert here(*command, "--restart").code == 0
    assert _params(endpoint)[6:] == ['{"model": "m"}'] * 6


# Short for parameters


@pytest.mark.parametrize(
    ("flags", "sent"),
    [
        (("--temperature", "0", "--max-tokens", "5", "--top-p", "0.5", "--seed", "7"),
         '{"max_tokens": 5, "model": "m", "seed": 7, "temperature": 0, "top_p": 0.5}'),
        (("--temperature", "1.0"), '{"model": "m", "temperature": 1.0}'),
        (("--temperature", "{{ n / 10 }}"), '{"model": "m", "temperature": 0.2}'),
        (("-c", "c.toml", "--max-tokens", "5"), '{"max_tokens": 5, "model": "m"}'),
    ],
)  # fmt: skip
def test_common_parameters_have_flags(cli, heard, jsonl, flags, sent):
    """They are the parameter that --param would set, to the byte, and win over the config file."""
    endpoint, base = heard
    (cli.folder / "c.toml").write_text("[request]\nparams = { max_completion_tokens = 99 }\n")
    done = cli.run(jsonl(TICKETS[:1]), "-o", "run", *base, *ASK, *flags)
    assert done.code == 0, done.err
    assert _params(endpoint) == [sent]


def test_keywords_for_common_parameters(heard, tmp_path):
    """`temperature=0` is the flag; any other parameter, or key of a config, is told its place."""
    endpoint, _ = heard
    options = {"base_url": endpoint.base_url, "model": "m", "prompt": "{{ question }}"}
    batchrun.run(TICKETS[:1], output=tmp_path / "a", temperature=0, max_tokens=3, **options)
    assert _params(endpoint) == ['{"max_tokens": 3, "model": "m", "temperature": 0}']
    with pytest.raises(TypeError, match=r"params=\{'presence_penalty': 1\}"):
        batchrun.run(TICKETS, output=tmp_path / "b", presence_penalty=1, **options)
    for key, words in (("temperature", "`params`, or temperature="), ("min_p", "`params`")):
        (tmp_path / "c.toml").write_text(f"[request]\n{key} = 0.5\n")
        with pytest.raises(UsageError, match=words):
            batchrun.run(TICKETS, config=tmp_path / "c.toml", output=tmp_path / "b", **options)


# Results are no input


@pytest.mark.parametrize(
    "given", rest_slow(["run", "run/", "run/results", "run/results/part-00000000.parquet",
              "run/results/*.parquet", "run/attempts", "link", "."], 3),
)  # fmt: skip
def test_results_of_a_run_are_no_input(cli, heard, jsonl, given):
    """The message names what reads them as answers, and what makes a file of them, which works."""
    endpoint, flags = heard
    source = jsonl([row | {"topic": "t"} for row in TICKETS])
    assert cli.run(source, "-o", "run", *flags, *ASK).code == 0
    (cli.folder / "link").symlink_to("run")
    source.unlink()
    done = cli("run", given, "-o", "judged", *flags, "--model", "j", "--prompt", "{{ content }}")
    assert done.code == 2, done.err
    assert "--from" in done.err and "batchrun export" in done.err and len(endpoint.requests) == 2
    made = ("export", "run", "-o", "answers.parquet", "--columns", "custom_id,content,topic,model")
    assert cli(*made).code == 0
    assert pq.read_schema(cli.folder / "answers.parquet").names == [
        "custom_id", "content", "topic", "model",
    ]  # fmt: skip
    asked = ("--model", "j", "--prompt", "Judge: {{ content }} {{ topic }}")
    done = cli.run("answers.parquet", "-o", "judged", *flags, *asked)
    assert done.code == 0, done.err
    assert _bodies(endpoint)[2] == {
        "model": "j", "messages": [{"role": "user", "content": "Judge: ok t"}]
    }  # fmt: skip


def test_columns_of_an_export(cli, heard, jsonl):
    """Parquet and CSV have the columns that are named, in that order; other names are refused."""
    _, flags = heard
    assert cli.run(jsonl(TICKETS), "-o", "run", *flags, *ASK).code == 0
    assert cli("export", "run", "-o", "a.csv", "--columns", "question,content").code == 0
    lines = (cli.folder / "a.csv").read_text("utf-8").splitlines()
    assert lines == ['"question","content"', '"a","ok"', '"b","ok"']
    wrong = cli("export", "run", "-o", "b.csv", "--columns", "contnt")
    assert wrong.code == 2 and "did you mean content?" in wrong.err
    assert cli("export", "run", "-o", "b.jsonl", "--columns", "content").code == 2
    assert not (cli.folder / "b.csv").exists() and not (cli.folder / "b.jsonl").exists()
