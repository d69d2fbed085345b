"""The request of a row: the body that the run kept, or one made again from the input.

What the input gives is held against the ``request_hash`` of the row, so that no one is shown a
request that was never sent.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from batchrun.adapters.storage.store import REQUESTS
from batchrun.errors import BatchrunError, RowError
from batchrun.records import Position, Row, Span
from batchrun.views.durable import recorded_input
from batchrun.views.durable.durable_rows import DurableRows
from batchrun.views.durable.recorded_input import Reopened

INPUT = "input"
KEEP = "`run --requests all` keeps requests"


@dataclass(frozen=True, slots=True)
class FoundRequest:
    """The body of a row's request, and where it was found: ``requests``, ``input``, or None for
    not at all. ``note`` says what there is to know about that.
    """

    body: Mapping[str, Any] | None
    source: str | None
    note: str | None = None


class Requests:
    """Finds the requests of rows; the input is opened for the first one that was not kept."""

    def __init__(self, durable: DurableRows) -> None:
        self._durable = durable
        self._input: Reopened | None = None
        self._why: str | None = None
        """Why the input cannot be read."""

    def of(self, hashes: Mapping[int, str | None], done: Sequence[int]) -> dict[int, FoundRequest]:
        """The requests of rows of one shard. ``hashes`` has the rows with their request hashes,
        ``done`` those of them that have an outcome.
        """
        rows = list(hashes)
        found: dict[int, FoundRequest] = {}
        for row, (hashed, text) in self._durable.bodies(rows).items():
            if hashed == hashes[row]:
                found[row] = FoundRequest(json.loads(text), REQUESTS)
        for row in done:
            if hashes[row] is None:
                note = "the row was never sent: it could not become a request"
                found[row] = FoundRequest(None, None, note)
        missing = [row for row in rows if row not in found]
        if missing:
            found |= self._made(missing, hashes, done)
        return found

    def _made(
        self, rows: Sequence[int], hashes: Mapping[int, str | None], done: Sequence[int]
    ) -> dict[int, FoundRequest]:
        """Requests made from the input."""
        found: dict[int, FoundRequest] = {}
        opened = self._opened()
        if opened is not None:
            try:
                for row in self._read(opened, rows):
                    found[row.number] = self._one(
                        opened, row, hashes[row.number], done=row.number in done
                    )
            except (BatchrunError, OSError, pa.ArrowException) as error:
                self._why = str(error).partition("\n")[0]
        why = self._why or "the input has no such row any more"
        lost = FoundRequest(None, None, f"the request was not kept, and {why}. {KEEP}")
        return {row: found.get(row, lost) for row in rows}

    def _one(self, opened: Reopened, row: Row, hashed: str | None, *, done: bool) -> FoundRequest:
        try:
            request = opened.build(row)
        except RowError as error:
            return FoundRequest(None, None, f"the input gives no request for it: {error}")
        where = opened.reader.where(row)
        if done and request.hash != hashed:
            note = (
                f"the request was not kept, and {where} gives another one by now: the input "
                f"changed since. {KEEP}"
            )
            return FoundRequest(None, None, note)
        note = f"made again from {where}"
        if not done:
            note += "; the row has no outcome that it could be checked against"
        return FoundRequest(json.loads(request.body), INPUT, note)

    def _read(self, opened: Reopened, rows: Sequence[int]) -> Iterator[Row]:
        """These rows of the input, read from the start of their shard."""
        size = self._durable.shard_rows
        shard = rows[0] // size
        known = self._durable.known
        before = known.shards.get(shard - 1) if known is not None else None
        span = Span(0, shard, Position())
        if before is not None and before.rows_read == size:
            span = Span(shard, shard, before.end)
        left = set(rows)
        blocks = opened.reader.blocks([span], limit=max(rows) + 1)
        with contextlib.closing(blocks):  # type: ignore[type-var]
            for block in blocks:
                for row in block.rows:
                    if row.number in left:
                        left.discard(row.number)
                        yield row
                if not left:
                    return

    def _opened(self) -> Reopened | None:
        if self._input is None and self._why is None:
            try:
                self._input = self._open()
            except (BatchrunError, OSError, pa.ArrowException) as error:
                self._why = f"the input cannot be read again ({str(error).partition(chr(10))[0]})"
        return self._input

    def _open(self) -> Reopened | None:
        durable = self._durable
        known = durable.known
        stamps = known.meta.get("input") if known is not None else None
        names = [one["path"] for one in stamps] if isinstance(stamps, list) else []
        told = durable.summary.get("settings")
        settings = told if isinstance(told, dict) else {}
        names = names or list(settings.get("input.files") or ())
        gone = next((name for name in names if "://" not in name and not _is_file(name)), None)
        if gone is not None or not names:
            what = "it is not recorded" if gone is None else f"{gone} is not there"
            if gone == "-":
                what = "it was piped in"
            self._why = f"the input cannot be read again ({what})"
            return None
        sheets = [one.get("sheet") for one in stamps] if isinstance(stamps, list) else []
        names = [
            f"{name}#{sheet}" if sheet else name
            for name, sheet in zip(names, sheets or [None] * len(names), strict=True)
        ]
        form = known.meta.get("input_format") if known is not None else None
        asked = "the input of the run"
        return recorded_input.reopened(
            durable.look, durable.summary, known, names, form or "auto", asked=asked
        )


def _is_file(name: str) -> bool:
    """Whether it is a file that can be read more than once: opening a pipe would wait."""
    return Path(name).is_file()
