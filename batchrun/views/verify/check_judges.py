"""The judges of a run: each verdict that its scores count belongs to the answer that is there now.

The answers are hashed and the verdicts read once more, from the run directories of the judges; both
are in the order of the rows, so that one pass over them is enough. A verdict on another answer is
noted; it is a fault where a score counts it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from batchrun.adapters.storage.store import SUMMARY, StoreReader, part_names, read_json
from batchrun.core.text.wording import counted, verb
from batchrun.views.verify.findings import Report

_ANSWER = ("row", "status", "content", "refusal", "tool_calls")
_VERDICT = ("source_row", "source_hash", "status", "error_class", "content")
_NO_VERDICT = ("invalid_output", "truncated_output", "empty_output", "invalid_response")
_CLOSE = 1e-9


class _Line(NamedTuple):
    row: int
    hash: str
    status: str
    error_class: str | None
    content: str | None
    swapped: bool


class _Forward:
    """Verdicts that are read forward."""

    def __init__(self, lines: Iterator[_Line]) -> None:
        self._lines = lines
        self._next = next(lines, None)

    def of_row(self, row: int) -> list[_Line]:
        """Those on one row, none before which is asked for any more."""
        found = []
        while self._next is not None and self._next.row <= row:
            if self._next.row == row:
                found.append(self._next)
            self._next = next(self._lines, None)
        return found


class CheckedJudge:
    """The verdicts of one judge, read forward beside the results."""

    def __init__(self, store: StoreReader, name: str, report: Report) -> None:
        self.name = name
        self.counts = dict.fromkeys(("rows", "unparsed", "failed", "stale", "missing", "flips"), 0)
        self.behind = 0
        """Verdicts that the scores do not have yet."""
        self._store = store
        self._report = report
        self._folder = f"judges/{name}"
        found = read_json(store, f"{self._folder}/{SUMMARY}")
        self.summary: Mapping[str, Any] = found if isinstance(found, dict) else {}
        settings = self.summary.get("settings") or {}
        self.pairs = settings.get("input.against") is not None
        self._both = bool(settings.get("input.both_orders"))
        self._readers = [_Forward(self._read(self._folder, swapped=False))]
        bills = [(self.summary.get("totals") or {}).get("cost_usd")]
        if self._both:
            folder = f"{self._folder}/swapped"
            self._readers.append(_Forward(self._read(folder, swapped=True)))
            other = read_json(store, f"{folder}/{SUMMARY}") or {}
            bills.append((other.get("totals") or {}).get("cost_usd"))
        known = [bill for bill in bills if bill is not None]
        self._bill = math.fsum(known) if known else None

    def _read(self, folder: str, *, swapped: bool) -> Iterator[_Line]:
        columns = list(_VERDICT)
        before = -1
        for name in part_names(self._store, f"{folder}/results"):
            where = f"{folder}/results/{name}"
            try:
                with (
                    self._store.open(where) as file,
                    pq.ParquetFile(file, pre_buffer=False) as part,
                ):
                    for group in range(part.num_row_groups):
                        table = part.read_row_group(group, columns, use_threads=False)
                        for line in zip(
                            *(table.column(c).to_pylist() for c in columns), strict=True
                        ):
                            if line[0] < before:
                                text = f"{where} is not in the order of the rows that it judges"
                                self._report.found("judge_rows", text)
                            before = line[0]
                            yield _Line._make((*line, swapped))
            except (OSError, pa.ArrowException, KeyError) as error:
                self._report.found("judge_rows", f"{where} cannot be read: {error}")
                return

    def check(self, row: int, answer: str | None, scored: Mapping[str, Any]) -> None:
        """Check the verdict on one row. ``answer`` is the hash of its answer, None where it failed;
        ``scored`` are the fields of the verdict as the scores have them.
        """
        verdict = self._verdict(answer, [one for each in self._readers for one in each.of_row(row)])
        for field, value in scored.items():
            wanted = verdict.get(field)
            if _same(value, wanted):
                continue
            if value is None:
                self.behind += 1
                continue
            text = f"row {row}: scores/ has {value!r} for {self.name}.{field}, and "
            text += (
                "there is no verdict on this answer"
                if not verdict
                else f"the verdict on this answer is {wanted!r}"
            )
            self._report.found("verdict", text)

    def _verdict(self, answer: str | None, lines: Sequence[_Line]) -> Mapping[str, Any]:
        mine = {line.swapped: line for line in lines if line.hash == answer}
        self.counts["stale"] += any(line.hash != answer for line in lines)
        if answer is None:
            return {}
        orders = [False, True] if self._both else [False]
        if not all(order in mine for order in orders):
            self.counts["missing"] += 1
            return {}
        self.counts["rows"] += 1
        found = [_parsed(mine[order]) for order in orders]
        lost = [mine[order] for order, one in zip(orders, found, strict=True) if one is None]
        if lost:
            unread = all(line.status == "ok" or line.error_class in _NO_VERDICT for line in lost)
            self.counts["unparsed" if unread else "failed"] += 1
            return {}
        first = dict(found[0] or {})
        if self._both:
            winner, other = first.get("winner"), (found[1] or {}).get("winner")
            other = {"a": "b", "b": "a"}.get(str(other), other)
            if not isinstance(winner, str) or not isinstance(other, str):
                first["winner"] = None
            elif winner != other:
                first["winner"] = "tie"
                self.counts["flips"] += 1
        return first

    def finish(self, recorded: Mapping[str, Any]) -> None:
        """Compare what was counted with what the summary of the run says."""
        if self.counts["stale"]:
            stale = self.counts["stale"]
            self._report.notes.append(
                f"{counted(stale, 'verdict')} of judge {self.name} {verb(stale, 'is', 'are')} on "
                "answers that are not there any more: null in the scores. `batchrun judge` judges "
                "the new ones"
            )
        if self.behind:
            self._report.notes.append(
                f"judge {self.name} went on after the run was scored: `batchrun score` counts its "
                "new verdicts"
            )
            return
        for name, value in self.counts.items():
            if name in recorded and recorded[name] != value:
                text = f"summary.json says {name} {recorded[name]} of judge {self.name}; there are "
                self._report.found("judge_counts", f"{text}{value}")
        told = recorded.get("cost_usd")
        if (told is None) != (self._bill is None) or not math.isclose(
            told or 0.0, self._bill or 0.0, rel_tol=_CLOSE
        ):
            text = f"summary.json says that judge {self.name} cost {told}; its own summary says "
            self._report.found("judge_counts", f"{text}{self._bill}")


def answers_of(store: StoreReader, name: str) -> Iterator[tuple[int, str | None]]:
    """The rows of a part of the results, each with the hash of its answer."""
    with store.open(f"results/{name}") as file, pq.ParquetFile(file, pre_buffer=False) as part:
        for group in range(part.num_row_groups):
            table = part.read_row_group(group, list(_ANSWER), use_threads=False)
            for row, status, content, refusal, calls in zip(
                *(table.column(column).to_pylist() for column in _ANSWER), strict=True
            ):
                yield row, None if status == "error" else _hash(content, refusal, calls)


def _hash(content: str | None, refusal: str | None, calls: object) -> str:
    """SHA-256 of canonical JSON: keys sorted, no white space, UTF-8."""
    answer = {"content": content, "refusal": refusal, "tool_calls": calls}
    text = json.dumps(answer, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _parsed(line: _Line) -> dict[str, Any] | None:
    if line.status != "ok" or line.content is None:
        return None
    try:
        found = json.loads(line.content)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _same(scored: Any, wanted: Any) -> bool:
    """Whether a value in the scores is that of the verdict, which may be of another type."""
    if scored is None:
        is_number = isinstance(wanted, (int, float)) and not isinstance(wanted, bool)
        return wanted is None or (is_number and not _is_finite(wanted)) or not is_plain(wanted)
    if isinstance(scored, bool) or isinstance(wanted, bool):
        return scored is wanted
    if isinstance(scored, float):
        return isinstance(wanted, (int, float)) and float(wanted) == scored
    return bool(scored == wanted)


def is_plain(value: Any) -> bool:
    """Whether a value can be in a column of the scores."""
    return isinstance(value, (str, int, float, bool))


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


class Labels:
    """The verdicts of a judge beside human labels, counted. With repeats each row's share of equal
    ones counts once.
    """

    def __init__(self, repeat: int) -> None:
        self._repeat = repeat
        self._pairs: Counter[tuple[Any, Any]] = Counter()
        self._rows = 0
        self._shares = 0.0
        self._row = -1
        self._of_row = (0, 0)

    def add(self, row: int, verdict: Any, label: Any) -> None:
        """Count an answer that has both. Rows come in ascending order."""
        if verdict is None or label is None:
            return
        pair = _category(verdict, verdict), _category(verdict, label)
        self._pairs[pair] += 1
        if row // self._repeat != self._row:
            self._end_row()
            self._row = row // self._repeat
        same, answers = self._of_row
        self._of_row = same + (pair[0] == pair[1]), answers + 1

    def _end_row(self) -> None:
        same, answers = self._of_row
        if answers:
            self._rows += 1
            self._shares += same / answers
        self._of_row = (0, 0)

    def by_row(self) -> tuple[float | None, int]:
        """The mean of the rows' shares of equal ones, and the rows."""
        self._end_row()
        return (self._shares / self._rows if self._rows else None), self._rows

    def kappa(self) -> tuple[float | None, int]:
        """Kappa over all answers, and their number."""
        n = self._pairs.total()
        if not n:
            return None, 0
        share = sum(rows for (one, other), rows in self._pairs.items() if one == other) / n
        first, second = Counter[Any](), Counter[Any]()
        for (one, other), rows in self._pairs.items():
            first[one] += rows
            second[other] += rows
        if len(first.keys() | second.keys()) < 2:
            return None, n
        chance = sum(first[name] * second[name] for name in first) / n**2
        return (share - chance) / (1 - chance), n


def _category(verdict: Any, value: Any) -> Any:
    """What a value stands for beside verdicts of this type."""
    text = str(value).strip().casefold()
    if isinstance(verdict, bool):
        truth = {"true": True, "yes": True, "1": True, "1.0": True}
        truth |= {"false": False, "no": False, "0": False, "0.0": False}
        return truth.get(text, text)
    if isinstance(verdict, float):
        try:
            return float(text)
        except ValueError:
            return text
    return text
