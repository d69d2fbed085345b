"""What summary.json says."""

import pytest

from batchrun.core.run.summary import build, in_step, moment
from batchrun.core.run.totals import ResultLine, Totals


def _summary(ok, error, rows_input, *, stopped_by=None, stop_exit_code=None):
    totals = Totals()
    totals.add_results(ResultLine(n, None, True, None) for n in range(ok))
    totals.add_results(ResultLine(ok + n, "timeout", False, None) for n in range(error))
    return build(
        totals=totals,
        rows_input=rows_input,
        stopped_by=stopped_by,
        stop_exit_code=stop_exit_code,
        started_at_us=1_700_000_000_123_456,
        ended_at_us=1_700_000_060_000_000,
        wall_s=59.87654,
        settings={"request.model": "m"},
        version="1",
    )


@pytest.mark.parametrize(
    ("rows", "stop", "status", "stopped_by", "exit_code"),
    [
        ((3, 0, 3), {}, "complete", None, 0),
        ((2, 1, 3), {}, "complete_with_errors", None, 1),
        ((0, 3, 3), {}, "complete_with_errors", None, 1),
        (
            (2, 0, 3),
            {"stopped_by": "auth", "stop_exit_code": 3},
            "stopped",
            "auth",
            3,
        ),
        (
            (2, 0, 3),
            {"stopped_by": "SIGINT", "stop_exit_code": 130},
            "interrupted",
            "SIGINT",
            130,
        ),
        (
            (0, 0, 3),
            {"stopped_by": "SIGHUP", "stop_exit_code": 129},
            "interrupted",
            "SIGHUP",
            129,
        ),
        ((2, 0, 3), {}, "interrupted", None, 5),
        # A stop that left nothing pending is not a stop.
        ((3, 0, 3), {"stopped_by": "auth", "stop_exit_code": 3}, "complete", None, 0),
        (
            (2, 1, 3),
            {"stopped_by": "SIGTERM", "stop_exit_code": 143},
            "complete_with_errors",
            None,
            1,
        ),
    ],
)
def test_how_a_run_ended(rows, stop, status, stopped_by, exit_code):
    """Status, guard and exit code follow from what is left and who asked to stop."""
    ok, error, rows_input = rows
    found = _summary(ok, error, rows_input, **stop)
    assert (found["status"], found["stopped_by"], found["exit_code"]) == (
        status,
        stopped_by,
        exit_code,
    )
    assert found["rows"] == {
        "input": rows_input,
        "ok": ok,
        "error": error,
        "pending": rows_input - ok - error,
    }


def test_an_unknown_number_of_rows_leaves_an_unknown_number_pending():
    """Until the input was counted nobody can say how many rows are left."""
    found = _summary(2, 0, None, stopped_by="SIGINT", stop_exit_code=130)
    assert found["rows"] == {"input": None, "ok": 2, "error": 0, "pending": None}
    assert found["status"] == "interrupted"


def test_errors_are_counted_by_class():
    """The failed rows are told apart by their error class."""
    assert _summary(1, 2, 3)["errors"] == {"timeout": 2}


def test_times_are_text_in_utc():
    """Moments are ISO 8601 with milliseconds and a Z, the duration is in seconds."""
    found = _summary(1, 0, 1)
    assert found["started_at"] == "2023-11-14T22:13:20.123Z"
    assert found["ended_at"] == "2023-11-14T22:14:20.000Z"
    assert found["wall_s"] == 59.877
    assert moment(0) == "1970-01-01T00:00:00.000Z"


def test_a_summary_that_a_kill_left_behind_is_out_of_step():
    """Rows, errors, totals and time are compared: one from before they changed is told."""
    totals = Totals()
    totals.add_results([ResultLine(0, None, True, None), ResultLine(1, "timeout", False, None)])
    found = {
        "rows": {"input": 2, "ok": 1, "error": 1, "pending": 0},
        "errors": {"timeout": 1},
        "totals": totals.overall(),
        "outputs": {"truncated": 0, "empty": 0},
        "wall_s": 1.235,
        "settings": {"request.model": "m", "limit": None},
    }
    shaping = {"request.model": "m"}
    assert in_step(found, totals, 1.2349, shaping)
    assert not in_step(found, totals, 1.2349, {"request.model": "another"})
    for older in (
        {"errors": {"connection": 1}},
        {"rows": {"ok": 2, "error": 0}},
        {"totals": totals.overall() | {"attempts": 1}},
        {"outputs": {"truncated": 1, "empty": 0}},
        {"wall_s": 1.1},
    ):
        assert not in_step(found | older, totals, 1.2349, shaping), older
    assert not in_step({}, totals, 1.2349, shaping)
