"""Tools, log probabilities, reasoning and refusals of the simulated model."""

import json
import math
from collections import Counter

import jsonschema
import pytest

from batchrun.core.reply import completion as reading
from batchrun.core.stream.fold import fold
from batchrun.simulator import faults
from batchrun.simulator.chat import read_chat
from batchrun.simulator.completion import Manner, spoil, write_answer
from batchrun.simulator.rejections import RejectedError
from batchrun.simulator.streaming import write_chunks, write_events
from batchrun.simulator.writing.documents import write_document
from batchrun.simulator.writing.draws import Chance, seed_key
from batchrun.simulator.writing.logprobs import tokens_of
from batchrun.simulator.writing.tokens import count_tokens

KEY = seed_key(0)
USER = {"role": "user", "content": "订单 and parcel?"}
F = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
G = {"type": "function", "function": {"name": "g"}}
SQL = {"type": "custom", "custom": {"name": "sql"}}
STREAM = {"stream": True, "stream_options": {"include_usage": True}}


def _answer(number=0, manner=None, **body):
    chat = read_chat({"messages": [USER]} | body)
    return write_answer(chat, number.to_bytes(32, "big"), KEY, manner or Manner())


def _said(count=100, **body):
    return [_answer(number, **body).choices[0] for number in range(count)]


def _named(kind, name):
    return {"type": kind, kind: {"name": name}}


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"tools": {}}, "tools", "invalid_type"),
        ({"tools": []}, "tools", "empty_array"),
        ({"tools": [F] * 129}, "tools", "array_above_max_length"),
        ({"tools": [None]}, "tools[0]", "invalid_type"),
        ({"tools": [{"function": {"name": "f"}}]}, "tools[0].type", "invalid_value"),
        ({"tools": [F, {"type": "function"}]}, "tools[1].function", "missing_required_parameter"),
        (
            {"tools": [{"type": "function", "function": {"name": "a b"}}]},
            "tools[0].function.name",
            "invalid_value",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": "{}"}}]},
            "tools[0].function.parameters",
            "invalid_type",
        ),
        ({"tools": [F], "tool_choice": "any"}, "tool_choice", "invalid_value"),
        ({"tools": [F], "tool_choice": 1}, "tool_choice", "invalid_value"),
        ({"tools": [F], "tool_choice": _named("function", "g")}, "tool_choice", None),
        ({"tools": [F], "tool_choice": _named("custom", "f")}, "tool_choice", None),
        ({"tools": [F], "parallel_tool_calls": 1}, "parallel_tool_calls", "invalid_type"),
        ({"tool_choice": "auto"}, "tool_choice", None),
        ({"parallel_tool_calls": False}, "parallel_tool_calls", None),
        ({"logprobs": 1}, "logprobs", "invalid_type"),
        ({"top_logprobs": 1}, "top_logprobs", None),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_value"),
        ({"reasoning_effort": "lots"}, "reasoning_effort", "invalid_value"),
        ({"service_tier": 1}, "service_tier", "invalid_value"),
    ],
)
def test_parameters_are_checked(body, param, code):
    """What OpenAI refuses is status 400, naming the field."""
    with pytest.raises(RejectedError) as caught:
        _answer(**body)
    error = json.loads(caught.value.rejection.body)["error"]
    assert (caught.value.rejection.status, error["param"], error["code"]) == (400, param, code)


def test_tool_choice_is_kept_to():
    """None calls nothing, auto calls now and then, required always, a name only its tool."""
    tools = [F, G, SQL]
    assert not any(said.calls for said in _said(tools=tools, tool_choice="none"))
    auto = _said(tools=tools)
    assert 30 < sum(bool(said.calls) for said in auto) < 70
    assert {said.finish_reason for said in auto if said.calls} == {"tool_calls"}
    assert any(said.content and said.calls for said in auto)
    assert all(said.content or said.calls for said in auto)
    required = _said(tools=tools, tool_choice="required")
    assert {len(said.calls) for said in required} == {1, 2, 3}
    assert {call.name for said in required for call in said.calls} == {"f", "g", "sql"}
    ids = [call.id for said in required for call in said.calls]
    assert len(set(ids)) == len(ids)
    for named in (_named("function", "g"), _named("custom", "sql")):
        for said in _said(20, tools=tools, tool_choice=named):
            assert ([call.name for call in said.calls], said.finish_reason) == (
                [named[named["type"]]["name"]],
                "stop",
            )
    single = _said(tools=tools, tool_choice="required", parallel_tool_calls=False)
    assert {len(said.calls) for said in single} == {1}


def test_a_result_ends_the_calling():
    """By auto, an answer to a tool's result is text."""
    messages = [USER, {"role": "tool", "tool_call_id": "c", "content": "4 °C"}]
    assert not any(said.calls for said in _said(messages=messages, tools=[F]))


