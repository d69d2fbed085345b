"""Reading a reply's body, whatever a server made of it."""

import json

import pytest

from batchrun.core.reply import completion, fast_completion
from batchrun.records import NO_USAGE, ToolCall, Usage


def _body(message=None, **more):
    choice = {"index": 0, "message": {"role": "assistant", "content": "hi"} | (message or {})}
    return {"id": "c-1", "object": "chat.completion", "choices": [choice]} | more


def _read(value):
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return completion.completion(completion.parse(body))


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
        (7, "7"),
        (False, "false"),
        ({"answer": 4}, '{"answer":4}'),
        ({"text": "hi"}, "hi"),
        ({"type": "text", "text": "hi"}, "hi"),
        ([], ""),
        ([{"type": "output_text", "text": "a"}, {"text": "b"}], "ab"),
        ([{"type": "text", "text": {"value": "a", "annotations": []}}], "a"),
        ([{"type": "text", "text": "a"}, {"type": "reference", "reference_ids": [1]}], "a"),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "ab"),
        ([{"type": "thinking", "thinking": []}, {"type": "text", "text": "b"}], "b"),
        ([{"type": "text", "text": None}, "c", None], "c"),
        (["a", "b"], "ab"),
        ([{"type": "text", "content": "a"}, {"type": "input_text", "text": "b"}], "ab"),
        ([{"type": "summary", "text": "a", "index": 0}], "a"),
        ([{"type": "text", "text": ""}], ""),
        ([None, {}, []], ""),
        ({}, ""),
        # JSON where its text should stand
        ([{"a": 3}], '[{"a":3}]'),
        ([1, 2.5, True], "[1,2.5,true]"),
        ([[1], ["a"]], '[[1],["a"]]'),
        ([None, {"a": None}], '[null,{"a":null}]'),
        ({"text": "hi", "mood": "good"}, '{"text":"hi","mood":"good"}'),
        ({"type": "person", "name": "Ada"}, '{"type":"person","name":"Ada"}'),
        ({"type": "image", "colour": "red"}, '{"type":"image","colour":"red"}'),
        ({"type": 3}, '{"type":3}'),
        ({"type": "text", "text": {"a": 3}}, '{"a":3}'),
        ([{"type": "text", "text": "see "}, {"a": 3}, 4], 'see {"a":3}4'),
        # What is no text stays in the raw reply.
        ([{"type": "image_url", "image_url": {"url": "data:,"}}, {"text": "a"}], "a"),
        ([{"type": "output_audio", "data": "AAAA"}], ""),
        ([{"type": "redacted_thinking", "data": "x"}, "a"], "a"),
    ],
)
def test_content_is_text_or_nothing(content, text):
    """Content given as parts is the text of its text parts; what should not be there is kept as
    JSON.
    """
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
        ({"reasoning": [{"type": "text", "text": "a"}, {"text": "b"}]}, "ab"),
        ({"reasoning_content": ""}, ""),
        ({"reasoning": ""}, ""),
        ({"reasoning_content": None, "reasoning": None}, None),
        ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "a"}]}]}, "a"),
        ({"content": [{"type": "thinking", "thinking": "a"}], "reasoning": "b"}, "b"),
        ({"reasoning": {"text": "a"}}, "a"),
        ({"content": [{"type": "reasoning", "summary": [{"text": "a"}, {"text": "b"}]}]}, "ab"),
        ({"content": [{"type": "reasoning", "reasoning": "a"}, {"text": "b"}]}, "a"),
        ({"content": {"type": "thinking", "thinking": "a", "signature": "s"}}, "a"),
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
        (
            [{"id": "null", "type": "custom", "custom": {"name": "f", "input": "x\x01"}}],
            (ToolCall("null", "custom", "f", "x\x01"),),
        ),
        ([{"id": "1", "name": "f", "arguments": {}}], (ToolCall("1", None, "f", "{}"),)),
        ({"id": "1", "function": {"name": "f"}}, (ToolCall("1", None, "f", None),)),
        ([{"function": {"arguments": 2**70}}], (ToolCall(None, None, None, str(2**70)),)),
    ],
)
def test_tool_calls_are_kept_as_sent(calls, read):
    """Arguments stay text, valid JSON or not; an object becomes its JSON text."""
    assert _first({"tool_calls": calls}).tool_calls == read


