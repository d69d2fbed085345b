"""How often answers flip: between two run directories, or between the repeats within one.

Rows pair by their request, so that only the noise of the model is seen. Recorded scores are
compared if both sides have boolean ones, else the answers themselves. At most the first
``ROWS_MAX`` rows are held; parts are read in batches.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from batchrun.adapters.parts.old_part import damaged
from batchrun.adapters.storage.store import StoreReader, part_names
from batchrun.core.estimate.detection import FlipRate, assumed
from batchrun.errors import UsageError
from batchrun.rundir.inspect import look_at
from batchrun.views.text import safe

ROWS_MAX = 100_000
PAIRS_LEAST = 10
"""Fewer pairs show no rate."""
_BATCH_ROWS = 4096
_COLUMNS = (
    "row",
    "status",
    "content",
    "refusal",
    "tool_calls",
    "request_hash",
    "repeat_of",
    "reused_from",
)


class _Answer(NamedTuple):
    """What is kept of a row: its answer's hash, None for a failed row, and its boolean scores."""

    key: Hashable
    text: int | None
    scores: Mapping[str, bool]


class _Pairs:
    """Counts pairs and flips, of the answers and of each score."""

    def __init__(self) -> None:
        self._pairs: Counter[str | None] = Counter()
        self._flips: Counter[str | None] = Counter()

    def add(self, one: _Answer, other: _Answer) -> None:
        """Count a pair."""
        if one.text is not None and other.text is not None:
            self._count(None, flipped=one.text != other.text)
        for name in one.scores.keys() & other.scores.keys():
            self._count(name, flipped=one.scores[name] != other.scores[name])

    def _count(self, name: str | None, *, flipped: bool) -> None:
        self._pairs[name] += 1
        self._flips[name] += flipped

    def rate(self, where: str) -> FlipRate | None:
        """The rate of the score that flips most, else of the answers; None for too few pairs."""
        enough = [name for name, pairs in self._pairs.items() if pairs >= PAIRS_LEAST]
        scores = sorted(name for name in enough if name is not None)
        if scores:
            name = max(scores, key=lambda score: self._flips[score] / self._pairs[score])
            rate = self._flips[name] / self._pairs[name]
            return FlipRate(rate, "scores", self._pairs[name], f"the score {safe(name)} {where}")
        if None not in enough:
            return None
        return FlipRate(self._flips[None] / self._pairs[None], "answers", self._pairs[None], where)


def flip_rate(directories: Sequence[str]) -> FlipRate:
    """The rate at which answers flip between two run directories; of one, between its repeats, or
    else the most that its scores allow. Without enough data, the assumed rate.

    Raises ``UsageError`` for a directory without results, ``DamagedError`` for an unreadable part.
    """
    if not directories:
        return assumed()
    names = " and ".join(map(safe, directories))
    if len(directories) > 1:
        first, second = directories
        found = _between(first, second).rate(f"between {names}")
        return found or assumed(
            f", since {names} have fewer than {PAIRS_LEAST} answered requests in common"
        )
    pairs, right = _within(directories[0])
    found = pairs.rate(f"between identical requests in {names}") or _bound(right, names)
    return found or assumed(f", since {names} has neither repeats nor boolean scores")


def _between(first: str, second: str) -> _Pairs:
    """Pairs by request; where one came several times, the first with the first, and so on."""
    held: dict[Hashable, deque[_Answer]] = {}
    for answer in islice(_answers(first, by_request=True), ROWS_MAX):
        held.setdefault(answer.key, deque()).append(answer)
    pairs = _Pairs()
    for answer in _answers(second, by_request=True):
        others = held.get(answer.key)
        if others:
            pairs.add(others.popleft(), answer)
    return pairs


def _within(directory: str) -> tuple[_Pairs, dict[str, tuple[int, int]]]:
    """Pairs of answers to one row, or to one and the same request; also how many rows of each
    boolean score are true, and how many there are.
    """
    held: dict[Hashable, _Answer] = {}
    pairs = _Pairs()
    true: Counter[str] = Counter()
    rows: Counter[str] = Counter()
    for answer in _answers(directory, by_request=False):
        for name, score in answer.scores.items():
            true[name] += score
            rows[name] += 1
        # No answer is in two pairs.
        other = held.pop(answer.key, None)
        if other is not None:
            pairs.add(other, answer)
        elif len(held) < ROWS_MAX:
            held[answer.key] = answer
    return pairs, {name: (true[name], rows[name]) for name in rows}


def _bound(right: Mapping[str, tuple[int, int]], names: str) -> FlipRate | None:
    """Twice the share of right answers times that of wrong ones, of the score where that is most:
    how often two independent runs flip.
    """
    found: FlipRate | None = None
    for name, (true, rows) in sorted(right.items()):
        rate = 2 * true / rows * (1 - true / rows)
        if rows >= PAIRS_LEAST and (found is None or rate > found.rate):
            where = f"{true / rows:.1%} of the score {safe(name)} in {names} are true"
            found = FlipRate(rate, "share", rows, where)
    return found


def _answers(directory: str, *, by_request: bool) -> Iterator[_Answer]:
    """Every published row with its own answer or a score, in row order. A reused answer shows no
    noise.
    """
    store = look_at(directory, None).store
    names = part_names(store, "results")
    if not names:
        message = f"--against {safe(directory)}: no run directory with results is there"
        raise UsageError(message)
    scored = set(part_names(store, "scores"))
    for name in names:
        scores = _scores(store, name) if name in scored else {}
        for row in _rows(store, name):
            known = scores.get(row["row"], {})
            answered = row["status"] == "ok"
            if row.get("reused_from") is not None or not (answered or known):
                continue
            said = (row["content"], row["refusal"], repr(row["tool_calls"]))
            repeat_of = None if by_request else row.get("repeat_of")
            # A failed row may have no request; then it pairs by its number.
            request = row.get("request_hash") or ("row", row["row"])
            key = request if repeat_of is None else repeat_of
            yield _Answer(key, hash(said) if answered else None, known)


def _rows(store: StoreReader, name: str) -> Iterator[dict[str, Any]]:
    path = f"results/{name}"
    try:
        with store.open(path) as file, pq.ParquetFile(file) as part:
            columns = [column for column in _COLUMNS if column in part.schema_arrow.names]
            for batch in part.iter_batches(_BATCH_ROWS, columns=columns, use_threads=False):
                yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise damaged(store.where(path), error) from error


def _scores(store: StoreReader, name: str) -> dict[int, dict[str, bool]]:
    """The boolean scores of a part's rows; those that are null are left out."""
    path = f"scores/{name}"
    try:
        with store.open(path) as file, pq.ParquetFile(file) as part:
            schema = part.schema_arrow
            boolean = [field.name for field in schema if pa.types.is_boolean(field.type)]
            table = part.read(columns=["row", *boolean], use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise damaged(store.where(path), error) from error
    return {
        row.pop("row"): {score: value for score, value in row.items() if value is not None}
        for row in table.to_pylist()
    }
