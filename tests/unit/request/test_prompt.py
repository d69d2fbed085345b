"""Rows become messages and parameters by what the settings say."""

import json

import pytest

from batchrun.core.request import body
from batchrun.core.request import prompt as prompts
from batchrun.core.settings.resolve import from_toml, resolve
from batchrun.errors import RowError, UsageError
from batchrun.records import Row

LEAST = {"input.files": ["a.jsonl"], "output.dir": "run"}
PNG = b"\x89PNG\r\n\x1a\n"


def _settings(**request):
    return resolve(LEAST | {f"request.{key}": value for key, value in request.items()})


def _read(path):
    if path == "gone.png":
        message = "cannot read 'gone.png'"
        raise RowError(message)
    return PNG


def _shaper(rows, **request):
    return prompts.plan(_settings(**request)).shaper(rows, _read)


def _shaped(row, **request):
    return _shaper([row], **request)(row)


def _sent(row, **request):
    """The body as the engine would send it."""
    settings = _settings(**request)
    plan = prompts.plan(settings)
    parts = plan.shaper([row], _read)(row) if plan else body.split(row)
    built = Row(0, parts.custom_id, parts.body, parts.problem)
    request = body.build(built, {"model": "m"} | settings.defaults(), body_bytes_max=10_000)
    return json.loads(request.body)


OWN = [{"role": "user", "content": "own"}]
CHAT = {"messages": OWN, "x": 1}
LINE = {"custom_id": "c", "body": {"messages": OWN, "seed": 3}, "x": 1}


def test_no_template_is_no_plan():
    """Without templates rows are split as ever, by the same function."""
    assert prompts.plan(_settings(params={"temperature": 0}, model="m")) is None
    assert prompts.plan(_settings(params={"chat_template": "{{ messages }}"})) is None


def test_a_data_row_becomes_messages_and_is_carried_whole():
    """System, then user; the custom_id is the row's, everything else is carried."""
    row = {"custom_id": 7, "text": "hi", "note": None}
    made = _shaped(row, prompt="Say {{ text }}{{ note }}", system="You are {{ custom_id }}")
    assert made.body == {
        "messages": [
            {"role": "system", "content": "You are 7"},
            {"role": "user", "content": "Say hi"},
        ]
    }
    assert made.carried == {"text": "hi", "note": None}
    assert (made.custom_id, made.problem, made.added_bytes) == ("7", None, 0)


@pytest.mark.parametrize("row", [CHAT, LINE, {"extra_body": {"messages": OWN}, "x": 1}])
def test_rows_with_messages_keep_them(row):
    """Neither prompt, nor system message, nor image touches them."""
    made = _shaped(row | {"p": "gone.png"}, prompt="{{ x }}", system="s", image=["p"])
    assert made.body["messages"] == OWN
    assert made.carried["x"] == 1


def test_null_messages_are_none():
    """A row whose `messages` or `body` is null is a data row."""
    row = {"messages": None, "body": None, "x": 1}
    assert _sent(row, prompt="{{ x }}")["messages"] == [{"role": "user", "content": "1"}]


def test_parameters_of_a_data_row_are_sent():
    """Columns called like parameters are parameters; null ones are not set; extra_body counts."""
    row = {"x": 1, "temperature": 0.5, "top_p": None, "extra_body": {"odd": 2}}
    sent = _sent(row, prompt="{{ x }}", params={"top_p": 0.9, "temperature": 1})
    assert (sent["temperature"], sent["top_p"], sent["odd"]) == (0.5, 0.9, 2)
    assert "x" not in sent


@pytest.mark.parametrize("name", ["temperature", "model", "metadata", "body", "documents"])
def test_a_column_that_the_prompt_shows_is_data(name):
    """Whatever it is called it is carried and not sent, in rows without messages."""
    made = _shaped({name: "31 degrees"}, prompt="{{ %s }}" % name)  # noqa: UP031 - braces
    assert made.body == {"messages": [{"role": "user", "content": "31 degrees"}]}
    assert made.carried == {name: "31 degrees"}
    own = _shaped({name: "x"} | {"messages": OWN}, prompt="{{ %s }}" % name)  # noqa: UP031
    assert (name in own.body) is (name != "body")


