"""Figures before sending: by model and endpoint, bounded by limits; the time that limits cost."""

from dataclasses import replace
from decimal import Decimal

import pytest

from batchrun.core.cost.price_book import Listed, PriceBook
from batchrun.core.cost.price_table import OwnPrice
from batchrun.core.cost.pricing import Quote, price
from batchrun.core.estimate.estimating import Adder, Sums
from batchrun.core.estimate.least_time import connections, least_s, requests_per_s, tokens_per_s
from batchrun.core.estimate.prompt_tokens import Prompt
from batchrun.core.request.worst_case import MARGIN_TOKENS
from batchrun.core.settings.resolve import resolve

WIRE = b" " * 500
"""A body as it is sent: the bound of its prompt is made of the bytes alone."""
PROMPT = Prompt(100.0, 90.0, 120.0, 0)


def endpoint(name, models=None, **limits):
    """An endpoint that serves these models; all where none are named."""
    settings = resolve(
        {
            "input.files": ["-"],
            "output.dir": "run",
            "endpoint.base_url": "http://127.0.0.1:1",
            "endpoint.models": models,
        }
        | {f"endpoint.{key}": value for key, value in limits.items()}
    )
    return replace(settings.endpoint, name=name)


def adder(*endpoints, prices=("m",)):
    """An adder with prices of 1 and 10 USD per million tokens."""
    said = []
    own = {model: OwnPrice(Decimal(1), Decimal(10)) for model in prices}
    book = PriceBook(own, lambda *_: None, said.append)
    return Adder(endpoints or (endpoint("one"),), book, 0), said


def test_answers_are_bounded_by_their_limits():
    """A limit is the upper end, for every choice; what states none has no bound."""
    found, _ = adder()
    found.add("m", {"max_tokens": 50, "n": 2}, WIRE, PROMPT)
    found.add("m", {"max_completion_tokens": 10_000}, WIRE, PROMPT)
    sums = found.models["m"]
    assert sums.output.whole() == {"low": 105, "estimate": 840, "high": 10_100}
    assert (sums.unstated, sums.unbounded, sums.most_tokens) == (
        0,
        0,
        2 * (500 + MARGIN_TOKENS) + 10_100,
    )
    found.add("m", {}, WIRE, PROMPT)
    assert sums.output.whole()["high"] == 14_100
    assert (sums.unstated, sums.unbounded) == (1, 1)
    assert sums.most_pd() is None


def test_costs_are_of_the_figures():
    """Low, likely and high by hand, and the worst case."""
    found, said = adder()
    found.add("m", {"max_tokens": 100}, WIRE, PROMPT)
    cost = found.models["m"].cost({"one": 1.0})
    assert cost.dollars() == {
        "low": (90 + 5 * 10) / 1e6,
        "estimate": (100 + 40 * 10) / 1e6,
        "high": (120 + 100 * 10) / 1e6,
    }
    assert found.models["m"].most_pd() == ((500 + MARGIN_TOKENS) * 5 // 4 + 1000) * 10**6
    assert said == []


def test_an_unknown_price_is_said_once_and_never_a_zero():
    """The cost of a model without a price is null, and so is the bound in money."""
    found, said = adder()
    for _ in range(3):
        found.add("x", {"max_tokens": 100}, WIRE, PROMPT)
    assert found.models["x"].cost({"one": 1.0}) is None
    assert found.models["x"].most_pd() is None
    assert len(said) == 1 and '[prices."x"]' in said[0]


def test_a_price_at_one_of_two_endpoints_is_no_price():
    """Where a row may go to an endpoint without a price, nobody knows what it costs."""
    quoted = Listed(price(Quote(Decimal(1), Decimal(1))))
    book = PriceBook({}, lambda name, *_: quoted if name == "a" else None, lambda _: None)
    found = Adder((endpoint("a"), endpoint("b")), book, 0)
    found.add("m", {"max_tokens": 1}, WIRE, PROMPT)
    assert found.models["m"].cost({"a": 1.0, "b": 1.0}) is None
    assert found.models["m"].most_pd() is None


def test_endpoints_that_differ_make_a_range():
    """The cheaper one is the lower end, the dearer one the upper, their weights are in between."""
    two = (endpoint("cheap"), endpoint("dear"))
    rates = {"cheap": Decimal(1), "dear": Decimal(3)}
    book = PriceBook(
        {}, lambda name, *_: Listed(price(Quote(rates[name], Decimal(0)))), lambda _: None
    )
    found = Adder(two, book, 0)
    found.add("m", {"max_tokens": 1}, WIRE, PROMPT)
    cost = found.models["m"].cost({"cheap": 3.0, "dear": 1.0})
    assert cost.dollars() == {"low": 90 / 1e6, "estimate": 150 / 1e6, "high": 360 / 1e6}


def test_only_endpoints_that_serve_the_model_count():
    """A row is priced where it may go."""
    found, _ = adder(endpoint("a", ["m"]), endpoint("b", ["x"]))
    found.add("m", {"max_tokens": 1}, WIRE, PROMPT)
    assert list(found.models["m"].bills) == ["a"]
    assert Sums().cost({}) is None


@pytest.mark.parametrize(
    ("loads", "least"),
    [
        ({"x": 60.0}, 60 / 1),  # only a serves x
        ({"y": 60.0}, 60 / 2),  # only b serves y
        ({"z": 60.0}, 60 / 3),  # both serve z
        ({"x": 60.0, "z": 60.0}, 60.0),  # z goes to b
        ({"x": 60.0, "z": 300.0}, 360 / 3),  # both are full
        ({"x": 60.0, "y": 600.0, "z": 6.0}, 300.0),
        ({}, None),
    ],
)
def test_the_least_time_is_that_of_the_best_division(loads, least):
    """Two endpoints of 1 and 2 requests a second, and models that one or both of them serve."""
    endpoints = (endpoint("a", ["x", "z"], rpm=60), endpoint("b", ["y", "z"], rpm=120))
    found = least_s(endpoints, loads, requests_per_s)
    assert found == (None if least is None else pytest.approx(least))


def test_an_endpoint_without_a_limit_bounds_nothing():
    """Where some of the rows may go without a limit, only the others are bounded."""
    endpoints = (endpoint("a", ["x", "z"], tpm=60), endpoint("b", ["z"]))
    assert least_s(endpoints, {"z": 1e9}, tokens_per_s) is None
    assert least_s(endpoints, {"x": 10.0, "z": 1e9}, tokens_per_s) == pytest.approx(10.0)
    assert least_s(endpoints, {"z": 128.0}, connections) == pytest.approx(1.0)
