"""Reading a reply's body, whatever a server made of it."""

import json
import math

import pytest

from batchrun.core import reply
from batchrun.records import NO_USAGE, ToolCall, Usage


def _body(message=None, **more):
    choice = {"index": 0, "message": {"role": "assistant", "content": "hi"} | (message or {})}
    return {"id": "c-1", "object": "chat.completion", "choices": [choice]} | more


def _read(value):
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return reply.completion(reply.parse(body))


def _first(message):
    return _read(_body(message)).first


def test_a_completion_as_the_specification_has_it():
    """Every field of a plain completion lands in its place."""
    found = _read(
        {
            "id": "c-1",
            "created": 1_700_000_000,
            "model": "m-2",
            "system_fingerprint": "fp",
            "service_tier": "default",
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {"role": "assistant", "content": "hi", "refusal": None},
                }
            ],
            "usage": {
                "prompt_tokens": 3,
                "completion_tokens": 4,
                "total_tokens": 7,
                "prompt_tokens_details": {"cached_tokens": 1},
                "completion_tokens_details": {"reasoning_tokens": 2},
            },
        }
    )
    assert (found.response_id, found.created_s, found.model) == ("c-1", 1_700_000_000, "m-2")
    assert (found.system_fingerprint, found.service_tier) == ("fp", "default")
    assert (found.first.content, found.first.finish_reason) == ("hi", "stop")
    assert found.usage == Usage(3, 4, 7, 1, 2)
    assert found.choices is None


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        "text",
        7,
        {},
        {"choices": None},
        {"choices": []},
        {"choices": {}},
        {"choices": [None]},
        {"choices": ["hi"]},
        {"choices": [{}]},
        {"choices": [{"message": None}]},
        {"choices": [{"message": "hi"}]},
        {"choices": [{"text": "hi"}]},
        _body(error={"code": 502}),
        _body(error="text"),
        {"choices": [{"delta": {"content": "hi"}}]},
    ],
)
def test_what_is_no_completion(value):
    """Without a first choice with a message, or with an error beside it, there is none."""
    assert _read(value) is None


@pytest.mark.parametrize("error", [None, {}, "", False])
def test_an_empty_error_is_no_error(error):
    """Some gateways send an error key with nothing in it beside every answer."""
    assert _read(_body(error=error)).first.content == "hi"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("hi", "hi"),
        ("", ""),
        (None, None),
        (7, None),
        ({"text": "hi"}, None),
        ([], ""),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "ab"),
        ([{"type": "thinking", "thinking": []}, {"type": "text", "text": "b"}], "b"),
        ([{"type": "text", "text": None}, "c", None], ""),
    ],
)
def test_content_is_text_or_nothing(content, text):
    """Content given as parts is the text of its text parts; other types are no content."""
    assert _first({"content": content}).content == text


@pytest.mark.parametrize(
    ("message", "reasoning"),
    [
        ({"reasoning_content": "a"}, "a"),
        ({"reasoning": "b"}, "b"),
        ({"reasoning_content": "a", "reasoning": "b"}, "a"),
        ({"reasoning_content": None, "reasoning": "b"}, "b"),
        ({"reasoning_content": "", "reasoning": "b"}, "b"),
        ({"reasoning": {"effort": "low"}}, None),
        ({}, None),
    ],
)
def test_reasoning_goes_by_two_names(message, reasoning):
    """Both names in use are read, and an empty one does not hide the other."""
    assert _first(message).reasoning == reasoning


