"""OpenAI's own Python client as the referee: asked the same things by the same server, it and a run
have the same answers, plain and streamed.

The client reads plain replies with its types and puts streams together with its own accumulator;
the run is the real command, and its columns are read back from Parquet.
"""

import datetime as dt
import json

import openai
import pytest
from openai.types.chat import ChatCompletion

CLOCK_S = 1_752_345_678.9

CITY = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "unit": {"enum": ["C", "F", None]},
        "days": {"type": "array", "items": {"type": "integer", "minimum": 1}, "maxItems": 3},
        "where": {"$ref": "#/$defs/place"},
    },
    "required": ["city", "days"],
    "$defs": {
        "place": {
            "type": "object",
            "properties": {"name": {"type": ["string", "null"]}, "near": {"type": "number"}},
            "required": ["name"],
        }
    },
}
WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": CITY}}
NOW = {"type": "function", "function": {"name": "now", "description": "The time."}}
SQL = {"type": "custom", "custom": {"name": "sql", "description": "Runs SQL."}}
STRICT = {
    "type": "function",
    "function": {
        "name": "note",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"text": {"type": "string"}, "done": {"type": "boolean"}},
            "required": ["text", "done"],
            "additionalProperties": False,
        },
    },
}
BOTH = [WEATHER, NOW]

ASKED = {
    "plain": {},
    "cut": {"max_tokens": 9},
    "choices": {"n": 3},
    "tier": {"service_tier": "flex"},
    "tools": {"tools": BOTH},
    "tools-required": {"tools": BOTH, "tool_choice": "required"},
    "tools-none": {"tools": BOTH, "tool_choice": "none"},
    "tools-named": {
        "tools": BOTH,
        "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
    },
    "tools-single": {"tools": BOTH, "tool_choice": "required", "parallel_tool_calls": False},
    "tools-strict": {"tools": [STRICT], "tool_choice": "required"},
    "tools-custom": {"tools": [SQL, WEATHER], "tool_choice": "required"},
    "tools-cut": {"tools": [WEATHER], "tool_choice": "required", "max_completion_tokens": 12},
    "tools-choices": {"tools": BOTH, "n": 3},
    "functions": {"functions": [WEATHER["function"]], "n": 3},
    "json": {"response_format": {"type": "json_object"}, "logprobs": True},
    "logprobs": {"logprobs": True},
    "logprobs-top": {"logprobs": True, "top_logprobs": 5, "max_tokens": 40},
    "logprobs-tools": {"logprobs": True, "top_logprobs": 1, "tools": BOTH},
    "logprobs-choices": {"logprobs": True, "top_logprobs": 2, "n": 3},
    "reasoning": {"reasoning_effort": "low"},
    "reasoning-cut": {"reasoning_effort": "high", "max_completion_tokens": 30},
    "reasoning-tools": {"reasoning_effort": "minimal", "tools": BOTH, "tool_choice": "required"},
    "reasoning-all": {
        "reasoning_effort": "minimal",
        "tools": BOTH,
        "n": 3,
        "logprobs": True,
        "top_logprobs": 2,
    },
}
PROMPTS = (
    "Why is the sky blue?",
    "天空为什么是蓝色的？请详细说明。",
    'A "quoted"\n\\back\\slash\t\x7f \u2028 👩‍👩‍👧 e\u0301 ﷽',
)
CACHED = [{"role": "system", "content": "A long instruction that all requests share. " * 200}]


def _bodies():
    """Every way of asking with every prompt, and prompts that are cached."""
    for name, fields in ASKED.items():
        for number, prompt in enumerate(PROMPTS):
            messages = [{"role": "user", "content": prompt}]
            yield f"{name}-{number}", {"model": "m", "messages": messages} | fields
    user = {"role": "user", "content": "And now?"}
    yield "cached", {"model": "m", "messages": [*CACHED, user]}


def _ask(client, body, *, streamed):
    if not streamed:
        return client.chat.completions.create(**body)
    with client.chat.completions.stream(**body, stream_options={"include_usage": True}) as stream:
        for _ in stream:
            pass
        # The final completion is this; asking for it raises where an answer was cut short.
        return stream.current_completion_snapshot


def _calls(message):
    if message.function_call is not None:
        # The older protocol knows neither id nor type.
        return [{"id": None, "type": None} | message.function_call.model_dump()]
    return [_call(call) for call in message.tool_calls or ()] or None


def _call(call):
    rest = call.function if call.type == "function" else call.custom
    inner = rest if isinstance(rest, dict) else rest.model_dump()
    return {
        "id": call.id,
        "type": call.type,
        "name": inner["name"],
        "arguments": inner["arguments" if call.type == "function" else "input"],
    }


def _choice(choice):
    message = choice.message
    more = message.model_extra or {}
    told = [more[name] for name in ("reasoning_content", "reasoning") if name in more]
    return {
        "index": choice.index,
        "content": message.content,
        "reasoning": told[0] if told else None,
        "refusal": message.refusal,
        "finish_reason": choice.finish_reason,
        "tool_calls": _calls(message),
        "logprobs": None if choice.logprobs is None else choice.logprobs.model_dump(mode="json"),
    }


def _columns(completion):
    """What the client read, under the names of the columns."""
    choices = [_choice(choice) for choice in completion.choices]
    usage = completion.usage
    flat = {key: value for key, value in choices[0].items() if key not in ("index", "logprobs")}
    return flat | {
        "choices": choices if len(choices) > 1 or choices[0]["logprobs"] else None,
        "model": completion.model,
        "response_id": completion.id,
        "system_fingerprint": completion.system_fingerprint,
        "service_tier": completion.service_tier,
        "created": dt.datetime.fromtimestamp(completion.created, dt.UTC),
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "cached_tokens": usage.prompt_tokens_details.cached_tokens,
        "reasoning_tokens": usage.completion_tokens_details.reasoning_tokens,
    }


