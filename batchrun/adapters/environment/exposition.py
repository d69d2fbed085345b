"""The figures of a run in Prometheus' text format, for ``--metrics-file`` and ``/metrics``.

The format is https://prometheus.io/docs/instrumenting/exposition_formats/; a run is a batch job, so
all metrics are gauges, and the one to alert on is the time of the last success.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families

SUCCESS = "batchrun_last_success_timestamp_seconds"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

METRICS: Mapping[str, str] = {
    "batchrun_rows": "Rows by status: ok, error or pending.",
    "batchrun_errors": "Failed rows by error class.",
    "batchrun_flawed_answers": "Answers of ok rows that are truncated or empty, by flaw.",
    "batchrun_attempts": "Attempts of the run; of a live one, requests of this session.",
    "batchrun_tokens": "Tokens by kind: prompt or completion; of a live run, of this session.",
    "batchrun_cost_usd": "The bill so far, over all sessions.",
    "batchrun_wasted_cost_usd": "The part of it that bought no answer of an ok row.",
    "batchrun_projected_cost_usd": "What the whole run is projected to cost.",
    "batchrun_requests_per_second": "Requests per second over the last 15 seconds.",
    "batchrun_tokens_per_second": "Tokens per second over the last 15 seconds.",
    "batchrun_in_flight": "Requests in flight.",
    "batchrun_throttled": "Replies of this session that asked to slow down.",
    "batchrun_eta_seconds": "Seconds left at the present rate.",
    "batchrun_elapsed_seconds": "Seconds that the session took; of an ended run, all sessions.",
    "batchrun_running": "Whether a session is working (1) or not (0).",
    "batchrun_exit_code": "The exit code of the run.",
    "batchrun_metric": "The value of a metric of the config, by name.",
    "batchrun_gate_passed": "Whether a gate of the config passed (1) or not (0), by name.",
    "batchrun_updated_timestamp_seconds": "When these figures were taken.",
    "batchrun_finished_timestamp_seconds": "When the run ended.",
    SUCCESS: "When a run last ended with exit code 0.",
}
"""Every metric and what it means; one that is not known is missing."""
_LABELS = {
    "batchrun_rows": "status",
    "batchrun_errors": "class",
    "batchrun_flawed_answers": "flaw",
    "batchrun_tokens": "kind",
    "batchrun_metric": "name",
    "batchrun_gate_passed": "name",
}

Values = Mapping[str, float | Mapping[str, float] | None]
"""For each metric its value, or its values by label."""


def exposed(
    found: Mapping[str, Any], *, now_s: float, last_success_s: float | None = None
) -> bytes:
    """The metrics for the output of ``batchrun status --json``. ``now_s`` is seconds since the
    epoch; ``last_success_s`` is the last success known from elsewhere: the later one counts.
    """
    values = dict(_values(found))
    values["batchrun_updated_timestamp_seconds"] = now_s
    successes = [s for s in (values.get(SUCCESS), last_success_s) if isinstance(s, (int, float))]
    values[SUCCESS] = max(successes, default=None)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(values))
    return generate_latest(registry)


class _Collector:
    """The collector that the Prometheus library calls."""

    def __init__(self, values: Values) -> None:
        self._values = values

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """See ``prometheus_client.registry.Collector``."""
        for name, meaning in METRICS.items():
            value = self._values.get(name)
            if value is None:
                continue
            if isinstance(value, Mapping):
                family = GaugeMetricFamily(name, meaning, labels=[_LABELS[name]])
                for label, number in value.items():
                    family.add_metric([label], number)
            else:
                family = GaugeMetricFamily(name, meaning, value=value)
            yield family


def _values(found: Mapping[str, Any]) -> Iterator[tuple[str, float | Mapping[str, float] | None]]:
    summary, live = found.get("summary"), found.get("live")
    yield "batchrun_running", 1.0 if found.get("state") == "running" else 0.0
    if isinstance(summary, Mapping):
        yield from _of_summary(summary)
    elif isinstance(live, Mapping):
        yield from _of_live(live)
    if "exit_code" in found:  # the run failed without a summary
        yield "batchrun_exit_code", found["exit_code"]
        yield "batchrun_finished_timestamp_seconds", found["ended_s"]


def _of_summary(summary: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    rows, totals = summary["rows"], summary["totals"]
    yield "batchrun_rows", _known({name: rows[name] for name in ("ok", "error", "pending")})
    yield "batchrun_errors", summary["errors"]
    yield "batchrun_flawed_answers", summary["outputs"]
    yield "batchrun_attempts", totals["attempts"]
    yield "batchrun_tokens", _tokens(totals)
    yield "batchrun_cost_usd", totals["cost_usd"]
    yield "batchrun_wasted_cost_usd", totals["wasted_cost_usd"]
    yield "batchrun_projected_cost_usd", (summary.get("projected") or {}).get("cost_usd")
    yield "batchrun_elapsed_seconds", summary["wall_s"]
    yield "batchrun_exit_code", summary["exit_code"]
    yield "batchrun_metric", _known(_each(summary.get("metrics"), "value"))
    gates = _each(summary.get("gates"), "verdict")
    judged = {n: v for n, v in gates.items() if v in ("pass", "warn", "fail", "inconclusive")}
    yield "batchrun_gate_passed", {name: float(v == "pass") for name, v in judged.items()}
    ended_s = datetime.fromisoformat(summary["ended_at"]).timestamp()
    yield "batchrun_finished_timestamp_seconds", ended_s
    if summary["exit_code"] == 0:
        yield SUCCESS, ended_s


def _of_live(live: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    whole, done = live["rows_input"], live["ok"] + live["error"]
    pending = None if whole is None else whole - done
    yield "batchrun_rows", _known({"ok": live["ok"], "error": live["error"], "pending": pending})
    yield "batchrun_errors", live.get("errors") or {}
    outputs = live.get("outputs") or {}
    yield "batchrun_flawed_answers", {k: v for k, v in outputs.items() if k != "answers"}
    yield "batchrun_attempts", live["requests"]
    yield "batchrun_tokens", _tokens(live)
    yield "batchrun_cost_usd", live.get("cost_usd")
    yield "batchrun_wasted_cost_usd", live.get("wasted_cost_usd")
    yield "batchrun_projected_cost_usd", (live.get("money") or {}).get("projected_usd")
    yield "batchrun_requests_per_second", live["requests_per_s"]
    yield "batchrun_tokens_per_second", live["tokens_per_s"]
    yield "batchrun_in_flight", live["in_flight"]
    yield "batchrun_throttled", live["throttled"]
    yield "batchrun_eta_seconds", live["eta_s"]
    yield "batchrun_elapsed_seconds", live["elapsed_s"]


def _tokens(found: Mapping[str, Any]) -> dict[str, float]:
    return _known({kind: found[f"{kind}_tokens"] for kind in ("prompt", "completion")})


def _each(found: object, key: str) -> dict[str, Any]:
    """The value of a key in each of these objects."""
    if not isinstance(found, Mapping):
        return {}
    return {name: value.get(key) for name, value in found.items() if isinstance(value, Mapping)}


def _known(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in values.items() if isinstance(value, (int, float))}


def last_success(text: str) -> float | None:
    """When a run last succeeded, according to an earlier exposition; None if it does not say, or is
    not in this format.
    """
    try:
        for family in text_string_to_metric_families(text):
            if family.name == SUCCESS:
                for sample in family.samples:
                    return float(sample.value)
    except (ValueError, KeyError, IndexError):
        return None
    return None