@pytest.mark.parametrize(
    ("calls", "read"),
    [
        (None, None),
        ([], None),
        ("x", None),
        ([None, 1], ()),
        (
            [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            (ToolCall("1", "function", "f", "{}"),),
        ),
        (
            [{"id": "1", "function": {"name": "f", "arguments": {"a": [1, "é"]}}}],
            (ToolCall("1", None, "f", '{"a":[1,"é"]}'),),
        ),
        ([{"function": {"name": "f", "arguments": ""}}], (ToolCall(None, None, "f", ""),)),
        (
            [{"function": {"name": "f", "arguments": '{"a": '}}],
            (ToolCall(None, None, "f", '{"a": '),),
        ),
        ([{"id": 7, "function": None}], (ToolCall(None, None, None, None),)),
        ([{"function": {"arguments": 2**70}}], (ToolCall(None, None, None, str(2**70)),)),
    ],
)
def test_tool_calls_are_kept_as_sent(calls, read):
    """Arguments stay text, valid JSON or not; an object becomes its JSON text."""
    assert _first({"tool_calls": calls}).tool_calls == read


@pytest.mark.parametrize(
    ("usage", "read"),
    [
        (None, NO_USAGE),
        ([], NO_USAGE),
        ({}, NO_USAGE),
        ({"prompt_tokens": 0}, Usage(prompt_tokens=0)),
        ({"prompt_tokens": True, "completion_tokens": False}, NO_USAGE),
        ({"prompt_tokens": 1.0, "completion_tokens": "2"}, NO_USAGE),
        ({"prompt_tokens": -1, "total_tokens": 2**63}, NO_USAGE),
        ({"total_tokens": 2**63 - 1}, Usage(total_tokens=2**63 - 1)),
        ({"prompt_tokens": 3, "completion_tokens": None}, Usage(prompt_tokens=3)),
        (
            {"prompt_tokens_details": None, "completion_tokens_details": [], "queue_time": 0.1},
            NO_USAGE,
        ),
        ({"prompt_tokens_details": {"cached_tokens": 0}}, Usage(cached_tokens=0)),
    ],
)
def test_usage_is_what_was_reported(usage, read):
    """A count that is no count is unknown, never 0, and nothing is added up."""
    assert _read(_body(usage=usage)).usage == read


def test_missing_usage_is_unknown():
    """A reply without usage has none."""
    assert _read(_body()).usage is NO_USAGE


@pytest.mark.parametrize("reason", ["stop", "eos", "MAX_TOKENS", "", None])
def test_the_finish_reason_is_kept_as_sent(reason):
    """No server's word is translated into another's."""
    choice = {"message": {"content": "hi"}, "finish_reason": reason}
    assert _read({"choices": [choice]}).first.finish_reason == reason


def test_several_choices_are_ordered_by_index():
    """The flat columns are the lowest index, and all choices are kept."""
    choices = [{"index": i, "message": {"content": str(i)}} for i in (2, 0, 1)]
    found = _read({"choices": choices})
    assert found.first.content == "0"
    assert [choice.content for choice in found.choices] == ["0", "1", "2"]


@pytest.mark.parametrize("index", [None, "0", -1, 2**31, 1.0, [0], False, True])
def test_a_choice_without_a_usable_index_gets_its_place(index):
    """An index that no column can hold is replaced by the place in the list."""
    choices = [{"index": index, "message": {"content": text}} for text in "ab"]
    found = [choice.index for choice in _read({"choices": choices}).choices]
    assert found == [0, 1]
    assert {type(index) for index in found} == {int}


def test_a_broken_later_choice_is_left_out():
    """One choice without a message does not cost the others."""
    found = _read({"choices": [{"message": {"content": "a"}}, {"index": 1}, None]})
    assert found.first.content == "a"
    assert found.choices is None


def test_logprobs_are_kept_as_json():
    """A single choice is listed too where it has logprobs, as JSON text."""
    logprobs = {"content": [{"token": "hi", "logprob": -0.5}]}
    choice = {"index": 0, "message": {"content": "hi"}, "logprobs": logprobs}
    found = _read({"choices": [choice]})
    assert json.loads(found.choices[0].logprobs) == logprobs


@pytest.mark.parametrize(
    ("created", "read"),
    [
        (5, 5),
        (5.9, 5),
        (0, 0),
        (None, None),
        ("5", None),
        (True, None),
        (-1, None),
        (10**11, None),
        (10**30, None),
        (1e300, None),
        ([], None),
    ],
)
def test_created_is_a_moment_or_nothing(created, read):
    """Seconds that a timestamp column can hold; anything else is unknown."""
    assert _read(_body(created=created)).created_s == read


@pytest.mark.parametrize("field", ["id", "model", "system_fingerprint", "service_tier"])
@pytest.mark.parametrize("value", [None, 5, {}, ["x"], True])
def test_a_name_of_another_type_is_unknown(field, value):
    """Text columns hold text only."""
    found = _read(_body(**{field: value}))
    name = "response_id" if field == "id" else field
    assert getattr(found, name) is None


PLAIN = json.dumps(_body()).encode()


@pytest.mark.parametrize(
    "body",
    [
        PLAIN,
        b"\n\n \r\n" + PLAIN + b"\n",
        b"\xef\xbb\xbf" + PLAIN,
        PLAIN[:-1] + b', "score": NaN, "low": -Infinity}',
        PLAIN[:-1] + b', "x": "raw \x01 control \t characters"}',
        PLAIN[:-1] + b', "x": "half \\ud83d pair"}',
        PLAIN[:-1] + b', "x": "bad \xff\xfe bytes"}',
        PLAIN[:-1] + b', "big": ' + b"9" * 400 + b"}",
        PLAIN[:-1] + b', "far": 1e999}',
        b'{"choices": null, ' + PLAIN[1:],
    ],
    ids=[
        "plain",
        "blank lines",
        "byte-order mark",
        "NaN",
        "control characters",
        "half a pair",
        "not UTF-8",
        "huge integer",
        "huge float",
        "a key twice",
    ],
)
def test_json_that_strict_parsers_refuse_is_read(body):
    """What real servers send and lenient parsers take is an answer here."""
    assert _read(body).first.content == "hi"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"\xef\xbb\xbf",
        b"<html>",
        b'{"a": 1',
        b"{} {}",
        b"[" * 5000 + b"]" * 5000,
        b"[" * 1_000_000,
        b'{"a":' * 100_000,
        b"9" * 10_000,
        b"\x00" * 10,
        "ä".encode("utf-16"),
    ],
    ids=range(12),
)
def test_what_is_no_json_is_nothing(body):
    """Pages, halves, absurd depths and absurd numbers are no JSON, and no crash."""
    assert reply.parse(body) is None


