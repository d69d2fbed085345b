"""What a million tokens of a model cost, as lines for people and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from batchrun.core.cost.price_book import Quoted
from batchrun.views.layout import wrap
from batchrun.views.text import safe

_LABEL = 8


def labelled_lines(label: str, text: str, width: int) -> list[str]:
    """A labelled paragraph of a report in lines of at most ``width`` columns."""
    return list(wrap(f"{label:{_LABEL}} {text}", width, hang=_LABEL + 1))


def as_dict(quoted: Quoted) -> dict[str, Any]:
    """For ``--json``: USD per million tokens, and where the prices are from."""
    given, output = (None, None) if quoted.batch is None else map(float, quoted.batch)
    cached = quoted.quote.cached_input
    return {
        "input": float(quoted.quote.input),
        "output": float(quoted.quote.output),
        "cached_input": None if cached is None else float(cached),
        "batch_input": given,
        "batch_output": output,
        "source": quoted.source,
        "date": quoted.dated,
    }


def price_lines(quotes: Mapping[str, Quoted | None], width: int) -> Iterator[str]:
    """The unit prices of a model: once, or for each endpoint where they differ."""
    alike = len({quoted and (quoted.quote, quoted.batch) for quoted in quotes.values()}) == 1
    for name, quoted in quotes.items():
        where = "" if alike else f" at {safe(name)}"
        text = f"unknown{where}: set [prices] in the config file"
        if quoted is not None:
            quote = quoted.quote
            cached = "" if quote.cached_input is None else f", {_unit(quote.cached_input)} cached"
            batch = ""
            if quoted.batch is not None:
                batch = f"; batch {_unit(quoted.batch[0])} in, {_unit(quoted.batch[1])} out"
            dated = "" if quoted.dated is None else f" of {quoted.dated}"
            text = (
                f"{_unit(quote.input)} in, {_unit(quote.output)} out{cached} per million "
                f"tokens{where}{batch} ({quoted.source}{dated})"
            )
        yield from labelled_lines("price", text, width)
        if alike:
            return


def _unit(usd: Decimal) -> str:
    """US dollars per million tokens, with as many digits as the price has, at least two."""
    whole, _, places = f"{usd.normalize():f}".partition(".")
    return f"${int(whole):,}.{places:<02}" if usd else "$0"
