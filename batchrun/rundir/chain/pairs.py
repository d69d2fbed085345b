"""Pairs of answers as the input of a judge: the rows that two runs answered, found as ``compare``
pairs them.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import IO, Any

from batchrun.adapters.sources.opening import Input
from batchrun.core.evaluation.definitions import Evaluation
from batchrun.core.request.chained_rows import MESSAGES
from batchrun.core.request.paired_rows import pair_fields_used
from batchrun.core.request.prompt import Plan
from batchrun.core.settings.resolve import Settings
from batchrun.errors import InputError, UsageError
from batchrun.rundir.chain import source as sources
from batchrun.rundir.chain.pair_rows import OtherRun, pair_input
from batchrun.rundir.chain.recorded_input import Find
from batchrun.rundir.chain.requests import SourceMessages
from batchrun.rundir.chain.source import SourceRun
from batchrun.rundir.comparison.pairs import Pairs
from batchrun.rundir.comparison.side import Side, open_side

AGAINST = "--against"
_PLACE = struct.Struct("<q")
_NONE = -1


def find(settings: Settings, plan: Plan, finding: Find) -> Input:
    """The pairs that settings name. ``finding`` opens an input, for the requests of a run.

    Raises ``UsageError`` if the other run is not finished or rows cannot be paired, ``InputError``
    if no row has an answer in both runs.
    """
    assert settings.source is not None
    assert settings.against is not None
    mine = sources.look_at(settings.source)
    sources.require(mine, allow_partial=settings.allow_partial)
    theirs = _other(settings.against)
    wants_messages = MESSAGES in pair_fields_used(plan.templates.paths, plan.templates.whole)
    runs = []
    for looked in (mine, theirs):
        source = sources.run_source(looked, settings.source_status)
        if wants_messages:
            messages = SourceMessages(looked, finding)
            messages.require(settings.source_status)
            source = replace(source, messages=messages)
        runs.append(source)
    side = open_side(settings.against)
    partners = _Partners(open_side(settings.source), side)
    if not partners.pairs:
        message = (
            f"{AGAINST} {theirs.name}: there is not a single row that both runs answered, so there "
            "is nothing to compare"
        )
        raise InputError(message)
    other = OtherRun(runs[1], partners, _Answers(side), partners.pairs)
    stamps = [*sources.stamps(mine), *sources.stamps(theirs)]
    return pair_input(runs[0], other, stamps, plan, swapped=settings.swapped)


def _other(name: str) -> SourceRun:
    """The run to compare with. Raises ``UsageError`` if it is not finished."""
    try:
        looked = sources.look_at(name)
        sources.require(looked, allow_partial=False)
    except UsageError as error:
        message = str(error).replace("--from", AGAINST).partition(", or use the rows that")[0]
        raise UsageError(message) from None
    return looked


class _Partners:
    """Which row of the other run belongs to each row, as a file with a number for every row."""

    def __init__(self, mine: Side, theirs: Side) -> None:
        """Raises ``UsageError`` if rows cannot be told apart."""
        self._file: IO[bytes] = tempfile.TemporaryFile(prefix="batchrun-pairs-")  # noqa: SIM115 - it is closed with this
        self._rows = self.pairs = 0
        with Pairs(mine, theirs, Evaluation()) as pairs:
            statement = (
                "SELECT row_a, row_b FROM pairs WHERE NOT a_failed AND NOT b_failed ORDER BY row_a"
            )
            _, batches = pairs.database.reader(statement, AGAINST)
            for batch in batches:
                for row, partner in zip(*(c.to_pylist() for c in batch.columns), strict=True):
                    self._file.write(_PLACE.pack(_NONE) * (row - self._rows))
                    self._file.write(_PLACE.pack(partner))
                    self._rows, self.pairs = row + 1, self.pairs + 1
        self._file.flush()

    def __call__(self, rows: Sequence[int]) -> list[int | None]:
        """See ``rundir.chain.pair_rows.Partners``."""
        return [self._one(row) for row in rows]

    def _one(self, row: int) -> int | None:
        if row >= self._rows:
            return None
        self._file.seek(row * _PLACE.size)
        (partner,) = _PLACE.unpack(self._file.read(_PLACE.size))
        return None if partner == _NONE else int(partner)


class _Answers:
    """The answers of the other run."""

    def __init__(self, side: Side) -> None:
        self._side = side

    def __call__(
        self, rows: Sequence[int], columns: Sequence[str]
    ) -> Mapping[int, Mapping[str, Any]]:
        """See ``rundir.chain.pair_rows.Answers``."""
        there = [name for name in columns if name in self._side.schema.names]
        absent = dict.fromkeys(name for name in columns if name not in there)
        found = self._side.some_rows(rows, ["row", *there])
        return {line["row"]: {**absent, **line} for line in found}
