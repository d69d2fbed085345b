"""The parts of a run directory, one shard after the other: files, digests, rows, ledger, sums."""

from __future__ import annotations

import contextlib
import hashlib
import io
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from batchrun.adapters.columns import schema as part_schema
from batchrun.adapters.storage.store import KINDS, StoreReader, part_number
from batchrun.rundir.state_reader import Recorded, RecordedShard
from batchrun.views.verify import check_ledger, check_rows, check_turns
from batchrun.views.verify.check_ledger import LedgerCheck
from batchrun.views.verify.check_responses import Responses
from batchrun.views.verify.check_rows import RowOrder
from batchrun.views.verify.check_totals import compare_recorded
from batchrun.views.verify.findings import Report
from batchrun.views.verify.part_reader import (
    LEDGER_NAMES,
    MESSAGES,
    RESULT_NAMES,
    PartReader,
    UnreadableError,
)
from batchrun.views.verify.recount import Sums


@dataclass(slots=True)
class Expectation:
    """What the parts of a run should be, as far as it is known.

    ``rows_whole`` is the number of rows of a run that says of itself that nothing is pending.
    """

    shard_rows: int | None
    rows_whole: int | None
    results: pa.Schema | None
    attempts: pa.Schema
    turns: bool = False
    """Whether its rows are conversations."""

    def span(self, shard: int) -> tuple[int | None, int | None]:
        """The rows that a shard is for: first, and behind the last."""
        size = self.shard_rows
        return (None, None) if size is None else (shard * size, (shard + 1) * size)

    def lost_below(self, shard: int, recorded: RecordedShard | None) -> int:
        """The rows of a shard below this one must be there; others may be pending."""
        first, end = self.span(shard)
        if first is None or end is None:
            return 0
        below = first
        if recorded is not None and recorded.complete:
            below = first + recorded.rows_read
        if self.rows_whole is not None:
            below = max(below, min(end, self.rows_whole))
        return below