@pytest.mark.parametrize("field", ["content", "reasoning_content", "refusal"])
def test_half_a_surrogate_pair_becomes_storable(field):
    """Text from a reply can always be written as UTF-8."""
    body = json.dumps(_body({field: "a\ud83db"})).encode()
    name = {"reasoning_content": "reasoning"}.get(field, field)
    assert getattr(_read(body).first, name) == "a�b"


@pytest.mark.parametrize("depth", [*range(900, 1000, 3), 2000])
def test_any_depth_of_logprobs_and_arguments_is_read_or_refused(depth):
    """Nesting close to what the parser bears does not break what comes after the parser."""
    nested = "[" * depth + "]" * depth
    for text in (
        f'{{"choices":[{{"message":{{"content":"hi"}},"logprobs":{nested}}}]}}',
        '{"choices":[{"message":{"tool_calls":[{"function":{"arguments":' + nested + "}}]}}]}",
    ):
        found = _read(text.encode())
        assert found is None or found.first is not None


@pytest.mark.parametrize(
    ("value", "code", "kind", "message"),
    [
        ({"error": {"message": "m", "type": "t", "code": "c"}}, "c", "t", "m"),
        ({"error": {"message": "m", "type": "t", "code": 429}}, "429", "t", "m"),
        ({"error": {"message": "m", "code": None, "type": None}}, None, None, "m"),
        ({"error": "Unauthorized"}, None, None, "Unauthorized"),
        (
            {"object": "error", "message": "m", "type": "BadRequest", "code": 400},
            "400",
            "BadRequest",
            "m",
        ),
        ([{"error": {"code": 429, "message": "m"}}], "429", None, "m"),
        ({"detail": "d"}, None, None, "d"),
        ({"detail": [{"loc": ["body"], "msg": "x"}]}, None, None, '[{"loc":["body"],"msg":"x"}]'),
        ({"message": "m", "type": "t"}, None, "t", "m"),
        ({"success": False, "error": {"message": "m"}}, None, None, "m"),
        ({"error": {}}, None, None, ""),
        ({"error": {"code": {"a": 1}, "type": 7, "message": 5}}, None, None, "5"),
        ({"error": {"code": True}}, "True", None, ""),
        ([], None, None, ""),
        ("text", None, None, ""),
        (None, None, None, ""),
        (7, None, None, ""),
    ],
)
def test_error_bodies_of_all_shapes_are_read(value, code, kind, message):
    """Code, type and message come out of every shape that servers use."""
    assert reply.error_of(value) == (code, kind, message)


@pytest.mark.parametrize(
    "message",
    [
        {"at": 10**30},
        [math.nan],
        {"deep": json.loads("[" * 900 + "]" * 900)},
    ],
    ids=["huge integer", "NaN", "deep"],
)
def test_a_structured_error_message_becomes_text(message):
    """A message that is no text is shown as JSON, whatever is in it."""
    assert reply.error_of({"error": {"message": message}})[2]


def test_error_texts_are_bounded():
    """A validation error that repeats the whole prompt does not fill the disk."""
    code, kind, message = reply.error_of(
        {"error": {"message": "x" * 10**6, "code": "y" * 10**6, "type": "t"}}
    )
    assert len(message) == reply.ERROR_TEXT_MAX
    assert len(code) <= reply.ERROR_TEXT_MAX
    assert kind == "t"
    failure = reply.failure("invalid_request", "c" * 1000, "\ud800" + "m" * 10_000)
    assert len(failure.code) == 200
    assert len(failure.message) == reply.ERROR_TEXT_MAX
    assert failure.message.encode()


@pytest.mark.parametrize(
    ("body", "limit", "text"),
    [
        (b"abc", 10, "abc"),
        (b"abc", 2, "ab"),
        ("aé".encode(), 2, "a"),
        ("日本".encode(), 5, "日"),
        (b"\xff", 5, "�"),
        (b"", 5, ""),
    ],
)
def test_a_kept_text_is_whole_characters(body, limit, text):
    """A cut never splits a character, and bad bytes become a mark."""
    assert reply.text_of(body, limit) == text
