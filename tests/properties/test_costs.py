"""Costs, whatever they are: no digit is lost between an attempt and the totals."""

import json
from datetime import UTC, datetime
from fractions import Fraction

import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchrun.adapters.columns import schema as part_schema
from batchrun.core.cost.money import picodollars, settled, usd
from batchrun.core.cost.price_table import OwnPrice
from batchrun.core.cost.pricing import EXCHANGE_PD_MAX, price
from batchrun.core.cost.reported_cost import COST_HEADER, reported_pd
from batchrun.core.run.totals import TOKENS, AttemptLine, Totals, day_of
from batchrun.records import Usage
from batchrun.testing import samples
from batchrun.views.verify.recount import Sums, is_cost

costs = st.none() | st.integers(0, EXCHANGE_PD_MAX) | st.integers(0, 10**10)
counts = st.none() | st.integers(0, 10**6)
amounts = st.decimals(0, 1000, places=9)
attempts = st.builds(
    lambda cost_pd, tokens, model, at_us: samples.attempt(
        0, cost_pd=cost_pd and settled(cost_pd), usage=Usage(*tokens), model=model,
        started_at_us=at_us,
    ),
    costs, st.tuples(*[counts] * 6), st.sampled_from(["a", "b"]),
    st.integers(1_767_000_000_000_000, 1_767_400_000_000_000),
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(attempts, max_size=12))
def test_totals_are_the_sum_of_the_ledger(ledger):
    """As integers, through the columns, and as what checks them counts: the same, by group and by
    day.
    """
    ledger = [line._replace(row=row) for row, line in enumerate(ledger)]
    table = pa.RecordBatch.from_arrays(
        part_schema.attempt_columns(ledger), schema=part_schema.attempts_schema()
    )
    column = [None if v is None else picodollars(v) for v in table["cost_usd"].to_pylist()]
    assert column == [line.cost_pd for line in ledger]
    assert all(is_cost(v) for v in table["cost_usd"].to_pylist() if v is not None)
    totals, sums = Totals(), Sums()
    totals.add_attempts(
        AttemptLine(
            line.row, (line.endpoint, line.model, line.service_tier), line.cost_pd,
            line.unanswered, line.usage, day_of(line.started_at_us),
        )
        for line in ledger
    )  # fmt: skip
    sums.add_attempts(table)
    recorded = totals.recorded()
    assert {tuple(key): found for *key, found in recorded["groups"]} == sums.groups
    assert recorded["days"] == sums.days and recorded["unpriced"] == sums.unpriced
    known = [line.cost_pd for line in ledger if line.cost_pd is not None]
    assert totals.bill()[0] == (sum(known) if known else None)
    if known:
        whole = Fraction(sum(known), 10**12)
        assert totals.overall()["cost_usd"] == float(whole)
    for name, place in zip(TOKENS, range(6), strict=True):
        assert totals.overall()[name] == sum(line.usage[place] or 0 for line in ledger)
    for day, found in sums.days.items():
        of_day = [
            line for line in ledger
            if datetime.fromtimestamp(line.started_at_us / 1e6, UTC).date().isoformat() == day
        ]  # fmt: skip
        assert found["attempts"] == len(of_day)
        assert (found["cost_pd"] or 0) == sum(line.cost_pd or 0 for line in of_day)


@given(
    st.builds(
        OwnPrice, amounts, amounts, st.none() | amounts, st.none() | amounts,
        cache_write=st.none() | amounts,
    ),
    st.integers(0, 10**6), st.integers(0, 10**6), st.data(),
)  # fmt: skip
def test_the_cost_is_the_nearest_picodollar(own, prompt, completion, data):
    """Whatever the prices: within half a picodollar of the exact product, and one that can be
    written down and read again.
    """
    cached = data.draw(st.none() | st.integers(0, prompt))
    reasoning = data.draw(st.none() | st.integers(0, completion))
    c, r = cached or 0, reasoning or 0
    written = data.draw(st.none() | st.integers(0, prompt - c))
    w = written or 0
    usage = Usage(prompt, completion, prompt + completion, cached, reasoning, written)
    found = price(own.quote(None)).cost_pd(usage)
    from_cache = own.input if own.cached_input is None else own.cached_input
    thought = own.output if own.reasoning is None else own.reasoning
    to_cache = Fraction(own.input) * 5 / 4 if own.cache_write is None else Fraction(own.cache_write)
    exact = (
        (prompt - c - w) * Fraction(own.input) + c * Fraction(from_cache) + w * to_cache
        + (completion - r) * Fraction(own.output) + r * Fraction(thought)
    ) * 10**6  # fmt: skip
    assert abs(found - exact) <= Fraction(1, 2)
    assert picodollars(usd(found)) == found


@given(st.text(max_size=200) | st.text().map(lambda text: '{"cost":' + text + "}"), st.text())
def test_any_usage_and_header_have_a_sane_cost_or_none(usage_raw, header):
    """Nothing that a server sends makes a cost that is none."""
    found = reported_pd(usage_raw, {COST_HEADER: header})
    assert found is None or 0 <= found <= EXCHANGE_PD_MAX


@given(st.floats(0, 10_000))
def test_a_reported_cost_is_the_number_as_written(cost):
    """Rounded to the picodollar from the decimal digits that stand in the reply."""
    expected = settled(round(Fraction(repr(cost)) * 10**12))
    assert reported_pd(json.dumps({"cost": cost}), {}) == expected
    assert reported_pd(json.dumps({"cost": str(cost)}), {}) == expected


def test_dear_lines_by_the_thousand_do_not_overflow():
    """What checks the totals counts sums beyond 64 bits, to the picodollar."""
    cost_pd = settled(EXCHANGE_PD_MAX - 1)
    ledger = [samples.attempt(row, cost_pd=cost_pd) for row in range(5000)]
    sums = Sums()
    sums.add_attempts(
        pa.RecordBatch.from_arrays(
            part_schema.attempt_columns(ledger), schema=part_schema.attempts_schema()
        )
    )
    assert sums.total("cost_pd") == 5000 * cost_pd > 2**64