def test_parameters_by_template():
    """With their type where they are one expression; null leaves them out; a row's own win."""
    params = {
        "max_tokens": "{{ n }}",
        "seed": "{{ nothing }}",
        "user": "u-{{ n }}",
        "top_p": 0.5,
        "metadata": {"a": "{{ n }}", "b": "{{ nothing }}"},
    }
    row = {"n": 5, "nothing": None, "x": "t"}
    sent = _sent(row, prompt="{{ x }}", params=params, model="model-{{ n }}")
    assert sent["max_tokens"] == 5 and "seed" not in sent and sent["user"] == "u-5"
    assert sent["metadata"] == {"a": 5} and sent["top_p"] == 0.5 and sent["model"] == "model-5"
    assert _sent(row | {"max_tokens": 9, "messages": OWN}, params=params)["max_tokens"] == 9
    line = LINE | row
    assert (_sent(line, params=params | {"seed": "{{ n }}"})["seed"]) == 3
    assert _sent(line, params=params)["user"] == "u-5"


def test_a_parameter_that_the_row_sets_is_not_rendered():
    """So a template that would fail on this row does no harm to it."""
    assert (
        _sent({"messages": OWN, "n": "a", "seed": 1}, params={"seed": "{{ n + 1 }}"})["seed"] == 1
    )


def test_messages_of_all_kinds():
    """Few-shot messages in order, parts rendered, other keys kept, a blank system left out."""
    text = """
    [input]
    files = ["a.jsonl"]
    [output]
    dir = "run"
    [[request.messages]]
    role = "system"
    content = "{{ nothing }}"
    [[request.messages]]
    role = "assistant"
    name = "n"
    tool_calls = [{ id = "1", function = { name = "f", arguments = "{}" } }]
    [[request.messages]]
    role = "user"
    content = [
        { type = "text", text = "{{ x }}" },
        { type = "image_url", image_url = { url = "{{ u }}" } },
    ]
    """
    settings = resolve(from_toml(text, path="c.toml"))
    row = {"x": 5, "u": "https://a.example", "nothing": None}
    made = prompts.plan(settings).shaper([row], _read)(row)
    call = {"id": "1", "function": {"name": "f", "arguments": "{}"}}
    assert made.body["messages"] == [
        {"role": "assistant", "name": "n", "tool_calls": [call]},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "5"},
                {"type": "image_url", "image_url": {"url": "https://a.example"}},
            ],
        },
    ]


@pytest.mark.parametrize(
    ("row", "request_", "words"),
    [
        ({"x": None}, {"prompt": " {{ x }}\n"}, "the prompt is empty"),
        ({"x": "a"}, {"prompt": "{{ x + 1 }}"}, "request.prompt, line 1"),
        ({"x": "a"}, {"prompt": "b", "params": {"seed": "{{ x + 1 }}"}}, "request.params.seed"),
        ({"x": "gone.png"}, {"prompt": "b", "image": ["x"]}, "gone.png"),
        ({"x": b"12"}, {"prompt": "{{ x }}"}, "column 'x' holds bytes"),
        ({"x": "a"}, {"prompt": "{{ x | nope }}"}, "nope"),
        ({"x": "a", "extra_body": 5}, {"prompt": "{{ x }}"}, "extra_body"),
    ],
)
def test_a_row_that_cannot_be_rendered_has_a_problem(row, request_, words):
    """It is carried all the same, and says why."""
    made = _shaped(row, **request_)
    assert made.body is None and words in made.problem
    assert made.carried["x"] == row["x"]


def test_on_trial_a_defect_is_raised():
    """What no row can render ends the run before it begins; a row's own failure does not."""
    with pytest.raises(UsageError, match="nope"):
        _shaper([{"x": 1}], prompt="{{ x | nope }}").strict()({"x": 1})
    assert _shaper([{"x": 1}], prompt="{{ x + 'a' }}").strict()({"x": 1}).problem


