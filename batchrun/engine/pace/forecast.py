"""What requests will use, learned from those that were answered.

Prompts: what the estimate from bytes came to, by the model and the size of the prompt. The JSON
around a prompt, its language and the model's vocabulary are all in that one factor; small bodies
are mostly syntax, so the sizes are kept apart, each from half to twice the next.

Answers: histograms of their lengths in bins of powers of two, by the model, the limit that the
request states and the size of its prompt. A group with few answers borrows from its parent: the
same limit with any prompt, then the model with any limit.
"""

from __future__ import annotations

SAMPLES_MIN = 20
"""Answers from which a group speaks for itself."""
QUANTILE = 0.9
PROMPTS_MIN = 3
"""Prompts of a size from which their factor counts; before, the estimate stands: too high is
better than too low there."""
WEIGHT_MIN = 1 / 64
"""Of the newest prompt in the factor of its size."""
SAMPLES_MAX = 2048
"""From so many on, old answers count half: what a run asks for may change midway."""
GROUPS_MAX = 1024
"""Groups that are kept apart; rows may each state another limit."""


class Histogram:
    """Lengths in bins of powers of two, with the mean of each bin."""

    __slots__ = ("_bins", "count")

    def __init__(self) -> None:
        self._bins: dict[int, list[float]] = {}
        self.count = 0.0

    def add(self, length: int) -> None:
        """Count one more."""
        if self.count >= SAMPLES_MAX:
            self.count /= 2
            for entry in self._bins.values():
                entry[0] /= 2
                entry[1] /= 2
        entry = self._bins.setdefault(length.bit_length(), [0.0, 0.0])
        entry[0] += 1
        entry[1] += length
        self.count += 1

    def quantile(self, share: float) -> float:
        """A length that this share of all does not exceed, as exact as the bins are: the mean of
        the bin that it falls in. 0 where nothing was counted.
        """
        missing, mean = share * self.count, 0.0
        for name in sorted(self._bins):
            count, total = self._bins[name]
            mean = total / count
            missing -= count
            if missing <= 0:
                break
        return mean

    def bound(self, share: float) -> int:
        """The upper end of the bin that the quantile falls in."""
        missing, name = share * self.count, 0
        for name in sorted(self._bins):
            missing -= self._bins[name][0]
            if missing <= 0:
                break
        return int((1 << name) - 1)

    @property
    def mean(self) -> float:
        """The mean length; 0 where nothing was counted."""
        total = sum(entry[1] for entry in self._bins.values())
        return total / self.count if self.count else 0.0


class _Factor:
    """What estimates of one size came to, as a factor."""

    __slots__ = ("count", "value")

    def __init__(self) -> None:
        self.count = 0
        self.value = 1.0

    def add(self, factor: float) -> None:
        self.count += 1
        self.value += (factor - self.value) * max(WEIGHT_MIN, 1 / self.count)


_Group = tuple[str, float | None, int | None]


class Forecast:
    """What is known of the requests to one endpoint."""

    def __init__(self) -> None:
        self._factors: dict[tuple[str, int], _Factor] = {}
        self._answers: dict[_Group, Histogram] = {}

    def prompt(self, model: str, estimate: int) -> float:
        """The prompt tokens to expect of a request whose prompt is estimated at so many."""
        factor = self._factors.get((model, estimate.bit_length()))
        if factor is None or factor.count < PROMPTS_MIN:
            return estimate
        return estimate * factor.value

    def output(self, model: str, limit: float | None, estimate: int) -> float | None:
        """The tokens of an answer that nine of ten do not exceed; None while too few were seen."""
        for group in _groups(model, limit, estimate):
            found = self._answers.get(group)
            if found is not None and found.count >= SAMPLES_MIN:
                length = found.quantile(QUANTILE)
                return length if limit is None else min(length, limit)
        return None

    def learn(
        self, model: str, limit: float | None, estimate: int, prompt: int | None, output: int | None
    ) -> None:
        """A request was answered; the counts are those that the server reported."""
        if prompt is not None and prompt > 0 and estimate > 0:
            key = (model, estimate.bit_length())
            factor = self._factors.get(key)
            if factor is None and len(self._factors) < GROUPS_MAX:
                factor = self._factors[key] = _Factor()
            if factor is not None:
                factor.add(prompt / estimate)
        if output is None:
            return
        for group in _groups(model, limit, estimate):
            found = self._answers.get(group)
            if found is None and len(self._answers) < GROUPS_MAX:
                found = self._answers[group] = Histogram()
            if found is not None:
                found.add(output)

    def answers(self, model: str, limit: float | None) -> Histogram | None:
        """The lengths of answers to requests that state this limit, whatever their prompt."""
        return self._answers.get((model, limit, None))


def _groups(model: str, limit: float | None, estimate: int) -> tuple[_Group, ...]:
    """A request's groups, the narrowest first."""
    whole = (model, None, None)
    if limit is None:
        return ((model, -1.0, estimate.bit_length()), whole)
    return ((model, limit, estimate.bit_length()), (model, limit, None), whole)
