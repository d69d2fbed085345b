"""How long the simulated model thinks: pure functions of a uniform draw and the answer's size."""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Protocol

_NORMAL = NormalDist()
_DRAW_MIN = 2.0**-53  # the normal distribution has no value at 0


class Latency(Protocol):
    """Seconds from a request's arrival to its answer."""

    def seconds(self, draw: float, completion_tokens: int) -> float:
        """The wait for a draw in [0, 1) and an answer of ``tokens`` tokens."""


@dataclass(frozen=True, slots=True)
class FixedLatency:
    """The same wait for every request."""

    wait_s: float = 0.0

    def __post_init__(self) -> None:
        _require_seconds("the fixed latency", self.wait_s)

    def seconds(self, draw: float, completion_tokens: int) -> float:
        """`wait_s`, whatever the draw."""
        del draw, completion_tokens
        return self.wait_s


@dataclass(frozen=True, slots=True)
class LognormalLatency:
    """Mostly near the median with a long tail, as service times are."""

    median_s: float
    sigma: float

    def __post_init__(self) -> None:
        _require_seconds("the median latency", self.median_s)
        _require_seconds("sigma", self.sigma)

    def seconds(self, draw: float, completion_tokens: int) -> float:
        """The distribution's quantile at `draw`."""
        del completion_tokens
        return self.median_s * math.exp(self.sigma * _NORMAL.inv_cdf(max(draw, _DRAW_MIN)))


@dataclass(frozen=True, slots=True)
class PerTokenLatency:
    """A base plus a time per generated token."""

    base_s: float
    token_s: float

    def __post_init__(self) -> None:
        _require_seconds("the base latency", self.base_s)
        _require_seconds("the latency per token", self.token_s)

    def seconds(self, draw: float, completion_tokens: int) -> float:
        """Proportional to the tokens, whatever the draw."""
        del draw
        return self.base_s + self.token_s * completion_tokens


_FORMS = "fixed:SECONDS, lognormal:MEDIAN:SIGMA or per-token:BASE:SECONDS_PER_TOKEN"


def parse_latency(text: str) -> Latency:
    """Read a latency model as the command line writes it, such as `lognormal:0.4:0.5`.

    Raises ValueError naming the valid forms.
    """
    name, *written = text.split(":")
    try:
        numbers = [float(number) for number in written]
    except ValueError:
        raise ValueError(
            f"latency {text!r} has a part that is not a number; write {_FORMS}"
        ) from None
    match name, numbers:
        case "fixed", [wait_s]:
            return FixedLatency(wait_s)
        case "lognormal", [median_s, sigma]:
            return LognormalLatency(median_s, sigma)
        case "per-token", [base_s, token_s]:
            return PerTokenLatency(base_s, token_s)
        case _:
            raise ValueError(f"latency {text!r} is not understood; write {_FORMS}")


def _require_seconds(name: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} must be a number of at least 0, not {value}")
