"""How records become the columns of the published files; ``columns`` lists those."""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any

import pyarrow as pa

from batchrun.adapters.columns import columns
from batchrun.core.cost.money import usd
from batchrun.records import (
    NO_USAGE,
    Attempt,
    Choice,
    Completion,
    Failure,
    Media,
    Outcome,
    ToolCall,
    Usage,
)

JEMALLOC_PAGE_BYTES = 4096

RESULT_FIELDS = tuple((column.name, column.type) for column in columns.RESULTS)
RESULT_TYPES = tuple(kind for _, kind in RESULT_FIELDS)
RESULT_NAMES = tuple(name for name, _ in RESULT_FIELDS)
EXTRA = "extra"
"""The column for carried fields of JSON input that fit no other column."""

ATTEMPT_FIELDS = tuple((column.name, column.type) for column in columns.ATTEMPTS)
ATTEMPT_TYPES = tuple(kind for _, kind in ATTEMPT_FIELDS)

REQUESTS_SCHEMA = pa.schema([pa.field(column.name, column.type) for column in columns.REQUESTS])
"""The schema of every part of requests."""

USAGE_SCHEMA = pa.schema([pa.field(column.name, column.type) for column in columns.USAGE])

REPEAT_OF = pa.field("repeat_of", pa.int64())
REPEAT = pa.field("repeat", pa.int32())
REPEAT_NAMES = (REPEAT_OF.name, REPEAT.name)
"""The columns of a run with ``--repeat``, after the carried ones."""
_TIMES = b"batchrun.repeat"

ADDED_LATER = frozenset(
    "cache_write_tokens media model_asked usage_raw billed_from reused_from decided_by turn".split()
)
"""Columns that parts of version 0.1 lack. They read as null."""

# Text that differs in nearly every row gains nothing from a dictionary.
_PLAIN = frozenset(
    """
    row custom_id content reasoning refusal tool_calls choices response_id created request_id
    started_at latency_s ttft_s reused_from request_hash response queue_s cost_usd media usage_raw
    messages
    """.split()
)


VARIED = frozenset(
    """
    error_message prompt_tokens completion_tokens total_tokens cached_tokens reasoning_tokens
    """.split()
)
"""Columns with a dictionary although their values may be many, or long."""


def results_schema(carried: pa.Schema, *, turns: bool = False) -> pa.Schema:
    """The schema of every results part: the fixed columns, then the carried ones. ``turns`` is
    whether the run is one of conversations (``has_turns``).

    A run that an earlier version began may carry an input column with a name that a later version
    uses for a fixed column. The carried one keeps it.
    """
    taken = {name.casefold() for name in carried.names} & ADDED_LATER
    fixed = [pa.field(name, kind) for name, kind in RESULT_FIELDS if name not in taken]
    if turns:
        fixed.append(pa.field(columns.MESSAGES.name, columns.MESSAGES.type))
    return pa.schema(fixed + list(carried))


def with_repeats(carried: pa.Schema, times: int) -> pa.Schema:
    """Carried columns followed by those of repeats, whose metadata has the number of repeats: in a
    run without repeats, an input column may have the same name.
    """
    counted = REPEAT.with_metadata({_TIMES: str(times).encode()})
    return carried.append(REPEAT_OF).append(counted)


def repeats_in(schema: pa.Schema) -> int:
    """How many rows of results with this schema belong to a row of the input; 1 without repeats."""
    for field in schema:
        if field.name == REPEAT.name and field.metadata and _TIMES in field.metadata:
            return int(field.metadata[_TIMES])
    return 1


def has_turns(settings: Mapping[str, Any] | None) -> bool:
    """Whether a run that recorded these settings is one of conversations."""
    return bool((settings or {}).get("request.turns"))


def marks_reused(schema: pa.Schema) -> bool:
    """Whether results of this schema record which answers were reused. A run that an earlier
    version began may carry an input column of that name; carried columns come last.
    """
    names = schema.names
    return "reused_from" in names and names.index("reused_from") < names.index("request_hash")


def own_columns(schema: pa.Schema) -> frozenset[str]:
    """The columns of a run's results that are not carried."""
    names = schema.names
    own = frozenset(RESULT_NAMES)
    after = names.index("response") + 1 if "response" in names else len(names)
    conversations = names[after : after + 1] == [columns.MESSAGES.name]
    return own | {columns.MESSAGES.name} if conversations else own


