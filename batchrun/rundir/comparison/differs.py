"""Why two runs may differ: the words of ``differs``, and a line about each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchrun.core.evaluation.definitions import Evaluation
from batchrun.core.text.wording import counted, verb
from batchrun.rundir.comparison.figures import Status
from batchrun.rundir.comparison.pairs import Pairs
from batchrun.rundir.comparison.side import Side

WORDS = "rows prompt params model model_answered fingerprint scores judge".split()
"""The words, in the order of the report."""
_PROMPT = tuple(f"request.{name}" for name in ("prompt", "system", "messages", "image", "file"))
_PARAMS = (
    *("request.params", "request.schema", "request.stream", "request.repeat", "input.send"),
    "output.think",
)
_MODEL = ("request.model", "output.fallback_model")


def reasons(pairs: Pairs, found: Status, evaluation: Evaluation) -> dict[str, str]:
    """The words that apply, in order, each with its line."""
    a, b = pairs.a, pairs.b
    told: dict[str, str] = {}
    if pairs.only_a or pairs.only_b:
        told["rows"] = (
            f"{counted(pairs.only_a, 'row')} of A and {counted(pairs.only_b, 'row')} of B have no "
            "counterpart"
        )
    elif found.carried_other:
        told["rows"] = f"{_of_pairs(found.carried_other, pairs)} carry other input values"
    for word, names in (("prompt", _PROMPT), ("params", _PARAMS), ("model", _MODEL)):
        changed = [name for name in names if a.settings.get(name) != b.settings.get(name)]
        if changed:
            told[word] = "; ".join(_change(name, a, b) for name in changed)
    if found.asked_other and not {"prompt", "params", "model"} & told.keys():
        told["prompt"] = f"{_of_pairs(found.asked_other, pairs)} were sent another request"
    if found.model_other:
        told["model_answered"] = (
            f"{_of_pairs(found.model_other, pairs)} were answered by another model"
        )
    if found.fingerprint_other:
        told["fingerprint"] = (
            f"{_of_pairs(found.fingerprint_other, pairs)} have another system_fingerprint: the "
            "server changed"
        )
    scores = _scores(a, b, evaluation)
    if scores:
        told["scores"] = f"other definitions of {', '.join(scores)}"
    judges = _changed(a.judges, b.judges)
    if judges:
        told["judge"] = "; ".join(_judge(name, a, b) for name in judges)
    return {word: told[word] for word in WORDS if word in told}


def _of_pairs(number: int, pairs: Pairs) -> str:
    return f"{number:,} of {counted(pairs.count, 'pair')}"


def _change(name: str, a: Side, b: Side) -> str:
    """A setting in both runs; long ones by name alone."""
    before, now = (side.settings.get(name) for side in (a, b))
    short = all(len(repr(value)) <= 60 for value in (before, now))
    return f"{name}: {before!r} in A, {now!r} in B" if short else f"{name} differs"


def _judge(name: str, a: Side, b: Side) -> str:
    """What differs about a judge."""
    for letter, side in (("A", a), ("B", b)):
        if name not in side.judges:
            return f"the judge {name}, which {letter} has not"
    first, second = (side.judge_settings(name) for side in (a, b))
    changed = _changed(first, second) if first and second else []
    return f"the judge {name}{': ' if changed else ''}{', '.join(changed)}"


def _scores(a: Side, b: Side, evaluation: Evaluation) -> list[str]:
    """Scores that the runs define differently and, among those compared, the ones that only one run
    has.
    """
    first, second = (_definitions(side) for side in (a, b))
    compared = {score.name for score in evaluation.scores}
    return [
        name
        for name in _changed(first, second)
        if (name in first and name in second) or ((first and second) and name in compared)
    ]


def _definitions(side: Side) -> Mapping[str, Any]:
    recorded = side.settings.get("scores")
    known = recorded if isinstance(recorded, Mapping) else {}
    return {**known, **side.score_digests}


def _changed(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    return [name for name in {**a, **b} if a.get(name) != b.get(name)]


def warnings(pairs: Pairs, found: Status) -> list[str]:
    """Caveats of a comparison, one sentence each."""
    told = []
    for letter, side in (("A", pairs.a), ("B", pairs.b)):
        if side.live:
            told.append(f"{letter} is still running: only its published rows are compared.")
        elif not side.is_finished:
            told.append(f"{letter} is not finished: only the rows that it has are compared.")
    if not pairs.count:
        told.append("No row of A has a counterpart in B, so nothing can be compared.")
        return told
    failed = {"A": found.error_ok + found.error_error, "B": found.ok_error + found.error_error}
    for letter, rows in failed.items():
        if rows == pairs.count:
            told.append(f"Every paired row of {letter} failed, so it has no comparable scores.")
        elif rows:
            fail = verb(rows, "counts", "count")
            told.append(
                f"{counted(rows, 'paired row')} of {letter} failed and {fail} as the scores define."
            )
    told += list(dict.fromkeys(f"{reason}." for reason in pairs.measures.left_out.values()))
    return told