EMPTY_CALLS = [
    {},
    {"function": {}},
    {"function": None},
    {"id": "", "type": "function", "function": {"name": "", "arguments": ""}},
    {"id": "null", "type": "function", "function": {"name": None, "arguments": "{}"}},
    {"id": "None", "index": 0, "function": {"name": " ", "arguments": {}}},
    {"type": "custom", "custom": {"name": "", "input": ""}},
    {"id": 7},
    None,
    1,
    [],
]


@pytest.mark.parametrize("empty", EMPTY_CALLS)
@pytest.mark.parametrize("name", ["tool_calls", "function_call"])
def test_an_empty_call_is_no_call(name, empty):
    """A call without name, id and arguments says nothing, alone and among others."""
    whole = {"name": "f", "arguments": ""}
    if name == "tool_calls":
        assert _first({name: [empty]}).tool_calls is None
        assert _first({name: empty}).tool_calls is None
        found = _first({name: [empty, {"function": whole}, empty]})
        assert found.tool_calls == (ToolCall(None, None, "f", ""),)
        assert _first({name: [empty], "function_call": whole}).tool_calls == found.tool_calls
    elif isinstance(empty, dict):
        inner = empty.get("function", empty.get("custom", empty))
        assert _first({name: inner}).tool_calls is None


@pytest.mark.parametrize(
    "call",
    [
        {"function": {"name": "f"}},
        {"function": {"name": "f", "arguments": ""}},
        {"function": {"name": "none", "arguments": "{}"}},
        {"function": {"name": "", "arguments": '{"a":1}'}},
        {"function": {"arguments": "0"}},
        {"id": "call-1", "function": {"name": "", "arguments": ""}},
    ],
)
def test_a_call_that_says_anything_is_a_call(call):
    """A name, arguments or an id of its own are enough."""
    assert len(_first({"tool_calls": [call]}).tool_calls) == 1


@pytest.mark.parametrize("refusal", ["", " \n", None])
def test_an_empty_refusal_is_no_refusal(refusal):
    """Neither in its field nor as a part, and it does not hide the other one."""
    assert _first({"refusal": refusal}).refusal is None
    part = {"type": "refusal", "refusal": refusal}
    assert _first({"content": [part]}).refusal is None
    assert _first({"content": [part | {"refusal": "no"}], "refusal": refusal}).refusal == "no"
    body = json.dumps(_body({"refusal": refusal})).encode()
    assert fast_completion.plain_completion(body)[0].first.refusal is None


