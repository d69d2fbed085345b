"""Everything that is known of one row, gathered from the files of a run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from batchrun.adapters.columns.columns import MESSAGES
from batchrun.adapters.columns.schema import REPEAT_NAMES, RESULT_NAMES, repeats_in
from batchrun.core.request.conversation import TURNS
from batchrun.views.durable.durable_rows import DurableRows
from batchrun.views.show.request_found import FoundRequest, Requests

PENDING = "pending"
CONTENTS = (
    *("content", "reasoning", "refusal", "tool_calls", "choices", "media", "response"),
    MESSAGES.name,
)
"""Columns with what people and models wrote: left out of JSON unless asked for."""


KEYS = {
    "row": "The row's number.",
    "custom_id": "Its id, or null.",
    "repeat_of": "The row of the input that it repeats. Only with `--repeat`.",
    "repeat": "Which of that row's repeats it is, from 0. Only with `--repeat`.",
    "status": "`ok`, `error`, or `pending` for a row without an outcome.",
    "request.source": "Where the request was found: `requests`, `input`, or null.",
    "request.note": "What there is to know about that: where it stands, or why it is not there.",
    "request.parameters": "The names of the parameters in the body. Missing without a request.",
    "request.messages": "Of each message `role` and `characters`. Missing without a request.",
    "request.turns": "The same of the user's turns of a conversation. Missing without turns.",
    "attempts": "The row's lines in `attempts/`, in order, without `row`.",
    "scores": (
        "The scores of the row and the verdicts of judges by name, from `scores/`; texts of judges "
        "only with `--content`."
    ),
}
"""What the keys of a row mean in ``show --json``, for the reference."""


@dataclass(frozen=True, slots=True)
class ShownRow:
    """One row. ``result`` has the columns of the contract, empty for a pending row; ``carried``
    the columns of the input.
    """

    number: int
    result: Mapping[str, Any]
    carried: Mapping[str, Any]
    attempts: Sequence[Mapping[str, Any]]
    request: FoundRequest
    scores: Mapping[str, Any] = field(default_factory=dict)
    has_turns: bool = False
    """Whether it is a conversation."""

    @property
    def status(self) -> str:
        """``ok``, ``error`` or ``pending``."""
        return str(self.result.get("status", PENDING))

    @property
    def exchange(self) -> list[Any]:
        """The messages of a conversation from its first turn on; none of any other row."""
        text = self.result.get(MESSAGES.name) if self.has_turns else None
        try:
            said = json.loads(text or "[]")
        except ValueError:
            return []
        if not isinstance(said, list):
            return []
        front = (self.request.body or {}).get("messages")
        if isinstance(front, list):
            return said[len(front) :]
        turns = max((line.get("turn") or 0 for line in self.attempts), default=0)
        return said[len(said) - (2 * turns - (self.status != "ok")) :] if turns else said

    def public(self, *, contents: bool) -> dict[str, Any]:
        """The row for ``--json``; without ``contents`` nothing that people or models wrote."""
        result = {
            name: _plain(self.result.get(name))
            for name in (*RESULT_NAMES, *(n for n in (MESSAGES.name,) if n in self.result))
            if name not in ("row", "custom_id", "status", "attempts")
            and (contents or name not in CONTENTS)
        }
        return {
            "row": self.number,
            "custom_id": self.result.get("custom_id"),
            **{name: self.result[name] for name in REPEAT_NAMES if name in self.result},
            "status": self.status,
            "request": self._request(contents=contents),
            "attempts": [
                {name: _plain(value) for name, value in line.items() if name != "row"}
                for line in self.attempts
            ],
            **result,
            "scores": {
                name: _plain(value)
                for name, value in self.scores.items()
                if contents or not isinstance(value, str)
            },
            **({"input": {n: _plain(v) for n, v in self.carried.items()}} if contents else {}),
        }

    def _request(self, *, contents: bool) -> dict[str, Any] | None:
        found = self.request
        told: dict[str, Any] = {"source": found.source, "note": found.note}
        if found.body is None:
            return told
        own = ("messages", *((TURNS,) if self.has_turns else ()))
        told["parameters"] = sorted(name for name in found.body if name not in own)
        told |= {name: _measured(found.body.get(name)) for name in own}
        return told | ({"body": found.body} if contents else {})


def _measured(messages: object) -> list[dict[str, Any]]:
    return [
        {"role": each.get("role"), "characters": len(text_of(each.get("content")))}
        for each in (messages if isinstance(messages, list) else ())
        if isinstance(each, dict)
    ]


def text_of(content: object) -> str:
    """The text of a message, whatever its form."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else ()
    texts = (part.get("text") for part in parts if isinstance(part, dict))
    return "\n".join(text for text in texts if isinstance(text, str))


def gather(durable: DurableRows, rows: Sequence[int]) -> Iterator[ShownRow]:
    """The rows, in the order asked for; those of one shard are read together."""
    requests = Requests(durable)
    schema = durable.carried()
    carried = set(schema.names)
    if repeats_in(schema) > 1:
        carried -= set(REPEAT_NAMES)
    run: list[int] = []
    size = durable.shard_rows
    for row in [*rows, None]:
        if run and (row is None or row // size != run[-1] // size):
            yield from _of_shard(durable, run, requests, carried)
            run = []
        if row is not None:
            run.append(row)


def _of_shard(
    durable: DurableRows, rows: Sequence[int], requests: Requests, carried: set[str]
) -> Iterator[ShownRow]:
    results, attempts = durable.results(rows), durable.attempts(rows)
    scores = durable.scores(rows)
    hashes = {row: results.get(row, {}).get("request_hash") for row in rows}
    found = requests.of(hashes, list(results))
    for row in rows:
        result = results.get(row, {})
        yield ShownRow(
            row,
            {name: value for name, value in result.items() if name not in carried},
            {name: value for name, value in result.items() if name in carried},
            attempts[row],
            found[row],
            scores.get(row, {}),
            durable.has_turns,
        )


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if hasattr(value, "isoformat"):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, bytes):
        return f"<{len(value):,} bytes>"
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return str(value)
