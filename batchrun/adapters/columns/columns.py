"""The columns of the published files: name, Arrow type and meaning.

This is the contract of ``results/``, ``attempts/`` and ``usage.parquet``; docs/reference.md prints
it.
"""

from __future__ import annotations

from typing import NamedTuple

import pyarrow as pa


class Column(NamedTuple):
    """One column. ``meaning`` is Markdown, for the reference."""

    name: str
    type: pa.DataType
    meaning: str


TOOL_CALL = pa.struct(
    [
        ("id", pa.string()),
        ("type", pa.string()),
        ("name", pa.string()),
        ("arguments", pa.string()),
    ]
)
CHOICE = pa.struct(
    [
        ("index", pa.int32()),
        ("content", pa.string()),
        ("reasoning", pa.string()),
        ("refusal", pa.string()),
        ("finish_reason", pa.string()),
        ("tool_calls", pa.list_(TOOL_CALL)),
        ("logprobs", pa.string()),
    ]
)
MEDIUM = pa.struct(
    [("kind", pa.string()), ("mime", pa.string()), ("bytes", pa.binary()), ("file", pa.string())]
)
_MOMENT = pa.timestamp("us", tz="UTC")

_TOKENS = (
    Column(
        "prompt_tokens",
        pa.int64(),
        "Prompt tokens, as the server reports them. Null if it does not, never 0 instead.",
    ),
    Column("completion_tokens", pa.int64(), "Completion tokens, as reported."),
    Column("total_tokens", pa.int64(), "Prompt and completion tokens together, as reported."),
    Column("cached_tokens", pa.int64(), "Prompt tokens read from the server's cache, as reported."),
    Column(
        "cache_write_tokens",
        pa.int64(),
        "Prompt tokens written to the server's cache, as reported.",
    ),
    Column("reasoning_tokens", pa.int64(), "Completion tokens spent on reasoning, as reported."),
)
"""The usage that a reply reports, in results and attempts."""