def _published(row, names):
    """The same columns of a row; log probabilities are JSON in a column of text."""
    found = {name: row[name] for name in names}
    for choice in found["choices"] or ():
        if choice["logprobs"] is not None:
            choice["logprobs"] = json.loads(choice["logprobs"])
    return found


def _compare(cli, published, endpoint, bodies, *, streamed):
    """Let both ask, and compare; returns what the client read, by the name of the request."""
    with openai.OpenAI(base_url=endpoint.base_url, api_key="any", max_retries=0) as client:
        told = {name: _columns(_ask(client, body, streamed=streamed)) for name, body in bodies}
    # As if just started: ids, too, are those of the first asking.
    asked = endpoint.stats()["requests_total"]
    endpoint.reset_stats()
    source = cli.folder / "rows.jsonl"
    source.write_text(
        "".join(json.dumps({"custom_id": name} | body) + "\n" for name, body in bodies), "utf-8"
    )
    folder = f"run-{len(list(cli.folder.iterdir()))}"
    flags = ("--stream",) if streamed else ()
    done = cli(
        "run", source, "-o", folder, "--base-url", endpoint.base_url, "--no-progress", *flags
    )
    assert done.code == 0, done.err
    assert endpoint.stats()["requests_total"] == asked == len(bodies)
    rows = published(cli.folder / folder).to_pylist()
    assert [row["custom_id"] for row in rows] == list(told)
    for row, (name, expected) in zip(rows, told.items(), strict=True):
        assert _published(row, expected) == expected, name
        # What is kept of the reply is the answer once more, as the client's types read it.
        assert _columns(ChatCompletion.model_validate_json(row["response"])) == expected, name
    return told


@pytest.mark.slow
@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize(
    "options",
    [
        {"reasoning_field": "reasoning_content"},
        {"reasoning_field": "reasoning", "refusal_rate": 0.4, "seed": 1},
        {"no_done_rate": 1.0, "seed": 2},
    ],
    ids=["reasoning", "refusals", "no-done"],
)
def test_every_column_is_what_the_client_reads(cli, simulator, published, options, streamed):
    """Text, reasoning, refusals, tool calls, choices, log probabilities, ids and usage agree."""
    endpoint = simulator(**options, clock=lambda: CLOCK_S)
    told = _compare(cli, published, endpoint, list(_bodies()), streamed=streamed)
    _require_variety(list(told.values()), options)


def _require_variety(told, options):
    """What agrees is worth something only if all of it occurs."""
    said = [choice for row in told for choice in row["choices"] or [row]]
    calls = [choice["tool_calls"] for choice in said if choice["tool_calls"]]
    assert {len(found) for found in calls} >= {1, 2, 3}
    assert {call["type"] for found in calls for call in found} == {"function", "custom", None}
    assert max(len(call["arguments"]) for found in calls for call in found) > 80
    assert any(choice["tool_calls"] and choice["content"] for choice in said)
    reasons = {"stop", "length", "tool_calls", "function_call"}
    assert {choice["finish_reason"] for choice in said} == reasons
    assert any(row["reasoning"] for row in told) is ("reasoning_field" in options)
    assert any(row["refusal"] for row in told) is ("refusal_rate" in options)
    assert {len(row["choices"] or ()) for row in told} == {0, 1, 3}
    assert {row["service_tier"] for row in told} == {"default", "flex"}
    assert all(any(row[name] for row in told) for name in ("cached_tokens", "reasoning_tokens"))


@pytest.mark.slow
@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
def test_long_answers_are_read_alike(cli, simulator, published, streamed):
    """Much text, in three scripts, arrives whole in both."""
    # The client's accumulator takes a minute for what takes it a second at a quarter of the size.
    size = 20_000 if streamed else 300_000
    endpoint = simulator(reply_bytes=size, clock=lambda: CLOCK_S)
    bodies = [
        (str(number), {"model": "m", "messages": [{"role": "user", "content": prompt}]})
        for number, prompt in enumerate(PROMPTS)
    ]
    told = _compare(cli, published, endpoint, bodies, streamed=streamed)
    assert all(size - 4 < len(row["content"].encode()) <= size for row in told.values())


@pytest.mark.parametrize(
    "name", ["400", "400-invalid", "400-filter", "400-tool", "400-llama", "410", "500", "503"]
)
def test_errors_are_read_alike(here, simulator, jsonl, published, name):
    """Status, code and message of an error are those of the client's exception."""
    endpoint = simulator(error_rates={name: 1.0})
    where = ("--base-url", endpoint.base_url, "--no-progress", "--max-attempts", 1)
    assert here(jsonl(1), "-o", "run", *where).code in (1, 3)
    (row,) = published("run").to_pylist()
    with (
        openai.OpenAI(base_url=endpoint.base_url, api_key="any", max_retries=0) as client,
        pytest.raises(openai.APIStatusError) as caught,
    ):
        client.chat.completions.create(**json.loads(jsonl(1, model="m").read_text("utf-8")))
    error = caught.value
    assert row["http_status"] == error.status_code
    assert row["error_message"] == error.body["message"]
    # Where there is no code, or it repeats the status, the type is the better name.
    code = error.type if error.code in (None, str(error.status_code)) else error.code
    assert row["error_code"] == code
