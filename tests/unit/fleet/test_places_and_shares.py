"""Which place a process has, and its share of the limits."""

import pytest

from batchrun.core.fleet.board import Place
from batchrun.core.fleet.places import place_of
from batchrun.core.fleet.shares import begun_by
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


@pytest.mark.parametrize("count", [1, 3, 8, 100])
def test_all_together_begin_as_one_process_does(count):
    """What is to be found begins with a part each, and one at least; what is given is left to the
    leases.
    """
    begun = begun_by(endpoint(64, (4, 100), 100.0), Place(0, count))
    assert (begun.concurrency, begun.bounds, begun.rpm) == (max(1, 64 // count), (4, 100), 100.0)
    assert begun_by(endpoint(7), Place(0, count)) == endpoint(7)
