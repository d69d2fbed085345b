"""Notices: said once on stderr, kept for status and summary."""

from batchrun.engine.observe.watching import Watching
from batchrun.engine.session.tally import TOLD_MAX, Tally


def test_what_was_said_is_kept_once_each():
    """Every notice is said in its order; the same text is kept once."""
    tally, said = Tally(), []
    watching = Watching((), tally, said.append)
    tally.notices.extend(["a", "b", "a"])
    watching.tell()
    tally.notices.append("b")
    watching.tell()
    assert said == ["a", "b", "a", "b"]
    assert tally.told == ["a", "b"]


def test_what_is_kept_is_bounded():
    """A run that says something ever new does not fill its summary with it."""
    tally = Tally()
    tally.notices.extend(map(str, range(10 * TOLD_MAX)))
    Watching((), tally, lambda _: None).tell()
    assert tally.told == [str(number) for number in range(TOLD_MAX)]
