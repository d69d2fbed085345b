"""Operations that a fleet does once: ``--restart``, ``--retry-*``, ``--keep-done``,
``--resend-changed`` and ``--repair``.

Every process of a fleet is started with the same command, and a scheduler starts some late and
others again. So an operation has an id, and the process that launches the fleet enters it in the
launch record, which only one can write, and later in the run's state file. Who finds its own id
there joins, or goes on, without doing the operation again.

The id is made of the flags and of what all processes of one start have in common: the scheduler's
job, or what ``--workers`` gave its processes. Started by hand they have nothing in common. Then the
flags alone are the id, and a process that took part in the operation and comes again, after the
fleet has ended, means another one: ``1/4 --restart`` twice restarts twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

from batchrun.core.run.changes import Changes

START = "BATCHRUN_START"
"""The environment variable that names a start of several processes; ``--workers`` sets it."""


class Job(NamedTuple):
    """A variable that names a job to all of its processes, also to those that are started again."""

    variable: str
    end: str = ""
    """Of its value, what stands before this counts."""
    beside: str = ""
    """It counts only where this variable is set too."""


JOBS = (
    Job(START),
    Job("SLURM_ARRAY_JOB_ID"),
    Job("AWS_BATCH_JOB_ID", end=":"),
    Job("SKYPILOT_TASK_ID"),
    Job("JOB_UID", beside="JOB_COMPLETION_INDEX"),
    Job("JOB_NAME", beside="JOB_COMPLETION_INDEX"),
)
"""Sources: the manuals of sbatch, of AWS Batch (the id of an array job's child ends with a colon
and its index) and of SkyPilot. Kubernetes sets none: a manifest does, from the labels
``batch.kubernetes.io/controller-uid`` and ``batch.kubernetes.io/job-name``.
"""
KEPT_MAX = 100
"""So many operations are remembered, the latest."""


class Operation(NamedTuple):
    """What is done once; ``is_named`` says that its id is of one start of all processes alone."""

    id: str
    changes: Changes
    is_named: bool


class Done(NamedTuple):
    """An operation that was done, and the places in the fleet whose processes took part."""

    id: str
    places: tuple[int, ...] = ()


def operation_of(changes: Changes, environment: Mapping[str, str]) -> Operation | None:
    """The operation that this process was started for; None for none."""
    if changes == Changes():
        return None
    job = next(filter(None, (_named(each, environment) for each in JOBS)), "")
    asked = "\n".join([job, *(f"{key}={value}" for key, value in sorted(asdict(changes).items()))])
    return Operation(hashlib.sha256(asked.encode()).hexdigest()[:16], changes, bool(job))


def _named(job: Job, environment: Mapping[str, str]) -> str:
    value = environment.get(job.variable, "")
    if not value or (job.beside and not environment.get(job.beside)):
        return ""
    return f"{job.variable}={value.partition(job.end)[0] if job.end else value}"


def is_done(
    operation: Operation, done: Iterable[Done], place: int, *, took_part: bool = False
) -> bool:
    """Whether an operation was done before a process came, which has this place in the fleet, or
    while it ``took_part``.
    """
    return any(
        each.id == operation.id and (operation.is_named or took_part or place not in each.places)
        for each in done
    )


def with_done(
    done: Iterable[Done], operation_id: str, places: Iterable[int], *, anew: bool = True
) -> list[tuple[str, list[int]]]:
    """The operations that were done, and this one, as they are recorded. Unless it was done
    ``anew``, those who took part in it before did so in the same one.
    """
    kept = {each.id: set(each.places) for each in done}
    before = kept.pop(operation_id, set())
    kept[operation_id] = set(places) if anew else before.union(places)
    return [(name, sorted(found)) for name, found in kept.items()][-KEPT_MAX:]


def done_of(recorded: Any) -> list[Done]:
    """The operations that a state file has."""
    return [Done(name, tuple(places)) for name, places in recorded or ()]
