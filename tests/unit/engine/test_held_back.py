"""What is said to have held a run back."""

from batchrun.engine.session.tally import HELD_MIN_S, Tally


def test_what_held_it_back_for_a_moment_is_not_told():
    """Such as the start of the interpreter, in a run of ten rows."""
    tally = Tally(bound_s={"cpu": HELD_MIN_S / 2})
    assert tally.bound_by is None
    tally.bound_s["rpm"] = HELD_MIN_S
    assert tally.bound_by == "rpm"
    assert Tally().bound_by is None
