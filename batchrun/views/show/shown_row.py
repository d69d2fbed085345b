"""Everything that is known of one row, gathered from the files of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from batchrun.adapters.columns.schema import REPEAT_NAMES, RESULT_NAMES, repeats_in
from batchrun.views.durable.durable_rows import DurableRows
from batchrun.views.show.request_found import FoundRequest, Requests

PENDING = "pending"
CONTENTS = ("content", "reasoning", "refusal", "tool_calls", "choices", "media", "response")
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

    @property
    def status(self) -> str:
        """``ok``, ``error`` or ``pending``."""
        return str(self.result.get("status", PENDING))

    def public(self, *, contents: bool) -> dict[str, Any]:
        """The row for ``--json``; without ``contents`` nothing that people or models wrote."""
        result = {
            name: _plain(self.result.get(name))
            for name in RESULT_NAMES
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
        messages = found.body.get("messages")
        told["parameters"] = sorted(name for name in found.body if name != "messages")
        told["messages"] = [
            {"role": each.get("role"), "characters": len(text_of(each.get("content")))}
            for each in (messages if isinstance(messages, list) else ())
            if isinstance(each, dict)
        ]
        return told | ({"body": found.body} if contents else {})


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
