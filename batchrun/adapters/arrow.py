"""The columns of the published files, and how records become them.

``RESULT_FIELDS`` and ``ATTEMPT_FIELDS`` are the contract of ``results/`` and ``attempts/``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from batchrun.records import NO_USAGE, Attempt, Choice, Outcome, ToolCall

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
_MOMENT = pa.timestamp("us", tz="UTC")

RESULT_FIELDS: tuple[tuple[str, pa.DataType], ...] = (
    ("row", pa.int64()),
    ("custom_id", pa.string()),
    ("status", pa.string()),
    ("content", pa.string()),
    ("reasoning", pa.string()),
    ("refusal", pa.string()),
    ("tool_calls", pa.list_(TOOL_CALL)),
    ("finish_reason", pa.string()),
    ("choices", pa.list_(CHOICE)),
    ("model", pa.string()),
    ("response_id", pa.string()),
    ("system_fingerprint", pa.string()),
    ("service_tier", pa.string()),
    ("created", pa.timestamp("ms", tz="UTC")),
    ("prompt_tokens", pa.int64()),
    ("completion_tokens", pa.int64()),
    ("total_tokens", pa.int64()),
    ("cached_tokens", pa.int64()),
    ("reasoning_tokens", pa.int64()),
    ("cost_usd", pa.float64()),
    ("attempts", pa.int32()),
    ("http_status", pa.int16()),
    ("error_class", pa.string()),
    ("error_code", pa.string()),
    ("error_message", pa.string()),
    ("endpoint", pa.string()),
    ("request_id", pa.string()),
    ("started_at", _MOMENT),
    ("latency_s", pa.float64()),
    ("ttft_s", pa.float64()),
    ("request_hash", pa.string()),
    ("response", pa.string()),
)
RESULT_TYPES = tuple(kind for _, kind in RESULT_FIELDS)
RESULT_NAMES = tuple(name for name, _ in RESULT_FIELDS)
EXTRA = "extra"
"""The column of JSON input's carried fields that fit no column."""

ATTEMPT_FIELDS: tuple[tuple[str, pa.DataType], ...] = (
    ("row", pa.int64()),
    ("attempt", pa.int32()),
    ("endpoint", pa.string()),
    ("model", pa.string()),
    ("service_tier", pa.string()),
    ("started_at", _MOMENT),
    ("queue_s", pa.float64()),
    ("latency_s", pa.float64()),
    ("http_status", pa.int16()),
    ("error_class", pa.string()),
    ("error_code", pa.string()),
    ("retry_after_s", pa.float64()),
    ("prompt_tokens", pa.int64()),
    ("completion_tokens", pa.int64()),
    ("total_tokens", pa.int64()),
    ("cached_tokens", pa.int64()),
    ("reasoning_tokens", pa.int64()),
    ("cost_usd", pa.float64()),
    ("request_id", pa.string()),
    ("unanswered", pa.bool_()),
)

USAGE_SCHEMA = pa.schema(
    [
        ("endpoint", pa.string()),
        ("model", pa.string()),
        ("service_tier", pa.string()),
        ("rows_ok", pa.int64()),
        ("rows_error", pa.int64()),
        ("attempts", pa.int64()),
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
        ("total_tokens", pa.int64()),
        ("cached_tokens", pa.int64()),
        ("reasoning_tokens", pa.int64()),
        ("rows_without_usage", pa.int64()),
        ("cost_usd", pa.float64()),
        ("wasted_cost_usd", pa.float64()),
        ("unanswered_attempts", pa.int64()),
    ]
)

# Text that differs in nearly every row gains nothing from a dictionary.
_PLAIN = frozenset(
    """
    row custom_id content reasoning refusal tool_calls choices response_id created request_id
    started_at latency_s ttft_s request_hash response queue_s cost_usd
    """.split()
)


def results_schema(carried: pa.Schema) -> pa.Schema:
    """The schema of every results part: the fixed columns, then the carried ones."""
    return pa.schema([pa.field(name, kind) for name, kind in RESULT_FIELDS] + list(carried))


def attempts_schema() -> pa.Schema:
    """The schema of every attempts part."""
    return pa.schema([pa.field(name, kind) for name, kind in ATTEMPT_FIELDS])


def dictionary_columns(schema: pa.Schema) -> list[str]:
    """The fixed columns worth a Parquet dictionary; carried columns are not known enough."""
    fixed = {name for name, _ in RESULT_FIELDS} | {name for name, _ in ATTEMPT_FIELDS}
    return [
        field.name
        for field in schema
        if field.name in fixed and field.name not in _PLAIN and not pa.types.is_nested(field.type)
    ]


