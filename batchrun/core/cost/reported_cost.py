"""What a reply says that it cost. It wins over any price: the provider knows its own bill.

- OpenRouter: ``usage.cost``, in USD; where the user's own key paid the model's provider
  (``is_byok``), that is OpenRouter's fee, and ``cost_details.upstream_inference_cost`` comes on top
  (openrouter.ai, usage accounting).
- xAI: ``usage.cost_in_usd_ticks``, 10^10 of them a dollar (docs.x.ai, cost tracking).
- Perplexity: ``usage.cost.total_cost``, in USD.
- DeepInfra: ``usage.estimated_cost``, in USD.
- LiteLLM's proxy: the header ``x-litellm-response-cost``, in USD; 0 and None stand for models that
  it has no price for (docs.litellm.ai, response headers).

Amounts may be numbers or their text, as gateways in languages with decimal types send them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from fractions import Fraction

from batchrun.core.cost.money import PICODOLLARS, settled
from batchrun.core.cost.pricing import EXCHANGE_PD_MAX, EXCHANGE_USD_MAX
from batchrun.core.reply import completion as reading

COST_HEADER = "x-litellm-response-cost"
_PD_PER_TICK = PICODOLLARS // 10**10
_AMOUNT = re.compile(
    r"\s*\$?\s*([0-9]{1,20}(?:\.[0-9]{0,40})?(?:[eE][+-]?[0-9]{1,3})?)\s*(?:USD)?\s*"
)


def reported_pd(usage_raw: str | None, headers: Mapping[str, str]) -> int | None:
    """The cost that a reply names, in picodollars: in its usage, as JSON text, or in a header. None
    where it names none that can be meant: a finite number, not negative, at most
    ``EXCHANGE_USD_MAX``.
    """
    if usage_raw is not None and "cost" in usage_raw:
        usage = reading.parse(usage_raw.encode())
        found = _cost_pd(usage) if isinstance(usage, dict) else None
        if found is not None:
            return found
    told = headers.get(COST_HEADER)
    return None if told is None else _amount_pd(told) or None


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
    if isinstance(value, str):
        written = _AMOUNT.fullmatch(value)
        value = None if written is None else float(written[1])
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if not math.isfinite(value) or not 0 <= value <= EXCHANGE_USD_MAX:
        return None
    # The decimal number that was written, not the binary one that is nearest to it.
    return round(Fraction(str(value)) * PICODOLLARS)
