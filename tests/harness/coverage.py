"""How often intervals hold the truth: exactly, by summing the binomial, where only counts matter.

``python -m tests.harness.coverage`` prints the table of docs/statistics.md.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial

from batchrun.core.statistics.distributions import binomial_probability, two_sided_z
from batchrun.core.statistics.interval import Interval
from batchrun.core.statistics.jackknife import jackknife_interval
from batchrun.core.statistics.mean import clustered_interval, mean_interval
from batchrun.core.statistics.paired import paired_share_interval, share_score
from batchrun.core.statistics.proportion import wilson

ROWS = (20, 50, 100, 500, 1000, 5000)
NEIGHBOURHOODS = {"0": (0.0, 0.05), "0.5": (0.45, 0.55), "1": (0.95, 1.0)}
"""Where shares are averaged over."""
POINTS = 40
SPREADS = 9
"""Standard deviations around a count beyond which nothing is summed."""


def likely(n: int, p: float, spreads: float = SPREADS) -> list[tuple[int, float]]:
    """The counts of a binomial that matter, with their probabilities."""
    middle, spread = n * p, math.sqrt(n * p * (1 - p))
    low, high = (
        math.floor(middle - spreads * spread - 10),
        math.ceil(middle + spreads * spread + 10),
    )
    return [
        (count, binomial_probability(count, n, p)) for count in range(max(0, low), min(n, high) + 1)
    ]


@cache
def wilson_ends(n: int) -> list[Interval]:
    """The interval of every count."""
    return [wilson(count, n) for count in range(n + 1)]


def wilson_coverage(n: int, p: float) -> float:
    """The exact probability that Wilson's interval holds a share."""
    ends = wilson_ends(n)
    return math.fsum(
        chance for count, chance in likely(n, p) if ends[count].low <= p <= ends[count].high
    )


def paired_coverage(n: int, flips: float, difference: float) -> float:
    """The exact probability that Tango's interval holds a difference, where this share of the pairs
    flips; the interval is where the score statistic is within its limits.
    """
    z, won_share = two_sided_z(0.95), (flips + difference) / 2 / flips
    return math.fsum(
        chance * of_flips
        for flipped, of_flips in likely(n, flips, 7)
        if of_flips > 1e-13
        for won, chance in likely(flipped, won_share, 7)
        if abs(share_score(flipped - won, won, n, difference)) <= z
    )


def newcombe(both: int, lost: int, won: int, neither: int) -> Interval:
    """The interval that was not chosen: R. G. Newcombe's hybrid score for paired shares (method 10
    of "Improved confidence intervals for the difference between binomial proportions based on
    paired data", Statistics in Medicine 17, 1998).
    """
    n = both + lost + won + neither
    first, second = (both + lost) / n, (both + won) / n
    ends_1, ends_2 = wilson(both + lost, n), wilson(both + won, n)
    under = (both + won) * (lost + neither) * (both + lost) * (won + neither)
    over = both * neither - lost * won
    corrected = max(0.0, over - n / 2) if over > 0 else over
    phi = corrected / math.sqrt(under) if under else 0.0

    def reach(a: float, b: float) -> float:
        return math.sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))

    low = reach(second - ends_2.low, ends_1.high - first)
    high = reach(ends_2.high - second, first - ends_1.low)
    return Interval(second - first - low, second - first + high)


def newcombe_coverage(n: int, flips: float, difference: float, right: float = 0.8) -> float:
    """Its coverage, where ``right`` of the pairs that do not flip are right."""
    found = []
    for flipped, of_flips in likely(n, flips, 7):
        for won, chance in likely(flipped, (flips + difference) / 2 / flips, 7):
            both = round((n - flipped) * right)
            ends = newcombe(both, flipped - won, won, n - flipped - both)
            if ends.low <= difference <= ends.high:
                found.append(chance * of_flips)
    return math.fsum(found)


def averaged(n: int, low: float, high: float, points: int = POINTS) -> tuple[float, float]:
    """Wilson's coverage over a neighbourhood: its mean and its minimum."""
    found = [wilson_coverage(n, low + (high - low) * (i + 0.5) / points) for i in range(points)]
    return statistics.fmean(found), min(found)


def paired_averaged(
    n: int,
    low: float,
    high: float,
    difference_share: float,
    points: int = 20,
    coverage: Callable[[int, float, float], float] = paired_coverage,
) -> tuple[float, float]:
    """The coverage over the shares of pairs that flip; the difference is a share of them."""
    found = []
    for i in range(points):
        flips = low + (high - low) * (i + 0.5) / points
        found.append(coverage(n, flips, flips * difference_share))
    return statistics.fmean(found), min(found)


DRAWS: dict[str, tuple[Callable[[random.Random], float], float]] = {
    "normal": (lambda rng: rng.gauss(0.6, 0.2), 0.6),
    "uniform": (lambda rng: rng.random(), 0.5),
    "most of them 1 (beta 4, 1)": (lambda rng: rng.betavariate(4, 1), 0.8),
    "long tail (log-normal, sigma 1)": (lambda rng: rng.lognormvariate(0, 1), math.exp(0.5)),
}
"""Values of rows, and their true mean."""


def simulated(trials: int, held: Callable[[], bool]) -> float:
    """The share of trials whose interval holds the truth."""
    return sum(held() for _ in range(trials)) / trials


def holds(interval: Interval | None, truth: float) -> bool:
    """Whether an interval holds a value."""
    return interval is not None and interval.low <= truth <= interval.high


