"""Prices, and the exact cost of an exchange by them."""

from decimal import Decimal

import pytest

from batchrun.core.cost.money import EXACT_USD, PICODOLLARS, half_even, picodollars, settled, usd
from batchrun.core.cost.pricing import EXCHANGE_PD_MAX, Price, Quote, Rates, price
from batchrun.records import NO_USAGE, Usage

D = Decimal


@pytest.mark.parametrize(
    ("usage", "cost_pd"),
    [
        # 1,000 x 2.50 and 200 x 10.00 per million
        (Usage(1000, 200, 1200), 2_500_000_000 + 2_000_000_000),
        # 600 of the 1,000 from the cache at 1.25: 400 x 2.50 + 600 x 1.25
        (Usage(1000, 200, 1200, 600), 1_000_000_000 + 750_000_000 + 2_000_000_000),
        # 150 of the 200 are reasoning at 12.00: 50 x 10.00 + 150 x 12.00
        (Usage(1000, 200, 1200, 0, 150), 2_500_000_000 + 500_000_000 + 1_800_000_000),
        # Reasoning on top of the completion, which the total tells
        (Usage(1000, 200, 1350, 0, 150), 2_500_000_000 + 2_000_000_000 + 1_800_000_000),
        # 100 of the 1,000 are written into the cache, at 1.25 times the input's price
        (Usage(1000, 200, 1200, 0, 0, 100), 2_250_000_000 + 312_500_000 + 2_000_000_000),
        # More from the cache than the prompt has: next to it; and so with the reasoning
        (
            Usage(1000, 200, 1200, 5000, 5000),
            2_500_000_000 + 6_250_000_000 + 2_000_000_000 + 60_000_000_000,
        ),
        # A count that the other two give
        (Usage(1000, None, 1200), 4_500_000_000),
        (Usage(None, 200, 1200), 4_500_000_000),
        # Nothing that could be billed for sure
        (NO_USAGE, None),
        (Usage(1000), None),
        # Nobody knows which of them are output
        (Usage(None, None, 1200), 12_000_000_000),
        (Usage(None, 200, 100), 2_000_000_000),
        (Usage(0, 0, 0), 0),
        # Junk
        (Usage(10**9, 10**9, 2 * 10**9), None),
    ],
)
def test_hand_computed_costs(usage, cost_pd):
    """Each kind of token has its rate; what is not known is None, and never 0."""
    assert price(Quote(D("2.50"), D(10), D("1.25"), D(12))).cost_pd(usage) == cost_pd


def test_kinds_without_a_price_have_that_of_their_whole():
    """Cached tokens cost what the prompt costs, reasoning what the completion costs."""
    made = price(Quote(D(2), D(8)))
    assert made.rates == Rates(2_000_000, 2_000_000, 8_000_000, 8_000_000, 2_500_000)
    assert made.cost_pd(Usage(10, 10, 20, 5, 5)) == 100_000_000


def test_a_price_finer_than_a_picodollar_is_rounded_once_per_exchange():
    """Half to even, on the whole cost and not on each token's."""
    made = price(Quote(D("0.0000005"), D(0)))  # half a picodollar a token
    assert made.divisor == 8  # a token that is written to the cache costs 1.25 of that
    costs = [made.cost_pd(Usage(tokens, 0, tokens)) for tokens in range(8)]
    assert costs == [0, 0, 1, 2, 2, 2, 3, 4]
    third = price(Quote(D("0.0833333333333333"), D(0)))
    assert third.cost_pd(Usage(3000, 0, 3000)) == 250_000_000


def test_long_prompts_have_other_rates():
    """Above the border all tokens cost more, cached prompt tokens count towards it."""
    steps = [(200_000, Quote(D("2.5"), D(15), D("0.25"))), (128_000, Quote(D(2), D(12)))]
    made = price(Quote(D("1.25"), D(10), D("0.125")), steps)
    assert [above for above, _ in made.steps] == [200_000, 128_000]
    assert made.cost_pd(Usage(128_000, 1, 128_001)) == 128_000 * 1_250_000 + 10_000_000
    assert made.cost_pd(Usage(128_001, 1, 128_002)) == 128_001 * 2_000_000 + 12_000_000
    assert made.cost_pd(Usage(200_001, 0, 200_001, 200_000)) == 2_500_000 + 200_000 * 250_000


def test_no_exchange_costs_more_than_can_be():
    """Junk in a count does not become the bill; amounts up to the bound do."""
    most = Price(Rates(1, 1, 1, 1, 1), 1)
    assert most.cost_pd(Usage(10**9, 0, 10**9)) == 10**9
    dear = Price(Rates(EXCHANGE_PD_MAX, 0, 0, 0, 0), 1)
    assert dear.cost_pd(Usage(1, 0, 1)) == EXCHANGE_PD_MAX
    assert dear.cost_pd(Usage(2, 0, 2)) is None


def test_what_a_column_holds_is_what_was_meant():
    """A cost survives the double of the column, below the border to the picodollar."""
    for cost_pd in (0, 1, 3, 2_400_000, 10**12 - 1, 2048 * PICODOLLARS + 1,
                    EXACT_USD * PICODOLLARS - 1):  # fmt: skip
        assert picodollars(usd(cost_pd)) == cost_pd == settled(cost_pd)
    beyond = 9999 * PICODOLLARS + 1
    assert settled(beyond) != beyond
    assert picodollars(usd(settled(beyond))) == settled(beyond)


def test_half_even():
    """Ties go to the even neighbour."""
    assert [half_even(n, 4) for n in range(13)] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3]
