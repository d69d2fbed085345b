"""What `--workers` makes of its arguments, of exit codes, and of what its processes report."""

import pytest

from batchrun.errors import UsageError
from batchrun.fleet.launcher import WORKERS_MAX, exit_code, require, worker_arguments
from batchrun.fleet.progress import together


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
    with pytest.raises(UsageError, match="exclude one another"):
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
        **values,
    }


def test_progress_is_the_sum_of_the_workers():
    """Rows, costs and classes of failures add up; rates are those of workers that go on."""
    found = together(
        [
            status(ok=10, error=1, cost_usd=0.5, errors={"timeout": 1}, requests_per_s=3.0),
            status(ok=20, in_flight=4, requests_per_s=2.0, bound_by="rpm", notices=["a"]),
            status(ok=5, error=2, errors={"timeout": 2}, requests_per_s=9.0, last=True),
        ],
        before=(30, 2),
        elapsed_s=10.0,
    )
    assert (found.ok, found.error, found.resumed, found.rows_input) == (65, 5, 32, 100)
    assert (found.in_flight, found.requests_per_s, found.bound_by) == (4, 5.0, "rpm")
    assert (found.cost_usd, found.errors, found.notices) == (0.5, {"timeout": 3}, ("a",))
    assert found.eta_s == pytest.approx(10.0 * 30 / 38)


def test_progress_shows_no_more_rows_than_there_are():
    """Rows of a worker that died are counted twice for a while."""
    found = together([status(ok=70), status(ok=60, error=1)], before=(0, 0), elapsed_s=1.0)
    assert found.ok + found.error == 100
    assert together([], (0, 0), 1.0) is None
