"""Bounds on finished rows."""

import pytest

from batchrun.core.settings.bounds import (
    ALIKE_ROWS,
    OF_THE_ROW,
    Bound,
    Bounds,
    Finished,
    is_empty,
    is_truncated,
)
from batchrun.core.settings.table import BY_NAME
from batchrun.core.settings.values import checked
from batchrun.errors import UsageError
from batchrun.records import NO_USAGE, Attempt, Choice, Completion, Failure, Outcome, ToolCall

CALL = (ToolCall("c", "function", "f", "{}"),)


def _attempt(error_class=None):
    return Attempt(
        0, 1, "e", "m", None, 0, 0.0, 0.1, 200, error_class, None, None, NO_USAGE, None, None, False
    )


def _ok(content="Yes.", reason="stop", refusal=None, calls=None, reasoning=None):
    choice = Choice(0, content, reasoning, refusal, reason, calls, None)
    completion = Completion(choice, None, "m", None, None, None, None, NO_USAGE)
    return Outcome(0, None, completion, None, 1, _attempt(), None, None)


def _failed(error_class="invalid_request", code="bad", *, sent=True):
    failure = Failure(error_class, code, "no such thing")
    return Outcome(0, None, None, failure, 1, _attempt(error_class) if sent else None, None, None)


def _stopped(bounds, outcomes, *, succeeded=True):
    """The guard that stops, and after how many rows."""
    finished = Finished(bounds)
    for count, outcome in enumerate(outcomes, start=1):
        if broken := finished.add(outcome, succeeded=succeeded):
            return broken.guard, count
    return None


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        ("0", Bound(0, None)),
        (12, Bound(12, None)),
        ("5%", Bound(None, 0.05)),
        ("0%", Bound(None, 0.0)),
        ("2.5%", Bound(None, 0.025)),
        ("100%", Bound(None, 1.0)),
    ],
)
def test_a_bound_is_rows_or_a_share(text, bound):
    """Both forms are read, and shown as they were written."""
    found = checked(BY_NAME["guards.max_failures"], text)
    assert found.rows == bound.rows
    assert found.share == (None if bound.share is None else pytest.approx(bound.share))
    assert str(found) == str(text)


@pytest.mark.parametrize("text", ["", "-1", "5 %", "%", "101%", "1e2%", "five", True, 2.5, "٣"])
def test_anything_else_is_refused(text):
    """The message names the setting and what it takes."""
    with pytest.raises(UsageError, match=r"guards.max_failures is .*such as 5%"):
        checked(BY_NAME["guards.max_failures"], text)


def test_a_share_takes_no_number_of_rows():
    """--max-empty 5 could mean either: it is refused."""
    with pytest.raises(UsageError, match=r"guards.max_empty is '5'; expected a share"):
        checked(BY_NAME["guards.max_empty"], "5")


@pytest.mark.parametrize(
    ("bounds", "outcomes", "stopped"),
    [
        (Bounds(failures=Bound(0, None)), [_ok(), _failed()], ("max_failures", 2)),
        (Bounds(failures=Bound(2, None)), [_failed()] * 9, ("max_failures", 3)),
        (Bounds(failures=Bound(2, None)), [_failed(sent=False)] * 9, ("max_failures", 3)),
        # A share counts from 100 rows on, and only more than it is too much.
        (Bounds(failures=Bound(None, 0.5)), [_failed()] * 200, ("max_failures", 100)),
        (Bounds(failures=Bound(None, 0.5)), [_ok(), _failed()] * 200, None),
        (Bounds(truncated=Bound(None, 0.1)), [_ok(reason="length")] * 99, None),
        (Bounds(truncated=Bound(None, 0.1)), [_ok(reason="length")] * 100, ("max_truncated", 100)),
        (Bounds(empty=Bound(None, 0.0)), [_ok()] * 150 + [_ok("")], ("max_empty", 151)),
        (Bounds(empty=Bound(None, 0.0)), [_ok()] * 500, None),
        (Bounds(), [_failed(), _ok()] * 500, None),
    ],
)
def test_more_than_the_bound_stops(bounds, outcomes, stopped):
    """Which guard stops, and after which row."""
    assert _stopped(bounds, outcomes) == stopped


def test_the_first_rows_failing_alike_are_one_mistake():
    """Twenty of one kind before any success; never after one, nor where they differ."""
    alike, other = _failed(), _failed(code="other")
    assert _stopped(None, [alike] * 99, succeeded=False) == ("misconfiguration", ALIKE_ROWS)
    assert _stopped(None, [alike] * 99) is None
    assert _stopped(None, [other] + [alike] * 99, succeeded=False) is None
    # Rows that were never sent say nothing of the endpoint.
    assert _stopped(None, [_failed(sent=False)] * 99, succeeded=False) is None


@pytest.mark.parametrize("error_class", sorted(OF_THE_ROW))
def test_what_rows_bring_on_themselves_is_no_mistake_of_the_run(error_class):
    """However many of them a sorted input begins with; what else fails alike is still counted."""
    own = _failed(error_class, "content_filter")
    assert _stopped(None, [own] * 99, succeeded=False) is None
    mixed = [own] * 40 + [_failed(), own] * 99
    assert _stopped(None, mixed, succeeded=False) == ("misconfiguration", 40 + 2 * ALIKE_ROWS - 1)
    assert (
        _stopped(None, [own, _failed(), own, _failed(code="other")] * 99, succeeded=False) is None
    )


def test_the_rows_own_classes_are_those_that_the_contract_names():
    """Too large a request or payload may be a limit that every row meets: they count."""
    assert {"content_filter", "context_length", "invalid_row"} < OF_THE_ROW
    assert not OF_THE_ROW & {"request_too_large", "payload_too_large", "invalid_request"}


@pytest.mark.parametrize(
    ("outcome", "empty"),
    [
        (_ok(""), True),
        (_ok(None), True),
        (_ok(None, reasoning="Hm."), True),
        (_ok("No."), False),
        (_ok(None, refusal="I will not."), False),
        (_ok(None, calls=CALL), False),
        (_failed("empty_output"), True),
        (_failed(), False),
    ],
)
def test_what_is_empty(outcome, empty):
    """Thinking aloud is no answer; a refusal and a tool call are."""
    assert is_empty(outcome) == empty


def test_what_is_cut_off():
    """Each server's word for it, and the class that such a row may have ended with."""
    assert all(is_truncated(_ok(reason=r)) for r in ("length", "max_tokens", "MAX_TOKENS"))
    assert not is_truncated(_ok()) and not is_truncated(_ok(reason=None))
    assert is_truncated(_failed("truncated_output")) and not is_truncated(_failed())
