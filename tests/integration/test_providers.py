"""Providers by name, by the real command, against endpoints that behave as each documents it."""

import json
from dataclasses import dataclass, field

import pytest

from batchrun.adapters.environment.configuration import read_config
from batchrun.core.settings.providers import BUILT_IN, BY_NAME, PROVIDERS
from batchrun.core.settings.resolve import lay_over, resolve

KEY = "key-of-the-provider"
BEARER = {"Authorization": f"Bearer {KEY}"}
CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}


@dataclass(frozen=True)
class Plays:
    """What an endpoint is known for: how it is shown the key, how it refuses, how it answers.

    ``refusal`` (status, headers, body) is its answer to the first request, which is of
    ``error_class`` and asks for a wait of ``wait_s``; ``message`` is that of
    its completions, ``choice`` and ``top`` stand beside it; ``sent`` are parameters that only this
    server knows; ``stream`` are the events of its streams, where they are odd.
    """

    shown: dict = field(default_factory=dict)
    refusal: tuple = (429, {"retry-after": "0"}, {"error": {"message": "slow", "code": None}})
    error_class: str = "rate_limit"
    wait_s: float | None = None
    message: dict = field(default_factory=dict)
    choice: dict = field(default_factory=dict)
    top: dict = field(default_factory=dict)
    usage: dict = field(default_factory=dict)
    columns: dict = field(default_factory=dict)
    sent: dict = field(default_factory=dict)
    path: str = "/v1/chat/completions"
    stream: tuple = ()
    before: bytes = b""


def _delta(finish=None, **delta):
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


