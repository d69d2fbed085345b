"""What of a usage object is billed, and at which price: the reading of counts that may not add up.

Cached prompt tokens and those written into a cache are part of the prompt tokens, and reasoning
tokens part of the completion tokens: so OpenAI specified it, and nearly every server does it. The
others are told by what does not add up:

- Reasoning on top of the completion (xAI), or in the total alone (Gemini's OpenAI endpoint bills
  what was thought and names it nowhere): the total is larger than its parts.
- Cached tokens next to the prompt's instead of among them (gateways in front of Anthropic pass its
  ``input_tokens`` on as ``prompt_tokens``, which leave out what was read from the cache or written
  into it): more are cached than the prompt has, or the total is larger by them.

Where several readings are possible, the dearest is billed: a budget must hold in any case.
"""

from __future__ import annotations

from typing import NamedTuple

from batchrun.records import Usage

PARTS = "parts"
"""Prompt and completion tokens, each kind at its own price."""
TOTAL = "total"
"""The total holds tokens that the parts do not have."""
CACHED_BESIDE = "cached_beside"
"""Cached tokens are not among the prompt's."""
REPORTED = "reported_cost"
"""No tokens were priced: the reply says what it cost."""

_BESIDE = ('"cache_read_input_tokens"', '"cache_creation_input_tokens"')
"""Anthropic's names: its prompt tokens leave these out."""
_AMONG = ('"prompt_tokens_details"', '"input_tokens_details"', '"cached_tokens"')
"""Who also counts them the way OpenAI does has converted the prompt tokens (LiteLLM)."""


class Billed(NamedTuple):
    """Tokens by the price that they have, no token twice. ``source`` names the reading; ``odd``
    says that the counts do not add up in any way that is documented.
    """

    fresh: int
    cached: int
    written: int
    output: int
    reasoning: int
    source: str = PARTS
    odd: bool = False

    @property
    def prompt(self) -> int:
        """All tokens in: what steps of a price go by."""
        return self.fresh + self.cached + self.written

    @property
    def tokens(self) -> int:
        """All of them."""
        return self.prompt + self.output + self.reasoning


def read(usage: Usage, raw: str | None = None) -> Billed | None:
    """What is billed for a usage; None where its counts do not tell. ``raw`` is the object as the
    server sent it.
    """
    prompt, completion, total, cached, reasoning, written = usage
    cached, written, reasoning = cached or 0, written or 0, reasoning or 0
    if prompt is None and completion is None:
        # Nobody knows which is which: all of it may be output, which costs more.
        return None if total is None else Billed(0, 0, 0, total, 0, TOTAL, odd=True)
    if prompt is None or completion is None:
        if total is None:
            return None
        other = max(0, total - (prompt or 0) - (completion or 0))
        prompt = other if prompt is None else prompt
        completion = other if completion is None else completion
    # What the total has more than its parts.
    surplus = 0 if total is None else max(0, total - prompt - completion)
    kept = cached + written
    beside = bool(kept) and (
        kept > prompt
        or surplus in (kept, kept + reasoning)
        or (surplus in (0, reasoning) and _named_beside(raw))
    )
    if beside and surplus >= kept:
        surplus -= kept
    on_top = bool(reasoning) and (reasoning > completion or surplus == reasoning)
    if on_top:
        surplus = max(0, surplus - reasoning)
    elif reasoning:
        completion -= reasoning
    fresh = prompt if beside else prompt - kept
    told = on_top and total == prompt + completion + reasoning
    source = CACHED_BESIDE if beside else TOTAL if surplus or told else PARTS
    odd = bool(beside or surplus or (on_top and not told))
    return Billed(fresh, cached, written, completion + surplus, reasoning, source, odd)


def adds_up(usage: Usage) -> bool:
    """Whether a usage is the plain one that nearly every answer has: prompt and completion, and
    nothing that needs a reading.
    """
    prompt, completion, total, cached, reasoning, written = usage
    return (
        prompt is not None
        and completion is not None
        and not (cached or reasoning or written)
        and (total is None or total <= prompt + completion)
    )


def _named_beside(raw: str | None) -> bool:
    """Whether the cached tokens have names of a protocol that counts them next to the prompt's."""
    return (
        raw is not None
        and any(name in raw for name in _BESIDE)
        and not any(name in raw for name in _AMONG)
    )


def tokens(usage: Usage, raw: str | None = None) -> int | None:
    """All tokens of an exchange, by the reading that has the most; None where nobody knows."""
    billed = read(usage, raw)
    if billed is None:
        return usage.total_tokens
    return max(billed.tokens, usage.total_tokens or 0)


def discrepancy(usage: Usage, billed: Billed) -> str:
    """The sentence for the user, about counts that do not add up."""
    named = [
        f"{name} {count:,}"
        for name, count in zip(
            ("prompt", "completion", "total", "cached", "reasoning", "cache write"),
            usage,
            strict=True,
        )
        if count
    ]
    how = {
        CACHED_BESIDE: "cached tokens are billed next to the prompt's, as Anthropic counts them",
        TOTAL: "tokens that only the total has are billed as output",
        PARTS: "reasoning tokens are billed on top of the completion's",
    }[billed.source]
    return (
        f"warning: the token counts of an answer do not add up ({', '.join(named)}): {how}. The "
        "ledger keeps each usage as it was sent, in usage_raw"
    )
