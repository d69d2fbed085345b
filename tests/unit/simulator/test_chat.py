import hashlib
import json

import pytest

from batchrun.simulator.chat import read_body, read_chat
from batchrun.simulator.completion import Manner, write_answer
from batchrun.simulator.rejections import RejectedError
from batchrun.simulator.writing.draws import seed_key

MESSAGES = [{"role": "user", "content": "Hi there"}]


def _rejection_of(call, *arguments):
    with pytest.raises(RejectedError) as caught:
        call(*arguments)
    reply = caught.value.rejection
    return reply.status, json.loads(reply.body)["error"]


def test_the_digest_is_of_the_canonical_body():
    """Top-level keys sorted, nested order kept, no spaces, UTF-8 unescaped."""
    raw = b'{ "model": "m", "b": {"z": 1.0, "a": "\\u4f60\\u00e9"}, "a": [null, true] }'
    _, digest = read_body(raw)
    canonical = '{"a":[null,true],"b":{"z":1.0,"a":"你é"},"model":"m"}'
    assert digest == hashlib.sha256(canonical.encode()).digest()


@pytest.mark.parametrize(
    "raw", [b"", b"hello", b"[]", b'"text"', b'{"a":NaN}', b'{"a":"\xff"}', b"[" * 100_000]
)
def test_a_body_that_is_no_json_object_is_rejected(raw):
    """Also bytes that are no UTF-8 and absurd nesting."""
    status, error = _rejection_of(read_body, raw)
    assert (status, error["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": ["Hi"]}, "messages[0]"),
        ({"messages": [*MESSAGES, {"content": "Hi"}]}, "messages[1].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": ["Hi"]}]}, "messages[0].content[0]"),
        ({"messages": MESSAGES, "model": 5}, "model"),
        ({"messages": MESSAGES, "n": 0}, "n"),
        ({"messages": MESSAGES, "n": 129}, "n"),
        ({"messages": MESSAGES, "n": "2"}, "n"),
        ({"messages": MESSAGES, "max_tokens": 0}, "max_tokens"),
        ({"messages": MESSAGES, "max_tokens": True}, "max_tokens"),
        ({"messages": MESSAGES, "max_completion_tokens": 1.5}, "max_completion_tokens"),
        ({"messages": MESSAGES, "stream": "yes"}, "stream"),
    ],
)
def test_a_bad_field_is_named(body, param):
    """Status 400 in OpenAI's envelope, with the field in `param`."""
    status, error = _rejection_of(read_chat, body)
    assert (status, error["type"], error["param"]) == (400, "invalid_request_error", param)


def test_prompt_tokens_count_all_text():
    """3 to prime, 3 per message, and the text of strings and parts; other parts count nothing."""
    body = {
        "messages": [
            {"role": "system", "content": "Be nice"},
            {"role": "user", "content": [{"type": "text", "text": "你好"}, {"type": "image_url"}]},
            {"role": "assistant", "content": None},
        ]
    }
    chat = read_chat(body)
    assert chat.prompt_tokens == 3 + 3 * 3 + 2 + 2
    assert chat.said == "你好"


def test_unknown_fields_and_nulls_are_ignored():
    """Vendor extras ride along; null means not set."""
    body = {"messages": MESSAGES, "top_k": 5, "n": None, "max_tokens": None, "stream": False}
    chat = read_chat(body)
    assert (chat.choices, chat.completion_tokens_max, chat.said) == (1, None, "Hi there")


def test_the_newer_token_limit_wins():
    """`max_completion_tokens` before `max_tokens`."""
    body = {"messages": MESSAGES, "max_tokens": 50, "max_completion_tokens": 7}
    assert read_chat(body).completion_tokens_max == 7


def test_token_limits_charge_the_most_that_may_come():
    """Prompt plus the maximum of every choice, or what will come where no maximum is set."""
    capped = read_chat({"messages": MESSAGES, "max_tokens": 100, "n": 2})
    assert capped.tokens_charged(60) == capped.prompt_tokens + 200
    free = read_chat({"messages": MESSAGES})
    assert free.tokens_charged(60) == free.prompt_tokens + 60


def test_an_answer_has_all_that_openai_sends():
    """The whole body of a completion with two choices, field by field."""
    chat = read_chat({"messages": MESSAGES, "n": 2, "model": "m"})
    answer = write_answer(chat, bytes(32), seed_key(0), Manner())
    body = json.loads(answer.encode("chatcmpl-1", 1_700_000_000, "fp_1"))
    contents = [choice["message"].pop("content") for choice in body["choices"]]
    assert all(content.startswith('Re: "Hi there"') for content in contents)
    usage = body.pop("usage")
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["prompt_tokens_details"] == {"cached_tokens": 0}
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 0}
    assert body == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "m",
        "choices": [
            {
                "index": index,
                "message": {"role": "assistant", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
            for index in range(2)
        ],
        "service_tier": "default",
        "system_fingerprint": "fp_1",
    }


@pytest.mark.parametrize(
    ("charge", "tokens"), [("sum", 400), ("max", 400), ("input", 0), ("real", 60)]
)
def test_what_a_request_counts_for_is_the_servers_rule(charge, tokens):
    """Prompt plus maximum, the larger of them, the prompt alone, or what is really used."""
    chat = read_chat(
        {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 200, "n": 2}
    )
    prompt = 0 if charge == "max" else chat.prompt_tokens
    assert chat.tokens_charged(60, charge) == prompt + tokens


def test_a_long_prompt_is_the_larger_one():
    """By the rule `max`, a prompt longer than the maximum counts for itself."""
    chat = read_chat({"messages": [{"role": "user", "content": "hello " * 500}], "max_tokens": 20})
    assert chat.tokens_charged(10, "max") == chat.prompt_tokens > 20
