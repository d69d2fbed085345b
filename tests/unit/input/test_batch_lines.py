"""A result as a line of the OpenAI Batch API."""

import json

import pytest

from batchrun.core.input.batch_lines import COLUMNS, line

OK = {
    "row": 4,
    "custom_id": "a",
    "status": "ok",
    "content": "Hello.",
    "finish_reason": "stop",
    "model": "m",
    "response_id": "chatcmpl-1",
    "created": 1_700_000_000,
    "prompt_tokens": 7,
    "completion_tokens": 5,
    "total_tokens": 12,
    "http_status": 200,
    "request_id": "req_1",
}


def _line(**fields):
    text = line(dict.fromkeys(COLUMNS) | fields)
    assert b"\n" not in text
    return json.loads(text)


def test_a_kept_reply_is_the_body():
    """The raw reply goes in as it is, numbers as the server wrote them, on one line."""
    kept = '{\n "choices": [],\r\n "x": 1.50, "text": "a\\nb"}'
    raw = line(dict.fromkeys(COLUMNS) | OK | {"response": kept})
    assert b"\n" not in raw
    assert b"\r" not in raw
    assert b'"x": 1.50' in raw
    found = json.loads(raw)
    assert found["id"] == "batch_req_4"
    assert found["custom_id"] == "a"
    assert found["error"] is None
    assert found["response"] == {
        "status_code": 200,
        "request_id": "req_1",
        "body": {"choices": [], "x": 1.5, "text": "a\nb"},
    }


@pytest.mark.parametrize("kept", [None, "", '{"choices": [', "[1]", "\ud800", '{"a": NaN}'])
def test_a_completion_is_built_again(kept):
    """Where no whole reply was kept, the columns tell the same."""
    call = {"id": "c", "type": "function", "name": "f", "arguments": "{}"}
    found = _line(
        **OK,
        response=kept,
        reasoning="hm",
        tool_calls=[call],
        cached_tokens=3,
        reasoning_tokens=0,
        service_tier="default",
    )
    assert found["response"]["body"] == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "Hello.",
                    "refusal": None,
                    "reasoning_content": "hm",
                    "tool_calls": [
                        {
                            "id": "c",
                            "type": "function",
                            "function": {"name": "f", "arguments": "{}"},
                        }
                    ],
                },
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 7,
            "completion_tokens": 5,
            "total_tokens": 12,
            "prompt_tokens_details": {"cached_tokens": 3},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
        "service_tier": "default",
        "system_fingerprint": None,
    }


def test_several_choices_are_built_again():
    """All choices come back, with their logprobs as JSON."""
    choice = dict.fromkeys(("reasoning", "refusal", "tool_calls", "logprobs"))
    choices = [
        choice
        | {"index": 0, "content": "a", "finish_reason": "stop", "logprobs": '{"content":[]}'},
        choice | {"index": 1, "content": "b", "finish_reason": "length"},
    ]
    body = _line(**OK, choices=choices)["response"]["body"]
    assert [c["message"]["content"] for c in body["choices"]] == ["a", "b"]
    assert [c["logprobs"] for c in body["choices"]] == [{"content": []}, None]


def test_no_usage_stays_none():
    """Counts that were not reported are not made up."""
    fields = OK | dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"))
    assert _line(**fields)["response"]["body"]["usage"] is None


REFUSED = {
    "row": 1,
    "status": "error",
    "http_status": 400,
    "error_class": "context_length",
    "error_code": "context_length_exceeded",
    "error_message": "too long",
}


def test_a_refusal_stands_in_the_response():
    """What the server refused has its status and its own error object; ``error`` is null."""
    kept = '{"error": {"message": "too long", "param": "messages"}}'
    found = _line(**REFUSED, response=kept)
    assert found["error"] is None
    assert found["response"]["status_code"] == 400
    assert found["response"]["request_id"] == ""
    assert found["response"]["body"] == json.loads(kept)


@pytest.mark.parametrize("kept", [None, '{"error": {"message": "cut o', "<html>Bad</html>"])
def test_a_refusal_that_was_not_kept_whole_is_built_again(kept):
    """Consumers find an error object under ``body.error`` all the same."""
    error = _line(**REFUSED, response=kept)["response"]["body"]["error"]
    assert error == {
        "message": "too long",
        "type": "context_length",
        "param": None,
        "code": "context_length_exceeded",
    }


@pytest.mark.parametrize(
    ("status", "error_class", "code"),
    [
        (None, "timeout", "request_timeout"),
        (None, "connection", "connection"),
        (None, "invalid_row", "invalid_row"),
        (200, "invalid_response", "invalid_response"),
    ],
)
def test_a_row_without_an_answer_has_an_error(status, error_class, code):
    """No response, and never one that looks like a success."""
    found = _line(
        row=2,
        status="error",
        http_status=status,
        error_class=error_class,
        error_message="why",
        response='{"choices": []}',
    )
    assert found["response"] is None
    assert found["error"] == {"code": code, "message": "why"}
    assert found["custom_id"] == "row-2"