def mean_held(rng: random.Random, n: int, kind: str) -> bool:
    """One mean of ``n`` values, and whether its interval holds the true one."""
    draw, truth = DRAWS[kind]
    values = [draw(rng) for _ in range(n)]
    return holds(mean_interval(n, statistics.fmean(values), statistics.variance(values)), truth)


def cluster_sums(groups: Sequence[Sequence[float]]) -> tuple[int, int, float, float, float, float]:
    """What ``clustered_interval`` takes, of lists of values."""
    sizes, sums = [len(g) for g in groups], [math.fsum(g) for g in groups]
    return (
        len(groups),
        sum(sizes),
        math.fsum(sums),
        math.fsum(s * s for s in sums),
        math.fsum(s * n for s, n in zip(sums, sizes, strict=True)),
        sum(n * n for n in sizes),
    )


def clustered_rows(
    rng: random.Random, clusters: int, sizes: tuple[int, int] = (1, 5)
) -> list[list[float]]:
    """Right and wrong answers that belong together: each cluster has a share of its own, 0.7 in the
    mean.
    """
    groups = []
    for _ in range(clusters):
        share = rng.betavariate(1.4, 0.6)
        groups.append([float(rng.random() < share) for _ in range(rng.randint(*sizes))])
    return groups


def clustered_held(rng: random.Random, clusters: int) -> bool:
    """Whether the interval of clustered rows holds their true share."""
    return holds(clustered_interval(*cluster_sums(clustered_rows(rng, clusters))), 0.7)


def unclustered_held(rng: random.Random, clusters: int) -> bool:
    """Whether Wilson's interval, which takes the rows for independent, does."""
    _, n, total, *_ = cluster_sums(clustered_rows(rng, clusters))
    return holds(wilson(round(total), n), 0.7)


def f1(counts: Sequence[float]) -> float | None:
    """F1 of true positives, false positives and false negatives."""
    hits, alarms, misses = counts
    return 2 * hits / (2 * hits + alarms + misses) if hits + alarms + misses else None


F1_SHARES = (0.3, 0.1, 0.2)
F1_TRUTH = 2 * 0.3 / (2 * 0.3 + 0.1 + 0.2)


def jackknife_held(rng: random.Random, n: int, groups: int = 50) -> bool:
    """Whether the jackknife of F1 over ``n`` rows holds the true one."""
    parts = [[0, 0, 0] for _ in range(groups)]
    used = set()
    for _ in range(n):
        part = rng.randrange(groups)
        used.add(part)
        kind = rng.choices((0, 1, 2, 3), (*F1_SHARES, 1 - sum(F1_SHARES)))[0]
        if kind < 3:
            parts[part][kind] += 1
    whole = [sum(part[kind] for part in parts) for kind in range(3)]
    left_out = [f1([w - p for w, p in zip(whole, parts[g], strict=True)]) for g in sorted(used)]
    return holds(jackknife_interval(f1(whole), left_out), F1_TRUTH)


def paired_shares(
    rng: random.Random, n: int, lost: float, won: float, both: float = 0.6
) -> tuple[int, int, int, int]:
    """The four counts of two runs, of which a share of rows is lost and won."""
    kinds = rng.choices(
        ("lost", "won", "both", "neither"), (lost, won, both, 1 - lost - won - both), k=n
    )
    return kinds.count("both"), kinds.count("lost"), kinds.count("won"), kinds.count("neither")


def paired_held(rng: random.Random, n: int, lost: float, won: float) -> bool:
    """Whether Tango's interval holds the difference of two simulated runs."""
    return holds(paired_share_interval(*paired_shares(rng, n, lost, won)), won - lost)


def table(trials: int = 4000, seed: int = 0) -> Iterator[str]:
    """The lines of the table in docs/statistics.md."""
    rng = random.Random(seed)
    yield "| interval | rows | mean | minimum |"
    yield "|---|---|---|---|"
    for name, ends in NEIGHBOURHOODS.items():
        for n in ROWS:
            mean, least = averaged(n, *ends)
            yield f"| share near {name}: Wilson | {n:,} | {mean:.1%} | {least:.1%} |"
    for share, says in ((0.0, "no difference"), (0.5, "three of four flips are won")):
        for n in ROWS:
            mean, least = paired_averaged(n, 0.02, 0.2, share, 10)
            yield f"| paired difference, {says}: Tango | {n:,} | {mean:.1%} | {least:.1%} |"
    for n in ROWS[:3]:
        mean, least = paired_averaged(n, 0.02, 0.2, 0.0, 10, newcombe_coverage)
        yield f"| the same by Newcombe, not used | {n:,} | {mean:.1%} | {least:.1%} |"
    for kind in DRAWS:
        for n in (20, 100, 1000):
            share = simulated(trials, partial(mean_held, rng, n, kind))
            yield f"| mean, {kind}: t | {n:,} | {share:.1%} | |"
    for clusters in (10, 30, 100):
        share = simulated(trials, partial(clustered_held, rng, clusters))
        plain = simulated(trials, partial(unclustered_held, rng, clusters))
        yield f"| share in clusters: CR1 | {clusters} clusters | {share:.1%} | |"
        yield f"| these rows as if independent: Wilson | {clusters} clusters | {plain:.1%} | |"
    for n in (100, 500, 2000):
        share = simulated(trials // 2, partial(jackknife_held, rng, n))
        yield f"| F1: jackknife, 50 groups | {n:,} | {share:.1%} | |"


if __name__ == "__main__":
    print("\n".join(table()))  # noqa: T201
