"""How much a simulated server can do at once: pure figures, used by ``scheduler.py``.

A request is an amount of work, in units of the capacity: seconds on an idle server, or tokens. All
running requests progress at one pace, which depends on how many run.
"""

import math
from dataclasses import dataclass
from typing import Protocol

from batchrun.simulator.latency import FixedLatency, Latency

SLOW_S = 0.1
"""The time of a request on an idle server, if a capacity counts seconds and no latency is set."""


class Capacity(Protocol):
    """What a server can do at once."""

    @property
    def queue_max(self) -> float:
        """How many requests may wait; one more is refused."""

    @property
    def kv_tokens_max(self) -> float:
        """Room for the tokens of running requests, prompts and answers."""

    @property
    def latency(self) -> Latency:
        """The latency if none is set."""

    @property
    def by_tokens(self) -> bool:
        """Whether work is tokens; then the latency passes before the first one. Else it is the
        seconds of the latency.
        """

    def admits(self, running: int) -> bool:
        """Whether one more may run besides ``running`` others, judging by their number."""

    def pace_s(self, running: int) -> float:
        """Seconds for a unit of work while ``running`` requests run."""


@dataclass(frozen=True, slots=True)
class Slots:
    """Serves ``slots`` requests at once, lets ``queue_max`` wait, and refuses others with 429."""

    slots: int
    queue_max: float
    kv_tokens_max: float = math.inf
    by_tokens: bool = False
    latency: Latency = FixedLatency(SLOW_S)  # noqa: RUF009 - frozen, so it may be shared

    def __post_init__(self) -> None:
        _require("slots K", self.slots, least=1)
        _require("slots Q", self.queue_max, least=0)

    def admits(self, running: int) -> bool:
        """One request per slot."""
        return running < self.slots

    def pace_s(self, running: int) -> float:
        """Slots do not slow each other down."""
        del running
        return 1.0


@dataclass(frozen=True, slots=True)
class Knee:
    """Takes everything, and takes (running / ``best``) ** ``power`` times as long past ``best``
    requests: with a power above 1 it answers fewer of them in a second than at its best.
    """

    best: int
    power: float
    queue_max: float = math.inf
    kv_tokens_max: float = math.inf
    by_tokens: bool = False
    latency: Latency = FixedLatency(SLOW_S)  # noqa: RUF009 - frozen, so it may be shared

    def __post_init__(self) -> None:
        _require("knee N", self.best, least=1)
        _require("knee P", self.power, least=0)

    def admits(self, running: int) -> bool:
        """Any number."""
        del running
        return True

    def pace_s(self, running: int) -> float:
        """One second for a second's work up to the knee, more behind it."""
        return math.pow(max(1.0, running / self.best), self.power)


@dataclass(frozen=True, slots=True)
class Batching:
    """Generates a token for everything that runs in ``base_ms + each_ms * running`` milliseconds,
    as engines with continuous batching do. If running requests need more than ``kv_tokens_max``
    tokens, the youngest are preempted first: they wait, and start over.
    """

    base_ms: float
    each_ms: float
    kv_tokens_max: float
    queue_max: float = math.inf
    by_tokens: bool = True
    latency: Latency = FixedLatency()  # noqa: RUF009 - frozen, so it may be shared

    def __post_init__(self) -> None:
        _require("batching T0", self.base_ms, least=0)
        _require("batching C", self.each_ms, least=0)
        _require("batching KV", self.kv_tokens_max, least=1)

    def admits(self, running: int) -> bool:
        """Any number, if there is room for their tokens."""
        del running
        return True

    def pace_s(self, running: int) -> float:
        """Seconds for a token of each request."""
        return (self.base_ms + self.each_ms * running) / 1000


FORMS = "batching:T0:C:KV, knee:N:P or slots:K:Q"
_HUGE = 1e12


def parse_capacity(text: str) -> Capacity:
    """Read a capacity as the command line writes it, such as ``slots:4:1000``.

    Raises ValueError naming the valid forms or the invalid figure.
    """
    name, *written = text.split(":")
    try:
        figures = [float(figure) for figure in written]
    except ValueError:
        raise ValueError(
            f"capacity {text!r} has a part that is not a number; write {FORMS}"
        ) from None
    match name, figures:
        case "slots", [slots, queue]:
            return Slots(_whole("slots K", slots), _whole("slots Q", queue))
        case "knee", [best, power]:
            return Knee(_whole("knee N", best), power)
        case "batching", [base_ms, each_ms, kv]:
            return Batching(base_ms, each_ms, _whole("batching KV", kv))
        case _:
            raise ValueError(f"capacity {text!r} is not understood; write {FORMS}")


def _whole(name: str, value: float) -> int:
    if not value.is_integer():  # also what is no number, and infinity
        raise ValueError(f"{name} must be a whole number, not {value:g}")
    return int(value)


def _require(name: str, value: float, *, least: float) -> None:
    if not least <= value <= _HUGE:  # NaN is in no range
        raise ValueError(f"{name} must be between {least:g} and {_HUGE:g}, not {value:g}")
