"""What runs make of answers in odd shapes, streamed and plain alike, by the real command."""

import json
import sqlite3

import pytest

from tests.harness.slow import rest_slow

QUICK = ("--no-progress", "--concurrency", 1)
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
R1 = "deepseek-ai/DeepSeek-R1"


def streamed(message, finish):
    """A message as a stream: text and reasoning in pieces, everything else in one delta."""
    pieces = [{"role": "assistant"}]
    for name, value in message.items():
        texts = [value[:3], value[3:]] if isinstance(value, str) else [value]
        pieces += [{name: text} for text in texts]
    chunks = [
        {"id": "c", "created": 1, "model": "m", "choices": [{"index": 0, "delta": piece}]}
        for piece in pieces
    ]
    chunks[-1]["choices"][0]["finish_reason"] = finish
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    chunks.append(chunks[0] | {"choices": [], "usage": usage})
    return b"".join(b"data: %b\n\n" % json.dumps(chunk).encode() for chunk in chunks)


@pytest.fixture(params=["plain", "streamed"])
def asked(request, cli, scripted, answer, jsonl, published):
    """Runs one row against a server that answers with this message; returns the exit code, the row
    of the results and how often it was asked.
    """

    def run(message, *flags, finish="stop", folder="run", model="m", **row):
        def reply(body, *_):
            if body.get("stream"):
                kind = {"Content-Type": "text/event-stream"}
                return 200, kind, streamed(message, finish) + b"data: [DONE]\n\n"
            choice = {"index": 0, "message": message, "finish_reason": finish}
            return 200, {}, answer(choices=[choice])

        endpoint = scripted(reply)
        stream = ("--stream",) if request.param == "streamed" else ()
        done = cli.run(jsonl(1, **row), "-o", folder, "--model", model, *QUICK, *stream,
                       "--base-url", endpoint.base_url, *flags)  # fmt: skip
        assert done.code in (0, 1), done.err
        cli.verified(folder)
        (found,) = published(cli.folder / folder).to_pylist()
        return done.code, found, len(endpoint.requests)

    return run


@pytest.fixture
def schema(cli):
    """A schema in a file beside the run."""
    (cli.folder / "s.json").write_text(json.dumps(SCHEMA), "utf-8")
    return ("--schema", "s.json", "--max-attempts", 1)