def lacks_only_later(found: pa.Schema, schema: pa.Schema) -> bool:
    """Whether a part's columns are those of ``schema``, except some that were ``ADDED_LATER``."""
    names = set(found.names)
    wanted = [f for f in schema if f.name in names or f.name not in ADDED_LATER]
    return [(f.name, f.type) for f in found] == [(f.name, f.type) for f in wanted]


def completed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A table with the columns of ``schema``; missing ones are null."""
    if table.schema.names != schema.names:
        table = pa.table(
            [
                table.column(field.name)
                if field.name in table.schema.names
                else pa.nulls(table.num_rows, field.type)
                for field in schema
            ],
            names=schema.names,
        )
    return table.cast(schema)


def attempts_schema() -> pa.Schema:
    """The schema of every attempts part."""
    return pa.schema([pa.field(name, kind) for name, kind in ATTEMPT_FIELDS])


def dictionary_columns(schema: pa.Schema) -> list[str]:
    """The fixed columns worth a Parquet dictionary; too little is known of carried columns."""
    fixed = {name for name, _ in RESULT_FIELDS} | {name for name, _ in ATTEMPT_FIELDS}
    return [
        field.name
        for field in schema
        if field.name in fixed and field.name not in _PLAIN and not pa.types.is_nested(field.type)
    ]


def arrays(values: Iterable[Sequence[Any]], types: Sequence[pa.DataType]) -> list[pa.Array]:
    """Columns of values, in the order of the types, as one array per type."""
    return [
        # Most rows have no error, refusal or tool call, so values need no individual check.
        pa.nulls(len(column), kind)
        if column and column[0] is None and column.count(None) == len(column)
        else pa.array(column, type=kind)
        for column, kind in zip(values, types, strict=True)
    ]


def table(rows: Sequence[Sequence[Any]], schema: pa.Schema) -> pa.Table:
    """Rows of values, in the schema's order, as a table."""
    return pa.Table.from_arrays(arrays(_turned(rows, len(schema)), schema.types), schema=schema)


def tuples(table: pa.Table) -> Iterator[tuple[Any, ...]]:
    """A table row by row."""
    return zip(*(column.to_pylist() for column in table.columns), strict=True)


# Records become columns by transposing whole tuples. Looking up every field of every row was a
# third of the time of sealing. A missing record is replaced by one without values. The names on the
# left are the records' fields in their order (batchrun.records).

_NO_CHOICE = (None,) * len(Choice._fields)
_NO_COMPLETION = Completion(_NO_CHOICE, *(None,) * 6, NO_USAGE)  # type: ignore[arg-type]
_NO_FAILURE = (None,) * len(Failure._fields)
_NO_ATTEMPT = tuple(NO_USAGE if name == "usage" else None for name in Attempt._fields)
_OF_RESULTS = itemgetter(
    *map(
        Attempt._fields.index,
        "endpoint started_at_us latency_s http_status usage cost_pd request_id ttft_s".split(),
    )
)


def result_columns(outcomes: Sequence[Outcome]) -> list[pa.Array]:
    """Outcomes as arrays in the order of ``RESULT_FIELDS``."""
    row, custom_id, completions, failures, attempts, decided, hashes, response, asked, *rest = (
        _turned(outcomes, len(Outcome._fields))
    )
    reused, _, conversations = rest
    origins: Sequence[str | None] = reused
    if any(reused):
        decided = [a if r is None else r.attempt for a, r in zip(decided, reused, strict=True)]
        origins = [r and r.origin for r in reused]
    answered = all(completions)
    first, choices, model, response_id, fingerprint, tier, created_s, usages, media = _turned(
        completions if answered else [completion or _NO_COMPLETION for completion in completions],
        len(Completion._fields),
    )
    _, content, reasoning, refusal, finish_reason, tool_calls, _ = _turned(
        first, len(Choice._fields)
    )
    error_class, code, message = (failures,) * len(Failure._fields)
    if any(failures):
        error_class, code, message = _turned(
            [failure or _NO_FAILURE for failure in failures], len(Failure._fields)
        )
    if not all(decided):
        decided = [attempt or _NO_ATTEMPT for attempt in decided]
    turned = _turned(decided, len(Attempt._fields))
    endpoint, started, latency, status, used, cost, request_id, ttft = _OF_RESULTS(turned)
    if not answered:
        # A failure's tokens are those of its last attempt.
        usages = [a if c is None else u for c, u, a in zip(completions, usages, used, strict=True)]
    if any(conversations):
        usages = [u if t is None else t.usage for t, u in zip(conversations, usages, strict=True)]
        cost = [c if t is None else t.cost_pd for t, c in zip(conversations, cost, strict=True)]
    values = (
        row,
        custom_id,
        ["error" if completion is None else "ok" for completion in completions],
        content,
        reasoning,
        refusal,
        _each(_tool_calls, tool_calls),
        finish_reason,
        _each(_choices, choices),
        model,
        response_id,
        fingerprint,
        tier,
        [None if created is None else created * 1000 for created in created_s],
        *_token_columns(usages),
        _each(_usd, cost),
        attempts,
        status,
        error_class,
        code,
        message,
        endpoint,
        request_id,
        started,
        latency,
        ttft,
        origins,
        hashes,
        asked,
        _each(_media, media),
        response,
    )
    return arrays(values, RESULT_TYPES)


