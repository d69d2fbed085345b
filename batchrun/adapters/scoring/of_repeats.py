"""SQL that aggregates the answers to one row: with repeats, every mean is over rows.

``avg`` averages a row's answers first. ``pass_at`` and ``pass_all`` are the chances that at least
one, or all, of a sample of k of them pass (Chen et al., "Evaluating large language models trained
on code", arXiv 2107.03374, section 2.1: 1 - C(n - c, k) / C(n, k)), ``majority`` whether most of
them are the expected one. Failed answers do not pass, and have no vote.
"""

from __future__ import annotations

from batchrun.adapters.scoring.parser import Parsed

MAJORITY = "majority"


def answer(parsed: Parsed, instead: int | None, *, scored: bool) -> str:
    """The value of one answer. ``instead`` is what failed ones count as, if given; ``scored`` is
    whether the metric reads scores, which already include it.
    """
    if parsed.of_repeats == MAJORITY:
        vote = f"CASE WHEN status <> 'error' THEN __vote({parsed.mean_of}, {parsed.other}) END"
        expected = f"__vote({parsed.other}, {parsed.mean_of})"
        return f"struct_pack(vote := {vote}, expected := {expected})"
    value = f"CAST((\n{parsed.mean_of}\n) AS DOUBLE)"
    if parsed.of_repeats is not None:
        instead = instead or 0
    if instead is None or scored:
        return value
    return f"CASE WHEN status = 'error' THEN {instead}.0 ELSE {value} END"


def row(parsed: Parsed, value: str, failed: str, instead: int | None) -> str:
    """The aggregate over the answers to a row: ``value`` is the SQL for the value of each,
    ``failed`` for whether it failed, which ``instead`` counts as wrong (0) or right (1).
    """
    if parsed.of_repeats is None:
        return f"avg({value})"
    if parsed.of_repeats != MAJORITY:
        return f"{parsed.of_repeats}({value}, {parsed.other})"
    failures = f"count(*) FILTER ({failed})"
    others, more = (failures if instead == each else "0" for each in (0, 1))
    votes, expected = f"histogram(({value}).vote)", f"any_value(({value}).expected)"
    return f"__elected({votes}, {expected}, {others}, {more})"


def is_number(parsed: Parsed) -> bool:
    """Whether the value of an answer is a number, which can be bounded."""
    return parsed.of_repeats != MAJORITY