class Shards:
    """Checks parts, one shard at a time, and adds them up; nothing grows with the rows."""

    def __init__(
        self,
        store: StoreReader,
        recorded: Recorded | None,
        expected: Expectation,
        report: Report,
    ) -> None:
        self._store = store
        self._recorded = recorded
        self._expected = expected
        self._report = report
        self.sums = Sums()
        self.responses = Responses(store, report)

    def check(self, name: str, kinds: list[str]) -> None:
        """One shard, whose part is there of these kinds."""
        report = self._report
        shard = part_number(name)
        assert shard is not None
        known = self._recorded.shards.get(shard) if self._recorded else None
        sums = Sums()
        whole = True
        with contextlib.ExitStack() as stack:
            opened: dict[str, PartReader] = {}
            for kind in reversed(KINDS):
                where = f"{kind}/{name}"
                if kind not in kinds:
                    report.found("file_missing", f"{where} is missing")
                    whole = False
                    continue
                if self._recorded is not None and known is None:
                    report.found("file_unknown", f"{where} is not known to the journal")
                part = self._opened(where, _digest_of(known, kind), stack)
                if part is not None:
                    opened[kind] = part
            report.parts += len(opened) == len(KINDS)
            whole = whole and len(opened) == len(KINDS)
            whole = self._rows(shard, opened, known, sums) and whole
        self.sums.add(sums)
        if known is not None and whole:
            compare_recorded(known, sums, report)

    def _opened(self, where: str, digest: str, stack: contextlib.ExitStack) -> PartReader | None:
        try:
            file = stack.enter_context(self._store.open(where))
            if digest:
                self._compare_digest(file, where, digest)
            expected = self._expected
            schema = expected.attempts if where.startswith("attempts") else expected.results
            if schema is None:
                schema = expected.results = self._first_schema(file)
                file.seek(0)
            part = stack.enter_context(
                PartReader(file, where, schema, self._report, vouched=bool(digest))
            )
            if not digest:
                part.read_through()
        except (OSError, pa.ArrowException, UnreadableError) as error:
            self._unreadable(where, error)
            return None
        return part

    def _unreadable(self, where: str, error: Exception) -> None:
        self._report.found("file_unreadable", f"{where} cannot be read: {error}")

    def _first_schema(self, file: io.BufferedIOBase) -> pa.Schema:
        """The columns that nobody recorded: those of the contract, and what the part has more."""
        found = pq.read_schema(file)
        more = [field for field in found if field.name not in part_schema.RESULT_NAMES]
        return part_schema.results_schema(pa.schema(more))

    def _compare_digest(self, file: io.BufferedIOBase, where: str, digest: str) -> None:
        found = hashlib.file_digest(file, "sha256").hexdigest()
        self._report.digests += 1
        self._report.claim(found == digest, "digest", f"{where} is not what was written")
        file.seek(0)

    def _rows(
        self, shard: int, opened: dict[str, PartReader], known: RecordedShard | None, sums: Sums
    ) -> bool:
        """The rows of a shard; says whether all of them could be read."""
        first, end = self._expected.span(shard)
        ledger = None
        if "attempts" in opened:
            ledger = LedgerCheck(opened["attempts"], self._report, first, end)
        whole = True
        if "results" in opened:
            part = opened["results"]
            below = self._expected.lost_below(shard, known)
            order = RowOrder(part.where, self._report, first, end, below)
            own = (MESSAGES,) if self._expected.turns else ()
            chunks = part.chunks((*RESULT_NAMES, *own))
            while True:
                try:
                    chunk = next(chunks, None)
                except UnreadableError as error:
                    self._unreadable(part.where, error)
                    whole = False
                    break
                if chunk is None:
                    order.finish()
                    break
                self._report.rows += chunk.num_rows
                order.add(chunk.column("row"))
                check_rows.check_outcomes(chunk, self._report, part.absent)
                ledger = self._beside(chunk, part, ledger, sums)
            whole = self._responses(part) and whole
        if ledger is not None:
            ledger = self._drained(ledger, sums)
        return whole and (ledger is not None or "attempts" not in opened)

    def _responses(self, part: PartReader) -> bool:
        """The files that the rows name; says whether their names could be read."""
        try:
            self.responses.check(part)
        except UnreadableError as error:
            self._unreadable(part.where, error)
            return False
        return True

    def _beside(
        self, chunk: pa.RecordBatch, part: PartReader, ledger: LedgerCheck | None, sums: Sums
    ) -> LedgerCheck | None:
        """Compare results with the ledger, if it can be read, and add both up."""
        pieces: list[pa.RecordBatch] = []
        if ledger is not None:
            try:
                for lines in ledger.up_to(chunk.column("row")[-1].as_py()):
                    self._count(lines, sums)
                    pieces.append(lines)
            except UnreadableError as error:
                self._unreadable(ledger.where, error)
                ledger = None
        lines = pieces[0] if len(pieces) == 1 else _joined(pieces)
        last = check_ledger.last_lines(chunk, lines)
        if ledger is not None:
            absent = {*part.absent, *ledger.absent}
            if self._expected.turns:
                check_turns.compare(chunk, lines, self._report, absent)
            else:
                check_ledger.compare(chunk, lines, last, self._report, absent)
        sums.add_results(chunk, last)
        return ledger

    def _drained(self, ledger: LedgerCheck, sums: Sums) -> LedgerCheck | None:
        """The lines behind the last result: those of pending rows."""
        try:
            for lines in ledger.up_to(None):
                self._count(lines, sums)
        except UnreadableError as error:
            self._unreadable(ledger.where, error)
            return None
        return ledger

    def _count(self, lines: pa.RecordBatch, sums: Sums) -> None:
        self._report.attempts += lines.num_rows
        sums.add_attempts(lines)


def _joined(pieces: list[pa.RecordBatch]) -> pa.RecordBatch:
    schema = pa.schema(
        [field for field in part_schema.attempts_schema() if field.name in LEDGER_NAMES]
    )
    batches = pa.Table.from_batches(pieces, schema=schema).combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=schema)


def _digest_of(known: RecordedShard | None, kind: str) -> str:
    if known is None:
        return ""
    return known.results_sha256 if kind == "results" else known.attempts_sha256
