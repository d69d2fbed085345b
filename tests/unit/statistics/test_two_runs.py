"""How far two runs differ: the paired interval, McNemar's test, power, agreement."""

import math

import numpy as np
import paired_eval
import pytest
from scipy import optimize, stats

from batchrun.core.statistics.agreement import agreement, clustered_kappa_interval, kappa_terms
from batchrun.core.statistics.distributions import student_quantile, two_sided_z
from batchrun.core.statistics.interval import Interval
from batchrun.core.statistics.mcnemar import mcnemar
from batchrun.core.statistics.mean import mean_interval
from batchrun.core.statistics.paired import (
    paired_mean_interval,
    paired_share_interval,
    paired_share_variance,
    share_score,
)
from batchrun.core.statistics.power import detectable, rows_needed
from batchrun.core.statistics.proportion import wilson

PAIRS = [
    (40, 12, 2, 6),
    (0, 3, 9, 0),
    (700, 50, 50, 200),
    (9, 0, 1, 0),
    (9, 4, 0, 7),
    (880, 5, 30, 85),
]
FLIPS = [(0, 0), (0, 1), (5, 5), (3, 9), (480, 520), (50_000, 50_600), (0, 60)]


def score_by_likelihood(lost, won, n, difference):
    """Tango's statistic from its definition: the likelihood is maximised by a solver."""

    def slope(share):
        rest = n - lost - won
        return (
            (lost / share if lost else 0)
            + (won / (share + difference) if won else 0)
            - (2 * rest / (1 - 2 * share - difference) if rest else 0)
        )

    low, high = max(0, -difference) + 1e-15, (1 - difference) / 2 - 1e-15
    share = (
        low
        if slope(low) <= 0
        else high
        if slope(high) >= 0
        else optimize.brentq(slope, low, high, xtol=1e-15)
    )
    return (won - lost - n * difference) / math.sqrt(n * (2 * share + difference - difference**2))


@pytest.mark.parametrize("pairs", PAIRS)
def test_tango_against_a_solver(pairs):
    """The ends are where the constrained likelihood puts them."""
    _, lost, won, _ = pairs
    n, z = sum(pairs), two_sided_z(0.95)
    estimate = (won - lost) / n
    for end, limit, wanted in zip(paired_share_interval(*pairs), (-1, 1), (z, -z), strict=True):
        expected = optimize.brentq(
            lambda d, wanted=wanted: score_by_likelihood(lost, won, n, d) - wanted,
            estimate,
            limit * (1 - 1e-9),
            xtol=1e-14,
        )
        assert end == pytest.approx(expected, abs=1e-9)


def test_only_flips_and_their_number_matter():
    """Right and wrong pairs that stayed are one and the same."""
    assert paired_share_interval(50, 3, 7, 40) == paired_share_interval(0, 3, 7, 90)


def test_pairs_in_which_nothing_flipped():
    """Equal runs are not known to be equal: the interval is z² / (n + z²) either way."""
    z = two_sided_z(0.95)
    for n in (1, 20, 1000):
        end = z * z / (n + z * z)
        assert paired_share_interval(n, 0, 0, 0) == pytest.approx((-end, end), abs=1e-9)


def test_no_pairs_and_impossible_ones():
    """Without pairs everything is possible; negative counts are refused."""
    assert paired_share_interval(0, 0, 0, 0) == Interval(-1.0, 1.0)
    with pytest.raises(ValueError, match="negative number of pairs"):
        paired_share_interval(5, -1, 0, 0)
    assert paired_share_interval(0, 4, 0, 0).low == -1
    assert paired_share_interval(0, 0, 4, 0).high == 1


def test_the_score_at_its_ends():
    """A difference of 1 is certain to be wrong once a pair did not flip."""
    assert share_score(0, 5, 10, 1.0) == -math.inf
    assert share_score(0, 10, 10, 1.0) == 0


def test_paired_means():
    """The interval of the mean of the differences."""
    assert paired_mean_interval(30, -0.1, 0.3) == mean_interval(30, -0.1, 0.3)


@pytest.mark.parametrize(("lost", "won"), FLIPS)
def test_mcnemar_against_scipy_and_paired_eval(lost, won):
    """The exact two-sided p-value."""
    expected = stats.binomtest(lost, lost + won).pvalue if lost + won else 1.0
    assert mcnemar(lost, won) == pytest.approx(expected, abs=1e-12)
    if lost + won < 1000:
        assert mcnemar(lost, won) == pytest.approx(paired_eval.mcnemar_exact(lost, won), abs=1e-9)


