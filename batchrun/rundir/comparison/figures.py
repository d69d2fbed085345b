"""The figures of a comparison: aggregates over the pairs, and the intervals made of them.

With repeats, the average over a row's answers is compared: rows are the random sample, and the
answers to one row belong together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from batchrun.adapters.scoring import of_repeats
from batchrun.adapters.scoring.database import quoted
from batchrun.adapters.scoring.metrics import GROUPS_MAX, NO_GROUP, finite
from batchrun.adapters.scoring.plan import PlannedMetric
from batchrun.core.evaluation.definitions import FIGURES
from batchrun.core.statistics.distributions import two_sided_z
from batchrun.core.statistics.interval import CONFIDENCE, Interval
from batchrun.core.statistics.jackknife import GROUPS, jackknife_interval
from batchrun.core.statistics.mcnemar import mcnemar
from batchrun.core.statistics.mean import clustered_interval
from batchrun.core.statistics.paired import paired_mean_interval, paired_share_interval
from batchrun.core.statistics.power import detectable
from batchrun.rundir.comparison.measures import Reading
from batchrun.rundir.comparison.pairs import ROW, Pairs

__all__ = ["FIGURES", "MetricFigures", "ScoreFigures", "Status", "metric_figures", "score_figures"]


@dataclass(frozen=True, slots=True)
class Status:
    """Pairs by their outcome in A and in B, and what changed."""

    ok_ok: int
    ok_error: int
    error_ok: int
    error_error: int
    answers_changed: int
    asked_other: int
    carried_other: int
    model_other: int
    fingerprint_other: int

    def as_dict(self) -> dict[str, int]:
        """For ``--json``."""
        names = ("ok_ok", "ok_error", "error_ok", "error_error")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class ScoreFigures:
    """How a score changed from A to B over the pairs that have it in both runs.

    Of a share (all values 0 or 1), ``both`` rows had it in both runs, ``lost`` in A alone, ``won``
    in B alone, ``neither`` in none; of another number, ``lost`` rows fell and ``won`` rows rose.
    ``is_quality`` is whether all values lie in 0 to 1, so that more is better.
    """

    pairs: int
    both: int | None
    lost: int
    won: int
    neither: int | None
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    detectable: float | None
    is_quality: bool

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        names = ("both", "lost", "won", "neither", "difference", "low", "high", "p", "detectable")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class MetricFigures:
    """A metric over the pairs: its value in A and in B, B's minus A's, and the interval of that.

    ``scored`` is the number of pairs that are ``ok`` in both runs and have a value.
    """

    pairs: int
    scored: int
    a: float | None
    b: float | None
    difference: float | None
    low: float | None
    high: float | None
    groups: dict[str, MetricFigures] | None = None

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``; ``groups`` only if there are any."""
        found: dict[str, Any] = {
            name: getattr(self, name) for name in ("a", "b", "difference", "low", "high")
        }
        if self.groups is not None:
            found["groups"] = {key: one.as_dict() for key, one in self.groups.items()}
        return found

    @property
    def detectable(self) -> float | None:
        """The smallest true difference that 80 of 100 such comparisons would detect."""
        if self.low is None or self.high is None:
            return None
        return _detectable(Interval(self.low, self.high))


def status(pairs: Pairs) -> Status:
    """What became of the pairs."""
    ok = "NOT a_failed AND NOT b_failed"
    wanted = (
        ok,
        "NOT a_failed AND b_failed",
        "a_failed AND NOT b_failed",
        "a_failed AND b_failed",
        f"{ok} AND changed",
        "asked_other",
        "carried_other",
        f"{ok} AND model_other",
        f"{ok} AND fingerprint_other",
    )
    listed = ", ".join(f"count(*) FILTER ({one})" for one in wanted)
    return Status(*map(int, pairs.one(f"SELECT {listed} FROM pairs")))


def score_figures(pairs: Pairs) -> dict[str, ScoreFigures]:
    """Every score, by its name."""
    return {name: _score(pairs, n) for n, name in enumerate(pairs.measures.scores)}


