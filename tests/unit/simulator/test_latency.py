import statistics

import pytest

from batchrun.simulator.latency import (
    FixedLatency,
    LognormalLatency,
    PerTokenLatency,
    parse_latency,
)


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("fixed:0", FixedLatency(0)),
        ("fixed:0.05", FixedLatency(0.05)),
        ("lognormal:0.4:0.5", LognormalLatency(0.4, 0.5)),
        ("per-token:0.1:0.002", PerTokenLatency(0.1, 0.002)),
    ],
)
def test_the_three_forms_are_read(text, model):
    """What the command line writes becomes the model it names."""
    assert parse_latency(text) == model


@pytest.mark.parametrize(
    "text",
    [
        "",
        "lognormal:1",
        "lognormal:1:-1",
        "per-token:1",
        "normal:1:2",
        "fixed",
        "fixed:",
        "fixed:x",
        "fixed:1:2",
        "fixed:-1",
        "fixed:nan",
        "fixed:inf",
    ],
)
def test_other_forms_are_refused(text):
    """A wrong name, count or number raises ValueError instead of a surprising wait."""
    with pytest.raises(ValueError, match=r"latency|sigma"):
        parse_latency(text)


def test_fixed_and_per_token_are_exact():
    """They ignore the draw; per-token grows with the answer."""
    assert FixedLatency(0.05).seconds(0.9, 100) == 0.05
    assert PerTokenLatency(0.1, 0.01).seconds(0.9, 50) == pytest.approx(0.6)


def test_lognormal_has_its_median_and_spread():
    """Over evenly spaced draws the logarithm has the asked mean and deviation; 0 is no trap."""
    model = LognormalLatency(0.4, 0.5)
    waits = [model.seconds((k + 0.5) / 10_000, 0) for k in range(10_000)]
    assert statistics.median(waits) == pytest.approx(0.4, rel=0.01)
    assert waits[8413] / 0.4 == pytest.approx(2.718281828**0.5, rel=0.01)
    assert model.seconds(0.0, 0) > 0