@pytest.mark.parametrize(
    ("usage", "read"),
    [
        (None, NO_USAGE),
        ([], NO_USAGE),
        ({}, NO_USAGE),
        ({"prompt_tokens": 0}, Usage(prompt_tokens=0)),
        ({"prompt_tokens": True, "completion_tokens": False}, NO_USAGE),
        ({"prompt_tokens": 1.0, "completion_tokens": "2"}, Usage(prompt_tokens=1)),
        ({"prompt_tokens": 1.5, "completion_tokens": 1e300}, NO_USAGE),
        ({"completion tokens ": 5, "prompt_tokens": 3}, Usage(prompt_tokens=3)),
        # DeepSeek, Moonshot, Anthropic behind a proxy, SGLang, the names of the Responses API
        ({"prompt_cache_hit_tokens": 4, "prompt_cache_miss_tokens": 1}, Usage(cached_tokens=4)),
        ({"cached_tokens": 4}, Usage(cached_tokens=4)),
        (
            {"input_tokens": 9, "cache_read_input_tokens": 4, "output_tokens": 2},
            Usage(prompt_tokens=9, completion_tokens=2, cached_tokens=4),
        ),
        ({"completion_tokens": 3, "reasoning_tokens": 2}, Usage(None, 3, None, None, 2)),
        (
            {
                "input_tokens": 9,
                "output_tokens": 2,
                "input_tokens_details": {"cached_tokens": 1},
                "output_tokens_details": {"reasoning_tokens": 0},
            },
            Usage(9, 2, None, 1, 0),
        ),
        (
            {"prompt_tokens_details": {"cached_tokens": None}, "prompt_cache_hit_tokens": 0},
            Usage(cached_tokens=0),
        ),
        # Sums over all answers must fit into 64 bits.
        ({"prompt_tokens": -1, "completion_tokens": 10**9 + 1, "total_tokens": 2**63}, NO_USAGE),
        ({"completion_tokens": 2e9, "total_tokens": 10**9}, Usage(total_tokens=10**9)),
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


@pytest.mark.parametrize("place", ["choice", "x_groq"])
def test_usage_is_found_where_some_put_it(place):
    """Moonshot has it in the choice, Groq in an object of its own; its proper place wins."""
    body = _body()
    holder = body["choices"][0] if place == "choice" else body.setdefault("x_groq", {})
    holder["usage"] = {"total_tokens": 5}
    assert _read(body).usage == Usage(total_tokens=5)
    assert _read(body | {"usage": {"total_tokens": 6}}).usage == Usage(total_tokens=6)


def test_missing_usage_is_unknown():
    """A reply without usage has none."""
    assert _read(_body()).usage is NO_USAGE


def test_the_older_function_call_is_a_tool_call():
    """It has neither id nor type, and none is made up; proper tool calls win over it."""
    legacy = {"name": "f", "arguments": '{"a":1}'}
    assert _first({"function_call": legacy}).tool_calls == (ToolCall(None, None, "f", '{"a":1}'),)
    assert _first({"function_call": None}).tool_calls is None
    calls = [{"id": "1", "type": "function", "function": {"name": "g", "arguments": "{}"}}]
    found = _first({"function_call": legacy, "tool_calls": calls})
    assert [call.name for call in found.tool_calls] == ["g"]


def test_a_refusal_may_be_a_part():
    """A refusal among the parts is the refusal, unless the message has one."""
    parts = [{"type": "refusal", "refusal": "no"}]
    assert _first({"content": parts}).refusal == "no"
    assert _first({"content": parts, "refusal": "never"}).refusal == "never"


@pytest.mark.parametrize(
    ("reason", "kept"), [(7, "7"), (True, "true"), ({"type": "stop"}, '{"type":"stop"}')]
)
def test_a_finish_reason_of_another_type_is_kept_as_json(reason, kept):
    """Null says that the server gave no reason: a reason that is no text is not that."""
    choice = {"message": {"content": "hi"}, "finish_reason": reason}
    assert _read({"choices": [choice]}).first.finish_reason == kept


@pytest.mark.parametrize("reason", ["stop", "eos", "MAX_TOKENS", " Stop", "unknown", None])
def test_the_finish_reason_is_kept_as_sent(reason):
    """No server's word is translated into another's."""
    body = json.dumps({"choices": [{"message": {"content": "hi"}, "finish_reason": reason}]})
    assert _read(body.encode()).first.finish_reason == reason
    assert fast_completion.plain_completion(body.encode())[0].first.finish_reason == reason


@pytest.mark.parametrize(
    "reason",
    [
        *("", " ", "null", "None", "NULL", "nil", "<nil>", "undefined"),
        *("FINISH_REASON_UNSPECIFIED", False, 0, {}, []),
    ],
)
def test_no_finish_reason_in_other_words(reason):
    """Null that a gateway turned into text is null, read quickly or at length."""
    body = json.dumps({"choices": [{"message": {"content": "hi"}, "finish_reason": reason}]})
    assert _read(body.encode()).first.finish_reason is None
    quick = fast_completion.plain_completion(body.encode())
    assert quick is None or quick[0].first.finish_reason is None


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


def test_a_broken_later_choice_does_not_cost_the_others():
    """A choice without a message is one of nulls; what is no object is left out."""
    broken = {"index": 1, "message": None, "finish_reason": "content_filter"}
    found = _read({"choices": [{"message": {"content": "a"}}, broken, None]})
    assert found.first.content == "a"
    assert [(c.index, c.content, c.finish_reason) for c in found.choices] == [
        (0, "a", None),
        (1, None, "content_filter"),
    ]
    assert _read({"choices": [{"message": {"content": "a"}}, None]}).choices is None


def test_logprobs_are_kept_as_json():
    """A single choice is listed too where it has logprobs, as JSON text."""
    logprobs = {"content": [{"token": "hi", "logprob": -0.5}]}
    choice = {"index": 0, "message": {"content": "hi"}, "logprobs": logprobs}
    found = _read({"choices": [choice]})
    assert json.loads(found.choices[0].logprobs) == logprobs


def test_logprobs_are_json_whatever_was_sent():
    """NaN, infinities and integers of any length become JSON that every parser takes."""
    body = (
        b'{"choices":[{"message":{"content":"hi"},"logprobs":{"content":[{"logprob":-Infinity,'
        b'"token":"\\ud800","rank":' + b"9" * 50 + b"}]}}]}"
    )
    text = _read(body).choices[0].logprobs
    assert json.loads(text)["content"] == [
        {"logprob": None, "token": "\ufffd", "rank": int("9" * 50)}
    ]
    assert "Infinity" not in text


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
        b"\r\n\xef\xbb\xbf\n" + PLAIN,
        PLAIN[:-1] + b', "huge": ' + b"9" * 5000 + b"}",
        PLAIN.decode().encode("utf-16"),
        PLAIN.decode().encode("utf-32-be"),
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
        "blank lines and a mark",
        "an integer that Python refuses",
        "UTF-16",
        "UTF-32",
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
        b"[" * 200_000 + b"]" * 200_000,
        b"[" * 1_000_000,
        b'{"a":' * 100_000,
        b"\x00" * 10,
        "ä".encode("utf-16"),
    ],
    ids=range(11),
)
def test_what_is_no_json_is_nothing(body):
    """Pages, halves, absurd depths and absurd numbers are no JSON, and no crash."""
    assert completion.parse(body) is None


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


