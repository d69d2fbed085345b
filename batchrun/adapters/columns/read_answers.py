"""Turns published results into records again: the inverse of ``arrow.result_columns``.

Columns are turned into lists as a whole. If a column has no nulls, which is nearly always the case,
its buffers are read directly, in a tenth of the time that Arrow takes to make Python values one by
one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import Any, Literal

import pyarrow as pa

from batchrun.adapters.columns import large_answers
from batchrun.adapters.columns import schema as part_schema
from batchrun.adapters.columns.columns import MESSAGES
from batchrun.adapters.storage.store import RESPONSES
from batchrun.records import (
    Attempt,
    Choice,
    Completion,
    Conversation,
    Media,
    Outcome,
    Reused,
    ReusedRows,
    ToolCall,
    Usage,
)

_UNREAD = frozenset("custom_id error_class error_code error_message cost_usd attempts".split())
COLUMNS = (*(name for name in part_schema.RESULT_NAMES if name not in _UNREAD), MESSAGES.name)
"""The fields that are read: the others come from the new row, or are empty."""
_LONG = ("response", "content")
_TOGETHER = (*((name,) for name in _LONG), tuple(name for name in COLUMNS if name not in _LONG))
_NUMBERS: Mapping[pa.DataType, Literal["q", "d", "i", "h"]] = {
    pa.timestamp("us", tz="UTC"): "q",
    pa.timestamp("ms", tz="UTC"): "q",
    pa.int64(): "q",
    pa.float64(): "d",
    pa.int32(): "i",
    pa.int16(): "h",
}
_REFERENCE = '{"file": '
_BY_INDEX = itemgetter(Choice._fields.index("index"))
_new = tuple.__new__  # half the time of calling the named tuple
_UNTOLD = (None,) * len("usage_raw billed_from decided_by turn".split())
"""The last fields of ``Attempt``, which results do not have."""


def rows(read: Callable[[Sequence[str]], pa.Table]) -> list[Sequence[Any]]:
    """The rows of results, for ``answers``. ``read`` returns some of their columns: the longest are
    read separately, so that one is not in memory twice while the next is read.
    """
    found: dict[str, Sequence[Any]] = {}
    for names in _TOGETHER:
        results = read(names)
        for name in names:
            found[name] = column(results, name)
        del results
    return list(zip(*(found[name] for name in COLUMNS), strict=True))


def table(read: Callable[[Sequence[str]], pa.Table]) -> pa.Table:
    """Like ``rows``, but the results stay columns."""
    pieces = [read(names) for names in _TOGETHER]
    names = [name for piece in pieces for name in piece.schema.names]
    return pa.table([column for piece in pieces for column in piece.columns], names=names)


def answers(
    found: Iterable[Sequence[Any]], run: str, content: Callable[[str], bytes]
) -> Iterator[Outcome | None]:
    """Some ``rows`` as outcomes that reuse their answers, None for rows without one. ``run`` is the
    id of the run that has the results, ``content`` reads a file of its ``responses/``.
    """
    for (
        row,
        status,
        text,
        reasoning,
        refusal,
        calls,
        finish_reason,
        choices,
        model,
        response_id,
        fingerprint,
        tier,
        created_ms,
        prompt,
        completion,
        total,
        cached,
        written,
        reasoned,
        http_status,
        endpoint,
        request_id,
        started_us,
        latency_s,
        ttft_s,
        reused_from,
        request_hash,
        asked,
        media,
        response,
        messages,
    ) in found:
        if status != "ok" or request_hash is None:
            yield None
            continue
        usage = _new(Usage, (prompt, completion, total, cached, reasoned, written))
        first = _new(
            Choice,
            (0, text, reasoning, refusal, finish_reason, calls and _calls(calls), None),
        )
        several = None
        if choices is not None:
            several = _choices(choices)
            first = min(several or (first,), key=_BY_INDEX)
        made_s = None if created_ms is None else created_ms // 1000
        shown = None if media is None else _media(media, content)
        said = _new(
            Completion,
            (first, several, model, response_id, fingerprint, tier, made_s, usage, shown),
        )
        decided = (row, 0, endpoint or "", model, tier, started_us or 0, 0.0, latency_s or 0.0)
        answered = (http_status, None, None, None, usage, 0, request_id, False, ttft_s, *_UNTOLD)
        attempt = _new(Attempt, (*decided, *answered))
        if response is not None and response.startswith(_REFERENCE):
            name = large_answers.reference(response)
            if name is not None:
                response = content(name).decode("utf-8", "replace")  # noqa: PLW2901 - whole again
        reused = _new(Reused, (reused_from or f"{run}:{row}", attempt))
        talk = None if messages is None else Conversation(messages, usage, 0)
        yield _new(
            Outcome,
            (row, None, said, None, 0, None, request_hash, response, asked, reused, None, talk),
        )


def outcomes(reused: ReusedRows) -> list[Outcome]:
    """The outcomes of rows with answers that the journal has as columns."""
    results = part_schema.from_ipc(reused.results)
    ids = column(results, "custom_id")
    found = answers(rows(partial(some, results)), "", _no_file)
    return [
        outcome._replace(custom_id=custom_id)
        for outcome, custom_id in zip(found, ids, strict=True)
        if outcome is not None
    ]


def _no_file(name: str) -> bytes:
    raise AssertionError(name)  # an answer in a file of another run is never taken as columns


def some(table: pa.Table, names: Sequence[str]) -> pa.Table:
    """The names among these that exist as columns."""
    there = table.schema.names
    return table.select([name for name in names if name in there])


def column(table: pa.Table, name: str) -> Sequence[Any]:
    """A column's values; times as integers in their unit. All None if the column is missing."""
    place = table.schema.get_field_index(name)
    if place < 0 or _is_carried(table.schema, name):
        return [None] * table.num_rows
    return values(table.column(place))


