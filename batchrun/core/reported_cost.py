"""What a reply says that it cost. It wins over any price: the provider knows its own bill.

- OpenRouter: ``usage.cost``, in USD; where the user's own key paid the model's provider
  (``is_byok``), that is OpenRouter's fee, and ``cost_details.upstream_inference_cost`` comes on top
  (openrouter.ai, usage accounting).
- xAI: ``usage.cost_in_usd_ticks``, 10^10 of them a dollar (docs.x.ai, cost tracking).
- Perplexity: ``usage.cost.total_cost``, in USD.
- DeepInfra: ``usage.estimated_cost``, in USD.
"""

from __future__ import annotations

import math
from fractions import Fraction

import msgspec

from batchrun.core import reply as reading
from batchrun.core.money import PICODOLLARS, settled
from batchrun.core.pricing import EXCHANGE_PD_MAX, EXCHANGE_USD_MAX

_PD_PER_TICK = PICODOLLARS // 10**10


class _Answer(msgspec.Struct):
    usage: dict[str, object] | None = None


_decode = msgspec.json.Decoder(_Answer).decode


def reported_pd(body: bytes) -> int | None:
    """The cost in a reply's body, in picodollars; None where it names none that can be meant: a
    finite number, not negative, at most ``EXCHANGE_USD_MAX``.
    """
    # Nearly every reply ends soon after its usage: from the end it is found at once.
    place = body.rfind(b'"usage"')
    if place < 0 or body.find(b"cost", place) < 0:
        return None
    try:
        usage = _decode(body).usage
    except (msgspec.MsgspecError, ValueError, RecursionError):
        value = reading.parse(body)
        found = value.get("usage") if isinstance(value, dict) else None
        usage = found if isinstance(found, dict) else None
    return None if usage is None else _cost_pd(usage)


def _cost_pd(usage: dict[str, object]) -> int | None:
    ticks = usage.get("cost_in_usd_ticks")
    if type(ticks) is int and 0 <= ticks * _PD_PER_TICK <= EXCHANGE_PD_MAX:
        return settled(ticks * _PD_PER_TICK)
    cost = usage.get("cost")
    if isinstance(cost, dict):
        cost = cost.get("total_cost")
    found = _amount_pd(usage.get("estimated_cost") if cost is None else cost)
    if found is None:
        return None
    details = usage.get("cost_details")
    if usage.get("is_byok") is True and isinstance(details, dict):
        found += _amount_pd(details.get("upstream_inference_cost")) or 0
    return settled(found) if found <= EXCHANGE_PD_MAX else None


def _amount_pd(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if not math.isfinite(value) or not 0 <= value <= EXCHANGE_USD_MAX:
        return None
    # The decimal number that was written, not the binary one that is nearest to it.
    return round(Fraction(str(value)) * PICODOLLARS)