def test_mcnemar_refuses_negative_counts():
    """They come from a mistake."""
    with pytest.raises(ValueError, match="-1 lost"):
        mcnemar(-1, 3)


def test_what_a_thousand_pairs_can_see():
    """100 of 1,000 rows that flip hide differences below 2.8 points; 1 point takes 7,849 rows."""
    assert detectable(0.01) == pytest.approx(0.01 * (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)))
    assert detectable(math.sqrt(0.1 / 1000)) == pytest.approx(0.028, abs=1e-4)
    assert rows_needed(0.01, 0.1) == rows_needed(-0.01, 0.1) == 7849
    assert rows_needed(0.0, 0.1) is None
    assert rows_needed(0.01, 0.0) == 1


@pytest.mark.parametrize(("flips", "difference"), [(0.1, 0.03), (0.3, 0.05), (0.05, 0.02)])
def test_the_power_is_what_is_asked_for(flips, difference):
    """With as many rows as are said to be needed, 80 % of runs find the difference."""
    lost, won = (flips - difference) / 2, (flips + difference) / 2
    n = rows_needed(difference, paired_share_variance(lost, won, 1))
    counts = np.random.default_rng(1).multinomial(n, [lost, won, 1 - lost - won], size=2000)
    found = sum(paired_share_interval(c, a, b, 0).low > 0 for a, b, c in counts.tolist())
    assert 0.77 < found / 2000 < 0.83


def kappa_of(cells):
    """Kappa of a table of shares, flattened."""
    shares = np.array(cells).reshape(int(math.sqrt(len(cells))), -1)
    chance = shares.sum(0) @ shares.sum(1)
    return (np.trace(shares) - chance) / (1 - chance)


@pytest.mark.parametrize("table", [[[20, 5], [10, 15]], [[44, 5, 1], [7, 20, 3], [9, 5, 6]]])
def test_kappa_by_the_delta_method(table):
    """Its error is that of the numerical derivative by each cell."""
    n = sum(map(sum, table))
    cells = [count / n for row in table for count in row]
    step = 1e-6
    slopes = []
    for i in range(len(cells)):
        up, down = list(cells), list(cells)
        up[i] += step
        down[i] -= step
        slopes.append((kappa_of_scaled(up) - kappa_of_scaled(down)) / (2 * step))
    mean = sum(p * s for p, s in zip(cells, slopes, strict=True))
    error = math.sqrt((sum(p * s * s for p, s in zip(cells, slopes, strict=True)) - mean**2) / n)
    found = agreement(table)
    same = sum(table[i][i] for i in range(len(table)))
    assert found.kappa == pytest.approx(kappa_of(cells), abs=1e-12)
    assert found.kappa_interval == pytest.approx(
        (found.kappa - two_sided_z(0.95) * error, found.kappa + two_sided_z(0.95) * error), abs=1e-7
    )
    assert (found.share, found.share_interval) == (same / n, wilson(same, n))


def kappa_of_scaled(cells):
    """Kappa of cells that need not sum to 1: shares are relative to their sum."""
    whole = sum(cells)
    return kappa_of([cell / whole for cell in cells])


def test_kappas_interval_holds_the_truth():
    """In 93 to 97 of 100 simulated samples of 200 rows."""
    rng, shares = np.random.default_rng(3), [0.45, 0.1, 0.15, 0.3]
    truth = kappa_of(shares)
    tables = rng.multinomial(200, shares, size=2000).reshape(-1, 2, 2).tolist()
    ends = [agreement(table).kappa_interval for table in tables]
    assert 0.93 < sum(low <= truth <= high for low, high in ends) / 2000 < 0.97


@pytest.mark.parametrize(
    ("table", "share", "kappa"),
    [
        ([], None, None),
        ([[0, 0], [0, 0]], None, None),
        ([[7, 0], [0, 0]], 1.0, None),
        ([[7, 0], [0, 5]], 1.0, 1.0),
    ],
)
def test_agreement_at_its_edges(table, share, kappa):
    """Without rows, and where both gave one and the same answer, kappa has no meaning."""
    found = agreement(table)
    assert (found.share, found.kappa) == (share, kappa)


def test_agreement_needs_a_square_table():
    """Both raters use the same categories."""
    with pytest.raises(ValueError, match="not square"):
        agreement([[1, 2, 3], [4, 5, 6]])


