"""An operation of a fleet is done once, whoever comes late or is started again."""

import pytest

from batchrun.core.fleet.operations import (
    KEPT_MAX,
    START,
    Done,
    done_of,
    is_done,
    operation_of,
    with_done,
)
from batchrun.core.run.changes import Changes

RESTART, RETRY = Changes(restart=True), Changes(retry_classes=("auth",))


def test_without_such_a_flag_there_is_no_operation():
    """Such a process joins whatever there is."""
    assert operation_of(Changes(), {"SLURM_ARRAY_JOB_ID": "7"}) is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1"}, {"SLURM_ARRAY_JOB_ID": "7"}),
        ({"AWS_BATCH_JOB_ID": "ab-1:0"}, {"AWS_BATCH_JOB_ID": "ab-1:17"}),
        ({"SKYPILOT_TASK_ID": "sky-1"}, {"SKYPILOT_TASK_ID": "sky-1", "SKYPILOT_NODE_RANK": "2"}),
        (
            {"JOB_UID": "u", "JOB_COMPLETION_INDEX": "0"},
            {"JOB_UID": "u", "JOB_COMPLETION_INDEX": "3"},
        ),
        ({START: "x"}, {START: "x", "SLURM_ARRAY_JOB_ID": "7"}),
        ({}, {"HOME": "/"}),
    ],
)
def test_all_processes_of_a_start_have_the_same_operation(one, other):
    """Whatever else a scheduler sets for each."""
    assert operation_of(RESTART, one) == operation_of(RESTART, other)


@pytest.mark.parametrize(
    ("environment", "is_named"),
    [
        ({"SLURM_ARRAY_JOB_ID": "8"}, True),
        ({"AWS_BATCH_JOB_ID": "7"}, True),
        ({"SLURM_ARRAY_JOB_ID": ""}, False),
        ({"JOB_NAME": "7"}, False),  # of another program than Kubernetes
    ],
)
def test_another_start_or_other_flags_are_another_operation(environment, is_named):
    """A script may do several, one after the other."""
    mine = operation_of(RESTART, {"SLURM_ARRAY_JOB_ID": "7"})
    assert operation_of(RESTART, environment).id != mine.id
    assert operation_of(RETRY, {"SLURM_ARRAY_JOB_ID": "7"}).id != mine.id
    assert mine.is_named
    assert operation_of(RESTART, environment).is_named == is_named


def test_a_named_operation_is_never_done_again():
    """A scheduler starts a process again that had taken part."""
    mine = operation_of(RESTART, {"SLURM_ARRAY_JOB_ID": "7"})
    assert is_done(mine, [Done("other"), Done(mine.id, (0, 1))], 1)
    assert not is_done(mine, [Done("other", (0,))], 0)


def test_by_hand_a_process_that_took_part_means_another_one():
    """One that comes late does not."""
    mine = operation_of(RESTART, {})
    assert is_done(mine, [Done(mine.id, (0, 2))], 1)
    assert not is_done(mine, [Done(mine.id, (0, 2))], 2)


def test_what_was_done_is_remembered():
    """The places of all who took part, and the latest operations."""
    recorded = with_done([Done("a", (1,)), Done("b")], "a", [0, 3])
    assert done_of(recorded) == [Done("b"), Done("a", (0, 3))], "the same again, by others"
    recorded = with_done([Done("a", (1,)), Done("b")], "a", [0, 3], anew=False)
    assert done_of(recorded) == [Done("b"), Done("a", (0, 1, 3))]
    for number in range(2 * KEPT_MAX):
        recorded = with_done(done_of(recorded), str(number), ())
    assert len(recorded) == KEPT_MAX
    assert recorded[-1] == (str(2 * KEPT_MAX - 1), [])
    assert done_of(None) == []