def _score(pairs: Pairs, n: int) -> ScoreFigures:
    a, b = f"a_s{n}", f"b_s{n}"
    there = f"FROM pairs WHERE {a} IS NOT NULL AND {b} IS NOT NULL"
    count, zero_one, in_unit, both, lost, won, neither = map(
        int,
        pairs.one(
            f"SELECT count(*), count(*) FILTER ({a} IN (0, 1) AND {b} IN (0, 1)), "
            f"count(*) FILTER (least({a}, {b}) >= 0 AND greatest({a}, {b}) <= 1), "
            f"count(*) FILTER ({a} = 1 AND {b} = 1), count(*) FILTER ({b} < {a}), "
            f"count(*) FILTER ({b} > {a}), count(*) FILTER ({a} = 0 AND {b} = 0) {there}"
        ),
    )
    is_share = zero_one == count
    units, difference, variance = _differences(pairs, a, b)
    if not count:
        return ScoreFigures(0, 0, 0, 0, 0, *(None,) * 5, is_quality=True)
    interval: Interval | None
    if is_share and not pairs.repeated:
        interval = paired_share_interval(both, lost, won, neither)
    else:
        interval = _mean_interval(units, difference, variance)
    low, high = interval or (None, None)
    return ScoreFigures(
        count,
        both if is_share else None,
        lost,
        won,
        neither if is_share else None,
        difference,
        low,
        high,
        mcnemar(lost, won) if is_share and not pairs.repeated else None,
        None if interval is None else _detectable(interval),
        is_quality=in_unit == count,
    )


def _differences(pairs: Pairs, a: str, b: str) -> tuple[int, float | None, float | None]:
    """Rows with the score in both runs, the mean difference, and its variance between rows."""
    there = f"FROM pairs WHERE {a} IS NOT NULL AND {b} IS NOT NULL"
    each = f"(SELECT {b} - {a} AS d {there})"
    if pairs.repeated:
        each = f"(SELECT avg({b}) - avg({a}) AS d {there} GROUP BY unit)"
    units, mean, variance = pairs.one(f"SELECT count(d), avg(d), var_samp(d) FROM {each}")
    return int(units), finite(mean), finite(variance)


def _mean_interval(n: int, mean: float | None, variance: float | None) -> Interval | None:
    if mean is None or variance is None:
        return None
    return paired_mean_interval(n, mean, variance)


def _detectable(interval: Interval) -> float:
    """Computed from the interval, which has a width even if no pair flipped."""
    half = (interval.high - interval.low) / 2
    return detectable(half / two_sided_z(CONFIDENCE))


def metric_figures(pairs: Pairs) -> dict[str, MetricFigures]:
    """Every metric, by its name."""
    found = {}
    for n, name in enumerate(pairs.measures.metrics):
        one = pairs.measures.metric(name)[1]
        found[name] = mean_figures(pairs, n) if one.parsed.mean_of else _aggregate(pairs, n, name)
    return found


@dataclass(frozen=True, slots=True)
class End:
    """What failed rows count as: those of A as ``a``, those of B as ``b``; None changes nothing."""

    a: int | None = None
    b: int | None = None


