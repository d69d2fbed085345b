"""Checks of ``decided_by``: known words, and a first one that fits the line's error class.

Lines of earlier versions, and those that a repair wrote, have none.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from batchrun.views.verify.findings import Report

SUCCESS = "completion"
OF_CLASSES = {"auth": "bad_key"}
"""First words of error classes that are not the class itself."""
CUT_OFF = ("connection", "interrupted")
"""The class of an exchange that the end of its run cut off, and its word."""
LATER = frozenset(
    """
    tries_used_up told_to_retry told_not_to_retry wait_too_long refused_too_long renewed_key
    no_new_key endpoint_down probed_often never_answered other_endpoint no_other_model
    endpoint_left_out attempts_used_up other_model first_model_stands repeated_failure
    kept_answer
    """.split()
)
_TAB = "\t"


def check_trails(chunk: pa.RecordBatch, report: Report, what: str) -> None:
    """Each line of the ledger was decided by known steps, about what it says of itself."""
    trails, rows = chunk.column("decided_by"), chunk.column("row")
    if trails.null_count == len(trails):
        return
    classes = pc.fill_null(chunk.column("error_class"), "")
    both = pc.binary_join_element_wise(classes, trails, _TAB)
    bad = [pair for pair in pc.unique(both).to_pylist() if pair is not None and not fits(pair)]
    if bad:
        report.where(
            "decided_by",
            pc.is_in(both, value_set=pa.array(bad, pa.string())),
            lambda n: (
                f"{what} {rows[n]} has decided_by {trails[n]} and error_class "
                f"{chunk.column('error_class')[n]}"
            ),
        )


def fits(pair: str) -> bool:
    """Whether an error class and a trail, with a tab between, fit each other."""
    error_class, trail = pair.split(_TAB, 1)
    first, *later = trail.split(">")
    expected = OF_CLASSES.get(error_class, error_class) if error_class else SUCCESS
    known = first == expected or (error_class, first) == CUT_OFF
    return known and LATER.issuperset(later) and len(set(later)) == len(later)
