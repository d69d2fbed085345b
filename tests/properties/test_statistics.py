"""What must hold for intervals of any counts, and for any gate."""

from hypothesis import given
from hypothesis import strategies as st

from batchrun.core.evaluation.gates import judge, judge_difference
from batchrun.core.evaluation.rules import OPERATORS, difference_rule, gates, level_rule
from batchrun.core.statistics.mcnemar import mcnemar
from batchrun.core.statistics.paired import paired_share_interval
from batchrun.core.statistics.proportion import wilson
from batchrun.errors import UsageError

COUNT = st.integers(0, 10**6)
SHARE = st.floats(-1, 1)


@given(COUNT, COUNT)
def test_the_interval_of_a_share(right, wrong):
    """It holds the share, stays within [0, 1], mirrors its counterpart, and narrows with rows."""
    n = right + wrong
    found = wilson(right, n)
    assert 0 <= found.low <= (right / n if n else 0.5) <= found.high <= 1
    other = wilson(wrong, n)
    assert abs(found.low + other.high - 1) < 1e-9
    more = wilson(2 * right, 2 * n)
    assert more.high - more.low <= found.high - found.low


@given(COUNT, COUNT, COUNT)
def test_the_interval_of_a_difference(lost, won, same):
    """It holds the difference, stays within [-1, 1], and mirrors that of the runs changed over."""
    n = lost + won + same
    found = paired_share_interval(same, lost, won, 0)
    estimate = (won - lost) / n if n else 0.0
    assert -1 <= found.low <= estimate <= found.high <= 1
    other = paired_share_interval(same, won, lost, 0)
    assert abs(found.low + other.high) < 1e-9


@given(COUNT, COUNT)
def test_a_p_value(lost, won):
    """It is a probability, symmetric, and 1 where as many pairs were lost as won."""
    assert 0 <= mcnemar(lost, won) <= 1
    assert mcnemar(lost, won) == mcnemar(won, lost)
    assert abs(mcnemar(lost, lost) - 1) < 1e-9


@given(st.sampled_from(list(OPERATORS)), SHARE, SHARE, SHARE, st.integers(0, 3), st.integers(0, 3))
def test_a_gate_passes_only_if_both_ends_hold(operator, threshold, wrong, right, scored, errors):
    """And never without scored rows."""
    rule = level_rule("m", f"{operator} {threshold!r}")
    found = judge(
        rule,
        wrong,
        scored=scored,
        errors=errors,
        as_if_errors_wrong=wrong,
        as_if_errors_right=right if errors else wrong,
    )
    ends = [wrong, right if errors else wrong]
    if found.verdict == "pass":
        assert scored
        assert all(map(rule.holds, ends))
    if found.verdict == "fail":
        assert not any(map(rule.holds, ends))


@given(st.floats(0, 0.5), SHARE, SHARE, SHARE, st.integers(0, 10**9))
def test_a_difference_is_never_passed_and_failed(margin, one, two, three, pairs):
    """A pass rules the loss out, a fail has shown one; rows are told of inconclusive ones alone."""
    low, difference, high = sorted((one, two, three))
    rule = difference_rule("m", {"not_worse_by": margin})
    found = judge_difference(rule, difference, low, high, pairs)
    if found.verdict == "pass":
        assert pairs
        assert low >= -margin - 1e-9
    if found.verdict == "fail":
        assert difference < -margin
        assert high < 0
    if found.rows_needed is not None:
        assert found.verdict == "inconclusive"
        assert found.rows_needed > pairs


VALUE = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=9) | st.just(">= 1"),
    lambda inner: st.dictionaries(
        st.sampled_from(("rule", "severity", "not_worse_by", "compare", "x")), inner, max_size=3
    ),
)


@given(VALUE)
def test_a_table_of_gates_is_read_or_refused(table):
    """Nothing but the project's own error comes of any value, and it names a key."""
    message = "gates"
    try:
        gates(table)
    except UsageError as error:
        message = str(error)
    assert "gates" in message