def mean_figures(pairs: Pairs, n: int, end: End = End()) -> MetricFigures:
    """A metric that is a mean; failed rows, if they count at all, count as ``end`` says."""
    one = pairs.measures.metric(pairs.measures.metrics[n])[1]
    parsed = one.parsed
    by_rows = pairs.repeated or parsed.of_repeats is not None
    counted_as = {"a": end.a, "b": end.b}
    a, b = (
        f"{side}_m{n}"
        if instead is None or not of_repeats.is_number(parsed)
        else f"CASE WHEN {side}_failed AND {side}_m{n} IS NOT NULL THEN {instead}.0 "
        f"ELSE {side}_m{n} END"
        for side, instead in counted_as.items()
    )
    clustered = one.cluster is not None
    unit = f"coalesce(c{n}, 'row ' || row_b)" if clustered else "unit" if pairs.repeated else "NULL"
    each = (
        f"(SELECT {a} AS a, {b} AS b, NOT a_failed AND NOT b_failed AS ok, a_failed, b_failed, "
        f"unit, g{n} AS g, {unit} AS c FROM pairs "
        f"WHERE a_m{n} IS NOT NULL AND b_m{n} IS NOT NULL)"
    )
    if by_rows:
        # First aggregate the answers of each row.
        of_a, of_b = (
            of_repeats.row(parsed, side, f"{side}_failed", instead)
            for side, instead in counted_as.items()
        )
        each = (
            f"(SELECT * FROM (SELECT {of_a} AS a, {of_b} AS b, bool_or(ok) AS ok, "
            f"any_value(g) AS g, any_value(c) AS c FROM {each} GROUP BY unit) "
            "WHERE a IS NOT NULL AND b IS NOT NULL)"
        )
    sets = "GROUP BY GROUPING SETS ((), (g))" if one.by is not None else ""
    grouped = "grouping(g) = 0, any_value(g)" if one.by is not None else "FALSE, NULL"
    lines = pairs.rows(
        f"SELECT {grouped}, count(*), count(*) FILTER (ok), avg(a), avg(b), avg(b - a), "
        "var_samp(b - a), count(*) FILTER (a IN (0, 1) AND b IN (0, 1)), "
        "count(*) FILTER (a = 1 AND b = 1), count(*) FILTER (b < a), count(*) FILTER (b > a), "
        f"count(*) FILTER (a = 0 AND b = 0) FROM {each} {sets}"
    )
    clusters = _clusters(pairs, each, sets) if clustered else {}
    whole = MetricFigures(0, 0, *(None,) * 5)
    groups: dict[str, MetricFigures] = {}
    for is_group, key, count, ok, mean_a, mean_b, mean, variance, zero_one, *counts in lines:
        interval: Interval | None
        if clustered:
            sums = clusters.get((bool(is_group), key))
            interval = clustered_interval(*sums) if sums else None
            if sums and zero_one == count and not any(counts[1:3]):
                # No pair flipped: the evidence is only as large as the number of clusters.
                interval = paired_share_interval(0, 0, 0, sums[0])
        elif zero_one == count and count and not (pairs.repeated and any(counts[1:3])):
            # With repeats, only if no row flipped: Student's interval would be empty.
            interval = paired_share_interval(*map(int, counts))
        else:
            interval = _mean_interval(count, finite(mean), finite(variance))
        low, high = interval or (None, None)
        found = MetricFigures(count, ok, finite(mean_a), finite(mean_b), finite(mean), low, high)
        if is_group:
            groups[NO_GROUP if key is None else key] = found
        else:
            whole = found
    if one.by is None:
        return whole
    return _with_groups(whole, groups)


def _with_groups(whole: MetricFigures, groups: dict[str, MetricFigures]) -> MetricFigures:
    largest = sorted(groups, key=lambda key: (-groups[key].pairs, key))[:GROUPS_MAX]
    return MetricFigures(
        whole.pairs,
        whole.scored,
        whole.a,
        whole.b,
        whole.difference,
        whole.low,
        whole.high,
        {key: groups[key] for key in largest},
    )


def _clusters(pairs: Pairs, each: str, sets: str) -> dict[tuple[bool, str | None], tuple[Any, ...]]:
    """By group: clusters, pairs, and the sums for the clustered error."""
    flag, listed = ("grouping(g) = 0", "(c), (c, g)") if sets else ("FALSE", "(c)")
    name = "any_value(g)" if sets else "NULL"
    inner = (
        f"(SELECT {flag} AS is_group, {name} AS name, count(*) AS n, sum(b - a) AS s FROM {each} "
        f"GROUP BY GROUPING SETS ({listed}))"
    )
    lines = pairs.rows(
        "SELECT is_group, CASE WHEN is_group THEN name END AS name, count(*), "
        "CAST(sum(n) AS BIGINT), sum(s), sum(s * s), sum(s * n), "
        f"sum(n * n) FROM {inner} GROUP BY ALL"
    )
    return {
        (bool(is_group), name): (clusters, n, *map(float, sums))
        for is_group, name, clusters, n, *sums in lines
    }


# Any other aggregate