SCHEMA = {
    "type": "object",
    "properties": {
        "text": {"type": "string", "minLength": 5, "maxLength": 8},
        "count": {"type": "integer", "minimum": -3, "exclusiveMaximum": 4},
        "share": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
        "odd": {"type": ["integer", "null", "boolean"]},
        "one": {"enum": ["a", 2, None, {"b": []}]},
        "fixed": {"const": {"x": 1}},
        "list": {"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 4},
        "either": {"anyOf": [{"type": "integer"}, {"$ref": "#/$defs/tree"}]},
        "all": {"allOf": [{"$ref": "#/$defs/a~1b"}, {"required": ["y"]}]},
    },
    "required": ["text", "count", "share", "list", "all", "tree"],
    "$defs": {
        "tree": {
            "type": "object",
            "properties": {
                "left": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]},
                "leaves": {"type": "array", "items": {"$ref": "#/$defs/tree"}},
            },
            "required": ["left"],
        },
        "a/b": {"type": "object", "properties": {"y": {"type": "boolean"}}},
    },
    "additionalProperties": False,
}
SCHEMA["properties"]["tree"] = {"$ref": "#/$defs/tree"}


def test_arguments_fit_their_schema():
    """The values are valid by the schema, and differ."""
    judge = jsonschema.Draft202012Validator(SCHEMA)
    seen = Counter()
    for number in range(300):
        chance = Chance(KEY, number.to_bytes(32, "big"), 0, b"calls")
        text = write_document(SCHEMA, chance)
        value = json.loads(text)
        judge.validate(value)
        seen.update(value.keys())
        seen[text] += 1
    assert set(SCHEMA["properties"]) <= set(seen)
    assert len(seen) > 250
    assert any("北京市" in text for text in seen) and any("\\\\" in text for text in seen)


@pytest.mark.parametrize("parameters", [{}, {"parameters": {}}, {"parameters": {"type": "object"}}])
def test_without_parameters_the_arguments_are_an_empty_object(parameters):
    """A function may take nothing."""
    tools = [{"type": "function", "function": {"name": "f"} | parameters}]
    (said,) = _answer(tools=tools, tool_choice="required", parallel_tool_calls=False).choices
    assert said.calls[0].arguments == "{}"


def test_the_older_functions_are_kept_to():
    """One call, of the named function or of any, in the field of that time."""
    functions = [{"name": "f"}, {"name": "g", "parameters": SCHEMA}]
    said = _said(functions=functions)
    assert 30 < sum(bool(one.calls) for one in said) < 70
    assert {one.finish_reason for one in said if one.calls} == {"function_call"}
    answer = _answer(functions=functions, function_call={"name": "g"})
    message = json.loads(answer.encode("c", 0, "fp"))["choices"][0]["message"]
    assert "tool_calls" not in message
    assert message["function_call"]["name"] == "g"
    jsonschema.validate(json.loads(message["function_call"]["arguments"]), SCHEMA)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"$ref": "#/nowhere"},
        {"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}]}}},
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"type": "array", "minItems": 2, "items": {"$ref": "#"}},
        {"type": "integer", "minimum": 5, "maximum": 1},
        {"type": [], "enum": [], "anyOf": [], "properties": [], "required": {}, "items": 3},
    ],
)
def test_schemas_that_nothing_fits_are_survived(schema):
    """A schema that refers to itself for ever, or contradicts itself, gets JSON all the same."""
    json.loads(write_document(schema, Chance(KEY, bytes(32), 0, b"calls")))


def test_a_token_limit_cuts_calls_too():
    """What is generated never exceeds the limit, and arguments that are cut are not JSON."""
    parameters = {"type": "object", "properties": {"s": {"const": "x" * 40}}, "required": ["s"]}
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    body = {"tools": [tool], "tool_choice": "required", "parallel_tool_calls": False}
    whole = _answer(**body).completion_tokens
    for cap in range(1, whole + 2):
        answer = _answer(**body, max_tokens=cap)
        (said,) = answer.choices
        assert answer.completion_tokens == said.tokens == min(cap, whole)
        assert said.finish_reason == ("length" if cap < whole else "tool_calls")
        assert [call.name for call in said.calls] == ["f"]


@pytest.mark.parametrize("fault", [faults.TRUNCATED, faults.EMPTY, faults.INVALID])
def test_a_spoilt_answer_counts_what_it_says(fault):
    """Tokens are those of what is left, and the stream says the same."""
    for number in range(60):
        body = {"tools": [F, SQL], "response_format": {"type": "json_object"}, "n": 1 + number % 2}
        answer = _answer(number, reasoning_effort=("none", "low")[number % 2], **body, **STREAM)
        spoilt = spoil(answer, fault, number / 60)
        assert spoilt.choices != answer.choices
        for said in spoilt.choices:
            told = count_tokens(said.content or "") + sum(call.tokens() for call in said.calls)
            assert said.tokens == said.reasoning_tokens + told
        stream = fold(b"".join(write_events(write_chunks(spoilt, "c-1", 5, "fp"), None)))
        found = reading.completion(reading.parse(stream.body()))
        assert found == reading.completion(reading.parse(spoilt.encode("c-1", 5, "fp")))