REASONED = (
    _delta(role="assistant", content=""),
    _delta(reasoning_content="because"),
    _delta(content="ok"),
    _delta("stop"),
)
CALLED = {"reasoning": None, "tool_calls": [{"name": "look", "arguments": "{}"}]}
PLAYS = {
    "ope-ai": Plays(
        shown=BEARER,
        refusal=(500, {}, {"error": {"message": "busy", "type": "server_error", "code": "500"}}),
        error_class="server_error",
        message={"reasoning_content": "because", "refusal": None},
        columns={"reasoning": "because"},
        sent={"top_k": 20},
        # The index of a tool call is text.
        stream=(
            _delta(role="assistant", content="ok"),
            _delta(tool_calls=[{"index": "0", **CALL}]),
            _delta("tool_calls"),
        ),
    ),
    "ucloud": Plays(
        wait_s=0.0,
        shown=BEARER,
        message={"content": "ok", "refusal": None},
        top={"service_tier": "default", "system_fingerprint": "", "search_result": None},
        columns={"service_tier": "default"},
        sent={"max_completion_tokens": 9, "n": 1, "logit_bias": {"7": 1}, "service_tier": "auto"},
        stream=(*REASONED, {"choices": [], "usage": {"total_tokens": 2}}),
    ),
    "openai": Plays(
        wait_s=0.001,
        shown=BEARER,
        refusal=(
            429,
            {"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "0",
             "x-ratelimit-reset-requests": "12ms", "retry-after-ms": "1"},
            {"error": {"message": "Rate limit reached", "type": "requests", "param": None,
                       "code": "rate_limit_exceeded"}},
        ),
        top={"service_tier": "default"},
        usage={"completion_tokens_details": {"reasoning_tokens": 1}},
        columns={"reasoning_tokens": 1},
        sent={"max_completion_tokens": 9, "verbosity": "low", "prompt_cache_key": "k"},
    ),
    "azure": Plays(
        wait_s=0.0,
        shown={"api-key": KEY},
        path="/openai/v1/chat/completions",
        refusal=(
            429,
            {"x-ratelimit-remaining-requests": "-1", "retry-after": "0", "x-ms-region": "eu"},
            {"error": {"code": "429", "message": "Requests ... retry after 0 seconds."}},
        ),
        choice={"content_filter_results": {"hate": {"filtered": False}}},
        top={"prompt_filter_results": []},
        sent={"data_sources": None, "max_completion_tokens": 9},
        # A chunk without choices first, a choice without a delta last.
        stream=(
            {"id": "", "object": "", "choices": [], "prompt_filter_results": []},
            _delta(role="assistant", content="ok"),
            _delta("stop"),
            {"choices": [{"index": 0, "finish_reason": None, "content_filter_offsets": {}}]},
        ),
    ),
    "deepseek": Plays(
        shown=BEARER,
        refusal=(500, {}, {"error": {"message": "server error", "type": "server_error"}}),
        error_class="server_error",
        before=b"\n\n\n",
        message={"reasoning_content": "because"},
        usage={"prompt_cache_hit_tokens": 1, "prompt_cache_miss_tokens": 0},
        columns={"reasoning": "because", "cached_tokens": 1},
        sent={"thinking": {"type": "enabled"}},
        stream=(": keep-alive", *REASONED),
    ),
    "openrouter": Plays(
        shown=BEARER,
        refusal=(
            200,
            {},
            {"id": None, "choices": None, "error": {"code": 502, "message": "Provider returned "
             "error", "metadata": {"provider_name": "p", "raw": "bad gateway"}}},
        ),
        error_class="server_error",
        message={"reasoning": "because"},
        columns={"reasoning": "because"},
        sent={"provider": {"sort": "price"}, "models": ["a"], "usage": {"include": True}},
        stream=(": OPENROUTER PROCESSING", *REASONED),
    ),
    "groq": Plays(
        shown=BEARER,
        refusal=(
            498, {}, {"error": {"message": "full", "type": "x", "code": "capacity_exceeded"}},
        ),
        error_class="overloaded",
        message={"reasoning": "because"},
        top={"x_groq": {"id": "req_1"}},
        usage={"queue_time": 0.1, "total_time": 0.2},
        columns={"reasoning": "because"},
        sent={"reasoning_format": "parsed", "service_tier": "flex"},
    ),
    "together": Plays(
        wait_s=0.0,
        shown=BEARER,
        refusal=(
            429, {"x-ratelimit-reset": "0", "x-tokenlimit-remaining": "0", "retry-after": "0"},
            {"id": "r", "error": {"message": "dynamic", "type": "dynamic_request_limited"}},
        ),
        choice={"finish_reason": "eos", "seed": 7},
        columns={"finish_reason": "eos"},
        sent={"repetition_penalty": 1.1, "safety_model": "s"},
    ),
    "gemini": Plays(
        wait_s=0.01,
        shown=BEARER,
        refusal=(
            429, {},
            [{"error": {"code": 429, "message": "Please retry in 0.01s.",
                        "status": "RESOURCE_EXHAUSTED", "details": [
                {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "0.01s"}]}}],
        ),
        # `extra_body` is a field of its own on this wire; ours holds it.
        sent={"extra_body": {"google": {"thinking_config": {"include_thoughts": True}}}},
        # A tool call without an index, whole in one chunk.
        stream=(
            _delta(role="assistant", content="ok", tool_calls=[CALL]),
            _delta("tool_calls"),
        ),
    ),
    "mistral": Plays(
        wait_s=0.0,
        shown=BEARER,
        refusal=(
            429, {"x-ratelimit-remaining-req-minute": "0", "retry-after": "0"},
            {"object": "error", "message": "Requests rate limit exceeded", "type": "rate_limited",
             "param": None, "code": "1300"},
        ),
        message={"content": [
            {"type": "thinking", "thinking": [{"type": "text", "text": "because"}]},
            {"type": "text", "text": "ok"},
        ]},
        columns={"reasoning": "because"},
        sent={"random_seed": 7, "safe_prompt": True, "prompt_mode": "reasoning"},
    ),
    "dashscope": Plays(
        wait_s=0.0,
        shown=BEARER,
        message={"reasoning_content": "because"},
        columns={"reasoning": "because"},
        sent={"enable_thinking": True, "thinking_budget": 64},
        stream=(*REASONED, {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}),
    ),
    "moonshot": Plays(
        wait_s=0.0,
        shown=BEARER,
        sent={"max_tokens": 9},
    ),
    "zhipu": Plays(
        wait_s=0.0,
        shown=BEARER,
        sent={"max_tokens": 9, "thinking": {"type": "enabled"}},
    ),
    "minimax": Plays(
        wait_s=0.0,
        shown=BEARER,
        sent={"max_completion_tokens": 9},
    ),
    "volcengine": Plays(wait_s=0.0, shown=BEARER),
    "siliconflow": Plays(
        wait_s=0.0,
        shown=BEARER,
        message={"reasoning_content": "because"},
        columns={"reasoning": "because"},
        stream=REASONED,
    ),
    "qianfan": Plays(wait_s=0.0, shown=BEARER),
    "vllm": Plays(
        shown=BEARER,
        refusal=(503, {}, {"error": {"message": "queue", "type": "Service Unavailable",
                                     "param": None, "code": 503}}),
        error_class="overloaded",
        message={"reasoning": "because", "tool_calls": []},
        choice={"stop_reason": None, "token_ids": None},
        top={"prompt_logprobs": None, "kv_transfer_params": None},
        columns={"reasoning": "because"},
        sent={"chat_template_kwargs": {"enable_thinking": False}, "structured_outputs": {"r": 1}},
    ),
    "sglang": Plays(
        refusal=(503, {}, {"object": "error", "message": "The request queue is full.",
                           "type": "ServiceUnavailableError", "param": None, "code": 503}),
        error_class="overloaded",
        message={"reasoning_content": "because"},
        choice={"matched_stop": 7},
        top={"metadata": {"weight_version": "1"}},
        usage={"reasoning_tokens": 1},
        columns={"reasoning": "because", "reasoning_tokens": 1},
        sent={"regex": "o.", "separate_reasoning": True, "ebnf": None},
        stream=tuple(
            _delta(finish, **{"reasoning_content": None, **delta})
            for finish, delta in ((None, {"reasoning_content": "because"}),
                                  (None, {"content": "ok"}), ("stop", {}))
        ),
    ),
    "llama-cpp": Plays(
        shown=BEARER,
        refusal=(503, {}, {"error": {"code": 503, "message": "Loading model",
                                     "type": "unavailable_error"}}),
        error_class="overloaded",
        message={"reasoning_content": "because"},
        top={"timings": {"predicted_n": 1}, "__verbose": {}},
        columns={"reasoning": "because"},
        sent={"cache_prompt": True, "repeat_penalty": 1.1, "dry_multiplier": 0.5},
    ),
    "ollama": Plays(
        refusal=(500, {}, {"error": {"message": "loading", "type": "api_error", "param": None,
                                     "code": None}}),
        error_class="server_error",
        message={"reasoning": "because"},
        choice={"finish_reason": None},
        columns={"reasoning": "because", "finish_reason": None},
        sent={"reasoning": {"effort": "low"}},
        # No finish reason at all; the whole tool call in one chunk; then [DONE].
        stream=(_delta(role="assistant", content="ok", tool_calls=[{"index": 0, **CALL}]),),
    ),
    "lm-studio": Plays(
        refusal=(500, {}, {"error": "Model reloaded."}),
        error_class="server_error",
        message={"reasoning_content": "because"},
        top={"stats": {}},
        columns={"reasoning": "because"},
        sent={"min_p": 0.1},
    ),
}  # fmt: skip
MESSAGES = [
    {"role": "developer", "content": [{"type": "text", "text": "be kind"}]},
    {"role": "user", "name": "u", "content": [
        {"type": "text", "text": "what is it?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}},
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
        {"type": "file", "file": {"file_data": "data:text/plain;base64,AA==", "filename": "a"}},
        {"type": "video_url", "video_url": {"url": "https://h/v.mp4"}},
    ]},
    {"role": "assistant", "content": None, "reasoning_content": "", "refusal": None,
     "tool_calls": [CALL | {"index": 0, "extra_content": {"google": {"thought_signature": "s"}}}]},
    {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "a cat"}]},
    {"role": "assistant", "audio": {"id": "a"}, "content": [{"type": "refusal", "refusal": "no"}]},
    {"role": "function", "name": "f", "content": "old"},
    {"role": "critic", "content": "a role of tomorrow"},
]  # fmt: skip
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]


