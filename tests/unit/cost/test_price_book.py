"""Which price counts, and what the user hears of it."""

from decimal import Decimal

import pytest

from batchrun.core.cost.price_book import PERIOD_US, TOLD_MAX, Listed, PriceBook
from batchrun.core.cost.price_table import OwnPrice
from batchrun.core.cost.pricing import Quote, price
from batchrun.core.reply import completion as reading
from batchrun.records import NO_USAGE, Usage
from batchrun.testing.samples import completion_body

USAGE = Usage(10, 1, 11)
BODY = completion_body()
D = Decimal


class Books:
    """A price book, what it looked up and what it said."""

    def __init__(self, own=None, listed=()):
        self.asked, self.said = [], []
        self.listed = dict(listed)
        self.book = PriceBook(own or {}, self._look_up, self.said.append)

    def _look_up(self, *what):
        self.asked.append(what)
        return self.listed.get(what[1])

    def cost(
        self,
        asked="asked",
        answered="answered",
        tier=None,
        usage=USAGE,
        body=BODY,
        at=0,
        headers=None,
    ):
        """The cost of an exchange."""
        raw = reading.usage_and_text(reading.parse(body))[1]
        return self.book.bill("e", asked, answered, tier, usage, raw, headers or {}, at)[0]


def _listed(usd, **more):
    return Listed(price(Quote(D(usd), D(0))), **more)


def test_a_price_that_is_missing_at_an_endpoint_that_asks_none_is_no_news():
    """Nothing is said of the built-in servers; what other endpoints lack is said all the same."""
    said = []
    book = PriceBook({}, lambda *_: None, said.append, free=["built-in"])
    for endpoint, told in (("built-in", 0), ("other", 1)):
        cost = book.bill(endpoint, "m", "m", None, USAGE, None, {}, 0)
        assert cost == (None, None)
        assert len(said) == told


@pytest.mark.parametrize("name", ["asked", "answered"])
def test_the_users_own_price_wins_over_the_list(name):
    """By either model's name; the list is not even looked at."""
    books = Books({name: OwnPrice(D(1), D(5))}, {"answered": _listed(9), "asked": _listed(9)})
    assert books.cost() == 15_000_000
    assert books.asked == [] and books.said == []


def test_the_answering_model_counts_before_the_one_asked_for():
    """In the user's tables and in the list alike."""
    own = {"asked": OwnPrice(D(1), D(0)), "answered": OwnPrice(D(2), D(0))}
    assert Books(own).cost() == 20_000_000
    assert Books(None, {"asked": _listed(1), "answered": _listed(2)}).cost() == 20_000_000
    assert Books(None, {"asked": _listed(1)}).cost() == 10_000_000
    assert Books(None, {"asked": _listed(1)}).cost(answered=None) == 10_000_000


def test_what_the_reply_says_wins():
    """The provider knows its bill, also where no tokens are told or no price is known."""
    own = {"asked": OwnPrice(D(1), D(0))}
    body = completion_body(usage={"cost": 0.5})
    books = Books(own)
    assert books.cost(body=body) == 5 * 10**11
    assert Books().cost(body=body, usage=NO_USAGE) == 5 * 10**11
    assert books.cost(body=completion_body(usage={"cost": -0.5})) == 10_000_000


def test_a_price_is_looked_up_once_and_again_after_a_while():
    """Per model and tier; a list may have another price tomorrow, or at night."""
    books = Books(None, {"answered": _listed(1)})
    for _ in range(3):
        assert books.cost() == 10_000_000
    assert len(books.asked) == 1
    books.listed["answered"] = _listed(2)
    assert books.cost(at=PERIOD_US - 1) == 10_000_000
    assert books.cost(at=PERIOD_US) == 20_000_000
    books.cost(tier="flex", at=PERIOD_US)
    assert books.asked[-1] == ("e", "answered", "flex", PERIOD_US)


def test_a_model_without_a_price_is_told_once_and_costs_null():
    """Not 0: what is not known is not for free."""
    books = Books()
    assert [books.cost(), books.cost(), books.cost(tier="flex")] == [None] * 3
    (news,) = books.said
    assert "no price is known for model 'answered'" in news and '[prices."answered"]' in news
    assert books.cost(usage=NO_USAGE) is None


def test_an_attempt_without_usage_needs_no_price():
    """A refusal costs nothing that is known; nobody is told of a missing price for it."""
    books = Books()
    assert books.cost(usage=NO_USAGE) is None
    assert books.asked == [] and books.said == []


def test_a_tier_without_a_price_is_counted_at_the_standard_one_and_told():
    """Once per model and tier; tiers that mean the standard one are not told of."""
    books = Books({"m": OwnPrice(D(1), D(0))}, {"l": _listed(2, tier_known=False)})
    assert books.cost("m", "m", "Priority") == 10_000_000
    assert books.cost("m", "m", "priority") == 10_000_000
    assert books.cost("m", "m", "default") == 10_000_000
    assert len(books.said) == 1 and "'priority'" in books.said[0]
    assert books.cost("l", "l", "flex") == 20_000_000
    assert "'flex'" in books.said[1]


def test_a_remark_of_the_list_is_told_once():
    """Where a price may be somebody else's, the user hears of it."""
    books = Books(None, {"answered": _listed(1, remark="of the maker")})
    for tier in (None, "default", None):
        books.cost(tier=tier)
    assert books.said == ["of the maker"]


def test_names_without_end_do_not_tell_without_end():
    """A server that makes up a name for every answer is told of a few times."""
    books = Books()
    for number in range(3000):
        books.cost(answered=f"m{number}")
    assert len(books.said) == TOLD_MAX and "further" in books.said[-1]
    assert len(books.book._known) <= 1024


def test_a_name_that_was_meant_is_suggested():
    """Of the user's own prices and of a list; nothing where no name is near."""
    said = []
    own = {"my-model": OwnPrice(D(1), D(1))}
    book = PriceBook(
        own, lambda *_: None, said.append, lambda _, model: ["gpt-x"] * ("gpt" in model)
    )
    for model in ("my-modell", "gpt-xx", "other"):
        book.price_of("e", model, None, 0)
    assert "'my-modell' (did you mean my-model?)" in said[0]
    assert "'gpt-xx' (did you mean gpt-x?)" in said[1]
    assert "did you mean" not in said[2]
