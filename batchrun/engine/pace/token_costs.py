"""What a request is charged to the limits on tokens: when it goes out, and once it is answered.

Every limit, the user's and those that the server reports, is charged by the same reckoning: the
rule of the server (``charging``) applied to the size that the request is expected to have
(``forecast``), and later to the one that it had. What the rule does not give back, no limit does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from batchrun.core.request import charge
from batchrun.core.request.charge import RULES, Size
from batchrun.core.request.tokens import UNSTATED_COMPLETION_TOKENS
from batchrun.core.settings.charge import Charge
from batchrun.engine.pace.charging import ANSWERS_MIN, Charging
from batchrun.engine.pace.forecast import Forecast
from batchrun.records import NO_USAGE, Request, Usage

RESERVES = 2.0
"""How many times of what answers use a limit must reserve to be worth a word."""
BINDS = 0.25
"""The share of requests that had to wait for tokens from which on tokens are what binds."""


class Cost(NamedTuple):
    """What a request is charged: in ``total`` to limits on all tokens, and to those on ``prompt``
    and ``output`` tokens alone.
    """

    total: float
    prompt: float
    output: float


class Asked(NamedTuple):
    """A request as it was charged: its ``cost``, by which ``rule``, and what is known of it."""

    cost: Cost
    rule: Charge
    model: str
    estimate: int
    limit: int | None
    name: str | None


NOTHING = Cost(0.0, 0.0, 0.0)


class TokenCosts:
    """What requests to one endpoint cost in tokens, by what is known so far."""

    def __init__(
        self,
        now_s: Callable[[], float],
        given: Charge | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """``given`` is the server's rule where it is known; ``say`` gets notices for the user."""
        self._now_s = now_s
        self._say = say
        self._forecast = Forecast()
        self.charging = Charging(given)
        self._asked, self._waited = 0.0, 0.0
        self._said = False

    def of(self, tokens: int, request: Request | None) -> Asked:
        """What a request is charged that is estimated at so many tokens; without the request
        itself they are all taken for its prompt.
        """
        rule = self.charging.rule
        if request is None:
            model, limit, name, estimate, output = "", None, None, tokens, 0.0
        else:
            limit, name, reserved = charge.stated(request.body)
            model, estimate = request.model, max(1, tokens - reserved)
            expected = self._forecast.output(model, limit, estimate)
            if expected is None:
                expected = reserved if limit is None else min(limit, UNSTATED_COMPLETION_TOKENS)
            output = expected
        prompt = self._forecast.prompt(model, estimate)
        cost = _cost(rule, Size(prompt, limit, output))
        return Asked(cost, rule, model, estimate, limit, name)

    def passed(self, *, waited: bool) -> None:
        """A request goes out; ``waited``: it had to wait for tokens."""
        if self._asked >= 4 * ANSWERS_MIN:
            self._asked /= 2
            self._waited /= 2
        self._asked += 1
        self._waited += waited

    @property
    def binds(self) -> bool:
        """Whether limits on tokens are what holds requests back."""
        return self._waited > BINDS * self._asked

    def settled(self, asked: Asked, used: int | None, usage: Usage = NO_USAGE) -> Cost:
        """What a request really costs: ``used`` tokens in all, by the server's ``usage`` where it
        reported one. ``used`` is None where nobody knows, and 0 where nothing was charged.
        """
        if used is None:
            return asked.cost
        if used == 0:
            return NOTHING
        prompt, output = usage.prompt_tokens, usage.completion_tokens
        if prompt is None:
            self._forecast.learn(asked.model, asked.limit, asked.estimate, used, None)
            return Cost(used, asked.cost.prompt, asked.cost.output)
        output = max(output or 0, used - prompt)
        self._forecast.learn(asked.model, asked.limit, asked.estimate, prompt, output)
        size = Size(prompt, asked.limit, output)
        self.charging.answered(size, self._now_s(), binds=self.binds)
        if asked.limit is not None and not self._said:
            self._look_at_limit(asked)
        return _cost(asked.rule, size)

    def _look_at_limit(self, asked: Asked) -> None:
        """Tell the user what the limit costs, once it is known."""
        charging, limit = self.charging, asked.limit
        if charging.answers % ANSWERS_MIN or limit is None or not self.binds:
            return
        reserves = charging.rule in (Charge.SUM, Charge.MAX) or charging.trying
        answers = self._forecast.answers(asked.model, limit)
        if not reserves or answers is None or answers.count < ANSWERS_MIN:
            return
        times = limit / max(1.0, answers.mean)
        if times < RESERVES:
            return
        self._said = True
        self._say(
            f"{asked.name} {limit:,} reserves {times:,.0f} times what answers use (99.9% of them "
            f"have at most {min(limit, answers.bound(0.999)):,} tokens), and the token limit is "
            "what binds: a lower one lets more requests through where the server charges it"
        )


def _cost(rule: Charge, size: Size) -> Cost:
    kept = size.limit is not None and rule is not Charge.REAL
    output = max(size.limit or 0.0, size.output) if kept else size.output
    return Cost(RULES[rule].charged(size), size.prompt, output)
