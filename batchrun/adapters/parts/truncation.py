"""What answers in a table of results are like: cut off by a token limit, or empty."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator

import pyarrow as pa

from batchrun.adapters.columns import read_answers
from batchrun.core.reply import answer

_ROWS = 1024
_MEDIA = "media"
_FLAT = ("finish_reason", "content", "refusal", "tool_calls", "choices")
COLUMNS = (*_FLAT, _MEDIA)
"""The columns that tell it. A part of version 0.1 lacks the last."""


def cut_or_empty(results: pa.Table) -> Iterator[tuple[bool, bool]]:
    """Of every row: whether a token limit cut any of its answers off, and whether any of them
    says nothing. It says nothing of sense about rows without an answer.
    """
    media = _has_media(results)
    for batch in results.select(list(_FLAT)).to_batches(max_chunksize=_ROWS):
        for reason, content, refusal, calls, choices in zip(
            *(column.to_pylist() for column in batch.columns), strict=True
        ):
            shown = next(media)
            flat = {
                "finish_reason": reason,
                "content": content,
                "refusal": refusal,
                "tool_calls": calls,
            }
            listed = choices or [flat]
            yield (
                any(answer.cut_off(choice["finish_reason"]) for choice in listed),
                not shown
                and any(
                    answer.blank(choice["content"])
                    and not choice["tool_calls"]
                    and not choice["refusal"]
                    for choice in listed
                ),
            )


def counted(results: pa.Table) -> tuple[int, int]:
    """How many answers a token limit cut off, and how many say nothing: of rows with answers."""
    if results.column("choices").null_count == results.num_rows:
        contents = read_answers.values(results.column("content"))
        if not any(map(answer.blank, contents)):
            reasons = Counter(read_answers.values(results.column("finish_reason")))
            return sum(rows for reason, rows in reasons.items() if answer.cut_off(reason)), 0
    told = list(cut_or_empty(results))
    return sum(cut for cut, _ in told), sum(empty for _, empty in told)


def _has_media(results: pa.Table) -> Iterator[bool]:
    """Of every row: whether its answer holds more than text. Their bytes are not looked at."""
    place = results.schema.get_field_index(_MEDIA)
    kind = pa.null() if place < 0 else results.schema.field(place).type
    if not (pa.types.is_list(kind) and pa.types.is_struct(kind.value_type)):
        yield from itertools.repeat(object=False, times=results.num_rows)
        return
    yield from results.column(place).is_valid().to_pylist()
