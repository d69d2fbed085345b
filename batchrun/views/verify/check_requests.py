"""The parts of requests, beside the results: every body is the request of its row.

It shares no code with what wrote them: see ``verify``.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Collection, Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from batchrun.adapters.storage.store import REQUESTS, StoreReader, part_number
from batchrun.core.text.wording import counted
from batchrun.rundir.state_reader import Recorded
from batchrun.views.verify.findings import Report

COLUMNS = (("row", pa.int64()), ("request_hash", pa.string()), ("body", pa.string()))
MARK = "[redacted]"
BATCH_ROWS = 256


def check_requests(
    store: StoreReader, recorded: Recorded | None, names: Collection[str], report: Report
) -> None:
    """Check the parts of these names, and that the recorded ones are there."""
    shards = recorded.shards if recorded else {}
    for shard, one in sorted(shards.items()):
        name = f"part-{shard:08d}.parquet"
        if one.requests is not None and name not in names:
            report.found("file_missing", f"{REQUESTS}/{name} is missing")
    check = _Check(store, report)
    for name in sorted(names):
        known = shards.get(part_number(name) or 0)
        kept = known.requests if known else None
        if recorded is not None and kept is None:
            report.found("file_unknown", f"{REQUESTS}/{name} is not known to the journal")
        try:
            check.part(name, kept)
        except (OSError, pa.ArrowException) as error:
            report.found("file_unreadable", f"{REQUESTS}/{name} cannot be read: {error}")
    if check.redacted:
        report.notes.append(
            f"credentials were taken out of {counted(check.redacted, 'request body')}, "
            "whose hash therefore cannot be compared"
        )


class _Check:
    """One pass over parts of requests; a batch of rows is in memory."""

    def __init__(self, store: StoreReader, report: Report) -> None:
        self._store = store
        self._report = report
        self.redacted = 0

    def part(self, name: str, kept: tuple[str, int] | None) -> None:
        """One part, and what the journal has of it: digest and rows."""
        where, report = f"{REQUESTS}/{name}", self._report
        with self._store.open(where) as file:
            if kept is not None and kept[0]:
                report.digests += 1
                found = hashlib.file_digest(file, "sha256").hexdigest()
                report.claim(found == kept[0], "digest", f"{where} is not what was written")
                file.seek(0)
            with pq.ParquetFile(file, pre_buffer=False) as part:
                schema = part.schema_arrow
                if [(field.name, field.type) for field in schema] != list(COLUMNS):
                    report.found("columns", f"{where}: it has not the columns of requests")
                    return
                rows = part.metadata.num_rows
                if kept is not None:
                    text = f"{where} has {rows:,} rows, the journal says {kept[1]:,}"
                    report.claim(rows == kept[1], "request_count", text)
                with self._hashes(name) as hashes:
                    self._rows(part, where, hashes)

    def _rows(self, part: pq.ParquetFile, where: str, hashes: Iterator[tuple[int, str]]) -> None:
        last, stand = -1, next(hashes, None)
        for batch in part.iter_batches(BATCH_ROWS, use_threads=False):
            for row, hashed, body in zip(*(c.to_pylist() for c in batch.columns), strict=True):
                if row is None or row <= last:
                    text = f"{where}: row {row} comes behind row {last}"
                    self._report.found("row_order", text)
                    continue
                last = row
                while stand is not None and stand[0] < row:
                    stand = next(hashes, None)
                fits = stand is not None and stand == (row, hashed)
                text = f"{where} has another request for row {row} than results/"
                self._report.claim(fits, "request_body", text)
                self._body(where, row, hashed, body or "")

    def _body(self, where: str, row: int, hashed: str | None, body: str) -> None:
        if hashlib.sha256(body.encode()).hexdigest() == hashed:
            return
        if MARK in body:
            self.redacted += 1
            return
        self._report.found("request_body", f"{where}: the body of row {row} has another hash")

    @contextlib.contextmanager
    def _hashes(self, name: str) -> Iterator[Iterator[tuple[int, str]]]:
        """Row and request hash of the results of the same shard, in their order."""
        with contextlib.ExitStack() as stack:
            try:
                file = stack.enter_context(self._store.open(f"results/{name}"))
            except FileNotFoundError:
                yield iter(())
                return
            part = stack.enter_context(pq.ParquetFile(file, pre_buffer=False))
            yield (
                pair
                for batch in part.iter_batches(
                    4096, columns=["row", "request_hash"], use_threads=False
                )
                for pair in zip(*(c.to_pylist() for c in batch.columns), strict=True)
            )
