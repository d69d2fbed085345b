"""The public API as a program uses it, for the type checker: this file is never run."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any, assert_type

from pydantic import TypeAdapter

import batchrun
from batchrun import BatchrunError, Options, RowOutcome, RunStoppedError, Summary


class Term:
    """Stands for a class of Pydantic's."""


def rows() -> Iterator[dict[str, Any]]:
    """Rows as a program makes them."""
    yield {"messages": [{"role": "user", "content": "hi"}]}


def one() -> int:
    """A run, and what its summary offers."""
    try:
        summary = batchrun.run(
            rows(),
            output=Path("run"),
            model="m",
            params={"temperature": 0},
            base_url="http://127.0.0.1:8000/v1",
            concurrency="auto",
            carry=["ticket"],
            raw="errors",
            limit=10,
            prompt="{{ text }}",
            system="Be brief.",
            image=["photo"],
            retry_class=["timeout", "connection"],
            think="split",
            accept_fenced=True,
            on_truncation="retry",
            truncation_limit=4096,
            fallback_model="other",
            schema=Term,
            progress=True,
        )
    except BatchrunError as error:
        return error.exit_code
    assert_type(summary, Summary)
    assert_type(summary.ok, int)
    assert_type(summary.pending, int | None)
    assert_type(summary.results_path, Path | str)
    assert_type(summary.to_dict(), dict[str, Any])
    assert_type(summary.cost_usd, float | None)
    summary.to_arrow(["row"], scores=True)
    summary.to_pandas()
    summary.to_polars(["row", "content"])
    if summary.status == "complete":
        return 0
    return summary.exit_code


async def other() -> list[str | None]:
    """The two coroutines."""
    adapted: Options = {"schema": TypeAdapter(list[str])}
    assert adapted
    options: Options = {"output": "run", "rpm": 600, "headers": {"X-Team": "a"}}
    assert_type(await batchrun.arun("rows.jsonl", **options), Summary)
    stream = batchrun.stream(["a.jsonl", Path("b.jsonl")], **options)
    assert_type(stream, AsyncGenerator[RowOutcome, None])
    found = []
    try:
        async for outcome in stream:
            assert_type(outcome.error_class, str | None)
            if outcome.ok:
                found.append(outcome.content)
    except RunStoppedError as stopped:
        assert_type(stopped.by, str)
    return found


asyncio.run(other())


def two() -> float | None:
    """A comparison, and what it offers."""
    found = batchrun.compare(Path("a"), "b", metrics={"accuracy": "avg(correct)"}, key="id")
    assert_type(found.pairs, int)
    assert_type(found.exit_code, int)
    assert_type(found.as_dict(), dict[str, Any])
    return found.metrics["accuracy"].difference
