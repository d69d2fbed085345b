"""How a server charges its token limit: found out from what is left, and by a trial."""

import pytest

from batchrun.core.request.charge import RULES, Size, stated
from batchrun.core.settings.charge import Charge
from batchrun.engine.pace.charging import ANSWERS_MIN, Charging
from batchrun.engine.pace.limit_model import Limit

SIZE = Size(200, 400, 80)


def _answers(charging, count, *, now_s=0.0, size=SIZE, binds=True):
    for _ in range(count):
        charging.answered(size, now_s, binds=binds)


def _reports(charging, rule, *, window=False, others=0.0, rounds=8):
    """A server that charges by this rule reports what is left of it, each 5 s."""
    most, left, refilled = (1e6, 5e5, 0.0) if window else (3e5, 1.5e5, 25_000)
    for number in range(rounds):
        limit = Limit(most, 60.0, left, 30.0)
        charging.left(limit, 5.0 * number, bucket=None if window else most)
        _answers(charging, 60, now_s=5.0 * number, binds=False)
        left += refilled - 60 * RULES[rule].charged(SIZE) - others
        left = min(left, 0.97 * most)


class TestRules:
    @pytest.mark.parametrize(
        ("rule", "size", "charged"),
        [
            (Charge.SUM, Size(30, 400, 20), 430),
            (Charge.SUM, Size(30, None, 20), 50),
            (Charge.SUM, Size(30, 10, 20), 50),  # the server did not keep its limit
            (Charge.MAX, Size(30, 400, 20), 400),
            (Charge.MAX, Size(900, 400, 20), 900),
            (Charge.MAX, Size(30, None, 20), 30),
            (Charge.INPUT, Size(30, 400, 20), 30),
            (Charge.REAL, Size(30, 400, 20), 50),
        ],
    )
    def test_what_is_charged(self, rule, size, charged):
        """Each rule by its definition; without a limit, what came back stands for it."""
        assert RULES[rule].charged(size) == charged

    @pytest.mark.parametrize(
        ("body", "limit", "name", "reserved"),
        [
            (b'{"max_tokens":9}', 9, "max_tokens", 9),
            (b'{"max_completion_tokens":9,"max_tokens":5}', 9, "max_completion_tokens", 9),
            (b'{"n_predict":7,"n":3}', 21, "n_predict", 21),
            (b'{"max_tokens":null,"n_predict":7}', 7, "n_predict", 7),
            (b'{"max_tokens":"9","messages":[{"max_tokens":3}]}', None, None, 512),
            (b'{"max_tokens":-1}', None, None, 512),
            (b'{"n":2}', None, None, 1024),
            (b"{}", None, None, 512),
        ],
    )
    def test_the_limit_that_a_body_states(self, body, limit, name, reserved):
        """Read from the bytes as they are sent, whatever the parameter's name or type."""
        assert stated(body) == (limit, name, reserved)


class TestWhatIsLeft:
    @pytest.mark.parametrize("window", [False, True])
    @pytest.mark.parametrize("rule", list(Charge))
    def test_the_fall_shows_the_rule(self, rule, window):
        """Buckets and windows alike: what fell is what the rule charges for what was answered."""
        charging = Charging()
        _reports(charging, rule, window=window)
        assert (charging.rule, charging.known) == (rule, True)

    def test_what_others_use_is_no_evidence(self):
        """A fall that no rule explains leaves the dearest rule in force."""
        charging = Charging()
        _reports(charging, Charge.REAL, others=60 * 2000)
        assert (charging.rule, charging.known) == (Charge.SUM, False)

    def test_rules_that_come_to_the_same_are_not_told_apart(self):
        """Answers as long as their limit: sum and real are one, and nothing is decided."""
        charging = Charging()
        left = 5e5
        for number in range(8):
            charging.left(Limit(1e6, 60.0, left, 30.0), 5.0 * number, bucket=None)
            _answers(charging, 60, size=Size(20, 20, 20), binds=False)
            left -= 60 * 40
        assert not charging.known

    def test_a_small_bucket_shows_nothing(self):
        """One that is full again between two reports hides what was charged: what was reserved for
        is not taken for it, and a trial waits for no more answers than where nothing is reported.
        """
        charging = Charging()
        for number in range(ANSWERS_MIN):
            charging.left(Limit(6e4, 60.0, 940.0, 0.06), 0.5 * number, bucket=1000.0)
            _answers(charging, 1, now_s=0.5 * number)
        assert (charging.rule, charging.known, charging.trying) == (Charge.REAL, False, True)

    def test_what_is_given_is_never_questioned(self):
        """Neither what is left nor a refusal changes a rule that the user states."""
        charging = Charging(Charge.MAX)
        _reports(charging, Charge.REAL)
        _answers(charging, 500)
        charging.refused(0.0, 1.0)
        assert charging.rule is Charge.MAX


class TestTrial:
    def test_fifty_answers_begin_it(self):
        """Once it is known that answers use far less than is reserved, what is used is charged."""
        charging = Charging()
        _answers(charging, ANSWERS_MIN - 1)
        assert charging.rule is Charge.SUM
        _answers(charging, 1)
        assert charging.rule is Charge.REAL

    @pytest.mark.parametrize(
        ("size", "binds"), [(SIZE, False), (Size(200, 20, 20), True), (Size(9000, 400, 20), True)]
    )
    def test_there_is_none_without_a_reason(self, size, binds):
        """Where tokens do not bind, or reserving costs next to nothing, nothing is tried."""
        charging = Charging()
        _answers(charging, 500, size=size, binds=binds)
        assert charging.rule is Charge.SUM

    def test_a_server_that_reserves_ends_it(self):
        """Refusals of what was sent in the trial bring the dear rule back, for a good while."""
        charging = Charging()
        _answers(charging, ANSWERS_MIN, now_s=10)
        for _ in range(5):
            charging.refused(9.0, 11.0)  # sent before it
        assert charging.rule is Charge.REAL
        for _ in range(5):
            charging.refused(10.5, 11.0)
        assert charging.rule is Charge.SUM
        _answers(charging, 500, now_s=300)
        assert charging.rule is Charge.SUM
        _answers(charging, 1, now_s=700)
        assert charging.rule is Charge.REAL

    def test_refusals_at_random_do_not_end_it(self):
        """One in thirty refused for no reason is no sign of what is charged."""
        charging = Charging()
        _answers(charging, ANSWERS_MIN + 90, now_s=10)
        for second in range(100):
            charging.refused(11.0 + second, 11.0 + second)
            _answers(charging, 30, now_s=11.0 + second)
        assert charging.rule is Charge.REAL
