"""What exchanges may cost, and what is charged for them once they are over."""

import asyncio
from decimal import Decimal

import pytest

from batchrun.core.cost.price_book import AHEAD_US, Listed, PriceBook
from batchrun.core.cost.price_table import OwnPrice
from batchrun.core.cost.pricing import Quote, price
from batchrun.core.verdict.judge import Action, Verdict
from batchrun.engine.session.budget import Budget, Charge
from batchrun.engine.session.guards import StopSwitch
from batchrun.engine.session.spending import Reserved, Spending
from batchrun.errors import TransportFault
from batchrun.records import NO_USAGE, Attempt, Reply, Request, Usage, WorstCase

MILLION = 10**6
WORST = WorstCase(1_000, 100)
AGAIN = Verdict(Action.AGAIN, "x")


def _own(usd, **more):
    prices = {"cache_write": usd} | more
    return OwnPrice(Decimal(usd), Decimal(usd), **{k: Decimal(v) for k, v in prices.items()})


class World:
    """Budgets of a million dollars and of as many tokens, with prices of a dollar."""

    def __init__(self, own=None):
        self.said = []
        prices = PriceBook(own or {"m": _own(1)}, lambda *_: None, self.said.append)
        self.cost, self.tokens = (self._budget(cap) for cap in (10**18, 10**6))
        self.spending = Spending(prices, cost=self.cost, tokens=self.tokens, say=self.said.append)

    @staticmethod
    def _budget(cap):
        async def commit(*_):
            pass

        return Budget(
            guard="max_cost",
            cap=cap,
            before=Charge(0),
            commit=commit,
            switch=StopSwitch(),
            used_up=lambda *_: "",
        )

    async def reserve(self, named="m", worst=WORST, beside=()):
        """Set a request aside."""
        request = Request(0, None, b"{}", "", "m", 1, worst=worst)
        return await self.spending.reserve("e", named, request, 0, beside)

    def over(self, reserved, exchange, usage=NO_USAGE, cost_pd=None, verdict=AGAIN):
        """Its exchange is over."""
        line = (0, 1, "e", "m", None, 0, 0.0, 0.0, None, None, None, None)
        attempt = Attempt(*line, usage, cost_pd, None, unanswered=False)
        self.spending.answered(reserved, attempt, exchange, verdict)


def _exchange(*arguments, **keywords):
    """Reserve, end, and give back what is charged in picodollars and tokens."""

    async def session():
        world = World()
        reserved = await world.reserve()
        world.over(reserved, *arguments, **keywords)
        assert world.cost.reserved == world.tokens.reserved == 0
        return world.cost.charge.spent, world.tokens.charge.spent

    return asyncio.run(session())


ALL = (1_100 * MILLION, 1_100)
OK = Reply(200, {}, b"")


@pytest.mark.parametrize(
    ("exchange", "usage", "cost_pd", "charged"),
    [
        (OK, Usage(10, 1, 11), 77, (77, 11)),
        (OK, Usage(10, 1, None), 77, (77, 11)),
        (OK, Usage(None, None, 11), None, (ALL[0], 11)),
        (OK, Usage(10, None, None), None, ALL),
        (OK, NO_USAGE, None, ALL),
        (Reply(429, {}, b""), NO_USAGE, None, (0, 0)),
        (Reply(500, {}, b""), Usage(10, 1, 11), 77, (77, 11)),
        (Reply(504, {}, b""), NO_USAGE, None, ALL),
        (TransportFault("x", kind="dns", sent=False), NO_USAGE, None, (0, 0)),
        (TransportFault("x", kind="timeout", sent=True), NO_USAGE, None, ALL),
        (TransportFault("x", kind="cut", sent=True), Usage(10, 1, 11), 77, ALL),
    ],
)
def test_what_is_charged(exchange, usage, cost_pd, charged):
    """What was told of a whole answer; the worst case where something may be missing: half of the
    tokens, or the end of a stream, behind which the model may have gone on.
    """
    assert _exchange(exchange, usage, cost_pd) == charged


