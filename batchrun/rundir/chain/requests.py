"""The requests of a run's rows, found again: bodies that it kept, or bodies rebuilt from its input.

A rebuilt body is checked against the ``request_hash`` of the row, so that none is returned that was
never sent. Rows come in ascending order, and the input is read forward.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchrun.adapters.sources.files.storage import Stamp
from batchrun.adapters.storage.store import REQUESTS, StoreReader, part_name
from batchrun.core.settings.table import BY_NAME
from batchrun.errors import BatchrunError, InputError, InputLostError, RowError
from batchrun.records import Block, Position, Row, Span
from batchrun.rundir.chain import recorded_input
from batchrun.rundir.chain.recorded_input import Find, Reopened
from batchrun.rundir.chain.source import SourceRun
from batchrun.rundir.inspect import Look
from batchrun.rundir.state_reader import Recorded

INPUT = "input"
KEEP = "`run --requests all` keeps requests"
CHECKED_ROWS = 512


@dataclass(frozen=True, slots=True)
class FoundRequest:
    """The body of a row's request, and where it was found: ``requests``, ``input``, or None if it
    was not found. ``note`` explains.
    """

    body: Mapping[str, Any] | None
    source: str | None
    note: str | None = None


class RemadeRequests:
    """Rebuilds requests from the input of a run, which is opened for the first of them."""

    def __init__(
        self, look: Look, known: Recorded | None, summary: Mapping[str, Any], find: Find
    ) -> None:
        """``known`` and ``summary`` are what the run recorded; ``find`` opens an input."""
        self._look = look
        self._known = known
        self._summary = summary
        self._find = find
        told = summary.get("settings")
        self._settings = dict(told) if isinstance(told, dict) else {}
        self._settings |= known.settings if known is not None else {}
        name = "output.shard_rows"
        self._shard_rows = self._settings.get(name, BY_NAME[name].default)
        self._input: Reopened | None = None
        self._blocks: Iterator[Block] = iter(())
        self._block: Block | None = None
        self.why: str | None = None
        """Why the input cannot be read."""

    def of(
        self, rows: Sequence[int], hashes: Mapping[int, str | None], done: Collection[int]
    ) -> dict[int, FoundRequest]:
        """The requests of some rows, ascending. ``done`` are those with an outcome, whose request
        must have the hash in ``hashes``.
        """
        found: dict[int, FoundRequest] = {}
        opened = self.opened()
        if opened is not None:
            try:
                for row in self._read(opened, rows):
                    found[row.number] = self._one(
                        opened, row, hashes[row.number], done=row.number in done
                    )
            except (BatchrunError, OSError, pa.ArrowException) as error:
                self.why = str(error).partition("\n")[0]
        why = self.why or "the input has no such row any more"
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
        note = f"rebuilt from {where}"
        if not done:
            note += "; the row has no outcome that it could be checked against"
        return FoundRequest(json.loads(request.body), INPUT, note)

    def _read(self, opened: Reopened, rows: Sequence[int]) -> Iterator[Row]:
        """These rows of the input, read from the latest position, or else from the start of their
        shard.
        """
        left, last = set(rows), max(rows)
        block, shard = self._block, min(rows) // self._shard_rows
        if block is None or min(rows) < block.first_row or shard > block.shard:
            self._enter(opened, shard)
        while (block := self._block) is not None:
            for row in block.rows:
                if row.number in left:
                    left.discard(row.number)
                    yield row
            if not left or block.first_row + len(block.rows) > last:
                return
            self._block = next(self._blocks, None)

    def _enter(self, opened: Reopened, shard: int) -> None:
        """Begin reading at a shard, at its recorded place in the input if there is one."""
        before = self._known.shards.get(shard - 1) if self._known is not None else None
        span = Span(0, None, Position())
        if before is not None and before.rows_read == self._shard_rows:
            span = Span(shard, None, before.end)
        self.close()
        self._blocks = opened.reader.blocks([span], limit=None)
        self._block = next(self._blocks, None)

    def close(self) -> None:
        """Close the input's files."""
        with contextlib.suppress(AttributeError):
            self._blocks.close()  # type: ignore[attr-defined]
        self._block = None

    def opened(self) -> Reopened | None:
        """The input, opened; None if it cannot be, and ``why`` says why."""
        if self._input is None and self.why is None:
            try:
                self._input = self._open()
            except (BatchrunError, OSError, pa.ArrowException) as error:
                self.why = f"the input cannot be read again ({str(error).partition(chr(10))[0]})"
        return self._input

    def _open(self) -> Reopened | None:
        known, summary = self._known, self._summary
        reopened = partial(recorded_input.reopened, self._look, summary, known, find=self._find)
        asked = "the input of the run"
        if self._settings.get("input.from") is not None:
            return reopened((), "auto", asked=asked)
        stamps = known.meta.get("input") if known is not None else None
        names = [one["path"] for one in stamps] if isinstance(stamps, list) else []
        names = names or list(self._settings.get("input.files") or ())
        gone = next((name for name in names if "://" not in name and not _is_file(name)), None)
        if gone is not None or not names:
            what = "it is not recorded" if gone is None else f"{gone} is not there"
            if gone == "-":
                what = "it was piped in"
            self.why = f"the input cannot be read again ({what})"
            return None
        sheets = [one.get("sheet") for one in stamps] if isinstance(stamps, list) else []
        names = [
            f"{name}#{sheet}" if sheet else name
            for name, sheet in zip(names, sheets or [None] * len(names), strict=True)
        ]
        form = known.meta.get("input_format") if known is not None else None
        return reopened(names, form or "auto", asked=asked)

    def is_unchanged(self) -> bool:
        """Whether the input is certain to be what the run read."""
        opened = self.opened()
        told = self._known.meta.get("input") if self._known is not None else None
        if opened is None or not isinstance(told, list):
            return False
        now = opened.given.stamps
        return len(now) == len(told) and all(
            stamp.same_as(Stamp.recorded(before)) for stamp, before in zip(now, told, strict=True)
        )