def messages_column(outcomes: Sequence[Outcome]) -> pa.Array:
    """The messages of conversations, as JSON text."""
    texts = [o.conversation.messages if o.conversation else None for o in outcomes]
    return pa.array(texts, columns.MESSAGES.type)


def attempt_columns(attempts: Sequence[Attempt]) -> list[pa.Array]:
    """Attempts as arrays in the order of ``ATTEMPT_FIELDS``."""
    *before, usages, cost, request_id, unanswered, _, raw, read, decided_by, turn = _turned(
        attempts, len(Attempt._fields)
    )
    after = (_each(_usd, cost), request_id, decided_by, unanswered, raw, read, turn)
    values = (*before, *_token_columns(usages), *after)
    return arrays(values, ATTEMPT_TYPES)


def _token_columns(usages: Sequence[Usage]) -> Sequence[Sequence[Any]]:
    """The counts in the order of the columns; in a record, later additions are at the end."""
    prompt, completion, total, cached, reasoning, cache_write = _turned(usages, len(Usage._fields))
    return prompt, completion, total, cached, cache_write, reasoning


def _turned(records: Sequence[Sequence[Any]], width: int) -> Sequence[Sequence[Any]]:
    """The fields of records, each as one column."""
    return tuple(zip(*records, strict=True)) if records else ((),) * width


def _each(change: Callable[[Any], Any], values: Sequence[Any]) -> Sequence[Any]:
    """The values of a column, each converted. In most pieces all of them are null."""
    return list(map(change, values)) if any(values) else values


def _usd(cost_pd: int | None) -> float | None:
    return None if cost_pd is None else usd(cost_pd)


def _tool_calls(calls: tuple[ToolCall, ...] | None) -> list[dict[str, Any]] | None:
    if calls is None:
        return None
    return [{"id": c.id, "type": c.type, "name": c.name, "arguments": c.arguments} for c in calls]


def _media(media: tuple[Media, ...] | None) -> list[dict[str, Any]] | None:
    if media is None:
        return None
    return [{"kind": m.kind, "mime": m.mime, "bytes": m.data, "file": m.file} for m in media]


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
    """Make Arrow look for pandas now, and remember the result. Otherwise it looks when it makes the
    first list into an array and, without NumPy, again when it reads the first timestamp.
    """
    pa.array([0])
    pa.scalar(0, pa.duration("ns")).as_py()


def load_functions() -> None:
    """Load Arrow's functions over columns now; they look for NumPy as they are loaded."""
    import pyarrow.compute  # noqa: F401


def choose_lean_pool() -> None:
    """Make Arrow use jemalloc, if its build has that: the pool that keeps the least freed memory
    (docs/adr/0006). It is built for one page size and fails on others, which some ARM machines
    have.
    """
    if mmap.PAGESIZE == JEMALLOC_PAGE_BYTES:
        with contextlib.suppress(NotImplementedError):
            pa.set_memory_pool(pa.jemalloc_memory_pool())


def to_ipc(batch: pa.RecordBatch | pa.Table) -> bytes:
    """A batch as one self-describing IPC stream: exact types, dictionaries included."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write(batch)
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