RESULTS: tuple[Column, ...] = (
    Column(
        "row",
        pa.int64(),
        "The row's number in the input, from 0. With several input files the count continues "
        "from one file to the next.",
    ),
    Column(
        "custom_id",
        pa.string(),
        "The input's `custom_id`; a number becomes text. Null if the row has none.",
    ),
    Column("status", pa.string(), "`ok` for a completion, `error` for a failure."),
    Column(
        "content",
        pa.string(),
        "The answer's text. Content parts are joined; content that is a JSON value other than "
        "text is stored as JSON text. Null in an `error` row.",
    ),
    Column(
        "reasoning",
        pa.string(),
        "The model's reasoning, if the server sends it in a field of its own or `--think split` "
        "moves it out of the content.",
    ),
    Column(
        "refusal",
        pa.string(),
        "The text with which the model refused. Null if it is only white space.",
    ),
    Column(
        "tool_calls",
        pa.list_(TOOL_CALL),
        "The tools that the model wants to call. `arguments` is the text as sent. A call without "
        "name, arguments and id does not count as one.",
    ),
    Column(
        "finish_reason",
        pa.string(),
        "Why the model stopped, as sent: `stop`, `length`, `tool_calls`, ... Null if the server "
        "gives no reason, or spells null as text (`null`, `None`, an empty text).",
    ),
    Column(
        "choices",
        pa.list_(CHOICE),
        "All choices by index, if there are several or they have logprobs; else null. `logprobs` "
        "is JSON text. The flat columns repeat the choice with the lowest index.",
    ),
    Column("model", pa.string(), "The model that answered, as the server names it."),
    Column("response_id", pa.string(), "The server's id of the completion."),
    Column("system_fingerprint", pa.string(), "The server's fingerprint of its configuration."),
    Column("service_tier", pa.string(), "The service tier that served the request."),
    Column(
        "created",
        pa.timestamp("ms", tz="UTC"),
        "When the completion was created, according to the server.",
    ),
    *_TOKENS,
    Column(
        "cost_usd",
        pa.float64(),
        "The cost of the last attempt; in an `ok` row, of the answer. Null if it is not known.",
    ),
    Column(
        "attempts",
        pa.int32(),
        "Requests sent for this row, over all sessions. 0 for a row that could not be sent.",
    ),
    Column("http_status", pa.int16(), "The HTTP status of the last attempt. Null without a reply."),
    Column(
        "error_class",
        pa.string(),
        "Why the row failed: one of the error classes below. Null in an `ok` row.",
    ),
    Column(
        "error_code",
        pa.string(),
        "The server's code or type of the error, or the kind of transport fault.",
    ),
    Column(
        "error_message",
        pa.string(),
        "What went wrong, in the server's words. For a bad input row: file and line.",
    ),
    Column("endpoint", pa.string(), "The name of the endpoint that the row was sent to."),
    Column(
        "request_id",
        pa.string(),
        "The server's id of the exchange (`x-request-id`), for its support.",
    ),
    Column("started_at", _MOMENT, "When the last attempt was sent."),
    Column(
        "latency_s",
        pa.float64(),
        "Seconds from sending the last attempt to the end of its reply, minus the time for which "
        "batchrun was suspended.",
    ),
    Column(
        "ttft_s",
        pa.float64(),
        "Seconds from sending the last attempt to the first output of the model: text, "
        "reasoning, a refusal or a tool call. Null if the answer was not streamed.",
    ),
    Column(
        "reused_from",
        pa.string(),
        "`RUN:ROW` if `--reuse` took the answer from another run: the id of the run whose "
        "endpoint gave it, and its row there. Tokens, times and endpoint are then those of that "
        "answer, `cost_usd` is 0, the ledger has no line for it, and `attempts` counts what this "
        "run had sent for the row before, nearly always 0. Null in all other rows.",
    ),
    Column("request_hash", pa.string(), "SHA-256 of the request body as sent, in hex."),
    Column("model_asked", pa.string(), "The model that the request named."),
    Column(
        "media",
        pa.list_(MEDIUM),
        "Images, sounds and files in the answer: `kind`, `mime`, and `bytes` up to 1 MiB; above "
        "that, `file` names one in `responses/`. If the server gave only an address, `file` is "
        "that address.",
    ),
    Column(
        "response",
        pa.string(),
        "The raw JSON of the completion up to 1 MiB; above that, "
        '`{"file": "responses/SHA256"}` names the file that has it. In an `error` row, the first '
        "4 KiB of the error's body. A streamed answer is stored as the plain completion that it "
        "adds up to, even a partial one. `--raw` sets which rows keep it.",
    ),
)

MESSAGES = Column(
    "messages",
    pa.string(),
    "The whole exchange as JSON: a list of messages, from the first one sent to the last answer. "
    "In an `error` row it ends with the user's turn that has no answer. Null if the row was never "
    "sent. Only in runs with `--turns`, behind the columns above.",
)
"""The additional results column of a run of conversations."""

