"""What answers in a table of results are like: cut off by a token limit, or empty."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from batchrun.core import answer

_ROWS = 1024
COLUMNS = ("finish_reason", "content", "refusal", "tool_calls", "choices")
"""The columns that tell it."""


def cut_or_empty(results: pa.Table) -> Iterator[tuple[bool, bool]]:
    """Of every row: whether a token limit cut any of its answers off, and whether any of them
    says nothing. It says nothing of sense about rows without an answer.
    """
    for batch in results.select(list(COLUMNS)).to_batches(max_chunksize=_ROWS):
        for reason, content, refusal, calls, choices in zip(
            *(column.to_pylist() for column in batch.columns), strict=True
        ):
            flat = {
                "finish_reason": reason,
                "content": content,
                "refusal": refusal,
                "tool_calls": calls,
            }
            listed = choices or [flat]
            yield (
                any(answer.cut_off(choice["finish_reason"]) for choice in listed),
                any(
                    answer.blank(choice["content"])
                    and not choice["tool_calls"]
                    and not choice["refusal"]
                    for choice in listed
                ),
            )
