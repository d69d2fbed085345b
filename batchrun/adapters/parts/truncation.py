"""Flaws of the answers in a table of results: cut off by a token limit, or empty."""

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
"""The columns that show it. A part of version 0.1 lacks the last."""


def cut_or_empty(results: pa.Table) -> Iterator[tuple[bool, bool]]:
    """For every row, whether a token limit cut off any of its answers, and whether any of them is
    empty. The values are meaningless for rows without an answer.
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
    """Among rows with answers, how many were cut off by a token limit, and how many are empty."""
    if results.column("choices").null_count == results.num_rows:
        contents = read_answers.values(results.column("content"))
        if not any(map(answer.blank, contents)):
            reasons = Counter(read_answers.values(results.column("finish_reason")))
            return sum(rows for reason, rows in reasons.items() if answer.cut_off(reason)), 0
    told = list(cut_or_empty(results))
    return sum(cut for cut, _ in told), sum(empty for _, empty in told)


def _has_media(results: pa.Table) -> Iterator[bool]:
    """For every row, whether its answer has more than text. Media bytes are not read."""
    place = results.schema.get_field_index(_MEDIA)
    kind = pa.null() if place < 0 else results.schema.field(place).type
    if not (pa.types.is_list(kind) and pa.types.is_struct(kind.value_type)):
        yield from itertools.repeat(object=False, times=results.num_rows)
        return
    yield from results.column(place).is_valid().to_pylist()
