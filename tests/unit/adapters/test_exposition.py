"""The figures of a run in Prometheus' text format."""

import math

import pytest
from prometheus_client.parser import text_string_to_metric_families

from batchrun.adapters.environment import exposition
from batchrun.core.run import summary
from batchrun.core.run.totals import Totals


def read(text):
    """The samples of an exposition by name and labels; every one of them must parse."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def ended(exit_code=None, **more):
    """The status of a run that ended without rows, or was stopped."""
    built = summary.build(
        totals=Totals(), rows_input=0 if exit_code is None else 5, stopped_by=None,
        stop_exit_code=exit_code, started_at_us=0, ended_at_us=10**15, wall_s=3.5, settings={},
        version="",
    )  # fmt: skip
    return {"state": built["status"], "summary": built | more}


def test_a_success_is_when_the_exit_code_is_0():
    """Then the time is that of the run; else that of the success before, and missing without."""
    good = read(exposition.exposed(ended(), now_s=7.0, last_success_s=3.0))
    assert good[exposition.SUCCESS,] == 10**9
    stopped = ended(3)
    kept = read(exposition.exposed(stopped, now_s=7.0, last_success_s=3.0))
    assert kept[exposition.SUCCESS,] == 3.0 and kept["batchrun_exit_code",] == 3
    assert kept["batchrun_rows", "pending"] == 5
    assert (exposition.SUCCESS,) not in read(exposition.exposed(stopped, now_s=7.0))


def test_names_that_steer_the_format_are_escaped():
    """Quotes, backslashes and line ends in the names of classes, metrics and gates."""
    odd = 'a"} 5\nb\\'
    found = ended(
        errors={odd: 2},
        metrics={odd: {"value": 0.5}, "none": {"value": None}, "by": {"groups": {}}},
        gates={odd: {"verdict": "pass"}, "g": {"verdict": "fail"}, "n": {"verdict": "not_judged"}},
    )
    told = read(exposition.exposed(found, now_s=7.0))
    assert told["batchrun_errors", odd] == 2 and told["batchrun_metric", odd] == 0.5
    assert {key[1:]: value for key, value in told.items() if key[0] == "batchrun_gate_passed"} == {
        (odd,): 1.0,
        ("g",): 0.0,
    }


def test_every_metric_is_known():
    """What is exposed is described, and what is unknown is missing rather than 0."""
    told = read(exposition.exposed(ended(), now_s=7.0))
    assert {name for name, *_ in told} <= set(exposition.METRICS)
    assert ("batchrun_cost_usd",) not in told
    assert not any(math.isnan(value) for value in told.values())
    for name in exposition.METRICS:
        assert name.startswith("batchrun_") and not name.endswith("_total")


@pytest.mark.parametrize(
    "text",
    ["", "nonsense {", "batchrun_rows 5\n", f"{exposition.SUCCESS} x\n", "\x00\ufffd", "{} {} {}"],
)
def test_a_file_that_says_nothing_of_a_success(text):
    """Whatever lies there: there was none."""
    assert exposition.last_success(text) is None