def values(chunked: pa.ChunkedArray) -> list[Any]:
    """A column's values; times as integers in their unit."""
    if chunked.null_count == len(chunked):
        return [None] * len(chunked)
    found: list[Any] = []
    for chunk in chunked.chunks:
        if chunk.null_count == 0:
            found += _plain(chunk)
        else:
            whole = chunk.view(pa.int64()) if pa.types.is_timestamp(chunk.type) else chunk
            found += whole.to_pylist()
    return found


def _is_carried(schema: pa.Schema, name: str) -> bool:
    """Whether the name belongs to an input column, in a run that an earlier version began."""
    if name == MESSAGES.name:
        return bool(schema.field(name).type != MESSAGES.type)
    kind = dict(part_schema.RESULT_FIELDS)[name]
    if name == "reused_from":
        return not part_schema.marks_reused(schema)
    return bool(name in part_schema.ADDED_LATER and schema.field(name).type != kind)


def _plain(array: pa.Array) -> list[Any]:
    """The values of an array without nulls."""
    code = _NUMBERS.get(array.type)
    if code is not None:
        values: memoryview[Any] = memoryview(array.buffers()[1]).cast("B").cast(code)
        return list(values[array.offset : array.offset + len(array)].tolist())
    if array.type != pa.string() or not len(array):
        return array.to_pylist()  # type: ignore[no-any-return]
    _, offsets, data = array.buffers()
    ends = memoryview(offsets).cast("B").cast("i")[array.offset : array.offset + len(array) + 1]
    ends_list = ends.tolist()
    start = ends_list[0]
    whole = memoryview(b"" if data is None else data)[start : ends_list[-1]]
    try:
        text = str(whole, "ascii")
    except UnicodeDecodeError:
        return [
            str(whole[a - start : b - start], "utf-8", "replace")
            for a, b in itertools.pairwise(ends_list)
        ]
    return [text[a - start : b - start] for a, b in itertools.pairwise(ends_list)]


def _calls(calls: list[dict[str, Any]] | None) -> tuple[ToolCall, ...] | None:
    return None if calls is None else tuple(ToolCall(**call) for call in calls)


def _choices(choices: list[dict[str, Any]] | None) -> tuple[Choice, ...] | None:
    if choices is None:
        return None
    return tuple(Choice(**{**c, "tool_calls": _calls(c["tool_calls"])}) for c in choices)


def _media(
    media: list[dict[str, Any]] | None, content: Callable[[str], bytes]
) -> tuple[Media, ...] | None:
    """Media with their bytes, since this run has no files of the other one."""
    if media is None:
        return None
    found = []
    for each in media:
        data, file = each["bytes"], each["file"]
        if file is not None and file.startswith(f"{RESPONSES}/"):
            data, file = content(file), None
        found.append(Media(each["kind"], each["mime"], data, file))
    return tuple(found)
