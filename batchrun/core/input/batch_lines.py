"""Results as lines of the OpenAI Batch API's output and error files.

The shape of a line is that of ``BatchRequestOutput`` in OpenAI's API description (openai-openapi,
"The per-line object of the batch output and error files"): ``id``, ``custom_id``, ``response``
with ``status_code``, ``request_id`` and ``body``, and ``error`` with ``code`` and ``message``. What
the API really writes differs from its description in one point (openai-openapi, issue 302), and
is followed here: a request that the server refused has the refusal in ``response``, with its
status and the error object under ``body.error``, and ``error`` is null. Only a request that never
got an answer has ``response: null`` and ``error``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

_encode = msgspec.json.Encoder().encode
_raw = msgspec.json.Decoder(msgspec.Raw).decode

COLUMNS = (
    "row",
    "custom_id",
    "status",
    "content",
    "reasoning",
    "refusal",
    "tool_calls",
    "finish_reason",
    "choices",
    "model",
    "response_id",
    "system_fingerprint",
    "service_tier",
    "created",
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "http_status",
    "error_class",
    "error_code",
    "error_message",
    "request_id",
    "response",
)
"""The result columns that a line is made of."""

CODES = {"timeout": "request_timeout"}
"""Error classes for which the Batch API has a code of its own; the others are their own code."""


def line(row: Mapping[str, Any]) -> bytes:
    """One result as one line, without its line end. ``created`` is in seconds.

    A row without a ``custom_id`` is called ``row-N``, N being its number: consumers of these files
    know requests by nothing else.
    """
    number = row["row"]
    custom_id = row["custom_id"]
    name = f"batch_req_{number}"
    response: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    status = row["http_status"]
    if row["status"] == "ok":
        body = _kept(row["response"]) or _completion(row)
        response = {"status_code": status or 200, "request_id": row["request_id"], "body": body}
    elif status is not None and status >= 400:
        body = _kept(row["response"]) or _refusal(row)
        response = {"status_code": status, "request_id": row["request_id"], "body": body}
    else:
        error_class = row["error_class"]
        error = {"code": CODES.get(error_class, error_class), "message": row["error_message"]}
    if response is not None and response["request_id"] is None:
        response["request_id"] = ""  # the description has text here, never null
    return _encode(
        {
            "id": name,
            "custom_id": f"row-{number}" if custom_id is None else custom_id,
            "response": response,
            "error": error,
        }
    )


def _kept(text: str | None) -> msgspec.Raw | None:
    """The reply as it was kept, on one line; None where there is none or it is no whole object:
    the text of an error is kept up to a limit.
    """
    if text is None or not text.lstrip().startswith("{"):
        return None
    try:
        data = text.encode()
        _raw(data)
    except (UnicodeEncodeError, msgspec.DecodeError, RecursionError):
        return None
    # Outside of strings a line end is white space, and inside JSON has none.
    return msgspec.Raw(data.replace(b"\r", b" ").replace(b"\n", b" "))


def _refusal(row: Mapping[str, Any]) -> dict[str, Any]:
    error = {
        "message": row["error_message"],
        "type": row["error_class"],
        "param": None,
        "code": row["error_code"],
    }
    return {"error": error}


def _completion(row: Mapping[str, Any]) -> dict[str, Any]:
    """The completion, built again from the columns."""
    choices = row["choices"]
    if choices is None:
        choices = [{"index": 0, "logprobs": None, **row}]
    return {
        "id": row["response_id"],
        "object": "chat.completion",
        "created": row["created"],
        "model": row["model"],
        "choices": [_choice(choice) for choice in choices],
        "usage": _usage(row),
        "service_tier": row["service_tier"],
        "system_fingerprint": row["system_fingerprint"],
    }


def _choice(choice: Mapping[str, Any]) -> dict[str, Any]:
    message = {
        "role": "assistant",
        "content": choice["content"],
        "refusal": choice["refusal"],
    }
    if choice["reasoning"] is not None:
        message["reasoning_content"] = choice["reasoning"]
    if choice["tool_calls"] is not None:
        message["tool_calls"] = [
            {
                "id": call["id"],
                "type": call["type"],
                "function": {"name": call["name"], "arguments": call["arguments"]},
            }
            for call in choice["tool_calls"]
        ]
    logprobs = choice["logprobs"]
    return {
        "index": choice["index"],
        "message": message,
        "logprobs": None if logprobs is None else msgspec.Raw(logprobs.encode()),
        "finish_reason": choice["finish_reason"],
    }


def _usage(row: Mapping[str, Any]) -> dict[str, Any] | None:
    counts = ("prompt_tokens", "completion_tokens", "total_tokens")
    usage: dict[str, Any] = {name: row[name] for name in counts}
    if all(count is None for count in usage.values()):
        return None
    details = {
        name: row[name]
        for name in ("cached_tokens", "cache_write_tokens")
        if row.get(name) is not None  # version 0.1 had no column for what is written
    }
    if details:
        usage["prompt_tokens_details"] = details
    if row["reasoning_tokens"] is not None:
        usage["completion_tokens_details"] = {"reasoning_tokens": row["reasoning_tokens"]}
    return usage
