"""The rows of a comparison to look at: what got worse, what got better, what changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from batchrun.core.text.word_diff import word_diff
from batchrun.rundir.comparison.figures import ScoreFigures
from batchrun.rundir.comparison.pairs import Pairs
from batchrun.rundir.comparison.side import Side

Kind = Literal["worse", "better", "changed"]
KINDS: tuple[Kind, ...] = ("worse", "better", "changed")
SHOWN_BY_DEFAULT: tuple[Kind, ...] = ("worse", "better")
TEXT_CHARS = 100_000
"""Of an answer, what is read for a word diff."""
ERROR_CHARS = 200


@dataclass(frozen=True, slots=True)
class Example:
    """A pair of rows: what its scores were and are, and how its answer changed, in one line."""

    kind: Kind
    id: str
    row_a: int
    row_b: int
    status_a: str
    status_b: str
    scores: Mapping[str, tuple[float | None, float | None]]
    diff: str = field(default="", compare=False)

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``: without the answers."""
        return {
            "kind": self.kind,
            "custom_id": self.id,
            "row_a": self.row_a,
            "row_b": self.row_b,
            "status": {"a": self.status_a, "b": self.status_b},
            "scores": {name: {"a": a, "b": b} for name, (a, b) in self.scores.items()},
        }


@dataclass(frozen=True, slots=True)
class Changes:
    """How many pairs there are of each kind, and the first of them."""

    counts: Mapping[Kind, int]
    shown: Mapping[Kind, tuple[Example, ...]]

    def as_list(self) -> list[dict[str, Any]]:
        """For ``--json``."""
        return [one.as_dict() for kind in KINDS for one in self.shown.get(kind, ())]


def changes(
    pairs: Pairs, scores: Mapping[str, ScoreFigures], only: Kind | None, rows: int
) -> Changes:
    """Count them, and look up the first ``rows`` of each kind, or of ``only``: the worst first."""
    names = pairs.measures.scores
    quality = [n for n, name in enumerate(names) if scores[name].is_quality]
    tests = _tests(quality)
    counted = pairs.one(
        "SELECT " + ", ".join(f"count(*) FILTER ({tests[kind]})" for kind in KINDS) + " FROM pairs"
    )
    counts: dict[Kind, int] = dict(zip(KINDS, map(int, counted), strict=True))
    kinds = SHOWN_BY_DEFAULT if only is None else (only,)
    found = {
        kind: _examples(pairs, kind, tests[kind], quality, rows) if rows else [] for kind in kinds
    }
    everyone = [one for some in found.values() for one in some]
    texts_a = _texts(pairs.a, {one.row_a for one in everyone})
    texts_b = _texts(pairs.b, {one.row_b for one in everyone})
    shown: dict[Kind, tuple[Example, ...]] = {
        kind: tuple(_with_diff(one, texts_a, texts_b) for one in some)
        for kind, some in found.items()
    }
    return Changes(counts, shown)


def _tests(quality: Sequence[int]) -> dict[Kind, str]:
    """What makes a pair worse, better or changed, in SQL. One that is both is worse."""
    fell = [f"coalesce(b_s{n} < a_s{n}, FALSE)" for n in quality]
    rose = [f"coalesce(b_s{n} > a_s{n}, FALSE)" for n in quality]
    worse = " OR ".join(["(b_failed AND NOT a_failed)", *fell])
    better = " OR ".join(["(a_failed AND NOT b_failed)", *rose])
    return {
        "worse": f"({worse})",
        "better": f"(({better}) AND NOT ({worse}))",
        "changed": "(changed AND NOT a_failed AND NOT b_failed)",
    }


def _examples(
    pairs: Pairs, kind: Kind, test: str, quality: Sequence[int], rows: int
) -> list[Example]:
    names = pairs.measures.scores
    values = [f"a_s{n}, b_s{n}" for n in range(len(names))]
    size = " + ".join(f"abs(coalesce(b_s{n} - a_s{n}, 0))" for n in quality)
    picked = ["coalesce(custom_id, key)", "row_a, row_b, a_failed, b_failed", *values]
    lines = pairs.rows(
        f"SELECT {', '.join(picked)} FROM pairs WHERE {test} "
        f"ORDER BY a_failed <> b_failed DESC, 0 + {size or 0} DESC, row_b LIMIT {rows}"
    )
    found = []
    for named, row_a, row_b, failed_a, failed_b, *numbers in lines:
        ends = zip(numbers[::2], numbers[1::2], strict=True)
        found.append(
            Example(
                kind,
                str(named),
                int(row_a),
                int(row_b),
                "error" if failed_a else "ok",
                "error" if failed_b else "ok",
                dict(zip(names, ends, strict=True)),
            )
        )
    return found


def _with_diff(one: Example, a: Mapping[int, str], b: Mapping[int, str]) -> Example:
    diff = word_diff(a.get(one.row_a, ""), b.get(one.row_b, ""))
    return Example(
        one.kind, one.id, one.row_a, one.row_b, one.status_a, one.status_b, one.scores, diff
    )


_READ = ("row", "status", "content", "refusal", "tool_calls", "error_class", "error_message")


def _texts(side: Side, rows: Iterable[int]) -> dict[int, str]:
    """What some rows answered, as one text each: content, refusal, calls, or the error."""
    found = {}
    for line in side.some_rows(rows, _READ):
        if line["status"] == "error":
            message = (line["error_message"] or "")[:ERROR_CHARS]
            text = f"error {line['error_class']}: {message}"
        else:
            calls = [f"{call['name']}({call['arguments']})" for call in line["tool_calls"] or ()]
            parts = [line["content"] or "", line["refusal"] or "", *calls]
            text = "\n".join(part[:TEXT_CHARS] for part in parts if part)
        found[int(line["row"])] = text
    return found
