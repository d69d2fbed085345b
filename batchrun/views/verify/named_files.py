"""Which files of ``responses/`` rows name, read from results without the writers' code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from batchrun.adapters.storage.store import RESPONSES


def named_in(batch: pa.RecordBatch) -> Iterator[tuple[int, str]]:
    """Row and file, for every file that results name."""
    for row, status, response, media in zip(
        *(batch.column(name).to_pylist() for name in ("row", "status", "response", "media")),
        strict=True,
    ):
        if status == "ok" and response is not None and len(response) < 128:
            name = _of(_parsed(response))
            if name is not None:
                yield row, name
        for medium in media or ():
            name = _of(medium)
            if name is not None:
                yield row, name


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _of(value: Any) -> str | None:
    file = value.get("file") if isinstance(value, dict) else None
    if not isinstance(file, str) or not file.startswith(f"{RESPONSES}/"):
        return None
    return file.partition("/")[2]
