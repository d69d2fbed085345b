"""What requests use, learned from answers."""

import random

import pytest

from batchrun.engine.pace import forecast
from batchrun.engine.pace.forecast import Forecast, Histogram


def _answered(known, count, *, limit=400, estimate=30, prompt=20, output=20, model="m"):
    for _ in range(count):
        known.learn(model, limit, estimate, prompt, output)


class TestHistogram:
    @pytest.mark.parametrize("length", [0, 1, 2, 20, 31, 32, 4096])
    def test_lengths_that_are_all_alike_are_known_exactly(self, length):
        """A bin knows its mean: powers of two cost nothing where lengths do not vary."""
        histogram = Histogram()
        for _ in range(20):
            histogram.add(length)
        assert histogram.quantile(0.9) == histogram.mean == length
        assert length <= histogram.bound(0.999) <= 2 * length

    def test_the_quantile_is_as_exact_as_its_bin(self):
        """Where lengths vary, the quantile is the exact one within a factor of two."""
        dice = random.Random(3)
        lengths = [int(dice.lognormvariate(5, 0.9)) for _ in range(2000)]
        histogram = Histogram()
        for length in lengths:
            histogram.add(length)
        exact = sorted(lengths)[1800]
        assert exact / 2 <= histogram.quantile(0.9) <= 2 * exact
        assert exact < histogram.bound(0.999)

    def test_nothing_counted(self):
        """An empty histogram says 0 and breaks nowhere."""
        assert Histogram().quantile(0.9) == Histogram().mean == Histogram().bound(0.999) == 0

    def test_old_lengths_are_forgotten(self):
        """Answers that become longer midway are expected to be long before half of all are."""
        histogram = Histogram()
        for _ in range(20_000):
            histogram.add(20)
        for _ in range(1000):
            histogram.add(500)
        assert histogram.quantile(0.9) == 500


class TestPrompts:
    def test_the_estimate_stands_until_prompts_of_the_size_are_known(self):
        """Small prompts say nothing of large ones: those begin with the estimate from bytes."""
        known = Forecast()
        _answered(known, 2, estimate=40, prompt=10)
        assert known.prompt("m", 40) == 40
        _answered(known, 1, estimate=40, prompt=10)
        assert known.prompt("m", 40) == pytest.approx(10)
        assert known.prompt("m", 60) == pytest.approx(15)
        assert known.prompt("m", 4000) == 4000
        assert known.prompt("other", 40) == 40

    def test_too_low_is_learned_as_well(self):
        """CJK and code have more tokens than bytes suggest."""
        known = Forecast()
        _answered(known, 200, estimate=100, prompt=180)
        assert known.prompt("m", 100) == pytest.approx(180)

    @pytest.mark.parametrize("prompt", [None, 0, -3])
    def test_no_usage_teaches_nothing(self, prompt):
        """A server that reports no prompt tokens leaves the estimate as it is."""
        known = Forecast()
        _answered(known, 50, prompt=prompt)
        assert known.prompt("m", 30) == 30


class TestAnswers:
    def test_twenty_answers_speak_for_their_group(self):
        """Before that nothing is known; from then on the group's quantile is."""
        known = Forecast()
        _answered(known, 19)
        assert known.output("m", 400, 30) is None
        _answered(known, 1)
        assert known.output("m", 400, 30) == 20

    def test_a_group_borrows_from_its_parent(self):
        """Another size of prompt is expected to be answered as the limit is, then as the model."""
        known = Forecast()
        _answered(known, 20, estimate=30)
        assert known.output("m", 400, 3000) == 20
        assert known.output("m", 999, 3000) == 20
        assert known.output("m", 8, 3000) == 8
        assert known.output("m", None, 3000) == 20
        assert known.output("other", 400, 30) is None

    def test_sizes_of_prompts_are_told_apart(self):
        """Long prompts with short answers do not hide that short ones have long answers."""
        known = Forecast()
        _answered(known, 20, estimate=30, output=300)
        _answered(known, 500, estimate=3000, output=5)
        assert known.output("m", 400, 30) == 300
        assert known.output("m", 400, 3000) == 5

    def test_memory_is_bounded(self):
        """Rows that each state another limit do not make it grow."""
        known = Forecast()
        for limit in range(1, 5000):
            _answered(known, 1, limit=limit, output=1)
        assert len(known._answers) <= forecast.GROUPS_MAX
        assert known.output("m", 77, 30) == 1
