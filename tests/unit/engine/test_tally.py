"""What a tally counts of answers and failures."""

import itertools

import pytest

from batchrun.core.reply.answer import is_empty, is_truncated
from batchrun.engine.session.tally import Tally
from batchrun.records import NO_USAGE, Choice, Completion, Failure, Outcome

REASONS = ("stop", "length", "max_tokens", "tool_calls", None, "STOP")
CONTENTS = ("answer", "", None, " \n", " answer", "\u3000")


def outcome(reason, content, *, several=False):
    """The outcome of an answer."""
    first = Choice(0, content, None, None, reason, None, None)
    choices = (first, first._replace(index=1, content="", finish_reason="length"))
    said = Completion(first, choices if several else None, *[None] * 5, NO_USAGE)
    return Outcome(0, None, said, None, 1, None, None, None)


@pytest.mark.parametrize("several", [False, True])
def test_flawed_answers_are_counted(several):
    """Of any reason and content, by the same rules as in the published results."""
    tally, cut, bare = Tally(), 0, 0
    for reason, content in itertools.product(REASONS, CONTENTS):
        each = outcome(reason, content, several=several)
        tally.finished(each)
        cut += is_truncated(each.completion)
        bare += is_empty(each.completion)
    assert (tally.truncated, tally.empty) == (cut, bare)
    assert cut and bare and tally.ok == len(REASONS) * len(CONTENTS)


def test_failures_of_earlier_sessions_count():
    """The class with most rows first."""
    tally = Tally()
    tally.resumed_errors.update({"timeout": 2, "auth": 1})
    tally.errors.update({"auth": 4})
    assert list(tally.failed_by_class.items()) == [("auth", 5), ("timeout", 2)]


def test_the_example_of_a_failure_is_the_first_row():
    """In whatever order rows end: several processes then show the row that one process would."""
    tally = Tally()
    for row in (1029, 77, 500):
        failure = Failure("invalid_row", None, f"row {row}")
        tally.finished(Outcome(row, None, None, failure, 1, None, None, None))
    assert tally.first_failed == {"invalid_row": (77, "row 77")}
