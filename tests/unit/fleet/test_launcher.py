"""What `--workers` makes of its arguments, of exit codes, and of what its processes report."""

import pytest

from batchrun.errors import UsageError
from batchrun.fleet.launcher import WORKERS_MAX, exit_code, require, worker_arguments
from batchrun.views.fleet.together import together


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (["run", "a", "--workers", "4", "-o", "d"], ["run", "a", "-o", "d"]),
        (["run", "--workers=4", "a"], ["run", "a"]),
        (["run", "a", "--json", "--workers", "4", "--no-progress"], ["run", "a"]),
        (["run", "a", "--quiet"], ["run", "a", "--quiet"]),
    ],
)
def test_a_worker_gets_the_arguments_of_the_command(given, kept):
    """But for those that are about the command itself."""
    assert worker_arguments(given) == [*kept, "--no-progress"]


@pytest.mark.parametrize(
    ("codes", "code"),
    [
        ([0, 0], 0),
        ([1, 1], 1),
        ([0, -9], 0),
        ([130, 130], 130),
        ([-9, -9], 137),
        ([2, 2], 2),
        ([5, 1], 1),
        ([5, 5], 5),
        ([143, 0], 0),
    ],
)
def test_the_whole_has_one_exit_code(codes, code):
    """That of those which saw the end: a process that died was replaced by the others."""
    assert exit_code(codes) == code


@pytest.mark.parametrize("workers", [0, -1, WORKERS_MAX + 1])
def test_a_number_of_workers_that_cannot_be_is_refused(workers):
    """With the number in the message."""
    with pytest.raises(UsageError, match=str(workers)):
        require(workers, shard=False)


def test_workers_are_not_a_shard():
    """One of both."""
    with pytest.raises(UsageError, match="exclude each other"):
        require(2, shard=True)


def status(**values):
    """A status file's values."""
    return {
        **dict.fromkeys(("ok", "error", "retries", "throttled", "requests"), 0),
        **dict.fromkeys(("prompt_tokens", "completion_tokens", "in_flight"), 0),
        **dict.fromkeys(("requests_per_s", "tokens_per_s"), 0.0),
        **dict.fromkeys(("cost_usd", "wasted_cost_usd", "bound_by")),
        "rows_input": 100,
        "state": "running",
        "last": False,
        "notices": [],
        "errors": {},
        "examples": {},
        "outputs": {},
        "eta_s": None,
        **values,
    }


def test_progress_is_the_sum_of_the_workers():
    """Rows, costs and classes of failures add up; rates are those of workers that go on."""
    found = together(
        {
            "a": status(
                ok=10, error=1, cost_usd=0.5, errors={"timeout": 1}, requests_per_s=3.0, eta_s=89.0
            ),
            "b": status(
                ok=20, in_flight=4, requests_per_s=2.0, bound_by="rpm", notices=["x"], eta_s=40.0
            ),
            "c": status(ok=5, error=2, errors={"timeout": 2}, requests_per_s=9.0, last=True),
        },
        before=(30, 2),
        elapsed_s=10.0,
    )
    assert (found.ok, found.error, found.resumed, found.rows_input) == (65, 5, 32, 100)
    assert (found.in_flight, found.requests_per_s, found.bound_by) == (4, 5.0, "rpm")
    assert (found.cost_usd, found.errors, found.notices) == (0.5, {"timeout": 3}, ("b: x",))
    # The first does a row a second, the second one two.
    assert found.eta_s == pytest.approx(30 / 3)


def test_progress_shows_no_more_rows_than_there_are():
    """Rows of a worker that died are counted twice for a while."""
    found = together(
        {"a": status(ok=70), "b": status(ok=60, error=1)}, before=(0, 0), elapsed_s=1.0
    )
    assert found.ok + found.error == 100
    assert together({}, (0, 0), 1.0) is None


def test_rates_are_those_of_workers_that_are_alive():
    """One that was killed had no time to say that it ended."""
    found = together(
        {"a": status(requests_per_s=3.0, in_flight=2), "b": status(requests_per_s=4.0)},
        before=(0, 0),
        elapsed_s=1.0,
        alive=["a"],
    )
    assert (found.requests_per_s, found.in_flight) == (3.0, 2)


def endpoint(**values):
    """An endpoint in a status file."""
    counters = ("in_flight", "requests", "answers", "refusals", "failures")
    return {
        "name": "default",
        "state": "up",
        "why": None,
        "bound_by": None,
        "limits": [],
        "requests_per_s": 1.0,
        "window": None,
        **dict.fromkeys(counters, 1),
        **values,
    }


def window(concurrency, **values):
    """What a process found of the concurrency that the server takes."""
    known = ("rows_per_s", "tokens_per_s", "pace_per_s", "server_running", "server_waiting")
    found = {"concurrency": concurrency, "low": 1, "high": 64, "state": "fixed", "why": None}
    return {**found, "cuts": 0, **dict.fromkeys(known), **values}


def test_an_endpoint_is_as_bad_as_its_worst_worker_sees_it():
    """Counters add up, and so do windows; the state is that of the one that looks for the next."""
    found = together(
        {
            "a": status(endpoints=[endpoint(window=window(8))]),
            "b": status(
                endpoints=[
                    endpoint(
                        state="down",
                        why="refused",
                        window=window(9, state="holding", rows_per_s=2.0),
                    )
                ]
            ),
        },
        before=(0, 0),
        elapsed_s=1.0,
    )
    (one,) = found.endpoints
    assert (one.state, one.why, one.requests, one.requests_per_s) == ("down", "refused", 2, 2.0)
    assert one.window["concurrency"] == 17
    assert (one.window["state"], one.window["rows_per_s"]) == ("holding", 2.0)