def _aggregate(pairs: Pairs, n: int, name: str) -> MetricFigures:
    """By the delete-a-group jackknife, over the same groups of rows in both runs."""
    planned = pairs.measures.metric(name)
    values_a = _values(pairs, pairs.measures.a, planned[0], n, "row_a")
    values_b = _values(pairs, pairs.measures.b, planned[1], n, "row_b")
    scored = {
        (bool(is_group), key): (int(count), int(ok))
        for is_group, key, count, ok in pairs.rows(_counts(planned[1], n))
    }
    held: dict[tuple[bool, str | None], set[int]] = {}
    for is_group, key, bucket in pairs.rows(_buckets(planned[1], n)):
        held.setdefault((bool(is_group), key), set()).add(int(bucket))
    whole = MetricFigures(0, 0, *(None,) * 5)
    groups: dict[str, MetricFigures] = {}
    for key, (count, ok) in scored.items():
        a, b = values_a.get((*key, -1)), values_b.get((*key, -1))
        difference = None if a is None or b is None else b - a
        left_out = []
        for bucket in sorted(held.get(key, ())):
            ends = values_a.get((*key, bucket)), values_b.get((*key, bucket))
            left_out.append(None if None in ends else ends[1] - ends[0])  # type: ignore[operator]
        low, high = jackknife_interval(difference, left_out) or (None, None)
        found = MetricFigures(count, ok, a, b, difference, low, high)
        if key[0]:
            groups[NO_GROUP if key[1] is None else key[1]] = found
        else:
            whole = found
    return whole if planned[1].by is None else _with_groups(whole, groups)


def _grouping(one: PlannedMetric, group: str, *keys: str) -> tuple[str, str]:
    """The columns that name a group, and the GROUP BY: all pairs, and each group."""
    listed = ", ".join(keys)
    if one.by is None:
        return "FALSE, NULL", f"GROUP BY GROUPING SETS (({listed}))"
    sets = f"GROUP BY GROUPING SETS (({listed}), ({', '.join([*keys, group])}))"
    return (
        f"grouping({group}) = 0, CASE WHEN grouping({group}) = 0 THEN any_value({group}) END",
        sets,
    )


def _counts(one: PlannedMetric, n: int) -> str:
    named, sets = _grouping(one, f"g{n}")
    ok = "count(*) FILTER (NOT a_failed AND NOT b_failed)"
    return f"SELECT {named}, count(*), {ok} FROM pairs {sets}"


def _buckets(one: PlannedMetric, n: int) -> str:
    named, sets = _grouping(one, f"g{n}", "bucket")
    return f"SELECT {named}, bucket FROM {_pairs_with_bucket(one, n)} {sets}"


def _pairs_with_bucket(one: PlannedMetric, n: int) -> str:
    """The pairs, in groups of rows that belong together."""
    if one.cluster is None:
        return "pairs"
    bucket = f"CAST(md5_number_lower(coalesce(c{n}, key)) % {GROUPS} AS UTINYINT) AS bucket"
    return f"(SELECT * REPLACE ({bucket}) FROM pairs)"


def _values(
    pairs: Pairs, reading: Reading, one: PlannedMetric, n: int, row: str
) -> dict[tuple[bool, str | None, int], float | None]:
    """The metric of one run over the pairs, whole (-1) and without each group of rows."""
    value = f"TRY_CAST((\n{one.metric.value}\n) AS DOUBLE)"
    used = {*one.columns, *one.scores} or {ROW}
    listed = ", ".join(f"results.{quoted(name)}" for name in sorted(used))
    table = f"values_{row}"
    with pairs.database.tables(results=reading.side.rows(reading.columns(), reading.from_scores)):
        pairs.rows(
            f"CREATE TABLE {table} AS SELECT {listed}, p.bucket AS __bucket, p.g{n} AS __group "
            f"FROM {reading.scored()} JOIN {_pairs_with_bucket(one, n)} AS p "
            f"ON results.{quoted(ROW)} = p.{row}"
        )
    named, sets = _grouping(one, "__group")
    found = []
    # One group of rows at a time: all at once take fifty times the memory.
    for number in range(-1, GROUPS):
        rows = f"(SELECT * FROM {table} WHERE __bucket <> {number}) AS results"
        found += pairs.rows(f"SELECT {named}, {number}, {value} FROM {rows} {sets}")
    pairs.rows(f"DROP TABLE {table}")
    return {
        (bool(is_group), key, int(number)): finite(figure)
        for is_group, key, number, figure in found
    }


def usable(figure: float | None) -> bool:
    """Whether a figure is a number."""
    return figure is not None and math.isfinite(figure)
