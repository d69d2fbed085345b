"""One limit, seen from here: what may go out, by what the server told of it."""

import pytest

from batchrun.engine.pace.limit_model import (
    CAUTION_S,
    LEAST,
    LEAST_OF_WINDOW,
    MARGIN,
    STEP_S,
    UNBOUND,
    Account,
    Limit,
    News,
)

EVEN = 10.0  # per second


def _limit(left, reset_s, most=600.0):
    return Limit(most, most / EVEN, left, reset_s)


def _bucket(left):
    """What a bucket tells: when it will be full."""
    return _limit(left, (600 - left) / EVEN)


class Story:
    """News of one limit after the other, a second apart unless it is said."""

    def __init__(self, limit):
        self.now_s = 1000.0
        self.account = Account(limit, self.now_s, None)
        self.tell(limit, after_s=0)

    def tell(self, limit, *, after_s=1.0, refused=False, held=True):
        """News, and then what may go out, in even shares."""
        self.now_s += after_s
        news = News(self.now_s, refused, self.now_s - 0.1, held=held, answers=0)
        self.account.told(limit, news)
        return self.share()

    def share(self, cost=1.0):
        """What may go out now, in even shares."""
        return round(self.account.rate(self.now_s, cost) / EVEN, 4)


@pytest.mark.parametrize(
    ("left", "share"),
    [(590, MARGIN), (400, MARGIN), (300, MARGIN), (150, 0.5), (60, 0.2), (3, LEAST)],
)
def test_a_bucket_below_its_half_is_spared_in_proportion(left, share):
    """Above, the even share goes out."""
    assert Story(_bucket(left)).share() == pytest.approx(share, abs=0.01)


def test_a_small_bucket_that_is_full_is_not_a_large_one_that_is_empty():
    """A bucket of ten seconds is full after a pause and reports a reset of 0: the even share goes
    out, and not the least one, which would leave it full for ever.
    """
    story = Story(_limit(60, 4.0))
    assert story.tell(_limit(100, 0.0), held=False) == MARGIN
    assert story.tell(_limit(100, 0.0), held=False) == MARGIN
    assert story.account.size == 100


def test_an_empty_bucket_fills_while_nobody_tells():
    """What has come in since the last news counts: nobody waits for ever."""
    story = Story(_bucket(0))
    story.now_s += 15
    assert story.share() == pytest.approx(0.5)


def test_nobody_waits_for_a_bucket_to_be_full():
    """A reset of a minute at a bucket with some room says nothing against sending."""
    story = Story(_bucket(310))
    assert [story.tell(_bucket(310)) for _ in range(20)] == [MARGIN] * 20


def test_what_a_window_leaves_is_spread_until_its_end():
    """Once it is seen that a reset stays where it is while less is left."""
    story = Story(_limit(300, 40))
    shares = [story.tell(_limit(300 - 12 * n, 40 - n)) for n in range(1, 11)]
    # 180 are left for 30 seconds
    assert shares[-1] == pytest.approx(0.6)


def test_a_window_with_a_late_end_is_known_at_once():
    """A bucket of which so little is missing would be full long before."""
    assert Story(_limit(200, 58)).share() == pytest.approx(200 / 58 / EVEN, abs=1e-3)


def test_a_used_up_window_is_waited_for_and_then_forgotten():
    """Hardly anything goes out until its end; then the even share does, before there is news."""
    story = Story(_limit(200, 58))
    assert story.tell(_limit(0, 57)) == pytest.approx(LEAST_OF_WINDOW)
    story.now_s += 56
    assert story.share() == pytest.approx(LEAST_OF_WINDOW)
    story.now_s += 2
    assert story.share() == pytest.approx(MARGIN)


def test_a_bucket_taken_for_a_window_is_found_out():
    """A reset that moves on with the clock is a bucket's."""
    story = Story(_limit(200, 58))
    shares = [story.tell(_bucket(300)) for _ in range(10)]
    assert shares[-1] == MARGIN


def test_a_bucket_of_a_few_requests_tells_nothing():
    """Its level goes up and down with each request."""
    story = Story(_limit(0, 0.5))
    assert story.share() == MARGIN  # it holds five
    assert Story(_limit(20, 58, most=6000)).share(cost=1000) == MARGIN


def test_a_limit_of_which_nothing_goes_missing_is_put_to_the_test():
    """Twice as much after two seconds, then again, while requests wait and nothing is missing."""
    story = Story(_bucket(599))
    shares = [story.tell(_bucket(599), after_s=STEP_S) for _ in range(4)]
    assert shares == [2, 4, 8, 16]
    assert story.tell(_bucket(500)) == MARGIN, "something is missing: the limit is true"
    assert [story.tell(_bucket(599), after_s=STEP_S, held=False) for _ in range(3)] == [MARGIN] * 3


def test_a_refusal_ends_the_test_for_longer_each_time():
    """A server that enforces more than it tells is not put to the test again and again."""
    story = Story(_bucket(599))
    for pause_s in (CAUTION_S, 2 * CAUTION_S, 4 * CAUTION_S):
        assert story.tell(_bucket(599), after_s=STEP_S) == 2
        assert story.tell(_bucket(599), after_s=0, refused=True) == MARGIN
        steps = int(pause_s / STEP_S) - 1
        shares = [story.tell(_bucket(599), after_s=STEP_S) for _ in range(steps)]
        assert shares == [MARGIN] * steps


def test_replies_to_older_requests_do_not_go_on_with_the_test():
    """What is told in them was so before more was let out."""
    story = Story(_bucket(599))
    assert story.tell(_bucket(599), after_s=STEP_S) == 2
    story.now_s += STEP_S
    sent_s = story.now_s - STEP_S - 0.1
    story.account.told(_bucket(599), News(story.now_s, False, sent_s, held=True, answers=0))
    assert story.share() == 2


def test_a_renewal_is_no_jump():
    """Two windows a minute are renewed without a doubt arising; three rises within one are odd."""
    story = Story(_limit(100, 5))
    for _ in range(5):
        assert story.tell(_limit(600, 60), after_s=10) < UNBOUND
        assert story.tell(_limit(100, 10), after_s=50) < UNBOUND
    for _ in range(3):
        story.tell(_limit(10, 30), after_s=1)
        share = story.tell(_limit(500, 30), after_s=1)
    assert share == UNBOUND