def test_independent_raters_have_a_kappa_of_0():
    """What chance gives is no agreement, however large the share."""
    first, second = 0.9, 0.8
    table = [[round(1e6 * a * b) for b in (second, 1 - second)] for a in (first, 1 - first)]
    found = agreement(table)
    assert found.share == pytest.approx(0.74)
    assert found.kappa == pytest.approx(0, abs=1e-5)


def rated_in_clusters(rng, clusters):
    """Pairs of ratings by cluster, of one to six pairs: those of a cluster are much alike."""
    found = []
    for _ in range(clusters):
        own, agrees = rng.integers(3), rng.random() < 0.7
        found.append(
            [
                (int(first), int(first if rng.random() < (0.9 if agrees else 0.2) else 0))
                for first in np.where(rng.random(rng.integers(1, 7)) < 0.8, own, rng.integers(3))
            ]
        )
    return found


def table_of(clusters):
    """How often each pair of ratings comes."""
    table = np.zeros((3, 3), dtype=int)
    for pair in (pair for cluster in clusters for pair in cluster):
        table[pair] += 1
    return table.tolist()


def clustered(clusters):
    """The interval of kappa over clusters, from the sums that a run takes."""
    terms = kappa_terms(table_of(clusters))
    sums = [(sum(terms[i][j] for i, j in cluster), len(cluster)) for cluster in clusters]
    return clustered_kappa_interval(
        len(clusters),
        sum(n for _, n in sums),
        sum(s for s, _ in sums),
        sum(s * s for s, _ in sums),
        sum(s * n for s, n in sums),
        sum(n * n for _, n in sums),
    )


@pytest.mark.parametrize("seed", range(4))
def test_kappa_in_clusters_by_leaving_each_out_and_by_drawing_them(seed):
    """Its error is that of the jackknife that leaves out one cluster at a time, and the spread of
    kappa over clusters drawn with replacement; both by their definition.
    """
    rng = np.random.default_rng(seed)
    clusters = rated_in_clusters(rng, 150)
    found = agreement(table_of(clusters))
    low, high = clustered(clusters)
    assert (low + high) / 2 == pytest.approx(found.kappa, abs=1e-12)
    error = (high - low) / 2 / student_quantile(0.975, 149)
    without = [agreement(table_of(clusters[:n] + clusters[n + 1 :])).kappa for n in range(150)]
    assert error == pytest.approx(math.sqrt(np.var(without) * 149), rel=0.03), f"seed {seed}"
    each = np.array([table_of([cluster]) for cluster in clusters])
    drawn = [each[rng.integers(150, size=150)].sum(0) for _ in range(2000)]
    spread = np.std([kappa_of((table / table.sum()).ravel()) for table in drawn])
    assert error == pytest.approx(spread, rel=0.08), f"seed {seed}"
    plain = found.kappa_interval
    assert high - low > 1.2 * (plain.high - plain.low)


def test_kappa_of_clusters_of_one_is_plain_kappa():
    """But for the factor G / (G - 1), and Student's t in place of the normal distribution."""
    pairs = [
        (i, j)
        for i, row in enumerate([[44, 5, 1], [7, 20, 3], [9, 5, 6]])
        for j, count in enumerate(row)
        for _ in range(count)
    ]
    found = agreement(table_of([[pair] for pair in pairs]))
    low, high = clustered([[pair] for pair in pairs])
    wider = math.sqrt(100 / 99) * student_quantile(0.975, 99) / two_sided_z(0.95)
    plain = found.kappa_interval
    assert (high - low) == pytest.approx(wider * (plain.high - plain.low), rel=1e-9)
    five = clustered([[pair] * 5 for pair in pairs])
    assert five == pytest.approx((low, high), abs=1e-12), "five equal answers are one"


def test_kappas_clustered_interval_holds_the_truth():
    """In 92 to 97 of 100 simulated samples of 100 rows with three answers each."""
    rng, shares = np.random.default_rng(5), [0.45, 0.1, 0.15, 0.3]
    truth, held = kappa_of(shares), 0
    for _ in range(1000):
        cells = rng.choice(4, size=100, p=shares)
        clusters = [[divmod(int(cell), 2)] * 3 for cell in cells]
        low, high = clustered(clusters)
        held += low <= truth <= high
    assert 920 < held < 970


def test_one_cluster_has_no_interval():
    """Nothing says how other clusters are."""
    assert clustered([[(0, 0), (1, 1), (0, 1)]]) is None