@pytest.mark.parametrize(
    "empty",
    rest_slow(
        [
            {"tool_calls": [{}]},
            {
                "tool_calls": [
                    {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
                ]
            },
            {"tool_calls": [None]},
            {"function_call": {"name": "", "arguments": ""}},
            {"refusal": " "},
        ],
        2,
    ),
)
def test_empty_containers_exempt_from_nothing(asked, schema, empty):
    """Beside text they do not spare it its schema; without text the answer is empty."""
    code, row, _ = asked({"content": "no JSON"} | empty, *schema)
    assert (code, row["error_class"]) == (1, "invalid_output")
    code, row, _ = asked({"content": '{"a":1}'} | empty, *schema, folder="fits")
    assert (code, row["tool_calls"], row["refusal"]) == (0, None, None)
    code, row, _ = asked({"content": ""} | empty, "--on-empty", "fail", folder="empty")
    assert (code, row["error_class"]) == (1, "empty_output")


@pytest.mark.parametrize(
    ("content", "text"),
    [({"a": 3}, '{"a":3}'), ([{"a": 3}], '[{"a":3}]'), (7, "7"), (False, "false"), ([1], "[1]")],
)
def test_json_as_content_is_kept(asked, schema, content, text):
    """JSON that a gateway parsed is its text again, and is held against the schema as such."""
    code, row, _ = asked({"content": content})
    assert (code, row["content"]) == (0, text)
    code, row, _ = asked({"content": content}, *schema, folder="checked")
    assert code == (0 if content == {"a": 3} else 1)
    assert json.loads(row["response"])["choices"][0]["message"]["content"] in (content, text)


def test_reasoning_is_split_where_the_model_implies_it(asked, schema):
    """By the model's name, before the schema is looked at; the raw reply keeps what was sent."""
    sent = '<think>\nhm\n</think>\n\n{"a":1}'
    code, row, _ = asked({"content": sent}, *schema, model=R1)
    assert (code, row["reasoning"], row["content"]) == (0, "hm", '{"a":1}')
    assert json.loads(row["response"])["choices"][0]["message"]["content"] == sent
    code, row, _ = asked({"content": sent}, "--think", "keep", model=R1, folder="kept")
    assert (row["reasoning"], row["content"]) == (None, sent)
    code, row, _ = asked({"content": sent}, folder="other")
    assert (row["reasoning"], row["content"]) == (None, sent)
    code, row, _ = asked({"content": sent}, *schema, "--think", "split", folder="split")
    assert (code, row["content"]) == (0, '{"a":1}')


def test_reasoning_that_was_cut_off_is_an_empty_answer(asked):
    """All of it is reasoning, the answer is empty, and the policies see that."""
    cut = {"content": "<think>hm, well"}
    _, row, _ = asked(cut, "--think", "split", finish="length")
    assert (row["reasoning"], row["content"]) == ("hm, well", None)
    code, row, times = asked(
        cut, "--think", "split", "--on-empty", "retry", "--max-attempts", 3,
        finish="length", folder="again",
    )  # fmt: skip
    assert (code, row["error_class"], times) == (1, "empty_output", 3)


def test_json_in_a_fence_is_accepted_where_it_is_wanted(asked, schema):
    """The JSON is the content, the raw reply keeps the fence; without the flag it is not JSON."""
    sent = 'Here it is:\n```json\n{"a": 1}\n```\n'
    code, row, _ = asked({"content": sent}, *schema)
    assert code == 1 and "--accept-fenced accepts" in row["error_message"]
    code, row, _ = asked({"content": sent}, *schema, "--accept-fenced", folder="accepted")
    assert (code, row["content"]) == (0, '{"a": 1}')
    assert json.loads(row["response"])["choices"][0]["message"]["content"] == sent
    mode = {"response_format": {"type": "json_object"}}
    code, row, _ = asked({"content": sent}, "--accept-fenced", folder="mode", **mode)
    assert (code, row["content"]) == (0, '{"a": 1}')
    code, row, _ = asked({"content": sent}, "--accept-fenced", folder="text")
    assert (code, row["content"]) == (0, sent)
    wrong = {"content": '```json\n{"a": "x"}\n```'}
    code, row, _ = asked(wrong, *schema, "--accept-fenced", folder="wrong")
    assert code == 1 and 'a: "x" is not of type "integer"' in row["error_message"]


def test_both_at_once(asked, schema):
    """Reasoning first, then a fence."""
    sent = '<think>hm ```json\n{"a": 2}\n``` no</think>```json\n{"a": 1}\n```'
    code, row, _ = asked({"content": sent}, *schema, "--accept-fenced", model=R1)
    assert (code, row["content"]) == (0, '{"a": 1}')


@pytest.mark.parametrize("nothing", ["null", "None", ""])
def test_a_stream_that_is_cut_is_no_answer_whatever_it_calls_null(
    cli, scripted, jsonl, published, nothing
):
    """Null as text in every chunk does not make a torn answer whole; ``[DONE]`` does."""
    chunks = [
        {"id": "c", "choices": [{"index": 0, "delta": {"content": t}, "finish_reason": nothing}]}
        for t in ("alpha ", "beta")
    ]
    torn = b"".join(b"data: %b\n\n" % json.dumps(chunk).encode() for chunk in chunks)
    for folder, ending, status in (("torn", b"", "error"), ("whole", b"data: [DONE]\n\n", "ok")):
        reply = torn + ending
        endpoint = scripted(lambda *_, r=reply: (200, {"Content-Type": "text/event-stream"}, r))
        cli.run(jsonl(1), "-o", folder, "--stream", *QUICK, "--base-url", endpoint.base_url,
                "--max-attempts", 1)  # fmt: skip
        (row,) = published(cli.folder / folder).to_pylist()
        assert row["status"] == status
        assert row["error_class"] == ("incomplete_stream" if status == "error" else None)
        assert row["finish_reason"] is None


def _forget(folder, *names):
    """Make a state file one of a version that did not record these settings."""
    with sqlite3.connect(folder / "checkpoint" / "journal.db") as connection:
        (text,) = connection.execute("SELECT value FROM meta WHERE key = 'settings'").fetchone()
        settings = json.loads(text)
        for name in names:
            del settings[name]
        connection.execute(
            "UPDATE meta SET value = ? WHERE key = 'settings'", (json.dumps(settings),)
        )
    connection.close()


def test_a_run_goes_on_as_it_began(cli, scripted, answer, jsonl, published):
    """A directory of a version without the settings keeps what that version did, and another
    wish than the recorded one is a difference; nothing is sent then.
    """
    sent = "<think>hm</think>yes"
    endpoint = scripted(lambda *_: (200, {}, answer(sent)))
    source = jsonl(4)
    command = (source, *QUICK, "--model", R1, "--base-url", endpoint.base_url)
    contents = {}
    for folder in ("old", "new"):
        assert cli.run(*command, "-o", folder, "--limit", 2).code == 0
        if folder == "old":
            _forget(cli.folder / folder, "output.think", "output.accept_fenced")
        done = cli.run(*command, "-o", folder)
        assert done.code == 0, done.err
        contents[folder] = published(cli.folder / folder).column("content").to_pylist()
    assert contents == {"old": ["yes"] * 2 + [sent] * 2, "new": ["yes"] * 4}
    count = len(endpoint.requests)
    for folder, flags, said in (
        ("old", ("--think", "split"), 'output.think: was "keep", is "split"'),
        ("new", ("--think", "keep"), 'output.think: was "split", is "keep"'),
        ("new", ("--accept-fenced",), "output.accept_fenced: was false, is true"),
    ):
        done = cli.run(*command, "-o", folder, *flags)
        assert done.code == 2 and said in done.err
        assert cli.run(*command, "-o", folder, *flags, "--keep-done").code == 0
    for folder in ("old", "new"):
        assert cli.run(*command, "-o", folder, "--keep-done").code == 0
    assert len(endpoint.requests) == count


def test_a_repaired_run_goes_on_as_it_began(cli, scripted, answer, jsonl):
    """Without its state file, what the summary recorded counts, not what the name implies."""
    endpoint = scripted(lambda *_: (200, {}, answer("yes")))
    command = (jsonl(3), "-o", "run", *QUICK, "--model", R1, "--base-url", endpoint.base_url)
    assert cli.run(*command, "--think", "keep").code == 0
    for path in (cli.folder / "run" / "checkpoint").glob("journal.db*"):
        path.unlink()
    done = cli.run(*command, "--repair")
    assert done.code == 0, done.err
    found = json.loads((cli.folder / "run" / "summary.json").read_text("utf-8"))
    assert found["settings"]["output.think"] == "keep"
    assert len(endpoint.requests) == 3


def test_from_python(scripted, answer, tmp_path, published):
    """Both are keywords of the functions."""
    import batchrun

    sent = '<think>hm</think>```json\n{"a": 1}\n```'
    endpoint = scripted(lambda *_: (200, {}, answer(sent)))
    summary = batchrun.run(
        [{"messages": [{"role": "user", "content": "?"}]}],
        output=tmp_path / "run",
        model="m",
        base_url=endpoint.base_url,
        schema=SCHEMA,
        think="split",
        accept_fenced=True,
    )
    assert summary.ok == 1
    (row,) = published(tmp_path / "run").to_pylist()
    assert (row["reasoning"], row["content"]) == ("hm", '{"a": 1}')
