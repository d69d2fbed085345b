"""Noticing that another model answers."""

from batchrun.core.verdict.drift import TOLD_MAX, Drift
from batchrun.records import NO_USAGE, Choice, Completion


def _by(model, fingerprint=None):
    choice = Choice(0, "Yes.", None, None, "stop", None, None)
    return Completion(choice, None, model, None, fingerprint, None, None, NO_USAGE)


def _told(drift, *answers, asked="m"):
    found = [drift.note(asked, _by(*answer), row) for row, answer in enumerate(answers)]
    return [(row, text) for row, text in enumerate(found) if text]


def test_a_change_is_told_once():
    """The row, what was and what is; two models that take turns are told of once."""
    a, b = ("m-1", "fp"), ("m-2", "fp")
    [(row, text)] = _told(Drift(), a, a, b, b, a, b, a)
    assert row == 2
    assert "'m-1'" in text and "'m-2'" in text and "row 2" in text


def test_a_fingerprint_counts_too():
    """The same name served by another build."""
    [(row, text)] = _told(Drift(), ("m", "fp-1"), ("m", "fp-2"))
    assert row == 1 and "'fp-1'" in text and "'fp-2'" in text


def test_rows_that_ask_for_different_models_are_no_change():
    """Each model asked for has its own history."""
    drift = Drift()
    assert not _told(drift, ("a-1",), asked="a")
    assert not _told(drift, ("b-1",), asked="b")
    assert not _told(drift, ("a-1",), asked="a")


def test_earlier_sessions_count():
    """A run that goes on days later tells where another model answers now."""
    [(row, text)] = _told(Drift("m", {"m-1", None}), ("m-2",), ("m-2",))
    assert row == 0 and "'m-2'" in text and "m-1" in text
    assert not _told(Drift("m", {"m-1"}), ("m-1",))
    assert not _told(Drift("m"), ("m-1",))
    assert not _told(Drift("m", {"m-1"}), ("x-1",), asked="x")


def test_it_does_not_go_on_for_ever():
    """Behind a gateway that mixes models, the last warning says that it is the last."""
    told = _told(Drift(), *((f"m-{n}",) for n in range(100)))
    assert len(told) == TOLD_MAX
    assert "not reported" in told[-1][1] and "not reported" not in told[-2][1]
