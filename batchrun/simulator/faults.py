"""Which requests go wrong, and how: one draw against one table of shares."""

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from itertools import accumulate

from batchrun.simulator.rejections import INJECTED

DROP = "drop"  # the connection is closed before any answer
CUT = "cut"  # headers and half of the body, then the connection is closed
STALL = "stall"  # no answer until the client gives up
GARBAGE = "garbage"  # status 200 with an HTML page
ERROR_200 = "error-200"  # status 200 with an error in the body
STREAM_END = "stream-end"  # a stream that ends in good order after half of its chunks
STREAM_STALL = "stream-stall"  # half of a stream's chunks, then nothing until the client gives up
STREAM_ERROR = "stream-error"  # half of a stream's chunks, then an error among them
NO_DONE = "no-done"  # a whole stream without the last event, `[DONE]`
ODD_FRAMING = "odd-framing"  # a whole stream, framed in every way that the format allows

INVALID = "invalid"  # an answer that is not the JSON, or the tool call, that was asked for
TRUNCATED = "truncated"  # half of an answer, with finish_reason `length`
EMPTY = "empty"  # an answer without content

STREAM_FAULTS = frozenset({STREAM_END, STREAM_STALL, STREAM_ERROR, NO_DONE, ODD_FRAMING})
"""These only happen to streams; a plain answer that draws one of them succeeds."""
ANSWER_FAULTS = frozenset({INVALID, TRUNCATED, EMPTY})
"""These are the model's: what is sent is a completion like any other."""
FAULTS = frozenset(
    {*INJECTED, DROP, CUT, STALL, GARBAGE, ERROR_200, *STREAM_FAULTS, *ANSWER_FAULTS}
)
FIRST_FAULT = "500"  # what `fail_first` answers


class FaultTable:
    """Shares of all requests per fault, laid end to end on [0, 1); the rest succeeds."""

    __slots__ = ("_bounds", "_fail_first", "_names", "may_fault")

    def __init__(self, rates: Mapping[str, float], *, fail_first: int = 0) -> None:
        """`rates` by name of `FAULTS`; raises ValueError for another name or a sum above 1."""
        require_rates(rates.items())
        chosen = [(name, rate) for name, rate in rates.items() if rate > 0]
        self._names = [name for name, _ in chosen]
        self._bounds = list(accumulate(rate for _, rate in chosen))
        self._fail_first = fail_first
        self.may_fault = bool(chosen) or fail_first > 0

    def draw(self, chance: float, asked_before: int) -> str | None:
        """The fault of a request, from a uniform draw in [0, 1); None if it is answered."""
        if asked_before < self._fail_first:
            return FIRST_FAULT
        share = bisect_right(self._bounds, chance)
        return self._names[share] if share < len(self._names) else None


def require_rates(rates: Iterable[tuple[str, float]]) -> None:
    """Raise ValueError unless the names are faults and the shares add up to at most 1."""
    total = 0.0
    for name, rate in rates:
        if name not in FAULTS:
            raise ValueError(f"no fault is called {name!r}; there are {', '.join(sorted(FAULTS))}")
        if not 0 <= rate <= 1:
            raise ValueError(f"the rate of {name} must lie between 0 and 1, not {rate}")
        total += rate
    if total > 1 + 1e-9:
        raise ValueError(f"the fault rates add up to {total:.3g}; together they cannot exceed 1")
