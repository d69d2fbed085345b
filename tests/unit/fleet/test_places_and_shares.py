"""Which place a process has, and its share of the limits."""

import pytest

from batchrun.core.fleet.board import Place
from batchrun.core.fleet.places import place_of
from batchrun.core.fleet.shares import share_of
from batchrun.core.settings.endpoint import Endpoint
from batchrun.errors import UsageError


@pytest.mark.parametrize(
    ("given", "place"),
    [
        *(("1/4", (1, 4)), ("4/4", (0, 4)), ("0/4", (0, 4)), ("3/4", (3, 4))),
        *((" 2 / 8 ", (2, 8)), ("1/1", (0, 1))),
    ],
)
def test_a_place_is_given_from_0_or_from_1(given, place):
    """Both ways of counting name every place once."""
    assert place_of(given, {}) == Place(*place)


@pytest.mark.parametrize("given", ["", "4", "5/4", "-1/4", "1/0", "0/0", "a/b", "1/4/2", "1.5/4"])
def test_other_texts_are_no_place(given):
    """The message says what is expected."""
    with pytest.raises(UsageError, match="is not I/N"):
        place_of(given, {})


SLURM = {"SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "10", "SLURM_ARRAY_TASK_STEP": "5"}


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_COUNT": "4"}, (0, 4)),
        ({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "4"}, (3, 4)),
        (
            {
                "SLURM_ARRAY_TASK_ID": "4",
                "SLURM_ARRAY_TASK_COUNT": "4",
                "SLURM_ARRAY_TASK_MIN": "1",
            },
            (3, 4),
        ),
        ({"SLURM_ARRAY_TASK_ID": "20", **SLURM}, (2, 4)),
        ({"JOB_COMPLETION_INDEX": "2", "JOB_COMPLETIONS": "3"}, (2, 3)),
        ({"AWS_BATCH_JOB_ARRAY_INDEX": "0", "AWS_BATCH_JOB_ARRAY_SIZE": "2"}, (0, 2)),
        ({"SKYPILOT_NODE_RANK": "1", "SKYPILOT_NUM_NODES": "2"}, (1, 2)),
    ],
)
def test_auto_takes_the_place_from_the_scheduler(environment, place):
    """Whatever its tasks are numbered from, the places are."""
    assert place_of("auto", environment) == Place(*place)


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "SLURM_ARRAY_TASK_ID"),
        ({"JOB_COMPLETION_INDEX": "0"}, "JOB_COMPLETIONS is ''"),
        ({"JOB_COMPLETION_INDEX": "x", "JOB_COMPLETIONS": "2"}, "'x', not a number"),
        ({"SKYPILOT_NODE_RANK": "2", "SKYPILOT_NUM_NODES": "2"}, "not one of"),
    ],
)
def test_auto_says_what_is_missing(environment, said):
    """The variable is named."""
    with pytest.raises(UsageError, match=said):
        place_of("auto", environment)


def endpoint(concurrency, bounds=None, rpm=None, tpm=None):
    """An endpoint with these limits."""
    return Endpoint(
        "e", None, "http://x/v1", None, None, None, {}, concurrency, rpm, tpm, bounds=bounds
    )


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shares_add_up_to_the_limits(count):
    """No process gets nothing, and all together never more than one process would use."""
    whole = endpoint(7, None, 100.0, 5000.0)
    shares = [share_of(whole, Place(index, count)) for index in range(count)]
    assert sum(each.concurrency for each in shares) == 7
    assert sum(each.rpm for each in shares) == pytest.approx(100)
    assert sum(each.tpm for each in shares) == pytest.approx(5000)
    assert min(each.concurrency for each in shares) >= 1


@pytest.mark.parametrize("count", [1, 3, 8])
def test_bounds_of_a_concurrency_that_is_found_are_shared(count):
    """Each stays within its own, and their upper ends add up."""
    whole = endpoint(16, (4, 100))
    shares = [share_of(whole, Place(index, count)) for index in range(count)]
    assert sum(each.concurrency_max for each in shares) == 100
    for each in shares:
        low, high = each.bounds
        assert 1 <= low <= each.concurrency <= high
    assert sum(each.bounds[0] for each in shares) <= max(4, count)


def test_more_processes_than_requests_in_flight_are_refused():
    """One of them could send nothing."""
    with pytest.raises(UsageError, match="4 processes cannot share 3 requests"):
        share_of(endpoint(3), Place(0, 4))
