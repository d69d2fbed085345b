"""Samples: bodies, replies, faults, rows and outcomes, each valid unless it says otherwise."""

from __future__ import annotations

import json
from typing import Any

from batchrun.errors import TransportFault
from batchrun.records import (
    NO_USAGE,
    Attempt,
    Choice,
    Completion,
    Failure,
    JsonObject,
    Outcome,
    Reply,
    Row,
    Usage,
)

MODEL = "fake-model"

# Bodies


def completion_body(
    text: str = "Hello.",
    *,
    prompt_tokens: int = 7,
    completion_tokens: int = 5,
    **fields: Any,
) -> bytes:
    """The body of a chat completion with one choice. ``fields`` replace or add top-level ones."""
    message = {"role": "assistant", "content": text}
    usage = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
    body: JsonObject = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_767_225_600,
        "model": MODEL,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": usage,
    }
    return json.dumps(body | fields).encode()


def error_body(message: str, *, code: str | None = None, kind: str | None = None) -> bytes:
    """The body of an error as OpenAI-compatible servers write it."""
    error = {"message": message, "type": kind, "param": None, "code": code}
    return json.dumps({"error": error}).encode()


def ok(text: str = "Hello.", **fields: Any) -> Reply:
    """A reply with a completion."""
    return Reply(200, {}, completion_body(text, **fields))


def refusal(status: int, *, code: str | None = None, retry_after_s: float | None = None) -> Reply:
    """A reply with an error body. ``retry_after_s`` becomes a ``retry-after`` header."""
    headers = {} if retry_after_s is None else {"retry-after": f"{retry_after_s:g}"}
    return Reply(status, headers, error_body(f"status {status}, on purpose", code=code))


def fault(kind: str, *, http_status: int | None = None) -> TransportFault:
    """A fault of the transport: ``kind`` is one of ``TransportFault``'s."""
    sent = kind not in ("dns", "connect", "tls", "proxy")
    return TransportFault(f"{kind}, on purpose", kind=kind, sent=sent, http_status=http_status)


# Input


def chat_row(number: int, **fields: Any) -> Row:
    """A row that can be sent, with a unique body. ``fields`` replace the row's."""
    said = f"question {number}"
    body = {"model": MODEL, "messages": [{"role": "user", "content": said}]}
    row = Row(number, f"id-{number}", body, None, len(said) + 80)
    return row._replace(**fields)


def bad_row(number: int) -> Row:
    """A row that cannot be sent."""
    return Row(number, None, None, f"input.jsonl line {number + 1}: not valid JSON", 10)


# Outcomes


def attempt(row: int, number: int = 1, **fields: Any) -> Attempt:
    """An exchange that failed with a 500 and decided nothing. ``fields`` replace its fields."""
    made = Attempt(
        row=row,
        number=number,
        endpoint="fake",
        model=MODEL,
        service_tier=None,
        started_at_us=1_767_225_600_000_000 + row,
        queue_s=0.0,
        latency_s=0.5,
        http_status=500,
        error_class="server_error",
        error_code=None,
        retry_after_s=None,
        usage=NO_USAGE,
        cost_pd=None,
        request_id=None,
        unanswered=False,
    )
    return made._replace(**fields)


def answered(row: int, attempts: int = 1, text: str = "Hello.") -> Outcome:
    """The outcome of a row that was answered at its last attempt."""
    usage = Usage(7, 5, 12)
    choice = Choice(0, text, None, None, "stop", None, None)
    exchange = attempt(row, attempts, http_status=200, error_class=None, usage=usage)
    return Outcome(
        row=row,
        custom_id=f"id-{row}",
        completion=Completion(choice, None, MODEL, "chatcmpl-1", None, None, 1_767_225_600, usage),
        failure=None,
        attempts=attempts,
        attempt=exchange,
        request_hash=f"{row:064x}",
        response=text,
    )


def failed(row: int, attempts: int = 1, error_class: str = "server_error") -> Outcome:
    """The outcome of a row that ran out of attempts."""
    return answered(row, attempts)._replace(
        completion=None,
        failure=Failure(error_class, None, "failed, on purpose"),
        attempt=attempt(row, attempts, error_class=error_class),
    )