@pytest.fixture
def playing(scripted):
    """Starts an endpoint that plays a provider: it refuses the first request."""

    def start(plays):
        def reply(body, headers, nth):
            if any(headers.get(name) != value for name, value in plays.shown.items()):
                return 401, {}, {"error": {"message": "who are you?", "code": "invalid_api_key"}}
            if nth == 1:
                status, more, refused = plays.refusal
                return status, more, json.dumps(refused).encode()
            if body.get("stream") and plays.stream:
                return 200, {"Content-Type": "text/event-stream"}, _events(plays.stream)
            choice = {
                "index": 0,
                "message": {"role": "assistant", "content": "ok"} | plays.message,
                "finish_reason": "stop",
            }
            usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2} | plays.usage
            top = {"id": "c", "object": "chat.completion", "model": "m", "created": 1}
            body = {**top, "choices": [choice | plays.choice], "usage": usage} | plays.top
            return 200, {}, plays.before + json.dumps(body).encode()

        return scripted(reply)

    return start


def _events(stream):
    return b"".join(
        f"{item}\n\n".encode()
        if isinstance(item, str)
        else f"data: {json.dumps(item)}\n\n".encode()
        for item in (*stream, "data: [DONE]")
    )


@pytest.fixture
def set_keys(monkeypatch):
    """Sets a provider's variable, and those of OpenAI to what must not be used."""

    def put(provider):
        monkeypatch.setenv("OPENAI_API_KEY", "key-of-another")
        monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
        monkeypatch.delenv("OPENAI_API_VERSION", raising=False)
        if provider.keys:
            monkeypatch.setenv(provider.keys[0].name, KEY)

    return put