def test_after_a_bill_above_the_worst_case_more_is_set_aside():
    """By as much as it was above: once, however many were in flight; and the user is told once."""

    async def session():
        world = World()
        first, second = await world.reserve(), await world.reserve()
        for each in (first, second):
            world.over(each, OK, Usage(2_000, 200, 2_200), 3_300 * MILLION)
        third = await world.reserve()
        assert (third.cost_pd, third.tokens) == (3 * ALL[0], 2 * ALL[1])
        world.over(third, OK, Usage(10, 1, 11), 77)
        assert world.cost.charge.spent == 2 * 3_300 * MILLION + 77
        return world

    (news,) = asyncio.run(session()).said
    assert "more than its worst case" in news


def test_a_free_model_that_bills_is_told_of_once():
    """There is nothing to multiply."""

    async def session():
        world = World({"m": _own(0)})
        for _ in range(2):
            world.over(await world.reserve(), OK, Usage(10, 1, 11), 77)
        return world

    assert len(asyncio.run(session()).said) == 1


@pytest.mark.parametrize(
    ("own", "named", "tier", "usd"),
    [
        ({"m": _own(1)}, "m", None, 1),
        ({"m": _own(1), "big": _own(9)}, "big", None, 9),
        ({"m": _own(9), "big": _own(1)}, "big", None, 9),
        ({"big": _own(2)}, "big", None, 2),
        ({"m": _own(8, batch_input=4, batch_output=4)}, "m", "flex", 8),
        ({"m": _own(2, batch_input=4, batch_output=4)}, "m", None, 4),
    ],
    ids=["plain", "dear there", "dear here", "known there", "tier ignored", "tier chosen"],
)
def test_the_dearest_price_that_may_count_is_set_aside(own, named, tier, usd):
    """A model's name at the endpoint may have a price of its own; a server may ignore the tier that
    was asked for, or choose one where none was.
    """
    reserved = asyncio.run(World(own).reserve(named, WORST._replace(tier=tier)))
    assert reserved == Reserved(usd * ALL[0], ALL[1], usd * ALL[0], ALL[1])


def test_the_whole_prompt_may_be_written_into_the_cache():
    """That costs more than to read it: the worst case is all of it at that price."""
    look_up = {"m": Listed(price(Quote(Decimal(2), Decimal(3))))}
    book = PriceBook({"own": _own(1, cache_write="7.5")}, lambda _, m, *__: look_up.get(m), print)
    assert book.most_pd("e", "m", "m", WORST, 0) == (2_500 + 300) * MILLION
    assert book.most_pd("e", "own", "own", WORST, 0) == (7_500 + 100) * MILLION


def test_a_price_that_rises_soon_is_set_aside():
    """A request may wait for its turn. Looking ahead tells the user nothing."""
    said, asked = [], []

    def look_up(_endpoint, _model, tier, wall_us):
        asked.append(tier)
        usd = (3 if wall_us >= AHEAD_US else 1) * (2 if tier == "priority" else 1)
        quote = Quote(Decimal(usd), Decimal(0), cache_write=Decimal(usd))
        return Listed(price(quote), tier_known=False, remark="!")

    book = PriceBook({}, look_up, said.append)
    assert book.most_pd("e", "m", "m", WORST, 0) == 6_000 * MILLION
    looked = len(asked)
    assert book.most_pd("e", "m", "m", WORST, 1) == 6_000 * MILLION
    assert len(asked) == looked and set(asked) == {None, "priority", "flex"} and said == []
    assert PriceBook({}, lambda *_: None, said.append).most_pd("e", "m", "m", WORST, 0) is None


@pytest.mark.parametrize(("other", "most"), [(5, 5), (0.5, 1)])
def test_the_dearer_of_two_models_is_set_aside(other, most):
    """Of models that the row may ask, the dearest price counts, wherever that is."""
    world = World({"m": _own(1), "o": _own(other)})
    plain = asyncio.run(world.reserve())
    both = asyncio.run(world.reserve(beside=[("elsewhere", "o", "o")]))
    assert both.cost_pd == plain.cost_pd * most and both.tokens == plain.tokens