def _is_file(name: str) -> bool:
    """Whether it is a file that can be read more than once: opening a pipe would wait."""
    return Path(name).is_file()


class SourceMessages:
    """The messages of the requests of a run that is a source: see ``adapters.sources.run``."""

    def __init__(self, source: SourceRun, find: Find) -> None:
        self._source = source
        self._store: StoreReader = source.look.store
        self._remade = RemadeRequests(source.look, source.known, source.summary, find)
        name = "output.shard_rows"
        self._shard_rows = source.settings.get(name, BY_NAME[name].default)
        self._held: tuple[tuple[int, int], dict[int, tuple[str, str]]] = ((-1, -1), {})

    def __call__(self, rows: Sequence[int], hashes: Sequence[str | None]) -> list[Any]:
        """The messages of these rows; None for one that was never sent. Raises ``InputLostError``
        for a request that cannot be found.
        """
        wanted = {row: hashed for row, hashed in zip(rows, hashes, strict=True) if hashed}
        found = self._kept(wanted)
        missing = [row for row in wanted if row not in found]
        if missing:
            for row, request in self._remade.of(missing, wanted, missing).items():
                if request.body is None:
                    message = f"{self._source.name} row {row}: {request.note}"
                    raise InputLostError(message)
                found[row] = request.body
        return [found[row].get("messages") if row in found else None for row in rows]

    def _kept(self, wanted: Mapping[int, str]) -> dict[int, Mapping[str, Any]]:
        """The bodies that the run kept of these rows."""
        found: dict[int, Mapping[str, Any]] = {}
        for shard in sorted({row // self._shard_rows for row in wanted}):
            for group in self._groups(shard, wanted):
                for row, (hashed, body) in self._group(shard, group).items():
                    if wanted.get(row) == hashed:
                        found[row] = json.loads(body)
        return found

    def _groups(self, shard: int, wanted: Mapping[int, str]) -> list[int]:
        """The row groups of a part of requests that may contain one of these rows."""
        found = []
        with contextlib.suppress(FileNotFoundError), self._opened(shard) as part:
            place = part.schema_arrow.get_field_index("row")
            for number in range(part.num_row_groups):
                told = part.metadata.row_group(number).column(place).statistics
                known = told is not None and told.has_min_max
                if not known or any(told.min <= row <= told.max for row in wanted):
                    found.append(number)
        return found

    def _group(self, shard: int, group: int) -> dict[int, tuple[str, str]]:
        """The bodies of a row group, kept for the rows that come next."""
        if self._held[0] != (shard, group):
            with self._opened(shard) as part:
                lines = part.read_row_group(group, use_threads=False).to_pylist()
            bodies = {line["row"]: (line["request_hash"], line["body"]) for line in lines}
            self._held = ((shard, group), bodies)
        return self._held[1]

    @contextlib.contextmanager
    def _opened(self, shard: int) -> Iterator[pq.ParquetFile]:
        """A part of requests. Raises ``FileNotFoundError`` if the run kept none."""
        name = f"{REQUESTS}/{part_name(shard)}"
        try:
            with self._store.open(name) as file, pq.ParquetFile(file, pre_buffer=False) as part:
                yield part
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowException) as error:
            message = f"{self._store.where(name)} cannot be read: {error}"
            raise InputLostError(message) from error

    def require(self, status: str) -> None:
        """Raise ``InputError`` if a request of the selected rows (``status``) is missing. Reads
        them only if the run did not keep them and its input was touched.
        """
        if self._are_kept() or self._remade.is_unchanged():
            return
        try:
            for name in self._source.parts:
                self._check(f"results/{name}", status)
        except InputLostError as error:
            message = (
                "a template shows row.messages, and the requests of the run that --from names "
                f"cannot be found again: {error}. Give that run --requests all when it begins, or "
                "leave row.messages out"
            )
            raise InputError(message) from None

    def _check(self, name: str, status: str) -> None:
        columns = ["row", "status", "request_hash"]
        with self._store.open(name) as file, pq.ParquetFile(file, pre_buffer=False) as part:
            for batch in part.iter_batches(CHECKED_ROWS, columns=columns, use_threads=False):
                told = [row for row in batch.to_pylist() if status in ("any", row["status"])]
                self([row["row"] for row in told], [row["request_hash"] for row in told])

    def _are_kept(self) -> bool:
        """Whether the run kept the request of every row that has an outcome."""
        known = self._source.known
        if known is None or not known.shards:
            return False
        for shard in known.shards.values():
            rows = sum(
                sums.get("rows_ok", 0) + sums.get("rows_error", 0)
                for *_, sums in shard.totals.get("groups", ())
            )
            if shard.requests is None or shard.requests[1] != rows:
                return False
        return True
