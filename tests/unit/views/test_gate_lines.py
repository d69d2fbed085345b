"""What is said of gates below a run, and of what a comparison could have seen."""

import pytest

from batchrun.views.compare.text import _detectable
from batchrun.views.figures import gate_lines


@pytest.mark.parametrize(
    ("verdicts", "head"),
    [
        (["pass", "pass"], "gates: 2 of 2 passed"),
        (["pass", "fail"], "gates: 1 of 2 passed"),
        (["pass", "not_judged"], "gates: 1 of 1 passed, 1 not judged"),
        (["not_judged", "not_judged"], "gates: 0 passed, 2 not judged"),
    ],
)
def test_a_gate_that_was_not_judged_counts_among_none(verdicts, head):
    """It neither passed nor failed; each has its reason below."""
    gates = {f"g{n}": {"verdict": v, "why": "because"} for n, v in enumerate(verdicts)}
    lines = gate_lines(gates)
    assert lines[0] == head
    assert len(lines) == 1 + sum(v != "pass" for v in verdicts)


def test_a_share_changes_by_one_at_most():
    """So a larger difference is not offered as one that could be seen."""
    assert _detectable(0.123456, is_share=True) == "; detectable from 0.1235"
    assert _detectable(1.13416, is_share=True) == (
        "; too few pairs to detect even a difference of 1"
    )
    assert _detectable(1.13416, is_share=False) == "; detectable from 1.134"
    assert not _detectable(None, is_share=True)