def test_every_provider_is_played():
    """The table above leaves nobody out but what batchrun starts itself: that has its own tests."""
    assert set(PLAYS) == set(BY_NAME) - {*BUILT_IN}


@pytest.mark.parametrize("name", PLAYS)
def test_a_provider_as_it_documents_itself(name, here, playing, set_keys, jsonl, published):
    """Its key header, its parameters, its refusal, its answer and its stream; the messages, of
    every role and kind of part, arrive as they were.
    """
    plays, provider = PLAYS[name], BY_NAME[name]
    set_keys(provider)
    endpoint = playing(plays)
    row = {
        "messages": MESSAGES, "tools": TOOLS, "temperature": 0.5, "id": 7,
        "extra_body": {"of_tomorrow": [1], **plays.sent},
    }  # fmt: skip
    where = endpoint.base_url
    if name == "azure":
        where = where.removesuffix("/v1")
    done = here(jsonl([row]), "-o", "plain", "--provider", name, "--base-url", where)
    assert done.code == 0, done.err
    path, headers, body = endpoint.requests[-1]
    assert path == plays.path
    assert body == {
        "model": "m", "messages": MESSAGES, "tools": TOOLS, "temperature": 0.5,
        "of_tomorrow": [1], **plays.sent,
    }  # fmt: skip
    if not plays.shown:
        assert not {"Authorization", "api-key", "x-api-key"} & set(headers)
    found = published("plain").to_pylist()[0]
    assert (found["content"], found["endpoint"], found["id"]) == ("ok", name, 7)
    assert {key: found[key] for key in plays.columns} == plays.columns
    ledger = published("plain", "attempts").to_pylist()
    assert [line["error_class"] for line in ledger] == [plays.error_class, None]
    assert ledger[0]["retry_after_s"] == plays.wait_s
    if plays.stream:
        done = here(
            jsonl([row]), "-o", "stream", "--stream", "--provider", name, "--base-url", where
        )
        assert done.code == 0, done.err
        assert endpoint.requests[-1][2]["stream"] is True
        found = published("stream").to_pylist()[0]
        assert found["content"] == "ok"
        calls = [dict(call) for call in found["tool_calls"] or ()]
        assert calls in ([], [{"id": "call_1", "type": "function", **CALL["function"]}])
        assert bool(calls) == ("tool_calls" in json.dumps(plays.stream))
        assert (found["reasoning"] == "because") == ("because" in json.dumps(plays.stream))


