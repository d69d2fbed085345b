"""How servers charge a request to their token limit: the rules, as data.

Most servers charge before they know the answer, and differ in what they charge for it; what a
provider does is said in ``core.settings.providers``, and by ``charge`` in the config file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from batchrun.core.request import tokens
from batchrun.core.settings.charge import Charge


class Size(NamedTuple):
    """The size of a request in tokens: its ``prompt``, the ``limit`` that it states for all its
    answers together (None: it states none), and the ``output`` that came back or is expected.
    """

    prompt: float
    limit: float | None
    output: float


class Rule(NamedTuple):
    """What one rule charges, and what it is for people."""

    charged: Callable[[Size], float]
    help: str


def _reserved(size: Size) -> float:
    return size.output if size.limit is None else max(size.limit, size.output)


RULES: Mapping[Charge, Rule] = {
    Charge.SUM: Rule(
        lambda size: size.prompt + _reserved(size),
        "the prompt plus `max_tokens`, which is not given back (Azure)",
    ),
    Charge.MAX: Rule(
        lambda size: max(size.prompt, _reserved(size)),
        "the larger of the prompt and `max_tokens` (OpenAI)",
    ),
    Charge.INPUT: Rule(lambda size: size.prompt, "the prompt alone (Gemini)"),
    Charge.REAL: Rule(
        lambda size: size.prompt + size.output, "the tokens that prompt and answer really have"
    ),
}
"""Every rule. Without a stated limit, what comes back is charged in its place."""


class Stated(NamedTuple):
    """What a body states of its answers, all of them together: the ``limit`` and the ``name`` of
    its parameter, None where it states none; and the tokens that ``core.request.tokens.estimate``
    has ``reserved`` for them.
    """

    limit: int | None
    name: str | None
    reserved: int


_Limits = msgspec.defstruct("_Limits", [(name, Any, None) for name in (*tokens.LIMITS, "n")])


def stated(body: bytes) -> Stated:
    """What a request's body, as it is sent, states of its answers."""
    decoded = msgspec.json.decode(body, type=_Limits)
    found = {name: value for name in _NAMES if (value := getattr(decoded, name)) is not None}
    limit, count = tokens.stated_limit(found), tokens.choices(found)
    if limit is None:
        return Stated(None, None, tokens.UNSTATED_COMPLETION_TOKENS * count)
    name = next(name for name in tokens.LIMITS if isinstance(found.get(name), int))
    return Stated(limit * count, name, limit * count)


_NAMES = (*tokens.LIMITS, "n")