def test_images_are_counted():
    """What was read for a row counts for its size, so that blocks stay small."""
    made = _shaped({"x": "a.png", "y": [PNG, PNG]}, prompt="look", image=["x", "y"])
    parts = made.body["messages"][0]["content"]
    assert [part["type"] for part in parts] == ["text"] + ["image_url"] * 3
    assert made.added_bytes == sum(len(part["image_url"]["url"]) for part in parts[1:])
    assert _shaped({"x": "a.png", "t": None}, prompt="{{ t }}", image=["x"]).problem is None


def test_too_many_images_are_refused(monkeypatch):
    """Together they may not be larger than a body."""
    monkeypatch.setattr(prompts, "BODY_BYTES_MAX", 50)
    assert _shaped({"x": [PNG]}, prompt="look", image=["x"]).problem is None
    assert "more than 50 bytes" in _shaped({"x": [PNG, PNG]}, prompt="look", image=["x"]).problem


def test_the_columns_that_are_needed():
    """Every column that a template or an attachment uses, by the input's name."""
    rows = [{"a": 1, "b c": 2, "p": None, "n": 3, "z": 4}]
    made = _shaper(rows, prompt="{{ a }}{{ b_c }}", params={"seed": "{{ n }}"}, image=["p"])
    assert made.needs == {"a", "b c", "p", "n"}
    assert made.data == {"a", "b c", "p"}
    assert made(rows[0]).body["messages"][0]["content"] == "12"


def test_telling_apart_renders_and_reads_nothing():
    """The schema of carried columns is told without touching the files that rows name."""
    shaper = _shaper([{"x": "gone.png"}], prompt="{{ x + 1 }}", image=["x"])
    assert shaper.apart({"x": "gone.png", "seed": 1}).carried == {"x": "gone.png"}


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"system": "s"}, ["request.system", "--prompt"]),
        ({"image": ["p"]}, ["request.image", "--prompt"]),
        ({"file": ["p"], "messages": [{"role": "system", "content": "s"}]}, ["request.file"]),
        ({"prompt": "p", "messages": OWN}, ["request.prompt", "request.messages", "one of them"]),
        ({"system": "s", "messages": OWN}, ["request.system", "request.messages"]),
        ({"params": {"messages": OWN}}, ["request.params", "[[request.messages]]"]),
        ({"messages": "hi"}, ["request.messages", "[[request.messages]]"]),
        ({"messages": ["hi"]}, ["request.messages[0]"]),
        ({"messages": [*OWN, {"content": "a"}]}, ["request.messages[1]", "no role"]),
        ({"messages": [{"role": "user"}]}, ["request.messages[0]", "no content"]),
        ({"messages": [{"role": "user", "content": 5}]}, ["request.messages[0].content"]),
        ({"messages": [{"role": "user", "content": ["a"]}]}, ["every part"]),
        ({"messages": [{"role": "user", "content": "a", "n": 2**70}]}, ["request.messages[0].n"]),
        ({"prompt": ""}, ["request.prompt"]),
        ({"prompt": 5}, ["request.prompt"]),
        ({"prompt": "p", "image": "photo"}, ["request.image"]),
        ({"prompt": "p", "image": [""]}, ["request.image"]),
    ],
)
def test_settings_that_do_not_go_together_are_named(request_, words):
    """A usage error before anything is opened."""
    with pytest.raises(UsageError) as caught:
        _settings(**request_)
    for word in words:
        assert word in str(caught.value)


def test_the_settings_are_compared_between_runs():
    """They shape requests; and where nothing is set they are what an older directory has: null."""
    shaping_of = _settings(prompt="p", system="s", image=["a"]).shaping()
    assert [shaping_of[f"request.{key}"] for key in ("prompt", "system", "image", "file")] == [
        "p",
        "s",
        ["a"],
        None,
    ]
    unset = _settings().shaping()
    for key in ("prompt", "system", "messages", "image", "file"):
        assert unset[f"request.{key}"] is None
    assert _settings(messages=OWN).shaping()["request.messages"] == OWN


def test_parameters_by_template_are_no_defaults():
    """Their text is never sent as it stands; the server's own template is."""
    settings = _settings(
        params={"seed": "{{ n }}", "top_p": 1, "chat_template": "{{ messages }}"}, model="m"
    )
    assert settings.defaults() == {"top_p": 1, "chat_template": "{{ messages }}", "model": "m"}
    assert settings.templated() == {"seed": "{{ n }}"}