@pytest.mark.parametrize("provider", PROVIDERS, ids=lambda provider: provider.name)
def test_parameters_of_a_provider_need_no_extra_body(provider):
    """Each parameter that its play sends is known as one, but for those named like data."""
    from batchrun.core.settings.parameters import SENT

    sent = set(PLAYS[provider.name].sent) if provider.name in PLAYS else set()
    assert sent - {"extra_body", "data_sources"} <= SENT


@pytest.mark.parametrize("inner", [{}, {"extra_body": {"google": {}}}], ids=["plain", "nested"])
def test_parameters_of_the_run_under_extra_body(here, playing, set_keys, jsonl, inner):
    """--param extra_body is merged too, and what a row says itself wins. A field that is called so
    stands inside.
    """
    set_keys(BY_NAME["vllm"])
    endpoint = playing(PLAYS["vllm"])
    extra = json.dumps({"bad_words": ["x"], "top_k": 1, **inner})
    row = {"messages": [{"role": "user", "content": "q"}], "top_k": 2}
    done = here(
        *(jsonl([row]), "-o", "run", "--provider", "vllm", "--base-url", endpoint.base_url),
        *("--param", f"extra_body={extra}"),
    )
    assert done.code == 0, done.err
    assert endpoint.requests[-1][2] == row | {"model": "m", "bad_words": ["x"], **inner}


def test_an_extra_body_that_is_no_table_is_exit_2(here, jsonl):
    """What cannot be merged is refused before anything is sent."""
    done = here(jsonl(1), "-o", "run", "--provider", "simulator", "--param", "extra_body=7")
    assert done.code == 2
    assert "extra_body" in done.err


@pytest.mark.parametrize("name", [p.name for p in PROVIDERS if p.key_needed])
def test_a_missing_key_is_exit_2(name, here, jsonl, monkeypatch):
    """It names the variables and where they are looked for; OpenAI's is not used instead."""
    for provider in PROVIDERS:
        for key in provider.keys:
            monkeypatch.delenv(key.name, raising=False)
    if name != "openai":
        monkeypatch.setenv("OPENAI_API_KEY", "key-of-another")
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", "https://r.openai.azure.com")
    done = here(jsonl(1), "-o", "run", "--provider", name, "--header", "X-Title: t")
    assert done.code == 2
    for key in BY_NAME[name].keys:
        assert key.name in done.err
    assert ".env" in done.err and "--api-key-file" in done.err


def test_a_key_header_of_ones_own(here, playing, jsonl, monkeypatch):
    """--api-key-header shows the key there, whole, and nowhere else."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    endpoint = playing(Plays(shown={"x-api-key": KEY}))
    done = here(
        *(jsonl(1), "-o", "run", "--base-url", endpoint.base_url),
        *("--api-key-header", "x-api-key"),
    )
    assert done.code == 0, done.err
    assert "Authorization" not in endpoint.requests[-1][1]


@pytest.mark.parametrize("provider", PROVIDERS, ids=lambda provider: provider.name)
def test_the_sample_of_a_provider(provider, samples):
    """There is one for each; it loads, names the provider and resolves to its URL and key."""
    path = samples / "providers" / f"{provider.name}.toml"
    raw, warnings = lay_over(read_config(str(path)), {}, {"output.dir": "run"})
    found = resolve(raw)
    assert warnings == []
    assert found.endpoint.provider == provider.name
    assert found.model is not None
    if provider.base_url is not None:
        assert found.endpoint.base_url == provider.base_url
    assert all((samples.parent / file).exists() for file in found.files)
    text = path.read_text("utf-8")
    assert f"samples/providers/{provider.name}.toml" in text
    assert not provider.keys or provider.keys[0].name in text


def test_there_are_no_other_samples(samples):
    """A sample without a provider would never be tried."""
    assert {path.stem for path in (samples / "providers").iterdir()} == set(BY_NAME)
