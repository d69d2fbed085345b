"""What counts as an outage of the endpoint, and what as trouble with rows."""

import random

import pytest

from batchrun.core.verdict.outage import PROBE_S_MAX, WINDOW, Evidence, probe_wait_s
from batchrun.core.verdict.rules import HEALTH, RULES, Action, Health

DOWN, AILING = Health.DOWN, Health.AILING


def _failed(evidence, row, health, *, first, last=False):
    """An exchange failed: whether that shows an outage. Asking changes nothing."""
    shown = evidence.shows_outage(row, health, first=first, last=last)
    assert evidence.shows_outage(row, health, first=first, last=last) == shown
    evidence.failed(row, health, first=first)
    return shown


def _outage_after(failures):
    """After how many of these (row, health, first) it is one; None: never."""
    evidence = Evidence()
    for count, (row, health, first) in enumerate(failures, start=1):
        if _failed(evidence, row, health, first=first):
            return count
    return None


@pytest.mark.parametrize(
    ("failures", "after"),
    [
        (((n, DOWN, True) for n in range(50)), 29),
        (((n, AILING, True) for n in range(50)), 29),
        # Retries tell of a server that is not there, not of one that may choke on its requests.
        (((n, DOWN, False) for n in range(50)), 29),
        (((n, AILING, False) for n in range(500)), None),
        # Few rows are no evidence, however often they fail.
        (((n % 19, DOWN, True) for n in range(500)), None),
    ],
    ids=["down", "ailing", "down retries", "ailing retries", "few rows"],
)
def test_rows_are_the_evidence(failures, after):
    """Nine of ten exchanges of twenty different rows; what may be a row's own fault counts once."""
    assert _outage_after(failures) == after


def test_a_row_that_would_end_in_the_dark_needs_less():
    """Where nothing was answered since, five rows do; four, or an answer in between, do not."""
    evidence = Evidence()
    for row in range(4):
        assert not _failed(evidence, row, AILING, first=True)
    assert not _failed(evidence, 0, AILING, first=False, last=True)
    _failed(evidence, 4, AILING, first=True)
    assert _failed(evidence, 0, AILING, first=False, last=True)
    evidence.answered()
    assert not _failed(evidence, 0, AILING, first=False, last=True)


def test_a_server_that_fails_now_and_then_has_no_outage():
    """Half of all exchanges failing at random is no outage in 100,000 of them."""
    evidence, dice = Evidence(), random.Random(4)
    for row in range(100_000):
        if dice.random() < 0.5:
            assert not _failed(evidence, row, DOWN, first=True)
        elif not evidence.clean:
            evidence.answered()


def test_one_answer_among_many_failures_does_not_end_it():
    """A server of which one replica in twenty is left is down; a period of trouble stays one."""
    evidence = Evidence()
    for row in range(WINDOW * 4):
        if row % 20 == 10:
            evidence.answered()
        elif _failed(evidence, row, AILING, first=True):
            break
    else:
        pytest.fail("never an outage")
    assert evidence.period == 0


def test_answers_end_a_period():
    """Trouble that passes is forgotten: what comes later is judged by itself."""
    evidence = Evidence()
    for row in range(WINDOW // 2):
        assert not _failed(evidence, row, DOWN, first=True)
    while not evidence.clean:
        evidence.answered()
    assert evidence.clean and evidence.period == 1
    assert not _failed(evidence, 99, DOWN, first=True)


def test_probes_wait_longer_and_longer():
    """From half a second to a minute; never shorter than the server asks."""
    waits = [probe_wait_s(probes, None, 0.0) for probes in range(12)]
    assert waits == sorted(waits) and waits[0] == 0.5 and waits[-1] == PROBE_S_MAX / 2
    assert probe_wait_s(10**6, None, 1.0) == PROBE_S_MAX
    assert probe_wait_s(0, 90.0, 0.5) == 90.0


def test_only_what_is_tried_again_tells_of_health():
    """A refusal, a wrong key or a bad request is an answer: the endpoint is there."""
    for rule in RULES:
        if rule.name in HEALTH:
            assert rule.action in (Action.AGAIN, Action.FREE)