def columns(rows: Sequence[Sequence[Any]], types: Sequence[pa.DataType]) -> list[pa.Array]:
    """Rows of values, in the order of the types, as one array per type."""
    turned = zip(*rows, strict=True) if rows else ((),) * len(types)
    return [
        # Most rows have no error, refusal or tool call: nothing to look at value by value.
        pa.nulls(len(column), kind)
        if column and column[0] is None and column.count(None) == len(column)
        else pa.array(column, type=kind)
        for column, kind in zip(turned, types, strict=True)
    ]


def table(rows: Sequence[Sequence[Any]], schema: pa.Schema) -> pa.Table:
    """Rows of values, in the schema's order, as a table."""
    return pa.Table.from_arrays(columns(rows, schema.types), schema=schema)


def result_values(outcome: Outcome) -> tuple[Any, ...]:
    """An outcome's values in the order of ``RESULT_FIELDS``."""
    completion, failure, attempt = outcome.completion, outcome.failure, outcome.attempt
    usage = completion.usage if completion else attempt.usage if attempt else NO_USAGE
    first = completion.first if completion else None
    return (
        outcome.row,
        outcome.custom_id,
        "ok" if completion else "error",
        first.content if first else None,
        first.reasoning if first else None,
        first.refusal if first else None,
        _tool_calls(first.tool_calls) if first else None,
        first.finish_reason if first else None,
        _choices(completion.choices) if completion else None,
        completion.model if completion else None,
        completion.response_id if completion else None,
        completion.system_fingerprint if completion else None,
        completion.service_tier if completion else None,
        completion.created_s * 1000 if completion and completion.created_s is not None else None,
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.total_tokens,
        usage.cached_tokens,
        usage.reasoning_tokens,
        attempt.cost_usd if attempt else None,
        outcome.attempts,
        attempt.http_status if attempt else None,
        failure.error_class if failure else None,
        failure.code if failure else None,
        failure.message if failure else None,
        attempt.endpoint if attempt else None,
        attempt.request_id if attempt else None,
        attempt.started_at_us if attempt else None,
        attempt.latency_s if attempt else None,
        attempt.ttft_s if attempt else None,
        outcome.request_hash,
        outcome.response,
    )


def attempt_values(attempt: Attempt) -> tuple[Any, ...]:
    """An attempt's values in the order of ``ATTEMPT_FIELDS``."""
    usage = attempt.usage
    return (
        attempt.row,
        attempt.number,
        attempt.endpoint,
        attempt.model,
        attempt.service_tier,
        attempt.started_at_us,
        attempt.queue_s,
        attempt.latency_s,
        attempt.http_status,
        attempt.error_class,
        attempt.error_code,
        attempt.retry_after_s,
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.total_tokens,
        usage.cached_tokens,
        usage.reasoning_tokens,
        attempt.cost_usd,
        attempt.request_id,
        attempt.unanswered,
    )


def _tool_calls(calls: tuple[ToolCall, ...] | None) -> list[dict[str, Any]] | None:
    if calls is None:
        return None
    return [{"id": c.id, "type": c.type, "name": c.name, "arguments": c.arguments} for c in calls]


def _choices(choices: tuple[Choice, ...] | None) -> list[dict[str, Any]] | None:
    if choices is None:
        return None
    return [
        {
            "index": c.index,
            "content": c.content,
            "reasoning": c.reasoning,
            "refusal": c.refusal,
            "finish_reason": c.finish_reason,
            "tool_calls": _tool_calls(c.tool_calls),
            "logprobs": c.logprobs,
        }
        for c in choices
    ]


def decide_about_pandas() -> None:
    """Arrow looks for pandas at the first list it makes into an array, and remembers."""
    pa.array([0])


def to_ipc(batch: pa.RecordBatch) -> bytes:
    """A batch as one self-describing IPC stream: exact types, dictionaries included."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def from_ipc(data: bytes) -> pa.Table:
    """The inverse of ``to_ipc``."""
    with pa.ipc.open_stream(data) as reader:
        return reader.read_all()


def schema_to_bytes(schema: pa.Schema) -> bytes:
    """A schema for the journal."""
    return bytes(schema.serialize())


def schema_from_bytes(data: bytes) -> pa.Schema:
    """The inverse of ``schema_to_bytes``."""
    return pa.ipc.read_schema(pa.BufferReader(data))
