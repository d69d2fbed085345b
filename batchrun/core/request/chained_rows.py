"""Rows that are the answers of another run (``--from``): their columns, and what identifies them.

A template sees the answer as ``row`` (``row.content``) and the columns that the other run carried
under their own names. Two columns tell where a row comes from: ``source_row`` is its row there, and
identifies it from session to session; ``source_hash`` tells whether its answer is still the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from typing import Any

import msgspec

from batchrun.core.request.carried import output_names

KIND = "run"
"""The format of such an input, beside ``jsonl`` and the others."""
ROW = "row"
"""The name by which templates see the answer."""
FIELDS = (
    "content",
    "reasoning",
    "refusal",
    "tool_calls",
    "finish_reason",
    "status",
    "error_class",
    "model",
)
"""What ``row`` has from the columns of the results."""
MESSAGES = "messages"
"""What it has from the request of the row."""
SOURCE_ROW, SOURCE_HASH = "source_row", "source_hash"
IDENTITY = (SOURCE_ROW, SOURCE_HASH)
SOURCE = "source"
"""The key of the state file for where the source of a run is, and its id."""
HASHED = ("content", "refusal", "tool_calls")
"""The columns of the results that ``source_hash`` covers."""

_encode = msgspec.json.Encoder(order="sorted").encode


def source_hash(content: str | None, refusal: str | None, tool_calls: Sequence[Any] | None) -> str:
    """The SHA-256 in hex of an answer's canonical JSON: an object of ``content``, ``refusal`` and
    ``tool_calls``, keys sorted, without white space, UTF-8, null where there is none. A tool call
    has ``arguments`` (text), ``id``, ``name`` and ``type``.
    """
    answer = {"content": content, "refusal": refusal, "tool_calls": tool_calls}
    return hashlib.sha256(_encode(answer)).hexdigest()


def carried_names(names: Sequence[str], taken: Sequence[str] = ()) -> list[str]:
    """The names of the columns that a run carries, as columns of the next one. Those of a chain's
    earlier step make way: ``source_row`` is the row of the nearest run, ``input_source_row`` that
    of the run before. ``taken`` are other names that the next run gives to columns of its own.
    """
    return output_names(names, (*IDENTITY, *taken))


def fields_used(paths: Collection[Sequence[str]], whole: Collection[str]) -> frozenset[str]:
    """Which fields of ``row`` templates use, by the dotted names they look up. Where they use
    ``row`` as a whole, these are all but ``messages``, which is used by its name alone.
    """
    found = {path[1] for path in paths if len(path) > 1 and path[0] == ROW}
    if ROW in whole:
        found.update(FIELDS)
    return frozenset(found)
