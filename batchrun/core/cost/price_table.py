"""The user's own prices: the tables ``[prices."MODEL"]`` of the config file."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

from batchrun.core.cost.pricing import Quote
from batchrun.errors import UsageError

PRICES = "prices"
"""The section of the config file."""
USD_MAX = 10**6
"""A dollar a token: more is a price of something else."""
PLACES_MAX = 24
STANDARD_TIERS = frozenset((None, "default", "auto", "standard", "on_demand"))
"""What answers call the service tier without a surcharge or a discount."""
BATCH_TIERS = frozenset(("flex", "batch"))
"""The tiers that are billed as batches."""


class OwnPrice(NamedTuple):
    """One of the tables: USD per million tokens. What is None falls back: ``cached_input`` to the
    input's price, ``reasoning`` to the output's, ``cache_write`` to 1.25 times the input's,
    ``batch_*`` to the standard ones.
    """

    input: Decimal
    output: Decimal
    cached_input: Decimal | None = None
    reasoning: Decimal | None = None
    batch_input: Decimal | None = None
    batch_output: Decimal | None = None
    cache_write: Decimal | None = None

    def quote(self, tier: str | None) -> Quote:
        """The prices of a service tier."""
        if tier not in BATCH_TIERS:
            return Quote(
                self.input, self.output, self.cached_input, self.reasoning, self.cache_write
            )
        return Quote(
            self.input if self.batch_input is None else self.batch_input,
            self.output if self.batch_output is None else self.batch_output,
            self.cached_input,
            self.reasoning,
            self.cache_write,
        )

    def knows(self, tier: str | None) -> bool:
        """Whether there are prices for this tier."""
        if tier in BATCH_TIERS:
            return self.batch_input is not None or self.batch_output is not None
        return tier in STANDARD_TIERS

    def public(self) -> dict[str, str]:
        """As it may be written down, without a loss: amounts as text."""
        return {name: f"{usd:f}" for name, usd in self._asdict().items() if usd is not None}


def exact_prices(text: str, *, path: str) -> object:
    """The table ``[prices]`` of a TOML document that can be read, its numbers as decimal ones.

    Raises ``UsageError`` naming the file where one of them is beyond what can be read.
    """
    try:
        return tomllib.loads(text, parse_float=Decimal)[PRICES]
    except ArithmeticError:
        message = f"{path}: a number has an exponent of too many digits"
        raise UsageError(message) from None


def own_prices(value: object) -> dict[str, OwnPrice]:
    """The checked tables by the names of their models.

    Raises ``UsageError`` naming the key; an unknown one with the nearest known.
    """
    if not isinstance(value, Mapping):
        message = 'prices: expected a table for each model, [prices."MODEL"]'
        raise UsageError(message)
    return {str(model): _own_price(str(model), table) for model, table in value.items()}


def _own_price(model: str, table: object) -> OwnPrice:
    where = f'prices."{model}"'
    if not isinstance(table, Mapping):
        message = (
            f"{where} is {table!r}; expected a table with input and output, in USD per million "
            f'tokens, written as [prices."{model}"]'
        )
        raise UsageError(message)
    known = OwnPrice._fields
    for key in table:
        if key not in known:
            found = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {found[0]}?" if found else f"known are {', '.join(known)}"
            message = f"unknown key {where}.{key}; {hint}"
            raise UsageError(message)
    amounts = {key: _amount(f"{where}.{key}", usd) for key, usd in table.items()}
    for key in ("input", "output"):
        if key not in table:
            message = f"{where} has no {key}: USD per million tokens (0 where they cost nothing)"
            raise UsageError(message)
    return OwnPrice(**amounts)


def _amount(name: str, value: Any) -> Decimal:
    wrong = UsageError(f"{name} is {value!s}; expected USD per million tokens, 0 to {USD_MAX:,}")
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
        raise wrong
    try:
        # A float is taken for the decimal number that it is written as.
        usd = value if isinstance(value, Decimal) else Decimal(str(value))
    except InvalidOperation:  # an integer of too many digits
        raise wrong from None
    if not usd.is_finite() or not 0 <= usd <= USD_MAX:
        raise wrong
    if not usd:
        return Decimal(0)
    exponent = usd.as_tuple().exponent
    if isinstance(exponent, int) and exponent < -PLACES_MAX:
        message = f"{name} is {value!s}; expected at most {PLACES_MAX} digits behind the point"
        raise UsageError(message)
    return usd