def test_error_texts_are_bounded():
    """What is stored of an error is bounded and can be written."""
    failure = completion.failure("invalid_request", "c" * 1000, "\ud800" + "m" * 10_000)
    assert len(failure.code) == 200
    assert len(failure.message) == completion.ERROR_TEXT_MAX
    assert failure.message.encode()


@pytest.mark.parametrize(
    ("body", "limit", "text"),
    [
        (b"abc", 10, "abc"),
        (b"abc", 2, "ab"),
        ("aé".encode(), 2, "a"),
        ("日本".encode(), 5, "日"),
        (b"\xff", 5, "�"),
        (b"a\xffb" + "é".encode(), 4, "a�b"),
        (b"\xef\xbb\xbf{}", 9, "\ufeff{}"),
        (b"a\x00b", 9, "a\0b"),
        (b"", 5, ""),
    ],
)
def test_a_kept_text_is_whole_characters(body, limit, text):
    """A cut never splits a character, and bad bytes become a mark."""
    assert completion.text_of(body, limit) == text


VARIANTS = {
    "plain": {},
    "cached": {"usage": {"total_tokens": 3, "prompt_cache_hit_tokens": 1}},
    "reasoned": {"usage": {"completion_tokens": 3, "reasoning_tokens": 1}},
    "other names": {"usage": {"input_tokens": 3, "output_tokens": 1}},
    "details": {
        "usage": {
            "prompt_tokens": 3,
            "prompt_tokens_details": {"cached_tokens": 2},
            "completion_tokens_details": {"reasoning_tokens": 1},
            "cached_tokens": 7,
        }
    },
    "floats": {"usage": {"total_tokens": 3.0}},
}


@pytest.mark.parametrize("more", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize(
    "message",
    [
        {},
        {"reasoning": ""},
        {"reasoning": "a", "reasoning_content": ""},
        {"function_call": {"name": "f"}},
        {"tool_calls": []},
        {"content": [{"type": "text", "text": "a"}]},
    ],
    ids=range(6),
)
def test_the_quick_reading_agrees_with_the_long_one(message, more):
    """Whatever the quick reading takes it reads like the other; the rest it leaves alone."""
    body = json.dumps(_body(message, **{"usage": {"total_tokens": 1}} | more)).encode()
    quick = fast_completion.plain_completion(body)
    assert quick is None or quick[0] == _read(body)


def test_the_quick_reading_takes_what_is_common():
    """An ordinary answer goes the quick way, with or without usage; usage in an odd place does
    not.
    """
    assert fast_completion.plain_completion(json.dumps(_body(usage={"total_tokens": 1})).encode())
    assert fast_completion.plain_completion(PLAIN)[0].usage == NO_USAGE
    assert fast_completion.plain_completion(json.dumps(_body(usage=None)).encode()) is None
