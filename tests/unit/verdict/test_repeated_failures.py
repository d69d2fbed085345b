"""Failures in a row: which rows end, which are withheld, and when there are too many."""

import pytest

from batchrun.core.settings.bounds import OF_THE_ROW
from batchrun.core.verdict.repeated_failures import (
    ALIKE_ROWS,
    ANY_ROWS,
    FAILED_TO_OUT,
    Kind,
    Repeated,
    Step,
)

BAD = Kind("invalid_request", 400, "odd_value")
LOGIN = Kind("invalid_response", 200, None)


def _failing(repeated, rows, kind=BAD, out=(), answered_sent=None):
    """Rows fail that were sent with these numbers, by their first try unless it is said what was
    answered when that failed; returns what becomes of each.
    """
    before = repeated.answered_sent if answered_sent is None else answered_sent
    steps = []
    for row in rows:
        steps.append(repeated.step(kind, sent=row, answered_sent=before, out=out))
        if steps[-1] is not Step.END:
            repeated.withhold(kind, row, sent=row)
    return steps


def test_the_row_after_thirty_is_the_one_too_many():
    """Thirty may be bad rows; the next one that fails alike is not."""
    repeated = Repeated()
    assert _failing(repeated, range(ALIKE_ROWS)) == [Step.WITHHOLD] * ALIKE_ROWS
    assert _failing(repeated, [ALIKE_ROWS]) == [Step.STOP]
    assert len(repeated) == repeated.in_a_row == ALIKE_ROWS + 1


@pytest.mark.parametrize(
    "other",
    [
        BAD._replace(http_status=422),
        BAD._replace(code=None),
        BAD._replace(code="other"),
        BAD._replace(error_class="server_error"),
    ],
)
def test_rows_that_fail_differently_are_counted_apart(other):
    """Class, status and code make them alike; of all kinds together a hundred are too many."""
    repeated = Repeated()
    assert set(_failing(repeated, range(30)) + _failing(repeated, range(30, 60), other)) == {
        Step.WITHHOLD
    }
    assert _failing(repeated, [60], other) == [Step.STOP]
    kinds = [BAD._replace(code=str(n)) for n in range(ANY_ROWS)]
    repeated = Repeated()
    steps = [step for n, kind in enumerate(kinds) for step in _failing(repeated, [n], kind)]
    assert steps == [Step.WITHHOLD] * (ANY_ROWS - 1) + [Step.STOP]


@pytest.mark.parametrize("error_class", sorted(OF_THE_ROW))
def test_what_rows_bring_on_themselves_does_not_count(error_class):
    """They end at once, however many they are, and leave the others' count as it is."""
    repeated = Repeated()
    _failing(repeated, range(30))
    assert set(_failing(repeated, range(30, 500), Kind(error_class, 400, None))) == {Step.END}
    assert _failing(repeated, [500]) == [Step.STOP]


@pytest.mark.parametrize(
    ("failed", "answered", "freed"),
    [
        ([5], 6, [5]),  # sent later, and answered
        ([5], 4, []),  # a late answer from before
        ([5, 7, 9], 8, [5, 7]),
        ([9, 5, 7], 8, [5, 7]),  # they came in out of order
        ([], 8, []),
    ],
)
def test_an_answer_frees_the_rows_sent_before_it(failed, answered, freed):
    """It says that the endpoint was well then; of what was sent later it says nothing."""
    repeated = Repeated()
    _failing(repeated, failed)
    assert sorted(repeated.answered(answered)) == freed
    assert len(repeated) == repeated.in_a_row == len(failed) - len(freed)


def test_late_answers_do_not_begin_the_count_anew():
    """An endpoint that broke goes on answering what it was sent before."""
    repeated = Repeated()
    for sent in range(100, 130):
        assert _failing(repeated, [sent]) == [Step.WITHHOLD]
        assert repeated.answered(sent - 50) == []
    assert _failing(repeated, [130]) == [Step.STOP]


def test_a_row_ends_at_once_if_something_sent_after_it_was_answered():
    """Its retries may come when nothing is answered any more; where its first request stands, the
    endpoint was well.
    """
    repeated = Repeated()
    repeated.answered(500)
    assert set(_failing(repeated, range(0, 500, 3), answered_sent=499)) == {Step.END}
    assert _failing(repeated, [501]) == [Step.WITHHOLD]


def test_what_was_in_flight_when_the_endpoint_broke_is_not_to_blame():
    """Answers that came in before the failure say nothing, though they were sent later: the rows
    are withheld, do not count, and end with the next answer that was.
    """
    repeated = Repeated()
    repeated.answered(500)
    assert set(_failing(repeated, range(301, 500, 2))) == {Step.WITHHOLD}
    assert (len(repeated), repeated.in_a_row) == (100, 0)
    assert repeated.answered(400) == list(range(301, 400, 2))
    assert repeated.take_back(lambda row: row < 410) == list(range(401, 410, 2))
    assert repeated.answered(600) == list(range(411, 500, 2))
    _failing(repeated, [201, 602])
    assert repeated.let_go() == [201, 602] and len(repeated) == 0


def test_requests_in_flight_keep_failures_apart():
    """Bad rows that fail at once, between answers that take long, are not in a row; once those in
    flight have failed too, they are.
    """
    repeated = Repeated()
    out = set(range(0, 90, 10))
    steps = _failing(repeated, [n for n in range(90) if n not in out], out=out)
    assert set(steps) == {Step.WITHHOLD}
    assert _failing(repeated, [0], out=()) == [Step.STOP]


def test_requests_in_flight_that_lie_elsewhere_do_not_matter():
    """What was sent before the last answer, or after all failures, keeps nothing apart."""
    repeated = Repeated()
    repeated.answered(10)
    steps = _failing(repeated, range(20, 51), out={3, 4, 60, 61, 62})
    assert steps == [Step.WITHHOLD] * 30 + [Step.STOP]


def test_what_is_withheld_is_bounded_by_what_is_in_flight():
    """Few requests that hang do not keep a broken endpoint going; many that do may be answered."""
    for hang in (10, 25, 100):
        repeated = Repeated()
        out = set(range(0, 10 * hang, 10))
        steps = _failing(repeated, (n for n in range(10 * hang) if n not in out), out=out)
        expected = max(ANY_ROWS, FAILED_TO_OUT * hang)
        if Step.STOP in steps:
            assert steps.index(Step.STOP) + 1 == expected
        else:
            assert len(steps) < expected


def test_rows_that_are_let_go_count_on():
    """They got an outcome only because nobody could wait; that does not make the endpoint well."""
    repeated = Repeated()
    _failing(repeated, range(20))
    assert repeated.let_go() == list(range(20))
    assert (len(repeated), repeated.in_a_row) == (0, 20)
    assert _failing(repeated, range(20, 31)) == [Step.WITHHOLD] * 10 + [Step.STOP]
    assert repeated.answered(1000) == list(range(20, 31))


def test_rows_that_are_taken_back_did_not_fail():
    """They are sent again, and others are withheld as they were."""
    repeated = Repeated()
    _failing(repeated, range(30))
    assert repeated.take_back(lambda row: row % 2 == 0) == list(range(0, 30, 2))
    assert len(repeated) == repeated.in_a_row == 15
    assert repeated.take_back(lambda _: False) == []
    assert set(_failing(repeated, range(30, 45), LOGIN)) == {Step.WITHHOLD}
    assert _failing(repeated, range(45, 61))[-1] is Step.STOP