ATTEMPTS: tuple[Column, ...] = (
    Column("row", pa.int64(), "The row that the request was sent for."),
    Column(
        "attempt", pa.int32(), "The number of this attempt at the row, from 1, over all sessions."
    ),
    Column("endpoint", pa.string(), "The name of the endpoint that the request was sent to."),
    Column("model", pa.string(), "The model that answered, else the one in the request."),
    Column("service_tier", pa.string(), "The service tier that served the request."),
    Column("started_at", _MOMENT, "When the request was sent."),
    Column("queue_s", pa.float64(), "Seconds that it waited for the limits before it was sent."),
    Column(
        "latency_s",
        pa.float64(),
        "Seconds from sending it to the end of its reply, minus the time for which batchrun was "
        "suspended.",
    ),
    Column("http_status", pa.int16(), "The HTTP status. Null without a reply."),
    Column("error_class", pa.string(), "The error class. Null for a success."),
    Column(
        "error_code",
        pa.string(),
        "The server's code or type of the error, or the kind of transport fault; `interrupted` "
        "if the run ended before the reply arrived; `ledger_lost` if a repair found no more than "
        "that the attempt was made.",
    ),
    Column("retry_after_s", pa.float64(), "Seconds that the server asked to wait."),
    *_TOKENS,
    Column(
        "cost_usd",
        pa.float64(),
        "What this attempt cost. Null if its price or its usage is not known.",
    ),
    Column("request_id", pa.string(), "The server's id of the exchange."),
    Column(
        "decided_by",
        pa.string(),
        "How batchrun decided what happens to the row after this exchange: the words of the steps "
        "that changed something, in order, joined by `>`. See "
        "[how a decision is made](#how-a-decision-is-made). Null where an earlier version, or a "
        "repair, wrote the line.",
    ),
    Column(
        "unanswered",
        pa.bool_(),
        "True if the request may have reached the server and no whole reply came back: it may "
        "have been billed unseen.",
    ),
    Column(
        "usage_raw",
        pa.string(),
        "The server's usage object as JSON text, complete, whatever the columns take from it.",
    ),
    Column(
        "billed_from",
        pa.string(),
        "What the cost is computed from: `reported_cost`, `parts` (prompt and completion tokens), "
        "`total` (it counts tokens that the parts lack) or `cached_beside` (cached tokens come "
        "on top of the prompt's). Null without a cost.",
    ),
    Column(
        "turn",
        pa.int32(),
        "The turn of the conversation that the request was sent for, from 1 (`--turns`). Null in "
        "runs without turns, and if a kill or a repair left no more than the attempt's number.",
    ),
)

REQUESTS: tuple[Column, ...] = (
    Column("row", pa.int64(), "The row's number, as in `results/`."),
    Column("request_hash", pa.string(), "The hash of the request, as in `results/`."),
    Column(
        "body",
        pa.string(),
        "The request's body as JSON: what `request_hash` is the SHA-256 of, with `[redacted]` in "
        "place of credentials that it held.",
    ),
)
"""The columns of the parts of requests (``--requests``)."""

USAGE: tuple[Column, ...] = (
    Column(
        "endpoint",
        pa.string(),
        "The endpoint. Null, as are model and service tier, for rows that were never sent.",
    ),
    Column("model", pa.string(), "The model that answered, else the one in the request."),
    Column("service_tier", pa.string(), "The service tier."),
    Column(
        "rows_ok",
        pa.int64(),
        "Rows with a completion, counted under the endpoint and model of their last attempt.",
    ),
    Column("rows_error", pa.int64(), "Rows that failed, counted in the same way."),
    Column("attempts", pa.int64(), "Attempts, those for pending rows included."),
    Column("prompt_tokens", pa.int64(), "Prompt tokens, summed over the attempts."),
    Column("completion_tokens", pa.int64(), "Completion tokens, summed over the attempts."),
    Column("total_tokens", pa.int64(), "All tokens, summed over the attempts."),
    Column(
        "cached_tokens", pa.int64(), "Prompt tokens read from a cache, summed over the attempts."
    ),
    Column(
        "cache_write_tokens",
        pa.int64(),
        "Prompt tokens written to a cache, summed over the attempts.",
    ),
    Column("reasoning_tokens", pa.int64(), "Reasoning tokens, summed over the attempts."),
    Column(
        "rows_without_usage",
        pa.int64(),
        "Completions without any token count, which the sums therefore miss.",
    ),
    Column(
        "cost_usd",
        pa.float64(),
        "The bill: the cost of all attempts. Null if no cost is known.",
    ),
    Column(
        "wasted_cost_usd",
        pa.float64(),
        "The bill minus the cost of the answers in `ok` rows. Null if no cost is known.",
    ),
    Column(
        "unanswered_attempts",
        pa.int64(),
        "Attempts without a whole reply, which may have been billed unseen.",
    ),
)