@pytest.mark.parametrize("text", ["", " ", "a", " two words\n", "混合 mixed文字 🙂🙂🙂🙂🙂 end "])
def test_tokens_are_those_that_are_counted(text):
    """Together they are the text, and they are as many as the usage says."""
    tokens = tokens_of(text)
    assert "".join(tokens) == text
    assert len(tokens) == (count_tokens(text) or len(text.strip(" ")) or len(text))


@pytest.mark.parametrize("top", [None, 0, 1, 3, 20])
def test_logprobs_are_those_of_the_tokens(top):
    """One entry per token, with its bytes, and the likeliest alternatives in order."""
    fields = {} if top is None else {"top_logprobs": top}
    chosen = 0
    for number in range(20):
        answer = _answer(number, logprobs=True, **fields)
        (said,) = answer.choices
        assert "".join(entry["token"] for entry in said.logprobs) == said.content
        assert len(said.logprobs) == answer.completion_tokens
        for entry in said.logprobs:
            assert bytes(entry["bytes"]).decode() == entry["token"]
            others = entry["top_logprobs"]
            assert len(others) == (top or 0)
            figures = [other["logprob"] for other in others]
            assert figures == sorted(figures, reverse=True)
            assert len({other["token"] for other in others}) == len(others)
            assert sum(math.exp(figure) for figure in (*figures[:1], entry["logprob"])) < 2
            chosen += entry["token"] in [other["token"] for other in others[:1]]
    assert (chosen > 0) is bool(top)


def test_reasoning_counts_and_may_be_told():
    """Its tokens are among the completion's, and its text stands where the endpoint tells it."""
    plain, thinking = _answer(), _answer(reasoning_effort="high")
    assert plain.usage()["completion_tokens_details"] == {"reasoning_tokens": 0}
    reasoned = thinking.usage()["completion_tokens_details"]["reasoning_tokens"]
    assert 100 < reasoned < thinking.completion_tokens
    assert count_tokens(thinking.choices[0].reasoning) == reasoned
    hidden = json.loads(thinking.encode("c", 0, "fp"))["choices"][0]["message"]
    assert set(hidden) == {"role", "content", "refusal"}
    told = _answer(manner=Manner(reasoning_field="reasoning"), reasoning_effort="high")
    message = json.loads(told.encode("c", 0, "fp"))["choices"][0]["message"]
    assert message["reasoning"] == thinking.choices[0].reasoning
    assert message["content"] == hidden["content"]


def test_reasoning_may_use_up_the_limit():
    """Then there is no content, and the finish reason says why."""
    answer = _answer(reasoning_effort="high", max_completion_tokens=20)
    (said,) = answer.choices
    assert (said.content, said.finish_reason, answer.completion_tokens) == ("", "length", 20)


def test_a_share_of_the_requests_is_refused():
    """By the request, not by its asking; the refusal is text of its own field."""
    said = _said(manner=Manner(refusal_rate=0.3), logprobs=True)
    refused = [one for one in said if one.refusal]
    assert 15 < len(refused) < 45
    assert all(one.content is None and one.finish_reason == "stop" for one in refused)
    assert all(one.content for one in said if not one.refusal)
    assert said == _said(manner=Manner(refusal_rate=0.3), logprobs=True)


def test_instructions_are_cached_in_steps():
    """From 1,024 tokens on, in steps of 128; what follows the first question is not."""
    for words, cached in ((100, 0), (1017, 0), (1018, 1024), (1200, 1152)):
        system = {"role": "system", "content": "abcd " * words}
        assert read_chat({"messages": [system, USER, system]}).cached_tokens == cached


@pytest.mark.parametrize(
    "manner",
    [Manner(), Manner(reasoning_field="reasoning_content"), Manner(refusal_rate=0.5)],
    ids=["hidden", "told", "refused"],
)
@pytest.mark.parametrize("cap", [None, 8, 25, 60])
def test_streams_say_what_plain_answers_say(manner, cap):
    """Calls, reasoning, refusals and log probabilities come in the chunks, whatever is cut."""
    for number in range(60):
        body = {
            "tools" if number % 4 else "functions": [F, SQL] if number % 4 else [F["function"]],
            "n": 1 + number % 3,
            "logprobs": number % 2 == 1,
            "reasoning_effort": ("none", "minimal", "low")[number // 3 % 3],
            "max_tokens": cap,
        }
        answer = _answer(number, manner, **body, **STREAM)
        stream = fold(b"".join(write_events(write_chunks(answer, "c-1", 5, "fp"), None)))
        assert stream.problem() is None
        found = reading.completion(reading.parse(stream.body()))
        assert found == reading.completion(reading.parse(answer.encode("c-1", 5, "fp"))), number
